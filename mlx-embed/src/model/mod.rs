//! The decoder: token ids to hidden states.
//!
//! What a model is comes as data ([`ModelSpec`](crate::checkpoint::spec::ModelSpec)); [`decoder`] knows the order of its
//! operations, and a [`Backend`] computes them.
//!
//! | file | what it is |
//! | --- | --- |
//! | `backend` | what a device has to be able to do |
//! | `decoder` | the layers: loading them, and the one loop over them |
//! | `cache` | keys and values that texts have in common |
//! | `rope` | angles of rotary embeddings |
//! | `lookup` | which rows of the embedding table tokens have |
//! | `relative` | what is added to scores by distance |
//! | `rounding` | what a loaded model rounds |
//! | `mlx`, `cpu`, `cuda` | the backends |

mod backend;
mod cache;
mod cpu;
mod cuda;
mod decoder;
mod lookup;
mod mlx;
mod relative;
mod rope;
mod rounding;

pub(crate) use backend::Backend;
#[cfg(feature = "bench")]
pub(crate) use backend::{Operations, Then};
pub(crate) use cache::KvCache;
#[cfg(feature = "bench")]
pub(crate) use cache::LayerKvCache;
pub use cpu::Precision;
pub(crate) use cpu::{Cpu, LEAST_CACHED, dequantized};
pub use cuda::MatmulPolicy;
pub(crate) use cuda::{Cuda, Form, form};
#[cfg(feature = "bench")]
pub(crate) use decoder::{AttentionLayer, InputLayer, LayerInputs, MlpLayer};
pub(crate) use decoder::{Decoder, Rows};
pub(crate) use mlx::Mlx;
pub use rounding::Rounding;
