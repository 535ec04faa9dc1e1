//! Text embeddings, reranking, sparse vectors and vectors of tokens, from checkpoints in MLX's and Hugging Face's formats.
//! Results are those of the reference Python code. CPUs and NVIDIA GPUs run kernels of this crate, Apple GPUs run MLX.
//!
//! ```
//! # #[cfg(feature = "default-model")]
//! # fn main() -> Result<(), mlx_embed::Error> {
//! use mlx_embed::{Embedder, vectors};
//!
//! let embedder = Embedder::default_model()?; // or Embedder::load("path/to/a/checkpoint")?
//! let documents = embedder.embed(["The cat sat on the mat", "The stock market crashed today"])?;
//! let query = embedder.embed_one("A feline rested on the rug")?;
//! assert_eq!(vectors::top_k(&query, &documents, 1)[0].0, 0);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "default-model"))]
//! # fn main() {}
//! ```
//!
//! ```toml
//! [dependencies]
//! mlx-embed = { version = "0.1", features = ["default-model"] }
//!
//! # Else a debug build of your program is a hundred times slower.
//! [profile.dev.package.mlx-embed]
//! opt-level = 3
//! ```
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `default-model` | the built-in English model, 7.9 MB: `Embedder::default_model` |
//! | `hub` | models by name: `Embedder::from_hub`, the module `hub` |
//! | `cuda-12`, `cuda-13` | NVIDIA GPUs, on Linux, by MLX's build for that CUDA |
//! | `bench` | where the time of a forward pass goes: the module `bench` |
//!
//! # What it does
//! It opens a safetensors checkpoint, dense or in any of MLX's quantisations, and reads from its files what the model is. The
//! vectors are those of the reference (mlx-lm, transformers or sentence-transformers), within the tolerance of the golden
//! tests. A checkpoint that can't be computed as the reference does it is refused, and the error names file, key and
//! remedy. Nothing is fetched at run time, unless the feature `hub` is on and a model is named.
//!
//! # In tests of your own
//! [`Embedding::new`] and [`Pending::ready`] make results without a model:
//!
//! ```
//! use mlx_embed::{Embedder, Embedding, Error};
//!
//! trait Embeds {
//!     fn embed(&self, texts: &[&str]) -> Result<Vec<Embedding>, Error>;
//! }
//!
//! impl Embeds for Embedder {
//!     fn embed(&self, texts: &[&str]) -> Result<Vec<Embedding>, Error> {
//!         Embedder::embed(self, texts)
//!     }
//! }
//!
//! /// A text's length is its vector.
//! struct Fake;
//!
//! impl Embeds for Fake {
//!     fn embed(&self, texts: &[&str]) -> Result<Vec<Embedding>, Error> {
//!         Ok(texts.iter().map(|text| Embedding::new(vec![text.len() as f32])).collect())
//!     }
//! }
//!
//! let embeds: Box<dyn Embeds> = Box::new(Fake);
//! assert_eq!(embeds.embed(&["four"])?[0].vector, [4.0]);
//! # Ok::<(), Error>(())
//! ```
//!
//! # In a server
//! [`Embedder`] is a handle to share: between callers and the model stands a queue with two lanes, bounds and timeouts.
//! [`Embedder::submit`] returns a future that needs no particular runtime. [`Embedder::embed_iter`] and
//! [`Embedder::embed_stream`] take any number of texts. The page of [`Embedder`] says what runs when, and which metrics and
//! spans it has.
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
//! | [`vectors`] | cosines, the nearest k, vectors in fewer bits |
//! | [`verify`] | a checkpoint's results beside a reference's, layer by layer |
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
pub mod vectors;
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
pub use stream::{EmbedIter, EmbedStream};
pub use text::{AddedTokenInfo, EndToken, EndTokenSource, Prompt, TextError, TextToken, TruncationSide};
pub use warm_up::WarmUp;

/// Names of the kernel families that this machine's CPU runs, fastest first, for [`LoadOptions::kernels`].
pub fn kernel_families() -> Vec<&'static str> {
    kernels::Family::available().map(kernels::Family::name).collect()
}
