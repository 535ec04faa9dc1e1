use std::time::Duration;

use serde::Serialize;

/// What loading a model compiled for an NVIDIA GPU. Compiled code is kept for the next time, in the folder that the
/// environment variable `MLX_EMBED_CACHE` names, else in `mlx-embed` below the user's cache folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CompiledKernels {
    /// Kernels that were compiled this time.
    pub anew: usize,
    /// Kernels that the model has.
    pub of: usize,
    /// Time for compiling them, or for reading them from the folder.
    pub time: Duration,
}
