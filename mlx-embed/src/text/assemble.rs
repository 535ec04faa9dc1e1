//! The tokenizer that transformers makes of `tokenizer.json` and the files beside it.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::Serialize;
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::{Lowercase, NormalizerWrapper, Sequence};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, AddedVocabulary, PaddingDirection, Tokenizer, TruncationDirection};

use super::TextError;
use super::built::Built;
use super::class::Class;
use super::guarded::guarded;
use super::settings::Settings;
use super::side_files::{Ends, Special, TOKENIZER_CONFIG, invalid};
use super::straight;
use crate::file::Files;

/// A token that is looked for in texts though `tokenizer.json` doesn't list it as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AddedTokenInfo {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub token: String,
    /// The file that lists it.
    pub file: String,
}

/// The side on which texts beyond the limit are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TruncationSide {
    /// The beginning is cut.
    Left,
    /// The end is cut.
    Right,
}

impl TruncationSide {
    pub(super) fn of(direction: TruncationDirection) -> Self {
        match direction {
            TruncationDirection::Left => Self::Left,
            TruncationDirection::Right => Self::Right,
        }
    }
}

/// A tokenizer, and what was decided on the way to it.
#[derive(Debug)]
pub(super) struct Assembled {
    pub(super) tokenizer: Tokenizer,
    pub(super) added: Vec<AddedTokenInfo>,
    pub(super) truncation_side: TruncationDirection,
    /// Whether texts of a batch are padded in front.
    pub(super) pads_left: bool,
    /// Ids of all special tokens that have a name or are listed as special.
    pub(super) special_ids: Vec<u32>,
    /// The tokens named `bos_token` and `eos_token`.
    pub(super) bos_eos: [Option<AddedToken>; 2],
}

/// Makes the tokenizer of `tokenizer.json`'s contents.
pub(super) fn assemble(
    json: &[u8],
    settings: &Settings,
    files: &Files,
    path: &Path,
) -> Result<Assembled, TextError> {
    let failed = |reason| TextError::InvalidTokenizer { path: path.to_owned(), reason };
    let (class, built) = class(json, settings);
    let special = special(settings, class);
    let named = |name: &str| find(&special, &Some(name.to_owned()));
    let read = guarded(|| read(json, settings, built, named("unk_token"))).map_err(failed)?;
    let Read { mut tokenizer, listed, cut, pads_left } = read;
    let tokens = wanted(settings, &special, &contents(&tokenizer), files)?;
    guarded(|| {
        tokenizer.add_tokens(tokens)?;
        if class == Class::Qwen2 {
            tokenizer
                .add_tokens(special.iter().map(|each| AddedToken::from(each.token.content.clone(), true)))?;
        }
        Ok(())
    })
    .map_err(failed)?;
    check_ids(&tokenizer, settings, files)?;
    let bos_eos = ["bos_token", "eos_token"].map(|name| named(name).cloned());
    guarded(|| {
        put_around(&mut tokenizer, settings, built, named, &bos_eos)?;
        if settings.lower_case {
            put_into_lower_case(&mut tokenizer)?;
        }
        Ok(())
    })
    .map_err(failed)?;
    let added = added(&tokenizer, &listed, settings, &special);
    let special_ids = special.iter().filter_map(|each| tokenizer.token_to_id(&each.token.content)).collect();
    let truncation_side = settings.truncation_side.or(cut).unwrap_or(TruncationDirection::Right);
    // Those classes that say so themselves.
    let pads_left = settings.pads_left.or(pads_left).unwrap_or(matches!(class, Class::Gemma | Class::Llama));
    Ok(Assembled { tokenizer, added, truncation_side, pads_left, special_ids, bos_eos })
}

/// The class that transformers takes, and what it builds in place of parts of `tokenizer.json`.
fn class(json: &[u8], settings: &Settings) -> (Class, Option<Built>) {
    // LlamaTokenizer is not taken for a byte-level vocabulary, which transformers looks for in this way.
    let byte_level = || json.windows(br#""ByteLevel""#.len()).any(|part| part == br#""ByteLevel""#);
    match settings.classes.now {
        Class::Llama if byte_level() => (Class::Other, None),
        class => (class, settings.built),
    }
}

/// The tokens that have a name or are listed as special, those that the class has by itself among them.
fn special(settings: &Settings, class: Class) -> Vec<Special> {
    let mut special = settings.special.clone();
    if class == settings.classes.now {
        let missing = settings.defaults.iter().filter(|default| find(&special, &default.name).is_none());
        special.extend(missing.cloned().collect::<Vec<_>>());
    }
    // Tokens get their ids in this order, those of the class among the others.
    special.sort_by_key(Special::place);
    special
}

/// What `tokenizer.json` holds.
struct Read {
    tokenizer: Tokenizer,
    /// The tokens that it lists.
    listed: HashSet<String>,
    /// The side on which it cuts texts, and whether it pads in front, if it does such.
    cut: Option<TruncationDirection>,
    pads_left: Option<bool>,
}

/// Reads `tokenizer.json` without what is no business of its.
fn read(
    json: &[u8],
    settings: &Settings,
    built: Option<Built>,
    unknown: Option<&AddedToken>,
) -> tokenizers::Result<Read> {
    let mut tokenizer = straight::tokenizer(json)?;
    let cut = tokenizer.get_truncation().map(|truncation| truncation.direction);
    let pads_left =
        tokenizer.get_padding().map(|padding| matches!(padding.direction, PaddingDirection::Left));
    let listed = contents(&tokenizer);
    // Limits and padding are this crate's business; a tokenizer.json may carry someone's training settings.
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None)?;
    if let Some(built) = built {
        if settings.lists_all_added {
            tokenizer.with_added_vocabulary(AddedVocabulary::new());
        }
        built.put(&mut tokenizer, unknown.map(|token| token.content.as_str()))?;
    }
    // Another such setting: merges left out at random, so that one text gets other tokens each time.
    if let ModelWrapper::BPE(bpe) = tokenizer.get_model()
        && bpe.dropout.is_some()
    {
        let mut bpe = bpe.clone();
        bpe.dropout = None;
        tokenizer.with_model(bpe);
    }
    tokenizer.set_encode_special_tokens(settings.split_special_tokens);
    Ok(Read { tokenizer, listed, cut, pads_left })
}

/// Sets what goes around texts, where the class or its settings say it.
fn put_around<'a>(
    tokenizer: &mut Tokenizer,
    settings: &Settings,
    built: Option<Built>,
    named: impl Fn(&str) -> Option<&'a AddedToken>,
    bos_eos: &[Option<AddedToken>; 2],
) -> tokenizers::Result<()> {
    let id = |name: &str| {
        let token = named(name).map(|token| token.content.clone());
        let token = token.and_then(|token| tokenizer.token_to_id(&token).map(|id| (token, id)));
        token.ok_or_else(|| {
            format!("`{name}` of {TOKENIZER_CONFIG} is no token, but its class puts it around texts").into()
        })
    };
    match (built.map(|built| built.post_processor(id)).transpose()?.flatten(), settings.ends) {
        (Some(own), _) => drop(tokenizer.with_post_processor(Some(own))),
        (None, Some(ends)) => set_ends(tokenizer, ends, bos_eos)?,
        (None, None) => {}
    }
    Ok(())
}

/// The tokens that are looked for in texts and that `tokenizer.json` doesn't list.
fn added(
    tokenizer: &Tokenizer,
    listed: &HashSet<String>,
    settings: &Settings,
    special: &[Special],
) -> Vec<AddedTokenInfo> {
    // What is listed goes before what is named, and the first of each before others.
    let by_name = special.iter().rev().map(|each| (&each.token.content, each.file));
    let by_id = settings.added.iter().rev().map(|(_, token, file)| (&token.content, *file));
    let origins: HashMap<&String, &str> = by_name.chain(by_id).collect();
    let file = |content: &String| origins.get(content).copied().unwrap_or_default().to_owned();
    let mut added: Vec<AddedTokenInfo> = tokenizer
        .get_added_tokens_decoder()
        .into_iter()
        .filter(|(_, token)| !listed.contains(&token.content))
        .map(|(id, token)| AddedTokenInfo { id, file: file(&token.content), token: token.content })
        .collect();
    added.sort_by_key(|token| token.id);
    added
}

/// The tokens that are looked for in texts.
fn contents(tokenizer: &Tokenizer) -> HashSet<String> {
    tokenizer.get_added_tokens_decoder().into_values().map(|token| token.content).collect()
}

fn find<'a>(special: &'a [Special], name: &Option<String>) -> Option<&'a AddedToken> {
    special.iter().find(|each| each.name == *name).map(|each| &each.token)
}

/// Tokens to add, in order: those that the files list by id, then special ones that are neither among them nor among
/// `known`.
fn wanted(
    settings: &Settings,
    special: &[Special],
    known: &HashSet<String>,
    files: &Files,
) -> Result<Vec<AddedToken>, TextError> {
    let named: HashSet<&String> =
        special.iter().filter(|each| each.name.is_some()).map(|each| &each.token.content).collect();
    let mut tokens: Vec<AddedToken> = Vec::new();
    for (_, token, _) in &settings.added {
        let is_special = token.special || named.contains(&token.content);
        tokens.push(token.clone().special(is_special));
    }
    let mut seen: HashSet<&String> = settings.added.iter().map(|(_, token, _)| &token.content).collect();
    let mut own: Option<&Special> = None;
    for each in special {
        if known.contains(&each.token.content) || !seen.insert(&each.token.content) {
            continue;
        }
        // Names of the model's own stand in no order that JSON keeps, and the order would decide on the ids.
        if let (Some(name), false) = (&each.name, settings.is_common(each)) {
            if let Some(other) = own {
                let reason = format!(
                    "and `{}` are in no vocabulary, so that their ids are unknown; list both in added_tokens_decoder",
                    other.name.as_deref().unwrap_or_default()
                );
                return Err(invalid((files.path(each.file), name), reason));
            }
            own = Some(each);
        }
        tokens.push(each.token.clone());
    }
    Ok(tokens)
}

/// Refuses ids that are other ones than the files say: the model has been trained with one of the two.
fn check_ids(tokenizer: &Tokenizer, settings: &Settings, files: &Files) -> Result<(), TextError> {
    for (id, token, file) in &settings.added {
        let found = tokenizer.token_to_id(&token.content);
        if !token.content.is_empty() && found != Some(*id) {
            let found = found.map_or("none".to_owned(), |found| found.to_string());
            let reason = format!(
                "is the id of `{}`, but by tokenizer.json that token's id is {found}; the two files are of different \
                 tokenizers, so copy both from the model's repository",
                token.content
            );
            return Err(invalid((files.path(file), &id.to_string()), reason));
        }
    }
    Ok(())
}

/// Makes the post-processor anew: nothing but the wanted tokens around a text.
fn set_ends(
    tokenizer: &mut Tokenizer,
    ends: Ends,
    [bos, eos]: &[Option<AddedToken>; 2],
) -> tokenizers::Result<()> {
    let content = |wanted: bool, token: &Option<AddedToken>| -> Option<String> {
        token.as_ref().filter(|_| wanted).map(|token| token.content.clone())
    };
    let (bos, eos) = (content(ends.bos, bos), content(ends.eos, eos));
    let id = |token: &String| tokenizer.token_to_id(token).map(|id| (token.clone(), id));
    let special: Vec<(String, u32)> = [&bos, &eos].into_iter().flatten().filter_map(id).collect();
    let pieces: Vec<String> = [bos, Some("$A".to_owned()), eos].into_iter().flatten().collect();
    let template = TemplateProcessing::builder().try_single(pieces)?.special_tokens(special).build()?;
    tokenizer.with_post_processor(Some(template));
    Ok(())
}

/// Puts texts into lower case before whatever else is done to them.
fn put_into_lower_case(tokenizer: &mut Tokenizer) -> tokenizers::Result<()> {
    let mut normalizers: Vec<NormalizerWrapper> = match tokenizer.get_normalizer() {
        None => Vec::new(),
        Some(NormalizerWrapper::Sequence(sequence)) => sequence.as_ref().to_vec(),
        Some(other) => vec![other.clone()],
    };
    if !normalizers.iter().any(|each| matches!(each, NormalizerWrapper::Lowercase(_))) {
        normalizers.insert(0, NormalizerWrapper::Lowercase(Lowercase));
        tokenizer.with_normalizer(Some(Sequence::new(normalizers)))?;
    }
    Ok(())
}
