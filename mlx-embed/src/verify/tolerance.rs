//! How far from a reference results may be, and why.

use serde::Serialize;

use crate::info::Info;
use crate::mlx::{Backend, Dtype};
use crate::model::Precision;

use super::Layer;

/// How far results may be from a reference's.
///
/// The error of a hidden state is relative: the length of the difference divided by the length of the reference's state.
/// Each token is measured by itself, since single tokens of trained decoders have massive activations (Sun et al., 2024)
/// that would hide all others.
///
/// Each layer adds up to `step` to the median token's error. Independent errors of `n` layers add up to
/// `step * sqrt(n)`; three times that is allowed. A token that becomes an attention sink amplifies errors, tenfold on
/// SmolLM2-135M. So a single token may have ten times the error that the median may have.
///
/// | hidden states | `step` | where it comes from |
/// | --- | --- | --- |
/// | f32, nothing rounded, on the CPU or by this crate's kernels on a GPU | 1e-6 | the order of additions in sums of some thousand terms: a few units in the last place, 6e-8 |
/// | f32, activations rounded to 16 bits ([`Rounding`](crate::Rounding)) | 6e-5 | four products behind each other that each err by 3e-5, as 16 bits a group do |
/// | the same to 8 bits | 1e-2 | 8 bits err 257 times as much, less where groups keep 16 |
/// | f32 or f16 on a GPU otherwise | 6e-4 | ten roundings to 10 bits of mantissa (f32 is multiplied through TF32), 3e-4 each at most |
/// | bf16, and [`Precision::Fast`] on a GPU | 5e-3 | ten roundings to 7 bits of mantissa, eight times as much |
///
/// Where `step` is above 1e-4, a rounding error decides whether some tokens become attention sinks. Two percent of the
/// tokens may then have any error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Tolerance {
    /// How much a layer may add to the median error.
    pub step: f64,
    /// Share of the tokens whose error may exceed [`Tolerance::error`], from 0 to 1.
    pub strays: f64,
    /// Lowest cosine of a vector and the reference's.
    pub cosine: f64,
    /// Largest absolute difference of a score, or of a vector's component divided by the vector's length. Vectors that
    /// are not normalised have any length, so the difference is taken relative to it.
    pub max_abs: f64,
    /// Largest error between a text alone and in a batch, of a token's hidden state or of a vector. 0 means that all
    /// bits have to be the same, which this crate's kernels for the CPU give. MLX and GPUs add in another order where a
    /// batch has another shape.
    pub company: f64,
}

/// How many times the expected error is allowed.
const MARGIN: f64 = 3.0;

/// How many times the median's tolerance a token's error may be.
const AMPLIFIED: f64 = 10.0;

/// Steps above this make some tokens' fate uncertain.
const COARSE: f64 = 1e-4;

impl Tolerance {
    /// The tolerance for an embedder and the element type of its hidden states.
    pub fn of(info: &Info, activation: Dtype) -> Self {
        let rounded = info.rounding.activations;
        let (step, cosine, max_abs) = match (info.backend, activation, info.precision) {
            (Backend::Cpu, Dtype::F32, _) if rounded == Some(16) => (6e-5, 0.99999, 1e-3),
            (Backend::Cpu, Dtype::F32, _) if rounded.is_some() => (1e-2, 0.999, 2.5e-2),
            (Backend::Cpu, Dtype::F32, _) => (1e-6, 0.999999, 1e-4),
            (_, Dtype::F32, Some(Precision::Exact)) if rounded.is_none() => (1e-6, 0.999999, 1e-4),
            (_, Dtype::F32, _) => (6e-4, 0.99999, 4e-3),
            (_, Dtype::F16, _) => (6e-4, 0.9999, 1e-2),
            _ => (5e-3, 0.9995, 2e-2),
        };
        let strays = if step > COARSE { 0.02 } else { 0.0 };
        let mut tolerance = Self { step, strays, cosine, max_abs, company: 0.0 };
        if info.precision.is_none() || info.backend != Backend::Cpu {
            tolerance.company = tolerance.error(Layer::Norm, info.config.layers);
        }
        tolerance
    }

    /// Largest median of the tokens' errors that is allowed after `layer` of a decoder with `layers` layers.
    pub fn median_error(&self, layer: Layer, layers: usize) -> f64 {
        let before = match layer {
            Layer::EmbedTokens => 1,
            Layer::Decoder(number) => number + 1,
            Layer::Norm => layers + 1,
        };
        MARGIN * self.step * (before as f64).sqrt()
    }

    /// Largest error of a token that is allowed after `layer` of a decoder with `layers` layers, [`Tolerance::strays`]
    /// aside.
    pub fn error(&self, layer: Layer, layers: usize) -> f64 {
        AMPLIFIED * self.median_error(layer, layers)
    }
}
