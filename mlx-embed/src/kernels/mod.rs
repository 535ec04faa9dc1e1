//! Kernels for plain CPUs, in Rust: what MLX computes there with scalar loops.
//!
//! This room knows slices and sizes, no arrays, checkpoints or models. It is, beside [`mlx`](crate::mlx), where
//! `unsafe` is allowed: its inner loops are intrinsics, and threads write disjoint parts of one buffer.
//!
//! | file | what it is |
//! | --- | --- |
//! | `simd` | vectors of sixteen lanes on every instruction set |
//! | `family` | the kernels compiled for each of them, and which of these this machine runs |
//! | `source`, `packed` | weights as a checkpoint has them, and as the products read them |
//! | `round`, `tiles` | activations as the products read them |
//! | `product`, `matmul` | a tile times a pair of panels; whole products over all threads |
//! | `prepare`, `attend`, `attention` | queries, keys and values laid out; a tile of queries; whole attention layers |
//! | `pool`, `buffer` | threads and memory |
//! | `peak` | what the processor could do at best, to hold the others against |
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop, reason = "a tile's rows are an index into several arrays at once")]

mod attend;
mod attention;
mod buffer;
mod emit;
mod family;
mod matmul;
mod packed;
#[allow(dead_code, reason = "only benchmarks ask, which not every build has")]
pub(crate) mod peak;
mod placement;
mod pool;
mod prepare;
mod product;
mod round;
mod simd;
mod source;
#[cfg(test)]
mod tests;
mod tiles;

use std::mem::MaybeUninit;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use attend::{Heads, KEYS as KEYS_AT_ONCE, Past};
pub(crate) use attention::{AttentionOptions, Reuse, Rotation};
pub(crate) use family::Family;
pub(crate) use matmul::{Output, Part, Weights};
pub(crate) use packed::{Order, Packed};
pub(crate) use pool::Pool;
pub(crate) use round::Digits;
pub(crate) use source::{Floats, Scales, Source};

use matmul::Workspace;

/// Numbers that stay allocated between operations: 32 MiB.
const MOST_BETWEEN: usize = 8 << 20;

/// Threads, an instruction set and scratch memory: what a model on the CPU computes with.
#[derive(Debug)]
pub(crate) struct Engine {
    family: &'static Family,
    pool: Pool,
    workspace: Mutex<Workspace>,
    attention: Mutex<attention::Workspace>,
    between: Mutex<buffer::Scratch>,
}

impl Engine {
    /// `threads` counts the caller's.
    pub(crate) fn new(family: &'static Family, threads: usize) -> std::io::Result<Self> {
        Ok(Self {
            family,
            pool: Pool::new(threads)?,
            workspace: Mutex::default(),
            attention: Mutex::default(),
            between: Mutex::default(),
        })
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Hands `work` memory for `len` numbers that one operation leaves for the next. It is the same memory each time, so
    /// it stays in the caches, where memory from the system would come page by page.
    pub(crate) fn between<R>(&self, len: usize, work: impl FnOnce(&mut [MaybeUninit<f32>]) -> R) -> R {
        let mut scratch = self.between.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: room for `len` numbers that nobody else uses while the lock is held; they need not be anything.
        let result = work(unsafe { std::slice::from_raw_parts_mut(scratch.floats(len).cast(), len) });
        // What one long text needed is not kept.
        if len > MOST_BETWEEN {
            *scratch = buffer::Scratch::default();
        }
        result
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

/// The same memory as numbers.
///
/// # Safety
/// All of it has been written.
unsafe fn written(out: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    // SAFETY: the caller's promise; the layouts are the same.
    unsafe { &mut *(std::ptr::from_mut(out) as *mut [f32]) }
}
