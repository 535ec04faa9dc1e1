//! Why a text has no vector.

/// Why a text has no result. The other texts of its call are not affected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The tokenizer could not take the text.
    #[error("the tokenizer failed: {reason}")]
    Tokenizer {
        /// The tokenizer library's reason.
        reason: String,
    },
    /// The text is empty, or nothing of it is left to embed.
    #[error("it is empty and this model adds no token of its own; leave it out")]
    Empty,
    /// The text has too many bytes.
    #[error(
        "it has {bytes} bytes, prompt included, but the limit is {max_bytes}; split it, or load the model with a larger \
         max_text_bytes"
    )]
    TooManyBytes {
        /// Its size in bytes, prompt included.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// The query leaves no room for a document.
    #[error(
        "it takes {tokens} tokens with a pair's special tokens, and the limit is {max_tokens}, so none is left for a \
         document; shorten it, or load the model with a larger max_tokens"
    )]
    NoRoom {
        /// Tokens of a pair with an empty document.
        tokens: usize,
        /// The limit.
        max_tokens: usize,
    },
    /// There are more token ids than the model takes. Texts are cut to the limit; ids that a caller gives are not.
    #[error(
        "it has {tokens} token ids, but the limit is {max_tokens}; cut it, or load the model with a larger max_tokens"
    )]
    TooLong {
        /// Number of token ids.
        tokens: usize,
        /// The limit.
        max_tokens: usize,
    },
    /// A token id is outside the model's vocabulary.
    #[error(
        "token {token} is outside the model's vocabulary of {vocab_size}; give token ids below that, or, if the text was \
         tokenised here, the tokenizer.json that belongs to the model"
    )]
    OutsideVocabulary {
        /// The token's id.
        token: u32,
        /// Rows of the model's embedding table.
        vocab_size: u32,
    },
    /// The vector has NaN or infinity in it, so it is not returned.
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
