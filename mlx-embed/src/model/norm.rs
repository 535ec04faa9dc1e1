//! Root-mean-square normalisation.

use crate::checkpoint::{CheckpointError, Weights};
use crate::mlx::{Array, MlxError, Stream, ops};

#[derive(Debug)]
pub(super) struct RmsNorm {
    weight: Array, // [size of the last dimension]
    eps: f32,
}

impl RmsNorm {
    pub(super) fn load(
        weights: &Weights<'_>,
        path: &str,
        size: i32,
        eps: f32,
    ) -> Result<Self, CheckpointError> {
        Ok(Self { weight: weights.vector(&format!("{path}.weight"), size)?, eps })
    }

    pub(super) fn forward(&self, x: &Array, stream: &Stream) -> Result<Array, MlxError> {
        ops::rms_norm(x, &self.weight, self.eps, stream)
    }
}
