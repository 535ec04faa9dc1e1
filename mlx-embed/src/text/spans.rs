//! A text's tokens with their places in it.

use std::ops::Range;

use serde::Serialize;
use tokenizers::OffsetType;

use super::guarded::guarded;
use super::input_error::InputError;
use super::tokenizer::TextEncoder;

/// A token, and its place in the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TextToken {
    /// Its id.
    pub id: u32,
    /// Its text in the vocabulary.
    pub token: String,
    /// Its part of the text; its text in the vocabulary if it has no part.
    pub text: String,
    /// Whether it is a special token that was put around the text.
    pub special: bool,
    /// Its bytes in prompt and text together; `None` if it has none.
    pub bytes: Option<Range<usize>>,
}

impl TextEncoder {
    /// The tokens of a text, none of them cut; those around it only if `special` says so.
    pub(crate) fn spans(&self, text: &str, special: bool) -> Result<Vec<TextToken>, InputError> {
        let failed = |reason| InputError::Tokenizer { reason };
        let encoding = guarded(|| {
            let content = self.content_of(text, OffsetType::Byte, &|| false)?;
            self.tokenizer().post_process(content, None, special)
        });
        let encoding = encoding.map_err(failed)?;
        let marks = encoding.get_special_tokens_mask().iter().zip(encoding.get_offsets());
        let mut tokens: Vec<TextToken> = encoding
            .get_ids()
            .iter()
            .zip(encoding.get_tokens())
            .zip(marks)
            .filter(|((id, _), _)| !self.leaves_out(**id))
            .map(|((&id, token), (&mark, &(start, end)))| {
                let special = mark == 1;
                let part = text.get(start..end).filter(|_| !special);
                TextToken {
                    id,
                    token: token.clone(),
                    text: part.unwrap_or(token).to_owned(),
                    special,
                    bytes: part.map(|_| start..end),
                }
            })
            .collect();
        if let Some(id) = self.appended().filter(|_| special) {
            let token = self.token(id).unwrap_or_default();
            tokens.push(TextToken { id, text: token.clone(), token, special: true, bytes: None });
        }
        Ok(tokens)
    }
}
