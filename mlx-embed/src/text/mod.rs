//! Text to token ids: prompts, tokenizer, truncation, end token. Knows nothing of MLX and may run on any thread.

mod prompts;
mod tokenizer;

use std::path::PathBuf;

pub use prompts::Prompt;
pub(crate) use prompts::Prompts;
pub use tokenizer::{EndToken, EndTokenSource};
pub(crate) use tokenizer::{TextEncoder, Tokens};

/// Why a text has no tokens.
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
    /// The tokenizer could not take the text.
    #[error("text {index}: the tokenizer failed: {reason}")]
    Tokenizer {
        /// Which of the texts.
        index: usize,
        /// The tokenizer library's reason.
        reason: String,
    },
    /// Nothing is left of the text, so there is nothing to embed.
    #[error("text {index} is empty and this model adds no token of its own; leave it out")]
    Empty {
        /// Which of the texts.
        index: usize,
    },
    /// The tokenizer knows more tokens than the model.
    #[error(
        "text {index}: token {token} is outside the model's vocabulary of {vocab_size}; tokenizer.json belongs to another model"
    )]
    OutsideVocabulary {
        /// Which of the texts.
        index: usize,
        /// The token's id.
        token: u32,
        /// Rows of the model's embedding table.
        vocab_size: u32,
    },
    /// The limit leaves no room for content.
    #[error("max_tokens is {max_tokens}, but {added} go to special tokens; allow more than that")]
    LimitTooSmall {
        /// The limit.
        max_tokens: usize,
        /// Special tokens that every text gets.
        added: usize,
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
