//! Text embeddings, reranking, sparse embeddings and late interaction, with models in MLX's and Hugging Face's formats.
//! Results are those of the reference Python code. CPUs and NVIDIA GPUs run this crate's own kernels, Apple GPUs run MLX.
//!
//! ```
//! use mlx_embed::{Embedder, vectors};
//!
//! # #[cfg(feature = "default-model")]
//! fn main() -> Result<(), mlx_embed::Error> {
//!     let embedder = Embedder::default_model()?; // or Embedder::load("path/to/a/checkpoint")?
//!     let documents = embedder.embed(["The cat sat on the mat", "The stock market crashed today"])?;
//!     let query = embedder.embed_one("A feline rested on the rug")?;
//!     let (nearest, cosine) = vectors::top_k(&query, &documents, 1)[0];
//!     println!("document {nearest}: {cosine:.3}");
//! #   assert_eq!(nearest, 0);
//!     Ok(())
//! }
//! # #[cfg(not(feature = "default-model"))]
//! # fn main() {}
//! ```
//!
//! ```toml
//! [dependencies]
//! mlx-embed = { version = "0.1", features = ["default-model"] }
//!
//! # Without these two lines, a debug build of your program is a hundred times slower.
//! [profile.dev.package.mlx-embed]
//! opt-level = 3
//! ```
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `default-model` | the built-in English model, 7.9 MB: `Embedder::default_model` |
//! | `hub` | models by their name on a hub: `from_hub` of every handle, the module `hub` |
//! | `cuda-12`, `cuda-13` | NVIDIA GPUs, on Linux, by MLX's build for that CUDA |
//! | `bench` | where the time of a forward pass goes: the module `bench` |
//!
//! # What it does
//! It opens a safetensors checkpoint, dense or in any of MLX's quantisations, and reads from its files which model it is. The
//! vectors are those of the reference (mlx-lm, transformers or sentence-transformers), within the tolerance of the golden
//! tests. A checkpoint that can't be computed as the reference does it is refused, with an error that names the file, the
//! key and what to do. Nothing is fetched at run time, unless a model is given by its name on a hub.
//!
//! # In your own tests
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
//! fn main() -> Result<(), Error> {
//!     let embeds: Box<dyn Embeds> = Box::new(Fake);
//!     assert_eq!(embeds.embed(&["four"])?[0].vector, [4.0]);
//!     Ok(())
//! }
//! ```
//!
//! # In a server
//! [`Embedder`] is a handle to share. A queue with two lanes, bounds and timeouts stands between callers and the model.
//! [`Embedder::submit`] returns a future that needs no particular runtime. [`Embedder::embed_iter`] and
//! [`Embedder::embed_stream`] take any number of texts. The page of [`Embedder`] says what runs when, and which metrics
//! and spans there are.
//!
//! # Layers
//!
//! | layer | what it is |
//! | --- | --- |
//! | [`Embedder`] | text in, vectors out; `Clone + Send + Sync` |
//! | [`Reranker`] | a query and documents in, scores out; the same engine |
//! | [`SparseEmbedder`] | text in, weights of the vocabulary's tokens out: SPLADE, bge-m3 |
//! | [`MultiVectorEmbedder`] | text in, one vector per token out: late interaction, ColBERT |
//! | `hub` | models by their name on a hub, in the cache that Python programs use too (feature `hub`) |
//! | [`vectors`] | cosines, the nearest k, vectors in fewer bits |
//! | [`verify`] | compares a checkpoint's results with a reference's, layer by layer |
//! | [`Checkpoint`] | a checkpoint directory, opened and checked, but not run |
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
mod handle;
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
