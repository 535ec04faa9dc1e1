//! Attention with grouped keys and values, without ever holding all scores of a text.
//!
//! Queries go in tiles, keys in blocks, and the softmax is kept up to date block by block: Milakov and Gimelshein
//! (2018), Dao et al. (2022). Texts are packed, with no padding between them.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "kernels are intrinsics throughout, under the contract of each function"
)]

use half::bf16;

use super::layout::{Attention, Distances, Heads, KEYS, MAX_HEAD_DIM, Span, Text};
use super::product::{load_sums, store_sums};
use super::simd::{LANES, Simd, copy, exp};

/// Keys whose scores a tile holds at once.
const BLOCK: usize = 4 * KEYS;
/// Numbers of scratch that [`attend`] needs.
pub(super) fn scratch_floats(heads: &Heads, rows: usize) -> usize {
    rows * (MAX_HEAD_DIM + BLOCK + heads.value_width())
}

/// Sets what a query doesn't see of its `count` scores: those up to `hidden`, and those from `visible` on.
///
/// # Safety
/// The row has `count` numbers.
#[inline(always)]
unsafe fn hide<T: Copy>(row: *mut T, hidden: usize, visible: usize, count: usize, value: T) {
    for key in 0..hidden {
        *row.add(key) = value;
    }
    for key in visible..count {
        *row.add(key) = value;
    }
}

/// Products of `M` queries with `PANELS` panels of keys, of so many words each, into `out` `[M, BLOCK]`.
#[inline(always)]
unsafe fn score<S: Simd, const M: usize, const PANELS: usize, const ROUNDED: bool>(
    queries: *const f32,
    keys: *const f32,
    words: usize,
    out: *mut f32,
) {
    let mut dots = [[S::splat(0.0); PANELS]; M];
    if ROUNDED {
        S::bf16_steps::<M, PANELS, MAX_HEAD_DIM>(&mut dots, keys, KEYS, queries, words);
    } else {
        S::fma_steps::<M, PANELS, MAX_HEAD_DIM>(&mut dots, keys, KEYS, queries, words);
    }
    store_sums::<S, M, PANELS>(out, BLOCK, &dots);
}

/// Adds `PANELS` vectors of `count` values, or of as many pairs, each times its score, to `sums` `[M, value_width]`.
#[inline(always)]
unsafe fn mix<S: Simd, const M: usize, const PANELS: usize, const ROUNDED: bool>(
    scores: *const f32,
    values: *const f32,
    value_width: usize,
    count: usize,
    sums: *mut f32,
) {
    let mut mixed = load_sums::<S, M, PANELS>(sums, value_width);
    if ROUNDED {
        S::bf16_steps::<M, PANELS, BLOCK>(&mut mixed, values, value_width, scores, count);
    } else {
        S::fma_steps::<M, PANELS, BLOCK>(&mut mixed, values, value_width, scores, count);
    }
    store_sums::<S, M, PANELS>(sums, value_width, &mixed);
}

/// Attention of head `head` for the `M` queries from token `first` of `text` on.
///
/// A sum goes through keys in the order of their positions, wherever they lie: so its bits are the same with and without
/// a cache.
///
/// # Safety
/// The instruction set of `S` is enabled; `prepare` ran for all tokens; `scratch` has [`scratch_floats`] numbers;
/// distances reach as far as the text is long, with what it continues; nobody else writes these rows and this head of the result.
/// `ROUNDED` is what the text says; then it continues nothing.
#[inline(always)]
pub(super) unsafe fn attend<S: Simd, const M: usize, const ROUNDED: bool>(
    at: &Attention<'_>,
    text: Text,
    head: usize,
    first: usize,
    scratch: *mut f32,
) {
    let Heads { heads, kv_heads, head_dim } = at.heads;
    let value_width = at.heads.value_width();
    let kv_head = head / (heads / kv_heads);
    // Words of a row of queries or keys.
    let words = if ROUNDED { head_dim / 2 } else { head_dim };
    let queries = scratch; // [M, MAX_HEAD_DIM]
    let scores = queries.add(M * MAX_HEAD_DIM); // [M, BLOCK]
    let sums = scores.add(M * BLOCK); // [M, value_width]
    for m in 0..M {
        let q = at.q.add(((text.first + first + m) * heads + head) * head_dim);
        // Side by side, so that an inner loop reaches every row from one address.
        copy::<S>(q, queries.add(m * MAX_HEAD_DIM), words);
    }
    std::ptr::write_bytes(sums, 0, M * value_width);
    let mut max = [f32::NEG_INFINITY; M];
    let mut total = [0.0_f32; M];
    let cached = at.cached.tokens;
    let Span { before, after } = at.span;
    // Keys that the last query sees end here, and those that the first sees begin in this block.
    let ends = cached + text.seen;
    let seen = ends.min((cached + first + M).saturating_add(after));
    let first_block = (cached + first).saturating_sub(before) / BLOCK * BLOCK;
    let mut start = first_block;
    while start < seen {
        let count = BLOCK.min(seen - start);
        let panels = count.div_ceil(KEYS);
        for panel in 0..panels {
            let block = start / KEYS + panel;
            let keys = if block < cached / KEYS {
                at.past_key_block(kv_head, block)
            } else {
                at.key_block(kv_head, text.block + block - cached / KEYS)
            };
            let to = scores.add(panel * KEYS);
            if S::PANELS == 2 {
                score::<S, M, 2, ROUNDED>(queries, keys, words, to);
            } else {
                score::<S, M, 1, ROUNDED>(queries, keys, words, to);
                score::<S, M, 1, ROUNDED>(queries, keys.add(LANES), words, to.add(LANES));
            }
        }
        for m in 0..M {
            let row = scores.add(m * BLOCK);
            // What a query doesn't see, and what is past the last key, doesn't count.
            let position = cached + first + m;
            let hidden = position.saturating_sub(before).saturating_sub(start).min(panels * KEYS);
            let visible = ends.min((position + 1).saturating_add(after)).saturating_sub(start);
            if let Some(Distances { numbers, columns, own }) = at.distances {
                let added = numbers.as_ptr().add(head * columns + own + start - position);
                for v in (0..2 * panels).map(|v| v * LANES) {
                    S::store(row.add(v), S::add(S::load(row.add(v)), S::load(added.add(v))));
                }
            }
            hide(row, hidden, visible, panels * KEYS, f32::NEG_INFINITY);
            let mut largest = S::splat(max[m]);
            for v in 0..2 * panels {
                largest = S::max(largest, S::load(row.add(v * LANES)));
            }
            let largest = S::reduce_max(largest);
            // A query may see nothing of a block; then both are what they were.
            let shift = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
            let mut sum = S::splat(0.0);
            for v in 0..2 * panels {
                let p = exp::<S>(S::sub(S::load(row.add(v * LANES)), S::splat(shift)));
                if ROUNDED {
                    // Below what is still to be read.
                    S::store_bf16(row.add(v * LANES / 2), p);
                } else {
                    S::store(row.add(v * LANES), p);
                }
                sum = S::add(sum, p);
            }
            // Masked scores became e^-87 rather than 0: too small to count, but they must not meet what lies there.
            if ROUNDED {
                hide(row.cast::<bf16>(), hidden, visible, panels * KEYS, bf16::ZERO);
            } else {
                hide(row, hidden, visible, panels * KEYS, 0.0);
            }
            let keep = if max[m] == f32::NEG_INFINITY { 0.0 } else { (max[m] - shift).exp() };
            total[m] = total[m] * keep + S::reduce_add(sum);
            max[m] = largest;
            let row = sums.add(m * value_width);
            if start > first_block {
                for e in (0..value_width).step_by(LANES) {
                    S::store(row.add(e), S::mul(S::load(row.add(e)), S::splat(keep)));
                }
            }
        }
        // Values of the cache first, then the text's own.
        let mut done = 0;
        while done < count {
            let position = start + done;
            let (values, end) = if ROUNDED {
                (at.value(kv_head, text.first + position / 2).cast_const(), count)
            } else if position < cached {
                (at.cached_value(kv_head, position), count.min(cached - start))
            } else {
                (at.value(kv_head, text.first + position - cached).cast_const(), count)
            };
            for e in (0..value_width).step_by(S::PANELS * LANES) {
                let (scores, values, sums) = (scores.add(done), values.add(e), sums.add(e));
                let rows = if ROUNDED { count.div_ceil(2) } else { end - done };
                if S::PANELS == 2 {
                    mix::<S, M, 2, ROUNDED>(scores, values, value_width, rows, sums);
                } else {
                    mix::<S, M, 1, ROUNDED>(scores, values, value_width, rows, sums);
                }
            }
            done = end;
        }
        start += count;
    }
    for m in 0..M {
        let to = at.out.add(((text.first + first + m) * heads + head) * head_dim);
        let share = 1.0 / total[m];
        let whole = head_dim / LANES * LANES;
        for e in (0..whole).step_by(LANES) {
            S::store(to.add(e), S::mul(S::load(sums.add(m * value_width + e)), S::splat(share)));
        }
        for e in whole..head_dim {
            *to.add(e) = *sums.add(m * value_width + e) * share;
        }
    }
}
