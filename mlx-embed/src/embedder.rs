//! The public handle.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::error::{Error, InputError};
use crate::info::{EndTokenInfo, Info, Source};
use crate::kernels::Family;
use crate::mlx::{self, Backend};
use crate::model::Precision;
use crate::pooling::{self, Pooling};
use crate::runner::{self, Device, RunnerOptions};
use crate::text::{EndToken, Prompt, Prompts, TextEncoder};
use crate::worker::Worker;

/// Options of [`Embedder::load_with`]. `LoadOptions::default()` follows the checkpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadOptions {
    /// Where the model runs. Default: the GPU if there is one, else the CPU.
    pub device: Device,
    /// Threads on the CPU. Default: every core.
    pub threads: Option<NonZeroUsize>,
    /// How closely 4- and 8-bit checkpoints are followed on the CPU. A GPU computes in the checkpoint's own type.
    pub precision: Precision,
    /// The family of kernels on the CPU, by name: `avx512-vnni`, `avx512`, `avx2-vnni`, `avx2`, `neon-dotprod`, `neon`,
    /// `portable`, or `mlx` for MLX's own operations. Default: as the environment variable `MLX_EMBED_KERNELS` says,
    /// else the fastest that the machine runs.
    pub kernels: Option<String>,
    /// How hidden states become a vector. Default: as the checkpoint says, else the last token.
    pub pooling: Option<Pooling>,
    /// Which token ends a text.
    pub end_token: EndToken,
    /// Longest input in tokens. Default: `max_seq_length` of the sentence-transformers files, else the model's
    /// `max_position_embeddings`.
    pub max_tokens: Option<usize>,
    /// Most tokens that run at once, padding included; a longer text runs alone. Default: 4096 on a GPU; 512 on the
    /// CPU, where more take memory and save no time.
    pub batch_tokens: Option<NonZeroUsize>,
    /// Bytes that MLX keeps for reuse; a setting of the whole process. Default: 256 MiB on a GPU, 64 MiB on the CPU.
    pub cache_limit: Option<usize>,
    /// Bytes that MLX tries to stay within; a setting of the whole process. Default: MLX's own.
    pub memory_limit: Option<usize>,
}

/// Options of [`Embedder::embed_with`].
///
/// ```
/// use mlx_embed::{EmbedOptions, Prompt};
///
/// let query = EmbedOptions { prompt: Prompt::Named("query".into()), ..Default::default() };
/// # assert_eq!(query.normalize, None);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EmbedOptions {
    /// What goes before each text.
    pub prompt: Prompt,
    /// Keep only the first so many numbers of each vector (Matryoshka), before normalising.
    pub dims: Option<NonZeroUsize>,
    /// Scale vectors to length 1. Default: as the checkpoint says, else yes.
    pub normalize: Option<bool>,
}

/// A text's vector, and what became of the text.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Embedding {
    /// f32 `[dims]`.
    pub vector: Vec<f32>,
    /// Tokens that the model saw, prompt and end token included.
    pub tokens: usize,
    /// Whether the text was longer than the limit, so that its end was cut.
    pub truncated: bool,
}

/// Turns texts into vectors.
///
/// A handle: cloning is cheap and every clone shares one model, which lives on a thread of its own. Calls from many
/// threads take turns. The model is freed when the last handle goes.
///
/// ```no_run
/// use mlx_embed::Embedder;
///
/// let embedder = Embedder::load("path/to/Qwen3-Embedding-0.6B-4bit-DWQ")?;
/// for embedding in embedder.embed(&["The cat sat on the mat", "A feline rested on the rug"])? {
///     println!("{} numbers from {} tokens", embedding.vector.len(), embedding.tokens);
/// }
/// # Ok::<(), mlx_embed::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Embedder {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    text: TextEncoder,
    prompts: Prompts,
    info: Info,
    worker: Worker,
}

impl Embedder {
    /// Loads a checkpoint directory: `config.json`, `tokenizer.json`, safetensors weights and, where there are any,
    /// the files of sentence-transformers.
    ///
    /// # Errors
    /// When a file is missing, damaged or of a kind that isn't supported; the message names it.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load_with(dir, LoadOptions::default())
    }

    /// As [`Embedder::load`], with options.
    ///
    /// # Errors
    /// As [`Embedder::load`]; also when an option doesn't fit the model or the machine.
    pub fn load_with(dir: impl AsRef<Path>, options: LoadOptions) -> Result<Self, Error> {
        Self::of_checkpoint(Checkpoint::open(dir)?, options)
    }

    /// Loads the model that this crate carries: small, for English, 384 numbers a vector. Its card is
    /// `models/default/README.md`.
    ///
    /// ```no_run
    /// let embedder = mlx_embed::Embedder::default_model()?;
    /// let vector = &embedder.embed(&["The cat sat on the mat"])?[0].vector;
    /// assert_eq!(vector.len(), 384);
    /// # Ok::<(), mlx_embed::Error>(())
    /// ```
    ///
    /// # Errors
    /// When MLX can't be used on this machine.
    #[cfg(feature = "default-model")]
    pub fn default_model() -> Result<Self, Error> {
        Self::default_model_with(LoadOptions::default())
    }

    /// As [`Embedder::default_model`], with options.
    ///
    /// # Errors
    /// As [`Embedder::default_model`]; also when an option doesn't fit the model or the machine.
    #[cfg(feature = "default-model")]
    pub fn default_model_with(options: LoadOptions) -> Result<Self, Error> {
        Self::of_checkpoint(Checkpoint::default_model()?, options)
    }

    fn of_checkpoint(checkpoint: Checkpoint, options: LoadOptions) -> Result<Self, Error> {
        let config = checkpoint.config();
        let files = checkpoint.sentence_transformers();
        let (pooling, pooling_source) = match (options.pooling, files.pooling) {
            (Some(pooling), _) => (pooling, Source::Caller),
            (None, Some(pooling)) => (pooling, Source::Checkpoint),
            (None, None) => (Pooling::LastToken, Source::Default),
        };
        let backend = options.device.backend()?;
        let family = runner::family(backend, options.kernels.as_deref())?;
        let batch_tokens = options.batch_tokens.map_or(default_batch_tokens(backend), NonZeroUsize::get);
        let text = TextEncoder::open(
            checkpoint.place(),
            &options.end_token,
            pooling == Pooling::LastToken,
            config.eos_token_id,
            config.vocab_size.unsigned_abs(),
        )?;
        let max_tokens = max_tokens(&checkpoint, options.max_tokens, text.added_tokens())?;
        let end_token = text.end_token().map(|(id, appended_by)| EndTokenInfo {
            id,
            token: text.token(id).unwrap_or_default(),
            appended_by,
        });
        let info = Info {
            model: checkpoint.dir().to_owned(),
            config: config.clone(),
            parameters: checkpoint.parameters()?,
            weights_bytes: checkpoint.weights_bytes(),
            storage: checkpoint.storage_by_kind()?,
            pooling,
            pooling_source,
            normalize: files.normalize.unwrap_or(true),
            sentence_transformers: files.clone(),
            end_token,
            max_tokens,
            batch_tokens,
            backend,
            kernels: family.map_or("mlx", Family::name),
            precision: family.map(|_| options.precision),
            mlx_version: mlx::version(),
            mlx_c_version: mlx::C_VERSION.to_owned(),
        };
        let prompts = Prompts::new(files.prompts.clone(), files.default_prompt_name.as_deref());
        let runner_options = RunnerOptions {
            backend,
            threads: options.threads,
            family,
            precision: options.precision,
            pooling,
            batch_tokens,
            max_tokens,
            cache_limit: options.cache_limit.unwrap_or(default_cache_limit(backend)),
            memory_limit: options.memory_limit,
        };
        let worker = Worker::start(checkpoint, runner_options)?;
        Ok(Self { shared: Arc::new(Shared { text, prompts, info, worker }) })
    }

    /// What this embedder is made of.
    pub fn info(&self) -> &Info {
        &self.shared.info
    }

    /// Embeds texts with the checkpoint's own settings; one result a text, in order.
    ///
    /// A text's vector does not depend on the others in the call.
    ///
    /// # Errors
    /// When a text has no tokens, or the model fails. No vector is ever NaN or infinite.
    pub fn embed<T: AsRef<str>>(&self, texts: &[T]) -> Result<Vec<Embedding>, Error> {
        self.embed_with(texts, &EmbedOptions::default())
    }

    /// As [`Embedder::embed`], with options.
    ///
    /// # Errors
    /// As [`Embedder::embed`]; also when an option doesn't fit the model.
    pub fn embed_with<T: AsRef<str>>(
        &self,
        texts: &[T],
        options: &EmbedOptions,
    ) -> Result<Vec<Embedding>, Error> {
        let results = self.embed_each(texts, options)?.into_iter().enumerate();
        results.map(|(index, result)| result.map_err(|source| Error::Input { index, source })).collect()
    }

    /// As [`Embedder::embed_with`], but a text that can't be embedded fails alone: each text has its own result.
    ///
    /// # Errors
    /// When an option doesn't fit the model, or the model fails as a whole.
    pub fn embed_each<T: AsRef<str>>(
        &self,
        texts: &[T],
        options: &EmbedOptions,
    ) -> Result<Vec<Result<Embedding, InputError>>, Error> {
        let Shared { text, prompts, info, worker } = &*self.shared;
        let hidden = info.config.hidden_size as usize;
        let dims = options.dims.map(NonZeroUsize::get);
        if let Some(dims) = dims.filter(|&dims| dims > hidden) {
            return Err(Error::Option {
                option: "dims",
                reason: format!("is {dims}, but this model's vectors have {hidden}; give at most that"),
            });
        }
        let prompt = prompts.resolve(&options.prompt)?;
        let mut ids = Vec::with_capacity(texts.len());
        let mut facts = Vec::with_capacity(texts.len());
        for each in texts {
            let tokens = text.encode(prompt, each.as_ref(), info.max_tokens);
            facts.push(tokens.map(|tokens| {
                let fact = (tokens.ids.len(), tokens.truncated);
                ids.push(tokens.ids);
                fact
            }));
        }
        let mut vectors = worker.run(move |runner| runner.embed(&ids))?.into_iter();
        let normalize = options.normalize.unwrap_or(info.normalize);
        let results = facts.into_iter().map(|fact| {
            let (tokens, truncated) = fact?;
            // There is one vector for each text that has tokens, in order.
            let mut vector = vectors.next().unwrap_or(Err(InputError::Empty))?;
            pooling::finish(&mut vector, dims, normalize);
            Ok(Embedding { vector, tokens, truncated })
        });
        Ok(results.collect())
    }

    /// The token ids that the model sees for `text`, prompt and end token included.
    ///
    /// # Errors
    /// When the text has no tokens, or there is no such prompt.
    pub fn token_ids(&self, text: &str, options: &EmbedOptions) -> Result<Vec<u32>, Error> {
        let Shared { text: encoder, prompts, info, .. } = &*self.shared;
        let prompt = prompts.resolve(&options.prompt)?;
        let tokens = encoder.encode(prompt, text, info.max_tokens);
        tokens.map(|tokens| tokens.ids).map_err(|source| Error::Input { index: 0, source })
    }

    /// Embeds token ids, for callers with a tokenizer of their own: one vector a text, pooled and, if the checkpoint says
    /// so, scaled to length 1. Nothing is added to the ids and nothing cut.
    ///
    /// # Errors
    /// When a text has no ids or one outside the vocabulary, or the model fails.
    pub fn embed_token_ids(&self, texts: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, Error> {
        let Shared { info, worker, .. } = &*self.shared;
        let vocab_size = info.config.vocab_size.unsigned_abs();
        for (index, ids) in texts.iter().enumerate() {
            check_ids(ids, vocab_size).map_err(|source| Error::Input { index, source })?;
        }
        let vectors = worker.run(move |runner| runner.embed(&texts))?.into_iter().enumerate();
        let finished = vectors.map(|(index, vector)| {
            let mut vector = vector.map_err(|source| Error::Input { index, source })?;
            pooling::finish(&mut vector, None, info.normalize);
            Ok(vector)
        });
        finished.collect()
    }

    /// Every hidden state on the way of one text, for comparing with another implementation layer by layer: the
    /// embeddings, the residual stream after each layer, the result of the final norm. f32 `[tokens, hidden]` each.
    ///
    /// # Errors
    /// When `token_ids` is empty or holds an id outside the vocabulary, or the model fails.
    pub fn hidden_states(&self, token_ids: &[u32]) -> Result<Vec<Vec<f32>>, Error> {
        let Shared { info, worker, .. } = &*self.shared;
        let vocab_size = info.config.vocab_size.unsigned_abs();
        check_ids(token_ids, vocab_size).map_err(|source| Error::Input { index: 0, source })?;
        let ids = token_ids.to_vec();
        worker.run(move |runner| runner.hidden_states(&ids))
    }
}

fn check_ids(ids: &[u32], vocab_size: u32) -> Result<(), InputError> {
    if ids.is_empty() { Err(InputError::Empty) } else { InputError::check_vocabulary(ids, vocab_size) }
}

/// The limit on a text's tokens that the caller (`wanted`) or the checkpoint sets. It has to leave room for content
/// beside the `added` special tokens.
fn max_tokens(checkpoint: &Checkpoint, wanted: Option<usize>, added: usize) -> Result<usize, Error> {
    let config = checkpoint.config();
    // Within the window, windowed and full attention are the same; beyond it they aren't.
    let window = config.sliding_window.unwrap_or(usize::MAX);
    let Some(wanted) = wanted else {
        let files = checkpoint.sentence_transformers();
        let own = files.max_seq_length.unwrap_or(config.max_position_embeddings).min(window);
        if own > added {
            return Ok(own);
        }
        return Err(Error::Checkpoint(CheckpointError::InvalidField {
            path: checkpoint.dir().join("config.json"),
            field: "max_position_embeddings".into(),
            reason: format!(
                "(or max_seq_length in sentence_bert_config.json) leaves no room: it is {own}, of which special tokens take {added}"
            ),
        }));
    };
    let reject = |reason: String| Err(Error::Option { option: "max_tokens", reason });
    if wanted == 0 {
        reject("is 0; give at least 1".into())
    } else if wanted > window {
        reject(format!("is {wanted}, but this model attends to {window} tokens at most; give at most that"))
    } else if wanted <= added {
        reject(format!("is {wanted}, of which special tokens take {added}; give more than that"))
    } else {
        Ok(wanted)
    }
}

fn default_batch_tokens(backend: Backend) -> usize {
    if backend == Backend::Cpu { 512 } else { 4096 }
}

fn default_cache_limit(backend: Backend) -> usize {
    if backend == Backend::Cpu { 64 << 20 } else { 256 << 20 }
}
