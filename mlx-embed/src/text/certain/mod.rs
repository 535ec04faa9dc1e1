//! The first tokens of a text, from no more of it than they depend on.
//!
//! A text that is far longer than a model's limit is cut after its first tokens. Those follow from its beginning, if it
//! is known how far each part of a tokenizer looks ahead: added tokens and normalisers ([`cut`]), patterns that words
//! are found by ([`reach`], [`words`]), models ([`bonds`]). A tokenizer with a part of which that is not known has no
//! [`Certain`], and reads its texts whole.

mod bonds;
mod cut;
mod reach;
mod words;

#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use tokenizers::{Model, OffsetReferential, OffsetType, Result, Tokenizer};

use bonds::Bonds;
use cut::Cuts;
use words::Words;

/// Whether a pattern is known to match no empty text.
pub(super) fn matches_something(pattern: &str) -> bool {
    reach::Program::new(pattern).is_some()
}

/// A word's beginning shorter than this is not worth a look at the vocabulary.
const LONG_WORD: usize = 256;

/// What is known of how far a tokenizer looks.
#[derive(Debug)]
pub(super) struct Certain {
    cuts: Cuts,
    words: Words,
    bonds: OnceLock<Option<Bonds>>,
}

impl Certain {
    /// `None` if some part of the tokenizer may look as far as it likes.
    pub(super) fn new(tokenizer: &Tokenizer) -> Option<Self> {
        Some(Self {
            cuts: Cuts::new(tokenizer.get_normalizer(), tokenizer.get_added_vocabulary())?,
            words: Words::new(tokenizer.get_pre_tokenizer())?,
            bonds: OnceLock::new(),
        })
    }

    /// The first `wanted` tokens of every text that begins with `text`; `None` if `text` does not tell.
    ///
    /// `stop` is asked before each word, and ends this early with `None` too.
    pub(super) fn first_ids(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        wanted: usize,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<u32>>> {
        let Some(cut) = self.cuts.last(text) else { return Ok(None) };
        let added = tokenizer.get_added_vocabulary();
        let normalized = added.extract_and_normalize(tokenizer.get_normalizer(), &text[..cut]);
        let pieces = normalized.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let mut ids = Vec::with_capacity(wanted);
        let last = pieces.len().saturating_sub(1);
        for (index, (piece, (start, _), tokens)) in pieces.into_iter().enumerate() {
            match tokens {
                Some(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
                None => {
                    let mut found = self.words.find(piece, start == 0, index == last)?;
                    if index == last && found.tail.len() >= LONG_WORD {
                        found.words.extend(self.certain_part(tokenizer, &found.tail));
                    }
                    for word in found.words {
                        if ids.len() >= wanted {
                            break;
                        }
                        if stop() {
                            return Ok(None);
                        }
                        ids.extend(tokenizer.get_model().tokenize(&word)?.iter().map(|token| token.id));
                    }
                }
            }
            if ids.len() >= wanted {
                ids.truncate(wanted);
                return Ok(Some(ids));
            }
        }
        Ok(None)
    }

    /// What of a word's beginning becomes the same tokens whatever follows.
    fn certain_part(&self, tokenizer: &Tokenizer, beginning: &str) -> Option<String> {
        let bonds = self.bonds.get_or_init(|| Bonds::new(tokenizer.get_model())).as_ref()?;
        bonds.last_gap(beginning).map(|end| beginning[..end].to_owned())
    }
}
