//! The files that sentence-transformers puts beside a model: pooling, normalisation, prompts, input length.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::CheckpointError;
use super::json::{self, JsonObject};
use crate::file::Files;
use crate::pooling::Pooling;

/// What a checkpoint's sentence-transformers files say.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SentenceTransformers {
    /// How hidden states become one vector; `None` where no file says so.
    pub pooling: Option<Pooling>,
    /// Whether vectors are scaled to length 1; `None` where no file says so.
    pub normalize: Option<bool>,
    /// Prompts by name, each put before the text as it is.
    pub prompts: BTreeMap<String, String>,
    /// The prompt that texts get when the caller names none.
    pub default_prompt_name: Option<String>,
    /// Longest input in tokens.
    pub max_seq_length: Option<usize>,
}

const MODULES: &str = "modules.json";

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl SentenceTransformers {
    pub(super) fn read(files: &Files) -> Result<Self, CheckpointError> {
        let mut all = Self::default();
        if let Some(modules) = json::read::<Vec<Module>>(files, MODULES)? {
            all.read_modules(files, &modules)?;
        } else {
            // Some conversions keep the pooling's folder and lose modules.json.
            all.pooling = pooling(files, Path::new("1_Pooling/config.json"))?;
        }
        if let Some(config) = JsonObject::open(files, "config_sentence_transformers.json")? {
            all.prompts = config.optional("prompts")?.unwrap_or_default();
            all.default_prompt_name = config.optional("default_prompt_name")?;
            if let Some(name) = &all.default_prompt_name
                && !all.prompts.contains_key(name)
            {
                return Err(config
                    .invalid("default_prompt_name", format!("is `{name}`, which `prompts` does not hold")));
            }
        }
        if let Some(config) = JsonObject::open(files, "sentence_bert_config.json")? {
            all.max_seq_length = config.optional("max_seq_length")?;
            if all.max_seq_length == Some(0) {
                return Err(config.invalid("max_seq_length", "is 0"));
            }
        }
        Ok(all)
    }

    fn read_modules(&mut self, files: &Files, modules: &[Module]) -> Result<(), CheckpointError> {
        self.normalize = Some(false);
        for module in modules {
            // Full Python paths, whose packages moved between versions; the class is what counts.
            match module.kind.rsplit('.').next() {
                Some("Transformer") => {}
                Some("Pooling") => {
                    let config = Path::new(&module.path).join("config.json");
                    self.pooling =
                        Some(pooling(files, &config)?.ok_or_else(|| CheckpointError::MissingFile {
                            path: files.path(&config),
                            hint: "modules.json names it as the pooling's settings",
                        })?);
                }
                Some("Normalize") => self.normalize = Some(true),
                _ => {
                    return Err(CheckpointError::InvalidField {
                        path: files.path(MODULES),
                        field: "type".into(),
                        reason: format!(
                            "is `{}`; supported are Transformer, Pooling and Normalize, and leaving a module out would change the vectors",
                            module.kind
                        ),
                    });
                }
            }
        }
        Ok(())
    }
}

fn pooling(files: &Files, name: &Path) -> Result<Option<Pooling>, CheckpointError> {
    let Some(config) = JsonObject::open(files, name)? else {
        return Ok(None);
    };
    if config.optional::<bool>("include_prompt")? == Some(false) {
        return Err(config
            .invalid("include_prompt", "is false; pooling without the prompt's tokens is not supported"));
    }
    // Older files turn modes on one by one, newer ones name it.
    if let Some(mode) = config.optional::<String>("pooling_mode")? {
        return match mode.as_str() {
            "lasttoken" => Ok(Some(Pooling::LastToken)),
            "mean" => Ok(Some(Pooling::Mean)),
            "cls" => Ok(Some(Pooling::Cls)),
            _ => {
                Err(config
                    .invalid("pooling_mode", format!("is `{mode}`; supported are lasttoken, mean and cls")))
            }
        };
    }
    let mut on = Vec::new();
    for (field, value) in config.entries() {
        if field.starts_with("pooling_mode_") && value.as_bool() == Some(true) {
            on.push(field.as_str());
        }
    }
    match on.as_slice() {
        ["pooling_mode_lasttoken"] => Ok(Some(Pooling::LastToken)),
        ["pooling_mode_mean_tokens"] => Ok(Some(Pooling::Mean)),
        ["pooling_mode_cls_token"] => Ok(Some(Pooling::Cls)),
        _ => Err(config.invalid(
            "pooling_mode_*",
            format!("turns on {on:?}; exactly one of lasttoken, mean_tokens and cls_token is supported"),
        )),
    }
}
