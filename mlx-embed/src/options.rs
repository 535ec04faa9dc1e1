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
    /// Which of several NVIDIA GPUs. On more than one each has the whole model, and batches of one queue go to whichever is
    /// free: more requests, not a faster one. Default: the first.
    pub gpus: Gpus,
    /// Threads on the CPU, at most 1024. Default: every core.
    pub threads: Option<NonZeroUsize>,
    /// How closely a checkpoint is followed on the CPU. A GPU computes in the checkpoint's own type, f32 and f16 as this says.
    pub precision: Precision,
    /// The kernels, by name: on the CPU the family `amx-int8`, `avx512-vnni`, `avx512`, `avx2-vnni`, `avx2`, `neon-dotprod`,
    /// `neon` or `portable`; on an NVIDIA GPU `cuda`; or `mlx` for MLX's own operations. Default: as the environment variable
    /// `MLX_EMBED_KERNELS` says, else the fastest that the machine and the checkpoint allow.
    pub kernels: Option<String>,
    /// How the products of a 4-bit model are computed on an NVIDIA GPU.
    pub matmul: MatmulPolicy,
    /// How hidden states become a vector. Default: as the checkpoint says, else the last token.
    pub pooling: Option<Pooling>,
    /// Which token ends a text.
    pub end_token: EndToken,
    /// Longest input in tokens. Default: as sentence-transformers has it: `max_seq_length` of its files, else the less of
    /// the tokenizer's `model_max_length` and the model's `max_position_embeddings`.
    pub max_tokens: Option<usize>,
    /// Leave out what the checkpoint holds and this crate doesn't know (tensors, keys, code of its own), and say so in
    /// [`Info::warnings`](crate::Info::warnings). The vectors may then be other ones than the checkpoint's maker has.
    /// Default: loading fails with [`CheckpointError::UnknownTensor`](crate::CheckpointError::UnknownTensor) or
    /// [`CheckpointError::UnknownField`](crate::CheckpointError::UnknownField).
    pub lenient: bool,
    /// Most tokens that run at once, padding included; a longer text runs alone. Default: 4096 on a GPU; 512 on the
    /// CPU, where more take memory and save no time.
    pub batch_tokens: Option<NonZeroUsize>,
    /// How long a batch should take while other requests wait and in the bulk lane, where a query may come any time:
    /// batches are cut to that, though not below 64 tokens. Default: 25 ms.
    pub batch_time: Option<Duration>,
    /// Texts that may wait in each lane, those that are being tokenised included; see [`WhenFull`]. Default: 4096.
    pub queue_texts: Option<NonZeroUsize>,
    /// Bytes of the texts that may wait in each lane: their text until they are tokenised, then their token ids.
    /// Default: 64 MiB.
    pub queue_bytes: Option<NonZeroUsize>,
    /// Bytes that a text may have, prompt included; a longer one is an error
    /// ([`InputError::TooManyBytes`](crate::InputError::TooManyBytes)). It bounds what one text can cost where a tokenizer
    /// has to read it whole, which is about a second and 300 bytes of memory a byte for a million of them. Default:
    /// 1 MiB, some 250,000 tokens, which is more than any model here takes.
    pub max_text_bytes: Option<NonZeroUsize>,
    /// Bytes of vectors to keep for texts that come again. Default: 0, since whoever embeds documents asks for each
    /// once and a vector database keeps what it gets. Identical texts that wait at the same time are computed once in
    /// any case.
    pub vector_cache: usize,
    /// Bytes of keys and values to keep for the beginnings that prompts give texts, so that only what follows is
    /// computed. 0 for none. Default: 64 MiB.
    pub prompt_cache: Option<usize>,
    /// Bytes that MLX keeps for reuse; a setting of the whole process. Default: 64 MiB on the CPU and for this crate's
    /// kernels on a GPU, 256 MiB for MLX's own there.
    pub cache_limit: Option<usize>,
    /// Bytes that MLX tries to stay within; a setting of the whole process. Default: on an NVIDIA GPU what is in use plus
    /// twice the weights (six times where they stay dequantised) and 512 MiB, elsewhere MLX's own.
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
    /// Keep only the first so many numbers of each vector (Matryoshka), before normalising.
    pub dims: Option<NonZeroUsize>,
    /// Scale vectors to length 1. Default: as the checkpoint says, else yes.
    pub normalize: Option<bool>,
    /// Which line the request stands in.
    pub lane: Lane,
    /// Give the request up this long after the call, also while its texts are being tokenised. What is not running by then is not run, and neither is what
    /// could not be done in time, which keeps a model that gets more than it can do useful: it answers what it can.
    /// Default: never.
    pub timeout: Option<Duration>,
    /// What to do when too many texts wait already. Default: calls that block wait too, submitted requests are
    /// refused.
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
    /// What is judged: the instruction of Qwen3-Reranker, where an empty one is the model's own, and text before the query
    /// for others, of which few were trained with one. Default: the checkpoint's.
    pub instruction: Prompt,
    /// Only so many of the best. Default: all.
    pub top_n: Option<NonZeroUsize>,
    /// What becomes of a pair's logit: [`DenseActivation::Identity`] leaves it as it is. Default: as the checkpoint says,
    /// else [`DenseActivation::Sigmoid`].
    pub activation: Option<DenseActivation>,
    /// Which line the request stands in.
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
    /// Which of the call's documents.
    pub index: usize,
    /// How well it answers the query: more is better.
    pub score: f32,
    /// Tokens of the pair that the model saw.
    pub tokens: usize,
    /// Whether the pair was longer than the limit, so that the document was cut.
    pub truncated: bool,
    /// Whether the logit was at hand: from the cache, or because an identical pair had just been computed.
    pub cached: bool,
    /// From the call until the pair's batch began, tokenisation included.
    pub queue_time: Duration,
    /// How long its batch ran; zero if the logit was at hand.
    pub device_time: Duration,
}

/// Which line a request stands in. Queries go before bulk; bulk gets every eighth batch at least.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Lane {
    /// [`Lane::Query`] for up to 64 texts, [`Lane::Bulk`] for more.
    #[default]
    Auto,
    /// Someone waits.
    Query,
    /// Nobody waits for any one of them.
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
/// with this request. One that finds its lane empty is always taken, however large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// Fail with [`Error::QueueFull`](crate::Error::QueueFull).
    Refuse,
    /// Stand in line all the same.
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
    /// Whether the vector was at hand: from the cache, or because an identical text had just been computed.
    pub cached: bool,
    /// From the call until the text's batch began, tokenisation included.
    pub queue_time: Duration,
    /// How long its batch ran; zero if the vector was at hand.
    pub device_time: Duration,
}

impl Embedding {
    /// A vector without a model, for tests of what uses one: of no tokens, at no time.
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
