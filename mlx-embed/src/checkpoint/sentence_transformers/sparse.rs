//! The modules of a sparse encoder: the head of a masked language model, and SPLADE's pooling.

use super::modules::{self, PACKAGE};
use super::{SETTINGS, transformer};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::spec::Splade;
use crate::file::Files;

/// What SpladePooling does; `None` without modules.json. Modules that are not a sparse encoder's are refused.
pub(super) fn pooling(files: &Files) -> Result<Option<Splade>, CheckpointError> {
    let Some(modules) = modules::read(files)? else { return Ok(None) };
    let refuse = |reason: String| Err(modules::refused(files, "type", reason));
    for (module, expected) in modules.iter().zip(["MLMTransformer", "SpladePooling"]) {
        // Version 6 has one class for all models, and says in its settings that it makes logits of masked tokens.
        let may_be_head = expected == "MLMTransformer" && module.is(PACKAGE, "Transformer");
        if let Some(reason) = modules::of_several_models(&module.class) {
            return refuse(reason);
        }
        let is_head = may_be_head && transformer::task(files)?.as_deref() == Some(transformer::FILL_MASK);
        if !is_head && !module.is(PACKAGE, expected) {
            let reason = format!(
                "is `{}` where a sparse encoder has `{expected}`; a model with Transformer and Pooling gives one dense \
                 vector a text: load it with Embedder",
                module.class
            );
            return refuse(reason);
        }
    }
    let [_, pooling] = &modules[..] else {
        let count = modules.len();
        return refuse(format!(
            "stands {count} times; a sparse encoder has MLMTransformer and SpladePooling"
        ));
    };
    let Some(config) = JsonObject::open(files, pooling.folder(files)?.join(SETTINGS))? else {
        return Ok(Some(Splade::default()));
    };
    let setting = |field: &str, known: &[&str]| {
        let value: Option<String> = config.optional(field)?;
        match value.filter(|value| !known.contains(&value.as_str())) {
            None => Ok(config.raw(field).and_then(serde_json::Value::as_str)),
            Some(value) => {
                let reason = format!("is `{value}`; supported is {}", known.join(" or "));
                Err(config.invalid(field, reason))
            }
        }
    };
    Ok(Some(Splade {
        logs_twice: setting("activation_function", &["relu", "log1p_relu"])? == Some("log1p_relu"),
        sums: setting("pooling_strategy", &["max", "sum"])? == Some("sum"),
    }))
}
