//! The files beside `tokenizer.json`: tokens that it lacks, the side on which long texts are cut, limits.
//!
//! They act as in transformers 5, which puts `tokenizer_config.json`, what `special_tokens_map.json` and
//! `added_tokens.json` say where it lists no added tokens itself, and the arguments of the caller into one set of
//! settings.

use std::slice;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::{AddedToken, TruncationDirection};

use super::built::Built;
use super::class::{Classes, extra_ids};
use super::side_files::{Ends, NAMED, Overrides, Special, TOKENIZER_CONFIG};
use super::{TextError, limits, side_files};
use crate::file::Files;
use crate::json;

/// Settings of the tokenizer.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(super) classes: Classes,
    /// What the class builds itself, where it doesn't go by tokenizer.json.
    pub(super) built: Option<Built>,
    /// Whether `added` is all of them, whatever tokenizer.json lists.
    pub(super) lists_all_added: bool,
    /// Tokens that the files want in the vocabulary, with the ids that they give them, and the file.
    pub(super) added: Vec<(u32, AddedToken, &'static str)>,
    pub(super) special: Vec<Special>,
    /// Those of the class that the files don't name.
    pub(super) defaults: Vec<Special>,
    /// How many tokens a T5 has for gaps.
    pub(super) extra_ids: u64,
    /// The side on which long texts are cut; `None` leaves it to `tokenizer.json`.
    pub(super) truncation_side: Option<TruncationDirection>,
    /// Whether texts of a batch are padded in front; `None` leaves it to `tokenizer.json`, and then to the class.
    pub(super) pads_left: Option<bool>,
    pub(super) split_special_tokens: bool,
    /// What the caller's arguments say of the tokens at both ends; where they do the post-processor is made anew.
    pub(super) ends: Option<Ends>,
    /// What `tokenizer_config.json` says of them, which only some tokenizers of transformers 4 went by.
    pub(super) declared_ends: [Option<bool>; 2],
    pub(super) lower_case: bool,
    limit: Option<usize>,
    /// Of static embeddings, what is theirs alone.
    pub(super) bare: Option<Bare>,
    /// Whether the tokenizer gives types of tokens; `None` where versions of transformers differ.
    types: Option<bool>,
}

impl Settings {
    pub(crate) fn read(files: &Files, overrides: &Overrides<'_>) -> Result<Self, TextError> {
        let mut config = side_files::object(files, TOKENIZER_CONFIG)?.unwrap_or_default();
        refuse_other_tokenizer_file(files, &config)?;
        // With a tokenizer.json transformers 5 goes by that file's post-processor, whatever stands here.
        let mut declared_ends: [Option<bool>; 2] = [None; 2];
        for (end, field) in declared_ends.iter_mut().zip(["add_bos_token", "add_eos_token"]) {
            *end = side_files::boolean(files, TOKENIZER_CONFIG, &config, field)?;
            config.remove(field);
        }
        let holds = files.holds("tokenizer.json");
        let count = !holds.map_err(|source| TextError::Io { path: files.path("tokenizer.json"), source })?
            // Which transformers takes for Qwen2Tokenizer where it must not run it.
            || declared_ends[1] == Some(true) && has_code_of_gte_qwen2(&config);
        let declared = count && declared_ends.iter().any(Option::is_some);
        let [bos, eos] = declared_ends.map(|end| end.unwrap_or(false));
        let ends = side_files::ends(overrides)?.or_else(|| declared.then_some(Ends { bos, eos }));
        side_files::lay_over(&mut config, overrides)?;
        let classes = Classes::of(files, &config)?;

        let mut added = Vec::new();
        let mut special = side_files::special_tokens(files, &config)?;
        if let Some(tokens) = config.get("added_tokens_decoder").filter(|value| !value.is_null()) {
            added = side_files::added_tokens_decoder(files, tokens)?;
        } else {
            side_files::legacy(files, &config, &mut added, &mut special)?;
        }
        added.sort_by_key(|(id, ..)| *id);

        let at = |field| (files.path(TOKENIZER_CONFIG), field);
        let truncation_side = match config.get("truncation_side").filter(|value| !value.is_null()) {
            None => None,
            Some(Value::String(side)) if side == "right" => Some(TruncationDirection::Right),
            Some(Value::String(side)) if side == "left" => Some(TruncationDirection::Left),
            Some(other) => {
                let reason = format!("is {other}; it must be \"left\" or \"right\"");
                return Err(side_files::invalid(at("truncation_side"), reason));
            }
        };
        let pads_left = config.get("padding_side").and_then(Value::as_str).map(|side| side == "left");
        let limit_field =
            if config.contains_key("model_max_length") { "model_max_length" } else { "max_len" };
        let limit = config.get(limit_field).filter(|value| !value.is_null()).map(json::token_limit);
        Ok(Self {
            classes,
            built: Built::read(classes.now, files, &config)?,
            lists_all_added: config.get("added_tokens_decoder").is_some_and(|value| !value.is_null()),
            added,
            defaults: classes.now.defaults(&config),
            extra_ids: extra_ids(&config),
            special,
            truncation_side,
            pads_left,
            split_special_tokens: side_files::boolean(
                files,
                TOKENIZER_CONFIG,
                &config,
                "split_special_tokens",
            )?
            .unwrap_or(false),
            ends,
            declared_ends,
            lower_case: overrides.lower_case,
            limit: limit
                .transpose()
                .map_err(|reason| side_files::invalid(at(limit_field), reason))?
                .flatten(),
            bare: None,
            types: gives_types(&config).or(classes.gives_types),
        })
    }

    /// Of static embeddings: `tokenizer.json` as it is, without tokens around a text, and no other file.
    pub(crate) fn bare(files: &Files, bare: Bare) -> Result<Self, TextError> {
        let by_tokenizer = bare == Bare::AsTokenizerSays;
        Ok(Self {
            classes: Classes::NONE,
            built: None,
            lists_all_added: false,
            added: Vec::new(),
            special: Vec::new(),
            defaults: Vec::new(),
            extra_ids: 0,
            truncation_side: (!by_tokenizer).then_some(TruncationDirection::Right),
            pads_left: None,
            split_special_tokens: false,
            ends: Some(Ends { bos: false, eos: false }),
            declared_ends: [None; 2],
            lower_case: false,
            limit: if by_tokenizer { truncation(files)? } else { None },
            bare: Some(bare),
            types: Some(false),
        })
    }

    /// The written form of the special token of this name, by the files or by the tokenizer's class.
    pub(crate) fn special_token(&self, name: &str) -> Option<&str> {
        let of_name = |each: &&Special| each.name.as_deref() == Some(name);
        let found = self.special.iter().chain(&self.defaults).find(of_name);
        found.map(|each| each.token.content.as_str())
    }

    /// Whether the tokenizer tells a model the types of tokens; `None` where versions of transformers differ.
    pub(crate) fn gives_types(&self) -> Option<bool> {
        self.types
    }

    /// Whether a special token's name is one that every tokenizer has, or none at all.
    pub(super) fn is_common(&self, special: &Special) -> bool {
        special.name.as_deref().is_none_or(|name| NAMED.contains(&name))
    }

    /// Longest input in tokens that `tokenizer_config.json` sets, or `tokenizer.json` of static embeddings.
    pub(crate) fn model_max_length(&self) -> Option<usize> {
        self.limit
    }
}

/// How the texts of static embeddings are read, where no transformers has a part in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bare {
    /// As sentence-transformers does: every token counts, and the file says where texts are cut.
    AsTokenizerSays,
    /// As model2vec does: unknown tokens are left out. Texts are cut by their characters first: as many for each token as
    /// half of the vocabulary's tokens have at most.
    WithoutUnknown,
}

/// The limit that `tokenizer.json` sets itself.
fn truncation(files: &Files) -> Result<Option<usize>, TextError> {
    #[derive(Deserialize)]
    struct Tokenizer {
        truncation: Option<Truncation>,
    }

    #[derive(Deserialize)]
    struct Truncation {
        max_length: usize,
    }

    let name = "tokenizer.json";
    match files.read(name, limits::FILE_BYTES) {
        Ok(json) => match serde_json::from_slice::<Tokenizer>(&json) {
            Ok(tokenizer) => Ok(tokenizer.truncation.map(|truncation| truncation.max_length)),
            Err(error) => {
                Err(TextError::InvalidTokenizer { path: files.path(name), reason: error.to_string() })
            }
        },
        // Whoever opens it says so.
        Err(_) => Ok(None),
    }
}

/// Whether `model_input_names` has them; `None` if it is not there.
fn gives_types(config: &Map<String, Value>) -> Option<bool> {
    let names = config.get("model_input_names")?.as_array()?;
    Some(names.iter().any(|name| name == "token_type_ids"))
}

/// Whether the tokenizer has the code that comes with gte-Qwen2 and stella. It is Qwen2Tokenizer, but puts the end token
/// behind a text where `add_eos_token` says so.
fn has_code_of_gte_qwen2(config: &Map<String, Value>) -> bool {
    let code = config.get("auto_map").and_then(|map| map.get("AutoTokenizer"));
    let listed: &[Value] = match code {
        Some(Value::Array(all)) => all,
        Some(one) => slice::from_ref(one),
        None => &[],
    };
    // Before `--` there may be the repository that the code is in.
    let mut classes = listed.iter().filter_map(Value::as_str).filter_map(|class| class.rsplit("--").next());
    let known = ["tokenization_qwen.Qwen2Tokenizer", "tokenization_qwen.Qwen2TokenizerFast"];
    classes.any(|class| known.contains(&class))
}

/// Refuses another tokenizer.json, which newer versions of transformers take.
fn refuse_other_tokenizer_file(files: &Files, config: &Map<String, Value>) -> Result<(), TextError> {
    let listed = config.get("fast_tokenizer_files").and_then(Value::as_array);
    let other = listed.into_iter().flatten().filter_map(Value::as_str).find(|&name| name != "tokenizer.json");
    match other {
        Some(other) => Err(side_files::invalid(
            (files.path(TOKENIZER_CONFIG), "fast_tokenizer_files"),
            format!("names {other}; put that file in the place of tokenizer.json and remove the field"),
        )),
        None => Ok(()),
    }
}
