//! The embedding table, and what else a batch starts with.

use std::rc::Rc;

use crate::checkpoint::{CheckpointError, Matrix, ModelConfig, Weights};
use crate::mlx::cuda::{Fixed, Plan};
use crate::mlx::{Array, MlxError, Stream, ops};
use crate::model::State;
use crate::model::rope::Rope;

use super::{Ahead, Call, Cuda, Way};

/// The embedding table.
#[derive(Debug)]
pub(in crate::model) struct Embedding {
    cuda: Rc<Cuda>,
    /// As [`Kernels::embed`](crate::mlx::cuda::Kernels::embed) takes it.
    table: Vec<Fixed>,
    next_norm: Fixed, // [D]
    eps: f32,
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
        Ok(Self {
            cuda: Rc::clone(cuda),
            table,
            next_norm: fixed(next_norm).map_err(failed)?,
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
    ) -> Result<(State, Ahead, Call), MlxError> {
        let plan = Plan::new(ids, lengths, past)?;
        let angles = self.cuda.angles(rope, plan.positions())?;
        if self.cuda.is_packed(plan.tokens()) {
            let eager = self.cuda.eager()?;
            let meta = eager.meta(&plan, stream)?;
            let (x, scaled, angles) =
                eager.embed(&plan, &meta, &self.table, &self.next_norm, &angles, stream)?;
            let call = Call { plan, way: Way::Packed { meta, angles } };
            return Ok((State::Tensor(x), Ahead::Scaled(scaled), call));
        }
        let table: Vec<&Array> = self.table.iter().map(Fixed::array).collect();
        let scale = self.next_norm.array();
        let [x, angles] = self.cuda.kernels.embed(&plan, &table, scale, angles.array(), stream)?;
        let normed = ops::rms_norm(&x, scale, self.eps, stream)?;
        Ok((State::Array(x), Ahead::Normed(normed), Call { plan, way: Way::Expanded { angles } }))
    }
}

/// A copy in the GPU's own memory. What comes from the host lies in memory that both see, whose pages move when the GPU
/// first touches them, a text's rows at a time.
fn on_gpu(array: &Array, stream: &Stream) -> Result<Array, MlxError> {
    let rows = array.shape().first().copied().unwrap_or(0);
    let halves = [
        ops::slice_axis(array, 0, 0, rows / 2, stream)?,
        ops::slice_axis(array, 0, rows / 2, rows, stream)?,
    ];
    ops::concatenate(&halves, 0, stream)
}
