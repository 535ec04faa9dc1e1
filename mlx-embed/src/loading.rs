//! From a checkpoint and options to a running embedder.

use std::future::Future;
use std::num::NonZeroUsize;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use crate::batch::Sharing;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::embedder::Embedder;
use crate::engine::queue::Limits;
use crate::engine::{Engine, EngineOptions, Meters, Ticket, VectorCache};
use crate::error::{Error, panic_message};
use crate::file::Files;
use crate::info::{EndTokenInfo, Info, Source};
use crate::mlx::{self, Backend};
use crate::options::LoadOptions;
use crate::pooling::Pooling;
use crate::request::Shared;
use crate::runner::{self, Kind, Runner, RunnerOptions};
use crate::text::{Overrides, Prompts, Settings, TextEncoder, TruncationSide};

/// On the CPU the time of a batch is proportional to its tokens from about here on; a GPU has room for more.
const CPU_ENOUGH_TOKENS: usize = 128;

const BATCH_TIME: Duration = Duration::from_millis(25);
const QUEUE_TEXTS: usize = 4096;
const QUEUE_BYTES: usize = 64 << 20;
const MAX_TEXT_BYTES: usize = 1 << 20;
const PROMPT_CACHE_BYTES: usize = 64 << 20;

/// How far loading has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadProgress {
    /// Layers of the model that are loaded.
    pub layers: usize,
    /// All of them; 0 until the checkpoint is opened.
    pub of: usize,
}

/// What the loading thread writes and others read.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    layers: AtomicUsize,
    of: AtomicUsize,
}

impl Steps {
    fn layer(&self) {
        self.layers.fetch_add(1, Ordering::Relaxed);
    }
}

/// An embedder that is being loaded on a thread of its own: a future, or something to wait for on this thread.
/// [`Embedder::load_in_background`] makes it. Dropping it lets the load end and frees what it made.
#[derive(Debug)]
pub struct Loading {
    ticket: Arc<Ticket<Embedder, Error>>,
    steps: Arc<Steps>,
}

impl Loading {
    /// Runs `load` on a thread.
    pub(crate) fn start(load: impl FnOnce(Arc<Steps>) -> Result<Embedder, Error> + Send + 'static) -> Self {
        let loading = Self { ticket: Arc::new(Ticket::new(1)), steps: Arc::default() };
        let (ticket, steps) = (Arc::clone(&loading.ticket), Arc::clone(&loading.steps));
        let body = move || {
            let loaded = panic::catch_unwind(AssertUnwindSafe(|| load(steps))).unwrap_or_else(|payload| {
                let reason = format!("a panic while loading: {}", panic_message(&*payload));
                Err(Error::Stopped { reason })
            });
            match loaded {
                Ok(embedder) => ticket.settle(0, embedder),
                Err(error) => ticket.fail(error),
            }
        };
        if let Err(error) = thread::Builder::new().name("mlx-embed-load".into()).spawn(body) {
            let reason = format!("a thread to load on could not start: {error}");
            loading.ticket.fail(Error::Stopped { reason });
        }
        loading
    }

    /// How far it has come.
    pub fn progress(&self) -> LoadProgress {
        LoadProgress {
            layers: self.steps.layers.load(Ordering::Relaxed),
            of: self.steps.of.load(Ordering::Relaxed),
        }
    }

    /// Whether the embedder, or the reason why there is none, is there.
    pub fn is_done(&self) -> bool {
        self.ticket.is_done()
    }

    /// Waits for the embedder.
    ///
    /// # Errors
    /// As [`Embedder::load_with`].
    pub fn wait(self) -> Result<Embedder, Error> {
        // Without a deadline there always is a result.
        only(self.ticket.wait(None).unwrap_or_else(|| Ok(Vec::new())))
    }
}

impl Future for Loading {
    type Output = Result<Embedder, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.ticket.poll(context).map(only)
    }
}

fn only(loaded: Result<Vec<Embedder>, Error>) -> Result<Embedder, Error> {
    loaded?.pop().ok_or_else(|| Error::Stopped { reason: "its loading was asked for twice".into() })
}

/// Starts an embedder of the checkpoint. Its tokenizer is read while its thread loads the weights.
pub(crate) fn load(
    checkpoint: Checkpoint,
    options: &LoadOptions,
    steps: Arc<Steps>,
) -> Result<Shared, Error> {
    let config = checkpoint.config().clone();
    let files = checkpoint.sentence_transformers().clone();
    let place = checkpoint.place().clone();
    let tokenizer = Settings::read(
        &place,
        &Overrides {
            settings: &files.processor_kwargs,
            path: files.processor_kwargs_at.0.clone(),
            field: files.processor_kwargs_at.1,
            lower_case: files.do_lower_case,
        },
    )?;
    let (pooling, pooling_source) = match (options.pooling, files.pooling) {
        (Some(pooling), _) => (pooling, Source::Caller),
        (None, Some(pooling)) => (pooling, Source::Checkpoint),
        (None, None) => (Pooling::LastToken, Source::Default),
    };
    let backend = options.device.backend()?;
    let gpu = runner::gpu(backend, options.gpu)?;
    let kind = runner::kind(&checkpoint, backend, gpu, options.kernels.as_deref())?;
    let batch_tokens = options.batch_tokens.map_or(default_batch_tokens(backend), NonZeroUsize::get);
    let (max_tokens, max_tokens_source) = max_tokens(&checkpoint, &tokenizer, options.max_tokens)?;
    let sharing = if config.frequencies_depend_on_length(max_tokens) {
        Sharing::EqualLengths
    } else if !matches!(kind, Kind::Mlx) {
        Sharing::Joined
    } else {
        Sharing::Padded
    };
    let mut info = Info {
        model: checkpoint.dir().to_owned(),
        config: config.clone(),
        parameters: checkpoint.parameters()?,
        weights_bytes: checkpoint.weights_bytes(),
        weights_files: checkpoint.weights_files(),
        storage: checkpoint.storage_by_kind()?,
        pooling,
        pooling_source,
        normalize: files.normalize.unwrap_or(true),
        sentence_transformers: files.clone(),
        end_token: None,
        max_tokens,
        max_tokens_source,
        truncation_side: TruncationSide::Right,
        added_tokens: Vec::new(),
        max_text_bytes: options.max_text_bytes.map_or(MAX_TEXT_BYTES, NonZeroUsize::get),
        batch_tokens,
        backend,
        kernels: kind.name(),
        compiled: kind.compiled(),
        precision: matches!(kind, Kind::Host(_)).then_some(options.precision),
        mlx_version: mlx::version(),
        mlx_c_version: mlx::C_VERSION.to_owned(),
    };
    let meters = Arc::new(Meters::new(&info.model.display().to_string()));
    let hidden = config.hidden_size.unsigned_abs() as usize;
    let cache = (options.vector_cache > 0).then(|| Arc::new(VectorCache::new(options.vector_cache, hidden)));
    let engine_options = EngineOptions {
        limits: Limits {
            capacity: options.queue_texts.map_or(QUEUE_TEXTS, NonZeroUsize::get),
            bytes: options.queue_bytes.map_or(QUEUE_BYTES, NonZeroUsize::get),
            batch_tokens,
            enough_tokens: if backend == Backend::Cpu { CPU_ENOUGH_TOKENS } else { batch_tokens },
            batch_time: options.batch_time.unwrap_or(BATCH_TIME),
            sharing,
        },
        cache: cache.clone(),
        prompt_cache: options.prompt_cache.unwrap_or(PROMPT_CACHE_BYTES),
        meters: Arc::clone(&meters),
    };
    let cache_limit = options.cache_limit.unwrap_or(default_cache_limit(backend, &kind));
    let runner_options = RunnerOptions {
        backend,
        gpu,
        threads: options.threads,
        kind,
        precision: options.precision,
        matmul: options.matmul,
        pooling,
        cache_limit,
        memory_limit: options.memory_limit,
    };
    steps.of.store(config.layers, Ordering::Relaxed);
    // The checkpoint goes with the closure: its mapped files live on in the runner.
    let starting = Engine::start(
        move || Runner::load(&checkpoint, &runner_options, &mut || steps.layer()),
        engine_options,
    )?;

    let text = TextEncoder::open(
        &place,
        &tokenizer,
        &options.end_token,
        pooling == Pooling::LastToken,
        config.eos_token_id,
        config.vocab_size.unsigned_abs(),
    )?;
    check_room_for_content(max_tokens, text.added_tokens(), options.max_tokens.is_some(), &place)?;
    info.end_token = text.end_token().map(|(id, appended_by)| EndTokenInfo {
        id,
        token: text.token(id).unwrap_or_default(),
        appended_by,
    });
    info.truncation_side = text.truncation_side();
    info.added_tokens = text.added().to_vec();
    Ok(Shared {
        leaves_out_prompts: !files.include_prompt && pooling != Pooling::LastToken,
        prompts: Prompts::new(files.prompts, files.default_prompt_name.as_deref()),
        // The first token's vector is the prompt's own, and where positions stretch with a text's length, so do its keys.
        shares_prompts: options.prompt_cache != Some(0)
            && pooling != Pooling::Cls
            && sharing != Sharing::EqualLengths,
        text,
        place,
        max_text_bytes: info.max_text_bytes,
        info,
        cache,
        meters,
        tokenizing: OnceLock::new(),
        engine: starting.wait()?,
    })
}

/// The limit on a text's tokens that the caller (`wanted`) or the checkpoint sets, and who sets it.
fn max_tokens(
    checkpoint: &Checkpoint,
    tokenizer: &Settings,
    wanted: Option<usize>,
) -> Result<(usize, String), Error> {
    let config = checkpoint.config();
    // Within the window, windowed and full attention are the same; beyond it they aren't.
    let window = config.sliding_window.unwrap_or(usize::MAX);
    let reject = |reason: String| Err(Error::Option { option: "max_tokens", reason });
    match wanted {
        None => {
            let (limit, source) = checkpoint_limit(checkpoint, tokenizer);
            Ok((limit.min(window), source))
        }
        Some(0) => reject("is 0; give at least 1".into()),
        Some(wanted) if wanted > window => reject(format!(
            "is {wanted}, but this model attends to {window} tokens at most; give at most that"
        )),
        Some(wanted) => Ok((wanted, "the caller".to_owned())),
    }
}

/// The checkpoint's limit, as sentence-transformers finds it: one of its own files goes over the tokenizer's, of which
/// the model's positions may be less.
fn checkpoint_limit(checkpoint: &Checkpoint, tokenizer: &Settings) -> (usize, String) {
    let positions = checkpoint.config().max_position_embeddings;
    let by_model = (positions, "max_position_embeddings in config.json".to_owned());
    match (&checkpoint.sentence_transformers().limit, tokenizer.model_max_length()) {
        (Some((field, Some(limit))), _) => (*limit, format!("{field} in sentence_bert_config.json")),
        (None, Some(limit)) if limit < positions => {
            (limit, "model_max_length in tokenizer_config.json".to_owned())
        }
        // A limit without end still leaves the model's own.
        _ => by_model,
    }
}

/// The limit has to leave room for content beside the `added` special tokens.
fn check_room_for_content(max_tokens: usize, added: usize, wanted: bool, place: &Files) -> Result<(), Error> {
    if max_tokens > added {
        Ok(())
    } else if wanted {
        Err(Error::Option {
            option: "max_tokens",
            reason: format!("is {max_tokens}, of which special tokens take {added}; give more than that"),
        })
    } else {
        Err(Error::Checkpoint(CheckpointError::InvalidField {
            path: place.path("config.json"),
            field: "max_position_embeddings".into(),
            reason: format!(
                "(or max_seq_length in sentence_bert_config.json, or model_max_length in tokenizer_config.json) leaves \
                 no room: it is {max_tokens}, of which special tokens take {added}"
            ),
        }))
    }
}

fn default_batch_tokens(backend: Backend) -> usize {
    if backend == Backend::Cpu { 512 } else { 4096 }
}

fn default_cache_limit(backend: Backend, kind: &Kind) -> usize {
    if backend == Backend::Cpu || matches!(kind, Kind::Cuda(..)) { 64 << 20 } else { 256 << 20 }
}
