//! What happens to a tile's products on their way to memory.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "kernels are intrinsics throughout, under the contract of each function"
)]

use super::simd::{LANES, PAIR, Simd, exp};
use super::tiles::Tile;

/// The function between two products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x / (1 + e^-x)`
    Silu,
    /// `x * Phi(x)`
    GeluErf,
    /// The same with Phi by tanh.
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// One that few models have, a number at a time.
    Other(Function),
}

/// A function of a number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Function(pub(crate) fn(f32) -> f32);

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl Eq for Function {}

impl Function {
    /// Out of line, so that what most models have stays as short as without it.
    #[cold]
    #[inline(never)]
    fn apply(self, numbers: &mut [f32; LANES]) {
        *numbers = numbers.map(self.0);
    }
}

/// What a product becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Itself.
    Store,
    /// Its sum with what is there.
    Add,
    /// Its activation.
    Activated(Activation),
    /// `act(gate) * up`; a pair's first panel are gates and its second ups.
    Gated(Activation),
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
            Kind::Gated(_) => (pair * LANES, LANES.min(self.columns / 2 - pair * LANES)),
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
pub(super) unsafe fn emit<S: Simd>(sink: &Sink<'_>, tile: Tile, pair: usize, products: *const f32) {
    // What is the same for all rows is decided once.
    match sink.kind {
        Kind::Store => emit_rows::<S, false>(sink, tile, pair, products, None),
        Kind::Add => emit_rows::<S, true>(sink, tile, pair, products, None),
        Kind::Activated(activation) => emit_rows::<S, false>(sink, tile, pair, products, Some(activation)),
        Kind::Gated(Activation::Silu) => emit_gated::<S>(sink, tile, pair, products, Activation::Silu),
        Kind::Gated(activation) => emit_gated::<S>(sink, tile, pair, products, activation),
    }
}

#[inline(always)]
unsafe fn emit_gated<S: Simd>(
    sink: &Sink<'_>,
    tile: Tile,
    pair: usize,
    products: *const f32,
    activation: Activation,
) {
    let (first, count) = sink.span(pair);
    for m in 0..tile.rows {
        let from = products.add(m * PAIR);
        gated::<S>(
            activation,
            from,
            from.add(LANES),
            sink.out.add((tile.first + m) * sink.stride + first),
            count,
        );
    }
}

/// Two vectors a row.
#[inline(always)]
unsafe fn emit_rows<S: Simd, const ADD: bool>(
    sink: &Sink<'_>,
    tile: Tile,
    pair: usize,
    products: *const f32,
    activation: Option<Activation>,
) {
    let (first, count) = sink.span(pair);
    let counts = [count.min(LANES), count.saturating_sub(LANES)];
    let bias = sink.bias.map(|bias| {
        let bias = bias.as_ptr().add(pair * PAIR);
        [load_some::<S>(bias, counts[0]), load_some::<S>(bias.wrapping_add(LANES), counts[1])]
    });
    for m in 0..tile.rows {
        let from = products.add(m * PAIR);
        let to = sink.out.add((tile.first + m) * sink.stride + first);
        for panel in 0..2 {
            let to = to.wrapping_add(panel * LANES);
            let mut x = S::load(from.add(panel * LANES));
            if let Some(bias) = bias {
                x = S::add(x, bias[panel]);
            }
            if ADD {
                x = S::add(x, load_some::<S>(to, counts[panel]));
            }
            if let Some(activation) = activation {
                x = act::<S>(activation, x);
            }
            store_some::<S>(to, x, counts[panel]);
        }
    }
}

/// A vector of which there are `count` numbers; the rest is 0.
#[inline(always)]
unsafe fn load_some<S: Simd>(from: *const f32, count: usize) -> S::F {
    if count == LANES {
        return S::load(from);
    }
    let mut vector = [0.0_f32; LANES];
    std::ptr::copy_nonoverlapping(from, vector.as_mut_ptr(), count);
    S::load(vector.as_ptr())
}

/// The first `count` numbers of a vector.
#[inline(always)]
unsafe fn store_some<S: Simd>(to: *mut f32, x: S::F, count: usize) {
    if count == LANES {
        return S::store(to, x);
    }
    let mut vector = [0.0_f32; LANES];
    S::store(vector.as_mut_ptr(), x);
    std::ptr::copy_nonoverlapping(vector.as_ptr(), to, count);
}

#[inline(always)]
unsafe fn act<S: Simd>(activation: Activation, x: S::F) -> S::F {
    match activation {
        Activation::Silu => silu::<S>(x),
        Activation::GeluErf => gelu::<S>(x, &ERF),
        Activation::GeluTanh => gelu::<S>(x, &TANH),
        // NaN stays.
        Activation::Relu => S::max(S::splat(0.0), x),
        Activation::Other(function) => {
            let mut numbers = [0.0; LANES];
            S::store(numbers.as_mut_ptr(), x);
            function.apply(&mut numbers);
            S::load(numbers.as_ptr())
        }
    }
}

/// `x / (1 + e^-x)`
#[inline(always)]
unsafe fn silu<S: Simd>(x: S::F) -> S::F {
    S::div(x, S::add(S::splat(1.0), exp::<S>(S::sub(S::splat(0.0), x))))
}

/// A function that grows from 0 to 1 and is symmetric about 0 and a half, less this half: `x * P(x^2) / Q(x^2)` up to a limit,
/// from where on it is constant. Polynomials begin with their highest power.
///
/// `tools/gelu/fit.py` makes the numbers. In f32 either is off by 1.7e-7 at most, which is what rounding adds to a number near
/// one; the polynomials themselves are off by 1e-8. At the limit it is a half, so large negative numbers become zero. Where
/// `fma` rounds twice, it is off by 2.2e-7, and by 6e-8 at the limit.
struct Sigmoid {
    limit: f32,
    numerator: [f32; 6],
    denominator: [f32; 6],
}

/// `(1 + erf(x / sqrt(2))) / 2`
const ERF: Sigmoid = Sigmoid {
    limit: 5.64,
    numerator: [2.191_417_9e-8, 6.361_933e-6, 1.760_059_7e-4, 4.720_26e-3, 3.459_723_7e-2, 0.398_942_2],
    denominator: [1.173_848e-6, 7.574_254_4e-5, 1.925_245_2e-3, 2.906_520_7e-2, 0.253_388_05, 1.0],
};

/// `(1 + tanh(u)) / 2` with `u = sqrt(2 / pi) * (x + 0.044715 x^3)`
const TANH: Sigmoid = Sigmoid {
    limit: 5.22,
    numerator: [2.439_698_2e-8, 7.082_987_4e-6, 1.327_836_8e-4, 3.631_235_3e-3, 3.027_212e-2, 0.398_942_32],
    denominator: [1.328_087_4e-6, 7.570_035e-5, 1.295_598_5e-3, 2.429_192_9e-2, 0.243_373_35, 1.0],
};

/// `x` times the function of it.
#[inline(always)]
unsafe fn gelu<S: Simd>(x: S::F, of: &Sigmoid) -> S::F {
    // NaN stays: the number comes second.
    let near = S::max(S::splat(-of.limit), S::min(S::splat(of.limit), x));
    let square = S::mul(near, near);
    let (mut numerator, mut denominator) = (S::splat(of.numerator[0]), S::splat(of.denominator[0]));
    for power in 1..6 {
        numerator = S::fma(numerator, square, S::splat(of.numerator[power]));
        denominator = S::fma(denominator, square, S::splat(of.denominator[power]));
    }
    S::mul(x, S::add(S::splat(0.5), S::div(S::mul(near, numerator), denominator)))
}

/// `act(gate) * up` of `count` numbers.
///
/// # Safety
/// The instruction set of `S` is enabled; `gate` and `up` can be read, past `count`, to the end of a vector; `out` has
/// room for `count`.
#[inline(always)]
pub(super) unsafe fn gated<S: Simd>(
    activation: Activation,
    gate: *const f32,
    up: *const f32,
    out: *mut f32,
    count: usize,
) {
    for i in (0..count).step_by(LANES) {
        let product = S::mul(act::<S>(activation, S::load(gate.add(i))), S::load(up.add(i)));
        store_some::<S>(out.add(i), product, LANES.min(count - i));
    }
}
