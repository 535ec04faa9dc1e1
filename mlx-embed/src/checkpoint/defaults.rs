//! What config.json may lack, as transformers has it: `defaults.json` is the table of it.

use serde_json::{Map, Value};

use super::files::TensorFiles;
use super::json::JsonObject;
use super::spec::ModelSpec;
use super::{Architecture, CheckpointError};

/// The config with values for keys that are missing.
pub(super) fn add(config: JsonObject) -> Result<JsonObject, CheckpointError> {
    let kind = match Architecture::read(&config)? {
        // Whose classes derive from these.
        Architecture::LlamaBidirectional => "llama".to_owned(),
        Architecture::PplxQwen3 => "qwen3".to_owned(),
        _ => config.required("model_type")?,
    };
    let mut all: Map<String, Value> = serde_json::from_str(include_str!("defaults.json")).unwrap_or_default();
    let mut defaults = match all.remove(&kind) {
        Some(Value::Object(defaults)) => defaults,
        _ => Map::new(),
    };
    // nomic-bert's own code has others, and other names.
    if ["n_embd", "n_layer", "n_head"].iter().any(|own| config.has(own)) && kind == "nomic_bert" {
        defaults.clear();
    }
    // Under its other names a key is not missing.
    for (key, own) in
        [("hidden_size", "dim"), ("num_hidden_layers", "n_layers"), ("num_attention_heads", "n_heads")]
    {
        if config.has(own) {
            defaults.remove(key);
        }
    }
    Ok(config.with_defaults(defaults))
}

/// Refuses values that stand in for missing keys where the weights are of other sizes.
pub(super) fn hold(
    config: &JsonObject,
    weights: &TensorFiles,
    spec: &ModelSpec,
) -> Result<(), CheckpointError> {
    let Some((field, _)) = config.missing().next() else { return Ok(()) };
    let other = spec.matrices_with_rows().find_map(|(path, rows, width)| {
        // Packed ones are wider than they look.
        let is_packed = weights.tensors.contains_key(&format!("{path}.scales"));
        let name = format!("{path}.weight");
        match weights.tensors.get(&name) {
            None => Some(format!("there is no {name}")),
            Some(entry)
                if entry.shape == [rows, width] || is_packed && entry.shape.first() == Some(&rows) =>
            {
                None
            }
            Some(entry) => Some(format!("{name} has the shape {:?}", entry.shape)),
        }
    });
    let Some(other) = other else { return Ok(()) };
    let missing: Vec<String> = config.missing().map(|(field, value)| format!("{field} {value}")).collect();
    let reason = format!(
        "is missing. transformers takes {} where the file says nothing, but {other}; write the model's own numbers there",
        missing.join(", ")
    );
    Err(config.invalid(field, reason))
}
