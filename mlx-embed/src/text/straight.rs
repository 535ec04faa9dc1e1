//! `tokenizer.json` as the library reads it, in less than half the time.
//!
//! The library keeps a model's tables as JSON values at first, since it may read their kind only after them. Here each kind
//! is tried on the file's own bytes.

use ahash::AHashMap;
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::{
    DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Result, Token,
    Tokenizer, TokenizerImpl,
};

type Read =
    TokenizerImpl<Straight, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// As [`Tokenizer::from_bytes`].
pub(super) fn tokenizer(json: &[u8]) -> Result<Tokenizer> {
    Ok(serde_json::from_slice::<Read>(json)?.into())
}

struct Straight(ModelWrapper);

/// What [`BPE`] reads, with merges in pairs; others are left to it.
#[derive(Deserialize)]
struct Bpe {
    #[serde(rename = "type")]
    _kind: Option<Kind>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    vocab: AHashMap<String, u32>,
    merges: Vec<(String, String)>,
}

#[derive(Deserialize)]
enum Kind {
    #[serde(rename = "BPE")]
    Bpe,
}

impl Bpe {
    fn build(self) -> Result<BPE> {
        let mut builder = BPE::builder()
            .vocab_and_merges(self.vocab, self.merges)
            .fuse_unk(self.fuse_unk.unwrap_or_default())
            .byte_fallback(self.byte_fallback.unwrap_or_default())
            .ignore_merges(self.ignore_merges.unwrap_or_default());
        if let Some(dropout) = self.dropout {
            builder = builder.dropout(dropout);
        }
        if let Some(token) = self.unk_token {
            builder = builder.unk_token(token);
        }
        if let Some(prefix) = self.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        builder.build()
    }
}

impl<'de> Deserialize<'de> for Straight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        fn read<'a, T: Deserialize<'a> + Into<ModelWrapper>>(json: &'a str) -> Option<ModelWrapper> {
            serde_json::from_str::<T>(json).ok().map(Into::into)
        }
        let json = <&RawValue>::deserialize(deserializer)?.get();
        let bpe = || serde_json::from_str::<Bpe>(json).ok()?.build().ok().map(ModelWrapper::from);
        // In the order in which the library tries them where a file doesn't name its kind. What none of these reads it takes,
        // or refuses with its own words.
        let straight = bpe()
            .or_else(|| read::<BPE>(json))
            .or_else(|| read::<WordPiece>(json))
            .or_else(|| read::<WordLevel>(json))
            .or_else(|| read::<Unigram>(json));
        match straight {
            Some(model) => Ok(Self(model)),
            None => serde_json::from_str(json).map(Self).map_err(de::Error::custom),
        }
    }
}

impl From<Straight> for ModelWrapper {
    fn from(model: Straight) -> Self {
        model.0
    }
}

impl Model for Straight {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, text: &str) -> Result<Vec<Token>> {
        self.0.tokenize(text)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.0.get_vocab()
    }

    fn get_vocab_size(&self) -> usize {
        self.0.get_vocab_size()
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> Result<Vec<PathBuf>> {
        self.0.save(folder, prefix)
    }

    fn get_trainer(&self) -> TrainerWrapper {
        self.0.get_trainer()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Both refuse it, or both make the same of it.
    fn expect_alike(json: &str, what: &str) -> bool {
        match (tokenizer(json.as_bytes()), Tokenizer::from_bytes(json)) {
            (Ok(own), Ok(library)) => {
                assert!(own.to_string(false).unwrap() == library.to_string(false).unwrap(), "{what}");
                true
            }
            (Err(_), Err(_)) => false,
            (own, library) => panic!("{what}: {:?}, the library {:?}", own.err(), library.err()),
        }
    }

    #[test]
    fn every_kind_is_read_as_the_library_reads_it() {
        let pairs = json!({ "a": 0, "b": 1, "ab": 2, "c": 3, "abc": 4 });
        let bpe = json!({ "type": "BPE", "vocab": pairs, "merges": [["a", "b"], ["ab", "c"]] });
        let with = |fields: Value| {
            let mut model = bpe.clone();
            model.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            model
        };
        let without_type = |mut model: Value| {
            model.as_object_mut().unwrap().remove("type");
            model
        };
        let word_piece = json!({ "type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 7, "vocab": pairs });
        let word_level = json!({ "type": "WordLevel", "unk_token": "a", "vocab": pairs });
        let unigram = json!({ "type": "Unigram", "unk_id": 0, "vocab": [["a", -1.25], ["b", -0.1]], "byte_fallback": false });
        let models = [
            (bpe.clone(), true),
            (with(json!({ "merges": ["a b", "ab c"] })), true),
            (
                with(json!({ "dropout": 0.1, "unk_token": "a", "fuse_unk": true, "byte_fallback": true })),
                true,
            ),
            (with(json!({ "end_of_word_suffix": "</w>", "ignore_merges": true, "dropout": null })), true),
            (with(json!({ "another": [1, 2] })), true),
            (
                with(json!({ "vocab": { "##b": 1, "a": 0, "ab": 2 }, "merges": [["a", "##b"]],
                "continuing_subword_prefix": "##" })),
                true,
            ),
            (without_type(bpe.clone()), true),
            (word_piece.clone(), true),
            (without_type(word_piece), true),
            (word_level.clone(), true),
            (without_type(word_level), true),
            (unigram.clone(), true),
            (without_type(unigram), true),
            (with(json!({ "merges": [["a", "x"]] })), false),
            (with(json!({ "dropout": 7 })), false),
            (with(json!({ "vocab": { "a": -1 } })), false),
            (with(json!({ "type": "WordPiece" })), false),
            (with(json!({ "type": "Other" })), false),
            (json!(null), false),
            (json!([1]), false),
        ];
        for (model, taken) in models {
            let added = json!([{ "id": 9, "content": "c", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true }]);
            let file = json!({ "version": "1.0", "added_tokens": added, "model": model });
            assert_eq!(expect_alike(&file.to_string(), &model.to_string()), taken, "{model}");
        }
        expect_alike(
            r#"{"version": "1.0", "model": {"vocab": {}, "vocab": {"a": 0}, "merges": [], "type": "BPE"}}"#,
            "twice",
        );
        expect_alike("{}", "nothing");
    }

    #[test]
    fn tokenizers_of_golden_checkpoints_are_read_as_the_library_reads_them() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        let Ok(folders) = std::fs::read_dir(golden) else { return };
        let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/families");
        let folders = folders.chain(std::fs::read_dir(families).into_iter().flatten());
        let mut read = 0;
        for folder in folders {
            let path = folder.unwrap().path().join("tokenizer.json");
            if let Ok(json) = std::fs::read_to_string(&path) {
                assert!(expect_alike(&json, &path.display().to_string()), "{}", path.display());
                read += 1;
            }
        }
        assert!(read > 30, "{read}");
    }
}
