//! Plain Rust, for every machine.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "each method is the intrinsics of one operation, under the contract of the trait"
)]

use std::array::from_fn;

use super::Simd;

#[derive(Clone, Copy)]
pub(in crate::kernels) struct Portable;

// SAFETY: the methods do what the trait says; they reach memory only through the pointers given.
unsafe impl Simd for Portable {
    type F = [f32; 16];
    type I = [i32; 16];
    type B = [u8; 64];

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
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn abs(a: [f32; 16]) -> [f32; 16] {
        a.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        // `mul_add` is a library call where the machine has no such instruction.
        from_fn(|i| a[i] * b[i] + c[i])
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
        from_fn(|i| max[i].max(a[i].abs().to_bits() as i32))
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
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn sub_int(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: [i32; 16]) -> [i32; 16] {
        a.map(|x| x << N)
    }
    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: [i32; 16]) -> [i32; 16] {
        a.map(|x| x >> N)
    }
    #[inline(always)]
    unsafe fn reduce_add_int(a: [i32; 16]) -> i32 {
        a.into_iter().fold(0, i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn to_float(a: [i32; 16]) -> [f32; 16] {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn round(a: [f32; 16]) -> [i32; 16] {
        a.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    unsafe fn bits_to_float(a: [i32; 16]) -> [f32; 16] {
        a.map(|x| f32::from_bits(x as u32))
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
    unsafe fn store_bytes(to: *mut i8, a: [i32; 16]) {
        to.cast::<[i8; 16]>().write_unaligned(a.map(|x| x as i8))
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> [u8; 64] {
        from.cast::<[u8; 64]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store_wide(to: *mut u8, a: [u8; 64]) {
        to.cast::<[u8; 64]>().write_unaligned(a)
    }
    #[inline(always)]
    unsafe fn nibbles(a: [u8; 64]) -> ([u8; 64], [u8; 64]) {
        (a.map(|x| x & 15), a.map(|x| x >> 4))
    }
    #[inline(always)]
    unsafe fn dot4(sum: [i32; 16], w: [u8; 64], x: *const i8) -> [i32; 16] {
        let x = x.cast::<[i8; 4]>().read_unaligned().map(i32::from);
        from_fn(|i| {
            let lane = |j: usize| i32::from(w[4 * i + j]) * x[j];
            sum[i] + (lane(0) + lane(1)) + (lane(2) + lane(3))
        })
    }
    #[inline(always)]
    unsafe fn dot8(sum: [i32; 16], w: [u8; 64], x: *const i8) -> [i32; 16] {
        Self::dot4(sum, w, x)
    }
}
