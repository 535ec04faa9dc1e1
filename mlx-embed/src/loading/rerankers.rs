//! What loading a reranker takes besides.

use crate::checkpoint::judge::{self, Conversation};
use crate::checkpoint::{Pairs, Scoring, SentenceTransformers};
use crate::error::{Error, InputError};
use crate::file::Files;
use crate::info::RerankerInfo;
use crate::options::LoadOptions;
use crate::text::{EndToken, PairForm, Settings, TextEncoder, TextError, Words};

/// Refuses options that concern texts alone.
pub(super) fn check_options(options: &LoadOptions) -> Result<(), Error> {
    if options.end_token == EndToken::Auto {
        return Ok(());
    }
    let reason =
        "is given, but what stands behind a reranker's pair is part of the pair; leave it out".into();
    Err(Error::Option { option: "end_token", reason })
}

/// Ids of the tokens whose logits make the score.
pub(super) fn answers(
    scoring: &Scoring,
    text: &TextEncoder,
    vocab_size: i32,
    place: &Files,
) -> Result<Vec<u32>, Error> {
    let ids = match &scoring.answers {
        Some(ids) => ids.clone(),
        None => {
            let mut ids = Vec::new();
            for answer in judge::ANSWERS {
                match text.id_of(answer) {
                    Some(id) => ids.push(id),
                    None => {
                        let reason = format!(
                            "has no token `{answer}`, which is one of the answers whose logits make a score"
                        );
                        return Err(invalid(place, "tokenizer.json", "model.vocab", reason));
                    }
                }
            }
            ids
        }
    };
    match InputError::check_vocabulary(&ids, vocab_size.unsigned_abs()) {
        Ok(()) => Ok(ids),
        Err(error) => {
            let reason = format!("is too small for the answers: {error}");
            Err(invalid(place, "config.json", "vocab_size", reason))
        }
    }
}

#[cold]
pub(super) fn invalid(place: &Files, file: &str, field: &str, reason: String) -> Error {
    Error::Text(TextError::InvalidField { path: place.path(file), field: field.into(), reason })
}

/// How the model's pairs are put together.
pub(super) fn form(
    scoring: &Scoring,
    text: &TextEncoder,
    place: &Files,
    tokenizer: &Settings,
    token_types: usize,
) -> Result<PairForm, Error> {
    match &scoring.pairs {
        Pairs::Tokenizer => Ok(PairForm::template(text, place, tokenizer, token_types)?),
        Pairs::Asked(conversation) => {
            let Conversation { before, instruction, between, behind } = conversation.clone();
            let instruction = instruction.map(|it| [it.default.unwrap_or_default(), it.behind]);
            let words = Words { before, instruction, between, behind };
            PairForm::written(text, words).map_err(|source| Error::Query { source })
        }
    }
}

/// What users see of it.
pub(super) fn info(scoring: &Scoring, text: &TextEncoder, files: &SentenceTransformers) -> RerankerInfo {
    let default = files.default_prompt().map(str::to_owned);
    let answers = match (&scoring.answers, scoring.is_answered) {
        (_, false) => Vec::new(),
        (Some(ids), true) => ids.iter().map(|&id| text.token(id).unwrap_or_default()).collect(),
        (None, true) => judge::ANSWERS.map(str::to_owned).to_vec(),
    };
    let (pairs, instruction) = match &scoring.pairs {
        Pairs::Tokenizer => ("tokenizer", default),
        Pairs::Asked(conversation) => {
            let place = conversation.instruction.as_ref();
            let instruction = place.and_then(|place| default.or_else(|| place.default.clone()));
            (if conversation.is_qwen3() { "qwen3-reranker" } else { "chat-template" }, instruction)
        }
    };
    RerankerInfo { pairs, instruction, answers, activation: scoring.activation }
}
