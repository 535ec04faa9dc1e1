//! Attention with grouped keys and values.

use std::cell::RefCell;
use std::ops::Range;

use crate::checkpoint::spec::Sees;
use crate::mlx::ops::{self, RopeFrequencies, RopeSettings};
use crate::mlx::{Array, MlxError, Stream};
use crate::model::decoder::AttentionLayer;
use crate::model::relative::Relative;

use super::{Frequencies, Mlx, Norm, Pass};

/// Most memory that one step's scores may take where MLX holds them all, in bytes.
const SCORES_BYTES: usize = 64 << 20;

/// What is seen, by which queries, and how an array says it; `None` where nothing is hidden.
type Mask = (Sees, Range<usize>, Option<Array>);

/// The masks that layers of one pass share.
#[derive(Debug, Default)]
pub(super) struct Masks(RefCell<Vec<Mask>>);

impl Mlx {
    /// Queries `[B, H, L, E]`, keys and values `[B, K, L, E]` of projections `[B, L, heads * E]`.
    pub(super) fn rotate(
        &self,
        qkv: &[Array],
        layer: &AttentionLayer<Self>,
        pass: &Pass,
    ) -> Result<[Array; 3], MlxError> {
        let [q, k, v] = qkv else {
            return Err(MlxError::new("rotate", format!("{} parts where 3 are q, k and v", qkv.len())));
        };
        let heads = layer.heads;
        let [q_norm, k_norm] = &layer.head_norms;
        let head_dim = heads.head_dim as i32;
        let split = |x: &Array, count: usize, norm: Option<&Norm>| {
            let [batch, tokens] = [x.shape()[0], x.shape()[1]];
            let per_head = ops::reshape(x, &[batch, tokens, count as i32, head_dim], &self.stream)?;
            ops::transpose(&super::normed(norm, &per_head, &self.stream)?, &[0, 2, 1, 3], &self.stream)
        };
        let q = self.rotated(split(q, heads.heads, q_norm.as_ref())?, layer, pass.cached)?;
        let v = split(v, heads.kv_heads, None)?;
        Ok([
            self.grown(q, layer, pass)?,
            self.rotated(split(k, heads.kv_heads, k_norm.as_ref())?, layer, pass.cached)?,
            match layer.v_norm {
                Some(eps) => ops::rms_norm(&v, None, eps, &self.stream)?,
                None => v,
            },
        ])
    }

    /// Queries `[B, H, L, E]` that grow with their position, where they do.
    fn grown(&self, q: Array, layer: &AttentionLayer<Self>, pass: &Pass) -> Result<Array, MlxError> {
        let positions = pass.cached..pass.cached + pass.tokens;
        let Some(growth) = layer.rope.and_then(|rope| self.ropes[rope].0.query_growth(positions)) else {
            return Ok(q);
        };
        let growth = Array::from_slice(&growth, &[1, 1, growth.len() as i32, 1])?;
        let growth = ops::astype(&growth, self.arrays.activation(), &self.stream)?;
        ops::multiply(&q, &growth, &self.stream)
    }

    /// Rotated, without the magnitude: that is on the scores.
    ///
    /// # Shape
    /// `x` and result `[B, H, L, E]`; positions are `cached..cached + L`.
    fn rotated(&self, x: Array, layer: &AttentionLayer<Self>, cached: usize) -> Result<Array, MlxError> {
        let Some((rope, periods)) = layer.rope.map(|rope| &self.ropes[rope]) else { return Ok(x) };
        let frequencies = match (rope.frequencies(), periods) {
            (_, Some(periods)) => RopeFrequencies::Periods(periods),
            (Frequencies::Base(base), None) => RopeFrequencies::Base(*base),
            (_, None) => {
                let tokens = cached + x.shape().get(2).copied().unwrap_or(0) as usize;
                RopeFrequencies::Base(rope.base(tokens) as f32)
            }
        };
        let settings = RopeSettings {
            dims: rope.dims() as i32,
            traditional: rope.traditional(),
            frequencies,
            scale: rope.position_scale(),
            offset: cached as i32,
        };
        ops::rope(&x, settings, &self.stream)
    }

    /// # Shape
    /// `q` `[B, H, L, E]`, `k` and `v` `[B, K, cached + L, E]`, result `[B, L, H * E]`.
    pub(super) fn mix(
        &self,
        q: &Array,
        k: &Array,
        v: &Array,
        layer: &AttentionLayer<Self>,
        pass: &Pass,
    ) -> Result<Array, MlxError> {
        // There the magnitude of both queries and keys is a number of f32; on the vectors it would be one of theirs, and
        // bf16 has 8 bits.
        let magnitude = layer.rope.map_or(1.0, |rope| self.ropes[rope].0.magnitude());
        let scale = layer.scale * magnitude * magnitude;
        // GPUs have kernels that never hold the scores.
        let step = if self.on_cpu() { step_within(SCORES_BYTES, q, k) } else { i32::MAX };
        let mixed = match layer.sees {
            Sees::Before if layer.relative.is_none() => {
                in_steps(q, k, v, step, true, &self.stream, |q, k, v, _| {
                    ops::causal_attention(q, k, v, scale, &self.stream)
                })
            }
            sees => in_steps(q, k, v, step, false, &self.stream, |q, k, v, queries| {
                let mask = self.mask(sees, layer.relative.as_deref(), queries, pass)?;
                ops::masked_attention(q, k, v, scale, mask.as_ref(), &self.stream)
            }),
        }?; // [B, H, L, E]
        let [batch, tokens] = [q.shape()[0], q.shape()[2]];
        let joined = ops::transpose(&mixed, &[0, 2, 1, 3], &self.stream)?; // [B, L, H, E]
        ops::reshape(&joined, &[batch, tokens, layer.heads.queries() as i32], &self.stream)
    }

    /// What is added to the scores of these queries, `[1 or B, 1 or H, queries, keys]`: minus infinity where a key is not
    /// seen, and what layers add by distance. `None` where that is nothing. All layers have the same `relative`.
    fn mask(
        &self,
        sees: Sees,
        relative: Option<&Relative>,
        queries: Range<usize>,
        pass: &Pass,
    ) -> Result<Option<Array>, MlxError> {
        let mut masks = pass.masks.0.borrow_mut();
        if let Some((.., mask)) = masks.iter().find(|(of, range, _)| *of == sees && *range == queries) {
            return Ok(mask.clone());
        }
        let hidden = self.hidden(sees, queries.clone(), pass)?;
        let relative =
            relative.map(|relative| self.by_distance(relative, queries.clone(), pass)).transpose()?;
        let mask = match (hidden, relative) {
            (Some(hidden), Some(relative)) => Some(ops::add(&hidden, &relative, &self.stream)?),
            (hidden, relative) => hidden.or(relative),
        };
        masks.push((sees, queries, mask.clone()));
        Ok(mask)
    }

    /// `[1, H, queries, keys]`
    fn by_distance(
        &self,
        relative: &Relative,
        queries: Range<usize>,
        pass: &Pass,
    ) -> Result<Array, MlxError> {
        let keys = pass.cached + pass.tokens;
        let rows = |query: usize| relative.rows(pass.cached + query, keys);
        let heads = rows(0).count();
        let mut numbers = vec![0.0; heads * queries.len() * keys];
        for (place, query) in queries.clone().enumerate() {
            for (head, row) in rows(query).enumerate() {
                numbers[(head * queries.len() + place) * keys..][..keys].copy_from_slice(row);
            }
        }
        let shape = [1, heads, queries.len(), keys].map(|size| size as i32);
        ops::astype(&Array::from_slice(&numbers, &shape)?, self.arrays.activation(), &self.stream)
    }

    /// 0 where a key is seen, else minus infinity. `None` where all are.
    fn hidden(&self, sees: Sees, queries: Range<usize>, pass: &Pass) -> Result<Option<Array>, MlxError> {
        let Pass { cached, tokens, .. } = *pass;
        let whole = pass.seen.iter().all(|&seen| seen == tokens);
        // Whether a query sees a key of a text whose tokens are seen up to `end`; both are positions.
        let visible = |query: usize, key: usize, end: usize| match sees {
            Sees::Before => key <= query,
            Sees::BeforeWithin(window) => key <= query && query < key + window,
            Sees::All => key < end,
            Sees::AllWithin(away) => key < end && query.abs_diff(key) <= away,
        };
        Ok(if sees == Sees::All && whole {
            None
        } else {
            // Behind a causal mask lies nothing that padding could change.
            let texts = if sees.is_causal() { 1 } else { pass.lengths.len() };
            let mut numbers = Vec::with_capacity(texts * queries.len() * (cached + tokens));
            for (&length, seen) in pass.lengths[..texts].iter().zip(pass.seen.iter()) {
                for query in queries.clone() {
                    // What is behind the text sees itself, so that no sum is empty.
                    let sees = |key| {
                        visible(cached + query, key, cached + seen)
                            || (query >= length && key == cached + query)
                    };
                    let row = (0..cached + tokens).map(sees);
                    numbers.extend(row.map(|seen| if seen { 0.0 } else { f32::NEG_INFINITY }));
                }
            }
            let shape = [texts, 1, queries.len(), cached + tokens].map(|size| size as i32);
            let mask = Array::from_slice(&numbers, &shape)?;
            Some(ops::astype(&mask, self.arrays.activation(), &self.stream)?)
        })
    }
}

/// How many queries' scores fit into `bytes`; at least one.
fn step_within(bytes: usize, q: &Array, k: &Array) -> i32 {
    let [batch, heads, keys] = [q.shape()[0], q.shape()[1], k.shape()[2]].map(|dim| dim as usize);
    let bytes_per_query = (batch * heads * keys * size_of::<f32>()).max(1);
    i32::try_from((bytes / bytes_per_query).max(1)).unwrap_or(i32::MAX)
}

/// The same result as `attend` at once, `step` queries at a time. The queries are those of the last keys; `attend` is told
/// which. Where it is causal it is given no keys behind the last query.
fn in_steps(
    q: &Array,
    k: &Array,
    v: &Array,
    step: i32,
    causal: bool,
    stream: &Stream,
    attend: impl Fn(&Array, &Array, &Array, Range<usize>) -> Result<Array, MlxError>,
) -> Result<Array, MlxError> {
    let tokens = q.shape()[2];
    if step >= tokens {
        return attend(q, k, v, 0..tokens as usize);
    }
    let cached = k.shape()[2] - tokens;
    let mut parts = Vec::new();
    let mut start = 0;
    while start < tokens {
        let stop = tokens.min(start.saturating_add(step));
        let q = ops::slice_axis(q, 2, start, stop, stream)?;
        // The mask is aligned to the end, so these queries need the keys up to their own last position.
        let keys = if causal { cached + stop } else { cached + tokens };
        let k = ops::slice_axis(k, 2, 0, keys, stream)?;
        let v = ops::slice_axis(v, 2, 0, keys, stream)?;
        let part = attend(&q, &k, &v, start as usize..stop as usize)?;
        // Left lazy, MLX would hold the scores of many steps at once.
        part.eval()?;
        parts.push(part);
        start = stop;
    }
    ops::concatenate(&parts, 2, stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without a pattern, between -1 and 1.
    fn noise(shape: &[i32], seed: u32) -> Array {
        let count = shape.iter().product::<i32>() as u32;
        let hash =
            |i: u32| (i ^ seed).wrapping_mul(2_654_435_761).rotate_left(15).wrapping_mul(2_246_822_519);
        let data: Vec<f32> = (0..count).map(|i| (hash(i) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect();
        Array::from_slice(&data, shape).unwrap()
    }

    #[test]
    fn attention_in_steps_equals_attention_at_once() {
        let stream = Stream::cpu().unwrap();
        // As many keys as queries, and a cache of 20 before them.
        for (keys, causal) in [(37, true), (57, true), (37, false)] {
            let q = noise(&[2, 4, 37, 8], 1);
            let (k, v) = (noise(&[2, 2, keys, 8], 2), noise(&[2, 2, keys, 8], 3));
            let with = |step| {
                let states = in_steps(&q, &k, &v, step, causal, &stream, |q, k, v, _| match causal {
                    true => ops::causal_attention(q, k, v, 0.6, &stream),
                    false => ops::masked_attention(q, k, v, 0.6, None, &stream),
                });
                states.unwrap().to_vec::<f32>(&stream).unwrap()
            };
            let at_once = with(i32::MAX);
            for step in [1, 2, 5, 36, 37] {
                approx::assert_abs_diff_eq!(with(step)[..], at_once[..], epsilon = 1e-6);
            }
        }
    }

    #[test]
    fn a_step_is_what_the_scores_memory_allows() {
        // 3,200 bytes of scores a query
        let (q, k) = (noise(&[2, 4, 60, 8], 1), noise(&[2, 2, 100, 8], 1));
        assert_eq!(step_within(3_200 * 7 + 100, &q, &k), 7);
        assert_eq!(step_within(1, &q, &k), 1);
    }
}
