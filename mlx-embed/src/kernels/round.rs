//! Activations as the products read them: normalised on the way, rounded a group at a time, laid out in tiles.
//!
//! A group of a row is `scale * (256 * high + low)` with two signed bytes a number, or `scale * high` where one byte is
//! enough. Two limbs keep sixteen bits, relative to the group's largest number; their product with weights takes two
//! passes of the byte instructions, which cost what one pass over 16-bit numbers would, and unpack the weights to bytes
//! instead of words. On instruction sets whose products of bytes are sums of two at most, such a number is one word: a
//! product with it takes as long as with two limbs, but needs no widening.
//!
//! Beside signed weights, which only such instruction sets have, limbs have seven bits without a sign. They count from the
//! group's least number, so they lose little to limbs of eight: `least + scale * (128 * high + low)`.
//!
//! In a tile, all numbers that a few instruction steps need lie side by side: for each group the high limbs of all its
//! rows, a run of inputs at a time, then the low limbs of those rows that have any. A run is sixteen inputs, or what a
//! row of a tile register holds: beside those, a group in which one row has low limbs has them for all.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "kernels are intrinsics throughout, under the contract of each function"
)]

use super::norm::{inverse_rms, sum_of_squares};
use super::simd::{CENTRE, LANES, Simd};
use super::tiles::{Tile, Tiles};

/// Which groups of activations keep two limbs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limbs<'a> {
    /// All.
    Two,
    /// Those whose largest number is more than `times` the row's root mean square: in the others a byte's step is small
    /// against the row, so what rounding adds is too. And all of some rows.
    TwoAbove { times: f32, rows: &'a [bool] },
}

/// Rows of f32 to read, `[rows, inputs]`.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) x: &'a [f32],
    pub(super) inputs: usize,
    /// RMSNorm to apply first: weights and epsilon.
    pub(super) norm: Option<(&'a [f32], f32)>,
    pub(super) limbs: Limbs<'a>,
}

impl<'a> Input<'a> {
    fn row(&self, row: usize) -> &'a [f32] {
        &self.x[row * self.inputs..(row + 1) * self.inputs]
    }
}

/// What rows are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Digits {
    /// One or two signed bytes a number.
    Limbs,
    /// One or two bytes of seven bits, without a sign.
    Sevens,
    /// A word.
    Words,
}

pub(super) const DIGITS: usize = Digits::Words as usize + 1;

/// Where rounded rows go. Tasks write disjoint tiles and groups of it.
#[derive(Clone, Copy)]
pub(super) struct Rounded {
    pub(super) tiles: Tiles,
    pub(super) inputs: usize,
    pub(super) group_size: usize,
    /// Inputs of a row whose limbs lie side by side; a group is some of these.
    pub(super) run: usize,
    /// `rows * inputs * 2` bytes.
    pub(super) digits: *mut i8,
    pub(super) kind: Digits,
    /// Whether all rows of a tile's group have low limbs where one has; they are zero where a row needs none.
    pub(super) low_of_all: bool,
    /// For each tile and group a scale a row, then the sum of the rounded numbers a row: `rows * groups * 2`. With
    /// [`Digits::Sevens`] the middle of a group's numbers, in steps, stands for the sum.
    pub(super) factors: *mut f32,
    /// Which rows of a tile's group have two limbs, a bit a row: `tiles * groups`.
    pub(super) wide: *mut u16,
}

// SAFETY: tasks read and write disjoint parts, and what is written in one job is read in the next.
unsafe impl Sync for Rounded {}

impl Rounded {
    pub(super) fn groups(&self) -> usize {
        self.inputs / self.group_size
    }

    /// Start of a tile's limbs or words. A group of it takes `2 * group_size * tile.rows` bytes.
    ///
    /// # Safety
    /// `tile` is one of `tiles`.
    #[inline(always)]
    pub(super) unsafe fn tile_digits(&self, tile: Tile) -> *mut i8 {
        self.digits.add(tile.first * self.inputs * 2)
    }

    /// Where row `m` of a tile has its limbs of the group from input `first` on, `run` inputs further: the high ones, and the
    /// low ones, which the `wide` rows alone have, or all.
    ///
    /// # Safety
    /// As [`Rounded::tile_digits`].
    #[inline(always)]
    unsafe fn limbs(&self, tile: Tile, first: usize, m: usize, wide: u16, run: usize) -> [*mut i8; 2] {
        let high = self.tile_digits(tile).add(first * 2 * tile.rows);
        let low = high.add(self.group_size * tile.rows);
        let (low_rows, low_row) = if self.low_of_all {
            (tile.rows, m)
        } else {
            (wide.count_ones() as usize, (wide & ((1 << m) - 1)).count_ones() as usize)
        };
        [high.add(run * tile.rows + m * self.run), low.add(run * low_rows + low_row * self.run)]
    }

    /// Start of a tile's factors. A group of it takes `2 * tile.rows` numbers.
    ///
    /// # Safety
    /// As [`Rounded::tile_digits`].
    #[inline(always)]
    pub(super) unsafe fn tile_factors(&self, tile: Tile) -> *mut f32 {
        self.factors.add(tile.first * self.groups() * 2)
    }
}

/// Most rows of a tile, in any family.
pub(super) const MAX_ROWS: usize = 12;

/// Largest magnitude of one limb, and of two: the low one spans -128 to 127.
const ONE: f32 = 127.0;
pub(super) const TWO: f32 = 127.0 * 256.0 + 127.0;
/// The same of two limbs of seven bits.
const TWO_SEVENS: f32 = 127.0 * 128.0 + 127.0;

/// Rounds the groups `groups` of tile `index`.
///
/// # Safety
/// The instruction set of `S` is enabled; the pointers of `to` are valid as it says; nobody else touches this tile and
/// these groups meanwhile. The lengths in `input` fit `to`. `SEVENS` says whether that is what rows are rounded to.
#[inline(always)]
pub(super) unsafe fn round_tile<S: Simd, const SEVENS: bool>(
    input: &Input<'_>,
    to: &Rounded,
    index: usize,
    groups: std::ops::Range<usize>,
) {
    let tile = to.tiles.get(index);
    let size = to.group_size;
    // A row's factor before the norm's weights, and the magnitude up to which one limb is enough.
    let mut rows = [(1.0_f32, -1.0_f32); MAX_ROWS];
    let weight = input.norm.map(|(weight, _)| weight.as_ptr());
    // Row by row rather than group by group: rows lie a power of two apart, and would fight for the same cache lines.
    for m in 0..tile.rows {
        let x = input.row(tile.first + m);
        if let Some((_, eps)) = input.norm {
            rows[m].0 = inverse_rms::<S>(x, eps);
        }
        let times = match input.limbs {
            Limbs::TwoAbove { times, rows: two } if !two[tile.first + m] => Some(times),
            _ => None,
        };
        // A number that is none or infinite, or a row so large that it looks like it.
        let mut suspect = false;
        if SEVENS || times.is_some() {
            let sum = sum_of_squares::<S>(x, input.norm.map(|(weight, _)| weight));
            suspect = !sum.is_finite();
            if let Some(times) = times {
                rows[m].1 = times * rows[m].0 * (sum / x.len() as f32).sqrt();
            }
        }
        let factor = S::splat(rows[m].0);
        for group in groups.clone() {
            let factors = to.tile_factors(tile).add(group * 2 * tile.rows);
            let of_row = Group::<S> { x: x.as_ptr(), factor, weight, first: group * size };
            if !SEVENS {
                *factors.add(m) = of_row.largest(size);
                continue;
            }
            let mut ends = of_row.ends(size);
            if suspect && !of_row.largest(size).is_finite() {
                ends = (f32::NAN, f32::NAN);
            }
            (*factors.add(m), *factors.add(tile.rows + m)) = ends;
        }
    }
    let masks = to.wide.add(index * to.groups());
    for group in groups.clone() {
        let largest = to.tile_factors(tile).add(group * 2 * tile.rows);
        let mut wide = 0_u16;
        for m in 0..tile.rows {
            let mut largest_of_row = *largest.add(m);
            if SEVENS {
                largest_of_row = largest_of_row.max(*largest.add(tile.rows + m));
            }
            let one = largest_of_row <= rows[m].1;
            wide |= u16::from(!one) << m;
        }
        *masks.add(group) = wide;
    }
    for m in 0..tile.rows {
        let x = input.row(tile.first + m).as_ptr();
        let factor = S::splat(rows[m].0);
        for group in groups.clone() {
            let wide = *masks.add(group);
            let two = wide >> m & 1 == 1;
            let factors = to.tile_factors(tile).add(group * 2 * tile.rows);
            let of_row = Group { x, factor, weight, first: group * size };
            if SEVENS {
                round_sevens::<S>(&of_row, to, tile, m, wide);
                continue;
            }
            let largest = *factors.add(m);
            let limit = if two { TWO } else { ONE };
            let step = largest * (1.0 / limit);
            // Zeros and numbers so small that their step vanishes round to zero.
            let inverse = S::splat(if step > f32::MIN_POSITIVE { limit / largest } else { 0.0 });
            let mut sum = S::splat_int(0);
            // What is the same for all runs is decided once.
            if to.kind == Digits::Words {
                let words =
                    to.tile_digits(tile).add(group * 2 * size * tile.rows).cast::<i16>().add(LANES * m);
                for k in (0..size).step_by(LANES) {
                    let a = S::round(S::mul(of_row.value(k), inverse));
                    sum = S::add_int(sum, a);
                    S::store_halves(words.add(k * tile.rows), a);
                }
            } else if two {
                for run in (0..size).step_by(to.run) {
                    let [high, low] = to.limbs(tile, group * size, m, wide, run);
                    for k in (0..to.run).step_by(LANES) {
                        let a = S::round(S::mul(of_row.value(run + k), inverse));
                        sum = S::add_int(sum, a);
                        let h = S::shift_right::<8>(S::add_int(a, S::splat_int(128)));
                        S::store_bytes(high.add(k), h);
                        S::store_bytes(low.add(k), S::sub_int(a, S::shift_left::<8>(h)));
                    }
                }
            } else {
                let [high, low] = to.limbs(tile, group * size, m, wide, 0);
                for run in (0..size).step_by(to.run) {
                    for k in (0..to.run).step_by(LANES) {
                        let a = S::round(S::mul(of_row.value(run + k), inverse));
                        sum = S::add_int(sum, a);
                        S::store_bytes(high.add(run * tile.rows + k), a);
                    }
                }
                if to.low_of_all && wide != 0 {
                    for run in (0..size).step_by(to.run) {
                        std::ptr::write_bytes(low.add(run * tile.rows), 0, to.run);
                    }
                }
            }
            // One limb beside rows of two counts as the high one. Powers of two change no result.
            let beside = to.kind == Digits::Limbs && !two && wide != 0;
            let (step, unit) = if beside { (step / 256.0, 256.0) } else { (step, 1.0) };
            // NaN and infinity can't be rounded; they reach the result through the scale.
            *factors.add(m) = if largest.is_finite() { step } else { f32::NAN };
            *factors.add(tile.rows + m) = S::reduce_add_int(sum) as f32 * unit;
        }
    }
}

/// A group of a row, from its input `first` on; see [`value`].
#[derive(Clone, Copy)]
struct Group<S: Simd> {
    x: *const f32,
    factor: S::F,
    weight: Option<*const f32>,
    first: usize,
}

impl<S: Simd> Group<S> {
    /// Sixteen of its numbers, from its `k`-th on.
    #[inline(always)]
    unsafe fn value(&self, k: usize) -> S::F {
        value::<S>(self.x, self.factor, self.weight, self.first + k)
    }

    /// The largest magnitude of so many numbers, which isn't finite if one of them isn't.
    #[inline(always)]
    unsafe fn largest(&self, size: usize) -> f32 {
        let mut max = S::splat_int(0);
        for k in (0..size).step_by(LANES) {
            max = S::max_magnitude(max, self.value(k));
        }
        S::reduce_max_magnitude(max)
    }

    /// The largest of so many numbers, and the least one with the other sign. What is no number may be passed over.
    #[inline(always)]
    unsafe fn ends(&self, size: usize) -> (f32, f32) {
        let (mut most, mut least) = (self.value(0), self.value(0));
        for k in (LANES..size).step_by(LANES) {
            let x = self.value(k);
            (most, least) = (S::max(most, x), S::min(least, x));
        }
        S::reduce_ends(most, least)
    }
}

/// Rounds a group of row `m` of a tile to seven bits or twice as many, where its factors are the group's largest number and its
/// least one with the other sign.
///
/// # Safety
/// As [`round_tile`].
#[inline(always)]
unsafe fn round_sevens<S: Simd>(group: &Group<S>, to: &Rounded, tile: Tile, m: usize, wide: u16) {
    let size = to.group_size;
    let factors = to.tile_factors(tile).add(group.first / size * 2 * tile.rows);
    let (most, negated_least) = (*factors.add(m), *factors.add(tile.rows + m));
    let two = wide >> m & 1 == 1;
    let limit = if two { TWO_SEVENS } else { ONE };
    // Of each for itself, since what is between them may be more than an f32 holds.
    let step = most * (1.0 / limit) + negated_least * (1.0 / limit);
    // Products are of what a limb is above its middle.
    let middle = f32::from(CENTRE) * if two { 129.0 } else { 1.0 };
    let (inverse, above, step, centre) = if step > f32::MIN_POSITIVE {
        let inverse = 1.0 / step;
        let above = negated_least * inverse;
        (inverse, above, step, middle - above)
    } else {
        // Numbers that are all the same, or nearly: they are the middle.
        (0.0, middle, 1.0, -negated_least)
    };
    let (spread, above) = (S::splat(inverse), S::splat(above));
    for run in (0..size).step_by(to.run) {
        let [high, low] = to.limbs(tile, group.first, m, wide, run);
        for k in (0..to.run).step_by(LANES) {
            let x = group.value(run + k);
            // No sum is below zero or above the limit, but for what f32 rounds where numbers are far from zero.
            let a = S::fma(x, spread, above);
            let a = S::round(S::max(S::min(a, S::splat(limit)), S::splat(0.0)));
            if two {
                let h = S::shift_right::<7>(a);
                S::store_bytes(high.add(k), h);
                S::store_bytes(low.add(k), S::sub_int(a, S::shift_left::<7>(h)));
            } else {
                S::store_bytes(high.add(k), a);
            }
        }
    }
    // As for limbs of eight bits.
    let unit = if !two && wide != 0 { 128.0 } else { 1.0 };
    *factors.add(m) = if most.is_finite() { step / unit } else { f32::NAN };
    *factors.add(tile.rows + m) = centre * unit;
}

/// Sixteen numbers of a row from `k` on, normed if there are weights for it.
#[inline(always)]
unsafe fn value<S: Simd>(x: *const f32, factor: S::F, weight: Option<*const f32>, k: usize) -> S::F {
    let x = S::load(x.add(k));
    match weight {
        Some(weight) => S::mul(S::mul(x, factor), S::load(weight.add(k))),
        None => x,
    }
}

/// Where rows of f32 go for products that don't round: tile by tile, sixteen inputs of all the tile's rows at a time.
#[derive(Clone, Copy)]
pub(super) struct Laid {
    pub(super) tiles: Tiles,
    pub(super) inputs: usize,
    /// `rows * stride`
    pub(super) x: *mut f32,
}

impl Laid {
    /// Numbers that a row takes: its inputs, filled up to whole vectors.
    pub(super) fn stride(&self) -> usize {
        self.inputs.next_multiple_of(LANES)
    }
}

// SAFETY: as for `Rounded`.
unsafe impl Sync for Laid {}

/// # Safety
/// As [`round_tile`].
#[inline(always)]
pub(super) unsafe fn lay_tile<S: Simd>(input: &Input<'_>, to: &Laid, index: usize) {
    let tile = to.tiles.get(index);
    let start = to.x.add(tile.first * to.stride());
    let whole = to.inputs / LANES * LANES;
    for m in 0..tile.rows {
        let x = input.row(tile.first + m);
        let factor = match input.norm {
            Some((_, eps)) => inverse_rms::<S>(x, eps),
            None => 1.0,
        };
        let weight = input.norm.map(|(weight, _)| weight.as_ptr());
        for k in (0..whole).step_by(LANES) {
            let value = value::<S>(x.as_ptr(), S::splat(factor), weight, k);
            S::store(start.add(k * tile.rows + m * LANES), value);
        }
        let rest = start.add(whole * tile.rows + m * LANES);
        for k in whole..to.inputs {
            *rest.add(k - whole) = x[k] * factor * input.norm.map_or(1.0, |(weight, _)| weight[k]);
        }
    }
}
