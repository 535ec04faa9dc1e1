//! The feed-forward part, SwiGLU (Shazeer, 2020).

use crate::checkpoint::{CheckpointError, ModelConfig, Weights};
use crate::mlx::{Array, MlxError, Stream, ops};

use super::host;
use super::linear::Linear;
use super::norm::RmsNorm;
use super::{Hidden, Kernels, Part, Pass, cuda};

/// Norm and feed-forward part of one layer, and the residual connection around them.
#[derive(Debug)]
pub(super) enum Mlp {
    /// On MLX's own operations.
    Mlx(MlxMlp),
    /// On this crate's kernels for the CPU.
    Host(host::Mlp),
    /// On this crate's kernels for NVIDIA GPUs.
    Cuda(cuda::Mlp),
}

#[derive(Debug)]
pub(super) struct MlxMlp {
    norm: RmsNorm,     // [D]
    gate_proj: Linear, // D -> intermediate
    up_proj: Linear,   // D -> intermediate
    down_proj: Linear, // intermediate -> D
}

impl Mlp {
    pub(super) fn load(
        weights: &Weights<'_>,
        layer: usize,
        config: &ModelConfig,
        kernels: &Kernels,
        stream: &Stream,
    ) -> Result<Self, CheckpointError> {
        let (hidden, intermediate, eps) = (config.hidden_size, config.intermediate_size, config.rms_norm_eps);
        let norm = format!("layers.{layer}.post_attention_layernorm");
        let of = |name: &str| format!("layers.{layer}.mlp.{name}");
        match kernels {
            Kernels::Mlx => {
                let linear = |name: &str, inputs, outputs| Linear::load(weights, &of(name), inputs, outputs);
                Ok(Self::Mlx(MlxMlp {
                    norm: RmsNorm::load(weights, &norm, hidden, eps)?,
                    gate_proj: linear("gate_proj", hidden, intermediate)?,
                    up_proj: linear("up_proj", hidden, intermediate)?,
                    down_proj: linear("down_proj", intermediate, hidden)?,
                }))
            }
            Kernels::Host(engine, precision) => {
                let rule = precision.rule(layer, config.layers);
                let norm = host::Norm::load(weights, &norm, hidden, eps)?;
                let path = format!("layers.{layer}.mlp");
                host::Mlp::load(engine, weights, &path, norm, [hidden, intermediate], rule).map(Self::Host)
            }
            Kernels::Cuda(cuda) => cuda::Mlp::load(cuda, weights, layer, config, stream).map(Self::Cuda),
        }
    }

    /// # Shape
    /// `[.., D]`, before and after.
    pub(super) fn forward(&self, hidden: &Hidden, pass: &Pass<'_>) -> Result<Hidden, MlxError> {
        let stream = pass.stream;
        match self {
            Self::Mlx(mlp) => {
                let x = hidden.x.array()?;
                let watched = pass.texts.watched();
                let normed = watched.stage(&[Part::PostAttentionNorm], || mlp.norm.forward(x, stream))?;
                let [gate, up] = watched.stage(&[Part::GateUp], || {
                    Ok([mlp.gate_proj.forward(&normed, stream)?, mlp.up_proj.forward(&normed, stream)?])
                })?;
                let gated = watched.stage(&[Part::SwiGlu], || swiglu(&gate, &up, stream))?;
                watched.stage(&[Part::Down], || {
                    ops::add(x, &mlp.down_proj.forward(&gated, stream)?, stream).map(Hidden::from)
                })
            }
            Self::Host(mlp) => mlp.forward(hidden.x.array()?, &pass.texts, stream).map(Hidden::from),
            Self::Cuda(mlp) => mlp.forward(hidden.x.tensor()?, hidden.cuda()?, stream).map(Hidden::from),
        }
    }
}

/// `silu(gate) * up`, with `silu(x) = x * sigmoid(x)`.
fn swiglu(gate: &Array, up: &Array, stream: &Stream) -> Result<Array, MlxError> {
    let silu = ops::multiply(gate, &ops::sigmoid(gate, stream)?, stream)?;
    ops::multiply(&silu, up, stream)
}
