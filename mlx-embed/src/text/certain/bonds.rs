//! Where no token of a vocabulary reaches across.

use std::collections::HashSet;

use tokenizers::Model;
use tokenizers::models::ModelWrapper;

/// Which characters stand beside each other in any token.
///
/// Models that build a word's tokens from smaller ones, or choose them by their sum, treat what is on both sides of a
/// place by itself if no token reaches across it.
#[derive(Debug)]
pub(super) struct Bonds {
    pairs: HashSet<(char, char)>,
    /// Characters that are tokens: all others take a way of their own.
    known: HashSet<char>,
}

impl Bonds {
    /// `None` for models that look at a word as a whole.
    pub(super) fn new(model: &ModelWrapper) -> Option<Self> {
        match model {
            ModelWrapper::BPE(bpe) => {
                let affixes = [&bpe.continuing_subword_prefix, &bpe.end_of_word_suffix];
                let has_affix = affixes.into_iter().flatten().any(|affix| !affix.is_empty());
                if bpe.ignore_merges || has_affix {
                    return None;
                }
            }
            ModelWrapper::Unigram(_) => {}
            _ => return None,
        }
        let (mut pairs, mut known) = (HashSet::new(), HashSet::new());
        for token in model.get_vocab().into_keys() {
            let mut chars = token.chars();
            let Some(mut before) = chars.next() else { continue };
            if chars.as_str().is_empty() {
                known.insert(before);
            }
            for c in chars {
                pairs.insert((before, c));
                before = c;
            }
        }
        Some(Self { pairs, known })
    }

    /// The last place of `text` that no token reaches across, if there is one behind its beginning.
    pub(super) fn last_gap(&self, text: &str) -> Option<usize> {
        let mut chars = text.char_indices().rev();
        let (mut at, mut after) = chars.next()?;
        for (before_at, before) in chars {
            if self.known.contains(&before)
                && self.known.contains(&after)
                && !self.pairs.contains(&(before, after))
            {
                return Some(at);
            }
            (at, after) = (before_at, before);
        }
        None
    }
}
