//! From a checkpoint and options to a running model.

mod check;
mod late;
mod rerankers;

use std::collections::BTreeMap;
use std::future::Future;
use std::num::NonZeroUsize;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

pub use check::check;

use crate::batch::Sharing;
use crate::checkpoint::spec::{ModelSpec, PositionsSpec};
use crate::checkpoint::{
    Architecture, Checkpoint, CheckpointError, Doubt, ModelConfig, Purpose, RopeScaling, SideSpec,
};
use crate::embedder::Embedder;
use crate::engine::queue::Limits;
use crate::engine::{EngineOptions, Meters, Ticket, VectorCache, check_process};
use crate::error::Error;
use crate::file::Files;
use crate::info::{self, EndTokenInfo, Info, Source};
use crate::mlx::{self, Backend, Process};
use crate::model::Rounding;
use crate::options::LoadOptions;
use crate::panics::{panic_message, quietly};
use crate::pooling::Pooling;
use crate::request::Shared;
use crate::runner::{self, Kind, RunnerOptions};
use crate::text::{Bare, Overrides, PairForm, Prompts, Settings, TextEncoder, TextError, TruncationSide};

/// Tokens of a batch for each thread of the CPU. With as many, sixteen threads wait for each other for 3 % of their time;
/// with a quarter of it for 9 %.
const THREAD_TOKENS: usize = 128;
/// Few threads have enough to do with so many tokens in a batch, and more would only take memory.
const CPU_TOKENS: usize = 512;
/// Memory grows with the tokens of a batch, which are not many more than these on any number of threads.
const MOST_CPU_TOKENS: usize = 2048;

/// On so few threads the time of a batch is proportional to its tokens from about here on.
const CPU_ENOUGH_TOKENS: usize = 128;
/// The same for each thread where there are many.
const THREAD_ENOUGH_TOKENS: usize = 32;

const BATCH_TIME: Duration = Duration::from_millis(25);
const QUEUE_TEXTS: usize = 4096;
const QUEUE_BYTES: usize = 64 << 20;
const MAX_TEXT_BYTES: usize = 1 << 20;
const PROMPT_CACHE_BYTES: usize = 64 << 20;

/// How much of a model is loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadProgress {
    /// Layers of the model that are loaded by now.
    pub layers: usize,
    /// Layers that the model has; 0 until the checkpoint is opened.
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

/// A model that is being loaded on a thread of its own, an [`Embedder`] or another handle. It is a future, and can be
/// waited for without a runtime, too. [`Embedder::load_in_background`] makes it.
///
/// Dropping it does not stop the loading: the thread loads to the end, and then frees the model.
///
/// ```no_run
/// use mlx_embed::{Embedder, LoadOptions};
///
/// let loading = Embedder::load_in_background("path/to/a/checkpoint", LoadOptions::default());
/// while !loading.is_done() {
///     let progress = loading.progress();
///     println!("{} of {} layers", progress.layers, progress.of);
///     std::thread::sleep(std::time::Duration::from_millis(100));
/// }
/// let embedder = loading.wait()?;
/// # Ok::<(), mlx_embed::Error>(())
/// ```
#[derive(Debug)]
pub struct Loading<T = Embedder> {
    ticket: Arc<Ticket<T, Error>>,
    steps: Arc<Steps>,
    /// The process that has the thread; `None` where there is none.
    process: Option<Process>,
}

impl<T: Send + 'static> Loading<T> {
    /// Runs `load` on a thread.
    pub(crate) fn start(load: impl FnOnce(Arc<Steps>) -> Result<T, Error> + Send + 'static) -> Self {
        let mut loading = Self { ticket: Arc::new(Ticket::new(1)), steps: Arc::default(), process: None };
        match Process::this() {
            Ok(process) => loading.process = Some(process),
            Err(error) => {
                loading.ticket.fail(error.into());
                return loading;
            }
        }
        let (ticket, steps) = (Arc::clone(&loading.ticket), Arc::clone(&loading.steps));
        let body = move || {
            let loaded = panic::catch_unwind(AssertUnwindSafe(|| load(steps))).unwrap_or_else(|payload| {
                let reason = format!("a panic while loading: {}", panic_message(&*payload));
                Err(Error::Stopped { reason })
            });
            match loaded {
                Ok(model) => ticket.settle(0, model),
                Err(error) => ticket.fail(error),
            }
        };
        if let Err(error) = thread::Builder::new().name("mlx-embed-load".into()).spawn(body) {
            let reason = format!("a thread to load on could not start: {error}");
            loading.ticket.fail(Error::Stopped { reason });
        }
        loading
    }

    /// How much is loaded.
    pub fn progress(&self) -> LoadProgress {
        LoadProgress {
            layers: self.steps.layers.load(Ordering::Relaxed),
            of: self.steps.of.load(Ordering::Relaxed),
        }
    }

    /// Whether it has ended, with a model or with an error. Neither [`Loading::wait`] nor `await` waits then.
    pub fn is_done(&self) -> bool {
        self.check_process().is_err() || self.ticket.is_done()
    }

    /// Blocks until the model is loaded.
    ///
    /// # Errors
    /// As the handle's own `load_with`, such as [`Embedder::load_with`].
    pub fn wait(self) -> Result<T, Error> {
        self.check_process()?;
        // Without a deadline there always is a result.
        only(self.ticket.wait(None).unwrap_or_else(|| Ok(Vec::new())))
    }
}

impl<T> Future for Loading<T> {
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.check_process() {
            Ok(()) => self.ticket.poll(context).map(only),
            Err(forked) => Poll::Ready(Err(forked)),
        }
    }
}

impl<T> Loading<T> {
    /// Fails in forks of the process that has the thread.
    fn check_process(&self) -> Result<(), Error> {
        self.process.map_or(Ok(()), check_process)
    }
}

fn only<T>(loaded: Result<Vec<T>, Error>) -> Result<T, Error> {
    loaded?.pop().ok_or_else(|| Error::Stopped { reason: "its loading was asked for twice".into() })
}

/// What the files beside the tokenizer say.
fn settings(checkpoint: &Checkpoint) -> Result<Settings, TextError> {
    match checkpoint.config().architecture {
        Architecture::StaticEmbedding => return Settings::bare(checkpoint.place(), Bare::AsTokenizerSays),
        Architecture::Model2Vec => return Settings::bare(checkpoint.place(), Bare::WithoutUnknown),
        _ => {}
    }
    let files = checkpoint.sentence_transformers();
    Settings::read(
        checkpoint.place(),
        &Overrides {
            settings: &files.processor_kwargs,
            path: files.processor_kwargs_at.0.clone(),
            field: files.processor_kwargs_at.1,
            lower_case: files.do_lower_case,
        },
    )
}

/// Says once a process that this crate was built without optimisation, where every vector instruction is a call.
fn warn_of_slow_build() {
    static IS_SAID: AtomicBool = AtomicBool::new(false);
    if cfg!(unoptimized) && !IS_SAID.swap(true, Ordering::Relaxed) {
        quietly(|| {
            tracing::warn!(
                "mlx-embed was built without optimisation and is a hundred times slower; put \
                 `[profile.dev.package.mlx-embed]` with `opt-level = 3` into your Cargo.toml"
            );
        });
    }
}

/// Reads the tokenizer on a thread of its own: a large one takes as long as loading weights onto a GPU does.
struct OpeningText(thread::JoinHandle<Result<TextEncoder, TextError>>);

impl OpeningText {
    fn of(
        checkpoint: &Checkpoint,
        tokenizer: &Arc<Settings>,
        options: &LoadOptions,
        reads_last_token: bool,
    ) -> Result<Self, Error> {
        let (place, tokenizer) = (checkpoint.place().clone(), Arc::clone(tokenizer));
        let (end_token, config) = (options.end_token.clone(), checkpoint.config());
        let (eos_token_id, vocab_size) = (config.eos_token_id, config.vocab_size.unsigned_abs());
        Self::start(move || {
            TextEncoder::open(&place, &tokenizer, &end_token, reads_last_token, eos_token_id, vocab_size)
        })
    }

    fn start(open: impl FnOnce() -> Result<TextEncoder, TextError> + Send + 'static) -> Result<Self, Error> {
        let thread = thread::Builder::new().name("mlx-embed-text".into()).spawn(open);
        thread.map(Self).map_err(|error| Error::Stopped {
            reason: format!("a thread to read the tokenizer on could not start: {error}"),
        })
    }

    fn wait(self) -> Result<TextEncoder, TextError> {
        self.0.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
    }
}

/// Starts the checkpoint's model. Its tokenizer is read meanwhile.
pub(crate) fn load(
    mut checkpoint: Checkpoint,
    options: &LoadOptions,
    steps: Arc<Steps>,
) -> Result<Shared, Error> {
    warn_of_slow_build();
    if !options.lenient
        && let Some(error) = Doubt::error(checkpoint.doubts())
    {
        return Err(Error::Checkpoint(error));
    }
    let config = checkpoint.config().clone();
    let mut files = checkpoint.sentence_transformers().clone();
    let place = checkpoint.place().clone();
    let tokenizer = Arc::new(settings(&checkpoint)?);
    let weights = checkpoint.open_weights();
    let purpose = checkpoint.purpose();
    let weighs_tokens = weighs_tokens(&checkpoint);
    refuse_pooling(purpose, options)?;
    let (pooling, pooling_source) = pooling(&checkpoint, options)?;
    check_threads(options.threads)?;
    let scoring = checkpoint.scoring().cloned();
    let reads_last_token = pooling.takes_last_token() && scoring.is_none();
    let text = OpeningText::of(&checkpoint, &tokenizer, options, reads_last_token)?;
    let backend = options.device.backend()?;
    let threads = runner::threads(options.threads);
    let gpus = options.gpus.indices(backend)?;
    let kind = runner::kind(&checkpoint, backend, &gpus, options.kernels.as_deref(), options.precision)?;
    let batch_tokens = options.batch_tokens.map_or(default_batch_tokens(backend, threads), NonZeroUsize::get);
    let (mut max_tokens, mut max_tokens_source) = max_tokens(&checkpoint, &tokenizer, options.max_tokens)?;
    let late = checkpoint.late().cloned();
    let lengths =
        late.as_ref().map(|late| late::Lengths::of(late, &checkpoint, max_tokens, options.max_tokens));
    if let (Some(late), Some(late::Lengths { query, document, .. })) = (&late, lengths) {
        let SideSpec { file, longest_field, .. } = late.document;
        if options.max_tokens.is_none() && late.document.longest.is_some() {
            max_tokens_source = format!("{file} ({longest_field})");
        }
        max_tokens = query.max(document);
    }
    refuse_longer_than_factors(&config, max_tokens, &place)?;
    let mut text = Err(text);
    if let Some(scoring) = &scoring {
        rerankers::check_options(options)?;
        // Which rows of the head are wanted is for the tokenizer to say.
        if scoring.is_answered {
            let read = text.or_else(OpeningText::wait)?;
            checkpoint.answer(&rerankers::answers(scoring, &read, config.vocab_size, &place)?);
            text = Ok(read);
        }
        files.behind = checkpoint.modules().into_owned();
    }
    let token_types = checkpoint.spec().embedding.token_types.as_ref().map_or(0, |table| table.rows);
    let sharing = sharing(&config, &kind, max_tokens);
    let mut info = Info {
        model: checkpoint.dir().to_owned(),
        config: config.clone(),
        parameters: checkpoint.parameters()?,
        weights_bytes: checkpoint.weights_bytes(),
        weights_files: checkpoint.weights_files(),
        storage: checkpoint.storage_by_kind()?,
        pooling,
        pooling_source,
        embedding_size: embedding_size(&checkpoint, pooling)?,
        normalize: files.normalize.unwrap_or(purpose != Purpose::Sparse),
        reranker: None,
        late_interaction: None,
        sentence_transformers: files.clone(),
        warnings: checkpoint.doubts().to_vec(),
        unknown_fields: checkpoint.unknown_fields().to_vec(),
        decided_by: BTreeMap::new(),
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
        precision: kind.has_precisions().then_some(options.precision),
        // Known once the model is loaded.
        rounding: Rounding::default(),
        mlx_version: mlx::version(),
        mlx_c_version: mlx::C_VERSION.to_owned(),
    };
    let meters = Arc::new(Meters::new(&info.model.display().to_string()));
    let hidden = info.embedding_size;
    let cache = (options.vector_cache > 0).then(|| Arc::new(VectorCache::new(options.vector_cache, hidden)));
    let engine_options = EngineOptions {
        limits: limits(options, backend, threads, batch_tokens, sharing),
        cache: cache.clone(),
        prompt_cache: options.prompt_cache.unwrap_or(PROMPT_CACHE_BYTES),
        meters: Arc::clone(&meters),
    };
    steps.of.store(config.layers.saturating_mul(gpus.len()), Ordering::Relaxed);
    let runner_options = RunnerOptions {
        backend,
        gpus,
        threads: options.threads,
        cache_limit: options.cache_limit.unwrap_or(default_cache_limit(backend, &kind)),
        kind,
        precision: options.precision,
        matmul: options.matmul,
        pooling,
        memory_limit: options.memory_limit,
    };
    let given = checkpoint.given_fields().clone();
    // The checkpoint goes with the closure: its open files live on in the runner.
    let starting = runner::start(checkpoint, runner_options, &engine_options, move || steps.layer())?;

    let text = text.or_else(OpeningText::wait)?;
    if scoring.is_none() && token_types > 1 && tokenizer.gives_types() != Some(false) {
        text.check_types(&place)?;
    }
    let pairs = match &scoring {
        Some(scoring) => Some(rerankers::form(scoring, &text, &place, &tokenizer, token_types)?),
        None => None,
    };
    let sides = match (&late, lengths) {
        (Some(late), Some(lengths)) => {
            Some(late::sides(late, lengths, &text, &tokenizer, config.vocab_size, &place)?)
        }
        _ => None,
    };
    let added = pairs.as_ref().map_or_else(|| text.added_tokens(), PairForm::added_tokens);
    check_room_for_content(max_tokens, added, options.max_tokens.is_some(), &place)?;
    let left_out = weighs_tokens.then(|| Arc::new(late::without_weight(&text, &tokenizer)));
    info.end_token = text.end_token().map(|(id, appended_by)| EndTokenInfo {
        id,
        token: text.token(id).unwrap_or_default(),
        appended_by,
    });
    info.truncation_side = text.truncation_side();
    info.added_tokens = text.added().to_vec();
    info.reranker = scoring.as_ref().map(|scoring| rerankers::info(scoring, &text, &files));
    info.late_interaction = late.as_ref().zip(sides.as_ref()).map(|(late, sides)| late::info(late, sides));
    info.decided_by = info::decided_by(&info, &given, options, scoring.as_ref());
    let engine = starting.wait()?;
    info.rounding = engine.ask(|model| Ok(model.rounding()))?;
    Ok(Shared {
        purpose,
        leaves_out_prompts: !files.include_prompt && pooling.can_leave_out(),
        prompts: Prompts::new(files.prompts, files.default_prompt_name.as_deref()),
        // The first token's vector is the prompt's own, where tokens see what lies behind them so are its keys, and so are
        // they where positions stretch with a text's length.
        shares_prompts: options.prompt_cache != Some(0)
            && pooling.continues()
            && config.causal
            && sharing != Sharing::EqualLengths,
        text,
        pairs,
        sides,
        left_out,
        token_types,
        place,
        weights,
        max_text_bytes: info.max_text_bytes,
        info,
        cache,
        meters,
        tokenizing: OnceLock::new(),
        engine,
    })
}

/// Whether each token that a text has gets a weight, in place of one vector.
fn weighs_tokens(checkpoint: &Checkpoint) -> bool {
    checkpoint.purpose() == Purpose::Sparse && checkpoint.spec().mlm.is_none()
}

/// Numbers of a vector.
fn embedding_size(checkpoint: &Checkpoint, pooling: Pooling) -> Result<usize, CheckpointError> {
    match (&checkpoint.spec().mlm, checkpoint.late()) {
        (Some(mlm), _) => Ok(mlm.vocabulary),
        (None, _) if weighs_tokens(checkpoint) => Ok(checkpoint.config().vocab_size.unsigned_abs() as usize),
        (None, Some(_)) => checkpoint.width_behind(checkpoint.spec().hidden, "they are the tokens' states"),
        (None, None) => checkpoint.embedding_size(pooling),
    }
}

/// Which texts may run together, and how.
fn sharing(config: &ModelConfig, kind: &Kind, max_tokens: usize) -> Sharing {
    if config.frequencies_depend_on_length(max_tokens) {
        Sharing::EqualLengths
    } else if matches!(kind, Kind::Mlx) {
        Sharing::Padded
    } else {
        Sharing::Packed
    }
}

/// What the queue holds, and what runs at once.
fn limits(
    options: &LoadOptions,
    backend: Backend,
    threads: usize,
    batch_tokens: usize,
    sharing: Sharing,
) -> Limits {
    Limits {
        capacity: options.queue_texts.map_or(QUEUE_TEXTS, NonZeroUsize::get),
        bytes: options.queue_bytes.map_or(QUEUE_BYTES, NonZeroUsize::get),
        batch_tokens,
        enough_tokens: match backend {
            Backend::Cpu => CPU_ENOUGH_TOKENS.max(threads * THREAD_ENOUGH_TOKENS),
            // A GPU has room for more.
            _ => batch_tokens,
        },
        batch_time: options.batch_time.unwrap_or(BATCH_TIME),
        sharing,
    }
}

/// Refuses a pooling where there is none to choose.
fn refuse_pooling(purpose: Purpose, options: &LoadOptions) -> Result<(), Error> {
    let reason = match (purpose, options.pooling) {
        (Purpose::Sparse, Some(_)) => {
            "is given, but sparse vectors have a pooling of their own; leave it out"
        }
        (Purpose::TokenVectors, Some(_)) => "is given, but vectors of tokens are not pooled; leave it out",
        _ => return Ok(()),
    };
    Err(Error::Option { option: "pooling", reason: reason.into() })
}

/// How hidden states become a vector, and who says so.
fn pooling(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<(Pooling, Source), Error> {
    match (&checkpoint.spec().head, options.pooling) {
        (Some(head), Some(_)) => {
            let reason = format!("is {} by this reranker's head; leave it out", head.pooling);
            Err(Error::Option { option: "pooling", reason })
        }
        (None, Some(pooling)) => Ok((pooling, Source::Caller)),
        (head, None) => {
            let is_said = head.is_some() || checkpoint.sentence_transformers().pooling.is_some();
            Ok((checkpoint.pooling(), if is_said { Source::Checkpoint } else { Source::Default }))
        }
    }
}

/// More than any machine has processors for. Where the system has no more threads to give, starting one may end the process.
const MOST_THREADS: usize = 1024;

fn check_threads(threads: Option<NonZeroUsize>) -> Result<(), Error> {
    match threads {
        Some(threads) if threads.get() > MOST_THREADS => Err(Error::Option {
            option: "threads",
            reason: format!(
                "is {threads}; give at most {MOST_THREADS}, best as many as the machine has cores"
            ),
        }),
        _ => Ok(()),
    }
}

/// The limit on a text's tokens that the caller (`wanted`) or the checkpoint sets, and who sets it.
fn max_tokens(
    checkpoint: &Checkpoint,
    tokenizer: &Settings,
    wanted: Option<usize>,
) -> Result<(usize, String), Error> {
    // Where positions are rows of a table, it ends; and so do the distances that are kept.
    let ModelSpec { embedding, relative, .. } = checkpoint.spec();
    let rows = embedding.positions.as_ref().map(PositionsSpec::longest);
    let rows = rows.or(relative.as_ref().map(|relative| relative.longest));
    let reject = |reason: String| Err(Error::Option { option: "max_tokens", reason });
    match (wanted, rows) {
        (None, rows) => {
            let (limit, source) = checkpoint_limit(checkpoint, tokenizer);
            match rows {
                Some(rows) if rows < limit => Ok((rows, "config.json (max_position_embeddings)".to_owned())),
                _ => Ok((limit, source)),
            }
        }
        (Some(0), _) => reject("is 0; give at least 1".into()),
        (Some(wanted), Some(rows)) if wanted > rows => {
            reject(format!("is {wanted}, but this model has positions for {rows} tokens; give at most that"))
        }
        (Some(wanted), _) => Ok((wanted, "the caller".to_owned())),
    }
}

/// The checkpoint's limit, as sentence-transformers finds it: one of its own files goes over the tokenizer's, of which
/// the model's positions may be less.
fn checkpoint_limit(checkpoint: &Checkpoint, tokenizer: &Settings) -> (usize, String) {
    let positions = checkpoint.config().max_position_embeddings;
    let (of_model, of_tokenizer) = match checkpoint.config().architecture {
        Architecture::StaticEmbedding => ("no file sets one", "tokenizer.json (truncation.max_length)"),
        Architecture::Model2Vec => ("config.json (max_length)", ""),
        _ => ("config.json (max_position_embeddings)", "tokenizer_config.json (model_max_length)"),
    };
    let by_model = (positions, of_model.to_owned());
    match (&checkpoint.sentence_transformers().limit, tokenizer.model_max_length()) {
        (Some((field, Some(limit))), _) => (*limit, format!("sentence_bert_config.json ({field})")),
        (None, Some(limit)) if limit < positions => (limit, of_tokenizer.to_owned()),
        // A limit without end still leaves the model's own.
        _ => by_model,
    }
}

/// Refuses texts for which rotary factors would depend on each one's length.
fn refuse_longer_than_factors(config: &ModelConfig, max_tokens: usize, place: &Files) -> Result<(), Error> {
    if let RopeScaling::LongRope {
        original_max_position_embeddings: original, short_factor, long_factor, ..
    } = &config.rope_scaling
        && max_tokens as f32 > *original
        && short_factor != long_factor
    {
        return Err(Error::Checkpoint(CheckpointError::InvalidField {
            path: place.base().path("config.json"),
            field: "rope_scaling.long_factor".into(),
            reason: format!(
                "is for texts of more than {original} tokens, and texts of up to {max_tokens} are to be embedded; factors that depend on a text's length are not supported: set max_tokens (--max-tokens) to {original} at most"
            ),
        }));
    }
    Ok(())
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
            path: place.base().path("config.json"),
            field: "max_position_embeddings".into(),
            reason: format!(
                "(or max_seq_length in sentence_bert_config.json, or model_max_length in tokenizer_config.json) leaves \
                 no room: it is {max_tokens}, of which special tokens take {added}"
            ),
        }))
    }
}

fn default_batch_tokens(backend: Backend, threads: usize) -> usize {
    match backend {
        Backend::Cpu => (threads * THREAD_TOKENS).clamp(CPU_TOKENS, MOST_CPU_TOKENS),
        _ => 4096,
    }
}

fn default_cache_limit(backend: Backend, kind: &Kind) -> usize {
    if backend == Backend::Cpu || matches!(kind, Kind::Cuda(..)) { 64 << 20 } else { 256 << 20 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_threads_get_larger_batches() {
        let tokens = |threads| default_batch_tokens(Backend::Cpu, threads);
        assert_eq!([1, 2, 4, 8, 16, 64].map(tokens), [512, 512, 512, 1024, 2048, 2048]);
    }
}
