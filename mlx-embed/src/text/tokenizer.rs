//! The checkpoint's tokenizer, and the token that ends a text.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;

use quick_cache::sync::Cache;
use serde::Serialize;
use tokenizers::models::ModelWrapper;
use tokenizers::{PostProcessor, Tokenizer, TruncationDirection};

use super::TextError;
use crate::error::{InputError, panic_message};
use crate::file::Files;

/// Which token ends a text. Last-token pooling reads the vector off it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndToken {
    /// What the tokenizer appends; if it appends none and pooling is last-token, the model's own end token.
    #[default]
    Auto,
    /// What the tokenizer appends and nothing else.
    TokenizerOnly,
    /// This token, unless the tokenizer has appended it already.
    Token(String),
}

/// Who appends the end token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum EndTokenSource {
    /// The tokenizer's post-processor.
    Tokenizer,
    /// This crate, because the tokenizer doesn't.
    Embedder,
}

/// A text's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) ids: Vec<u32>,
    /// Whether content was cut to fit the limit.
    pub(crate) truncated: bool,
}

/// Text to token ids.
#[derive(Debug)]
pub(crate) struct TextEncoder {
    tokenizer: Tokenizer,
    /// Appended here, behind whatever the tokenizer adds.
    appended: Option<u32>,
    end_token: Option<(u32, EndTokenSource)>,
    vocab_size: u32,
    /// Tokens of prompts, of as many as are used side by side.
    prompts: Cache<String, Arc<[u32]>>,
}

/// Prompts whose tokens are kept.
const PROMPTS: usize = 64;

impl TextEncoder {
    /// Reads `tokenizer.json`.
    ///
    /// `last_token` says that the vector is read off the last token; `eos_token_id` is the config's.
    pub(crate) fn open(
        files: &Files,
        end_token: &EndToken,
        last_token: bool,
        eos_token_id: Option<u32>,
        vocab_size: u32,
    ) -> Result<Self, TextError> {
        let name = "tokenizer.json";
        let path = files.path(name);
        let json = files.read(name).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => TextError::MissingTokenizer { path: path.clone() },
            _ => invalid(&path, error.to_string()),
        })?;
        let tokenizer = guarded(|| {
            let mut tokenizer = Tokenizer::from_bytes(&json)?;
            // Limits and padding are this crate's business; a tokenizer.json may carry someone's training settings.
            tokenizer.with_padding(None);
            tokenizer.with_truncation(None)?;
            // Another such setting: merges left out at random, so that one text gets other tokens each time.
            if let ModelWrapper::BPE(bpe) = tokenizer.get_model()
                && bpe.dropout.is_some()
            {
                let mut bpe = bpe.clone();
                bpe.dropout = None;
                tokenizer.with_model(bpe);
            }
            Ok(tokenizer)
        });
        let tokenizer = tokenizer.map_err(|reason| invalid(&path, reason))?;
        let mut encoder =
            Self { tokenizer, appended: None, end_token: None, vocab_size, prompts: Cache::new(PROMPTS) };
        let by_tokenizer = encoder.last_added_token(&path)?;
        encoder.choose_end_token(end_token, by_tokenizer, last_token, eos_token_id)?;
        Ok(encoder)
    }

    fn choose_end_token(
        &mut self,
        wanted: &EndToken,
        by_tokenizer: Option<u32>,
        last_token: bool,
        eos_token_id: Option<u32>,
    ) -> Result<(), TextError> {
        self.appended = match wanted {
            EndToken::TokenizerOnly => None,
            EndToken::Token(token) => {
                let id = self
                    .tokenizer
                    .token_to_id(token)
                    .ok_or_else(|| TextError::UnknownEndToken { token: token.clone() })?;
                (by_tokenizer != Some(id)).then_some(id)
            }
            // Qwen's embedding models end on `<|endoftext|>`, also where config.json names the chat model's end token.
            EndToken::Auto if last_token && by_tokenizer.is_none() => {
                self.tokenizer.token_to_id("<|endoftext|>").or(eos_token_id)
            }
            EndToken::Auto => None,
        };
        self.end_token = match (self.appended, by_tokenizer) {
            (Some(id), _) => Some((id, EndTokenSource::Embedder)),
            (None, Some(id)) => Some((id, EndTokenSource::Tokenizer)),
            (None, None) => None,
        };
        Ok(())
    }

    /// The token that the tokenizer puts behind every text. A token put before it (`<s>`) is not one, so a text of
    /// one letter tells them apart.
    fn last_added_token(&self, path: &Path) -> Result<Option<u32>, TextError> {
        let encoding =
            guarded(|| self.tokenizer.encode_fast("a", true)).map_err(|reason| invalid(path, reason))?;
        let special = encoding.get_special_tokens_mask().last() == Some(&1);
        Ok(encoding.get_ids().last().copied().filter(|_| special))
    }

    /// The end token's id and who appends it.
    pub(crate) fn end_token(&self) -> Option<(u32, EndTokenSource)> {
        self.end_token
    }

    /// The written form of a token.
    pub(crate) fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// How many tokens every text gets besides its content.
    pub(crate) fn added_tokens(&self) -> usize {
        let by_tokenizer =
            self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        by_tokenizer + usize::from(self.appended.is_some())
    }

    /// The tokens that texts behind `prompt` begin with, up to where the tokenizer may merge its end with a text's
    /// beginning; `None` if there is no prompt. What a text really has in common with them is to be seen from its own
    /// tokens.
    pub(crate) fn prompt_ids(&self, prompt: &str) -> Option<Arc<[u32]>> {
        if prompt.is_empty() {
            return None;
        }
        if let Some(ids) = self.prompts.get(prompt) {
            return Some(ids);
        }
        let mut ids = self.encode(prompt, "", usize::MAX).ok()?.ids;
        if self.end_token.is_some_and(|(end, _)| ids.last() == Some(&end)) {
            ids.pop();
        }
        let ids: Arc<[u32]> = ids.into();
        self.prompts.insert(prompt.to_owned(), Arc::clone(&ids));
        Some(ids)
    }

    /// Tokens of `prompt` and `text` together: content cut to the limit first, then special tokens and end token.
    pub(crate) fn encode(&self, prompt: &str, text: &str, max_tokens: usize) -> Result<Tokens, InputError> {
        let failed = |reason| InputError::Tokenizer { reason };
        let joined;
        let input = if prompt.is_empty() {
            text
        } else {
            joined = format!("{prompt}{text}");
            &joined
        };
        let mut encoding = guarded(|| self.tokenizer.encode_fast(input, false)).map_err(failed)?;
        let room = max_tokens.saturating_sub(self.added_tokens());
        let truncated = encoding.len() > room;
        if truncated {
            encoding.truncate(room, 0, TruncationDirection::Right);
            // What was cut off hangs on the encoding; the post-processor would work on all of it.
            encoding.set_overflowing(Vec::new());
        }
        let encoding = guarded(|| self.tokenizer.post_process(encoding, None, true)).map_err(failed)?;
        let mut ids = encoding.get_ids().to_vec();
        ids.extend(self.appended);
        if ids.is_empty() {
            return Err(InputError::Empty);
        }
        InputError::check_vocabulary(&ids, self.vocab_size)?;
        Ok(Tokens { ids, truncated })
    }
}

#[cold]
fn invalid(path: &Path, reason: String) -> TextError {
    TextError::InvalidTokenizer { path: path.to_owned(), reason }
}

/// Calls the tokenizer library, which panics on some damaged files instead of returning an error.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(payload) => Err(panic_message(&*payload).to_owned()),
    }
}
