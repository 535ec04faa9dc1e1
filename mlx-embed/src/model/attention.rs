//! Causal self-attention with grouped keys and values.

use crate::checkpoint::{CheckpointError, ModelConfig, Weights};
use crate::kernels::Heads;
use crate::mlx::ops;
use crate::mlx::{Array, Backend, MlxError, Stream};

use super::host;
use super::linear::Linear;
use super::norm::RmsNorm;
use super::reuse::{KeysValues, LayerReuse};
use super::rope::Rope;
use super::{Hidden, Kernels, Part, Pass, State, Texts, cuda, no_norm, rotation};

/// Most memory that one step's scores may take where MLX holds them all, in bytes.
const SCORES_BYTES: usize = 64 << 20;

/// Norm, projections and attention of one layer, and the residual connection around them.
#[derive(Debug)]
pub(super) enum Attention {
    /// On MLX's own operations.
    Mlx(MlxAttention),
    /// On this crate's kernels for the CPU.
    Host(host::Attention),
    /// On this crate's kernels for NVIDIA GPUs.
    Cuda(cuda::Attention),
}

#[derive(Debug)]
pub(super) struct MlxAttention {
    norm: RmsNorm,           // [D]
    q_proj: Linear,          // D -> H * E
    k_proj: Linear,          // D -> K * E
    v_proj: Linear,          // D -> K * E
    o_proj: Linear,          // H * E -> D
    q_norm: Option<RmsNorm>, // [E]
    k_norm: Option<RmsNorm>, // [E]
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
}

/// The norms of queries and keys, in whichever form; the weights decide: a Qwen2 config whose checkpoint has them means
/// them.
fn head_norms<N>(
    weights: &Weights<'_>,
    path: &str,
    config: &ModelConfig,
    load: impl Fn(&str) -> Result<N, CheckpointError>,
) -> Result<[Option<N>; 2], CheckpointError> {
    let norm = |name: &str| {
        let name = format!("{path}.{name}");
        let needed = config.architecture == crate::checkpoint::Architecture::Qwen3;
        if needed || weights.has(&format!("{name}.weight")) { load(&name).map(Some) } else { Ok(None) }
    };
    Ok([norm("q_norm")?, norm("k_norm")?])
}

impl Attention {
    pub(super) fn load(
        weights: &Weights<'_>,
        layer: usize,
        config: &ModelConfig,
        kernels: &Kernels,
        stream: &Stream,
    ) -> Result<Self, CheckpointError> {
        let path = format!("layers.{layer}.self_attn");
        let norm_path = format!("layers.{layer}.input_layernorm");
        let ModelConfig { hidden_size, heads, kv_heads, head_dim, rms_norm_eps: eps, .. } = *config;
        let of = |name: &str| format!("{path}.{name}");
        match kernels {
            Kernels::Mlx => {
                let linear = |name: &str, inputs, outputs| Linear::load(weights, &of(name), inputs, outputs);
                let [q_norm, k_norm] =
                    head_norms(weights, &path, config, |name| RmsNorm::load(weights, name, head_dim, eps))?;
                Ok(Self::Mlx(MlxAttention {
                    norm: RmsNorm::load(weights, &norm_path, hidden_size, eps)?,
                    q_proj: linear("q_proj", hidden_size, heads * head_dim)?,
                    k_proj: linear("k_proj", hidden_size, kv_heads * head_dim)?,
                    v_proj: linear("v_proj", hidden_size, kv_heads * head_dim)?,
                    o_proj: linear("o_proj", heads * head_dim, hidden_size)?,
                    q_norm,
                    k_norm,
                    heads,
                    kv_heads,
                    head_dim,
                }))
            }
            Kernels::Host(engine, precision) => {
                let rule = precision.rule(layer, config.layers);
                let [q_norm, k_norm] = head_norms(weights, &path, config, |name| {
                    host::Norm::load(weights, name, head_dim, eps)
                })?;
                let sizes = [heads, kv_heads, head_dim].map(|size| size as usize);
                let sizes = Heads { heads: sizes[0], kv_heads: sizes[1], head_dim: sizes[2] };
                let spec = host::AttentionSpec {
                    path: &path,
                    norm: host::Norm::load(weights, &norm_path, hidden_size, eps)?,
                    hidden: hidden_size,
                    heads: sizes,
                    q_norm,
                    k_norm,
                    rule,
                };
                host::Attention::load(engine, weights, spec).map(Self::Host)
            }
            Kernels::Cuda(cuda) => {
                cuda::Attention::load(cuda, weights, layer, config, stream).map(Self::Cuda)
            }
        }
    }

    /// What each token gathers from those before it and from what its text continues, before the output projection.
    ///
    /// # Shape
    /// `hidden` `[B, L, D]`, result `[B, L, H * E]`.
    pub(super) fn mix(
        &self,
        hidden: &Hidden,
        pass: &Pass<'_>,
        reuse: LayerReuse<'_>,
    ) -> Result<State, MlxError> {
        let Pass { texts, rope, stream, .. } = pass;
        match self {
            Self::Mlx(attention) => {
                let mixed = attention.mix(hidden.x.array()?, texts, reuse, rope, stream);
                mixed.map(State::Array)
            }
            Self::Host(attention) => {
                attention.mix(hidden.x.array()?, texts, reuse, rope, stream).map(State::Array)
            }
            Self::Cuda(attention) => {
                attention.mix(hidden.cuda()?, pass.cuda()?, reuse, stream).map(State::Tensor)
            }
        }
    }

    /// `x` plus the output projection of what was gathered.
    ///
    /// # Shape
    /// `mixed` `[.., H * E]`, `x` and result `[.., D]`.
    pub(super) fn output(
        &self,
        x: &State,
        mixed: &State,
        ahead: Option<&cuda::Ahead>,
        pass: &Pass<'_>,
    ) -> Result<Hidden, MlxError> {
        let stream = pass.stream;
        match self {
            Self::Mlx(attention) => {
                let projected = attention.o_proj.forward(mixed.array()?, stream)?;
                ops::add(x.array()?, &projected, stream).map(Hidden::from)
            }
            Self::Host(attention) => {
                attention.output(x.array()?, mixed.array()?, &pass.texts, stream).map(Hidden::from)
            }
            Self::Cuda(attention) => {
                let ahead = ahead.ok_or_else(no_norm)?;
                attention.output(x.tensor()?, mixed.tensor()?, ahead, stream).map(Hidden::from)
            }
        }
    }
}

impl MlxAttention {
    fn mix(
        &self,
        x: &Array,
        texts: &Texts,
        reuse: LayerReuse<'_>,
        rope: &Rope,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
        let (watched, past) = (texts.watched(), texts.past as i32);
        let x = &watched.stage(&[Part::InputNorm], || self.norm.forward(x, stream))?;
        let projected = watched.stage(&[Part::Qkv], || {
            let [q, k, v] = [&self.q_proj, &self.k_proj, &self.v_proj];
            Ok([q.forward(x, stream)?, k.forward(x, stream)?, v.forward(x, stream)?])
        })?; // [B, L, heads * E]
        let [q, k, v] = &projected;
        let [q, k, v] = watched.stage(rotation(self.q_norm.is_some()), || {
            let q = self.split(q, self.q_norm.as_ref(), self.heads, stream)?; // [B, H, L, E]
            let k = self.split(k, self.k_norm.as_ref(), self.kv_heads, stream)?; // [B, K, L, E]
            let v = self.split(v, None, self.kv_heads, stream)?; // [B, K, L, E]
            Ok([rope.forward(&q, past, stream)?, rope.forward(&k, past, stream)?, v])
        })?;
        let (k, v) = match reuse {
            LayerReuse::Nothing => (k, v),
            LayerReuse::Keep(kept) => {
                kept.push(KeysValues { keys: k.clone(), values: v.clone() });
                (k, v)
            }
            LayerReuse::Continue(before) => {
                (continued(&before.keys, past, k, stream)?, continued(&before.values, past, v, stream)?)
            }
        };
        watched.stage(&[Part::Attention], || {
            let mixed = causal(&q, &k, &v, rope.score_scale(), stream)?; // [B, H, L, E]
            let [batch, tokens] = [x.shape()[0], x.shape()[1]];
            let joined = ops::transpose(&mixed, &[0, 2, 1, 3], stream)?; // [B, L, H, E]
            ops::reshape(&joined, &[batch, tokens, self.heads * self.head_dim], stream)
        })
    }

    fn split(
        &self,
        projected: &Array,
        norm: Option<&RmsNorm>,
        heads: i32,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
        let [batch, tokens] = [projected.shape()[0], projected.shape()[1]];
        let per_head = ops::reshape(projected, &[batch, tokens, heads, self.head_dim], stream)?;
        let normed = match norm {
            Some(norm) => norm.forward(&per_head, stream)?,
            None => per_head,
        };
        ops::transpose(&normed, &[0, 2, 1, 3], stream)
    }
}

/// The first `past` of the keys or values `before`, in front of each text's `own`.
///
/// # Shape
/// `before` `[1, K, at least past, E]`, `own` `[B, K, L, E]`, result `[B, K, past + L, E]`.
fn continued(before: &Array, past: i32, own: Array, stream: &Stream) -> Result<Array, MlxError> {
    let shared = ops::slice_axis(before, 2, 0, past, stream)?;
    let shape = [own.shape()[0], own.shape()[1], past, own.shape()[3]];
    ops::concatenate(&[ops::broadcast_to(&shared, &shape, stream)?, own], 2, stream)
}

/// Causal attention that never holds more than [`SCORES_BYTES`] of scores where MLX materialises them.
fn causal(q: &Array, k: &Array, v: &Array, scale: f32, stream: &Stream) -> Result<Array, MlxError> {
    // GPUs have kernels that never hold the scores.
    let step = if stream.backend() == Backend::Cpu { step_within(SCORES_BYTES, q, k) } else { i32::MAX };
    causal_in_steps(q, k, v, scale, step, stream)
}

/// How many queries' scores fit into `bytes`; at least one.
fn step_within(bytes: usize, q: &Array, k: &Array) -> i32 {
    let [batch, heads, keys] = [q.shape()[0], q.shape()[1], k.shape()[2]].map(|dim| dim as usize);
    let bytes_per_query = (batch * heads * keys * size_of::<f32>()).max(1);
    i32::try_from((bytes / bytes_per_query).max(1)).unwrap_or(i32::MAX)
}

/// The same result as attention at once, `step` queries at a time. The queries are those of the last keys.
fn causal_in_steps(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    step: i32,
    stream: &Stream,
) -> Result<Array, MlxError> {
    let tokens = q.shape()[2];
    if step >= tokens {
        return ops::causal_attention(q, k, v, scale, stream);
    }
    let past = k.shape()[2] - tokens;
    let mut parts = Vec::new();
    let mut start = 0;
    while start < tokens {
        let stop = tokens.min(start.saturating_add(step));
        // The mask is aligned to the end, so these queries need the keys up to their own last position.
        let q = ops::slice_axis(q, 2, start, stop, stream)?;
        let k = ops::slice_axis(k, 2, 0, past + stop, stream)?;
        let v = ops::slice_axis(v, 2, 0, past + stop, stream)?;
        let part = ops::causal_attention(&q, &k, &v, scale, stream)?;
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
        // As many keys as queries, and a past of 20 before them.
        for keys in [37, 57] {
            let q = noise(&[2, 4, 37, 8], 1);
            let (k, v) = (noise(&[2, 2, keys, 8], 2), noise(&[2, 2, keys, 8], 3));
            let with = |step| {
                causal_in_steps(&q, &k, &v, 0.6, step, &stream).unwrap().to_vec::<f32>(&stream).unwrap()
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
