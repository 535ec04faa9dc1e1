//! The embedding table, and what else a batch starts with.

use std::rc::Rc;

use crate::checkpoint::{CheckpointError, Matrix, ModelConfig, Weights};
use crate::mlx::cuda::{Fixed, Tensor};
use crate::mlx::{Array, MlxError, Stream};
use crate::model::rope::Rope;

use super::weight::on_gpu;
use super::{Ahead, Call, Cuda};

/// The embedding table.
#[derive(Debug)]
pub(in crate::model) struct Embedding {
    cuda: Rc<Cuda>,
    /// As [`Ops::embed`](crate::mlx::cuda::Ops::embed) takes it.
    table: Vec<Fixed>,
    next_norm: Fixed, // [D]
}

impl Embedding {
    pub(in crate::model) fn load(
        cuda: &Rc<Cuda>,
        weights: &Weights<'_>,
        path: &str,
        config: &ModelConfig,
        stream: &Stream,
    ) -> Result<Self, CheckpointError> {
        let parts = match weights.matrix(path, config.vocab_size, config.hidden_size)? {
            Matrix::Dense(table) => vec![table],
            Matrix::Quantized { weight, scales, biases, .. } => {
                [weight, scales].into_iter().chain(biases).collect()
            }
        };
        let fixed = |array: Array| Fixed::new(on_gpu(&array, stream)?);
        let failed = |source| weights.tensor_error(path, source);
        let table = parts.into_iter().map(|part| fixed(part).map_err(failed)).collect::<Result<_, _>>()?;
        weights.release(path);
        let next_norm = weights.vector("layers.0.input_layernorm.weight", config.hidden_size)?;
        Ok(Self { cuda: Rc::clone(cuda), table, next_norm: fixed(next_norm).map_err(failed)? })
    }

    /// The first hidden state, `[T, D]`, of texts that lie one behind the other and continue `past` tokens.
    pub(in crate::model) fn forward(
        &self,
        ids: &[u32],
        lengths: &[usize],
        past: usize,
        rope: &Rope,
        stream: &Stream,
    ) -> Result<(Tensor, Ahead, Call), MlxError> {
        let ops = &self.cuda.ops;
        let plan = ops.plan(ids, lengths, past)?;
        let all_angles = self.cuda.angles(rope, plan.positions())?;
        let meta = ops.meta(&plan, stream)?;
        let (x, scaled, angles) =
            ops.embed(&plan, &meta, &self.table, &self.next_norm, &all_angles, stream)?;
        let ahead = if ops.fuses() || self.cuda.is_packed(plan.tokens()) {
            Ahead::Scaled(scaled)
        } else {
            Ahead::Normed(ops.norm(&x, &self.next_norm, stream)?)
        };
        Ok((x, ahead, Call { plan, meta, angles }))
    }
}
