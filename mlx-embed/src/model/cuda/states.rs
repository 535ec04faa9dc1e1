//! What goes from one operation to the next.

use std::cell::RefCell;
use std::sync::Arc;

use crate::mlx::Array;
use crate::mlx::cuda::{Plan, Rows, Scaled, Tensor};

use super::rotation::OfHeads;

/// A batch on its way through the layers.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(super) plan: Plan,
    /// The plan on the GPU.
    pub(super) meta: Tensor,
    /// Of every position, for each rotary embedding.
    pub(super) all_angles: Vec<OfHeads>,
    /// Of every token, `[T, E]`; [`Operations::embed`] fills them in where norms are part of products.
    pub(super) angles: RefCell<Option<Tensor>>,
    /// The texts, for tables of positions.
    pub(super) ids: Vec<u32>,
    /// Of each token, where not all are 0.
    pub(super) types: Option<Vec<u32>>,
    pub(super) lengths: Arc<[usize]>,
    pub(super) cached: usize,
    /// Whether what is around products is part of them.
    pub(super) fused: bool,
}

/// The residual stream, and what was computed of it for the next norm.
#[derive(Debug)]
pub(crate) struct Hidden {
    pub(super) x: Tensor, // [T, D]
    pub(super) ahead: Ahead,
}

/// What a sum left for the norm that follows it.
#[derive(Debug)]
pub(super) enum Ahead {
    /// No norm follows, or rows were selected and a sum follows.
    Nothing,
    /// For products that the norm is part of.
    Scaled(Scaled),
    /// The norm, `[T, D]`.
    Normed(Rows),
}

/// Queries, keys and values, rotated, and what texts continue.
#[derive(Debug)]
pub(crate) struct Heads {
    pub(super) qkv: Tensor, // [T, (H + 2K) * E]
    /// They are times two to the power of this.
    pub(super) shift: i32,
    /// Keys and values, `[at least cached, K * E]`.
    pub(super) cached: Option<[Array; 2]>,
}

/// Keys and values, `[L, K * E]`.
#[derive(Debug)]
pub(crate) struct KeysValues {
    pub(super) keys: Array,
    pub(super) values: Array,
}
