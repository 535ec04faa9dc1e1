//! AVX-512 (F, BW, VL, DQ), with or without VNNI.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "each method is the intrinsics of one operation, under the contract of the trait"
)]

use std::arch::x86_64::*;

use super::{FP4_TWICE, Nearest, Simd};

/// For each sign and exponent of [`Simd::float_words`]'s codes what a step of the mantissa is, and the first word.
static FLOATS: ([i16; 32], [i16; 32]) = {
    let (mut steps, mut firsts) = ([1; 32], [0; 32]);
    let mut exponent = 1;
    while exponent <= 12 {
        steps[exponent] = 1 << (exponent - 1);
        firsts[exponent] = 8 << (exponent - 1);
        exponent += 1;
    }
    let mut i = 0;
    while i < 16 {
        steps[16 + i] = -steps[i];
        firsts[16 + i] = -firsts[i];
        i += 1;
    }
    (steps, firsts)
};

/// [`FP4_TWICE`], twice.
static FP4: [i16; 32] = {
    let mut words = [0; 32];
    let mut i = 0;
    while i < 32 {
        words[i] = FP4_TWICE[i % 16] as i16;
        i += 1;
    }
    words
};

/// # Safety
/// AVX-512 is enabled.
#[inline(always)]
unsafe fn load_table(words: &[i16; 32]) -> __m512i {
    _mm512_loadu_si512(words.as_ptr().cast())
}

/// `VNNI` says whether `vpdpbusd` is there.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx512<const VNNI: bool>;

// SAFETY: the methods do what the trait says; they reach memory only through the pointers given.
unsafe impl<const VNNI: bool> Simd for Avx512<VNNI> {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;
    type P = __m512i;
    type W = __m512i;

    const PANELS: usize = 2;
    const PAIRS: bool = !VNNI;
    const FOURS: bool = VNNI;
    const NEAREST: Option<Nearest> = if VNNI { Some(Nearest::Bytes) } else { None };

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        _mm512_loadu_ps(from)
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m512) {
        _mm512_storeu_ps(to, x)
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        _mm512_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        _mm512_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn abs(a: __m512) -> __m512 {
        _mm512_abs_ps(a)
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn bf16_steps<const M: usize, const P: usize, const STRIDE: usize>(
        sums: &mut [[__m512; P]; M],
        w: *const f32,
        w_stride: usize,
        x: *const f32,
        count: usize,
    ) {
        // SAFETY: vectors of as many bits, all of which are numbers of both types.
        let pairs = |words: __m512| unsafe { std::mem::transmute::<__m512, __m512bh>(words) };
        for k in 0..count {
            let w = w.add(k * w_stride);
            let mut panels = [Self::load(w); P];
            for p in 1..P {
                panels[p] = Self::load(w.add(p * super::LANES));
            }
            for m in 0..M {
                let x = Self::splat(*x.add(k + m * STRIDE));
                for p in 0..P {
                    sums[m][p] = _mm512_dpbf16_ps(sums[m][p], pairs(x), pairs(panels[p]));
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn bf16_words(a: __m512, b: __m512) -> __m512 {
        let half = |x: __m512| {
            _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)))
        };
        _mm512_castsi512_ps(_mm512_or_si512(half(a), _mm512_slli_epi32::<16>(half(b))))
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut f32, x: __m512) {
        _mm256_storeu_si256(to.cast(), std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)))
    }
    #[inline(always)]
    unsafe fn reduce_add(a: __m512) -> f32 {
        _mm512_reduce_add_ps(a)
    }
    #[inline(always)]
    unsafe fn reduce_max(a: __m512) -> f32 {
        _mm512_reduce_max_ps(a)
    }

    #[inline(always)]
    unsafe fn max_magnitude(max: __m512i, a: __m512) -> __m512i {
        _mm512_max_epi32(max, _mm512_castps_si512(_mm512_abs_ps(a)))
    }
    #[inline(always)]
    unsafe fn reduce_max_magnitude(max: __m512i) -> f32 {
        f32::from_bits(_mm512_reduce_max_epi32(max) as u32)
    }

    #[inline(always)]
    unsafe fn splat_int(x: i32) -> __m512i {
        _mm512_set1_epi32(x)
    }
    #[inline(always)]
    unsafe fn add_int(a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn sub_int(a: __m512i, b: __m512i) -> __m512i {
        _mm512_sub_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: __m512i) -> __m512i {
        _mm512_slli_epi32::<N>(a)
    }
    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: __m512i) -> __m512i {
        _mm512_srai_epi32::<N>(a)
    }
    #[inline(always)]
    unsafe fn reduce_add_int(a: __m512i) -> i32 {
        _mm512_reduce_add_epi32(a)
    }
    #[inline(always)]
    unsafe fn to_float(a: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(a)
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512i {
        _mm512_cvtps_epi32(a)
    }
    #[inline(always)]
    unsafe fn bits_to_float(a: __m512i) -> __m512 {
        _mm512_castsi512_ps(a)
    }
    #[inline(always)]
    unsafe fn load_int(from: *const i32) -> __m512i {
        _mm512_loadu_si512(from.cast())
    }
    #[inline(always)]
    unsafe fn store_int(to: *mut i32, a: __m512i) {
        _mm512_storeu_si512(to.cast(), a)
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> __m512i {
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m512 {
        _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut i8, a: __m512i) {
        _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(a))
    }

    #[inline(always)]
    unsafe fn store_halves(to: *mut i16, a: __m512i) {
        let swap = _mm256_set1_epi64x(0x0706_0302_0504_0100);
        let swap =
            _mm256_add_epi8(swap, _mm256_setr_epi64x(0, 0x0808_0808_0808_0808, 0, 0x0808_0808_0808_0808));
        _mm256_storeu_si256(to.cast(), _mm256_shuffle_epi8(_mm512_cvtepi32_epi16(a), swap))
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, step: usize) {
        super::avx2::transpose(from, stride, to, step);
    }
    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(from.cast());
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m512i {
        _mm512_loadu_si512(from.cast())
    }
    #[inline(always)]
    unsafe fn store_wide(to: *mut u8, a: __m512i) {
        _mm512_storeu_si512(to.cast(), a)
    }
    #[inline(always)]
    unsafe fn nibbles(a: __m512i) -> (__m512i, __m512i) {
        let mask = _mm512_set1_epi8(15);
        (_mm512_and_si512(a, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(a), mask))
    }
    #[inline(always)]
    unsafe fn nibble_words(a: __m512i) -> [__m512i; 4] {
        let mask = _mm512_set1_epi16(15);
        [
            _mm512_and_si512(a, mask),
            _mm512_and_si512(_mm512_srli_epi16::<8>(a), mask),
            _mm512_and_si512(_mm512_srli_epi16::<4>(a), mask),
            _mm512_srli_epi16::<12>(a),
        ]
    }
    #[inline(always)]
    unsafe fn byte_words(a: __m512i) -> [__m512i; 2] {
        [_mm512_and_si512(a, _mm512_set1_epi16(255)), _mm512_srli_epi16::<8>(a)]
    }
    #[inline(always)]
    unsafe fn lane_words(from: *const i16) -> __m512i {
        let words = Self::widen(from.cast());
        _mm512_or_si512(words, _mm512_slli_epi32::<16>(words))
    }
    #[inline(always)]
    unsafe fn float_words(codes: __m512i) -> __m512i {
        // By sign and exponent.
        let upper = _mm512_srli_epi16::<3>(codes);
        let step = _mm512_permutexvar_epi16(upper, load_table(&FLOATS.0));
        let first = _mm512_permutexvar_epi16(upper, load_table(&FLOATS.1));
        let mantissa = _mm512_and_si512(codes, _mm512_set1_epi16(7));
        _mm512_add_epi16(first, _mm512_mullo_epi16(mantissa, step))
    }
    #[inline(always)]
    unsafe fn fp4_words(codes: __m512i, factors: __m512i) -> __m512i {
        _mm512_mullo_epi16(_mm512_permutexvar_epi16(codes, load_table(&FP4)), factors)
    }
    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> __m512i {
        Self::load_bytes(from)
    }
    #[inline(always)]
    unsafe fn store_words(to: *mut u8, a: __m512i) {
        Self::store_wide(to, a);
    }
    #[inline(always)]
    unsafe fn dot_words(sum: __m512i, w: __m512i, x: *const i16) -> __m512i {
        let x = _mm512_set1_epi32(x.cast::<i32>().read_unaligned());
        if VNNI { _mm512_dpwssd_epi32(sum, w, x) } else { _mm512_add_epi32(sum, _mm512_madd_epi16(w, x)) }
    }
    #[inline(always)]
    unsafe fn dot4(sum: __m512i, w: __m512i, x: *const i8) -> __m512i {
        debug_assert!(VNNI);
        _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    unsafe fn pairs(w: __m512i, x: *const i8) -> __m512i {
        _mm512_maddubs_epi16(w, _mm512_set1_epi32(x.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: __m512i, w: __m512i, x: *const i8) -> __m512i {
        _mm512_add_epi16(sum, Self::pairs(w, x))
    }
    #[inline(always)]
    unsafe fn add_pairs(sum: __m512i, pairs: __m512i) -> __m512i {
        _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
    }
    #[inline(always)]
    unsafe fn dot8(sum: __m512i, w: __m512i, x: *const i8) -> __m512i {
        Self::dot4(sum, w, x)
    }
}
