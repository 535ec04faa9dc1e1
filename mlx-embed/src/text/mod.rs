//! Text to token ids: prompts, tokenizer, truncation, end token. Knows nothing of MLX and may run on any thread.

mod assemble;
mod bare;
mod built;
mod certain;
mod charsmap;
mod class;
mod guarded;
mod input_error;
mod limits;
mod pair;
mod prompts;
mod sentencepiece;
mod settings;
mod side_files;
mod sides;
mod spans;
mod straight;
mod tokenizer;
mod vocabulary;

use std::io;
use std::path::PathBuf;

pub use assemble::{AddedTokenInfo, TruncationSide};
pub use input_error::InputError;
pub(crate) use pair::{Frame, PairForm, Words};
pub use prompts::Prompt;
pub(crate) use prompts::Prompts;
pub(crate) use settings::{Bare, Settings};
pub(crate) use side_files::Overrides;
pub(crate) use sides::{Fill, LeftOut, Side, SideEncoding};
pub use spans::TextToken;
pub use tokenizer::{EndToken, EndTokenSource};
pub(crate) use tokenizer::{TextEncoder, Tokens};

/// Why no text can be turned into tokens. For what is wrong with a single text see [`InputError`](crate::InputError).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The checkpoint has no tokenizer.
    #[error("{}: missing; copy tokenizer.json from the model's repository, or make it with transformers: \
             AutoTokenizer.from_pretrained(folder).save_pretrained(folder)", path.display())]
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
    /// A file beside the tokenizer can't be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        r#source: io::Error,
    },
    /// A file beside the tokenizer is not JSON, or not an object.
    #[error("{}: not a valid JSON object: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        r#source: serde_json::Error,
    },
    /// A field of a file beside the tokenizer makes no sense, or asks for something that this crate does not do.
    #[error("{}: `{field}` {reason}", path.display())]
    InvalidField {
        /// The file.
        path: PathBuf,
        /// The field; dots separate levels.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The end token that was asked for isn't in the vocabulary.
    #[error("the end token `{token}` is not in the tokenizer's vocabulary")]
    UnknownEndToken {
        /// The token.
        token: String,
    },
    /// There is no prompt of this name.
    #[error("the model has no prompt `{name}`; it has {known}")]
    UnknownPrompt {
        /// The name.
        name: String,
        /// Names of the prompts that there are.
        known: String,
    },
}
