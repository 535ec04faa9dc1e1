//! Tiles of rows times pairs of panels: the inner loops of every matrix product.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "kernels are intrinsics throughout, under the contract of each function"
)]

use super::levels::FACTOR_INPUTS;
use super::packed::Layout;
use super::round::{Digits, MAX_ROWS};
use super::simd::{
    CENTRE, EIGHT_OF_PAIR, LANES, Nearest, Number, PAIR, PAIR_STEPS, STEP_OF_PAIR, Simd, float_steps,
};

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
    pub(super) digits: *const i8,
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
/// Signed bytes with what [`Simd::centre_sevens`] says of them, for rows of seven bits.
pub(super) const SEVENS: u8 = 4;
/// Nibbles that become words, for rows in words.
pub(super) const NIBBLE_WORDS: u8 = 5;
/// Bytes that become words.
pub(super) const BYTE_WORDS: u8 = 6;
/// Words, for rows in words.
pub(super) const WORDS: u8 = 7;
/// How many forms there are.
pub(super) const FORMS: usize = 8;
/// How many forms have rows in limbs, those first ones.
pub(super) const LIMB_FORMS: usize = 5;

/// Most rows of a tile beside [`SEVENS`]: more have no room in sixteen registers.
pub(super) const SEVEN_ROWS: usize = 4;

/// Whether an instruction set has products of [`SEVENS`].
const fn has_sevens<S: Simd>() -> bool {
    matches!(S::NEAREST, Some(Nearest::SignedBytes))
}

/// The form whose kernel stands for `form` on an instruction set: beside weights of 8 bits rows are words where it has no
/// products of four bytes ([`Simd::FOURS`]), and limbs where it has.
pub(super) const fn form_on<S: Simd>(form: u8) -> u8 {
    match form {
        SEVENS if !has_sevens::<S>() => form_on::<S>(BYTES),
        SMALL | BYTES if !S::FOURS => BYTE_WORDS,
        NIBBLE_WORDS if S::FOURS => NIBBLES,
        BYTE_WORDS if S::FOURS => BYTES,
        _ => form,
    }
}

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
        if S::PANELS == 2 {
            group_tile::<S, M, 2, FORM, BF16>(weights, rows, group, group_size, 0, out);
        } else {
            group_tile::<S, M, 1, FORM, BF16>(weights, rows, group, group_size, 0, out);
            group_tile::<S, M, 1, FORM, BF16>(weights, rows, group, group_size, 1, out);
        }
    }
}

/// One group of [`tile`], for `PANELS` panels of the pair from `first` on.
#[inline(always)]
unsafe fn group_tile<S: Simd, const M: usize, const PANELS: usize, const FORM: u8, const BF16: bool>(
    weights: PairWeights,
    rows: TileRows,
    group: usize,
    group_size: usize,
    first: usize,
    out: *mut f32,
) {
    let values = weights.values.add(group * weights.values_stride + first * STEP_BYTES);
    let mut dots = [[S::splat_int(0); PANELS]; M];
    if FORM >= NIBBLE_WORDS {
        let x = rows.digits.add(group * 2 * group_size * M).cast::<i16>();
        words::<S, M, PANELS, FORM>(values, x, group_size, &mut dots);
    } else {
        limbs::<S, M, PANELS, FORM>(values, rows, group, group_size, first, &mut dots);
    }
    let scales_at = weights.scales.add(group * weights.scales_stride);
    let factors = rows.factors.add(group * 2 * M);
    // Row by row, so that what belongs to a row is spread once for all panels.
    let mut of_panels = [scales::<S, BF16>(scales_at, first); PANELS];
    for p in 1..PANELS {
        of_panels[p] = scales::<S, BF16>(scales_at, first + p);
    }
    for m in 0..M {
        let (step, sum) = (S::splat(*factors.add(m)), S::splat(*factors.add(M + m)));
        for p in 0..PANELS {
            let (scale, bias) = of_panels[p];
            let weighted = S::fma(bias, sum, S::mul(scale, S::to_float(dots[m][p])));
            let out = out.add(m * PAIR + (first + p) * LANES);
            S::store(out, S::fma(step, weighted, S::load(out)));
        }
    }
}

/// The products of one or two limbs of a group, as [`group_tile`] has its arguments.
#[inline(always)]
unsafe fn limbs<S: Simd, const M: usize, const PANELS: usize, const FORM: u8>(
    values: *const u8,
    rows: TileRows,
    group: usize,
    group_size: usize,
    first: usize,
    dots: &mut [[S::I; PANELS]; M],
) {
    let x = rows.digits.add(group * 2 * group_size * M);
    limb::<S, M, PANELS, FORM>(values, x, group_size, dots);
    let wide = *rows.wide.add(group);
    if wide == 0 {
        return;
    }
    for m in 0..M {
        for p in 0..PANELS {
            dots[m][p] =
                if FORM == SEVENS { S::shift_left::<7>(dots[m][p]) } else { S::shift_left::<8>(dots[m][p]) };
        }
    }
    if wide == all_rows(M) {
        limb::<S, M, PANELS, FORM>(values, x.add(group_size * M), group_size, dots);
        return;
    }
    for m in 0..M {
        let low = rows.low.add((group * M + m) * PAIR + first * LANES);
        for p in 0..PANELS {
            dots[m][p] = S::add_int(dots[m][p], S::load_int(low.add(p * LANES)));
        }
    }
}

/// Adds the products of a group's words.
#[inline(always)]
unsafe fn words<S: Simd, const M: usize, const PANELS: usize, const FORM: u8>(
    values: *const u8,
    x: *const i16,
    group_size: usize,
    dots: &mut [[S::I; PANELS]; M],
) {
    if FORM == WORDS {
        return S::dot_words_runs::<M, PANELS>(dots, values, x, group_size / LANES);
    }
    for first in (0..group_size).step_by(LANES) {
        let x = x.add(first * M);
        // Sixteen inputs take a step of each panel for every four or eight.
        if FORM == NIBBLE_WORDS {
            for step in 0..2 {
                let from = values.add((first / 8 + step) * 2 * STEP_BYTES);
                ahead::<S, PANELS>(from);
                let mut w = [S::nibble_words(S::load_bytes(from)); PANELS];
                for p in 1..PANELS {
                    w[p] = S::nibble_words(S::load_bytes(from.add(p * STEP_BYTES)));
                }
                for k in 0..4 {
                    word_step::<S, M, PANELS, 4>(&w, k, x.add(8 * step + 2 * k), dots);
                }
            }
        } else {
            for step in 0..4 {
                let from = values.add((first / 4 + step) * 2 * STEP_BYTES);
                ahead::<S, PANELS>(from);
                let mut w = [S::byte_words(S::load_bytes(from)); PANELS];
                for p in 1..PANELS {
                    w[p] = S::byte_words(S::load_bytes(from.add(p * STEP_BYTES)));
                }
                for k in 0..2 {
                    word_step::<S, M, PANELS, 2>(&w, k, x.add(4 * step + 2 * k), dots);
                }
            }
        }
    }
}

/// Adds the products of two inputs: of each panel's words the `k`-th ones, with the first row's at `x`.
#[inline(always)]
unsafe fn word_step<S: Simd, const M: usize, const PANELS: usize, const COUNT: usize>(
    w: &[[S::W; COUNT]; PANELS],
    k: usize,
    x: *const i16,
    dots: &mut [[S::I; PANELS]; M],
) {
    for m in 0..M {
        for p in 0..PANELS {
            dots[m][p] = S::dot_words(dots[m][p], w[p][k], x.add(LANES * m));
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
    // Words have no limbs.
    if FORM >= NIBBLE_WORDS {
        return;
    }
    if S::PANELS == 2 {
        low_panels::<S, N, 2, FORM>(values, x, group_size, wide, rows, out);
    } else {
        low_panels::<S, N, 1, FORM>(values, x, group_size, wide, rows, out);
        low_panels::<S, N, 1, FORM>(values.add(STEP_BYTES), x, group_size, wide, rows, out.add(LANES));
    }
}

/// [`low`] for `PANELS` panels.
#[inline(always)]
unsafe fn low_panels<S: Simd, const N: usize, const PANELS: usize, const FORM: u8>(
    values: *const u8,
    x: *const i8,
    group_size: usize,
    wide: u16,
    rows: usize,
    out: *mut i32,
) {
    let mut dots = [[S::splat_int(0); PANELS]; N];
    limb::<S, N, PANELS, FORM>(values, x, group_size, &mut dots);
    let mut next = 0;
    for m in 0..rows {
        let dots = if wide >> m & 1 == 1 {
            next += 1;
            dots[next - 1]
        } else {
            [S::splat_int(0); PANELS]
        };
        for p in 0..PANELS {
            S::store_int(out.add(m * PAIR + p * LANES), dots[p]);
        }
    }
}

/// Bytes of a panel's weights for a step of four inputs, or for two in nibbles. A step of one panel follows that of the
/// other.
const STEP_BYTES: usize = STEP_OF_PAIR / 2;

/// How far ahead packed weights are asked for, in bytes: a pair's groups follow each other, and pairs do. Left to itself
/// the hardware stops at every page. Few rows go through less than that before memory has answered.
const AHEAD: usize = 6144;

/// Adds the products of one limb of a group.
#[inline(always)]
unsafe fn limb<S: Simd, const M: usize, const PANELS: usize, const FORM: u8>(
    values: *const u8,
    x: *const i8,
    group_size: usize,
    dots: &mut [[S::I; PANELS]; M],
) {
    if FORM == SEVENS {
        return S::dot_sevens::<M, PANELS>(dots, values, x, group_size / LANES);
    }
    let stride = if FORM == NIBBLES { 256 } else { 512 };
    if S::PAIRS && FORM <= SPREAD {
        // Two times sixteen inputs are as many steps as sums of pairs hold.
        const { assert!(PAIR_STEPS == 8) };
        let (values_stride, x_stride) = (2 * stride, 2 * LANES * M);
        // As below.
        if group_size == 64 {
            add_pairs::<S, M, PANELS, FORM>(values, x, stride, dots);
            add_pairs::<S, M, PANELS, FORM>(values.add(values_stride), x.add(x_stride), stride, dots);
            return;
        }
        for i in 0..group_size / (2 * LANES) {
            add_pairs::<S, M, PANELS, FORM>(values.add(i * values_stride), x.add(i * x_stride), stride, dots);
        }
        return;
    }
    let sums = &mut Fours::<S, M, PANELS, FORM>(dots);
    // The usual size without a loop: what a loop's end costs is a tenth of what is in it.
    if group_size == 64 {
        sixteen::<S, M, PANELS, FORM>(values, x, sums);
        sixteen::<S, M, PANELS, FORM>(values.add(stride), x.add(LANES * M), sums);
        sixteen::<S, M, PANELS, FORM>(values.add(2 * stride), x.add(2 * LANES * M), sums);
        sixteen::<S, M, PANELS, FORM>(values.add(3 * stride), x.add(3 * LANES * M), sums);
        return;
    }
    for i in 0..group_size / LANES {
        sixteen::<S, M, PANELS, FORM>(values.add(i * stride), x.add(i * LANES * M), sums);
    }
}

/// Adds the products of as many steps as sums of pairs hold.
#[inline(always)]
unsafe fn add_pairs<S: Simd, const M: usize, const PANELS: usize, const FORM: u8>(
    values: *const u8,
    x: *const i8,
    stride: usize,
    dots: &mut [[S::I; PANELS]; M],
) {
    let mut sums = Pairs::<S, M, PANELS>(None);
    sixteen::<S, M, PANELS, FORM>(values, x, &mut sums);
    sixteen::<S, M, PANELS, FORM>(values.add(stride), x.add(LANES * M), &mut sums);
    let Some(sums) = sums.0 else { return };
    for m in 0..M {
        for p in 0..PANELS {
            dots[m][p] = S::add_pairs(dots[m][p], sums[m][p]);
        }
    }
}

/// Sums of products of `M` rows with panels. A closure in its place would lose the instruction set.
trait Sums<S: Simd, const PANELS: usize> {
    /// Adds the products of four inputs: a vector of weights a panel, and the first row's limbs.
    ///
    /// # Safety
    /// The instruction set of `S` is enabled; the limbs of `M` rows lie [`LANES`] apart.
    unsafe fn step(&mut self, w: [S::B; PANELS], x: *const i8);
}

/// Of four products a lane.
struct Fours<'a, S: Simd, const M: usize, const PANELS: usize, const FORM: u8>(&'a mut [[S::I; PANELS]; M]);

impl<S: Simd, const M: usize, const PANELS: usize, const FORM: u8> Sums<S, PANELS>
    for Fours<'_, S, M, PANELS, FORM>
{
    #[inline(always)]
    unsafe fn step(&mut self, w: [S::B; PANELS], x: *const i8) {
        for m in 0..M {
            let x = x.add(LANES * m);
            for p in 0..PANELS {
                let sum = &mut self.0[m][p];
                *sum = if FORM == BYTES { S::dot8(*sum, w[p], x) } else { S::dot4(*sum, w[p], x) };
            }
        }
    }
}

/// Of two products, two of them a lane. The first ones are not added to zeros.
struct Pairs<S: Simd, const M: usize, const PANELS: usize>(Option<[[S::P; PANELS]; M]>);

impl<S: Simd, const M: usize, const PANELS: usize> Sums<S, PANELS> for Pairs<S, M, PANELS> {
    #[inline(always)]
    unsafe fn step(&mut self, w: [S::B; PANELS], x: *const i8) {
        let first = self.0.is_none();
        let sums = self.0.get_or_insert([[S::pairs(w[0], x); PANELS]; M]);
        for m in 0..M {
            let x = x.add(LANES * m);
            for p in 0..PANELS {
                sums[m][p] = if first { S::pairs(w[p], x) } else { S::dot_pairs(sums[m][p], w[p], x) };
            }
        }
    }
}

/// Adds the products of sixteen inputs.
#[inline(always)]
unsafe fn sixteen<S: Simd, const M: usize, const PANELS: usize, const FORM: u8>(
    values: *const u8,
    x: *const i8,
    sums: &mut impl Sums<S, PANELS>,
) {
    if FORM == NIBBLES {
        for steps in 0..2 {
            let from = values.add(2 * STEP_BYTES * steps);
            ahead::<S, PANELS>(from);
            let (mut low, mut high) = ([S::load_bytes(from); PANELS], [S::load_bytes(from); PANELS]);
            for p in 0..PANELS {
                (low[p], high[p]) = S::nibbles(S::load_bytes(from.add(p * STEP_BYTES)));
            }
            sums.step(low, x.add(8 * steps));
            sums.step(high, x.add(8 * steps + 4));
        }
    } else {
        for step in 0..4 {
            let from = values.add(2 * STEP_BYTES * step);
            // Nibbles that were spread lie in the cache.
            if FORM != SPREAD {
                ahead::<S, PANELS>(from);
            }
            let mut w = [S::load_bytes(from); PANELS];
            for p in 1..PANELS {
                w[p] = S::load_bytes(from.add(p * STEP_BYTES));
            }
            sums.step(w, x.add(4 * step));
        }
    }
}

/// Asks for what panels will need after the weights at `from`.
#[inline(always)]
unsafe fn ahead<S: Simd, const PANELS: usize>(from: *const u8) {
    for p in 0..PANELS {
        S::prefetch(from.wrapping_add(AHEAD + p * STEP_BYTES));
    }
}

/// Scales and biases of a panel's group.
#[inline(always)]
pub(super) unsafe fn scales<S: Simd, const BF16: bool>(from: *const u8, panel: usize) -> (S::F, S::F) {
    if BF16 {
        let both = S::load_int(from.add(panel * STEP_BYTES).cast());
        // The scale is the upper half, which has to lose the bias below it.
        let upper = S::shift_left::<16>(S::shift_right::<16>(both));
        (S::bits_to_float(upper), S::bits_to_float(S::shift_left::<16>(both)))
    } else {
        let from = from.cast::<f32>().add(panel * LANES);
        (S::load(from), S::load(from.add(PAIR)))
    }
}

/// Bytes that unpacked weights of so many groups of a pair take, beside such rows, and their scales.
pub(super) fn unpacked_bytes(layout: &Layout, groups: usize, digits: Digits) -> (usize, usize) {
    let eight = match digits {
        Digits::Limbs => 2 * STEP_OF_PAIR,
        Digits::Sevens => EIGHT_OF_PAIR,
        Digits::Words => 4 * STEP_OF_PAIR,
    };
    (groups * layout.group_size / 8 * eight, groups * SCALES_STRIDE)
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
    for group in 0..groups {
        let from = pair.add(group * layout.group_bytes());
        spread::<S>(from, values.add(group * values_stride), layout.group_size);
        let scales = from.add(layout.values_bytes());
        unpack_scales::<S>(layout.bf16, scales, scales_to.add(group * SCALES_STRIDE));
    }
    PairWeights { values, values_stride, scales: scales_to, scales_stride: SCALES_STRIDE }
}

/// A group's nibbles, a byte each.
///
/// # Safety
/// The instruction set of `S` is enabled; `from` points to `size` inputs of a pair, a nibble each, and `to` to room for a
/// byte each.
#[inline(always)]
pub(super) unsafe fn spread<S: Simd>(from: *const u8, to: *mut u8, size: usize) {
    for step in 0..size / 8 {
        for panel in 0..2 {
            let from = from.add((2 * step + panel) * STEP_BYTES);
            let to = to.add((4 * step + panel) * STEP_BYTES);
            S::prefetch(from.wrapping_add(AHEAD));
            let (low, high) = S::nibbles(S::load_bytes(from));
            S::store_wide(to, low);
            S::store_wide(to.add(2 * STEP_BYTES), high);
        }
    }
}

/// [`unpack`] of 4- or 8-bit panels, or of small floats, with one value a word.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn unpack_words<S: Simd>(
    layout: &Layout,
    pair: *const u8,
    groups: usize,
    values: *mut u8,
    scales_to: *mut u8,
) -> PairWeights {
    let values_stride = layout.group_size * PAIR * 2;
    let steps = layout.levels_bytes() / (2 * STEP_BYTES);
    for group in 0..groups {
        let from = pair.add(group * layout.group_bytes());
        let factors = from.add(layout.levels_bytes()).cast::<i16>();
        let to = values.add(group * values_stride);
        for step in 0..steps {
            for panel in 0..2 {
                let from = from.add((2 * step + panel) * STEP_BYTES);
                let to = to.add(step * (values_stride / steps) + panel * STEP_BYTES);
                S::prefetch(from.wrapping_add(AHEAD));
                let bytes = S::load_bytes(from);
                match (layout.bits, layout.floats) {
                    (4, false) => store_words::<S, 4>(to, S::nibble_words(bytes)),
                    (4, true) => {
                        // Eight inputs a step.
                        let factors = factors.add(8 * step / FACTOR_INPUTS * PAIR + panel * LANES);
                        store_words::<S, 4>(to, small_floats::<S>(bytes, S::lane_words(factors)));
                    }
                    (_, false) => store_words::<S, 2>(to, S::byte_words(bytes)),
                    (_, true) => {
                        let [first, second] = S::byte_words(bytes);
                        store_words::<S, 2>(to, [S::float_words(first), S::float_words(second)]);
                    }
                }
            }
        }
        let scales = from.add(layout.values_bytes());
        unpack_scales::<S>(layout.bf16, scales, scales_to.add(group * SCALES_STRIDE));
    }
    PairWeights { values, values_stride, scales: scales_to, scales_stride: SCALES_STRIDE }
}

/// [`unpack`] of signed bytes, with what [`Simd::dot_sevens`] wants beside them. In the place of a bias is what a group's
/// weights add up to: what the middle of a row's numbers is multiplied with.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn unpack_sevens<S: Simd>(
    layout: &Layout,
    pair: *const u8,
    groups: usize,
    values: *mut u8,
    scales_to: *mut u8,
) -> PairWeights {
    let values_stride = layout.group_size / 8 * EIGHT_OF_PAIR;
    for group in 0..groups {
        let from = pair.add(group * layout.group_bytes());
        let to = values.add(group * values_stride);
        let mut sums = [S::splat_int(0); 2];
        for eight in 0..layout.group_size / 8 {
            for panel in 0..2 {
                let from = from.add(2 * eight * STEP_OF_PAIR + panel * STEP_BYTES);
                let to = to.add(eight * EIGHT_OF_PAIR + panel * STEP_BYTES);
                S::prefetch(from.wrapping_add(AHEAD));
                S::prefetch(from.wrapping_add(AHEAD + STEP_OF_PAIR));
                let steps = [S::load_bytes(from), S::load_bytes(from.add(STEP_OF_PAIR))];
                S::store_wide(to, steps[0]);
                S::store_wide(to.add(STEP_OF_PAIR), steps[1]);
                sums[panel] = S::centre_sevens(sums[panel], steps, to.add(2 * STEP_OF_PAIR));
            }
        }
        let scales_to = scales_to.add(group * SCALES_STRIDE).cast::<f32>();
        for panel in 0..2 {
            let (scale, _) = scales::<S, true>(from.add(layout.values_bytes()), panel);
            let sum = S::mul(S::to_float(sums[panel]), S::splat(1.0 / f32::from(CENTRE)));
            S::store(scales_to.add(panel * LANES), scale);
            S::store(scales_to.add(PAIR + panel * LANES), S::mul(scale, sum));
        }
    }
    PairWeights { values, values_stride, scales: scales_to, scales_stride: SCALES_STRIDE }
}

/// The numbers of four bits of each lane, times its factor.
#[inline(always)]
unsafe fn small_floats<S: Simd>(bytes: S::B, factors: S::W) -> [S::W; 4] {
    let mut words = S::nibble_words(bytes);
    for word in &mut words {
        *word = S::fp4_words(*word, factors);
    }
    words
}

/// Bytes of a group's unpacked scales and biases.
const SCALES_STRIDE: usize = PAIR * 8;

/// A group's scales and biases in f32.
#[inline(always)]
unsafe fn unpack_scales<S: Simd>(bf16: bool, from: *const u8, to: *mut u8) {
    let to = to.cast::<f32>();
    for p in 0..2 {
        let (scale, bias) = if bf16 { scales::<S, true>(from, p) } else { scales::<S, false>(from, p) };
        S::store(to.add(p * LANES), scale);
        S::store(to.add(PAIR + p * LANES), bias);
    }
}

/// Writes the words of a panel's steps, between which are those of the other.
#[inline(always)]
unsafe fn store_words<S: Simd, const COUNT: usize>(to: *mut u8, words: [S::W; COUNT]) {
    for k in 0..COUNT {
        S::store_words(to.add(k * 2 * STEP_BYTES), words[k]);
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
    if S::PANELS == 2 {
        dense_panels::<S, M, 2, T>(a, b, inputs, out);
    } else {
        dense_panels::<S, M, 1, T>(a, b, inputs, out);
        dense_panels::<S, M, 1, T>(a, b.add(LANES), inputs, out.add(LANES));
    }
}

/// [`dense_tile`] for `PANELS` panels.
#[inline(always)]
unsafe fn dense_panels<S: Simd, const M: usize, const PANELS: usize, T: Number>(
    a: *const f32,
    b: *const T,
    inputs: usize,
    out: *mut f32,
) {
    let mut sums = [[S::splat(0.0); PANELS]; M];
    let whole = inputs / LANES * LANES;
    S::fma_runs::<T, M, PANELS>(&mut sums, b, a, whole / LANES);
    if whole < inputs {
        let (a, b) = (a.add(whole * M), b.add(whole * PAIR));
        float_steps::<S, T, M, PANELS, LANES>(&mut sums, b, PAIR, a, inputs - whole);
    }
    store_sums::<S, M, PANELS>(out, PAIR, &sums);
}

/// Sums that lie in memory, a row after `stride` numbers.
///
/// # Safety
/// The instruction set of `S` is enabled; `M` rows of `PANELS` vectors are there.
#[inline(always)]
pub(super) unsafe fn load_sums<S: Simd, const M: usize, const PANELS: usize>(
    from: *const f32,
    stride: usize,
) -> [[S::F; PANELS]; M] {
    let mut sums = [[S::splat(0.0); PANELS]; M];
    for m in 0..M {
        for p in 0..PANELS {
            sums[m][p] = S::load(from.add(m * stride + p * LANES));
        }
    }
    sums
}

/// The counterpart of [`load_sums`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn store_sums<S: Simd, const M: usize, const PANELS: usize>(
    to: *mut f32,
    stride: usize,
    sums: &[[S::F; PANELS]; M],
) {
    for m in 0..M {
        for p in 0..PANELS {
            S::store(to.add(m * stride + p * LANES), sums[m][p]);
        }
    }
}
