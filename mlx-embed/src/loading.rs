//! From a checkpoint and options to a running model.

mod background;
mod check;
mod late;
mod limits;
mod rerankers;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

pub(crate) use background::Steps;
pub use background::{LoadProgress, Loading};
pub use check::check;

use crate::batch::Sharing;
use crate::checkpoint::{
    Architecture, Checkpoint, CheckpointError, ModelConfig, Purpose, SentenceTransformers,
};
use crate::engine::{EngineOptions, Meters, VectorCache};
use crate::error::Error;
use crate::info::{self, EndTokenInfo, Info, Source};
use crate::mlx::{self, Backend};
use crate::model::Rounding;
use crate::options::LoadOptions;
use crate::panics::quietly;
use crate::pooling::Pooling;
use crate::request::Shared;
use crate::runner::{self, Kind, RunnerOptions};
use crate::text::{Bare, Overrides, PairForm, Prompts, Settings, TextEncoder, TextError, TruncationSide};
use limits::Lengths;

const MAX_TEXT_BYTES: usize = 1 << 20;
const PROMPT_CACHE_BYTES: usize = 64 << 20;

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

/// What the model runs on.
struct Machine {
    backend: Backend,
    gpus: Vec<i32>,
    kind: Kind,
    /// Of the CPU.
    threads: usize,
    batch_tokens: usize,
}

impl Machine {
    fn of(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self, Error> {
        let backend = options.device.backend()?;
        let threads = runner::threads(options.threads);
        let gpus = options.gpus.indices(backend)?;
        let kind = runner::kind(checkpoint, backend, &gpus, options.kernels.as_deref(), options.precision)?;
        let default = limits::default_batch_tokens(backend, threads);
        let batch_tokens = options.batch_tokens.map_or(default, NonZeroUsize::get);
        Ok(Self { backend, gpus, kind, threads, batch_tokens })
    }

    fn runner_options(self, options: &LoadOptions, pooling: Pooling) -> RunnerOptions {
        let Self { backend, gpus, kind, .. } = self;
        RunnerOptions {
            backend,
            gpus,
            threads: options.threads,
            cache_limit: options.cache_limit.unwrap_or(default_cache_limit(backend, &kind)),
            kind,
            precision: options.precision,
            matmul: options.matmul,
            pooling,
            memory_limit: options.memory_limit,
        }
    }
}

/// What is known of the model before it is loaded.
fn facts(
    checkpoint: &Checkpoint,
    files: &SentenceTransformers,
    (pooling, pooling_source): (Pooling, Source),
    lengths: &Lengths,
    machine: &Machine,
    options: &LoadOptions,
) -> Result<Info, Error> {
    Ok(Info {
        model: checkpoint.dir().to_owned(),
        config: checkpoint.config().clone(),
        parameters: checkpoint.parameters()?,
        weights_bytes: checkpoint.weights_bytes(),
        weights_files: checkpoint.weights_files(),
        storage: checkpoint.storage_by_kind()?,
        pooling,
        pooling_source,
        embedding_size: embedding_size(checkpoint, pooling)?,
        normalize: files.normalize.unwrap_or(checkpoint.purpose() != Purpose::Sparse),
        reranker: None,
        late_interaction: None,
        sentence_transformers: files.clone(),
        warnings: checkpoint.doubts().to_vec(),
        unknown_fields: checkpoint.unknown_fields().to_vec(),
        decided_by: BTreeMap::new(),
        end_token: None,
        max_tokens: lengths.max_tokens,
        max_tokens_source: lengths.source.clone(),
        truncation_side: TruncationSide::Right,
        added_tokens: Vec::new(),
        max_text_bytes: options.max_text_bytes.map_or(MAX_TEXT_BYTES, NonZeroUsize::get),
        batch_tokens: machine.batch_tokens,
        backend: machine.backend,
        kernels: machine.kind.name(),
        compiled: machine.kind.compiled(),
        precision: machine.kind.has_precisions().then_some(options.precision),
        // Known once the model is loaded.
        rounding: Rounding::default(),
        mlx_version: mlx::version(),
        mlx_c_version: mlx::C_VERSION.to_owned(),
    })
}

/// Starts the checkpoint's model. Its tokenizer is read meanwhile.
pub(crate) fn load(
    mut checkpoint: Checkpoint,
    options: &LoadOptions,
    steps: Arc<Steps>,
) -> Result<Shared, Error> {
    warn_of_slow_build();
    let (pooling, pooling_source) = check::options(&checkpoint, options)?;
    let config = checkpoint.config().clone();
    let mut files = checkpoint.sentence_transformers().clone();
    let place = checkpoint.place().clone();
    let tokenizer = Arc::new(settings(&checkpoint)?);
    let weights = checkpoint.open_weights();
    let purpose = checkpoint.purpose();
    let weighs_tokens = weighs_tokens(&checkpoint);
    let scoring = checkpoint.scoring().cloned();
    let reads_last_token = pooling.takes_last_token() && scoring.is_none();
    let text = OpeningText::of(&checkpoint, &tokenizer, options, reads_last_token)?;
    let machine = Machine::of(&checkpoint, options)?;
    let lengths = Lengths::of(&checkpoint, &tokenizer, options)?;
    let max_tokens = lengths.max_tokens;
    limits::refuse_longer_than_factors(&config, max_tokens, &place)?;
    let late = checkpoint.late().cloned();
    let mut text = Err(text);
    if let Some(scoring) = &scoring {
        // Which rows of the head are wanted is for the tokenizer to say.
        if scoring.is_answered {
            let read = text.or_else(OpeningText::wait)?;
            checkpoint.answer(&rerankers::answers(scoring, &read, config.vocab_size, &place)?);
            text = Ok(read);
        }
        files.behind = checkpoint.modules().into_owned();
    }
    let token_types = checkpoint.spec().embedding.token_types.as_ref().map_or(0, |table| table.rows);
    let sharing = sharing(&config, &machine.kind, max_tokens);
    let mut info = facts(&checkpoint, &files, (pooling, pooling_source), &lengths, &machine, options)?;
    let name = options.name.clone().unwrap_or_else(|| info.model.display().to_string());
    let meters = Arc::new(Meters::new(&name));
    let hidden = info.embedding_size;
    let cache = (options.vector_cache > 0).then(|| Arc::new(VectorCache::new(options.vector_cache, hidden)));
    let engine_options = EngineOptions {
        limits: limits::of_queue(options, machine.backend, machine.threads, machine.batch_tokens, sharing),
        cache: cache.clone(),
        prompt_cache: options.prompt_cache.unwrap_or(PROMPT_CACHE_BYTES),
        meters: Arc::clone(&meters),
    };
    steps.of.store(config.layers.saturating_mul(machine.gpus.len()), Ordering::Relaxed);
    let runner_options = machine.runner_options(options, pooling);
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
    let sides = match (&late, lengths.late) {
        (Some(late), Some(lengths)) => {
            Some(late::sides(late, lengths, &text, &tokenizer, config.vocab_size, &place)?)
        }
        _ => None,
    };
    let added = pairs.as_ref().map_or_else(|| text.added_tokens(), PairForm::added_tokens);
    limits::check_room_for_content(max_tokens, added, options.max_tokens.is_some(), &place)?;
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

fn default_cache_limit(backend: Backend, kind: &Kind) -> usize {
    if backend == Backend::Cpu || matches!(kind, Kind::Cuda(..)) { 64 << 20 } else { 256 << 20 }
}
