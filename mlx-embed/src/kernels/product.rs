//! Tiles of rows times pairs of panels: the inner loops of every matrix product.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "kernels are intrinsics throughout, under the contract of each function"
)]

use half::{bf16, f16};

use super::packed::{Layout, PAIR};
use super::round::MAX_ROWS;
use super::simd::{LANES, PAIR_STEPS, Simd};

/// How a tile product finds a pair's weights.
#[derive(Clone, Copy)]
pub(super) struct PairWeights {
    /// Values of the first group; the next group's are `values_stride` bytes on.
    pub(super) values: *const u8,
    pub(super) values_stride: usize,
    /// Scales of the first group; the next group's are `scales_stride` bytes on.
    pub(super) scales: *const u8,
    pub(super) scales_stride: usize,
}

/// A tile of rounded rows; see [`Rounded`](super::round::Rounded).
#[derive(Clone, Copy)]
pub(super) struct TileRows {
    pub(super) limbs: *const i8,
    pub(super) factors: *const f32,
    pub(super) wide: *const u16,
    /// Products of the low limbs, `[groups, M, 32]`; only those of groups are read in which some rows have low limbs
    /// and others don't.
    pub(super) low: *const i32,
}

/// Products of a tile with a pair, `[rows, 32]`.
#[repr(C, align(64))]
pub(super) struct Products(pub(super) [f32; MAX_ROWS * PAIR]);

/// Values in nibbles, two steps a byte.
pub(super) const NIBBLES: u8 = 0;
/// Nibbles, one a byte.
pub(super) const SPREAD: u8 = 1;
/// Bytes below 128.
pub(super) const SMALL: u8 = 2;
/// Bytes.
pub(super) const BYTES: u8 = 3;

/// Adds `M` rows times one pair to `out` `[M, 32]`.
///
/// The sums are in memory: beside a tile's integers there are no registers for them, and what a compiler keeps on the
/// stack lies across cache lines.
///
/// For each group: the integer dot products of all rows with all outputs in registers, then into the f32 sums
/// `scale_x * (scale_w * dot + bias_w * sum_x)`.
///
/// # Safety
/// The instruction set of `S` is enabled; `weights` and `rows` describe `groups` groups of `group_size` inputs; `out`
/// has room for `M * 32` numbers.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd, const M: usize, const FORM: u8, const BF16: bool>(
    weights: PairWeights,
    rows: TileRows,
    groups: usize,
    group_size: usize,
    out: *mut f32,
) {
    for group in 0..groups {
        let values = weights.values.add(group * weights.values_stride);
        let x = rows.limbs.add(group * 2 * group_size * M);
        let mut dots = [[S::splat_int(0); 2]; M];
        limb::<S, M, FORM>(values, x, group_size, &mut dots);
        let wide = *rows.wide.add(group);
        if wide != 0 {
            for m in 0..M {
                dots[m] = [S::shift_left::<8>(dots[m][0]), S::shift_left::<8>(dots[m][1])];
            }
            if wide == all_rows(M) {
                limb::<S, M, FORM>(values, x.add(group_size * M), group_size, &mut dots);
            } else {
                for m in 0..M {
                    let low = rows.low.add((group * M + m) * PAIR);
                    dots[m][0] = S::add_int(dots[m][0], S::load_int(low));
                    dots[m][1] = S::add_int(dots[m][1], S::load_int(low.add(LANES)));
                }
            }
        }
        let (scale, bias) = scales::<S, BF16>(weights.scales.add(group * weights.scales_stride));
        let factors = rows.factors.add(group * 2 * M);
        for m in 0..M {
            let (step, sum) = (S::splat(*factors.add(m)), S::splat(*factors.add(M + m)));
            for p in 0..2 {
                let weighted = S::fma(bias[p], sum, S::mul(scale[p], S::to_float(dots[m][p])));
                let out = out.add(m * PAIR + p * LANES);
                S::store(out, S::fma(step, weighted, S::load(out)));
            }
        }
    }
}

/// The bits of all rows of a tile.
#[inline(always)]
pub(super) const fn all_rows(rows: usize) -> u16 {
    ((1_u32 << rows) - 1) as u16
}

/// Products of the low limbs of a group's `N` rows that have any, into `out` `[rows, 32]`, with zeros for the others.
///
/// # Safety
/// The instruction set of `S` is enabled; `values` are a group's and `x` the low limbs of `N` rows; `wide` has `N` bits
/// below bit `rows`.
#[inline(always)]
pub(super) unsafe fn low<S: Simd, const N: usize, const FORM: u8>(
    values: *const u8,
    x: *const i8,
    group_size: usize,
    wide: u16,
    rows: usize,
    out: *mut i32,
) {
    let mut dots = [[S::splat_int(0); 2]; N];
    limb::<S, N, FORM>(values, x, group_size, &mut dots);
    let mut next = 0;
    for m in 0..rows {
        let to = out.add(m * PAIR);
        let dots = if wide >> m & 1 == 1 {
            next += 1;
            dots[next - 1]
        } else {
            [S::splat_int(0); 2]
        };
        S::store_int(to, dots[0]);
        S::store_int(to.add(LANES), dots[1]);
    }
}

/// How far ahead packed weights are asked for, in bytes: a pair's groups follow each other, and pairs do. Left to itself
/// the hardware stops at every page.
const AHEAD: usize = 2048;

/// Adds the products of one limb of a group.
#[inline(always)]
unsafe fn limb<S: Simd, const M: usize, const FORM: u8>(
    values: *const u8,
    x: *const i8,
    group_size: usize,
    dots: &mut [[S::I; 2]; M],
) {
    let stride = if FORM == NIBBLES { 256 } else { 512 };
    if S::PAIRS && FORM <= SPREAD {
        // Two times sixteen inputs are as many steps as sums of pairs hold.
        const { assert!(PAIR_STEPS == 8) };
        for i in 0..group_size / (2 * LANES) {
            let mut sums = Pairs::<S, M>([[S::no_pairs(); 2]; M]);
            for i in [2 * i, 2 * i + 1] {
                sixteen::<S, M, FORM>(values.add(i * stride), x.add(i * LANES * M), &mut sums);
            }
            for m in 0..M {
                dots[m] = [S::add_pairs(dots[m][0], sums.0[m][0]), S::add_pairs(dots[m][1], sums.0[m][1])];
            }
        }
        return;
    }
    let sums = &mut Fours::<S, M, FORM>(dots);
    // The usual size without a loop: what a loop's end costs is a tenth of what is in it.
    if group_size == 64 {
        sixteen::<S, M, FORM>(values, x, sums);
        sixteen::<S, M, FORM>(values.add(stride), x.add(LANES * M), sums);
        sixteen::<S, M, FORM>(values.add(2 * stride), x.add(2 * LANES * M), sums);
        sixteen::<S, M, FORM>(values.add(3 * stride), x.add(3 * LANES * M), sums);
        return;
    }
    for i in 0..group_size / LANES {
        sixteen::<S, M, FORM>(values.add(i * stride), x.add(i * LANES * M), sums);
    }
}

/// Sums of products of `M` rows with two panels. A closure in its place would lose the instruction set.
trait Sums<S: Simd> {
    /// Adds the products of four inputs: a vector of weights a panel, and the first row's limbs.
    ///
    /// # Safety
    /// The instruction set of `S` is enabled; the limbs of `M` rows lie [`LANES`] apart.
    unsafe fn step(&mut self, w: [S::B; 2], x: *const i8);
}

/// Of four products a lane.
struct Fours<'a, S: Simd, const M: usize, const FORM: u8>(&'a mut [[S::I; 2]; M]);

impl<S: Simd, const M: usize, const FORM: u8> Sums<S> for Fours<'_, S, M, FORM> {
    #[inline(always)]
    unsafe fn step(&mut self, w: [S::B; 2], x: *const i8) {
        for m in 0..M {
            let x = x.add(LANES * m);
            if FORM == BYTES {
                self.0[m][0] = S::dot8(self.0[m][0], w[0], x);
                self.0[m][1] = S::dot8(self.0[m][1], w[1], x);
            } else {
                self.0[m][0] = S::dot4(self.0[m][0], w[0], x);
                self.0[m][1] = S::dot4(self.0[m][1], w[1], x);
            }
        }
    }
}

/// Of two products, two of them a lane.
struct Pairs<S: Simd, const M: usize>([[S::P; 2]; M]);

impl<S: Simd, const M: usize> Sums<S> for Pairs<S, M> {
    #[inline(always)]
    unsafe fn step(&mut self, w: [S::B; 2], x: *const i8) {
        for m in 0..M {
            let x = x.add(LANES * m);
            self.0[m][0] = S::dot_pairs(self.0[m][0], w[0], x);
            self.0[m][1] = S::dot_pairs(self.0[m][1], w[1], x);
        }
    }
}

/// Adds the products of sixteen inputs.
#[inline(always)]
unsafe fn sixteen<S: Simd, const M: usize, const FORM: u8>(
    values: *const u8,
    x: *const i8,
    sums: &mut impl Sums<S>,
) {
    if FORM == NIBBLES {
        for steps in 0..2 {
            let from = values.add(128 * steps);
            S::prefetch(from.wrapping_add(AHEAD));
            S::prefetch(from.wrapping_add(AHEAD + 64));
            let (low0, high0) = S::nibbles(S::load_bytes(from));
            let (low1, high1) = S::nibbles(S::load_bytes(from.add(64)));
            sums.step([low0, low1], x.add(8 * steps));
            sums.step([high0, high1], x.add(8 * steps + 4));
        }
    } else {
        for steps in 0..4 {
            let from = values.add(128 * steps);
            // Nibbles that were spread lie in the cache.
            if FORM != SPREAD {
                S::prefetch(from.wrapping_add(AHEAD));
                S::prefetch(from.wrapping_add(AHEAD + 64));
            }
            sums.step([S::load_bytes(from), S::load_bytes(from.add(64))], x.add(4 * steps));
        }
    }
}

/// Scales and biases of a group, a vector a panel.
#[inline(always)]
unsafe fn scales<S: Simd, const BF16: bool>(from: *const u8) -> ([S::F; 2], [S::F; 2]) {
    if BF16 {
        let (w0, w1) = (S::load_int(from.cast()), S::load_int(from.add(64).cast()));
        // The scale is the upper half, which has to lose the bias below it.
        let upper = |w: S::I| S::bits_to_float(S::shift_left::<16>(S::shift_right::<16>(w)));
        let lower = |w: S::I| S::bits_to_float(S::shift_left::<16>(w));
        ([upper(w0), upper(w1)], [lower(w0), lower(w1)])
    } else {
        let from = from.cast::<f32>();
        (
            [S::load(from), S::load(from.add(LANES))],
            [S::load(from.add(2 * LANES)), S::load(from.add(3 * LANES))],
        )
    }
}

/// Bytes that [`unpack`] writes for so many groups of a pair: values and scales.
pub(super) fn unpacked_bytes(layout: &Layout, groups: usize) -> (usize, usize) {
    (groups * layout.group_size * PAIR, groups * PAIR * 8)
}

/// `groups` groups of a pair of 4-bit panels, from `pair` on, with one value a byte and scales in f32, for many tiles
/// to use.
///
/// # Safety
/// The instruction set of `S` is enabled; `pair` points to a group of a pair of `layout` with as many behind it;
/// `values` and `scales_to` have room for [`unpacked_bytes`].
#[inline(always)]
pub(super) unsafe fn unpack<S: Simd>(
    layout: &Layout,
    pair: *const u8,
    groups: usize,
    values: *mut u8,
    scales_to: *mut u8,
) -> PairWeights {
    let values_stride = layout.group_size * PAIR;
    let scales_stride = PAIR * 8;
    for group in 0..groups {
        let mut from = pair.add(group * layout.group_bytes());
        let mut to = values.add(group * values_stride);
        for _ in 0..layout.group_size / 8 {
            for panel in 0..2 {
                S::prefetch(from.wrapping_add(AHEAD + 64 * panel));
                let (low, high) = S::nibbles(S::load_bytes(from.add(64 * panel)));
                S::store_wide(to.add(64 * panel), low);
                S::store_wide(to.add(128 + 64 * panel), high);
            }
            from = from.add(128);
            to = to.add(256);
        }
        let (scale, bias) = if layout.bf16 { scales::<S, true>(from) } else { scales::<S, false>(from) };
        let to = scales_to.add(group * scales_stride).cast::<f32>();
        for p in 0..2 {
            S::store(to.add(p * LANES), scale[p]);
            S::store(to.add((2 + p) * LANES), bias[p]);
        }
    }
    PairWeights { values, values_stride, scales: scales_to, scales_stride }
}

/// A number that a panel can hold.
pub(super) trait Number: Copy {
    /// Sixteen of them.
    ///
    /// # Safety
    /// The instruction set of `S` is enabled; `from` points to as many.
    unsafe fn load<S: Simd>(from: *const Self) -> S::F;
}

impl Number for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::F {
        S::load(from)
    }
}

impl Number for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::F {
        S::bits_to_float(S::shift_left::<16>(S::widen(from.cast())))
    }
}

impl Number for f16 {
    /// Finite ones only.
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::F {
        S::load_f16(from.cast())
    }
}

/// A tile of laid rows times a pair of panels, into `out` `[M, 32]`.
///
/// # Safety
/// The instruction set of `S` is enabled; `a` points to `M` rows as [`lay_tile`](super::round::lay_tile) lays them and `b`
/// to a pair, both of `inputs` inputs; `out` has room for `M * 32` numbers.
#[inline(always)]
pub(super) unsafe fn dense_tile<S: Simd, const M: usize, T: Number>(
    a: *const f32,
    b: *const T,
    inputs: usize,
    out: *mut f32,
) {
    let mut sums = [[S::splat(0.0); 2]; M];
    for first in (0..inputs).step_by(LANES) {
        let count = LANES.min(inputs - first);
        let (a, b) = (a.add(first * M), b.add(first * PAIR));
        if count == LANES {
            // A number of steps that the compiler knows.
            float_tile::<S, M, 1, LANES, T>(a, b, PAIR, LANES, &mut sums);
        } else {
            float_tile::<S, M, 1, LANES, T>(a, b, PAIR, count, &mut sums);
        }
    }
    for m in 0..M {
        S::store(out.add(PAIR * m), sums[m][0]);
        S::store(out.add(PAIR * m + LANES), sums[m][1]);
    }
}

/// `M` rows of f32 times a panel pair, added to `sums`: `sums[m] += a[k, m] * b[k]` over `k`.
///
/// `a` has `K_STRIDE` numbers from one `k` to the next and `M_STRIDE` from one row to the next; `b` has `b_stride`.
///
/// # Safety
/// The instruction set of `S` is enabled and the pointers are valid for these strides and `count` steps.
#[inline(always)]
pub(super) unsafe fn float_tile<
    S: Simd,
    const M: usize,
    const K_STRIDE: usize,
    const M_STRIDE: usize,
    T: Number,
>(
    a: *const f32,
    b: *const T,
    b_stride: usize,
    count: usize,
    sums: &mut [[S::F; 2]; M],
) {
    let mut b = b;
    let mut a = a;
    for _ in 0..count {
        let (b0, b1) = (T::load::<S>(b), T::load::<S>(b.add(LANES)));
        for m in 0..M {
            let x = S::splat(*a.add(m * M_STRIDE));
            sums[m][0] = S::fma(x, b0, sums[m][0]);
            sums[m][1] = S::fma(x, b1, sums[m][1]);
        }
        // After the last step both may be past the end of what they point into.
        a = a.wrapping_add(K_STRIDE);
        b = b.wrapping_add(b_stride);
    }
}
