//! The crate's error: which layer failed, and that layer's reason.

use crate::checkpoint::CheckpointError;
use crate::mlx::MlxError;
use crate::text::TextError;

/// Why there is no embedder or no vector.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint can't be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A text has no tokens.
    #[error(transparent)]
    Text(#[from] TextError),
    /// MLX failed.
    #[error(transparent)]
    Mlx(#[from] MlxError),
    /// An option has a value that makes no sense for this model.
    #[error("{option} {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong, and what would do.
        reason: String,
    },
    /// A vector came out with NaN or infinity in it. It is not handed out.
    #[error(
        "text {index}: the model produced a vector that is not finite; the weights are damaged, or their type overflows"
    )]
    NotFinite {
        /// Which of the texts.
        index: usize,
    },
    /// The weights file changed while it was in use.
    #[error("{path}: {reason}; load the checkpoint again")]
    WeightsChanged {
        /// The file.
        path: String,
        /// How.
        reason: String,
    },
    /// The embedder's thread is gone, after a panic or a failed start.
    #[error("the embedder has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}
