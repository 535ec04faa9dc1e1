//! NEON, with or without its dot products: four registers a vector.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "each method is the intrinsics of one operation, under the contract of the trait"
)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::{FP4_TWICE, Nearest, Simd};

/// `DOT` says whether `sdot` is there.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Neon<const DOT: bool>;

/// All four quarters of a vector, one by one.
macro_rules! quarters {
    ($f:ident($($x:expr),*)) => { [$f($($x[0]),*), $f($($x[1]),*), $f($($x[2]),*), $f($($x[3]),*)] };
}

/// Four registers in a row.
macro_rules! in_a_row {
    ($load:ident($from:expr, $lanes:literal)) => {{
        let from = $from;
        [$load(from), $load(from.add($lanes)), $load(from.add(2 * $lanes)), $load(from.add(3 * $lanes))]
    }};
}

/// The same four signed bytes in every lane.
#[inline(always)]
unsafe fn four(x: *const i8) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned()))
}

/// `sdot`: adds to each lane the dot product of four signed bytes with four. Its intrinsic is stable only since Rust
/// 1.98.
///
/// # Safety
/// The machine has `dotprod`.
#[inline(always)]
unsafe fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // The extension is named because an assembler looks at the function that this was written in, which lacks it.
    asm!(
        ".arch_extension dotprod",
        "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
        sum = inout(vreg) sum,
        a = in(vreg) a,
        b = in(vreg) b,
        options(pure, nomem, nostack, preserves_flags),
    );
    sum
}

/// The words of each lane once they are moved down by `SHIFT`, of either as many bits as `mask` has.
#[inline(always)]
unsafe fn masked<const SHIFT: i32>(a: [uint32x4_t; 4], mask: u16) -> [[int16x4_t; 2]; 4] {
    let mask = vdup_n_u16(mask);
    let narrow = |lanes| vreinterpret_s16_u16(vand_u16(vmovn_u32(lanes), mask));
    let down = |lanes: uint32x4_t, by: i32| vshlq_u32(lanes, vdupq_n_s32(-by));
    let words = |lanes| [narrow(down(lanes, SHIFT)), narrow(down(lanes, SHIFT + 16))];
    [words(a[0]), words(a[1]), words(a[2]), words(a[3])]
}

/// [`Simd::float_words`] of four words.
#[inline(always)]
unsafe fn float_words(codes: int16x4_t) -> int16x4_t {
    let exponent = vand_s16(vshr_n_s16::<3>(codes), vdup_n_s16(15));
    let eight = vshl_n_s16::<3>(vmin_s16(exponent, vdup_n_s16(1)));
    let mantissa = vorr_s16(vand_s16(codes, vdup_n_s16(7)), eight);
    let magnitude = vshl_s16(mantissa, vmax_s16(vsub_s16(exponent, vdup_n_s16(1)), vdup_n_s16(0)));
    let negative = vshr_n_s16::<15>(vshl_n_s16::<8>(codes));
    vsub_s16(veor_s16(magnitude, negative), negative)
}

/// [`Simd::fp4_words`] of four words.
#[inline(always)]
unsafe fn fp4_words(codes: int16x4_t, factors: int16x4_t) -> int16x4_t {
    // In the upper bytes, above zeros, so that a shift extends their signs.
    let upper = vreinterpret_u8_s16(vshl_n_s16::<8>(codes));
    let values = vreinterpret_s16_s8(vqtbl1_s8(vld1q_s8(FP4_TWICE.as_ptr()), upper));
    vmul_s16(vshr_n_s16::<8>(values), factors)
}

/// [`sdot`] where there is none, for pairs of products whose sum 16 bits can hold.
#[inline(always)]
unsafe fn dot_of_small(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
    vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(a, b)))
}

/// The larger, and the second where either is NaN; the instruction would return NaN.
#[inline(always)]
unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcgtq_f32(a, b), a, b)
}

/// The smaller, and the second where either is NaN.
#[inline(always)]
unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcltq_f32(a, b), a, b)
}

// SAFETY: the methods do what the trait says; they reach memory only through the pointers given.
unsafe impl<const DOT: bool> Simd for Neon<DOT> {
    type F = [float32x4_t; 4];
    type I = [int32x4_t; 4];
    type B = [uint8x16_t; 4];
    type P = Self::I;
    /// The first words of four lanes, and the second ones.
    type W = [[int16x4_t; 2]; 4];

    const PANELS: usize = 2;
    const PAIRS: bool = false;
    const FOURS: bool = DOT;
    const NEAREST: Option<Nearest> = if DOT { Some(Nearest::Bytes) } else { None };

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        in_a_row!(vld1q_f32(from, 4))
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Self::F) {
        for (i, x) in x.into_iter().enumerate() {
            vst1q_f32(to.add(4 * i), x);
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [vdupq_n_f32(x); 4]
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        quarters!(vaddq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        quarters!(vsubq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        quarters!(vmulq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        quarters!(vdivq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        quarters!(max(a, b))
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        quarters!(min(a, b))
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        quarters!(vabsq_f32(a))
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // The intrinsic's sum comes first.
        quarters!(vfmaq_f32(c, a, b))
    }
    #[inline(always)]
    unsafe fn reduce_add(a: Self::F) -> f32 {
        vaddvq_f32(vaddq_f32(vaddq_f32(a[0], a[1]), vaddq_f32(a[2], a[3])))
    }
    #[inline(always)]
    unsafe fn reduce_max(a: Self::F) -> f32 {
        vmaxvq_f32(max(max(a[0], a[1]), max(a[2], a[3])))
    }

    #[inline(always)]
    unsafe fn max_magnitude(max: Self::I, a: Self::F) -> Self::I {
        let a = Self::abs(a);
        let a = quarters!(vreinterpretq_s32_f32(a));
        quarters!(vmaxq_s32(max, a))
    }
    #[inline(always)]
    unsafe fn reduce_max_magnitude(max: Self::I) -> f32 {
        let four = vmaxq_s32(vmaxq_s32(max[0], max[1]), vmaxq_s32(max[2], max[3]));
        f32::from_bits(vmaxvq_s32(four) as u32)
    }

    #[inline(always)]
    unsafe fn splat_int(x: i32) -> Self::I {
        [vdupq_n_s32(x); 4]
    }
    #[inline(always)]
    unsafe fn add_int(a: Self::I, b: Self::I) -> Self::I {
        quarters!(vaddq_s32(a, b))
    }
    #[inline(always)]
    unsafe fn sub_int(a: Self::I, b: Self::I) -> Self::I {
        quarters!(vsubq_s32(a, b))
    }
    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: Self::I) -> Self::I {
        let count = [vdupq_n_s32(N as i32); 4];
        quarters!(vshlq_s32(a, count))
    }
    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: Self::I) -> Self::I {
        // To the left by less than nothing.
        let count = [vdupq_n_s32(-(N as i32)); 4];
        quarters!(vshlq_s32(a, count))
    }
    #[inline(always)]
    unsafe fn reduce_add_int(a: Self::I) -> i32 {
        vaddvq_s32(vaddq_s32(vaddq_s32(a[0], a[1]), vaddq_s32(a[2], a[3])))
    }
    #[inline(always)]
    unsafe fn to_float(a: Self::I) -> Self::F {
        quarters!(vcvtq_f32_s32(a))
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::I {
        quarters!(vcvtnq_s32_f32(a))
    }
    #[inline(always)]
    unsafe fn bits_to_float(a: Self::I) -> Self::F {
        quarters!(vreinterpretq_f32_s32(a))
    }
    #[inline(always)]
    unsafe fn load_int(from: *const i32) -> Self::I {
        in_a_row!(vld1q_s32(from, 4))
    }
    #[inline(always)]
    unsafe fn store_int(to: *mut i32, a: Self::I) {
        for (i, a) in a.into_iter().enumerate() {
            vst1q_s32(to.add(4 * i), a);
        }
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> Self::I {
        let halves = [vld1q_u16(from), vld1q_u16(from.add(8))];
        let quarters = halves.map(|half| [vmovl_u16(vget_low_u16(half)), vmovl_high_u16(half)]);
        let [[a, b], [c, d]] = quarters;
        let wide = [a, b, c, d];
        quarters!(vreinterpretq_s32_u32(wide))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::F {
        // Exponent and fraction where an f32 has them make a number that is 2^112 times too small.
        let bits = Self::widen(from);
        let (rest, sign) = ([vdupq_n_s32(0x7fff); 4], [vdupq_n_s32(0x8000); 4]);
        let magnitude = Self::bits_to_float(Self::shift_left::<13>(quarters!(vandq_s32(bits, rest))));
        let magnitude = Self::mul(magnitude, Self::splat(f32::from_bits((127 + 112) << 23)));
        let sign = Self::shift_left::<16>(quarters!(vandq_s32(bits, sign)));
        let magnitude = quarters!(vreinterpretq_s32_f32(magnitude));
        Self::bits_to_float(quarters!(vorrq_s32(magnitude, sign)))
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut i8, a: Self::I) {
        let low = vcombine_s16(vmovn_s32(a[0]), vmovn_s32(a[1]));
        let high = vcombine_s16(vmovn_s32(a[2]), vmovn_s32(a[3]));
        vst1q_s8(to, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
    }

    #[inline(always)]
    unsafe fn store_halves(to: *mut i16, a: Self::I) {
        let halves =
            [vcombine_s16(vmovn_s32(a[0]), vmovn_s32(a[1])), vcombine_s16(vmovn_s32(a[2]), vmovn_s32(a[3]))];
        let swap = vreinterpretq_u8_u64(vcombine_u64(
            vcreate_u64(0x0706_0302_0504_0100),
            vcreate_u64(0x0f0e_0b0a_0d0c_0908),
        ));
        for (i, half) in halves.into_iter().enumerate() {
            vst1q_s8(to.add(8 * i).cast(), vqtbl1q_s8(vreinterpretq_s8_s16(half), swap));
        }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        // There is no stable intrinsic.
        asm!("prfm pldl1keep, [{from}]", from = in(reg) from, options(readonly, nostack, preserves_flags));
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self::B {
        in_a_row!(vld1q_u8(from, 16))
    }
    #[inline(always)]
    unsafe fn store_wide(to: *mut u8, a: Self::B) {
        for (i, a) in a.into_iter().enumerate() {
            vst1q_u8(to.add(16 * i), a);
        }
    }
    #[inline(always)]
    unsafe fn nibbles(a: Self::B) -> (Self::B, Self::B) {
        let (mask, down) = ([vdupq_n_u8(15); 4], [vdupq_n_s8(-4); 4]);
        (quarters!(vandq_u8(a, mask)), quarters!(vshlq_u8(a, down)))
    }
    #[inline(always)]
    unsafe fn nibble_words(a: Self::B) -> [Self::W; 4] {
        let a = quarters!(vreinterpretq_u32_u8(a));
        [masked::<0>(a, 15), masked::<8>(a, 15), masked::<4>(a, 15), masked::<12>(a, 15)]
    }
    #[inline(always)]
    unsafe fn byte_words(a: Self::B) -> [Self::W; 2] {
        let a = quarters!(vreinterpretq_u32_u8(a));
        [masked::<0>(a, 255), masked::<8>(a, 255)]
    }
    #[inline(always)]
    unsafe fn lane_words(from: *const i16) -> Self::W {
        in_a_row!(vld1_s16(from, 4)).map(|words| [words, words])
    }
    #[inline(always)]
    unsafe fn float_words(codes: Self::W) -> Self::W {
        let both = |[a, b]: [int16x4_t; 2]| [float_words(a), float_words(b)];
        [both(codes[0]), both(codes[1]), both(codes[2]), both(codes[3])]
    }
    #[inline(always)]
    unsafe fn fp4_words(codes: Self::W, factors: Self::W) -> Self::W {
        let both = |i: usize| [0, 1].map(|k| fp4_words(codes[i][k], factors[i][k]));
        [both(0), both(1), both(2), both(3)]
    }
    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> Self::W {
        let both = in_a_row!(vld1q_s16(from.cast::<i16>(), 8));
        [0, 1, 2, 3].map(|i| [vget_low_s16(both[i]), vget_high_s16(both[i])])
    }
    #[inline(always)]
    unsafe fn store_words(to: *mut u8, a: Self::W) {
        for (i, [first, second]) in a.into_iter().enumerate() {
            vst1q_s16(to.cast::<i16>().add(8 * i), vcombine_s16(first, second));
        }
    }
    #[inline(always)]
    unsafe fn dot_words(mut sum: Self::I, w: Self::W, x: *const i16) -> Self::I {
        let x = [vdup_n_s16(x.read_unaligned()), vdup_n_s16(x.add(1).read_unaligned())];
        for i in 0..4 {
            sum[i] = vmlal_s16(vmlal_s16(sum[i], w[i][0], x[0]), w[i][1], x[1]);
        }
        sum
    }
    #[inline(always)]
    unsafe fn dot4(sum: Self::I, w: Self::B, x: *const i8) -> Self::I {
        let (w, x) = (quarters!(vreinterpretq_s8_u8(w)), [four(x); 4]);
        // At most 2 * 127 * 128 a pair.
        if DOT { quarters!(sdot(sum, w, x)) } else { quarters!(dot_of_small(sum, w, x)) }
    }
    #[inline(always)]
    unsafe fn pairs(w: Self::B, x: *const i8) -> Self::I {
        Self::dot4(Self::splat_int(0), w, x)
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: Self::I, w: Self::B, x: *const i8) -> Self::I {
        Self::dot4(sum, w, x)
    }
    #[inline(always)]
    unsafe fn add_pairs(sum: Self::I, pairs: Self::I) -> Self::I {
        Self::add_int(sum, pairs)
    }
    #[inline(always)]
    unsafe fn dot8(sum: Self::I, w: Self::B, x: *const i8) -> Self::I {
        debug_assert!(DOT);
        let x = four(x);
        // Bytes less 128 are signed; 128 times the sum of `x` is then missing, in every lane alike.
        let middle = [vdupq_n_u8(128); 4];
        let w = quarters!(veorq_u8(w, middle));
        let w = quarters!(vreinterpretq_s8_u8(w));
        let missing = vnegq_s32(sdot(vdupq_n_s32(0), vdupq_n_s8(-128), x));
        let (x, missing) = ([x; 4], [missing; 4]);
        let sum = quarters!(vaddq_s32(sum, missing));
        quarters!(sdot(sum, w, x))
    }
}
