//! Which of transformers' tokenizer classes a checkpoint is read with: some have special tokens of their own, and some build
//! a tokenizer of their own around the vocabulary of `tokenizer.json` ([`built`](super::built)).

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::side_files::{Special, TOKENIZER_CONFIG};
use super::{TextError, side_files};
use crate::file::Files;

/// A class of transformers 5, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Bert,
    Camembert,
    DistilBert,
    Gemma,
    Gpt2,
    Llama,
    Mpnet,
    Qwen2,
    Roberta,
    T5,
    XlmRoberta,
    /// What goes by tokenizer.json alone.
    Other,
}

/// The classes by their names, and under which other names they go.
const NAMES: [(&str, Class); 22] = [
    ("BartTokenizer", Class::Roberta),
    ("BertTokenizer", Class::Bert),
    ("CamembertTokenizer", Class::Camembert),
    ("DistilBertTokenizer", Class::DistilBert),
    ("ElectraTokenizer", Class::Bert),
    ("GPT2Tokenizer", Class::Gpt2),
    ("GemmaTokenizer", Class::Gemma),
    ("LEDTokenizer", Class::Roberta),
    ("LayoutLMTokenizer", Class::Bert),
    ("LlamaTokenizer", Class::Llama),
    ("LongformerTokenizer", Class::Roberta),
    ("LxmertTokenizer", Class::Bert),
    ("MPNetTokenizer", Class::Mpnet),
    ("MobileBertTokenizer", Class::Bert),
    ("MvpTokenizer", Class::Roberta),
    ("PreTrainedTokenizer", Class::Other),
    ("Qwen2Tokenizer", Class::Qwen2),
    ("RobertaTokenizer", Class::Roberta),
    ("SqueezeBertTokenizer", Class::Bert),
    ("T5Tokenizer", Class::T5),
    ("TokenizersBackend", Class::Other),
    ("XLMRobertaTokenizer", Class::XlmRoberta),
];

/// Further classes of transformers' that build a tokenizer of their own, or read other files; each name ends in `Tokenizer`.
/// A name that transformers doesn't know goes by tokenizer.json.
const UNKNOWN_HERE: &str = "Albert Barthez Bartpho BertGeneration BertJapanese Bertweet BigBird BioGpt BlenderbotSmall \
    Blenderbot ByT5 CLIP CTRL Canine Clvp CodeGen CodeLlama Cohere ConvBert CpmAnt Cpm DPRContextEncoder \
    DPRQuestionEncoder DPRReader Deberta DebertaV2 Dia Esm Esmc FNet FSMT FastSpeech2Conformer Flaubert Funnel \
    GPTNeoXJapanese GPTNeoX GPTSw3 Herbert Lasr LayoutLMv2 LayoutLMv3 LayoutXLM Luke M2M100 MBart50 MBart MLuke Marian \
    MarkupLM Mgpstr MyT5 Nllb Nougat OpenAIGPT PLBart Parakeet Pegasus Perceiver Phobert Pop2Piano ProphetNet Qwen3_5 Rag \
    Reformer RemBert RoCBert RoFormer SeamlessM4T Siglip2 Siglip Speech2Text SpeechT5 Splinter Tapas Tipsv2 Udop \
    VideoPrism Vits Wav2Vec2CTC Wav2Vec2PhonemeCTC Whisper XGLM XLM XLNet";

/// The classes of kinds of models, where the files name none.
const OF_MODELS: [(&str, Class); 15] = [
    ("bert", Class::Bert),
    ("camembert", Class::Camembert),
    ("distilbert", Class::Bert),
    ("electra", Class::Bert),
    ("gemma", Class::Gemma),
    ("gemma3_text", Class::Gemma),
    ("gte", Class::XlmRoberta),
    ("jina_embeddings_v3", Class::XlmRoberta),
    ("mpnet", Class::Mpnet),
    ("nomic_bert", Class::Bert),
    ("qwen2", Class::Qwen2),
    ("qwen3", Class::Qwen2),
    ("roberta", Class::Roberta),
    ("t5", Class::T5),
    ("xlm-roberta", Class::XlmRoberta),
];

/// Kinds of models whose files are taken to name a wrong class, and what they are read with instead.
const WHATEVER_IS_NAMED: [(&str, Class); 4] = [
    ("ministral3", Class::Other),
    ("mistral", Class::Other),
    ("modernbert", Class::Other),
    ("qwen2", Class::Qwen2),
];

/// The class of a checkpoint in versions of transformers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Classes {
    /// In version 5.
    pub(super) now: Class,
    /// Whether version 4 took LlamaTokenizer, which went by `add_bos_token` and `add_eos_token`.
    pub(super) llama_before: bool,
    /// Whether the tokenizer gives types of tokens, if nothing else says so; `None` where versions 4 and 5 differ.
    pub(super) gives_types: Option<bool>,
}

impl Classes {
    /// Of what no class of transformers reads.
    pub(super) const NONE: Self = Self { now: Class::Other, llama_before: false, gives_types: Some(false) };

    pub(super) fn of(files: &Files, config: &Map<String, Value>) -> Result<Self, TextError> {
        let model = side_files::object(files, "config.json")?.unwrap_or_default();
        let named = [(TOKENIZER_CONFIG, config), ("config.json", &model)]
            .into_iter()
            .find_map(|(file, object)| Some((file, object.get("tokenizer_class")?.as_str()?)));
        let base = |name: &str| name.strip_suffix("Fast").unwrap_or(name).to_owned();
        let name = named.map(|(_, name)| base(name));
        let kind = model.get("model_type").and_then(Value::as_str);
        let of_kind = |table: &[(&str, Class)]| {
            table.iter().find(|(name, _)| Some(*name) == kind).map(|(_, class)| *class)
        };
        // Where the tokenizer has code of its own, transformers takes the class that is named for what stands in for it.
        let now = match (of_kind(&WHATEVER_IS_NAMED), named, &name) {
            (Some(class), ..) if !config.contains_key("auto_map") => class,
            (_, Some((file, given)), Some(name)) => of_name(name).ok_or_else(|| {
                let reason = format!(
                    "is {given}, which makes a tokenizer of its own in transformers 5 that this crate does not know; write \
                     TokenizersBackend there if the model was trained with tokenizer.json as it is"
                );
                side_files::invalid((files.path(file), "tokenizer_class"), reason)
            })?,
            _ => of_kind(&OF_MODELS).unwrap_or(Class::Other),
        };
        let gives_types = match (now, name.as_deref()) {
            (Class::Bert, _) => Some(true),
            // A name of version 5 alone, in which tokenizers give no types unless their class does.
            (Class::Other, name) if name != Some("TokenizersBackend") => None,
            _ => Some(false),
        };
        Ok(Self { now, llama_before: name.as_deref() == Some("LlamaTokenizer"), gives_types })
    }
}

/// How many tokens a T5 has for gaps.
pub(super) fn extra_ids(config: &Map<String, Value>) -> u64 {
    config.get("extra_ids").and_then(Value::as_u64).unwrap_or(100).min(1000)
}

/// `None` for a class that isn't known here.
fn of_name(name: &str) -> Option<Class> {
    let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, class)| *class);
    let unknown = || {
        name.strip_suffix("Tokenizer")
            .is_some_and(|name| UNKNOWN_HERE.split_ascii_whitespace().any(|unknown| unknown == name))
    };
    known.or_else(|| (!unknown()).then_some(Class::Other))
}

impl Class {
    /// The tokens that the class has where the files don't name them; `config` is the settings.
    pub(super) fn defaults(self, config: &Map<String, Value>) -> Vec<Special> {
        let of_roberta: &[(&str, &str)] = &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("unk_token", "<unk>"),
            ("sep_token", "</s>"),
            ("pad_token", "<pad>"),
            ("cls_token", "<s>"),
            ("mask_token", "<mask>"),
        ];
        let end = "<|endoftext|>";
        let defaults: &[(&str, &str)] = match self {
            Self::Bert | Self::DistilBert => &[
                ("unk_token", "[UNK]"),
                ("sep_token", "[SEP]"),
                ("pad_token", "[PAD]"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Self::Gemma => &[
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Self::Gpt2 => &[("bos_token", end), ("eos_token", end), ("unk_token", end)],
            Self::Llama => &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
            Self::Camembert | Self::Mpnet | Self::Roberta | Self::XlmRoberta => of_roberta,
            Self::T5 => &[("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")],
            Self::Qwen2 => &[("eos_token", end), ("unk_token", end), ("pad_token", end)],
            Self::Other => &[],
        };
        let missing = defaults.iter().filter(|(name, _)| !config.contains_key(*name));
        let special = |&(name, content): &(&str, &str)| {
            let content = if (self, name) == (Self::Mpnet, "unk_token") { "[UNK]" } else { content };
            let strips = (self, name) == (Self::Camembert, "mask_token");
            let token = AddedToken::from(content.to_owned(), true).lstrip(strips);
            Special { name: Some(name.to_owned()), token, file: TOKENIZER_CONFIG }
        };
        let further: Vec<String> = match self {
            // Ids that SentencePiece has and the model has not.
            Self::Camembert => ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"].map(str::to_owned).to_vec(),
            // What stands for the gaps that it was trained to fill.
            Self::T5 if !config.contains_key("additional_special_tokens") => {
                (0..extra_ids(config)).map(|index| format!("<extra_id_{index}>")).collect()
            }
            _ => Vec::new(),
        };
        let further = further.into_iter().map(|content| {
            let token = AddedToken::from(content, true);
            Special { name: None, token, file: TOKENIZER_CONFIG }
        });
        missing.map(special).chain(further).collect()
    }
}
