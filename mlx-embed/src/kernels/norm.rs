//! Norms of rows.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "kernels are intrinsics throughout, under the contract of each function"
)]

use super::simd::{LANES, Simd};

/// A norm's kind, weights and epsilon.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Norm<'a> {
    /// By the root mean square.
    Rms { weight: &'a [f32], eps: f32 },
    /// By mean and variance.
    Layer { weight: &'a [f32], bias: Option<&'a [f32]>, eps: f32 },
}

/// `1 / sqrt(mean(x^2) + eps)`
///
/// # Safety
/// The instruction set of `S` is enabled.
#[inline(always)]
pub(super) unsafe fn inverse_rms<S: Simd>(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares::<S>(x, None) / x.len() as f32 + eps).sqrt()
}

/// The sum of `(x * weight)^2`.
#[inline(always)]
pub(super) unsafe fn sum_of_squares<S: Simd>(x: &[f32], weight: Option<&[f32]>) -> f32 {
    // No `map_or` and its like in kernels: a closure that a function of core calls loses the instruction set.
    let value = |k: usize| match weight {
        Some(weight) => S::mul(S::load(x.as_ptr().add(k)), S::load(weight.as_ptr().add(k))),
        None => S::load(x.as_ptr().add(k)),
    };
    // Two sums, since one would wait for itself.
    let (mut even, mut odd) = (S::splat(0.0), S::splat(0.0));
    let whole = x.len() / LANES * LANES;
    let mut k = 0;
    while k + 2 * LANES <= whole {
        let (a, b) = (value(k), value(k + LANES));
        even = S::fma(a, a, even);
        odd = S::fma(b, b, odd);
        k += 2 * LANES;
    }
    if k < whole {
        let a = value(k);
        even = S::fma(a, a, even);
    }
    let mut sum = S::reduce_add(S::add(even, odd));
    for k in whole..x.len() {
        let v = x[k] * weight.map_or(1.0, |weight| weight[k]);
        sum += v * v;
    }
    sum
}

/// The norm of rows `rows` of `x`.
///
/// # Safety
/// The instruction set of `S` is enabled; `x` has these rows; `out` has room for as many numbers and nobody else touches
/// these rows.
#[inline(always)]
pub(super) unsafe fn norm_rows<S: Simd>(
    x: &[f32],
    norm: Norm<'_>,
    rows: std::ops::Range<usize>,
    out: *mut f32,
) {
    let (Norm::Rms { weight, .. } | Norm::Layer { weight, .. }) = norm;
    let width = weight.len();
    for row in rows {
        let x = &x[row * width..(row + 1) * width];
        let out = out.add(row * width);
        match norm {
            Norm::Rms { weight, eps } => rms_norm::<S>(x, weight, eps, out),
            Norm::Layer { weight, bias, eps } => layer_norm::<S>(x, weight, bias, eps, out),
        }
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight`
#[inline(always)]
unsafe fn rms_norm<S: Simd>(x: &[f32], weight: &[f32], eps: f32, out: *mut f32) {
    let factor = inverse_rms::<S>(x, eps);
    let whole = x.len() / LANES * LANES;
    for k in (0..whole).step_by(LANES) {
        let scaled = S::mul(S::load(x.as_ptr().add(k)), S::splat(factor));
        S::store(out.add(k), S::mul(scaled, S::load(weight.as_ptr().add(k))));
    }
    for k in whole..x.len() {
        *out.add(k) = x[k] * factor * weight[k];
    }
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias`
#[inline(always)]
unsafe fn layer_norm<S: Simd>(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: *mut f32) {
    let whole = x.len() / LANES * LANES;
    let width = x.len() as f32;
    let mut sum = S::splat(0.0);
    for k in (0..whole).step_by(LANES) {
        sum = S::add(sum, S::load(x.as_ptr().add(k)));
    }
    let rest = &x[whole..];
    let mean = (S::reduce_add(sum) + rest.iter().sum::<f32>()) / width;
    let (mut sum, middle) = (S::splat(0.0), S::splat(mean));
    for k in (0..whole).step_by(LANES) {
        let away = S::sub(S::load(x.as_ptr().add(k)), middle);
        sum = S::fma(away, away, sum);
    }
    let mut squares = S::reduce_add(sum);
    for x in rest {
        squares += (x - mean) * (x - mean);
    }
    let factor = 1.0 / (squares / width + eps).sqrt();
    for k in (0..whole).step_by(LANES) {
        let away = S::sub(S::load(x.as_ptr().add(k)), middle);
        let mut normed = S::mul(S::mul(away, S::splat(factor)), S::load(weight.as_ptr().add(k)));
        if let Some(bias) = bias {
            normed = S::add(normed, S::load(bias.as_ptr().add(k)));
        }
        S::store(out.add(k), normed);
    }
    for k in whole..x.len() {
        *out.add(k) = (x[k] - mean) * factor * weight[k] + bias.map_or(0.0, |bias| bias[k]);
    }
}
