//! Operations of this crate's own for NVIDIA GPUs, beside MLX's in [`ops`](super::ops).
//!
//! Each is a kernel that is compiled at run time for the GPU at hand and does what would take MLX several: the norm, the
//! residual connection, the rotation and the activation are part of the products or of one kernel behind them. Tokens of
//! a batch are packed, `[T, ..]`, so that there is no padding and nothing to compile for a length.
//! The functions check their arguments' shapes and types, as the kernels can't.
//!
//! They are launched at once, on a queue of their own: an operation of MLX's lazy graph costs the host more than ten
//! microseconds, a launch four, and a batch of few tokens is hundreds of kernels of a few microseconds each. Those of batches
//! whose like came before are launched together, as CUDA graphs (`recorder`). MLX owns all memory;
//! its streams and this queue are not ordered, so each waits for what it takes from the other.

mod apart;
mod arguments;
mod chips;
mod format;
mod halves;
mod kernels;
mod matrix;
mod ops;
mod packing;
mod plan;
mod program;
mod queue;
mod recorder;
mod tiles;
mod upload;

pub(crate) use apart::{Rotate, Sum};
pub(crate) use chips::LEAST_CAPABILITY;
pub(crate) use format::{Format, Numbers};
pub(crate) use halves::{Bits, Halves, Left, Product, Rows, shift_within};
pub(crate) use kernels::{Activation, Geometry, Heads, Kernels, LayerInputs};
pub(crate) use matrix::{Dense, Fixed, Matrix, Norm, NormKind, Packed};
pub(crate) use ops::{Attending, Embedding, Normed, Ops, Scaled, Seen};
pub(crate) use packing::Part;
pub(crate) use plan::Plan;
pub(crate) use program::{Architecture, cache_folder, write_whole};
pub(crate) use queue::Tensor;
pub(crate) use upload::{For, Upload, Uploads};
