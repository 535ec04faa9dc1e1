//! How sentence-transformers 6 writes it: limits and filling in the Transformer's settings, skip lists in those of
//! MultiVectorMask. Markers are part of the prompts there, and read with the text.

use super::{Expansion, LateInteraction, PYLATE, PYLATE_FILE, SideSpec};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::sentence_transformers;
use crate::file::Files;

/// What PyLate writes elsewhere, and sentence-transformers then takes for a model of PyLate's.
const OF_PYLATE: [&str; 4] =
    ["do_query_expansion", "query_expansion", "skiplist_words", "attend_to_mask_tokens"];

pub(super) fn read(files: &Files) -> Result<LateInteraction, CheckpointError> {
    refuse_pylates(files)?;
    let (file, transformer) = match sentence_transformers::transformer_settings(files)? {
        Some((file, transformer)) => (file, Some(transformer)),
        None => (sentence_transformers::TRANSFORMER_FILE, None),
    };
    let mask = sentence_transformers::mask_settings(files)?;
    let [query_length, document_length] = match &transformer {
        Some(transformer) => [length(transformer, "query_length")?, length(transformer, "document_length")?],
        None => [None, None],
    };
    let expansion =
        transformer.as_ref().map(|settings| settings.object("query_expansion")).transpose()?.flatten();
    let expansion = expansion.map(|settings| expansion_of(&settings)).transpose()?;
    if let Some(transformer) = &transformer {
        let limited = query_length.is_some() || document_length.is_some() || expansion.is_some();
        check(transformer, limited, query_length, expansion.as_ref().map(|expansion| expansion.length))?;
        if expansion.is_some() && mask.is_none() {
            let reason = "is set, but modules.json has no MultiVectorMask, which gives these tokens their vectors; add one";
            return Err(transformer.invalid("query_expansion", reason));
        }
    }
    let (query_skips, document_skips) = match &mask {
        Some(mask) => skiplists(mask)?,
        None => Default::default(),
    };
    // What is always filled up is cut to the same length.
    let longest = match &expansion {
        Some(expansion) if expansion.by_padding => Some(expansion.length),
        _ => query_length,
    };
    let side = |longest, skiplist, longest_field| SideSpec {
        marker: None,
        longest,
        skiplist,
        file,
        marker_field: "",
        longest_field,
    };
    let query_field = if expansion.is_some() { "query_expansion.length" } else { "query_length" };
    Ok(LateInteraction {
        query: side(longest, query_skips, query_field),
        document: side(document_length, document_skips, "document_length"),
        expansion,
        first: 0,
    })
}

/// Refuses PyLate's settings in the file where they have a meaning in this layout too, but another one.
fn refuse_pylates(files: &Files) -> Result<(), CheckpointError> {
    let Some(config) = JsonObject::open(files, PYLATE_FILE)? else { return Ok(()) };
    let fields = PYLATE.markers.iter().flat_map(|&(marker, _)| [marker]);
    let fields = fields.chain(PYLATE.longest);
    let mut fields = fields.chain([PYLATE.seen]).chain(OF_PYLATE);
    match fields.find(|field| config.has(field)) {
        None => Ok(()),
        Some(field) => Err(config.invalid(
            field,
            "is a setting of PyLate's; a MultiVectorEncoder has its own in sentence_bert_config.json and in \
             MultiVectorMask's folder: save the model again with sentence-transformers 6, or remove it",
        )),
    }
}

/// Refuses limits that contradict each other.
fn check(
    transformer: &JsonObject,
    limited: bool,
    query_length: Option<usize>,
    filled: Option<usize>,
) -> Result<(), CheckpointError> {
    if let (Some(most), Some(filled)) = (query_length, filled)
        && most < filled
    {
        let reason = format!("is {most}, but query_expansion fills queries up to {filled} tokens");
        return Err(transformer.invalid("query_length", reason));
    }
    let Some(kwargs) = transformer.object("processing_kwargs")? else { return Ok(()) };
    for part in ["text", "common"] {
        if let Some(part) = kwargs.object(part)?.filter(|part| limited && part.raw("max_length").is_some()) {
            let reason = "stands beside query_length, document_length or query_expansion, which say the same; remove it";
            return Err(part.invalid("max_length", reason));
        }
    }
    Ok(())
}

fn length(settings: &JsonObject, field: &str) -> Result<Option<usize>, CheckpointError> {
    match settings.optional(field)? {
        Some(0) => Err(settings.invalid(field, "is 0; it must be at least 1")),
        length => Ok(length),
    }
}

/// Whether all queries get the same length, or only those that are shorter.
fn is_fixed(expansion: &JsonObject) -> Result<bool, CheckpointError> {
    let strategy: String = expansion.required("strategy")?;
    match strategy.as_str() {
        "fixed" => Ok(true),
        "min" => Ok(false),
        _ => Err(expansion.invalid("strategy", format!("is `{strategy}`; it must be `fixed` or `min`"))),
    }
}

fn expansion_of(settings: &JsonObject) -> Result<Expansion, CheckpointError> {
    if let Some((field, value)) = settings
        .entries()
        .find(|(field, _)| !["strategy", "attend", "token", "length"].contains(&field.as_str()))
    {
        return Err(settings.invalid(field, format!("is {value}, which this crate does not know")));
    }
    let length = match length(settings, "length")? {
        Some(length) => length,
        None => settings.required("length")?,
    };
    let seen = settings.optional("attend")?.unwrap_or(false);
    Ok(Expansion { length, token: settings.optional("token")?, seen, by_padding: is_fixed(settings)? })
}

/// Words whose tokens have no vector, of queries and of documents.
fn skiplists(mask: &JsonObject) -> Result<(Vec<String>, Vec<String>), CheckpointError> {
    if mask.raw("keep_only_token_ids").is_some_and(|ids| *ids != serde_json::Value::Array(Vec::new())) {
        let reason =
            "leaves vectors of these tokens alone, an image's; only texts are supported, where it is null";
        return Err(mask.invalid("keep_only_token_ids", reason));
    }
    let words: Vec<String> = mask.optional("skiplist_words")?.unwrap_or_default();
    let tasks: Vec<String> = match mask.raw("skiplist_tasks") {
        Some(serde_json::Value::String(task)) => vec![task.clone()],
        Some(_) => mask.required("skiplist_tasks")?,
        None => vec!["document".into()],
    };
    let of = |task: &str| if tasks.iter().any(|each| each == task) { words.clone() } else { Vec::new() };
    Ok((of("query"), of("document")))
}
