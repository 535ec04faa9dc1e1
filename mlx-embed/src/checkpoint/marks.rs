//! Marks that a folder holds another model than its `model_type` says.

use serde_json::Value;

use super::doubt::Doubt;
use super::json::JsonObject;
use super::{Architecture, CheckpointError};
use crate::file::Files;

/// What says that the weights are computed with in another way.
pub(super) fn of_another_model(files: &Files, config: &JsonObject) -> Result<Vec<Doubt>, CheckpointError> {
    let architecture = Architecture::read(config)?;
    let mut doubts = Vec::new();
    let mut doubt = |field: String, reason: String| {
        doubts.push(Doubt::field(config.path().to_owned(), field, reason));
    };
    for class in classes(config)? {
        let base = architecture.class();
        if class != format!("{base}Model") && class != format!("{base}ForCausalLM") {
            doubt(
                "architectures".into(),
                format!(
                    "names `{class}`; supported with this model_type are {base}Model and {base}ForCausalLM"
                ),
            );
        }
    }
    if let Some(auto_map) = config.object("auto_map")? {
        for (key, value) in auto_map.entries() {
            // What reads texts is the tokenizer's affair; see `text/`.
            let is_model = key.starts_with("AutoModel") || key == "AutoConfig";
            if is_model && !is_gte_qwen2(config, architecture)? {
                let code = value.as_str().unwrap_or("code");
                doubt(
                    format!("auto_map.{key}"),
                    format!(
                        "names {code}, code that comes with the checkpoint and may compute something else; if it is a plain {}, remove auto_map",
                        architecture.class()
                    ),
                );
            }
        }
    }
    if let Some(file) = config.raw("model_file") {
        doubt(
            "model_file".into(),
            format!("names {file}, code that comes with the checkpoint and may compute something else"),
        );
    }
    let adapter = "adapter_config.json";
    if let Some(adapter_config) = JsonObject::open(files, adapter)? {
        let kind = adapter_config.raw("peft_type").and_then(Value::as_str).unwrap_or("LoRA");
        doubts.push(Doubt::field(
            files.path(adapter),
            "peft_type",
            format!("describes an adapter ({kind}) beside the weights; merge it into them (merge_and_unload of peft, or mlx_lm.fuse) and remove this file, or remove it if they are merged"),
        ));
    }
    Ok(doubts)
}

/// Alibaba's gte-Qwen2: code that is Qwen2 without the causal mask, and the only place where its config says so.
pub(super) fn is_gte_qwen2(config: &JsonObject, architecture: Architecture) -> Result<bool, CheckpointError> {
    let Some(auto_map) = config.object("auto_map")? else { return Ok(false) };
    let class = auto_map.raw("AutoModel").and_then(Value::as_str).unwrap_or_default();
    // Before `--` there may be the repository that the code is in.
    let class = class.rsplit("--").next().unwrap_or(class);
    Ok(architecture == Architecture::Qwen2 && class == "modeling_qwen.Qwen2Model")
}

/// `architectures`: a list, or as in some configs one name.
fn classes(config: &JsonObject) -> Result<Vec<String>, CheckpointError> {
    match config.raw("architectures") {
        Some(Value::String(class)) => Ok(vec![class.clone()]),
        _ => Ok(config.optional("architectures")?.unwrap_or_default()),
    }
}
