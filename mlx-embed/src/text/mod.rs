//! Text to token ids: prompts, tokenizer, truncation, end token. Knows nothing of MLX and may run on any thread.

mod certain;
mod limits;
mod prompts;
mod tokenizer;

use std::path::PathBuf;

pub use prompts::Prompt;
pub(crate) use prompts::Prompts;
pub(crate) use tokenizer::TextEncoder;
pub use tokenizer::{EndToken, EndTokenSource};

/// Why texts can't be turned into tokens at all. What is wrong with a single text is an
/// [`InputError`](crate::InputError).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The checkpoint has no tokenizer.
    #[error("{}: missing; copy tokenizer.json from the model's repository", path.display())]
    MissingTokenizer {
        /// The file.
        path: PathBuf,
    },
    /// The tokenizer file can't be used.
    #[error("{}: not a usable tokenizer: {reason}", path.display())]
    InvalidTokenizer {
        /// The file.
        path: PathBuf,
        /// The tokenizer library's reason.
        reason: String,
    },
    /// The wanted end token isn't in the vocabulary.
    #[error("the end token `{token}` is not in the tokenizer's vocabulary")]
    UnknownEndToken {
        /// The token.
        token: String,
    },
    /// No prompt of this name.
    #[error("the model has no prompt `{name}`; it has: {known}")]
    UnknownPrompt {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
}
