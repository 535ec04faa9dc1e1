//! The feed-forward part.

use std::rc::Rc;

use crate::checkpoint::{CheckpointError, ModelConfig, Weights};
use crate::mlx::cuda::{Fixed, Tensor};
use crate::mlx::{MlxError, Stream};

use super::weight::{Order, Weight};
use super::{Ahead, Cuda};

/// Feed-forward part of one layer, and the residual connection and norm behind it.
#[derive(Debug)]
pub(in crate::model) struct Mlp {
    cuda: Rc<Cuda>,
    gate_up: Weight,  // D -> 2 * I, alternating eight by eight
    down: Weight,     // I -> D
    next_norm: Fixed, // [D]
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
            down: Weight::load(
                cuda,
                weights,
                &[of("down_proj", hidden)],
                intermediate,
                Order::Stacked,
                stream,
            )?,
            next_norm: Fixed::new(weights.vector(&next_norm, hidden)?)
                .map_err(|source| weights.tensor_error(&next_norm, source))?,
            cuda: Rc::clone(cuda),
        })
    }

    /// # Shape
    /// `x` and result `[T, D]`.
    pub(in crate::model) fn forward(
        &self,
        x: &Tensor,
        ahead: &Ahead,
        stream: &Stream,
    ) -> Result<(Tensor, Ahead), MlxError> {
        let ops = &self.cuda.ops;
        let gate_up = self.gate_up.matrix(&self.cuda, ahead, x.shape()[0], stream)?;
        let gated = match ahead {
            Ahead::Scaled(scaled) => ops.gated(scaled, &gate_up, stream)?,
            Ahead::Normed(normed) => ops.gated_apart(normed, &gate_up, stream)?,
        };
        self.cuda.add(x, &gated, &self.down, &self.next_norm, ahead, stream)
    }
}
