//! The tokenizer that a class of transformers 5 builds around the vocabulary of `tokenizer.json`: whatever else that file says,
//! these parts are the class's.

use serde_json::{Map, Value};
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, NFC, NormalizerWrapper, Replace};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{Model, Result, Tokenizer};

use super::class::Class;
use super::side_files::TOKENIZER_CONFIG;
use super::{TextError, side_files};
use crate::file::Files;

/// What stands for a space in SentencePiece's vocabularies.
const SPACE: char = '\u{2581}';

/// How Qwen2Tokenizer finds words.
const QWEN2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The settings by which a class builds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Built {
    class: Class,
    lower_case: bool,
    chinese_chars: bool,
    strip_accents: Option<bool>,
    prefix_space: bool,
    legacy: bool,
}

impl Built {
    /// `None` for a class that goes by tokenizer.json.
    pub(super) fn read(
        class: Class,
        files: &Files,
        config: &Map<String, Value>,
    ) -> std::result::Result<Option<Self>, TextError> {
        let flag = |field| side_files::boolean(files, TOKENIZER_CONFIG, config, field);
        let spaced = matches!(class, Class::Camembert | Class::XlmRoberta | Class::Llama);
        Ok(match class {
            Class::Other => None,
            _ => Some(Self {
                class,
                lower_case: flag("do_lower_case")?.unwrap_or(true),
                chinese_chars: flag("tokenize_chinese_chars")?.unwrap_or(true),
                strip_accents: flag("strip_accents")?,
                prefix_space: flag("add_prefix_space")?.unwrap_or(spaced),
                legacy: flag("legacy")?.unwrap_or(false),
            }),
        })
    }

    /// Puts the parts into the tokenizer that stand before its tokens; `unknown` is the token for what has none.
    pub(super) fn put(self, tokenizer: &mut Tokenizer, unknown: Option<&str>) -> Result<()> {
        if let Some(model) = self.model(tokenizer.get_model(), unknown)? {
            tokenizer.with_model(model);
        }
        let normalizer = self.normalizer(tokenizer.get_normalizer())?;
        tokenizer.with_normalizer(normalizer)?;
        let pre_tokenizer = self.pre_tokenizer()?;
        tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
        Ok(())
    }

    /// The model with the class's settings, where the file has others.
    fn model(self, found: &ModelWrapper, unknown: Option<&str>) -> Result<Option<ModelWrapper>> {
        match (self.class, found) {
            (Class::Bert | Class::DistilBert | Class::Mpnet, ModelWrapper::WordPiece(found)) => {
                let plain = WordPiece::default();
                let unknown = unknown.unwrap_or(&found.unk_token);
                if found.unk_token == unknown
                    && found.max_input_chars_per_word == plain.max_input_chars_per_word
                    && found.continuing_subword_prefix == plain.continuing_subword_prefix
                {
                    return Ok(None);
                }
                let mut own = found.clone();
                own.unk_token = unknown.to_owned();
                own.max_input_chars_per_word = plain.max_input_chars_per_word;
                own.continuing_subword_prefix = plain.continuing_subword_prefix;
                Ok(Some(own.into()))
            }
            (Class::Gpt2 | Class::Qwen2 | Class::Roberta, ModelWrapper::BPE(found)) => {
                Ok(with_settings(found, None, false))
            }
            (Class::Llama, ModelWrapper::BPE(found)) => Ok(with_settings(found, None, true)),
            (Class::Gemma, ModelWrapper::BPE(found)) => Ok(with_settings(found, unknown, true)),
            (Class::XlmRoberta, ModelWrapper::Unigram(found)) => with_unknown(found, 3),
            (Class::T5, ModelWrapper::Unigram(found)) => with_unknown(found, 2),
            (Class::Camembert, ModelWrapper::Unigram(found)) => {
                let is_unknown = |(token, _): &(String, f64)| Some(token.as_str()) == unknown;
                with_unknown(found, found.iter().position(is_unknown).unwrap_or(0))
            }
            (_, found) => {
                let kind = match found {
                    ModelWrapper::BPE(_) => "BPE",
                    ModelWrapper::WordPiece(_) => "WordPiece",
                    ModelWrapper::WordLevel(_) => "WordLevel",
                    ModelWrapper::Unigram(_) => "Unigram",
                };
                Err(format!(
                    "its model is {kind}, and this checkpoint's tokenizer_class (or its kind of model, if none is named) has \
                     another one in transformers 5; \
                     if the model was trained with tokenizer.json as it is, write TokenizersBackend as tokenizer_class \
                     into {TOKENIZER_CONFIG}"
                )
                .into())
            }
        }
    }

    fn normalizer(self, found: Option<&NormalizerWrapper>) -> Result<Option<NormalizerWrapper>> {
        Ok(match self.class {
            Class::Bert | Class::DistilBert | Class::Mpnet => Some(
                BertNormalizer::new(true, self.chinese_chars, self.strip_accents, self.lower_case).into(),
            ),
            Class::Gemma => Some(Replace::new(" ", SPACE)?.into()),
            Class::Qwen2 => Some(NFC.into()),
            Class::Camembert | Class::T5 | Class::XlmRoberta => table_of_characters(found),
            Class::Gpt2 | Class::Llama | Class::Roberta | Class::Other => None,
        })
    }

    fn pre_tokenizer(self) -> Result<PreTokenizerWrapper> {
        let scheme = |wanted| if self.prefix_space { wanted } else { PrependScheme::Never };
        Ok(match self.class {
            Class::Bert | Class::DistilBert | Class::Mpnet => BertPreTokenizer.into(),
            Class::Gemma => {
                let space = SplitPattern::String(" ".to_owned());
                Split::new(space, SplitDelimiterBehavior::MergedWithPrevious, false)?.into()
            }
            Class::Qwen2 => {
                let words = SplitPattern::Regex(QWEN2_WORDS.to_owned());
                let words = Split::new(words, SplitDelimiterBehavior::Isolated, false)?;
                Sequence::new(vec![words.into(), ByteLevel::new(self.prefix_space, true, false).into()])
                    .into()
            }
            Class::Camembert | Class::T5 | Class::XlmRoberta => {
                // Whatever add_prefix_space says to a T5.
                let before = if self.class == Class::T5 {
                    PrependScheme::Always
                } else {
                    scheme(PrependScheme::Always)
                };
                let words = Metaspace::new(SPACE, before, true);
                Sequence::new(vec![WhitespaceSplit.into(), words.into()]).into()
            }
            Class::Llama => {
                let wanted = if self.legacy { PrependScheme::Always } else { PrependScheme::First };
                Metaspace::new(SPACE, scheme(wanted), false).into()
            }
            Class::Gpt2 | Class::Roberta | Class::Other => {
                ByteLevel::new(self.prefix_space, true, true).into()
            }
        })
    }

    /// What it puts around texts, where that is not the file's; `token` has the content and id of a special token.
    pub(super) fn post_processor(
        self,
        token: impl Fn(&str) -> Result<(String, u32)>,
    ) -> Result<Option<PostProcessorWrapper>> {
        let template = |single: &[String], pair: Vec<String>, special: &[(String, u32)]| -> Result<_> {
            let template = TemplateProcessing::builder()
                .try_single(single.to_vec())?
                .try_pair(pair)?
                .special_tokens(special.to_vec())
                .build()?;
            Ok(Some(template.into()))
        };
        let text = "$A".to_owned();
        match self.class {
            Class::Bert | Class::DistilBert => {
                let [first, last] = [token("cls_token")?, token("sep_token")?];
                let single = [first.0.clone(), text, last.0.clone()];
                let second = ["$B:1".to_owned(), format!("{}:1", last.0)];
                template(&single, [&single[..], &second].concat(), &[first, last])
            }
            Class::Camembert | Class::XlmRoberta => {
                let [first, last] = [token("bos_token")?, token("eos_token")?];
                let single = [first.0.clone(), text, last.0.clone()];
                let second = [last.0.clone(), "$B".to_owned(), last.0.clone()];
                template(&single, [&single[..], &second].concat(), &[first, last])
            }
            Class::T5 => {
                let last = token("eos_token")?;
                let (single, second) = ([text, last.0.clone()], ["$B".to_owned(), last.0.clone()]);
                template(&single, [&single[..], &second].concat(), &[last])
            }
            Class::Mpnet | Class::Roberta => {
                Ok(Some(RobertaProcessing::new(token("sep_token")?, token("cls_token")?).into()))
            }
            Class::Gemma | Class::Gpt2 | Class::Llama | Class::Qwen2 | Class::Other => Ok(None),
        }
    }
}

/// The model with a class's token for what has none, and without tokens for bytes; `None` where the file has that.
fn with_unknown(found: &Unigram, unknown: usize) -> Result<Option<ModelWrapper>> {
    if !found.byte_fallback() && unknown_of(found) == Some(unknown) {
        return Ok(None);
    }
    let vocab = found.iter().cloned().collect();
    Ok(Some(Unigram::from(vocab, Some(unknown), false)?.into()))
}

/// The token of what has none. The model has no function that tells it, but gives it to a character that no vocabulary has;
/// `None` if there is none, or if this vocabulary has that character.
fn unknown_of(model: &Unigram) -> Option<usize> {
    const NO_CHARACTER: &str = "\u{10FFFF}";
    if model.token_to_id(NO_CHARACTER).is_some() {
        return None;
    }
    match &model.tokenize(NO_CHARACTER).ok()?[..] {
        [token] => Some(token.id as usize),
        _ => None,
    }
}

/// A model of pairs with the settings of a class: the token for what has none, and whether such stretches are one token and
/// characters without a token become bytes.
fn with_settings(found: &BPE, unknown: Option<&str>, of_sentencepiece: bool) -> Option<ModelWrapper> {
    let is_empty = |part: &Option<String>| part.as_ref().is_none_or(String::is_empty);
    let same = found.unk_token.as_deref() == unknown
        && is_empty(&found.continuing_subword_prefix)
        && is_empty(&found.end_of_word_suffix)
        && (found.fuse_unk, found.byte_fallback) == (of_sentencepiece, of_sentencepiece)
        && !found.ignore_merges;
    let own = || {
        let mut own = found.clone();
        own.unk_token = unknown.map(str::to_owned);
        (own.continuing_subword_prefix, own.end_of_word_suffix) = (None, None);
        (own.fuse_unk, own.byte_fallback) = (of_sentencepiece, of_sentencepiece);
        own.ignore_merges = false;
        own.into()
    };
    (!same).then(own)
}

/// The first table of characters of a normaliser; of those that are part of another it is taken alone.
fn table_of_characters(found: Option<&NormalizerWrapper>) -> Option<NormalizerWrapper> {
    let is_table = |each: &&NormalizerWrapper| matches!(each, NormalizerWrapper::Precompiled(_));
    match found? {
        NormalizerWrapper::Sequence(parts) => parts.as_ref().iter().find(is_table).cloned(),
        other => Some(other).filter(is_table).cloned(),
    }
}
