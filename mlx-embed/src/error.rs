//! The crate's error: which layer failed, and that layer's reason.

mod golden;
mod word;

use std::fmt;
use std::time::Duration;

use crate::checkpoint::CheckpointError;
use crate::mlx::MlxError;
use crate::text::TextError;

pub use crate::text::InputError;

pub use golden::GoldenError;
pub(crate) use golden::VERSION as GOLDEN_VERSION;
pub use word::UnknownWord;
pub(crate) use word::of_word;

/// Why there is no model, or no result. A message includes those of its causes, so `source` returns none of them.
///
/// `Debug` shows the message, too: it is what people see of a `main` that returns this error, and of `unwrap`.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint can't be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model can't be fetched from a hub.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
    /// The tokenizer can't be used, or a prompt or end token is unknown.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A golden file can't be used.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// MLX failed.
    #[error(transparent)]
    Mlx(#[from] MlxError),
    /// An option doesn't fit this model or this machine.
    #[error("{option} {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong, and what would do.
        reason: String,
    },
    /// A text has no result.
    #[error("text {index}: {source}")]
    Input {
        /// The text's place in the call, counted from 0.
        index: usize,
        /// Why.
        r#source: InputError,
    },
    /// The query of a reranker's call can't be used.
    #[error("query: {source}")]
    Query {
        /// Why.
        r#source: InputError,
    },
    /// A weights file was changed while it was in use.
    #[error("{path}: {reason}; load the checkpoint again")]
    WeightsChanged {
        /// The file.
        path: String,
        /// How.
        reason: String,
    },
    /// Too many texts wait already, or too many bytes of text.
    #[error(
        "the queue is full: {queued} texts of {bytes} bytes wait; try again later, send less at once, or load the \
         model with a larger queue_texts or queue_bytes"
    )]
    QueueFull {
        /// Number of texts in the lane.
        queued: usize,
        /// Their size in bytes.
        bytes: usize,
    },
    /// The request was not done within its timeout, or could not have been. Texts that were not running yet were not
    /// run.
    #[error("the request's timeout has passed or can't be met; it waited {waited:.1?}")]
    DeadlineExceeded {
        /// Time from the call to this error.
        waited: Duration,
    },
    /// The call would wait for its own thread, one of the model's: these threads run wakers, recorders of metrics and
    /// subscribers of tracing.
    #[error(
        "the call would wait for a thread of the model's, which makes it: from a waker, recorder or subscriber, await the \
         result or call from another thread"
    )]
    WaitsForItself,
    /// The embedder was shut down, or its thread died.
    #[error("the embedder has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::{io, iter};

    use super::*;

    #[test]
    fn a_chain_of_causes_says_nothing_twice() {
        let cause = || io::Error::other("a cause");
        let path = || std::path::PathBuf::from("a/path");
        let errors = [
            Error::Input { index: 3, source: InputError::Empty },
            Error::Query { source: InputError::Empty },
            CheckpointError::Io { path: path(), source: cause() }.into(),
            TextError::Io { path: path(), source: cause() }.into(),
            GoldenError::Io { path: path(), source: cause() }.into(),
        ];
        for error in errors {
            let said = error.to_string();
            assert_eq!(format!("{error:?}"), said);
            let causes: Vec<String> =
                iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string).collect();
            assert!(causes.iter().all(|cause| !said.contains(cause)), "{said}: {causes:?}");
        }
    }
}
