//! Causal self-attention.

use std::rc::Rc;

use crate::checkpoint::{CheckpointError, ModelConfig, Weights};
use crate::mlx::cuda::{Fixed, Tensor};
use crate::mlx::{Array, MlxError, Stream, ops};
use crate::model::reuse::{KeysValues, LayerReuse};

use super::weight::{Order, Weight};
use super::{Ahead, Call, Cuda};

/// Projections and attention of one layer, and the residual connection and norm behind them.
#[derive(Debug)]
pub(in crate::model) struct Attention {
    cuda: Rc<Cuda>,
    qkv: Weight,               // D -> (H + 2K) * E
    bias: Option<Fixed>,       // [(H + 2K) * E]
    head_norms: Option<Fixed>, // [2, E]
    o: Weight,                 // H * E -> D
    next_norm: Fixed,          // [D]
}

impl Attention {
    pub(in crate::model) fn load(
        cuda: &Rc<Cuda>,
        weights: &Weights<'_>,
        layer: usize,
        config: &ModelConfig,
        stream: &Stream,
    ) -> Result<Self, CheckpointError> {
        let path = format!("layers.{layer}.self_attn");
        let geometry = &cuda.form.geometry;
        let hidden = config.hidden_size;
        let [queries, keys] = [config.heads, config.kv_heads].map(|heads| heads * config.head_dim);
        let projections = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)];
        let matrices = projections.map(|(name, outputs)| (format!("{path}.{name}"), outputs));
        let vectors = |names: &[(String, i32)], shape: &[i32]| -> Result<Fixed, CheckpointError> {
            let mut all = Vec::new();
            for (name, size) in names {
                all.push(weights.vector(name, *size)?);
            }
            let joined = ops::concatenate(&all, 0, stream).and_then(|all| ops::reshape(&all, shape, stream));
            joined.and_then(Fixed::new).map_err(|source| weights.tensor_error(&path, source))
        };
        let biases = projections.map(|(name, outputs)| (format!("{path}.{name}.bias"), outputs));
        let norms = ["q_norm", "k_norm"].map(|name| (format!("{path}.{name}.weight"), config.head_dim));
        let next_norm = format!("layers.{layer}.post_attention_layernorm.weight");
        Ok(Self {
            qkv: Weight::load(cuda, weights, &matrices, hidden, Order::Stacked, stream)?,
            bias: if geometry.bias { Some(vectors(&biases, &[-1])?) } else { None },
            head_norms: if geometry.head_norms { Some(vectors(&norms, &[2, -1])?) } else { None },
            o: Weight::load(
                cuda,
                weights,
                &[(format!("{path}.o_proj"), hidden)],
                queries,
                Order::Stacked,
                stream,
            )?,
            next_norm: vectors(&[(next_norm, hidden)], &[-1])?,
            cuda: Rc::clone(cuda),
        })
    }

    /// See [`Attention::mix`](crate::model::attention::Attention::mix).
    ///
    /// # Shape
    /// Result `[T, H * E]`.
    pub(in crate::model) fn mix(
        &self,
        ahead: &Ahead,
        call: &Call,
        reuse: LayerReuse<'_>,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let of_heads = [self.bias.as_ref(), self.head_norms.as_ref()];
        let past = match &reuse {
            LayerReuse::Nothing | LayerReuse::Keep(_) => None,
            LayerReuse::Continue(before) => Some([&before.keys, &before.values]),
        };
        let ops = &self.cuda.ops;
        let w = self.qkv.matrix(&self.cuda, ahead, call.plan.tokens(), stream)?;
        let qkv = match ahead {
            Ahead::Scaled(x) => ops.qkv(x, &w, of_heads, &call.angles, stream)?,
            Ahead::Normed(x) => ops.qkv_apart(x, &w, of_heads, &call.angles, stream)?,
        };
        if let LayerReuse::Keep(kept) = reuse {
            let own = self.keys_values(&ops.array(&qkv, stream)?, stream)?;
            // The memory behind the array is free for others once `qkv` goes.
            KeysValues::eval(std::slice::from_ref(&own))?;
            kept.push(own);
        }
        ops.attention(&qkv, past, &call.plan, &call.meta, stream)
    }

    /// `[T, K * E]` each.
    fn keys_values(&self, qkv: &Array, stream: &Stream) -> Result<KeysValues, MlxError> {
        let geometry = &self.cuda.form.geometry;
        let [queries, keys] = [geometry.heads, geometry.kv_heads].map(|heads| heads * geometry.head_dim);
        let part = |start| ops::contiguous(&ops::slice_axis(qkv, 1, start, start + keys, stream)?, stream);
        Ok(KeysValues { keys: part(queries)?, values: part(queries + keys)? })
    }

    /// See [`Attention::output`](crate::model::attention::Attention::output).
    pub(in crate::model) fn output(
        &self,
        x: &Tensor,
        mixed: &Tensor,
        ahead: &Ahead,
        stream: &Stream,
    ) -> Result<(Tensor, Ahead), MlxError> {
        self.cuda.add(x, mixed, &self.o, &self.next_norm, ahead, stream)
    }
}
