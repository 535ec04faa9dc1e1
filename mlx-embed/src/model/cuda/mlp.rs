//! The feed-forward part.

use std::rc::Rc;

use crate::checkpoint::{CheckpointError, ModelConfig, Weights};
use crate::mlx::{Array, MlxError, Stream};

use super::weight::{Order, Weight};
use super::{Ahead, Call, Cuda, Way, add_norm, another_way};

/// Feed-forward part of one layer, and the residual connection and norm behind it.
#[derive(Debug)]
pub(in crate::model) struct Mlp {
    cuda: Rc<Cuda>,
    gate_up: Weight,  // D -> 2 * I, alternating eight by eight
    down: Weight,     // I -> D
    next_norm: Array, // [D]
}

impl Mlp {
    pub(in crate::model) fn load(
        cuda: &Rc<Cuda>,
        weights: &Weights<'_>,
        layer: usize,
        config: &ModelConfig,
        stream: &Stream,
    ) -> Result<Self, CheckpointError> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let of = |name: &str, outputs| (format!("layers.{layer}.mlp.{name}"), outputs);
        let gate_up = [of("gate_proj", intermediate), of("up_proj", intermediate)];
        let next_norm = if layer + 1 == config.layers {
            "norm.weight".to_owned()
        } else {
            format!("layers.{}.input_layernorm.weight", layer + 1)
        };
        Ok(Self {
            gate_up: Weight::load(cuda, weights, &gate_up, hidden, Order::ByEights, stream)?,
            down: Weight::load(cuda, weights, &[of("down_proj", hidden)], intermediate, Order::Stacked, stream)?,
            next_norm: weights.vector(&next_norm, hidden)?,
            cuda: Rc::clone(cuda),
        })
    }

    /// # Shape
    /// `x` and result `[T, D]`.
    pub(in crate::model) fn forward(
        &self,
        x: &Array,
        ahead: &Ahead,
        call: &Call,
        stream: &Stream,
    ) -> Result<(Array, Ahead), MlxError> {
        let kernels = &self.cuda.kernels;
        match (call.way, ahead) {
            (Way::Packed, Ahead::Scaled(scaled)) => {
                let gated = kernels.gated(scaled, self.gate_up.packed()?, stream)?;
                let (x, scaled) = kernels.add(x, &gated, self.down.packed()?, &self.next_norm, stream)?;
                Ok((x, Ahead::Scaled(scaled)))
            }
            (Way::Expanded, Ahead::Normed(normed)) => {
                let both = self.gate_up.product(&self.cuda, normed, stream)?;
                let gated = kernels.swiglu(&both, stream)?;
                let y = self.down.product(&self.cuda, &gated, stream)?;
                add_norm(&self.cuda, x, &y, &self.next_norm, stream)
            }
            _ => Err(another_way()),
        }
    }
}
