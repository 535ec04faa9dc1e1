//! The vocabulary of a checkpoint without `tokenizer.json`, as repositories had it before that file: the classes that build a
//! tokenizer of their own need no more.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::class::Class;
use super::sentencepiece::{Kind, Model};
use super::settings::Settings;
use super::{TextError, limits};
use crate::file::Files;
use crate::file::vocabularies::{MERGES, PIECES, PIECES_OF_T5, TOKENS, WORDS};

/// What `tokenizer.json` would say, by the files that the class has in its place; `None` where they are not there, or the
/// class goes by `tokenizer.json` alone. With it comes the file that it is of.
pub(super) fn in_place_of_tokenizer_json(
    files: &Files,
    settings: &Settings,
) -> Result<Option<(PathBuf, Vec<u8>)>, TextError> {
    let class = settings.classes.now;
    let (name, model) = match class {
        Class::Bert | Class::DistilBert | Class::Mpnet => {
            let Some(words) = text(files, WORDS)? else { return Ok(None) };
            // Spaces behind a token are none of it, as transformers reads the file; of one that stands there twice the last id
            // counts.
            let vocab: Map<String, Value> =
                words.lines().enumerate().map(|(id, word)| (word.trim_end().to_owned(), id.into())).collect();
            let model = json!({
                "type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
            });
            (WORDS, model)
        }
        Class::Gpt2 | Class::Qwen2 | Class::Roberta => {
            let (Some(vocab), Some(merges)) = (text(files, TOKENS)?, text(files, MERGES)?) else {
                return Ok(None);
            };
            let vocab: Map<String, Value> = serde_json::from_str(&vocab)
                .map_err(|source| TextError::Json { path: files.path(TOKENS), source })?;
            let merges: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version")).collect();
            (TOKENS, json!({ "type": "BPE", "vocab": vocab, "merges": merges }))
        }
        Class::Camembert | Class::T5 | Class::XlmRoberta => {
            let name = if class == Class::T5 { PIECES_OF_T5 } else { PIECES };
            let Some(bytes) = contents(files, name)? else { return Ok(None) };
            let invalid = |reason| TextError::InvalidTokenizer { path: files.path(name), reason };
            let model = Model::read(&bytes).map_err(invalid)?;
            let json = of_pieces(model, settings).map_err(|error| invalid(error.to_string()))?;
            return Ok(Some((files.path(name), json)));
        }
        Class::Gemma | Class::Llama | Class::Other => return Ok(None),
    };
    let json = json!({ "version": "1.0", "added_tokens": [], "model": model });
    Ok(Some((files.path(name), json.to_string().into_bytes())))
}

/// `tokenizer.json` of a SentencePiece model, whose tokens stand where the class has them.
fn of_pieces(Model { pieces, charsmap }: Model, settings: &Settings) -> serde_json::Result<Vec<u8>> {
    // As values of JSON a large vocabulary would take several times as much memory.
    #[derive(Serialize)]
    struct Tokenizer<'a> {
        version: &'static str,
        added_tokens: Vec<Value>,
        normalizer: Option<Value>,
        model: Unigram<'a>,
    }

    #[derive(Serialize)]
    struct Unigram<'a> {
        r#type: &'static str,
        unk_id: usize,
        vocab: &'a [(Cow<'a, str>, f64)],
        byte_fallback: bool,
    }

    type Scored<'a> = (Cow<'a, str>, f64);
    let own = |name: &str| -> Scored<'_> { (settings.special_token(name).unwrap_or_default().into(), 0.0) };
    // How many of the model's first tokens have other places in the class.
    let from = |first: usize| {
        pieces.iter().skip(first).map(|piece| -> Scored<'_> { (piece.text.as_str().into(), piece.score) })
    };
    let (vocab, unk_id): (Vec<Scored<'_>>, _) = match settings.classes.now {
        Class::T5 => {
            let gaps = (0..settings.extra_ids).rev().map(|index| (format!("<extra_id_{index}>").into(), 0.0));
            (from(0).chain(gaps).collect(), 2)
        }
        Class::Camembert => {
            let first = [
                ("<s>NOTUSED".into(), 0.0),
                own("pad_token"),
                ("</s>NOTUSED".into(), 0.0),
                own("unk_token"),
                ("<unk>NOTUSED".into(), -100.0),
            ];
            (first.into_iter().chain(from(1)).chain([own("mask_token")]).collect(), 3)
        }
        _ => {
            let first = ["bos_token", "pad_token", "eos_token", "unk_token"].map(own);
            (first.into_iter().chain(from(3)).chain([own("mask_token")]).collect(), 3)
        }
    };
    let ids: HashMap<&str, usize> = vocab.iter().enumerate().map(|(id, (token, _))| (&**token, id)).collect();
    let mut beyond = vocab.len()..;
    let added = pieces.iter().filter(|piece| piece.kind != Kind::Other).map(|piece| {
        json!({
            "id": ids.get(piece.text.as_str()).copied().or_else(|| beyond.next()), "content": piece.text,
            "special": piece.kind == Kind::Control, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    });
    let normalizer = (!charsmap.is_empty())
        .then(|| json!({ "type": "Precompiled", "precompiled_charsmap": BASE64_STANDARD.encode(charsmap) }));
    serde_json::to_vec(&Tokenizer {
        version: "1.0",
        added_tokens: added.collect(),
        normalizer,
        model: Unigram { r#type: "Unigram", unk_id, vocab: &vocab, byte_fallback: false },
    })
}

/// What is in a file of text, if it is there.
fn text(files: &Files, name: &str) -> Result<Option<String>, TextError> {
    let invalid = |error: std::string::FromUtf8Error| TextError::InvalidTokenizer {
        path: files.path(name),
        reason: error.to_string(),
    };
    let bytes = contents(files, name)?;
    bytes.map(|bytes| String::from_utf8(bytes.into_owned()).map_err(invalid)).transpose()
}

/// What is in a file, if it is there.
pub(super) fn contents(files: &Files, name: &str) -> Result<Option<Cow<'static, [u8]>>, TextError> {
    files
        .read_if_there(name, limits::FILE_BYTES)
        .map_err(|error| TextError::InvalidTokenizer { path: files.path(name), reason: error.to_string() })
}
