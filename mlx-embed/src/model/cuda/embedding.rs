//! The embedding table, and what else a batch starts with.

use std::rc::Rc;

use crate::checkpoint::{CheckpointError, Matrix, ModelConfig, Weights};
use crate::mlx::cuda::Plan;
use crate::mlx::{Array, MlxError, Stream, ops};
use crate::model::rope::Rope;

use super::{Ahead, Call, Cuda, Way};

/// The embedding table.
#[derive(Debug)]
pub(in crate::model) struct Embedding {
    cuda: Rc<Cuda>,
    /// As [`Kernels::embed`](crate::mlx::cuda::Kernels::embed) takes it.
    table: Vec<Array>,
    next_norm: Array, // [D]
    eps: f32,
}

impl Embedding {
    pub(in crate::model) fn load(
        cuda: &Rc<Cuda>,
        weights: &Weights<'_>,
        path: &str,
        config: &ModelConfig,
    ) -> Result<Self, CheckpointError> {
        let table = match weights.matrix(path, config.vocab_size, config.hidden_size)? {
            Matrix::Dense(table) => vec![table],
            Matrix::Quantized { weight, scales, biases, .. } => {
                [weight, scales].into_iter().chain(biases).collect()
            }
        };
        Ok(Self {
            cuda: Rc::clone(cuda),
            table,
            next_norm: weights.vector("layers.0.input_layernorm.weight", config.hidden_size)?,
            eps: config.rms_norm_eps,
        })
    }

    /// The first hidden state, `[T, D]`, of texts that lie one behind the other and continue `past` tokens.
    pub(in crate::model) fn forward(
        &self,
        ids: &[u32],
        lengths: &[usize],
        past: usize,
        rope: &Rope,
        stream: &Stream,
    ) -> Result<(Array, Ahead, Call), MlxError> {
        let plan = Plan::new(ids, lengths, past)?;
        let angles = self.cuda.angles(rope, plan.positions())?;
        let table: Vec<&Array> = self.table.iter().collect();
        let (x, scaled, angles) = self.cuda.kernels.embed(&plan, &table, &self.next_norm, &angles, stream)?;
        let way = self.cuda.way(plan.tokens());
        let ahead = match way {
            Way::Packed => Ahead::Scaled(scaled),
            Way::Expanded => Ahead::Normed(ops::rms_norm(&x, &self.next_norm, self.eps, stream)?),
        };
        Ok((x, ahead, Call { plan, angles, way }))
    }
}
