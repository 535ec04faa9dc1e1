//! Operations of this crate's own for NVIDIA GPUs, beside MLX's in [`ops`](super::ops).
//!
//! Each is a kernel that is compiled at run time for the GPU at hand and does what would take MLX several: the norm, the
//! residual connection, the rotation and the activation are part of the products or of one kernel behind them. Tokens of
//! a batch lie one text behind the other, `[T, ..]`, so that there is no padding and nothing to compile for a length.
//! The functions check their arguments' shapes and types, as the kernels can't.
//!
//! [`Kernels`] are operations of MLX's lazy graph. [`Eager`] launches at once: an operation of MLX's costs the host more
//! than ten microseconds, a launch two, and a batch of few tokens is hundreds of kernels of a few microseconds each.

mod eager;
mod kernels;
mod plan;
mod program;
mod queue;
mod tiles;

pub(crate) use eager::{Eager, Fixed, Scaled, Weights};
pub(crate) use kernels::{Geometry, Kernels, Packed};
pub(crate) use plan::Plan;
pub(crate) use program::{Architecture, cache_folder};
pub(crate) use queue::Tensor;
