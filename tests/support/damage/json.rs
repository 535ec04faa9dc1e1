//! Changes to a JSON document that keep it a JSON document.

use arbitrary::{Arbitrary, Unstructured};
use serde_json::{Value, json};

/// Keys that the loaders look for, and values that mean something to them.
const WORDS: [&str; 64] = [
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "rope_type",
    "type",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
    "long_factor",
    "short_factor",
    "partial_rotary_factor",
    "rope_traditional",
    "sliding_window",
    "use_sliding_window",
    "layer_types",
    "sliding_attention",
    "eos_token_id",
    "hidden_act",
    "tie_word_embeddings",
    "quantization",
    "quantization_config",
    "group_size",
    "bits",
    "mode",
    "quant_method",
    "pooling_mode",
    "include_prompt",
    "prompts",
    "default_prompt_name",
    "max_seq_length",
    "query",
    "qwen2",
    "qwen3",
    "llama",
    "linear",
    "dynamic",
    "llama3",
    "yarn",
    "longrope",
    "mrope",
    "proportional",
    "affine",
    "mxfp4",
    "mxfp8",
    "nvfp4",
    "lasttoken",
    "mean",
    "cls",
];

/// One change, at some node of the document.
#[derive(Debug, Arbitrary)]
pub(super) struct Edit {
    node: u16,
    change: Change,
}

#[derive(Debug, Arbitrary)]
enum Change {
    /// A value of the fuzzer's in its place.
    Set(Leaf),
    /// What stands elsewhere in the document in its place.
    Copy(u16),
    /// A number that is a little larger or smaller.
    Nudge(i8),
    /// Takes a member or element out.
    Remove(u8),
    /// Puts a member or element in.
    Add(u8, Leaf),
    /// The value inside so many arrays.
    Wrap(u8),
}

#[derive(Debug, Arbitrary)]
enum Leaf {
    Null,
    Bool(bool),
    Small(u8),
    Integer(i64),
    Float(f32),
    /// Two to this power, give or take one.
    Power(u8, i8),
    Word(u8),
    Text(String),
    Numbers(Vec<i16>),
    Object(u8, u8),
}

impl Leaf {
    fn value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => json!(value),
            Self::Small(value) => json!(value),
            Self::Integer(value) => json!(value),
            Self::Float(value) => json!(value),
            Self::Power(exponent, off) => {
                json!((1_u64 << (exponent % 64)).wrapping_add_signed(i64::from(*off).signum()))
            }
            Self::Word(index) => json!(word(*index)),
            Self::Text(text) => json!(text),
            Self::Numbers(numbers) => json!(numbers),
            Self::Object(key, number) => json!({ word(*key): number }),
        }
    }
}

fn word(index: u8) -> &'static str {
    WORDS[usize::from(index) % WORDS.len()]
}

impl Edit {
    /// Makes the change. Nodes are counted round and round, so every edit hits one.
    pub(super) fn apply(&self, document: &mut Value) {
        let all = count(document);
        let copied = match self.change {
            Change::Copy(from) => nth(document, &mut (usize::from(from) % all)).map(|node| node.clone()),
            _ => None,
        };
        let Some(node) = nth(document, &mut (usize::from(self.node) % all)) else { return };
        match &self.change {
            Change::Set(leaf) => *node = leaf.value(),
            Change::Copy(_) => *node = copied.unwrap_or_default(),
            Change::Nudge(by) => {
                if let Some(number) = node.as_i64() {
                    *node = json!(number.wrapping_add(i64::from(*by)));
                } else if let Some(number) = node.as_f64() {
                    *node = json!(number * f64::from(*by));
                }
            }
            Change::Remove(which) => match node {
                Value::Array(list) if !list.is_empty() => {
                    list.remove(usize::from(*which) % list.len());
                }
                Value::Object(map) if !map.is_empty() => {
                    let key = map.keys().nth(usize::from(*which) % map.len()).cloned();
                    map.remove(&key.unwrap_or_default());
                }
                _ => {}
            },
            Change::Add(key, leaf) => match node {
                Value::Array(list) => list.push(leaf.value()),
                Value::Object(map) => {
                    map.insert(word(*key).to_owned(), leaf.value());
                }
                _ => {}
            },
            Change::Wrap(times) => {
                for _ in 0..*times {
                    *node = Value::Array(vec![node.take()]);
                }
            }
        }
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// Node `n`, parents before children; `n` becomes what is left to count.
fn nth<'a>(value: &'a mut Value, n: &mut usize) -> Option<&'a mut Value> {
    if *n == 0 {
        return Some(value);
    }
    *n -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|item| nth(item, n)),
        Value::Object(map) => map.values_mut().find_map(|item| nth(item, n)),
        _ => None,
    }
}

/// Up to `most` edits.
pub(super) fn edits(bytes: &mut Unstructured<'_>, most: usize) -> arbitrary::Result<Vec<Edit>> {
    bytes.arbitrary_iter()?.take(most).collect()
}
