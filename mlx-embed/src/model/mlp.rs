//! The feed-forward part, SwiGLU (Shazeer, 2020).

use crate::checkpoint::{CheckpointError, ModelConfig, Weights};
use crate::mlx::{Array, MlxError, Stream, ops};

use super::linear::Linear;

#[derive(Debug)]
pub(super) struct Mlp {
    gate_proj: Linear, // D -> intermediate
    up_proj: Linear,   // D -> intermediate
    down_proj: Linear, // intermediate -> D
}

impl Mlp {
    pub(super) fn load(
        weights: &Weights<'_>,
        path: &str,
        config: &ModelConfig,
    ) -> Result<Self, CheckpointError> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let linear =
            |name: &str, inputs, outputs| Linear::load(weights, &format!("{path}.{name}"), inputs, outputs);
        Ok(Self {
            gate_proj: linear("gate_proj", hidden, intermediate)?,
            up_proj: linear("up_proj", hidden, intermediate)?,
            down_proj: linear("down_proj", intermediate, hidden)?,
        })
    }

    /// # Shape
    /// `x` and result `[.., D]`.
    pub(super) fn forward(&self, x: &Array, stream: &Stream) -> Result<Array, MlxError> {
        let gate = self.gate_proj.forward(x, stream)?;
        let up = self.up_proj.forward(x, stream)?;
        self.down_proj.forward(&swiglu(&gate, &up, stream)?, stream)
    }
}

/// `silu(gate) * up`, with `silu(x) = x * sigmoid(x)`.
fn swiglu(gate: &Array, up: &Array, stream: &Stream) -> Result<Array, MlxError> {
    let silu = ops::multiply(gate, &ops::sigmoid(gate, stream)?, stream)?;
    ops::multiply(&silu, up, stream)
}
