//! What keeps numbers between products within f16, whatever a text is.
//!
//! A norm by the root mean square makes rows of D numbers whose squares sum up to at most D, before their weights. So what a
//! row of a matrix makes of one is at most the square root of D times the norm of that row, each column times its weight
//! (Cauchy and Schwarz). Of each layer one power of two goes by these bounds, which hold for every text: results don't depend on
//! what else is in a batch. They are some ten times what texts reach, and f16 has room for a thousand times that in both
//! directions.

use crate::mlx::MlxError;
use crate::mlx::cuda::{Activation, Fixed, Norm, shift_within};
use crate::model::decoder::{AttentionLayer, Decoder, MlpLayer};

use super::Cuda;
use super::operations::sizes;
use super::weight::Projection;

impl Cuda {
    /// Finds out what queries, keys and values, and what the activation makes, are multiplied with, in all layers.
    pub(super) fn find_shifts(&self, decoder: &Decoder<Self>) -> Result<(), MlxError> {
        if !self.form.geometry.fuses_halves() {
            return Ok(());
        }
        // Kernels that dequantise read packed matrices while the one before them still runs.
        self.ops.synchronize()?;
        for (attention, mlp) in decoder.halves() {
            attention.qkv.shift.set(shift_within(self.most_of_heads(attention)?));
            mlp.up.shift.set(shift_within(self.most_of_gated(mlp)?));
        }
        Ok(())
    }

    /// The most that each output can be, without its bias, after the norm before.
    fn most(&self, of: &Projection, norm: Option<&Norm>) -> Result<Vec<f32>, MlxError> {
        let none = || MlxError::new("cuda", "a product follows no norm");
        let weight = norm.ok_or_else(none)?.weight();
        let root = (self.form.geometry.hidden as f32).sqrt();
        let mut most = Vec::new();
        for (_, matrix) in of.read(self, false, &self.stream)? {
            let norms = self.ops.row_norms(&matrix, weight, &self.stream)?;
            most.extend(norms.into_iter().map(|norm| norm * root));
        }
        Ok(most)
    }

    fn most_of_heads(&self, layer: &AttentionLayer<Self>) -> Result<f32, MlxError> {
        let heads = sizes(layer.heads);
        let mut most = self.most(&layer.qkv, layer.norms.input.as_ref())?;
        if let Some(bias) = &layer.qkv.bias {
            let bias = self.ops.read_fixed(bias)?;
            most.iter_mut().zip(bias).for_each(|(most, bias)| *most += bias.abs());
        }
        let (rotated, values) = most.split_at((heads.queries() + heads.keys()) as usize);
        // Two numbers that rotate together become at most as large as both are long.
        let rotated = match &layer.head_norms {
            Some(norms) => largest(&self.magnitudes(norms)?) * (heads.head_dim as f32).sqrt(),
            None => largest(rotated) * std::f32::consts::SQRT_2,
        };
        let magnitude = self.ropes.first().map_or(1.0, |rotation| rotation.magnitude().abs());
        Ok(f32::max(rotated * magnitude, largest(values)))
    }

    fn magnitudes(&self, of: &Fixed) -> Result<Vec<f32>, MlxError> {
        Ok(self.ops.read_fixed(of)?.into_iter().map(f32::abs).collect())
    }

    fn most_of_gated(&self, layer: &MlpLayer<Self>) -> Result<f32, MlxError> {
        let most = self.most(&layer.up, layer.norms.input.as_ref())?;
        let activation = self.form.geometry.activation;
        // Gate and up alternate eight by eight.
        let of_pairs = most.chunks_exact(16).flat_map(|pairs| {
            let (gate, up) = pairs.split_at(8);
            gate.iter().zip(up).map(|(&gate, up)| activated(activation, gate) * up)
        });
        Ok(largest(&of_pairs.collect::<Vec<_>>()))
    }
}

fn largest(of: &[f32]) -> f32 {
    of.iter().copied().fold(0.0, f32::max)
}

/// The most that it makes of numbers up to this size.
fn activated(activation: Activation, most: f32) -> f32 {
    match activation {
        Activation::SquaredRelu => most * most,
        Activation::Sigmoid | Activation::Laplace => 1.0,
        Activation::Silu
        | Activation::GeluErf
        | Activation::GeluTanh
        | Activation::Relu
        | Activation::Identity
        | Activation::Tanh
        | Activation::QuickGelu
        | Activation::ClippedGelu
        | Activation::Relu6
        | Activation::LeakyRelu
        | Activation::HardSwish
        | Activation::Mish => most,
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn what_is_shifted_keeps_within_f16() {
        for bound in [1e-30_f32, 0.3, 1.0, 1.5, 65504.0, 1e7, 3e12] {
            let shift = shift_within(bound);
            let shifted = bound * 2_f32.powi(shift);
            assert!(shifted <= 32768.0 && f16::from_f32(shifted * 1.9).is_finite(), "{bound}: {shift}");
            assert!(shifted > 16383.0 || shift == 48, "{bound}: {shift} leaves room unused");
        }
        // Nothing is known of what isn't finite.
        assert_eq!([0.0, f32::INFINITY, f32::NAN].map(shift_within), [0; 3]);
    }

    #[test]
    fn no_activation_makes_more_than_its_bound() {
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        for most in [0.01_f32, 1.0, 30.0] {
            for i in -100..=100 {
                let x = most * i as f32 / 100.0;
                let [silu, quick] = [x * sigmoid(x), x * sigmoid(1.702 * x)];
                assert!(silu.abs() <= activated(Activation::Silu, most));
                assert!(quick.abs() <= activated(Activation::QuickGelu, most));
                assert!(x.tanh().abs() <= activated(Activation::Tanh, most));
                assert!(sigmoid(x) <= activated(Activation::Sigmoid, most));
                assert!(x.max(0.0).powi(2) <= activated(Activation::SquaredRelu, most));
            }
        }
    }
}
