//! The decoder's operations on the CPU, as nodes of MLX's graph that run this crate's own kernels.
//!
//! Hidden states are `[1, T, D]` here: all tokens of a batch, text behind text, without padding.

mod attention;
mod embedding;
mod form;
mod mlp;
mod norm;
mod project;

pub(super) use attention::{Attention, AttentionSpec};
pub(super) use embedding::Embedding;
pub(super) use mlp::Mlp;
pub(super) use norm::{Norm, NormNode};
