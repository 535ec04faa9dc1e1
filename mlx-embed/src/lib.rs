//! Text embeddings from Qwen2, Qwen3 and Llama checkpoints, on MLX: Apple GPUs, NVIDIA GPUs and plain CPUs.
//!
//! ```no_run
//! use mlx_embed::Embedder;
//!
//! let embedder = Embedder::load("path/to/Qwen3-Embedding-0.6B-4bit-DWQ")?;
//! let embeddings = embedder.embed(&["The cat sat on the mat", "A feline rested on the rug"])?;
//! let cosine: f32 = embeddings[0].vector.iter().zip(&embeddings[1].vector).map(|(a, b)| a * b).sum();
//! println!("{cosine:.3}");
//! # Ok::<(), mlx_embed::Error>(())
//! ```
//!
//! # What it does
//! It maps a safetensors checkpoint, dense or in any of MLX's quantisations, builds the decoder from MLX's fast
//! kernels, and returns the vectors that the reference Python (mlx-lm) returns, within the tolerance that its golden
//! tests hold. Nothing is fetched at run time, unless the feature `hub` is on and a model is named.
//!
//! # In a server
//! [`Embedder`] is a handle to share: between callers and the model stands a queue with two lanes, bounds and timeouts.
//! [`Embedder::submit`] returns a future that needs no particular runtime; [`Embedder::embed_iter`] takes streams of any
//! length. [`Embedder`]'s own page says what runs when, and what can be seen of it from outside.
//!
//! # Layers
//!
//! | layer | what it is |
//! | --- | --- |
//! | [`Embedder`] | text in, vectors out; `Clone + Send + Sync` |
//! | [`Reranker`] | a query and documents in, scores out; the same engine |
//! | [`SparseEmbedder`] | text in, weights of the vocabulary's tokens out: SPLADE |
//! | [`MultiVectorEmbedder`] | text in, a vector a token out: late interaction, ColBERT |
//! | `hub` | models by name, fetched into the cache that Python has too (feature `hub`) |
//! | [`verify`] | whether a checkpoint computes here what it computes elsewhere, layer by layer |
//! | [`Checkpoint`] | a checkpoint directory, opened and checked, without running it |
//! | [`json`] | JSON as Python writes it |
//! | [`mlx`] | safe MLX arrays and operations, for one thread |
//! | `mlx_sys` | the raw C API |
#![deny(missing_docs, unsafe_code)]

mod batch;
#[cfg(feature = "bench")]
pub mod bench;
mod calls;
mod checkpoint;
#[cfg(feature = "default-model")]
mod default_model;
mod embedder;
mod engine;
mod error;
mod file;
#[cfg(feature = "hub")]
pub mod hub;
mod info;
pub mod json;
mod kernels;
mod loading;
pub mod mlx;
mod model;
mod modules;
mod multi_vector;
mod options;
mod panics;
mod pooling;
mod request;
mod reranker;
mod runner;
mod sparse;
mod stream;
mod text;
pub mod verify;
mod warm_up;
#[cfg(feature = "bench")]
mod watch;

pub use checkpoint::{
    Architecture, Checkpoint, CheckpointError, DenseActivation, Doubt, ModelConfig, ModuleSpec, Quantization,
    QueryGrowth, RopeScaling, SentenceTransformers,
};
pub use embedder::{Embedder, Shutdown};
pub use engine::State;
pub use error::{Error, InputError, UnknownWord};
pub use info::{EndTokenInfo, Info, LateInteractionInfo, RerankerInfo, Source};
pub use loading::{LoadProgress, Loading, check};
pub use mlx::CompiledKernels;
pub use model::{MatmulPolicy, Precision, Rounding};
pub use multi_vector::{MultiVectorEmbedder, Role, TokenVectors};
pub use options::{EmbedOptions, Embedding, Lane, LoadOptions, Ranked, RerankOptions, WhenFull};
pub use pooling::{Pooling, PoolingError, PoolingMode};
pub use request::Pending;
pub use reranker::{PairTokens, Reranker};
pub use runner::{Device, Gpus};
pub use sparse::{SparseEmbedder, SparseVector};
pub use stream::EmbedIter;
pub use text::{AddedTokenInfo, EndToken, EndTokenSource, Prompt, TextError, TextToken, TruncationSide};
pub use warm_up::WarmUp;

/// Names of the kernel families that this machine's CPU runs, fastest first, for [`LoadOptions::kernels`].
pub fn kernel_families() -> Vec<&'static str> {
    kernels::Family::available().map(kernels::Family::name).collect()
}
