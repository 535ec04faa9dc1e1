//! What static embeddings have of a text beside its tokens: which don't count, and where it is cut.

use serde::Deserialize;
use tokenizers::Tokenizer;
use tokenizers::models::ModelWrapper;

use super::settings::Bare;

/// Rules of [`Bare`], for one tokenizer.
#[derive(Debug, Clone, Copy)]
pub(super) struct BareRules {
    /// The token that is left out.
    pub(super) unknown: Option<u32>,
    /// Characters of a text that are read for each token that it may have.
    characters: Option<usize>,
}

impl BareRules {
    pub(super) fn of(bare: Bare, tokenizer: &Tokenizer, json: &[u8]) -> serde_json::Result<Self> {
        match bare {
            Bare::AsTokenizerSays => Ok(Self { unknown: None, characters: None }),
            Bare::WithoutUnknown => {
                Ok(Self { unknown: unknown(tokenizer, json)?, characters: Some(median(tokenizer)) })
            }
        }
    }

    /// What of prompt and text together is read for `room` tokens, and whether that is all.
    pub(super) fn cut<'a>(&self, prompt: &'a str, text: &'a str, room: usize) -> (&'a str, &'a str, bool) {
        let Some(characters) = self.characters else { return (prompt, text, true) };
        let most = characters.saturating_mul(room);
        let (prompt, of_prompt) = first(prompt, most);
        let (cut, _) = first(text, most - of_prompt);
        (prompt, cut, cut.len() == text.len())
    }
}

/// The first characters of a text, and how many they are.
fn first(text: &str, most: usize) -> (&str, usize) {
    // No text has more characters than bytes.
    if text.len() <= most {
        return (text, text.chars().count());
    }
    match text.char_indices().nth(most) {
        Some((end, _)) => (&text[..end], most),
        None => (text, text.chars().count()),
    }
}

/// The id of the model's own token for what it doesn't know.
fn unknown(tokenizer: &Tokenizer, json: &[u8]) -> serde_json::Result<Option<u32>> {
    #[derive(Deserialize)]
    struct Whole {
        model: Model,
    }

    #[derive(Deserialize)]
    struct Model {
        unk_id: Option<u32>,
    }

    let token = match tokenizer.get_model() {
        ModelWrapper::WordPiece(model) => &model.unk_token,
        ModelWrapper::WordLevel(model) => &model.unk_token,
        ModelWrapper::BPE(model) => match &model.unk_token {
            Some(token) => token,
            None => return Ok(None),
        },
        // The library doesn't show that of its model.
        ModelWrapper::Unigram(_) => return Ok(serde_json::from_slice::<Whole>(json)?.model.unk_id),
    };
    Ok(tokenizer.token_to_id(token))
}

/// The median of the tokens' lengths in characters, rounded down.
fn median(tokenizer: &Tokenizer) -> usize {
    let mut lengths: Vec<usize> =
        tokenizer.get_vocab(true).keys().map(|token| token.chars().count()).collect();
    lengths.sort_unstable();
    match lengths.len() {
        0 => 0,
        count if count % 2 == 1 => lengths[count / 2],
        count => (lengths[count / 2 - 1] + lengths[count / 2]) / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_by_characters_not_bytes() {
        let rules = BareRules { unknown: None, characters: Some(2) };
        assert_eq!(rules.cut("é", "東京都", 2), ("é", "東京都", true));
        assert_eq!(rules.cut("é", "東京都x", 2), ("é", "東京都", false));
        assert_eq!(rules.cut("éab", "東", 1), ("éa", "", false));
        assert_eq!(rules.cut("", "ab", usize::MAX), ("", "ab", true));
        let all = BareRules { unknown: None, characters: None };
        assert_eq!(all.cut("a", "bc", 0), ("a", "bc", true));
    }
}
