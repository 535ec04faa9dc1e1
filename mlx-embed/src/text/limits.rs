//! What a `tokenizer.json` may ask for, looked at before any of it is built.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::certain::matches_something;

/// Bytes of the whole file: twice what the largest vocabularies take.
pub(super) const FILE_BYTES: u64 = 64 << 20;

/// Bytes of the parts that are not tables of tokens. A normaliser may hold a table of characters of half a megabyte.
const NORMALIZER_BYTES: usize = 4 << 20;
const PRE_TOKENIZER_BYTES: usize = 256 << 10;
const POST_PROCESSOR_BYTES: usize = 64 << 10;
const DECODER_BYTES: usize = 64 << 10;
const ADDED_TOKENS_BYTES: usize = 16 << 20;

/// How many times its length a text may have after all replacements. Those in use make three of one at most.
const MOST_GROWTH: usize = 256;

/// How many times its length a table of characters may make of a text.
const TABLE_GROWTH: usize = 4;

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
    let parse = |part: Option<&RawValue>| -> Result<Value, String> {
        part.map_or(Ok(Value::Null), |part| {
            serde_json::from_str(part.get()).map_err(|error| error.to_string())
        })
    };
    for (name, part) in [("normalizer", parts.normalizer), ("pre_tokenizer", parts.pre_tokenizer)] {
        let growth = growth(&parse(part)?)?;
        if growth > MOST_GROWTH {
            return Err(format!(
                "`{name}` may make {growth} bytes of one, but at most {MOST_GROWTH} are allowed; are its replacements \
                 doubled?"
            ));
        }
    }
    check_templates(&parse(parts.post_processor)?)
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
        Some("Precompiled") => TABLE_GROWTH,
        Some("ByteLevel") => 2,
        _ => 1,
    })
}

/// A text's content stands in its template once.
fn check_templates(processor: &Value) -> Result<(), String> {
    if let Some(parts) = processor.get("processors").and_then(Value::as_array) {
        return parts.iter().try_for_each(check_templates);
    }
    let pieces = processor.get("single").and_then(Value::as_array);
    let times = pieces.map_or(0, |pieces| {
        pieces.iter().filter(|piece| piece.get("Sequence").is_some() || piece.is_string()).count()
    });
    if times > 1 {
        return Err(format!("`post_processor` has a text's content {times} times; it must have it once"));
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
        let bytes = json!({ "type": "ByteLevel", "use_regex": false });
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
        let processor = json!({ "type": "TemplateProcessing", "single": vec![piece; 1000] });
        let sequence = json!({ "type": "Sequence", "processors": [processor] });
        assert!(refusal(&json!({ "post_processor": sequence })).contains("1000 times"));
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
