//! Which of transformers' tokenizer classes a checkpoint is read with: some have special tokens of their own, and some put
//! a part of their own into the tokenizer.

use serde_json::{Map, Value};
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::{AddedToken, Tokenizer};

use super::side_files::{Special, TOKENIZER_CONFIG};
use super::{TextError, side_files};
use crate::file::Files;

/// A class, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Qwen2,
    Llama,
    /// BertTokenizer, and others that treat texts as it does.
    Bert,
    Roberta,
    XlmRoberta,
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
            // Which goes by tokenizer.json alone, whatever class is named.
            (Some("modernbert"), _) => Class::Other,
            (_, Some("LlamaTokenizer")) => Class::Llama,
            (_, Some("BertTokenizer" | "DistilBertTokenizer" | "ElectraTokenizer" | "MPNetTokenizer"))
            | (Some("bert" | "distilbert" | "mpnet" | "nomic_bert"), None) => Class::Bert,
            (_, Some("RobertaTokenizer")) | (Some("roberta"), None) => Class::Roberta,
            (_, Some("XLMRobertaTokenizer")) | (Some("xlm-roberta"), None) => Class::XlmRoberta,
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
            Self::Bert | Self::Roberta | Self::XlmRoberta | Self::Other => &[],
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

/// What a class makes of its settings, whatever `tokenizer.json` says there.
#[derive(Debug, Clone, Copy)]
pub(super) enum OwnPart {
    Normalizer(BertNormalizer),
    /// Whether a space goes before a text that has none there.
    PrefixSpace(bool),
    /// Words are what lies between spaces, which are not tokens of their own; and whether each gets one before it.
    Words(bool),
}

impl OwnPart {
    pub(super) fn of(
        class: Class,
        files: &Files,
        config: &Map<String, Value>,
    ) -> Result<Option<Self>, TextError> {
        let flag = |field| side_files::boolean(files, TOKENIZER_CONFIG, config, field);
        Ok(match class {
            Class::Bert => Some(Self::Normalizer(BertNormalizer::new(
                true,
                flag("tokenize_chinese_chars")?.unwrap_or(true),
                flag("strip_accents")?,
                flag("do_lower_case")?.unwrap_or(true),
            ))),
            Class::Roberta => Some(Self::PrefixSpace(flag("add_prefix_space")?.unwrap_or(false))),
            Class::XlmRoberta => Some(Self::Words(flag("add_prefix_space")?.unwrap_or(true))),
            Class::Qwen2 | Class::Llama | Class::Other => None,
        })
    }

    /// Puts it into the place of the tokenizer's own part of this kind. A part of another kind stays: versions of
    /// transformers don't agree on it.
    pub(super) fn put(self, tokenizer: &mut Tokenizer) -> tokenizers::Result<()> {
        match (self, tokenizer.get_normalizer(), tokenizer.get_pre_tokenizer()) {
            (Self::Normalizer(own), Some(NormalizerWrapper::BertNormalizer(_)), _) => {
                tokenizer.with_normalizer(Some(own))?;
            }
            (Self::PrefixSpace(own), _, Some(PreTokenizerWrapper::ByteLevel(levels))) => {
                let levels = levels.add_prefix_space(own);
                tokenizer.with_pre_tokenizer(Some(levels));
            }
            (Self::Words(prefix), _, Some(own)) if ends_in_metaspace(own) => {
                let scheme = if prefix { PrependScheme::Always } else { PrependScheme::Never };
                let words = vec![WhitespaceSplit.into(), Metaspace::new('\u{2581}', scheme, true).into()];
                tokenizer.with_pre_tokenizer(Some(Sequence::new(words)));
            }
            _ => {}
        }
        Ok(())
    }
}

fn ends_in_metaspace(pre_tokenizer: &PreTokenizerWrapper) -> bool {
    match pre_tokenizer {
        PreTokenizerWrapper::Metaspace(_) => true,
        PreTokenizerWrapper::Sequence(parts) => parts.as_ref().last().is_some_and(ends_in_metaspace),
        _ => false,
    }
}
