//! Root-mean-square normalisation.

use std::sync::Arc;

use crate::checkpoint::{CheckpointError, Weights};
use crate::mlx::{Array, MlxError, Stream, ops};

use super::{Hidden, Kernels, cuda, host};

/// On MLX's own operation.
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

/// The norm behind the last layer.
#[derive(Debug)]
pub(super) enum FinalNorm {
    Mlx(RmsNorm),
    Host(Arc<host::NormNode>),
}

impl FinalNorm {
    pub(super) fn load(
        weights: &Weights<'_>,
        size: i32,
        eps: f32,
        kernels: &Kernels,
    ) -> Result<Self, CheckpointError> {
        Ok(match kernels {
            Kernels::Mlx | Kernels::Cuda(_) => Self::Mlx(RmsNorm::load(weights, "norm", size, eps)?),
            Kernels::Host(engine, _) => {
                Self::Host(host::NormNode::new(engine, host::Norm::load(weights, "norm", size, eps)?))
            }
        })
    }

    pub(super) fn forward(&self, hidden: &Hidden, stream: &Stream) -> Result<Array, MlxError> {
        if let Some(cuda::Ahead::Normed(normed)) = &hidden.ahead {
            return Ok(normed.clone());
        }
        let x = &hidden.x;
        match self {
            Self::Mlx(norm) => norm.forward(x, stream),
            Self::Host(norm) => norm.forward(x, stream),
        }
    }
}
