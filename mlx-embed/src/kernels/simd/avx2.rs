//! AVX2 with FMA, with or without VNNI: two registers a vector.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "each method is the intrinsics of one operation, under the contract of the trait"
)]

use std::arch::asm;
use std::arch::x86_64::*;

use super::{
    CENTRE, EIGHT_OF_PAIR, FP4_TWICE, FloatType, LANES, Nearest, Number, STEP_OF_PAIR, Simd, float_runs,
    float_steps, word_runs,
};

/// Rows of a tile whose sums, with what else a step needs, fit sixteen registers.
const TILE_ROWS: usize = 5;

/// `VNNI` says whether the VEX form of `vpdpbusd` is there.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx2<const VNNI: bool>;

/// Both halves of a vector, one by one.
macro_rules! halves {
    ($f:ident($($x:expr),*)) => { [$f($($x[0]),*), $f($($x[1]),*)] };
}

impl<const VNNI: bool> Avx2<VNNI> {
    #[inline(always)]
    unsafe fn nibbles_half(a: __m256i) -> (__m256i, __m256i) {
        let mask = _mm256_set1_epi8(15);
        (_mm256_and_si256(a, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(a), mask))
    }
}

/// [`Simd::float_words`] of half a vector.
#[inline(always)]
unsafe fn float_words(codes: __m256i) -> __m256i {
    // Two to the exponent less one: its lower byte where that is below 8, else its upper one.
    let lower = _mm256_setr_epi8(
        1, 1, 2, 4, 8, 16, 32, 64, -128, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 4, 8, 16, 32, 64, -128, 0, 0, 0, 0, 0,
        0, 0,
    );
    let upper = _mm256_setr_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 0, 0, 0,
    );
    let exponent = _mm256_and_si256(_mm256_srli_epi16::<3>(codes), _mm256_set1_epi16(15));
    let eight = _mm256_slli_epi16::<3>(_mm256_min_epi16(exponent, _mm256_set1_epi16(1)));
    let mantissa = _mm256_or_si256(_mm256_and_si256(codes, _mm256_set1_epi16(7)), eight);
    let low = _mm256_and_si256(_mm256_shuffle_epi8(lower, exponent), _mm256_set1_epi16(255));
    let high = _mm256_shuffle_epi8(upper, _mm256_slli_epi16::<8>(exponent));
    let magnitude = _mm256_mullo_epi16(mantissa, _mm256_or_si256(low, high));
    let negative = _mm256_srai_epi16::<15>(_mm256_slli_epi16::<8>(codes));
    _mm256_sub_epi16(_mm256_xor_si256(magnitude, negative), negative)
}

/// [`Simd::fp4_words`] of half a vector.
#[inline(always)]
unsafe fn fp4_words(codes: __m256i, factors: __m256i) -> __m256i {
    let values = _mm256_broadcastsi128_si256(_mm_loadu_si128(FP4_TWICE.as_ptr().cast()));
    // In the upper bytes, above zeros, so that a shift extends their signs.
    let values = _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(values, _mm256_slli_epi16::<8>(codes)));
    _mm256_mullo_epi16(values, factors)
}

/// Adds to the sums of rows the products of several runs of steps.
///
/// A tile's sums, its weights and two more take all sixteen registers. Left to itself a compiler reads ahead and holds
/// several products at once, more than there is room for, and keeps sums on the stack.
macro_rules! add_runs {
    (
        $sums:ident, $w:ident, $stride:ident, $x:ident, $runs:ident, [$load:ident $spread:literal $add:ident $($scratch:ident)?],
        [$($m:literal $low:ident $high:ident $offset:ident),*]
    ) => {
        // SAFETY: writes nothing but registers, all of which are declared; the caller's numbers can be read.
        unsafe {
            asm!(
                "2:",
                ".rept {steps}",
                $load!("low_w", "0", "0"),
                $load!("high_w", "16", "32"),
                $(
                    concat!($spread, " {shared}, dword ptr [{x} + {", stringify!($offset), "}]"),
                    $add!($low, "low_w"),
                    $add!($high, "high_w"),
                )*
                "add {w}, {stride}",
                "add {x}, 4",
                ".endr",
                "add {x}, {skip}",
                "dec {runs}",
                "jnz 2b",
                shared = out(ymm_reg) _,
                low_w = out(ymm_reg) _,
                high_w = out(ymm_reg) _,
                $($scratch = out(ymm_reg) _,)?
                w = inout(reg) $w => _,
                stride = in(reg) $stride,
                x = inout(reg) $x => _,
                runs = inout(reg) $runs => _,
                $(
                    $low = inout(ymm_reg) $sums[$m][0][0],
                    $high = inout(ymm_reg) $sums[$m][0][1],
                    $offset = const 4 * STRIDE * $m,
                )*
                steps = const STEPS,
                skip = const if STEPS == STRIDE { 4 * STRIDE * (M - 1) } else { 0 },
                options(nostack)
            );
        }
    };
}
macro_rules! add_floats {
    ($sum:ident, $w:literal) => {
        concat!("vfmadd231ps {", stringify!($sum), "}, {", $w, "}, {shared}")
    };
}
macro_rules! add_words {
    ($sum:ident, $w:literal) => {
        concat!(
            "vpmaddwd {product}, {",
            $w,
            "}, {shared}\n",
            "vpaddd {",
            stringify!($sum),
            "}, {",
            stringify!($sum),
            "}, {product}"
        )
    };
}
/// Eight weights of 32 bits, some bytes from `w` on: so many if they are 16 bits there, so many if they are 32.
macro_rules! load_whole {
    ($w:literal, $narrow:literal, $wide:literal) => {
        concat!("vmovups {", $w, "}, ymmword ptr [{w} + ", $wide, "]")
    };
}
macro_rules! load_bf16 {
    ($w:literal, $narrow:literal, $wide:literal) => {
        concat!("vpmovzxwd {", $w, "}, xmmword ptr [{w} + ", $narrow, "]\nvpslld {", $w, "}, {", $w, "}, 16")
    };
}
macro_rules! load_f16 {
    ($w:literal, $narrow:literal, $wide:literal) => {
        concat!("vcvtph2ps {", $w, "}, xmmword ptr [{w} + ", $narrow, "]")
    };
}
/// A function that adds to the sums of `M` rows, at most [`TILE_ROWS`], the products of `runs` times `STEPS` steps with one
/// panel. The weights of a step are `stride` bytes behind those of the step before. What a row has for a step, 32 bits, is
/// `4 * STRIDE` bytes behind what the row before has, and 4 behind what it has for the step before; where a run is all
/// that lies side by side, the next one is behind the last row's.
macro_rules! runs_of_rows {
    ($name:ident, $register:ty, $how:tt) => {
        /// # Safety
        /// AVX2, FMA and F16C are enabled; the pointers are valid for so many steps; there is a run.
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name<const M: usize, const P: usize, const STRIDE: usize, const STEPS: usize>(
            sums: &mut [[[$register; 2]; P]; M],
            w: *const u8,
            stride: usize,
            x: *const u8,
            runs: usize,
        ) {
            match M {
                1 => add_runs!(sums, w, stride, x, runs, $how, [0 a b at0]),
                2 => add_runs!(sums, w, stride, x, runs, $how, [0 a b at0, 1 c d at1]),
                3 => add_runs!(sums, w, stride, x, runs, $how, [0 a b at0, 1 c d at1, 2 e f at2]),
                4 => add_runs!(sums, w, stride, x, runs, $how, [0 a b at0, 1 c d at1, 2 e f at2, 3 g h at3]),
                TILE_ROWS => add_runs!(
                    sums, w, stride, x, runs, $how,
                    [0 a b at0, 1 c d at1, 2 e f at2, 3 g h at3, 4 i j at4]
                ),
                _ => unreachable!("a tile of {M} rows"),
            }
        }
    };
}
runs_of_rows!(add_f32_runs, __m256, [load_whole "vbroadcastss" add_floats]);
runs_of_rows!(add_bf16_runs, __m256, [load_bf16 "vbroadcastss" add_floats]);
runs_of_rows!(add_f16_runs, __m256, [load_f16 "vbroadcastss" add_floats]);
runs_of_rows!(add_word_runs, __m256i, [load_whole "vpbroadcastd" add_words product]);

/// A function that adds products of weights with what all lanes share, by an instruction that multiplies and one that
/// adds.
///
/// A tile's sums, its weights and two more take all sixteen registers. Left to itself a compiler holds more products at
/// once than there is room for, and keeps sums on the stack.
macro_rules! add_products {
    ($name:ident, $multiply:literal, $add:literal) => {
        /// # Safety
        /// AVX2 is enabled.
        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn $name(sum: [__m256i; 2], w: [__m256i; 2], x: __m256i) -> [__m256i; 2] {
            let [mut low, mut high] = sum;
            // SAFETY: touches nothing but registers, all of which are declared; AVX2 is enabled.
            unsafe {
                asm!(
                    concat!($multiply, " {product}, {low_w}, {x}"),
                    concat!($add, " {low}, {low}, {product}"),
                    concat!($multiply, " {product}, {high_w}, {x}"),
                    concat!($add, " {high}, {high}, {product}"),
                    product = out(ymm_reg) _,
                    low_w = in(ymm_reg) w[0],
                    high_w = in(ymm_reg) w[1],
                    x = in(ymm_reg) x,
                    low = inout(ymm_reg) low,
                    high = inout(ymm_reg) high,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            [low, high]
        }
    };
}
/// Adds to the sums of rows the products of several runs, as [`Simd::dot_sevens`] has them.
///
/// A sum of four products of bytes may take 17 bits. That of what they are above their middle takes 16, so what the middles
/// add up to is taken off while all is modulo 2^16, and half as many sums are widened as there would be of two products.
macro_rules! add_sevens {
    ($sums:ident, $w:ident, $x:ident, $runs:ident, [$($m:literal $low:ident $high:ident $offset:ident),*]) => {
        // SAFETY: writes nothing but registers, all of which are declared; the caller's numbers can be read.
        unsafe {
            asm!(
                "2:",
                ".rept 2",
                "vmovdqu {low_centre}, ymmword ptr [{w} + 256]",
                "vmovdqu {high_centre}, ymmword ptr [{w} + 288]",
                $(
                    concat!("vpbroadcastd {first}, dword ptr [{x} + {", stringify!($offset), "}]"),
                    concat!("vpbroadcastd {second}, dword ptr [{x} + {", stringify!($offset), "} + 4]"),
                    "vpmaddubsw {low}, {first}, ymmword ptr [{w}]",
                    "vpmaddubsw {high}, {first}, ymmword ptr [{w} + 32]",
                    "vpmaddubsw {first}, {second}, ymmword ptr [{w} + 128]",
                    "vpmaddubsw {second}, {second}, ymmword ptr [{w} + 160]",
                    "vpsubw {low}, {low}, {low_centre}",
                    "vpsubw {high}, {high}, {high_centre}",
                    "vpaddw {low}, {low}, {first}",
                    "vpaddw {high}, {high}, {second}",
                    "vpmaddwd {low}, {low}, {ones}",
                    "vpmaddwd {high}, {high}, {ones}",
                    concat!("vpaddd {", stringify!($low), "}, {", stringify!($low), "}, {low}"),
                    concat!("vpaddd {", stringify!($high), "}, {", stringify!($high), "}, {high}"),
                )*
                "add {w}, {eight}",
                "add {x}, 8",
                ".endr",
                "add {x}, {skip}",
                "dec {runs}",
                "jnz 2b",
                low = out(ymm_reg) _,
                high = out(ymm_reg) _,
                first = out(ymm_reg) _,
                second = out(ymm_reg) _,
                low_centre = out(ymm_reg) _,
                high_centre = out(ymm_reg) _,
                ones = in(ymm_reg) _mm256_set1_epi16(1),
                w = inout(reg) $w => _,
                x = inout(reg) $x => _,
                runs = inout(reg) $runs => _,
                $(
                    $low = inout(ymm_reg) $sums[$m][0][0],
                    $high = inout(ymm_reg) $sums[$m][0][1],
                    $offset = const LANES * $m,
                )*
                eight = const EIGHT_OF_PAIR,
                skip = const LANES * M - LANES,
                options(nostack)
            );
        }
    };
}

/// [`Simd::dot_sevens`] of one panel.
///
/// # Safety
/// AVX2 is enabled; the pointers are valid for so many runs; there is one.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_seven_runs<const M: usize, const P: usize>(
    sums: &mut [[[__m256i; 2]; P]; M],
    w: *const u8,
    x: *const i8,
    runs: usize,
) {
    match M {
        1 => add_sevens!(sums, w, x, runs, [0 a b at0]),
        2 => add_sevens!(sums, w, x, runs, [0 a b at0, 1 c d at1]),
        3 => add_sevens!(sums, w, x, runs, [0 a b at0, 1 c d at1, 2 e f at2]),
        4 => add_sevens!(sums, w, x, runs, [0 a b at0, 1 c d at1, 2 e f at2, 3 g h at3]),
        _ => unreachable!("a tile of {M} rows"),
    }
}

add_products!(add_byte_products, "vpmaddubsw", "vpaddw");
add_products!(add_word_products, "vpmaddwd", "vpaddd");

/// [`Simd::transpose`], by halves of a register.
///
/// # Safety
/// AVX2 is enabled; the pointers are valid for eight rows of eight.
#[inline(always)]
pub(super) unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, step: usize) {
    let [mut low, mut high] = [[_mm256_setzero_ps(); 4]; 2];
    for i in 0..4 {
        let [a, b] =
            [_mm256_loadu_ps(from.add(2 * i * stride)), _mm256_loadu_ps(from.add((2 * i + 1) * stride))];
        (low[i], high[i]) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    }
    // Columns 0, 1, 4 and 5 of all rows, and 2, 3, 6 and 7.
    for (first, [a, b, c, d]) in [(0, low), (2, high)] {
        let (even0, even1) = (_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0x44>(c, d));
        let (odd0, odd1) = (_mm256_shuffle_ps::<0xee>(a, b), _mm256_shuffle_ps::<0xee>(c, d));
        _mm256_storeu_ps(to.add(first * step), _mm256_permute2f128_ps::<0x20>(even0, even1));
        _mm256_storeu_ps(to.add((first + 1) * step), _mm256_permute2f128_ps::<0x20>(odd0, odd1));
        _mm256_storeu_ps(to.add((first + 4) * step), _mm256_permute2f128_ps::<0x31>(even0, even1));
        _mm256_storeu_ps(to.add((first + 5) * step), _mm256_permute2f128_ps::<0x31>(odd0, odd1));
    }
}

// SAFETY: the methods do what the trait says; they reach memory only through the pointers given.
unsafe impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type B = [__m256i; 2];
    type P = [__m256i; 2];
    type W = [__m256i; 2];

    const PANELS: usize = 1;
    const PAIRS: bool = !VNNI;
    const FOURS: bool = VNNI;
    // Without VNNI five instructions for 64 products, where f32 has one for eight.
    const NEAREST: Option<Nearest> = Some(if VNNI { Nearest::Bytes } else { Nearest::SignedBytes });

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Self::F) {
        _mm256_storeu_ps(to, x[0]);
        _mm256_storeu_ps(to.add(8), x[1]);
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [_mm256_set1_ps(x); 2]
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        let sign = [_mm256_set1_ps(-0.0); 2];
        halves!(_mm256_andnot_ps(sign, a))
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        halves!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    unsafe fn fma_steps<const M: usize, const P: usize, const STRIDE: usize>(
        sums: &mut [[Self::F; P]; M],
        w: *const f32,
        w_stride: usize,
        x: *const f32,
        count: usize,
    ) {
        let fours = if P == 1 && M <= TILE_ROWS { count / 4 } else { 0 };
        if fours > 0 {
            add_f32_runs::<M, P, STRIDE, 4>(sums, w.cast(), 4 * w_stride, x.cast(), fours);
        }
        let done = 4 * fours;
        if done < count {
            let (w, x) = (w.add(done * w_stride), x.add(done));
            float_steps::<Self, f32, M, P, STRIDE>(sums, w, w_stride, x, count - done);
        }
    }
    #[inline(always)]
    unsafe fn fma_runs<T: Number, const M: usize, const P: usize>(
        sums: &mut [[Self::F; P]; M],
        w: *const T,
        x: *const f32,
        runs: usize,
    ) {
        if P > 1 || M > TILE_ROWS {
            return float_runs::<Self, T, M, P>(sums, w, x, runs);
        }
        if runs > 0 {
            let add = match T::TYPE {
                FloatType::F32 => add_f32_runs::<M, P, LANES, LANES>,
                FloatType::Bf16 => add_bf16_runs::<M, P, LANES, LANES>,
                FloatType::F16 => add_f16_runs::<M, P, LANES, LANES>,
            };
            add(sums, w.cast(), 2 * LANES * size_of::<T>(), x.cast(), runs);
        }
    }
    #[inline(always)]
    unsafe fn reduce_add(a: Self::F) -> f32 {
        let eight = _mm256_add_ps(a[0], a[1]);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
    #[inline(always)]
    unsafe fn reduce_max(a: Self::F) -> f32 {
        let eight = _mm256_max_ps(a[0], a[1]);
        let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }
    #[inline(always)]
    unsafe fn reduce_ends(most: Self::F, least: Self::F) -> (f32, f32) {
        let most = _mm256_max_ps(most[0], most[1]);
        let least = _mm256_xor_ps(_mm256_min_ps(least[0], least[1]), _mm256_set1_ps(-0.0));
        // Both side by side.
        let lower = _mm256_permute2f128_ps::<0x20>(most, least);
        let four = _mm256_max_ps(lower, _mm256_permute2f128_ps::<0x31>(most, least));
        let two = _mm256_max_ps(four, _mm256_permute_ps::<0b1110>(four));
        let one = _mm256_max_ps(two, _mm256_movehdup_ps(two));
        (_mm256_cvtss_f32(one), _mm_cvtss_f32(_mm256_extractf128_ps::<1>(one)))
    }

    #[inline(always)]
    unsafe fn max_magnitude(max: Self::I, a: Self::F) -> Self::I {
        let a = Self::abs(a);
        let a = [_mm256_castps_si256(a[0]), _mm256_castps_si256(a[1])];
        halves!(_mm256_max_epi32(max, a))
    }
    #[inline(always)]
    unsafe fn reduce_max_magnitude(max: Self::I) -> f32 {
        let eight = _mm256_max_epi32(max[0], max[1]);
        let four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
        let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
        let one = _mm_max_epi32(two, _mm_shuffle_epi32::<1>(two));
        f32::from_bits(_mm_cvtsi128_si32(one) as u32)
    }

    #[inline(always)]
    unsafe fn splat_int(x: i32) -> Self::I {
        [_mm256_set1_epi32(x); 2]
    }
    #[inline(always)]
    unsafe fn add_int(a: Self::I, b: Self::I) -> Self::I {
        halves!(_mm256_add_epi32(a, b))
    }
    #[inline(always)]
    unsafe fn sub_int(a: Self::I, b: Self::I) -> Self::I {
        halves!(_mm256_sub_epi32(a, b))
    }
    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: Self::I) -> Self::I {
        let count = _mm_cvtsi32_si128(N as i32);
        [_mm256_sll_epi32(a[0], count), _mm256_sll_epi32(a[1], count)]
    }
    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: Self::I) -> Self::I {
        let count = _mm_cvtsi32_si128(N as i32);
        [_mm256_sra_epi32(a[0], count), _mm256_sra_epi32(a[1], count)]
    }
    #[inline(always)]
    unsafe fn reduce_add_int(a: Self::I) -> i32 {
        let eight = _mm256_add_epi32(a[0], a[1]);
        let four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
        _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
    }
    #[inline(always)]
    unsafe fn to_float(a: Self::I) -> Self::F {
        halves!(_mm256_cvtepi32_ps(a))
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::I {
        halves!(_mm256_cvtps_epi32(a))
    }
    #[inline(always)]
    unsafe fn bits_to_float(a: Self::I) -> Self::F {
        halves!(_mm256_castsi256_ps(a))
    }
    #[inline(always)]
    unsafe fn load_int(from: *const i32) -> Self::I {
        Self::load_bytes(from.cast())
    }
    #[inline(always)]
    unsafe fn store_int(to: *mut i32, a: Self::I) {
        Self::store_wide(to.cast(), a);
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> Self::I {
        let halves = [_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(8).cast())];
        [_mm256_cvtepu16_epi32(halves[0]), _mm256_cvtepu16_epi32(halves[1])]
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::F {
        let halves = [_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(8).cast())];
        [_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1])]
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut i8, a: Self::I) {
        // The low byte of each lane to the front of its half, then the four fronts side by side.
        let pick = _mm256_setr_epi8(
            0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1,
            -1, -1, -1, -1, -1, -1,
        );
        let join = _mm256_setr_epi32(0, 4, 1, 1, 1, 1, 1, 1);
        for (half, x) in a.into_iter().enumerate() {
            let x = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(x, pick), join);
            _mm_storel_epi64(to.add(8 * half).cast(), _mm256_castsi256_si128(x));
        }
    }

    #[inline(always)]
    unsafe fn store_halves(to: *mut i16, a: Self::I) {
        // The low half of each lane to the front of its quarter, then the four fronts side by side.
        let pick = _mm256_setr_epi8(
            0, 1, 8, 9, 4, 5, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 8, 9, 4, 5, 12, 13, -1, -1, -1,
            -1, -1, -1, -1, -1,
        );
        for (half, x) in a.into_iter().enumerate() {
            let x = _mm256_permute4x64_epi64::<0b1000>(_mm256_shuffle_epi8(x, pick));
            _mm_storeu_si128(to.add(8 * half).cast(), _mm256_castsi256_si128(x));
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, step: usize) {
        transpose(from, stride, to, step);
    }
    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(from.cast());
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self::B {
        [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())]
    }
    #[inline(always)]
    unsafe fn store_wide(to: *mut u8, a: Self::B) {
        _mm256_storeu_si256(to.cast(), a[0]);
        _mm256_storeu_si256(to.add(32).cast(), a[1]);
    }
    #[inline(always)]
    unsafe fn nibbles(a: Self::B) -> (Self::B, Self::B) {
        let ((l0, h0), (l1, h1)) = (Self::nibbles_half(a[0]), Self::nibbles_half(a[1]));
        ([l0, l1], [h0, h1])
    }
    #[inline(always)]
    unsafe fn nibble_words(a: Self::B) -> [Self::W; 4] {
        let mask = [_mm256_set1_epi16(15); 2];
        let [second, third, last] = [
            [_mm256_srli_epi16::<8>(a[0]), _mm256_srli_epi16::<8>(a[1])],
            [_mm256_srli_epi16::<4>(a[0]), _mm256_srli_epi16::<4>(a[1])],
            [_mm256_srli_epi16::<12>(a[0]), _mm256_srli_epi16::<12>(a[1])],
        ];
        [
            halves!(_mm256_and_si256(a, mask)),
            halves!(_mm256_and_si256(second, mask)),
            halves!(_mm256_and_si256(third, mask)),
            last,
        ]
    }
    #[inline(always)]
    unsafe fn byte_words(a: Self::B) -> [Self::W; 2] {
        let mask = [_mm256_set1_epi16(255); 2];
        [halves!(_mm256_and_si256(a, mask)), [_mm256_srli_epi16::<8>(a[0]), _mm256_srli_epi16::<8>(a[1])]]
    }
    #[inline(always)]
    unsafe fn lane_words(from: *const i16) -> Self::W {
        let words = Self::widen(from.cast());
        let upper = [_mm256_slli_epi32::<16>(words[0]), _mm256_slli_epi32::<16>(words[1])];
        halves!(_mm256_or_si256(words, upper))
    }
    #[inline(always)]
    unsafe fn float_words(codes: Self::W) -> Self::W {
        halves!(float_words(codes))
    }
    #[inline(always)]
    unsafe fn fp4_words(codes: Self::W, factors: Self::W) -> Self::W {
        halves!(fp4_words(codes, factors))
    }
    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> Self::W {
        Self::load_bytes(from)
    }
    #[inline(always)]
    unsafe fn store_words(to: *mut u8, a: Self::W) {
        Self::store_wide(to, a);
    }
    #[inline(always)]
    unsafe fn dot_words(sum: Self::I, w: Self::W, x: *const i16) -> Self::I {
        let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
        if VNNI {
            let x = [x; 2];
            halves!(_mm256_dpwssd_avx_epi32(sum, w, x))
        } else {
            add_word_products(sum, w, x)
        }
    }
    #[inline(always)]
    unsafe fn dot_words_runs<const M: usize, const P: usize>(
        sums: &mut [[Self::I; P]; M],
        w: *const u8,
        x: *const i16,
        runs: usize,
    ) {
        if VNNI || P > 1 || M > TILE_ROWS {
            return word_runs::<Self, M, P>(sums, w, x, runs);
        }
        if runs > 0 {
            add_word_runs::<M, P, { LANES / 2 }, { LANES / 2 }>(sums, w, STEP_OF_PAIR, x.cast(), runs);
        }
    }
    #[inline(always)]
    unsafe fn dot4(sum: Self::I, w: Self::B, x: *const i8) -> Self::I {
        debug_assert!(VNNI);
        let x = [_mm256_set1_epi32(x.cast::<i32>().read_unaligned()); 2];
        halves!(_mm256_dpbusd_avx_epi32(sum, w, x))
    }
    #[inline(always)]
    unsafe fn pairs(w: Self::B, x: *const i8) -> Self::P {
        let x = [_mm256_set1_epi32(x.cast::<i32>().read_unaligned()); 2];
        halves!(_mm256_maddubs_epi16(w, x))
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: Self::P, w: Self::B, x: *const i8) -> Self::P {
        add_byte_products(sum, w, _mm256_set1_epi32(x.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    unsafe fn add_pairs(sum: Self::I, pairs: Self::P) -> Self::I {
        let ones = [_mm256_set1_epi16(1); 2];
        let wide = halves!(_mm256_madd_epi16(pairs, ones));
        halves!(_mm256_add_epi32(sum, wide))
    }
    #[inline(always)]
    unsafe fn dot8(sum: Self::I, w: Self::B, x: *const i8) -> Self::I {
        Self::dot4(sum, w, x)
    }
    #[inline(always)]
    unsafe fn dot_sevens<const M: usize, const P: usize>(
        sums: &mut [[Self::I; P]; M],
        w: *const u8,
        x: *const i8,
        runs: usize,
    ) {
        assert!(P == Self::PANELS, "sums of {P} panels");
        if runs > 0 {
            add_seven_runs::<M, P>(sums, w, x, runs);
        }
    }
    #[inline(always)]
    unsafe fn centre_sevens(sum: Self::I, [first, second]: [Self::B; 2], to: *mut u8) -> Self::I {
        let centre = [_mm256_set1_epi8(CENTRE); 2];
        let [first, second] =
            [halves!(_mm256_maddubs_epi16(centre, first)), halves!(_mm256_maddubs_epi16(centre, second))];
        let both = halves!(_mm256_add_epi16(first, second));
        Self::store_wide(to, both);
        Self::add_pairs(sum, both)
    }
}
