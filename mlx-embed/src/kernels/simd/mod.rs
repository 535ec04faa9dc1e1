//! Vectors of sixteen lanes, on every instruction set under one name.
//!
//! A kernel is written once over [`Simd`] and compiled once for each family. Sixteen lanes everywhere keep packed
//! weights and rounded activations the same on all of them: a family with shorter registers holds several a vector.

use half::{bf16, f16};

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod portable;

/// Lanes of a vector.
pub(super) const LANES: usize = 16;

/// Outputs of a pair of panels, which packed weights are laid out in.
pub(super) const PAIR: usize = 2 * LANES;

/// Bytes from one step's weights of a panel to the next's: those of the pair's other panel lie between.
pub(super) const STEP_OF_PAIR: usize = 128;

/// Twice the values of a 4-bit float (E2M1).
pub(super) const FP4_TWICE: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The word of a code; see [`Simd::float_words`].
#[inline(always)]
pub(super) fn float_word(code: u8) -> i16 {
    let (exponent, mantissa) = (code >> 3 & 15, i16::from(code & 7));
    let magnitude = if exponent == 0 { mantissa } else { (8 + mantissa) << (exponent - 1) };
    if code >> 7 == 1 { -magnitude } else { magnitude }
}

/// How weights are rounded to 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nearest {
    /// To whole numbers from 0 to 255, with a scale and a bias, for rows of limbs or words.
    Bytes,
    /// To whole numbers from -127 to 127, with a scale, for rows of seven bits.
    SignedBytes,
}

/// Bytes of eight inputs of a pair for [`Simd::dot_sevens`]: two steps, and what [`Simd::centre_sevens`] wrote.
pub(super) const EIGHT_OF_PAIR: usize = 3 * STEP_OF_PAIR;

/// The middle of what a byte of seven bits can be.
pub(super) const CENTRE: i8 = 64;

/// Steps whose sums of pairs fit sixteen bits: each adds at most 2 * 15 * 128.
pub(super) const PAIR_STEPS: usize = 8;

/// An instruction set.
///
/// # Safety
/// Every method may only be called where the instruction set's features are enabled, which is what the entry points in
/// `family` do after they were detected. Pointers must be valid for the sixteen lanes (64 bytes) that they stand for;
/// they need no alignment.
pub(super) unsafe trait Simd: Copy + 'static {
    /// f32 x 16
    type F: Copy;
    /// i32 x 16
    type I: Copy;
    /// u8 x 64: four bytes a lane
    type B: Copy;
    /// Sums of pairs, i16 x 32: two a lane
    type P: Copy;
    /// Weights, i16 x 32: two a lane
    type W: Copy;

    /// Panels whose sums a tile holds in registers at once: one or two.
    const PANELS: usize;
    /// Whether sums of pairs are cheaper than those of four: where no instruction adds four products to a lane.
    const PAIRS: bool;
    /// Whether an instruction adds four products of bytes to a lane, so that weights of 8 bits beat those of 32. Where
    /// none does, two limbs are one number of 16 bits, and so are weights of 8.
    const FOURS: bool;
    /// The weights of 8 bits whose products take less time than those with f32, if any do.
    const NEAREST: Option<Nearest>;

    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(to: *mut f32, x: Self::F);
    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// The larger; `b` where either is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where either is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    /// `a * b + c`, in one rounding where the instruction set has that.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `sums[m][p] += x[k + m * STRIDE] * w[k * w_stride + p * 16 ..]` over `k` below `count`, as [`Simd::fma`] has it.
    #[inline(always)]
    unsafe fn fma_steps<const M: usize, const P: usize, const STRIDE: usize>(
        sums: &mut [[Self::F; P]; M],
        w: *const f32,
        w_stride: usize,
        x: *const f32,
        count: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe { float_steps::<Self, f32, M, P, STRIDE>(sums, w, w_stride, x, count) }
    }
    /// The same of `runs` times sixteen inputs: of rows whose numbers of a run lie side by side, with a panel of a pair.
    #[inline(always)]
    unsafe fn fma_runs<T: Number, const M: usize, const P: usize>(
        sums: &mut [[Self::F; P]; M],
        w: *const T,
        x: *const f32,
        runs: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe { float_runs::<Self, T, M, P>(sums, w, x, runs) }
    }
    /// As [`Simd::fma_steps`], of words that are two bf16 each: the products of both are added. Only where a family rounds
    /// attention.
    #[inline(always)]
    unsafe fn bf16_steps<const M: usize, const P: usize, const STRIDE: usize>(
        _sums: &mut [[Self::F; P]; M],
        _w: *const f32,
        _w_stride: usize,
        _x: *const f32,
        _count: usize,
    ) {
        unreachable!("no family without this rounds attention")
    }
    /// The words of sixteen lanes: the bf16 nearest to `a` below, and to `b` above. Only where a family rounds attention.
    #[inline(always)]
    unsafe fn bf16_words(_a: Self::F, _b: Self::F) -> Self::F {
        unreachable!("no family without this rounds attention")
    }
    /// Writes the bf16 nearest to sixteen numbers, as eight words. Only where a family rounds attention.
    #[inline(always)]
    unsafe fn store_bf16(_to: *mut f32, _x: Self::F) {
        unreachable!("no family without this rounds attention")
    }
    unsafe fn reduce_add(a: Self::F) -> f32;
    unsafe fn reduce_max(a: Self::F) -> f32;
    /// The largest of `most`, and the least of `least` with the other sign.
    #[inline(always)]
    unsafe fn reduce_ends(most: Self::F, least: Self::F) -> (f32, f32) {
        // SAFETY: the caller's promise.
        unsafe { (Self::reduce_max(most), Self::reduce_max(Self::sub(Self::splat(0.0), least))) }
    }
    /// The larger of each lane of `max`, the bits of a magnitude, and the bits of `|a|`. NaN counts as larger than any
    /// number.
    unsafe fn max_magnitude(max: Self::I, a: Self::F) -> Self::I;
    /// The largest magnitude of all lanes, as a number.
    unsafe fn reduce_max_magnitude(max: Self::I) -> f32;

    unsafe fn splat_int(x: i32) -> Self::I;
    unsafe fn add_int(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn sub_int(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn shift_left<const N: u32>(a: Self::I) -> Self::I;
    /// Keeps the sign.
    unsafe fn shift_right<const N: u32>(a: Self::I) -> Self::I;
    unsafe fn reduce_add_int(a: Self::I) -> i32;
    unsafe fn to_float(a: Self::I) -> Self::F;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::I;
    /// The bits of an integer as an f32.
    unsafe fn bits_to_float(a: Self::I) -> Self::F;
    unsafe fn load_int(from: *const i32) -> Self::I;
    unsafe fn store_int(to: *mut i32, a: Self::I);
    /// Sixteen numbers of 16 bits without a sign.
    unsafe fn widen(from: *const u16) -> Self::I;
    /// Sixteen finite f16.
    unsafe fn load_f16(from: *const u16) -> Self::F;
    /// The low byte of each lane.
    unsafe fn store_bytes(to: *mut i8, a: Self::I);
    /// The low half of each lane, the second and third of every four swapped: so are the words of [`Simd::byte_words`].
    unsafe fn store_halves(to: *mut i16, a: Self::I);

    /// Eight numbers each of eight rows: `to[k * step + i] = from[i * stride + k]`. Left to itself a compiler may scatter,
    /// which some processors do a number at a time.
    #[inline(always)]
    unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, step: usize) {
        for k in 0..8 {
            for i in 0..8 {
                // SAFETY: the caller's pointers, within eight rows of eight.
                unsafe { *to.add(k * step + i) = *from.add(i * stride + k) };
            }
        }
    }

    /// Asks for a cache line that will be read soon. Any address will do.
    unsafe fn prefetch(from: *const u8);
    unsafe fn load_bytes(from: *const u8) -> Self::B;
    unsafe fn store_wide(to: *mut u8, a: Self::B);
    /// The low nibble of each byte, and the high one.
    unsafe fn nibbles(a: Self::B) -> (Self::B, Self::B);
    /// The nibbles of each lane's bytes as words: of two a lane, the low ones of bytes 0 and 2, and of 1 and 3, then the
    /// high ones.
    unsafe fn nibble_words(a: Self::B) -> [Self::W; 4];
    /// The bytes of each lane as words: 0 and 2, then 1 and 3.
    unsafe fn byte_words(a: Self::B) -> [Self::W; 2];
    /// In both words of each lane its number of sixteen.
    unsafe fn lane_words(from: *const i16) -> Self::W;
    /// The words that codes of a sign, four bits of exponent and three of mantissa stand for: the mantissa where the exponent
    /// is zero, else eight more, times two for each step above one. No exponent is above 12.
    unsafe fn float_words(codes: Self::W) -> Self::W;
    /// The entries of [`FP4_TWICE`] at `codes`, times factors.
    unsafe fn fp4_words(codes: Self::W, factors: Self::W) -> Self::W;
    /// Words that [`Simd::store_words`] wrote.
    unsafe fn load_words(from: *const u8) -> Self::W;
    /// Writes 64 bytes.
    unsafe fn store_words(to: *mut u8, a: Self::W);
    /// Adds to each lane the dot product of its two words with the two at `x`.
    unsafe fn dot_words(sum: Self::I, w: Self::W, x: *const i16) -> Self::I;
    /// [`Simd::dot_words`] of `runs` times sixteen inputs: of rows whose words of a run lie side by side, with words that were
    /// stored, those of a step [`STEP_OF_PAIR`] bytes behind those of the step before.
    #[inline(always)]
    unsafe fn dot_words_runs<const M: usize, const P: usize>(
        sums: &mut [[Self::I; P]; M],
        w: *const u8,
        x: *const i16,
        runs: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe { word_runs::<Self, M, P>(sums, w, x, runs) }
    }
    /// Adds to each lane the dot product of its four unsigned bytes, none above 127, with the four signed ones at `x`.
    /// Not where [`Simd::PAIRS`] are.
    unsafe fn dot4(sum: Self::I, w: Self::B, x: *const i8) -> Self::I;
    /// The products of two bytes each: unsigned ones, none above 15, with the four signed ones at `x`.
    unsafe fn pairs(w: Self::B, x: *const i8) -> Self::P;
    /// Adds these. A sum holds [`PAIR_STEPS`] of them.
    unsafe fn dot_pairs(sum: Self::P, w: Self::B, x: *const i8) -> Self::P;
    /// Adds both sums of a lane to it.
    unsafe fn add_pairs(sum: Self::I, pairs: Self::P) -> Self::I;
    /// As [`Simd::dot4`] for bytes up to 255. Only where [`Simd::FOURS`] are.
    unsafe fn dot8(sum: Self::I, w: Self::B, x: *const i8) -> Self::I;
    /// Adds the dot products of `runs` times sixteen inputs: of what rows' bytes are above [`CENTRE`], with signed weights. No
    /// byte is above 127, those of a run lie side by side; no weight is -128. For every eight inputs there are two steps of
    /// weights, and what [`Simd::centre_sevens`] wrote. Only where [`Simd::NEAREST`] has signs.
    #[inline(always)]
    unsafe fn dot_sevens<const M: usize, const P: usize>(
        _sums: &mut [[Self::I; P]; M],
        _w: *const u8,
        _x: *const i8,
        _runs: usize,
    ) {
        unreachable!("no family without this has such weights")
    }
    /// Writes what the products of two steps add up to where every byte of a row is [`CENTRE`], and adds it to `sum`.
    #[inline(always)]
    unsafe fn centre_sevens(_sum: Self::I, _w: [Self::B; 2], _to: *mut u8) -> Self::I {
        unreachable!("no family without this has such weights")
    }
}

/// The types of [`Number`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FloatType {
    F32,
    Bf16,
    F16,
}

/// A number that a panel can hold.
pub(super) trait Number: Copy {
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "only AVX2 has a kernel for each type")
    )]
    const TYPE: FloatType;

    /// Sixteen of them.
    ///
    /// # Safety
    /// The instruction set of `S` is enabled; `from` points to as many.
    unsafe fn load<S: Simd>(from: *const Self) -> S::F;
}

impl Number for f32 {
    const TYPE: FloatType = FloatType::F32;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::load(from) }
    }
}

impl Number for bf16 {
    const TYPE: FloatType = FloatType::Bf16;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::bits_to_float(S::shift_left::<16>(S::widen(from.cast()))) }
    }
}

impl Number for f16 {
    const TYPE: FloatType = FloatType::F16;

    /// Finite ones only.
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(from.cast()) }
    }
}

/// Products of `count` steps, as [`Simd::fma_steps`] has them.
///
/// # Safety
/// As there.
#[inline(always)]
#[expect(unsafe_op_in_unsafe_fn, reason = "intrinsics throughout, under the contract of the function")]
pub(super) unsafe fn float_steps<S: Simd, T: Number, const M: usize, const P: usize, const STRIDE: usize>(
    sums: &mut [[S::F; P]; M],
    w: *const T,
    w_stride: usize,
    x: *const f32,
    count: usize,
) {
    for k in 0..count {
        let w = w.add(k * w_stride);
        let mut panels = [T::load::<S>(w); P];
        for p in 1..P {
            panels[p] = T::load::<S>(w.add(p * LANES));
        }
        for m in 0..M {
            let x = S::splat(*x.add(k + m * STRIDE));
            for p in 0..P {
                sums[m][p] = S::fma(x, panels[p], sums[m][p]);
            }
        }
    }
}

/// [`Simd::fma_runs`], step by step.
///
/// # Safety
/// As there.
#[inline(always)]
#[expect(unsafe_op_in_unsafe_fn, reason = "intrinsics throughout, under the contract of the function")]
unsafe fn float_runs<S: Simd, T: Number, const M: usize, const P: usize>(
    sums: &mut [[S::F; P]; M],
    w: *const T,
    x: *const f32,
    runs: usize,
) {
    for run in 0..runs {
        let (w, x) = (w.add(run * LANES * 2 * LANES), x.add(run * LANES * M));
        float_steps::<S, T, M, P, LANES>(sums, w, 2 * LANES, x, LANES);
    }
}

/// [`Simd::dot_words_runs`], step by step.
///
/// # Safety
/// As there.
#[inline(always)]
#[expect(unsafe_op_in_unsafe_fn, reason = "intrinsics throughout, under the contract of the function")]
unsafe fn word_runs<S: Simd, const M: usize, const P: usize>(
    sums: &mut [[S::I; P]; M],
    w: *const u8,
    x: *const i16,
    runs: usize,
) {
    for run in 0..runs {
        for step in 0..LANES / 2 {
            let (w, x) = (w.add((run * LANES / 2 + step) * STEP_OF_PAIR), x.add(run * LANES * M + 2 * step));
            let mut panels = [S::load_words(w); P];
            for p in 1..P {
                panels[p] = S::load_words(w.add(p * STEP_OF_PAIR / 2));
            }
            for m in 0..M {
                for p in 0..P {
                    sums[m][p] = S::dot_words(sums[m][p], panels[p], x.add(LANES * m));
                }
            }
        }
    }
}

/// `e^x` to about two units in the last place; 0 below -87 and clamped above 88.
///
/// Cody and Waite's reduction to `[-ln 2 / 2, ln 2 / 2]` and the Taylor polynomial of degree 7 there.
///
/// # Safety
/// The instruction set of `S` is enabled.
#[inline(always)]
#[expect(unsafe_op_in_unsafe_fn, reason = "intrinsics throughout, under the contract of the function")]
pub(super) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // The number comes second, which is what these return where it is NaN.
    let x = S::max(S::splat(-87.33), S::min(S::splat(88.0), x));
    let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
    let nf = S::to_float(n);
    let r = S::fma(nf, S::splat(-0.693_359_4), x);
    let r = S::fma(nf, S::splat(2.121_944_4e-4), r);
    let mut p = S::splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = S::fma(p, r, S::splat(c));
    }
    S::mul(p, S::bits_to_float(S::shift_left::<23>(S::add_int(n, S::splat_int(127)))))
}

/// Copies so few numbers that a call of the library doesn't pay.
///
/// # Safety
/// The instruction set of `S` is enabled; both sides have `count` numbers.
#[inline(always)]
#[expect(unsafe_op_in_unsafe_fn, reason = "intrinsics throughout, under the contract of the function")]
pub(super) unsafe fn copy<S: Simd>(from: *const f32, to: *mut f32, count: usize) {
    let whole = count / LANES * LANES;
    for e in (0..whole).step_by(LANES) {
        S::store(to.add(e), S::load(from.add(e)));
    }
    for e in whole..count {
        *to.add(e) = *from.add(e);
    }
}
