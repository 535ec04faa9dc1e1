//! RMSNorm.

use std::sync::Arc;

use crate::checkpoint::{CheckpointError, Weights};
use crate::kernels::Engine;
use crate::mlx::host::{HostError, HostInput, HostKernel, HostOutput, OutputSpec, host_kernel};
use crate::mlx::{Array, Dtype, MlxError, Stream};

/// An RMSNorm before a projection, or of heads.
#[derive(Debug, Clone)]
pub(in crate::model) struct Norm {
    weight: Vec<f32>,
    eps: f32,
}

impl Norm {
    pub(in crate::model) fn load(
        weights: &Weights<'_>,
        path: &str,
        size: i32,
        eps: f32,
    ) -> Result<Self, CheckpointError> {
        Ok(Self { weight: numbers(weights, &format!("{path}.weight"), size)?, eps })
    }

    pub(super) fn parts(&self) -> (&[f32], f32) {
        (&self.weight, self.eps)
    }
}

pub(super) fn numbers(weights: &Weights<'_>, name: &str, size: i32) -> Result<Vec<f32>, CheckpointError> {
    let array = weights.vector(name, size)?;
    let numbers = array.as_slice::<f32>().map(<[f32]>::to_vec);
    numbers.map_err(|source| weights.tensor_error(name, source))
}

/// RMSNorm as an operation of its own.
#[derive(Debug)]
pub(in crate::model) struct NormNode {
    engine: Arc<Engine>,
    norm: Norm,
}

impl NormNode {
    pub(in crate::model) fn new(engine: &Arc<Engine>, norm: Norm) -> Arc<Self> {
        Arc::new(Self { engine: Arc::clone(engine), norm })
    }

    pub(in crate::model) fn forward(self: &Arc<Self>, x: &Array, stream: &Stream) -> Result<Array, MlxError> {
        let [out] = host_kernel(Arc::clone(self), &[x], [OutputSpec::new(x.shape(), Dtype::F32)], stream)?;
        Ok(out)
    }
}

impl HostKernel for NormNode {
    fn name(&self) -> &str {
        "rms_norm"
    }

    fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
        let (weight, eps) = self.norm.parts();
        let x = inputs[0].as_slice()?;
        Ok(outputs[0].fill_with(|out| self.engine.norm(x, weight, eps, out))?)
    }
}
