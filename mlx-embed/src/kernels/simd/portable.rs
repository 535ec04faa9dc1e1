//! Plain Rust, for every machine.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "each method is the intrinsics of one operation, under the contract of the trait"
)]

use super::{FP4_TWICE, Nearest, Simd, float_word};

/// A vector, lane by lane: a loop in place. `array::from_fn` and `map` are functions of core, which a compiler inlines or
/// not as it likes; behind a call vectors go through memory.
macro_rules! lanes {
    ($i:ident: $value:expr) => {{
        let mut lanes = [Default::default(); 16];
        for $i in 0..16 {
            lanes[$i] = $value;
        }
        lanes
    }};
}

/// Two words of a lane.
#[inline(always)]
fn both(first: i16, second: i16) -> u32 {
    u32::from(first as u16) | u32::from(second as u16) << 16
}

#[derive(Clone, Copy)]
pub(in crate::kernels) struct Portable;

// SAFETY: the methods do what the trait says; they reach memory only through the pointers given.
unsafe impl Simd for Portable {
    type F = [f32; 16];
    type I = [i32; 16];
    /// A lane's first byte lowest. A vector of bytes would have to be taken apart before its lanes could be summed, which
    /// compilers gave up on.
    type B = [u32; 16];
    type P = Self::I;
    /// A lane's first word lowest.
    type W = [u32; 16];

    const PANELS: usize = 2;
    const PAIRS: bool = false;
    const FOURS: bool = false;
    const NEAREST: Option<Nearest> = None;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 16] {
        from.cast::<[f32; 16]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: [f32; 16]) {
        to.cast::<[f32; 16]>().write_unaligned(x)
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i: a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i: a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i: a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i: a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i: if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i: if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn abs(a: [f32; 16]) -> [f32; 16] {
        lanes!(i: a[i].abs())
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        // `mul_add` is a library call where the machine has no such instruction.
        lanes!(i: a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn reduce_add(a: [f32; 16]) -> f32 {
        a.iter().sum()
    }
    #[inline(always)]
    unsafe fn reduce_max(a: [f32; 16]) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m })
    }

    #[inline(always)]
    unsafe fn max_magnitude(max: [i32; 16], a: [f32; 16]) -> [i32; 16] {
        lanes!(i: max[i].max(a[i].abs().to_bits() as i32))
    }
    #[inline(always)]
    unsafe fn reduce_max_magnitude(max: [i32; 16]) -> f32 {
        f32::from_bits(max.into_iter().fold(0, i32::max) as u32)
    }

    #[inline(always)]
    unsafe fn splat_int(x: i32) -> [i32; 16] {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn add_int(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        lanes!(i: a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn sub_int(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        lanes!(i: a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: [i32; 16]) -> [i32; 16] {
        lanes!(i: a[i] << N)
    }
    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: [i32; 16]) -> [i32; 16] {
        lanes!(i: a[i] >> N)
    }
    #[inline(always)]
    unsafe fn reduce_add_int(a: [i32; 16]) -> i32 {
        a.into_iter().fold(0, i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn to_float(a: [i32; 16]) -> [f32; 16] {
        lanes!(i: a[i] as f32)
    }
    #[inline(always)]
    unsafe fn round(a: [f32; 16]) -> [i32; 16] {
        lanes!(i: a[i].round_ties_even() as i32)
    }
    #[inline(always)]
    unsafe fn bits_to_float(a: [i32; 16]) -> [f32; 16] {
        lanes!(i: f32::from_bits(a[i] as u32))
    }
    #[inline(always)]
    unsafe fn load_int(from: *const i32) -> [i32; 16] {
        from.cast::<[i32; 16]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store_int(to: *mut i32, a: [i32; 16]) {
        to.cast::<[i32; 16]>().write_unaligned(a)
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> Self::I {
        std::array::from_fn(|i| i32::from(from.add(i).read_unaligned()))
    }
    unsafe fn load_f16(from: *const u16) -> Self::F {
        std::array::from_fn(|i| half::f16::from_bits(from.add(i).read_unaligned()).to_f32())
    }
    unsafe fn store_bytes(to: *mut i8, a: [i32; 16]) {
        to.cast::<[i8; 16]>().write_unaligned(lanes!(i: a[i] as i8))
    }

    #[inline(always)]
    unsafe fn store_halves(to: *mut i16, a: [i32; 16]) {
        to.cast::<[i16; 16]>().write_unaligned(lanes!(i: a[i / 4 * 4 + [0, 2, 1, 3][i % 4]] as i16));
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> [u32; 16] {
        let a = from.cast::<[u32; 16]>().read_unaligned();
        lanes!(i: u32::from_le(a[i]))
    }
    #[inline(always)]
    unsafe fn store_wide(to: *mut u8, a: [u32; 16]) {
        to.cast::<[u32; 16]>().write_unaligned(lanes!(i: a[i].to_le()));
    }
    #[inline(always)]
    unsafe fn nibbles(a: [u32; 16]) -> ([u32; 16], [u32; 16]) {
        (lanes!(i: a[i] & 0x0f0f_0f0f), lanes!(i: a[i] >> 4 & 0x0f0f_0f0f))
    }
    #[inline(always)]
    unsafe fn nibble_words(a: [u32; 16]) -> [[u32; 16]; 4] {
        [
            lanes!(i: a[i] & 0x000f_000f),
            lanes!(i: a[i] >> 8 & 0x000f_000f),
            lanes!(i: a[i] >> 4 & 0x000f_000f),
            lanes!(i: a[i] >> 12 & 0x000f_000f),
        ]
    }
    #[inline(always)]
    unsafe fn byte_words(a: [u32; 16]) -> [[u32; 16]; 2] {
        [lanes!(i: a[i] & 0x00ff_00ff), lanes!(i: a[i] >> 8 & 0x00ff_00ff)]
    }
    #[inline(always)]
    unsafe fn lane_words(from: *const i16) -> [u32; 16] {
        let words = from.cast::<[u16; 16]>().read_unaligned();
        lanes!(i: both(words[i] as i16, words[i] as i16))
    }
    #[inline(always)]
    unsafe fn float_words(codes: [u32; 16]) -> [u32; 16] {
        lanes!(i: both(float_word(codes[i] as u8), float_word((codes[i] >> 16) as u8)))
    }
    #[inline(always)]
    unsafe fn fp4_words(codes: [u32; 16], factors: [u32; 16]) -> [u32; 16] {
        let word =
            |code: u32, factor: u32| i16::from(FP4_TWICE[code as usize & 15]).wrapping_mul(factor as i16);
        lanes!(i: both(word(codes[i] & 0xffff, factors[i]), word(codes[i] >> 16, factors[i] >> 16)))
    }
    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> [u32; 16] {
        from.cast::<[u32; 16]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store_words(to: *mut u8, a: [u32; 16]) {
        to.cast::<[u32; 16]>().write_unaligned(a);
    }
    #[inline(always)]
    unsafe fn dot_words(sum: [i32; 16], w: [u32; 16], x: *const i16) -> [i32; 16] {
        let x = [i32::from(x.read_unaligned()), i32::from(x.add(1).read_unaligned())];
        // As in `dot4`: SSE2 multiplies numbers of sixteen bits.
        lanes!(i: sum[i].wrapping_add(i32::from(w[i] as i16) * x[0] + (w[i] as i32 >> 16) * x[1]))
    }
    #[inline(always)]
    unsafe fn dot4(sum: [i32; 16], w: [u32; 16], x: *const i8) -> [i32; 16] {
        let x = [i32::from(*x), i32::from(*x.add(1)), i32::from(*x.add(2)), i32::from(*x.add(3))];
        // Both factors fit into sixteen bits: SSE2 multiplies those, not lanes of 32.
        lanes!(i: {
            let w = [w[i] & 255, w[i] >> 8 & 255, w[i] >> 16 & 255, w[i] >> 24];
            let (first, second) = (w[0] as i32 * x[0] + w[1] as i32 * x[1], w[2] as i32 * x[2] + w[3] as i32 * x[3]);
            sum[i] + first + second
        })
    }
    #[inline(always)]
    unsafe fn pairs(w: [u32; 16], x: *const i8) -> [i32; 16] {
        Self::dot4(Self::splat_int(0), w, x)
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: [i32; 16], w: [u32; 16], x: *const i8) -> [i32; 16] {
        Self::dot4(sum, w, x)
    }
    #[inline(always)]
    unsafe fn add_pairs(sum: [i32; 16], pairs: [i32; 16]) -> [i32; 16] {
        Self::add_int(sum, pairs)
    }
    #[inline(always)]
    unsafe fn dot8(sum: [i32; 16], w: [u32; 16], x: *const i8) -> [i32; 16] {
        Self::dot4(sum, w, x)
    }
}
