//! What a `tokenizer.json` may ask for, looked at before any of it is built.

use std::fmt;

use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::{NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use super::certain::matches_something;
use super::charsmap::longest_replacement;
use super::guarded::guarded;

/// Bytes of the whole file: twice what the largest vocabularies take.
pub(super) const FILE_BYTES: u64 = 64 << 20;

/// Bytes of the parts that are not tables of tokens. A normaliser may hold a table of characters of half a megabyte.
const NORMALIZER_BYTES: usize = 4 << 20;
const PRE_TOKENIZER_BYTES: usize = 256 << 10;
const POST_PROCESSOR_BYTES: usize = 64 << 10;
const DECODER_BYTES: usize = 64 << 10;
const ADDED_TOKENS_BYTES: usize = 16 << 20;

/// Entries of a vocabulary, and of its merges. The largest vocabulary in use has 902,000.
pub(super) const MOST_ENTRIES: usize = 1 << 20;

/// Values in an entry of a table, with those in them. An added token has seven.
const MOST_VALUES: usize = 16;

/// Entries of what a model has beside its tables.
const MOST_OTHERS: usize = 64;

/// Tokens beside the vocabulary. Those in use are 6,400 at most.
pub(super) const MOST_ADDED: usize = 1 << 16;

/// How many times its length a text may have after all replacements. Those in use make three of one, and their tables of
/// characters 33.
const MOST_GROWTH: usize = 256;

/// Tokens that may be put around a text. Those in use put two or three.
const MOST_TEMPLATE_IDS: usize = 1024;

/// Bytes that may be put before a text.
const PREPENDED_BYTES: usize = 1024;

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow)]
    decoder: Option<&'a RawValue>,
    #[serde(borrow)]
    added_tokens: Option<&'a RawValue>,
    model: Option<ModelParts>,
}

/// The tables of a model, and all of its other fields together.
#[derive(Default)]
struct ModelParts {
    vocab: Size,
    merges: Size,
    others: Size,
    /// What stands before parts of a word behind its first one, if anything does.
    prefix: Option<String>,
}

impl<'de> Deserialize<'de> for ModelParts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;

        impl<'de> Visitor<'de> for Parts {
            type Value = ModelParts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<ModelParts, A::Error> {
                let mut parts = ModelParts::default();
                while let Some(name) = object.next_key::<String>()? {
                    if name == "continuing_subword_prefix" {
                        let prefix: Option<String> = object.next_value()?;
                        parts.others.add(&Size::default());
                        parts.prefix = prefix.filter(|prefix| !prefix.is_empty()).or(parts.prefix);
                        continue;
                    }
                    let part = match name.as_str() {
                        "vocab" => &mut parts.vocab,
                        "merges" => &mut parts.merges,
                        _ => &mut parts.others,
                    };
                    part.add(&object.next_value::<Size>()?);
                }
                Ok(parts)
            }
        }

        deserializer.deserialize_map(Parts)
    }
}

/// How large a part of a file is; nothing of it is kept.
#[derive(Debug, Default, Clone, Copy)]
struct Size {
    /// Entries of the list or object that it is.
    entries: usize,
    /// Values in it, however deep.
    values: usize,
}

impl Size {
    fn add(&mut self, other: &Self) {
        self.entries += other.entries;
        self.values += 1 + other.values;
    }

    fn enter(&mut self, entry: &Self) {
        self.entries += 1;
        self.values += 1 + entry.values;
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counts;

        /// What is no list and no object.
        macro_rules! single {
            ($($visit:ident($($value:ty)?))*) => {$(
                fn $visit<E>(self $(, _: $value)?) -> Result<Size, E> {
                    Ok(Size::default())
                }
            )*};
        }

        impl<'de> Visitor<'de> for Counts {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            single!(visit_unit() visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64) visit_str(&str));

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Size, A::Error> {
                let mut size = Size::default();
                while let Some(entry) = list.next_element()? {
                    size.enter(&entry);
                }
                Ok(size)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Size, A::Error> {
                let mut size = Size::default();
                while let Some((_, entry)) = object.next_entry::<IgnoredAny, Size>()? {
                    size.enter(&entry);
                }
                Ok(size)
            }
        }

        deserializer.deserialize_any(Counts)
    }
}

/// Refuses what would take memory or time out of all proportion, of the file or of a text.
pub(super) fn check(json: &[u8]) -> Result<(), String> {
    let parts: Parts<'_> = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let sizes = [
        ("normalizer", parts.normalizer, NORMALIZER_BYTES),
        ("pre_tokenizer", parts.pre_tokenizer, PRE_TOKENIZER_BYTES),
        ("post_processor", parts.post_processor, POST_PROCESSOR_BYTES),
        ("decoder", parts.decoder, DECODER_BYTES),
        ("added_tokens", parts.added_tokens, ADDED_TOKENS_BYTES),
    ];
    for (name, part, most) in sizes {
        if let Some(part) = part.filter(|part| part.get().len() > most) {
            let bytes = part.get().len();
            return Err(format!("`{name}` has {bytes} bytes, but at most {most} are read"));
        }
    }
    let added = parts.added_tokens.map(|added| serde_json::from_str::<Size>(added.get()));
    let added = added.transpose().map_err(|error| format!("`added_tokens`: {error}"))?.unwrap_or_default();
    let model = parts.model.unwrap_or_default();
    for (name, size, most) in [
        ("model.vocab", model.vocab, MOST_ENTRIES),
        ("model.merges", model.merges, MOST_ENTRIES),
        ("model", model.others, MOST_OTHERS),
        ("added_tokens", added, MOST_ADDED),
    ] {
        if size.entries > most || size.values > most.saturating_mul(MOST_VALUES) {
            let Size { entries, values } = size;
            return Err(format!(
                "`{name}` has {entries} entries with {values} values, but at most {most} are read"
            ));
        }
    }
    if let Some(prefix) = &model.prefix {
        check_merges(json, prefix)?;
    }
    check_tables(&value(parts.normalizer)?)?;
    let normalizer = understood::<NormalizerWrapper>(parts.normalizer);
    let pre_tokenizer = understood::<PreTokenizerWrapper>(parts.pre_tokenizer);
    for (name, part) in [("normalizer", normalizer), ("pre_tokenizer", pre_tokenizer)] {
        let growth = growth(&part)?;
        if growth > MOST_GROWTH {
            return Err(format!(
                "`{name}` may make {growth} bytes of one, but at most {MOST_GROWTH} are allowed; are its replacements \
                 doubled?"
            ));
        }
    }
    check_templates(&understood::<PostProcessorWrapper>(parts.post_processor))
}

fn value(part: Option<&RawValue>) -> Result<Value, String> {
    part.map_or(Ok(Value::Null), |part| serde_json::from_str(part.get()).map_err(|error| error.to_string()))
}

/// A part as the library takes it: each of its parts with a type, and no field that belongs to another. What the library
/// doesn't take is nothing, and an error where it is built.
fn understood<T: DeserializeOwned + Serialize>(part: Option<&RawValue>) -> Value {
    let Some(part) = part else { return Value::Null };
    guarded(|| Ok(serde_json::to_value(serde_json::from_str::<T>(part.get())?)?)).unwrap_or(Value::Null)
}

/// Looks at each table of characters before the library takes memory for it. The library also reads lists in place of
/// objects; nobody writes them.
fn check_tables(normalizer: &Value) -> Result<(), String> {
    let list = || Err("`normalizer` has a list where an object belongs".to_owned());
    match normalizer {
        Value::Array(_) => list(),
        Value::Object(fields) => fields.iter().try_for_each(|(name, field)| match (name.as_str(), field) {
            ("precompiled_charsmap", Value::String(table)) => longest_replacement(table).map(drop),
            ("normalizers", Value::Array(parts)) => parts.iter().try_for_each(check_tables),
            _ => check_tables(field),
        }),
        _ => Ok(()),
    }
}

/// How many bytes normalisers or pre-tokenizers may make of one.
fn growth(part: &Value) -> Result<usize, String> {
    for list in ["normalizers", "pretokenizers"] {
        if let Some(parts) = part.get(list).and_then(Value::as_array) {
            return parts.iter().try_fold(1_usize, |all, part| Ok(all.saturating_mul(growth(part)?)));
        }
    }
    let text = |field: &str| part.get(field).and_then(Value::as_str);
    Ok(match part.get("type").and_then(Value::as_str) {
        Some("Replace") => {
            let content = text("content").unwrap_or_default().len();
            let pattern = |kind: &str| part.get("pattern").and_then(|pattern| pattern.get(kind)?.as_str());
            match (pattern("String"), pattern("Regex")) {
                (Some(text), _) => content.div_ceil(text.len().max(1)).max(1),
                (None, Some(pattern)) if matches_something(pattern) => content.max(1),
                // It may be put between any two bytes.
                _ => content.saturating_add(1),
            }
        }
        Some("Prepend") => {
            let bytes = text("prepend").unwrap_or_default().len();
            if bytes > PREPENDED_BYTES {
                return Err(format!(
                    "`normalizer` prepends {bytes} bytes, but at most {PREPENDED_BYTES} are allowed"
                ));
            }
            1
        }
        Some("Precompiled") => text("precompiled_charsmap").map_or(Ok(1), longest_replacement)?.max(1),
        Some("ByteLevel") => 2,
        _ => 1,
    })
}

/// The second token of a merge has the prefix. The library takes as many bytes from it as the prefix has, whatever they
/// are, and what is left for text.
fn check_merges(json: &[u8], prefix: &str) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Whole {
        model: Model,
    }

    #[derive(Deserialize)]
    struct Model {
        #[serde(default)]
        merges: Vec<Merge>,
    }

    /// As files have it now, and as they had it.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Merge {
        Pair((IgnoredAny, String)),
        Joined(String),
    }

    let whole: Whole = serde_json::from_slice(json).map_err(|error| format!("`model.merges`: {error}"))?;
    let second = |merge| match merge {
        Merge::Pair((_, second)) => second,
        Merge::Joined(both) => both.rsplit(' ').next().unwrap_or_default().to_owned(),
    };
    match whole.model.merges.into_iter().map(second).find(|second| !second.starts_with(prefix)) {
        None => Ok(()),
        Some(second) => Err(format!(
            "`model.merges` has {second:?} as the second part of a merge, which does not begin with \
             continuing_subword_prefix, {prefix:?}"
        )),
    }
}

/// A text's content stands in its template once, among few tokens.
fn check_templates(processor: &Value) -> Result<(), String> {
    if let Some(parts) = processor.get("processors").and_then(Value::as_array) {
        return parts.iter().try_for_each(check_templates);
    }
    let Some(pieces) = processor.get("single").and_then(Value::as_array) else { return Ok(()) };
    let times = pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count();
    if times > 1 {
        return Err(format!("`post_processor` has a text's content {times} times; it must have it once"));
    }
    let ids = |piece: &Value| {
        let name = piece.get("SpecialToken")?.get("id")?.as_str()?;
        Some(processor.get("special_tokens")?.get(name)?.get("ids")?.as_array()?.len())
    };
    let count: usize = pieces.iter().filter_map(ids).sum();
    if count > MOST_TEMPLATE_IDS {
        return Err(format!(
            "`post_processor` puts {count} tokens around a text, but at most {MOST_TEMPLATE_IDS} are allowed"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(tokenizer: &Value) -> String {
        check(&serde_json::to_vec(tokenizer).unwrap()).unwrap_err()
    }

    #[test]
    fn doubling_replacements_are_refused_in_every_form() {
        let replace = |pattern: Value, content: &str| json!({ "type": "Replace", "pattern": pattern, "content": content });
        let doubling = [
            replace(json!({ "String": "a" }), "aa"),
            replace(json!({ "Regex": "a" }), "aa"),
            replace(json!({ "Regex": "a*" }), "a"),
            json!({ "type": "ByteLevel" }),
            json!({ "type": "Sequence", "normalizers": [replace(json!({ "Regex": "." }), "ää")] }),
        ];
        for one in doubling {
            let sequence = json!({ "type": "Sequence", "normalizers": vec![one.clone(); 9] });
            assert!(refusal(&json!({ "normalizer": sequence })).contains("`normalizer` may make"), "{one}");
        }
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
        let stages = json!({ "type": "Sequence", "pretokenizers": vec![bytes; 9] });
        assert!(refusal(&json!({ "pre_tokenizer": stages })).contains("`pre_tokenizer` may make"));
        let before = json!({ "type": "Prepend", "prepend": "a".repeat(2000) });
        assert!(refusal(&json!({ "normalizer": before })).contains("prepends"));
    }

    #[test]
    fn millions_of_template_ids_are_refused_by_size() {
        let ids = vec![0; 3_000_000];
        let processor = json!({ "type": "TemplateProcessing", "special_tokens": { "x": { "ids": ids } } });
        assert!(refusal(&json!({ "post_processor": processor })).contains("`post_processor` has"));
    }

    #[test]
    fn content_that_is_repeated_is_refused() {
        let piece = json!({ "Sequence": { "id": "A", "type_id": 0 } });
        let processor = json!({ "type": "TemplateProcessing", "single": vec![piece; 1000], "pair": [], "special_tokens": {} });
        let sequence = json!({ "type": "Sequence", "processors": [processor] });
        assert!(refusal(&json!({ "post_processor": sequence })).contains("1000 times"));
    }

    #[test]
    fn merges_without_the_prefix_are_refused() {
        let of = |prefix: Value, merges: Value| {
            let model =
                json!({ "type": "BPE", "continuing_subword_prefix": prefix, "vocab": {}, "merges": merges });
            check(&serde_json::to_vec(&json!({ "model": model })).unwrap())
        };
        // The library would cut the last one through the middle of a letter.
        for merges in [json!([["a", "b"]]), json!(["a ##b", "a b"]), json!([["e", "é"]])] {
            assert!(of(json!("##"), merges.clone()).unwrap_err().contains("does not begin with"), "{merges}");
            assert_eq!(of(json!(""), merges.clone()), Ok(()));
            assert_eq!(of(Value::Null, merges), Ok(()));
        }
        for merges in [json!([["a", "##b"], ["##b", "##c"]]), json!(["a ##b"])] {
            assert_eq!(of(json!("##"), merges), Ok(()));
        }
    }

    #[test]
    fn tokenizers_in_use_are_not_refused() {
        let space = |kind: &str| json!({ "type": "Replace", "pattern": { kind: " " }, "content": "▁" });
        let many = vec![json!({ "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " }); 40];
        for normalizers in [
            json!([{ "type": "Precompiled", "precompiled_charsmap": "" }, space("Regex")]),
            json!([{ "type": "Prepend", "prepend": "▁" }, space("String")]),
            Value::Array(many),
        ] {
            let sequence = json!({ "type": "Sequence", "normalizers": normalizers });
            assert_eq!(check(&serde_json::to_vec(&json!({ "normalizer": sequence })).unwrap()), Ok(()));
        }
    }
}
