//! The vocabulary of a checkpoint without `tokenizer.json`, as repositories had it before that file: the classes that build a
//! tokenizer of their own need no more.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use super::class::Class;
use super::sentencepiece::{Kind, Model, Piece};
use super::settings::Settings;
use super::{TextError, limits};
use crate::file::Files;

/// One token a line, by id.
const WORDS: &str = "vocab.txt";
/// Ids by token, and which two tokens make one.
const TOKENS: &str = "vocab.json";
const MERGES: &str = "merges.txt";
/// Models of SentencePiece.
const PIECES: &str = "sentencepiece.bpe.model";
const PIECES_OF_T5: &str = "spiece.model";

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
            return Ok(Some((files.path(name), of_pieces(model, settings).to_string().into_bytes())));
        }
        Class::Gemma | Class::Llama | Class::Other => return Ok(None),
    };
    let json = json!({ "version": "1.0", "added_tokens": [], "model": model });
    Ok(Some((files.path(name), json.to_string().into_bytes())))
}

/// With the tokens of a SentencePiece model where the class has them.
fn of_pieces(Model { pieces, charsmap }: Model, settings: &Settings) -> Value {
    let named = |name: &str| settings.special_token(name).unwrap_or_default().to_owned();
    let own = |names: &[&str]| names.iter().map(|name| (named(name), 0.0)).collect::<Vec<_>>();
    let scored = |pieces: &[Piece]| -> Vec<(String, f32)> {
        pieces.iter().map(|piece| (piece.text.clone(), piece.score)).collect()
    };
    // How many of the model's first tokens have other places in the class.
    let from = |first: usize| scored(pieces.get(first..).unwrap_or_default());
    let (vocab, unknown) = match settings.classes.now {
        Class::T5 => {
            let gaps = (0..settings.extra_ids).rev().map(|index| (format!("<extra_id_{index}>"), 0.0));
            (from(0).into_iter().chain(gaps).collect(), 2)
        }
        Class::Camembert => {
            let unused = |text: &str, score: f32| vec![(format!("{text}NOTUSED"), score)];
            let first = [unused("<s>", 0.0), own(&["pad_token"]), unused("</s>", 0.0), own(&["unk_token"])];
            ([first.concat(), unused("<unk>", -100.0), from(1), own(&["mask_token"])].concat(), 3)
        }
        _ => {
            let first = own(&["bos_token", "pad_token", "eos_token", "unk_token"]);
            ([first, from(3), own(&["mask_token"])].concat(), 3)
        }
    };
    let id = |text: &str| vocab.iter().rposition(|(token, _)| token == text);
    let mut beyond = vocab.len()..;
    let added = pieces.iter().filter(|piece| piece.kind != Kind::Other).map(|piece| {
        json!({
            "id": id(&piece.text).or_else(|| beyond.next()), "content": piece.text,
            "special": piece.kind == Kind::Control, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    });
    let added: Vec<Value> = added.collect();
    let normalizer = (!charsmap.is_empty())
        .then(|| json!({ "type": "Precompiled", "precompiled_charsmap": BASE64_STANDARD.encode(charsmap) }));
    json!({
        "version": "1.0", "added_tokens": added, "normalizer": normalizer,
        "model": { "type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": false },
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
fn contents<'a>(files: &'a Files, name: &str) -> Result<Option<Cow<'a, [u8]>>, TextError> {
    match files.read(name, limits::FILE_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TextError::InvalidTokenizer { path: files.path(name), reason: error.to_string() }),
    }
}
