//! Causal self-attention with grouped keys and values.

use crate::checkpoint::{CheckpointError, ModelConfig, Weights};
use crate::mlx::ops;
use crate::mlx::{Array, Backend, MlxError, Stream};

use super::linear::Linear;
use super::norm::RmsNorm;
use super::rope::Rope;

/// Most memory that one step's scores may take where MLX holds them all, in bytes.
const SCORES_BYTES: usize = 64 << 20;

/// Projections, norms and attention of one layer.
#[derive(Debug)]
pub(super) struct Attention {
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

impl Attention {
    pub(super) fn load(
        weights: &Weights<'_>,
        path: &str,
        config: &ModelConfig,
    ) -> Result<Self, CheckpointError> {
        let ModelConfig { hidden_size, heads, kv_heads, head_dim, .. } = *config;
        let linear =
            |name: &str, inputs, outputs| Linear::load(weights, &format!("{path}.{name}"), inputs, outputs);
        // The weights decide: a Qwen2 config whose checkpoint has these norms means them.
        let norm = |name: &str| {
            let name = format!("{path}.{name}");
            let needed = config.architecture == crate::checkpoint::Architecture::Qwen3;
            if needed || weights.has(&format!("{name}.weight")) {
                RmsNorm::load(weights, &name, head_dim, config.rms_norm_eps).map(Some)
            } else {
                Ok(None)
            }
        };
        Ok(Self {
            q_proj: linear("q_proj", hidden_size, heads * head_dim)?,
            k_proj: linear("k_proj", hidden_size, kv_heads * head_dim)?,
            v_proj: linear("v_proj", hidden_size, kv_heads * head_dim)?,
            o_proj: linear("o_proj", heads * head_dim, hidden_size)?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
            heads,
            kv_heads,
            head_dim,
        })
    }

    /// What each token gathers from those before it, before the output projection.
    ///
    /// # Shape
    /// `x` `[B, L, D]`, result `[B, L, H * E]`.
    pub(super) fn mix(&self, x: &Array, rope: &Rope, stream: &Stream) -> Result<Array, MlxError> {
        let q = self.split(&self.q_proj, self.q_norm.as_ref(), x, self.heads, stream)?; // [B, H, L, E]
        let k = self.split(&self.k_proj, self.k_norm.as_ref(), x, self.kv_heads, stream)?; // [B, K, L, E]
        let v = self.split(&self.v_proj, None, x, self.kv_heads, stream)?; // [B, K, L, E]
        let (q, k) = (rope.forward(&q, stream)?, rope.forward(&k, stream)?);
        let mixed = causal(&q, &k, &v, (self.head_dim as f32).powf(-0.5), stream)?; // [B, H, L, E]
        let [batch, tokens] = [x.shape()[0], x.shape()[1]];
        let joined = ops::transpose(&mixed, &[0, 2, 1, 3], stream)?; // [B, L, H, E]
        ops::reshape(&joined, &[batch, tokens, self.heads * self.head_dim], stream)
    }

    /// # Shape
    /// `mixed` `[.., H * E]`, result `[.., D]`.
    pub(super) fn output(&self, mixed: &Array, stream: &Stream) -> Result<Array, MlxError> {
        self.o_proj.forward(mixed, stream)
    }

    fn split(
        &self,
        proj: &Linear,
        norm: Option<&RmsNorm>,
        x: &Array,
        heads: i32,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
        let [batch, tokens] = [x.shape()[0], x.shape()[1]];
        let projected = proj.forward(x, stream)?; // [B, L, heads * E]
        let per_head = ops::reshape(&projected, &[batch, tokens, heads, self.head_dim], stream)?;
        let normed = match norm {
            Some(norm) => norm.forward(&per_head, stream)?,
            None => per_head,
        };
        ops::transpose(&normed, &[0, 2, 1, 3], stream)
    }
}

/// Attention in steps of queries, so that scores never take more than [`SCORES_BYTES`] where MLX materialises them.
fn causal(q: &Array, k: &Array, v: &Array, scale: f32, stream: &Stream) -> Result<Array, MlxError> {
    let [batch, heads, tokens] = [q.shape()[0], q.shape()[1], q.shape()[2]];
    let bytes_per_query = batch as usize * heads as usize * tokens as usize * size_of::<f32>();
    let step = i32::try_from((SCORES_BYTES / bytes_per_query.max(1)).max(1)).unwrap_or(i32::MAX);
    // GPUs have kernels that never hold the scores.
    if stream.backend() != Backend::Cpu || step >= tokens {
        return ops::causal_attention(q, k, v, scale, stream);
    }
    let mut parts = Vec::new();
    let mut start = 0;
    while start < tokens {
        let stop = tokens.min(start.saturating_add(step));
        // The mask is aligned to the end, so these queries need the keys up to their own last position.
        let q = ops::slice_axis(q, 2, start, stop, stream)?;
        let k = ops::slice_axis(k, 2, 0, stop, stream)?;
        let v = ops::slice_axis(v, 2, 0, stop, stream)?;
        let part = ops::causal_attention(&q, &k, &v, scale, stream)?;
        // Left lazy, MLX would hold the scores of many steps at once.
        part.eval()?;
        parts.push(part);
        start = stop;
    }
    ops::concatenate(&parts, 2, stream)
}
