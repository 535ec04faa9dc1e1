//! What happens to a tile's products on their way to memory.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "kernels are intrinsics throughout, under the contract of each function"
)]

use super::packed::PAIR;
use super::product::Products;
use super::simd::{LANES, Simd, exp};
use super::tiles::Tile;

/// What a product becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Itself.
    Store,
    /// Its sum with what is there.
    Add,
    /// `silu(gate) * up`; a pair's first panel are gates and its second ups.
    SwiGlu,
}

/// Where one matrix's products go. Tasks write disjoint tiles and pairs of it.
#[derive(Clone, Copy)]
pub(super) struct Sink<'a> {
    pub(super) kind: Kind,
    pub(super) out: *mut f32,
    /// Numbers from one row to the next.
    pub(super) stride: usize,
    pub(super) first_column: usize,
    /// Columns of this matrix.
    pub(super) columns: usize,
    pub(super) bias: Option<&'a [f32]>,
}

// SAFETY: tasks write disjoint tiles and pairs.
unsafe impl Sync for Sink<'_> {}

impl Sink<'_> {
    /// Column of the result at which a pair starts, and how many of it there are.
    #[inline(always)]
    fn span(&self, pair: usize) -> (usize, usize) {
        match self.kind {
            Kind::SwiGlu => (pair * LANES, LANES.min(self.columns / 2 - pair * LANES)),
            _ => (self.first_column + pair * PAIR, PAIR.min(self.columns - pair * PAIR)),
        }
    }

    /// Asks for the memory that a tile and a pair will write. A result's rows lie pages apart: unasked, every row's
    /// first write would wait for its cache line.
    #[inline]
    pub(super) fn prefetch(&self, tile: Tile, pair: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            let (first, count) = self.span(pair);
            for row in tile.first..tile.first + tile.rows {
                let to = self.out.wrapping_add(row * self.stride + first).cast::<i8>();
                // SAFETY: a prefetch touches nothing; any address will do.
                unsafe {
                    _mm_prefetch::<_MM_HINT_ET0>(to);
                    if count > LANES {
                        _mm_prefetch::<_MM_HINT_ET0>(to.wrapping_add(64));
                    }
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (tile, pair);
    }
}

/// Takes the products of a tile and a pair to where they belong.
///
/// # Safety
/// The instruction set of `S` is enabled; the sink's rows and columns of this tile and pair are valid and nobody else's.
#[inline(always)]
pub(super) unsafe fn emit<S: Simd>(sink: &Sink<'_>, tile: Tile, pair: usize, products: &Products) {
    let (first, count) = sink.span(pair);
    for m in 0..tile.rows {
        let from = products.0.as_ptr().add(m * PAIR);
        let to = sink.out.add((tile.first + m) * sink.stride + first);
        if sink.kind == Kind::SwiGlu {
            swiglu::<S>(from, from.add(LANES), to, count);
            continue;
        }
        if count == PAIR {
            let mut x = [S::load(from), S::load(from.add(LANES))];
            if let Some(bias) = sink.bias {
                let bias = bias.as_ptr().add(pair * PAIR);
                x = [S::add(x[0], S::load(bias)), S::add(x[1], S::load(bias.add(LANES)))];
            }
            if sink.kind == Kind::Add {
                x = [S::add(x[0], S::load(to)), S::add(x[1], S::load(to.add(LANES)))];
            }
            S::store(to, x[0]);
            S::store(to.add(LANES), x[1]);
        } else {
            for i in 0..count {
                let mut x = *from.add(i);
                if let Some(bias) = sink.bias {
                    x += bias[pair * PAIR + i];
                }
                if sink.kind == Kind::Add {
                    x += *to.add(i);
                }
                *to.add(i) = x;
            }
        }
    }
}

/// `x / (1 + e^-x) * y`
#[inline(always)]
unsafe fn silu_times<S: Simd>(x: S::F, y: S::F) -> S::F {
    let grown = S::add(S::splat(1.0), exp::<S>(S::sub(S::splat(0.0), x)));
    S::mul(S::div(x, grown), y)
}

/// `silu(gate) * up` of `count` numbers.
///
/// # Safety
/// The instruction set of `S` is enabled; `gate` and `up` can be read, past `count`, to the end of a vector; `out` has
/// room for `count`.
#[inline(always)]
pub(super) unsafe fn swiglu<S: Simd>(gate: *const f32, up: *const f32, out: *mut f32, count: usize) {
    for i in (0..count).step_by(LANES) {
        let product = silu_times::<S>(S::load(gate.add(i)), S::load(up.add(i)));
        if i + LANES <= count {
            S::store(out.add(i), product);
        } else {
            let mut vector = [0.0_f32; LANES];
            S::store(vector.as_mut_ptr(), product);
            std::ptr::copy_nonoverlapping(vector.as_ptr(), out.add(i), count - i);
        }
    }
}
