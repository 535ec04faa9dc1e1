use std::time::Duration;

use serde::Serialize;

/// What loading compiled for an NVIDIA GPU. Compiled code is kept: in the folder that the environment variable
/// `MLX_EMBED_CACHE` names, else in `mlx-embed` below the user's cache folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CompiledKernels {
    /// Kernels that were compiled now.
    pub anew: usize,
    /// All kernels of the model.
    pub of: usize,
    /// How long it took to compile or to read them.
    pub time: Duration,
}
