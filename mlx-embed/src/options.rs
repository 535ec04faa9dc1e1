//! Options of loading and of calls, and what a call returns.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::checkpoint::DenseActivation;
use crate::error::{UnknownWord, of_word};
use crate::model::{MatmulPolicy, Precision};
use crate::pooling::Pooling;
use crate::runner::{Device, Gpus};
use crate::text::{EndToken, Prompt};

/// Options of [`Embedder::load_with`](crate::Embedder::load_with). `LoadOptions::default()` follows the checkpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadOptions {
    /// Where the model runs. Default: the GPU if there is one, else the CPU.
    pub device: Device,
    /// Which of several NVIDIA GPUs. Each of them has the whole model, and each batch goes to one that is free: several answer
    /// more requests, not one request faster. Default: the first.
    pub gpus: Gpus,
    /// Threads on the CPU, at most 1024. Default: every core.
    pub threads: Option<NonZeroUsize>,
    /// How much is rounded on the CPU. A GPU computes in the checkpoint's own type, or for f32 and f16 checkpoints as this
    /// says.
    pub precision: Precision,
    /// The kernels, by name: on the CPU the family `amx-int8`, `avx512-vnni`, `avx512`, `avx2-vnni`, `avx2`, `neon-dotprod`,
    /// `neon` or `portable`; on an NVIDIA GPU `cuda`; or `mlx` for MLX's own operations. Default: as the environment variable
    /// `MLX_EMBED_KERNELS` says, else the fastest that the machine and the checkpoint allow.
    pub kernels: Option<String>,
    /// How an NVIDIA GPU multiplies with quantised weights.
    pub matmul: MatmulPolicy,
    /// How hidden states become a vector. Default: as the checkpoint says, else the last token for causal decoders and the mean
    /// for other models.
    pub pooling: Option<Pooling>,
    /// Which token stands at the end of a text.
    pub end_token: EndToken,
    /// Longest input in tokens, prompt and special tokens included; longer texts are cut. Default, as in
    /// sentence-transformers: `max_seq_length` of its files, else the smaller of the tokenizer's `model_max_length` and the
    /// model's `max_position_embeddings`.
    pub max_tokens: Option<usize>,
    /// Leave out what this crate doesn't know of a checkpoint (tensors, keys, code of its own), and list it in
    /// [`Info::warnings`](crate::Info::warnings). Vectors may then differ from those of the model's authors. Default:
    /// loading fails with [`CheckpointError::UnknownTensor`](crate::CheckpointError::UnknownTensor) or
    /// [`CheckpointError::UnknownField`](crate::CheckpointError::UnknownField).
    pub lenient: bool,
    /// Most tokens in a batch, padding included; a longer text runs alone. Default: 4096 on a GPU; on the CPU 128 for
    /// each thread, but at least 512 and at most 2048: larger batches take more memory and save no time. More than 2^20 are
    /// refused.
    pub batch_tokens: Option<NonZeroUsize>,
    /// How long a batch should take at most while other requests wait, and in the bulk lane, where a query may come at any
    /// time. Batches are made so small, but not smaller than 64 tokens. Default: 25 ms.
    pub batch_time: Option<Duration>,
    /// Most texts that wait in each lane, those that are being tokenised included; see [`WhenFull`]. Default: 4096.
    pub queue_texts: Option<NonZeroUsize>,
    /// Most bytes of texts that wait in each lane: of the text until it is tokenised, then of its token ids. Default:
    /// 64 MiB.
    pub queue_bytes: Option<NonZeroUsize>,
    /// Most bytes of a text, prompt included; a longer one is an error
    /// ([`InputError::TooManyBytes`](crate::InputError::TooManyBytes)). It bounds what one text can cost where a tokenizer
    /// has to read it whole: about a second and 300 MB of memory for a megabyte. Default: 1 MiB, some 250,000 tokens, which
    /// is more than any model here takes.
    pub max_text_bytes: Option<NonZeroUsize>,
    /// Bytes of vectors to keep for texts that come again. Default: 0, since documents are mostly embedded once and kept in a
    /// database. Identical texts that wait at the same time are computed once in any case.
    pub vector_cache: usize,
    /// Bytes of keys and values to keep of prompts, so that only the text behind a known prompt is computed. 0 keeps none.
    /// Default: 64 MiB.
    pub prompt_cache: Option<usize>,
    /// The model's name in metrics (label `model`). Default: its folder.
    pub name: Option<String>,
    /// Bytes that MLX keeps for reuse; a setting of the whole process. Default: 64 MiB on the CPU and for this crate's
    /// kernels on a GPU, 256 MiB for MLX's own there.
    pub cache_limit: Option<usize>,
    /// Memory that MLX tries to stay within, in bytes; a setting of the whole process. Default: on an NVIDIA GPU what is in
    /// use, twice the weights (six times where they stay dequantised) and 512 MiB together; elsewhere MLX's own.
    pub memory_limit: Option<usize>,
}

/// Options of a call.
///
/// ```
/// use std::time::Duration;
///
/// use mlx_embed::{EmbedOptions, Prompt};
///
/// let query = EmbedOptions {
///     prompt: Prompt::Named("query".into()),
///     timeout: Some(Duration::from_millis(50)),
///     ..Default::default()
/// };
/// # assert_eq!(query.normalize, None);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EmbedOptions {
    /// What goes before each text.
    pub prompt: Prompt,
    /// Keep only so many numbers of each vector, the first ones (Matryoshka), before normalising. Default: all.
    pub dims: Option<NonZeroUsize>,
    /// Scale vectors to length 1. Default: as the checkpoint says, else yes.
    pub normalize: Option<bool>,
    /// Which lane of the queue the request waits in.
    pub lane: Lane,
    /// Give the request up this long after the call, also while its texts are being tokenised. Texts that can't be done by
    /// then are not run: a model that gets more requests than it can do still answers those that it can. Default: never.
    pub timeout: Option<Duration>,
    /// What to do when too many texts wait already. Default: calls that block wait, too; submitted requests are refused.
    pub when_full: Option<WhenFull>,
}

/// Options of a reranker's call.
///
/// ```
/// use mlx_embed::{Prompt, RerankOptions};
///
/// let options = RerankOptions {
///     instruction: Prompt::Text("Find the line of code that causes the error".into()),
///     top_n: std::num::NonZeroUsize::new(10),
///     ..Default::default()
/// };
/// # assert_eq!(options.activation, None);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RerankOptions {
    /// What makes a document a good answer: the instruction of a Qwen3-Reranker, where an empty one is the model's own. Other
    /// rerankers get it as text before the query; few were trained with one. Default: the checkpoint's.
    pub instruction: Prompt,
    /// How many documents to return, the best first. Default: all.
    pub top_n: Option<NonZeroUsize>,
    /// What becomes of a pair's logit: [`DenseActivation::Identity`] leaves it as it is. Default: as the checkpoint says,
    /// else [`DenseActivation::Sigmoid`].
    pub activation: Option<DenseActivation>,
    /// Which lane of the queue the request waits in.
    pub lane: Lane,
    /// As [`EmbedOptions::timeout`].
    pub timeout: Option<Duration>,
    /// As [`EmbedOptions::when_full`].
    pub when_full: Option<WhenFull>,
}

/// A document's score, and what became of the document.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Ranked {
    /// Its place among the call's documents, counted from 0.
    pub index: usize,
    /// How well it answers the query: higher is better.
    pub score: f32,
    /// Tokens of the pair that the model saw.
    pub tokens: usize,
    /// Whether the pair was longer than the limit, so that the document was cut.
    pub truncated: bool,
    /// Whether the logit was not computed for this call, but came from the cache or from an identical pair's computation.
    pub cached: bool,
    /// From the call until the pair's batch began, tokenisation included.
    pub queue_time: Duration,
    /// How long its batch ran; zero if `cached`.
    pub device_time: Duration,
}

/// Which lane of the queue a request waits in. Queries go before bulk; of eight batches at least one is bulk's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Lane {
    /// [`Lane::Query`] for up to 64 texts, [`Lane::Bulk`] for more.
    #[default]
    Auto,
    /// Somebody waits for the answer.
    Query,
    /// A large job, of which nobody waits for a single text.
    Bulk,
}

impl Lane {
    /// Every value.
    pub const ALL: &[Self] = &[Self::Auto, Self::Query, Self::Bulk];
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Query => "query",
            Self::Bulk => "bulk",
        })
    }
}

impl FromStr for Lane {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        of_word(word)
    }
}

/// What to do when a lane holds [`LoadOptions::queue_texts`] texts or [`LoadOptions::queue_bytes`] bytes of them, or would
/// with this request. One that finds its lane empty is taken, however large, up to 2^24 texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// Fail with [`Error::QueueFull`](crate::Error::QueueFull).
    Refuse,
    /// Wait in the lane all the same.
    Wait,
}

/// A text's vector, and what became of the text. [`vectors`](crate::vectors) compares them.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Embedding {
    /// f32 `[dims]`.
    pub vector: Vec<f32>,
    /// Tokens that the model saw, prompt and end token included.
    pub tokens: usize,
    /// Whether the text was longer than the limit, so that its end was cut.
    pub truncated: bool,
    /// Whether the vector was not computed for this call, but came from the cache or from an identical text's computation.
    pub cached: bool,
    /// From the call until the text's batch began, tokenisation included.
    pub queue_time: Duration,
    /// How long its batch ran; zero if `cached`.
    pub device_time: Duration,
}

impl Embedding {
    /// A vector without a model, for tests of code that uses vectors. Tokens and times are 0.
    pub fn new(vector: Vec<f32>) -> Self {
        Self {
            vector,
            tokens: 0,
            truncated: false,
            cached: false,
            queue_time: Duration::ZERO,
            device_time: Duration::ZERO,
        }
    }
}

impl AsRef<[f32]> for Embedding {
    fn as_ref(&self) -> &[f32] {
        &self.vector
    }
}

impl From<Embedding> for Vec<f32> {
    fn from(embedding: Embedding) -> Self {
        embedding.vector
    }
}
