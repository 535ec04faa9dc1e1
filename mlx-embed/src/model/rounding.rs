//! What a loaded model rounds.

use serde::Serialize;

/// What this crate's kernels round in products with the matrices of layers and in attention, beyond what the checkpoint's
/// own type does. Everything else is computed in the checkpoint's type, or in f32. It says nothing of MLX's operations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Rounding {
    /// Bits of the activations that enter a product, rounded in groups of inputs: the fewest of any product. `None` if
    /// no product rounds them. On an NVIDIA GPU it is the precision of floats: 11 for f16, 8 for bf16.
    pub activations: Option<u32>,
    /// Bits of weights that were rounded at load, in groups of inputs. `None` if all are the checkpoint's own. On an
    /// NVIDIA GPU it is the precision of floats; of quantised weights only the scales have one.
    pub weights: Option<u32>,
    /// Precision of the floats that attention multiplies, where [`Precision::Fast`](crate::Precision::Fast) rounds them: 8
    /// for bf16, on a CPU with AVX-512 BF16, in texts of more than five tokens.
    pub attention: Option<u32>,
}

impl Rounding {
    /// The fewest bits of either.
    pub(crate) fn with(self, other: Self) -> Self {
        let fewest = |a: Option<u32>, b: Option<u32>| a.into_iter().chain(b).min();
        Self {
            activations: fewest(self.activations, other.activations),
            weights: fewest(self.weights, other.weights),
            attention: fewest(self.attention, other.attention),
        }
    }
}
