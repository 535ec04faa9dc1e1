//! Which of transformers' tokenizer classes a checkpoint is read with: some have special tokens of their own.

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::side_files::{Special, TOKENIZER_CONFIG};
use super::{TextError, side_files};
use crate::file::Files;

/// A class, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Qwen2,
    Llama,
    /// What goes by tokenizer.json alone.
    Other,
}

/// The class of a checkpoint in versions of transformers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Classes {
    /// In version 5.
    pub(super) now: Class,
    /// Whether version 4 took LlamaTokenizer, which went by `add_bos_token` and `add_eos_token`.
    pub(super) llama_before: bool,
}

impl Classes {
    pub(super) fn of(files: &Files, config: &Map<String, Value>) -> Result<Self, TextError> {
        let model = side_files::object(files, "config.json")?.unwrap_or_default();
        let class = [config, &model].into_iter().find_map(|object| object.get("tokenizer_class")?.as_str());
        let class = class.map(|class| class.strip_suffix("Fast").unwrap_or(class));
        let now = match (model.get("model_type").and_then(Value::as_str), class) {
            // Qwen2 checkpoints that name another class are taken to name a wrong one.
            (Some("qwen2"), _) | (_, Some("Qwen2Tokenizer")) | (Some("qwen3"), None) => Class::Qwen2,
            (_, Some("LlamaTokenizer")) => Class::Llama,
            _ => Class::Other,
        };
        Ok(Self { now, llama_before: class == Some("LlamaTokenizer") })
    }
}

impl Class {
    /// The tokens that the class has where the files don't name them; `config` is the settings.
    pub(super) fn defaults(self, config: &Map<String, Value>) -> Vec<Special> {
        let defaults: &[(&str, &str)] = match self {
            Self::Qwen2 => &[
                ("unk_token", "<|endoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("pad_token", "<|endoftext|>"),
            ],
            Self::Llama => &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")],
            Self::Other => &[],
        };
        let missing = defaults.iter().filter(|(name, _)| !config.contains_key(*name));
        let special = |&(name, content): &(&str, &str)| Special {
            name: Some(name.to_owned()),
            token: AddedToken::from(content.to_owned(), true),
            file: TOKENIZER_CONFIG,
        };
        missing.map(special).collect()
    }
}
