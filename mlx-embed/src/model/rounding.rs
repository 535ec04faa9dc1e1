//! What a loaded model rounds.

use serde::Serialize;

/// What this crate's kernels round in products with the matrices of the layers, beside what a checkpoint's own type does;
/// everything else is as the checkpoint has it, or f32. Of MLX's operations it says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Rounding {
    /// Bits of what is multiplied with a matrix, a group of inputs at a time: the fewest that any product has. `None` where
    /// none rounds. On an NVIDIA GPU it is the precision of floats: 11 of TF32, 8 of bf16.
    pub activations: Option<u32>,
    /// Bits of weights that were rounded at load, a group of inputs at a time. `None` where all are the checkpoint's own. On
    /// an NVIDIA GPU it is the precision of floats, of which quantised weights have scales alone.
    pub weights: Option<u32>,
}

impl Rounding {
    /// The fewest bits of either.
    pub(crate) fn with(self, other: Self) -> Self {
        let fewest = |a: Option<u32>, b: Option<u32>| a.into_iter().chain(b).min();
        Self {
            activations: fewest(self.activations, other.activations),
            weights: fewest(self.weights, other.weights),
        }
    }
}
