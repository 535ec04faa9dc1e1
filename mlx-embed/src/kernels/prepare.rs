//! Queries, keys and values as attention reads them: normed, rotated, laid out.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "kernels are intrinsics throughout, under the contract of each function"
)]

use std::mem::MaybeUninit;

use half::bf16;

use super::layout::{Attention, Heads, KEYS, MAX_HEAD_DIM, Rotation, Text};
use super::norm::inverse_rms;
use super::simd::{LANES, Simd, copy};

/// Most tokens that are prepared at once; blocks of keys hold a multiple of it.
pub(super) const PREPARED: usize = 8;

/// Norms and rotates the queries and keys of `text` at positions `range`, and lays keys and values out.
///
/// # Safety
/// The instruction set of `S` is enabled; the pointers are valid for the sizes they name; nobody else touches these
/// tokens meanwhile. `range` is of the text's own positions and within one multiple of [`PREPARED`] and the next.
/// `ROUNDED` is what the text says; then it continues nothing.
#[inline(always)]
pub(super) unsafe fn prepare<S: Simd, const ROUNDED: bool>(
    at: &Attention<'_>,
    text: Text,
    range: std::ops::Range<usize>,
) {
    let Heads { heads, kv_heads, head_dim } = at.heads;
    // Words of a row of queries or keys.
    let words = if ROUNDED { head_dim / 2 } else { head_dim };
    let cached = at.cached.tokens;
    let width = at.heads.width();
    let token = |position: usize| text.first + position - cached;
    let row = |position: usize, from: usize| &at.qkv[token(position) * width + from..][..head_dim];
    let turn = |position: usize, of_queries: bool| {
        at.rotation.map(|Rotation { angles, query_angles, traditional }| {
            let angles = if of_queries { query_angles } else { angles };
            (&angles[position * head_dim..(position + 1) * head_dim], traditional)
        })
    };
    if range.start == cached {
        share_block::<S>(at, text);
    }
    for position in range.clone() {
        let token = token(position);
        for h in 0..heads {
            let to = at.q.add((token * heads + h) * head_dim);
            let x = row(position, h * head_dim);
            norm_and_rotate::<S>(x, at.q_norm, at.scale, turn(position, true), to);
            if ROUNDED {
                round::<S>(to, head_dim);
            }
        }
        for h in 0..kv_heads {
            let x = |position| row(position, (heads + kv_heads + h) * head_dim);
            if !ROUNDED {
                value::<S>(x(position), at.v_norm, at.value(h, token), at.heads.value_width());
            } else if position % 2 == 0 {
                let next = (position + 1 < range.end).then_some(position + 1);
                let to = at.value(h, text.first + position / 2);
                pair_of_values::<S>(x(position), next.map(x), at.v_norm, to, at.heads.value_width());
            }
        }
    }
    // Head by head and a few tokens at once: transposed, a token's keys lie in as many cache lines as it has numbers.
    let mut keys = MaybeUninit::<[[f32; MAX_HEAD_DIM]; PREPARED]>::uninit();
    let keys = keys.as_mut_ptr().cast::<f32>();
    for h in 0..kv_heads {
        for (i, position) in range.clone().enumerate() {
            let x = row(position, (heads + h) * head_dim);
            norm_and_rotate::<S>(x, at.k_norm, 1.0, turn(position, false), keys.add(i * MAX_HEAD_DIM));
            if ROUNDED {
                round::<S>(keys.add(i * MAX_HEAD_DIM), head_dim);
            }
        }
        let to = at.key_block(h, text.block + range.start / KEYS - cached / KEYS).add(range.start % KEYS);
        transpose::<S>(keys, range.len(), to, words);
    }
}

/// Values of a token, normed and filled up with zeros.
#[inline(always)]
unsafe fn value<S: Simd>(x: &[f32], norm: Option<f32>, to: *mut f32, width: usize) {
    copy::<S>(x.as_ptr(), to, x.len());
    if let Some(eps) = norm {
        let factor = inverse_rms::<S>(x, eps);
        for e in 0..x.len() {
            *to.add(e) *= factor;
        }
    }
    for e in x.len()..width {
        *to.add(e) = 0.0;
    }
}

/// Those of two neighbours, or of one and zeros, in bf16.
#[inline(always)]
unsafe fn pair_of_values<S: Simd>(
    x: &[f32],
    next: Option<&[f32]>,
    norm: Option<f32>,
    to: *mut f32,
    width: usize,
) {
    let mut both = MaybeUninit::<[[f32; MAX_HEAD_DIM]; 2]>::uninit();
    let both = both.as_mut_ptr().cast::<f32>();
    value::<S>(x, norm, both, width);
    value::<S>(next.unwrap_or_default(), norm, both.add(MAX_HEAD_DIM), width);
    for e in (0..width).step_by(LANES) {
        S::store(to.add(e), S::bf16_words(S::load(both.add(e)), S::load(both.add(MAX_HEAD_DIM + e))));
    }
}

/// Rounds an even number of numbers to bf16, two a word, where they are.
#[inline(always)]
unsafe fn round<S: Simd>(x: *mut f32, count: usize) {
    let whole = count / LANES * LANES;
    for e in (0..whole).step_by(LANES) {
        // Below what is still to be read.
        S::store_bf16(x.add(e / 2), S::load(x.add(e)));
    }
    for e in whole..count {
        x.cast::<bf16>().add(e).write(bf16::from_f32(*x.add(e)));
    }
}

/// Lays the `width` words of `count` keys side by side.
#[inline(always)]
unsafe fn transpose<S: Simd>(keys: *const f32, count: usize, to: *mut f32, width: usize) {
    const { assert!(PREPARED == 8) };
    let whole = if count == PREPARED { width / 8 * 8 } else { 0 };
    for e in (0..whole).step_by(8) {
        S::transpose(keys.add(e), MAX_HEAD_DIM, to.add(e * KEYS), KEYS);
    }
    for e in whole..width {
        for i in 0..count {
            *to.add(e * KEYS + i) = *keys.add(i * MAX_HEAD_DIM + e);
        }
    }
}

/// Copies the last keys of the cache, where they don't fill a block, to before the text's first.
#[inline(always)]
unsafe fn share_block<S: Simd>(at: &Attention<'_>, text: Text) {
    let (block, keys) = (at.cached.tokens / KEYS, at.cached.tokens % KEYS);
    if keys == 0 {
        return;
    }
    for h in 0..at.heads.kv_heads {
        let (from, to) = (at.past_key_block(h, block), at.key_block(h, text.block));
        for e in 0..at.heads.head_dim {
            copy::<S>(from.add(e * KEYS), to.add(e * KEYS), keys);
        }
    }
}

/// `scale * rotate(norm(x))`, by the angles of the position, neighbours together or halves, to where there is room for as
/// many numbers.
#[inline(always)]
unsafe fn norm_and_rotate<S: Simd>(
    x: &[f32],
    norm: Option<(&[f32], f32)>,
    scale: f32,
    rotation: Option<(&[f32], bool)>,
    out: *mut f32,
) {
    let factor = match norm {
        Some((_, eps)) => scale * inverse_rms::<S>(x, eps),
        None => scale,
    };
    let half = x.len() / 2;
    let weight = |e: usize| norm.map_or(1.0, |(weight, _)| weight[e]);
    let normed = norm.map(|(weight, _)| weight.as_ptr());
    let Some((angles, traditional)) = rotation else {
        let whole = x.len() / LANES * LANES;
        for e in (0..whole).step_by(LANES) {
            S::store(out.add(e), scaled::<S>(x, factor, normed, e));
        }
        for e in whole..x.len() {
            *out.add(e) = x[e] * factor * weight(e);
        }
        return;
    };
    if traditional || !half.is_multiple_of(LANES) {
        for i in 0..half {
            let (first, second) = if traditional { (2 * i, 2 * i + 1) } else { (i, half + i) };
            let (cos, sin) = (angles[i], angles[half + i]);
            let (a, b) = (x[first] * factor * weight(first), x[second] * factor * weight(second));
            *out.add(first) = a * cos - b * sin;
            *out.add(second) = a * sin + b * cos;
        }
        return;
    }
    for i in (0..half).step_by(LANES) {
        let (a, b) = (scaled::<S>(x, factor, normed, i), scaled::<S>(x, factor, normed, half + i));
        let (cos, sin) = (S::load(angles.as_ptr().add(i)), S::load(angles.as_ptr().add(half + i)));
        S::store(out.add(i), S::sub(S::mul(a, cos), S::mul(b, sin)));
        S::store(out.add(half + i), S::fma(a, sin, S::mul(b, cos)));
    }
}

/// Sixteen numbers from `e` on, times `factor` and the norm's weights.
#[inline(always)]
unsafe fn scaled<S: Simd>(x: &[f32], factor: f32, weight: Option<*const f32>, e: usize) -> S::F {
    let x = S::mul(S::load(x.as_ptr().add(e)), S::splat(factor));
    match weight {
        Some(weight) => S::mul(x, S::load(weight.add(e))),
        None => x,
    }
}
