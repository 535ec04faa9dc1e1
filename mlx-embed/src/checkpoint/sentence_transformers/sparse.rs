//! The modules of a sparse encoder: the head of a masked language model, and SPLADE's pooling.

use std::path::Path;

use super::modules::Module;
use super::{MODULES, SETTINGS, transformer};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::json::{self, JsonObject};
use crate::checkpoint::spec::Splade;
use crate::file::Files;

/// What SpladePooling does; `None` without modules.json. Modules that are not a sparse encoder's are refused.
pub(super) fn pooling(files: &Files) -> Result<Option<Splade>, CheckpointError> {
    let Some(modules) = json::read::<Vec<Module>>(files, MODULES)? else { return Ok(None) };
    let refuse = |field: &str, reason: String| {
        Err(CheckpointError::InvalidField { path: files.path(MODULES), field: field.into(), reason })
    };
    let own = |module: &Module| {
        let class = module.class.strip_prefix("sentence_transformers.").unwrap_or_default();
        class.rsplit('.').next().unwrap_or_default().to_owned()
    };
    for (module, expected) in modules.iter().zip(["MLMTransformer", "SpladePooling"]) {
        // Version 6 has one class for all models, and says in its settings that it makes logits of masked tokens.
        let is_head = || expected == "MLMTransformer" && own(module) == "Transformer";
        if let Some(reason) = super::modules::of_several_models(&module.class) {
            return refuse("type", reason);
        }
        if own(module) != expected
            && !(is_head() && transformer::task(files)?.as_deref() == Some(transformer::FILL_MASK))
        {
            let reason = format!(
                "is `{}` where a sparse encoder has `{expected}`; a model with Transformer and Pooling gives one dense \
                 vector a text: load it with Embedder",
                module.class
            );
            return refuse("type", reason);
        }
    }
    let [_, pooling] = &modules[..] else {
        let count = modules.len();
        return refuse(
            "type",
            format!("stands {count} times; a sparse encoder has MLMTransformer and SpladePooling"),
        );
    };
    let Some(config) = JsonObject::open(files, Path::new(&pooling.path).join(SETTINGS))? else {
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
