//! The crate's error: which layer failed, and that layer's reason.

mod golden;

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use crate::checkpoint::CheckpointError;
use crate::mlx::MlxError;
use crate::text::TextError;

pub use golden::GoldenError;
pub(crate) use golden::VERSION as GOLDEN_VERSION;

/// Why there is no embedder or no vector.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint can't be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer can't be used, or a prompt or end token is unknown.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A golden file can't be used.
    #[error(transparent)]
    Golden(#[from] GoldenError),
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
    /// One of the texts has no vector.
    #[error("text {index}: {source}")]
    Input {
        /// Which of the call's texts.
        index: usize,
        /// Why.
        source: InputError,
    },
    /// The weights file changed while it was in use.
    #[error("{path}: {reason}; load the checkpoint again")]
    WeightsChanged {
        /// The file.
        path: String,
        /// How.
        reason: String,
    },
    /// Too many texts wait already, or too much text.
    #[error(
        "the queue is full: {queued} texts of {bytes} bytes wait; try again later, send less at once, or load the \
         model with a larger queue_texts or queue_bytes"
    )]
    QueueFull {
        /// Texts in the lane.
        queued: usize,
        /// Bytes of them.
        bytes: usize,
    },
    /// The request was not done in its time, or could not have been. What of it was not running yet was not run.
    #[error("the request's timeout has passed or can't be met; it waited {waited:.1?}")]
    DeadlineExceeded {
        /// How long.
        waited: Duration,
    },
    /// The embedder was shut down, or its thread died.
    #[error("the embedder has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why a text has no vector. The other texts of its call are not concerned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The tokenizer could not take the text.
    #[error("the tokenizer failed: {reason}")]
    Tokenizer {
        /// The tokenizer library's reason.
        reason: String,
    },
    /// Nothing is left of the text, so there is nothing to embed.
    #[error("it is empty and this model adds no token of its own; leave it out")]
    Empty,
    /// More text than one text may have.
    #[error(
        "it has {bytes} bytes, prompt included, but the limit is {max_bytes}; split it, or load the model with a larger \
         max_text_bytes"
    )]
    TooManyBytes {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// More token ids than the model takes. Texts are cut; ids that somebody else made are not.
    #[error(
        "it has {tokens} token ids, but the limit is {max_tokens}; cut it, or load the model with a larger max_tokens"
    )]
    TooLong {
        /// Its token ids.
        tokens: usize,
        /// The limit.
        max_tokens: usize,
    },
    /// The tokenizer knows more tokens than the model.
    #[error(
        "token {token} is outside the model's vocabulary of {vocab_size}; tokenizer.json belongs to another model"
    )]
    OutsideVocabulary {
        /// The token's id.
        token: u32,
        /// Rows of the model's embedding table.
        vocab_size: u32,
    },
    /// The vector came out with NaN or infinity in it. It is not handed out.
    #[error(
        "the model produced a vector that is not finite; the weights are damaged, or their type overflows"
    )]
    NotFinite,
}

impl InputError {
    /// An id outside the embedding table would read memory beyond it.
    pub(crate) fn check_vocabulary(ids: &[u32], vocab_size: u32) -> Result<(), Self> {
        match ids.iter().find(|&&id| id >= vocab_size) {
            Some(&token) => Err(Self::OutsideVocabulary { token, vocab_size }),
            None => Ok(()),
        }
    }
}

/// What a caught panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// Does what may run somebody else's code, of which nothing depends on the outcome: a recorder of metrics or a
/// subscriber of tracing that panics must not take others' requests with it.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> Option<T> {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Some(done),
        Err(payload) => {
            // Its destructor is somebody else's code as well.
            std::mem::forget(payload);
            None
        }
    }
}
