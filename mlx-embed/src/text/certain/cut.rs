//! Places of a text at which normalisation and added tokens treat both sides by themselves.

use std::collections::HashSet;

use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::{AddedVocabulary, NormalizedString, Normalizer, NormalizerWrapper};

use super::reach::Program;

/// Characters before the end of a text among which a place is looked for.
const LOOKED_AT: usize = 2000;

/// Where a tokenizer's texts may be cut.
#[derive(Debug)]
pub(super) struct Cuts {
    /// Neighbours inside of added tokens that are found in the text as it is.
    pairs: HashSet<(char, char)>,
    /// All but the last characters of added tokens that are found in the normalised text.
    inner: HashSet<char>,
    /// Last characters of added tokens that look at the character behind them.
    single_word_ends: HashSet<char>,
    normalizers: Vec<(NormalizerWrapper, Option<Program>)>,
}

impl Cuts {
    /// `None` if a normaliser may look further than at a character's own neighbours.
    pub(super) fn new(normalizer: Option<&NormalizerWrapper>, added: &AddedVocabulary) -> Option<Self> {
        let mut cuts = Self {
            pairs: HashSet::new(),
            inner: HashSet::new(),
            single_word_ends: HashSet::new(),
            normalizers: Vec::new(),
        };
        if let Some(normalizer) = normalizer {
            cuts.add(normalizer)?;
        }
        for (&id, token) in added.get_added_tokens_decoder() {
            // For a token that is found in normalised text this is its normalised form.
            let found = added.simple_id_to_token(id)?;
            let chars: Vec<char> = found.chars().collect();
            if token.normalized {
                cuts.inner.extend(chars.iter().rev().skip(1));
            } else {
                cuts.pairs.extend(chars.iter().copied().zip(chars.iter().copied().skip(1)));
            }
            if token.single_word {
                cuts.single_word_ends.extend(chars.last());
            }
        }
        Some(cuts)
    }

    fn add(&mut self, normalizer: &NormalizerWrapper) -> Option<()> {
        let program = match normalizer {
            NormalizerWrapper::Sequence(sequence) => {
                return sequence.as_ref().iter().try_for_each(|normalizer| self.add(normalizer));
            }
            NormalizerWrapper::Replace(replace) => Some(match pattern(replace)? {
                ReplacePattern::String(text) => Program::literal(&text)?,
                ReplacePattern::Regex(pattern) => Program::new(&pattern)?,
            }),
            // What these make of a character depends on it and on those that combine with it.
            NormalizerWrapper::BertNormalizer(_)
            | NormalizerWrapper::StripNormalizer(_)
            | NormalizerWrapper::StripAccents(_)
            | NormalizerWrapper::NFC(_)
            | NormalizerWrapper::NFD(_)
            | NormalizerWrapper::NFKC(_)
            | NormalizerWrapper::NFKD(_)
            | NormalizerWrapper::Lowercase(_)
            | NormalizerWrapper::Nmt(_)
            | NormalizerWrapper::Precompiled(_)
            | NormalizerWrapper::Prepend(_)
            | NormalizerWrapper::ByteLevel(_) => None,
        };
        let again = match normalizer {
            // A clone panics where the pattern can't be compiled anew for want of memory.
            NormalizerWrapper::Replace(replace) => {
                serde_json::from_value(serde_json::to_value(replace).ok()?).ok()?
            }
            normalizer => normalizer.clone(),
        };
        self.normalizers.push((again, program));
        Some(())
    }

    /// The last place near the end of `text` at which it may be cut, whatever follows the text.
    pub(super) fn last(&self, text: &str) -> Option<usize> {
        let mut chars = text.char_indices().rev();
        let (mut at, mut after) = chars.next()?;
        for (before_at, before) in chars.take(LOOKED_AT) {
            if self.separates(before, after) {
                return Some(at);
            }
            (at, after) = (before_at, before);
        }
        None
    }

    fn separates(&self, before: char, after: char) -> bool {
        is_plain(before)
            && !before.is_whitespace()
            && stays_apart(after)
            && !self.pairs.contains(&(before, after))
            && !self.single_word_ends.contains(&before)
            && self.parts(before, after)
    }

    /// Whether what two neighbours are normalised to stays apart, and no replacement and no added token reaches across.
    fn parts(&self, before: char, after: char) -> bool {
        let mut sides = [before, after].map(|c| NormalizedString::from(c.to_string()));
        for (normalizer, program) in &self.normalizers {
            let [Some(last), Some(first)] = ends(&sides) else { return false };
            // An earlier normaliser may have made one of them a character that combines.
            if !stays_apart(last) || !stays_apart(first) {
                return false;
            }
            if program.as_ref().is_some_and(|program| program.reads(last)) {
                return false;
            }
            if sides.iter_mut().any(|side| normalizer.normalize(side).is_err()) {
                return false;
            }
        }
        let [last, _] = ends(&sides);
        last.is_some_and(|last| !self.inner.contains(&last) && !self.single_word_ends.contains(&last))
    }
}

/// The characters on both sides of where two texts meet.
fn ends([before, after]: &[NormalizedString; 2]) -> [Option<char>; 2] {
    [before.get().chars().last(), after.get().chars().next()]
}

fn stays_apart(c: char) -> bool {
    is_plain(c) || matches!(c, ' ' | '\n' | '\u{2581}')
}

/// The library keeps it to itself, but writes it to `tokenizer.json`.
fn pattern(replace: &tokenizers::normalizers::Replace) -> Option<ReplacePattern> {
    let json = serde_json::to_value(replace).ok()?;
    serde_json::from_value(json.get("pattern")?.clone()).ok()
}

/// Whether a character combines with no other beside it: neither in any of Unicode's normal forms nor into one
/// grapheme, if the other is such a one too.
///
/// These are starters that no composition has in second place, with the grapheme property `Other` or, for Hangul's
/// syllables, one that binds jamos only.
fn is_plain(c: char) -> bool {
    matches!(c,
        '!'..='~'
        | '\u{c0}'..='\u{24f}'
        | '\u{391}'..='\u{3a1}' | '\u{3a3}'..='\u{3a9}' | '\u{3b1}'..='\u{3c9}'
        | '\u{400}'..='\u{481}' | '\u{48a}'..='\u{52f}'
        | '\u{5d0}'..='\u{5ea}'
        | '\u{621}'..='\u{63a}' | '\u{641}'..='\u{64a}'
        | '\u{905}'..='\u{928}' | '\u{92a}'..='\u{930}' | '\u{932}' | '\u{933}' | '\u{935}'..='\u{939}'
        | '\u{e01}'..='\u{e2f}'
        | '\u{2010}'..='\u{2027}'
        | '\u{3001}' | '\u{3002}' | '\u{3008}'..='\u{3011}'
        | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{ff01}'..='\u{ff5e}')
}
