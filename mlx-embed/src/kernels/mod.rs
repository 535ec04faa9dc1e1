//! Kernels for plain CPUs, in Rust: what MLX computes there with scalar loops.
//!
//! This room knows slices and sizes, no arrays, checkpoints or models. It is, beside [`mlx`](crate::mlx), where
//! `unsafe` is allowed: its inner loops are intrinsics, and threads write disjoint parts of one buffer.
//!
//! | file | what it is |
//! | --- | --- |
//! | `simd` | vectors of sixteen lanes on every instruction set |
//! | `family` | the kernels compiled for each of them, and which of these this machine runs |
//! | `source`, `rows`, `levels` | weights as a checkpoint has them, a few rows at a time, and as whole numbers |
//! | `packed`, `dense` | weights as the products read them, whole numbers and others |
//! | `round`, `tiles` | activations as the products read them |
//! | `product`, `amx`, `matmul` | a tile times a pair of panels, in vectors or tile registers; whole products over all threads |
//! | `norm` | norms of rows |
//! | `layout`, `prepare`, `attend`, `attention` | queries, keys and values laid out; a tile of queries; whole attention layers |
//! | `pool`, `buffer` | threads and memory |
//! | `peak` | what the processor could do at best, to hold the others against |
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop, reason = "a tile's rows are an index into several arrays at once")]

#[cfg(all(target_arch = "x86_64", any(test, all(target_os = "linux", not(miri)))))]
mod amx;
mod attend;
mod attention;
mod buffer;
mod dense;
mod emit;
mod family;
mod layout;
mod levels;
mod matmul;
mod norm;
mod packed;
#[allow(dead_code, reason = "only benchmarks ask, which not every build has")]
pub(crate) mod peak;
mod placement;
mod pool;
mod prepare;
mod product;
mod round;
mod rows;
mod simd;
mod source;
#[cfg(test)]
mod tests;
mod tiles;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use attention::{AttentionOptions, KeysValues, KvCache, Prepared};
use buffer::Buffers;
pub(crate) use buffer::{Buffer, Reuse};
pub(crate) use dense::Dense;
pub(crate) use emit::{Activation, Function};
pub(crate) use family::Family;
pub(crate) use layout::{Distances, Heads, Rotation, Span};
pub(crate) use levels::Fit;
pub(crate) use matmul::{Output, Part, Weights};
pub(crate) use norm::Norm;
pub(crate) use packed::{Packed, PackedOrder};
pub(crate) use pool::Pool;
pub(crate) use round::Limbs;
pub(crate) use rows::{ByRows, InMemory, PackError, RowBuffer};
pub(crate) use source::{Floats, Scales, Source};

use matmul::Workspace;

/// Threads, an instruction set and scratch memory: what a model on the CPU computes with.
#[derive(Debug)]
pub(crate) struct Engine {
    family: &'static Family,
    pool: Pool,
    workspace: Mutex<Workspace>,
    attention: Mutex<attention::Workspace>,
    buffers: Arc<Buffers>,
}

impl Engine {
    /// `threads` counts the caller's.
    pub(crate) fn new(family: &'static Family, threads: usize) -> std::io::Result<Self> {
        Ok(Self {
            family,
            pool: Pool::new(threads)?,
            workspace: Mutex::default(),
            attention: Mutex::default(),
            buffers: Arc::default(),
        })
    }

    /// What becomes of matrices that may be rounded: whole numbers, if products with these take less time.
    pub(crate) fn nearest(&self) -> Fit {
        self.family.nearest.map_or(Fit::Exact, Fit::Nearest)
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Memory for `len` numbers that one operation leaves for the next.
    pub(crate) fn buffer(&self, len: usize) -> Buffer {
        self.buffers.take(len)
    }

    /// For as long as the result lives, [`Engine::buffer`] gives the same memory again whatever its size.
    pub(crate) fn reuse(&self) -> Reuse {
        self.buffers.reuse()
    }

    fn workspace(&self) -> MutexGuard<'_, Workspace> {
        // Scratch means nothing between two uses, so a panic in one can't have broken it.
        self.workspace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Workspace")
    }
}
