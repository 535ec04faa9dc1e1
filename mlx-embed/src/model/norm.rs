//! Root-mean-square normalisation.

use std::rc::Rc;
use std::sync::Arc;

use crate::checkpoint::{CheckpointError, Weights};
use crate::mlx::cuda::Fixed;
use crate::mlx::{Array, MlxError, Stream, ops};

use super::{Hidden, Kernels, Output, cuda, host};

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
    Cuda(Rc<cuda::Cuda>, Fixed),
}

impl FinalNorm {
    pub(super) fn load(
        weights: &Weights<'_>,
        size: i32,
        eps: f32,
        kernels: &Kernels,
    ) -> Result<Self, CheckpointError> {
        let path = "norm";
        Ok(match kernels {
            Kernels::Mlx => Self::Mlx(RmsNorm::load(weights, path, size, eps)?),
            Kernels::Host(engine, _) => {
                Self::Host(host::NormNode::new(engine, host::Norm::load(weights, path, size, eps)?))
            }
            Kernels::Cuda(cuda) => {
                let weight = weights.vector(&format!("{path}.weight"), size)?;
                let weight = Fixed::new(weight).map_err(|source| weights.tensor_error(path, source))?;
                Self::Cuda(Rc::clone(cuda), weight)
            }
        })
    }

    pub(super) fn forward(&self, hidden: &Hidden, stream: &Stream) -> Result<Output, MlxError> {
        match (self, &hidden.x, &hidden.ahead) {
            (Self::Mlx(norm), x, _) => norm.forward(x.array()?, stream).map(Output::Array),
            (Self::Host(norm), x, _) => norm.forward(x.array()?, stream).map(Output::Array),
            (Self::Cuda(cuda, weight), x, ahead) => {
                cuda.finish(x.tensor()?, ahead.as_ref(), weight, stream).map(Output::Host)
            }
        }
    }
}
