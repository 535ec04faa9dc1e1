//! The vocabulary of a checkpoint without `tokenizer.json`, as repositories had it before that file: the classes that build a
//! tokenizer of their own need no more.

use std::io;

use serde_json::{Map, Value, json};

use super::class::Class;
use super::{TextError, limits};
use crate::file::Files;

/// One token a line, by id.
const WORDS: &str = "vocab.txt";
/// Ids by token, and which two tokens make one.
const TOKENS: &str = "vocab.json";
const MERGES: &str = "merges.txt";

/// What `tokenizer.json` would say, by the files that the class has in its place; `None` where they are not there, or the
/// class goes by `tokenizer.json` alone.
pub(super) fn in_place_of_tokenizer_json(files: &Files, class: Class) -> Result<Option<Vec<u8>>, TextError> {
    let model = match class {
        Class::Bert | Class::DistilBert | Class::Mpnet => {
            let Some(words) = text(files, WORDS)? else { return Ok(None) };
            // Spaces behind a token are none of it, as transformers reads the file; of one that stands there twice the last id
            // counts.
            let vocab: Map<String, Value> =
                words.lines().enumerate().map(|(id, word)| (word.trim_end().to_owned(), id.into())).collect();
            json!({
                "type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
            })
        }
        Class::Gpt2 | Class::Qwen2 | Class::Roberta => {
            let (Some(vocab), Some(merges)) = (text(files, TOKENS)?, text(files, MERGES)?) else {
                return Ok(None);
            };
            let vocab: Map<String, Value> = serde_json::from_str(&vocab)
                .map_err(|source| TextError::Json { path: files.path(TOKENS), source })?;
            let merges: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version")).collect();
            json!({ "type": "BPE", "vocab": vocab, "merges": merges })
        }
        Class::Camembert | Class::Gemma | Class::Llama | Class::T5 | Class::XlmRoberta | Class::Other => {
            return Ok(None);
        }
    };
    Ok(Some(json!({ "version": "1.0", "added_tokens": [], "model": model }).to_string().into_bytes()))
}

/// What is in a file, if it is there.
fn text(files: &Files, name: &str) -> Result<Option<String>, TextError> {
    let invalid = |reason| TextError::InvalidTokenizer { path: files.path(name), reason };
    match files.read(name, limits::FILE_BYTES) {
        Ok(bytes) => {
            String::from_utf8(bytes.into_owned()).map(Some).map_err(|error| invalid(error.to_string()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(invalid(error.to_string())),
    }
}
