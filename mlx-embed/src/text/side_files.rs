//! Reading the JSON files beside `tokenizer.json`, so that an error names the file and the field.

use std::collections::HashSet;
use std::path::PathBuf;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::TextError;
use crate::file::Files;
use crate::json;

pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const ADDED_TOKENS: &str = "added_tokens.json";
pub(super) const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";

/// The special tokens that every tokenizer has a name for.
pub(super) const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Arguments that go to the tokenizer over what its own files say.
#[derive(Debug)]
pub(crate) struct Overrides<'a> {
    pub(crate) settings: &'a Map<String, Value>,
    /// Where they stand.
    pub(crate) path: PathBuf,
    pub(crate) field: &'static str,
    /// Whether texts are put into lower case.
    pub(crate) lower_case: bool,
}

/// A token with a name, or one of the further special ones.
#[derive(Debug, Clone)]
pub(super) struct Special {
    /// `eos_token` and the like; none for the further ones.
    pub(super) name: Option<String>,
    pub(super) token: AddedToken,
    pub(super) file: &'static str,
}

impl Special {
    /// Its place among those that get an id: the common names first, as transformers lists them.
    pub(super) fn place(&self) -> usize {
        match &self.name {
            Some(name) => NAMED.iter().position(|named| named == name).unwrap_or(NAMED.len()),
            None => NAMED.len() + 1,
        }
    }
}

/// Which tokens stand at both ends of a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) bos: bool,
    pub(super) eos: bool,
}

/// Three times the files of the largest vocabularies. As values they take some thirty times as much.
const FILE_BYTES: u64 = 4 << 20;

/// Arguments of a tokenizer that change no ids of a text: names, padding, decoding, and where files come from.
const WITHOUT_EFFECT: [&str; 20] = [
    "cache_dir",
    "chat_template",
    "clean_up_tokenization_spaces",
    "errors",
    "force_download",
    "from_slow",
    "legacy",
    "local_files_only",
    "max_length",
    "name_or_path",
    "pad_to_multiple_of",
    "pad_token_type_id",
    "padding",
    "proxies",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
    "use_auth_token",
    "use_fast",
];

/// Those that do, and are honoured.
const HONOURED: [&str; 13] = [
    "added_tokens_decoder",
    "additional_special_tokens",
    "extra_special_tokens",
    "add_bos_token",
    "add_eos_token",
    "do_lower_case",
    "model_input_names",
    "model_max_length",
    "padding_side",
    "split_special_tokens",
    "strip_accents",
    "tokenize_chinese_chars",
    "truncation_side",
];

/// Most special tokens of a file, and most that a file adds to the vocabulary: far more than any has.
const MOST_SPECIAL: usize = 1 << 14;
const MOST_ADDED: usize = 1 << 16;

/// The lists of further special tokens. The first has been the name since transformers 5.
const FURTHER: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

/// The file's object, or `None` if there is no such file.
pub(super) fn object(files: &Files, name: &str) -> Result<Option<Map<String, Value>>, TextError> {
    let found = files.read_if_there(name, FILE_BYTES);
    let Some(bytes) = found.map_err(|source| TextError::Io { path: files.path(name), source })? else {
        return Ok(None);
    };
    json::parse(&bytes).map(Some).map_err(|source| TextError::Json { path: files.path(name), source })
}

#[cold]
pub(super) fn invalid((path, field): (PathBuf, &str), reason: impl Into<String>) -> TextError {
    TextError::InvalidField { path, field: field.to_owned(), reason: reason.into() }
}

pub(super) fn boolean(
    files: &Files,
    file: &str,
    config: &Map<String, Value>,
    field: &str,
) -> Result<Option<bool>, TextError> {
    match config.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => {
            Err(invalid((files.path(file), field), format!("is {other}; it must be true or false")))
        }
    }
}

/// What the caller's arguments say of the tokens at both ends.
pub(super) fn ends(overrides: &Overrides<'_>) -> Result<Option<Ends>, TextError> {
    let at = |field: &str| match overrides.settings.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => {
            let field = format!("{}.{field}", overrides.field);
            Err(invalid((overrides.path.clone(), &field), format!("is {other}; it must be true or false")))
        }
    };
    let (bos, eos) = (at("add_bos_token")?, at("add_eos_token")?);
    Ok((bos.is_some() || eos.is_some())
        .then_some(Ends { bos: bos.unwrap_or(false), eos: eos.unwrap_or(false) }))
}

/// Whether a setting's name is that of a special token: one of the common names or one of the model's own.
fn names_a_token(name: &str, value: &Value) -> bool {
    let own =
        || name.ends_with("_token") && name != "use_auth_token" && (value.is_string() || value.is_object());
    NAMED.contains(&name) || own()
}

/// Puts the caller's arguments over the file's settings. One that nobody knows may change ids, so it is refused, unless
/// the file says the same.
pub(super) fn lay_over(config: &mut Map<String, Value>, overrides: &Overrides<'_>) -> Result<(), TextError> {
    for (name, value) in overrides.settings {
        let same = config.get(name) == Some(value);
        if HONOURED.contains(&name.as_str()) || names_a_token(name, value) {
            config.insert(name.clone(), value.clone());
        } else if !same && !value.is_null() && !WITHOUT_EFFECT.contains(&name.as_str()) {
            let field = format!("{}.{name}", overrides.field);
            let reason =
                format!("is {value}, an argument of the tokenizer that this crate does not know; remove it");
            return Err(invalid((overrides.path.clone(), &field), reason));
        }
    }
    Ok(())
}

/// A token as files write it: its text, or an object with how it is looked for. `special` is what one of a text alone
/// is.
fn token(value: &Value, special: bool) -> Result<AddedToken, String> {
    let object = match value {
        Value::String(text) => return Ok(AddedToken::from(text.clone(), special)),
        Value::Object(object) => object,
        other => {
            return Err(format!("is {other}; it must be a token's text or an object with its `content`"));
        }
    };
    let content = object.get("content").and_then(Value::as_str).ok_or("is a token without `content`")?;
    let flag = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => Err(format!("is a token whose `{name}` is {other}; it must be true or false")),
    };
    let special = flag("special")?.unwrap_or(special);
    Ok(AddedToken::from(content.to_owned(), special)
        .single_word(flag("single_word")?.unwrap_or(false))
        .lstrip(flag("lstrip")?.unwrap_or(false))
        .rstrip(flag("rstrip")?.unwrap_or(false))
        .normalized(flag("normalized")?.unwrap_or(!special)))
}

/// `added_tokens_decoder`: tokens by their ids.
pub(super) fn added_tokens_decoder(
    files: &Files,
    value: &Value,
) -> Result<Vec<(u32, AddedToken, &'static str)>, TextError> {
    let field = "added_tokens_decoder";
    let wrong = |field: &str, reason: String| invalid((files.path(TOKENIZER_CONFIG), field), reason);
    let Value::Object(tokens) = value else {
        return Err(wrong(field, "must be an object that has tokens by their ids".into()));
    };
    if tokens.len() > MOST_ADDED {
        return Err(wrong(field, format!("has {} tokens, but at most {MOST_ADDED} are read", tokens.len())));
    }
    let read = |(id, value): (&String, &Value)| {
        let field = format!("{field}.{id}");
        let number = id.parse().map_err(|_| wrong(&field, "has no token id for a name".into()))?;
        let token = token(value, false).map_err(|reason| wrong(&field, reason))?;
        Ok((number, token, TOKENIZER_CONFIG))
    };
    tokens.iter().map(read).collect()
}

/// The special tokens of one set of settings.
pub(super) fn special_tokens(files: &Files, config: &Map<String, Value>) -> Result<Vec<Special>, TextError> {
    read_special(files, TOKENIZER_CONFIG, config)
}

fn read_special(
    files: &Files,
    file: &'static str,
    config: &Map<String, Value>,
) -> Result<Vec<Special>, TextError> {
    let wrong = |field: &str, reason: String| invalid((files.path(file), field), reason);
    let mut found = Vec::new();
    let mut add = |name: Option<&String>, field: &str, value: &Value| {
        if found.len() == MOST_SPECIAL {
            return Err(wrong(
                field,
                format!("is beyond the {MOST_SPECIAL} special tokens that are read of a file"),
            ));
        }
        let token = token(value, true).map_err(|reason| wrong(field, reason))?;
        found.push(Special { name: name.cloned(), token, file });
        Ok(())
    };
    for (name, value) in config.iter().filter(|(name, value)| names_a_token(name, value) && !value.is_null())
    {
        add(Some(name), name, value)?;
    }
    let is_there = |field: &&str| config.get(*field).is_some_and(|value| !is_empty(value));
    let Some(field) = FURTHER.into_iter().find(is_there) else {
        return Ok(found);
    };
    match &config[field] {
        Value::Array(tokens) => tokens.iter().try_for_each(|token| add(None, field, token))?,
        Value::Object(tokens) => tokens.iter().try_for_each(|(name, token)| add(Some(name), field, token))?,
        other => return Err(wrong(field, format!("is {other}; it must be a list of tokens"))),
    }
    Ok(found)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The files of older versions, which count where `tokenizer_config.json` lists no added tokens.
pub(super) fn legacy(
    files: &Files,
    config: &Map<String, Value>,
    added: &mut Vec<(u32, AddedToken, &'static str)>,
    special: &mut Vec<Special>,
) -> Result<(), TextError> {
    let mut special_too: HashSet<String> = special.iter().map(|each| each.token.content.clone()).collect();
    if let Some(map) = object(files, SPECIAL_TOKENS_MAP)? {
        let new_name = map.get(FURTHER[0]).is_some_and(|value| !is_empty(value));
        // The old name counts where no other file has one of the two, and says nothing of added_tokens.json's tokens.
        let old_name = !FURTHER.iter().any(|field| config.contains_key(*field));
        for found in read_special(files, SPECIAL_TOKENS_MAP, &map)? {
            match &found.name {
                Some(name) => special.retain(|each| each.name.as_ref() != Some(name)),
                None if new_name => {
                    special.retain(|each| each.name.is_some() || each.token.content != found.token.content)
                }
                None if old_name => {}
                None => continue,
            }
            if found.name.is_some() || new_name {
                special_too.insert(found.token.content.clone());
            }
            special.push(found);
        }
    }
    if let Some(tokens) = object(files, ADDED_TOKENS)? {
        if let Some(beyond) = tokens.keys().nth(MOST_ADDED) {
            let reason = format!("is beyond the {MOST_ADDED} tokens that are read");
            return Err(invalid((files.path(ADDED_TOKENS), beyond), reason));
        }
        for (content, id) in &tokens {
            let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let number = number.ok_or_else(|| {
                invalid((files.path(ADDED_TOKENS), content), format!("is {id}; it must be a token id"))
            })?;
            let token = AddedToken::from(content.clone(), special_too.contains(content));
            added.push((number, token, ADDED_TOKENS));
        }
    }
    Ok(())
}
