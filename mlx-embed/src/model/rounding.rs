//! What a loaded model rounds.

use serde::Serialize;

/// What this crate's kernels for the CPU round in products with the matrices of the layers; everything else there is as the
/// checkpoint has it, or f32. Of other kernels it says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Rounding {
    /// Bits of what is multiplied with a matrix, a group of inputs at a time: the fewest that any product has. `None` where
    /// none rounds.
    pub activations: Option<u32>,
    /// Bits of weights that were rounded at load, a group of inputs at a time. `None` where all are the checkpoint's own.
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
