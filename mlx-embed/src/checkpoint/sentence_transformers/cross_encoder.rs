//! What these files say of a reranker, a `CrossEncoder` of sentence-transformers.

use super::modules::{self, Module, PACKAGE};
use super::transformer::Calls;
use super::{MODULES, SCORES, SETTINGS, SentenceTransformers};
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::modules::{Input, ModuleSpec};
use crate::checkpoint::{Architecture, CheckpointError, DenseActivation, Purpose};
use crate::file::Files;

/// What a reranker's files say beside those of [`SentenceTransformers`].
#[derive(Debug, Default)]
pub(crate) struct CrossEncoder {
    /// The activation of the logit, where a file of these says it.
    pub(crate) activation: Option<DenseActivation>,
    /// Ids of the tokens whose logits count: that of the wrong answer if there is one, then that of the right one.
    pub(crate) answers: Option<Vec<u32>>,
    /// Whether pairs are put into the chat template; `None` where no file says so.
    pub(crate) messages: Option<bool>,
}

impl SentenceTransformers {
    /// Prompts and limits as of any model, and what is a reranker's own, where sentence-transformers reads them.
    pub(in crate::checkpoint) fn read_reranker(
        files: &Files,
    ) -> Result<(Self, CrossEncoder), CheckpointError> {
        let (mut all, mut own) = (Self::default(), CrossEncoder::default());
        all.normalize = Some(false);
        own.read_modules(files)?;
        super::of_kind(files, SCORES)?;
        if !super::reads_rerankers_files(files)? {
            if own.answers.is_some() {
                return Err(CheckpointError::InvalidField {
                    path: files.path(super::FILE),
                    field: "model_type".into(),
                    reason: format!(
                        "is missing, without which sentence-transformers passes over the LogitScore of {MODULES}; write \
                         `{SCORES}`"
                    ),
                });
            }
            return Ok((all, own));
        }
        own.activation = all.read_settings(files)?;
        own.messages = all.read_transformer(files, Calls::SCORES)?;
        Ok((all, own))
    }

    /// The same of a reranker whose score is made by modules; see [`scores_by_modules`].
    pub(in crate::checkpoint) fn read_reranker_of_modules(
        files: &Files,
        architecture: Architecture,
    ) -> Result<(Self, CrossEncoder), CheckpointError> {
        let (mut all, mut own) = (Self::default(), CrossEncoder::default());
        all.read_modules(files, architecture, &[], Input::Scored)?;
        let refuse = |file: &str, field: &str, reason: String| {
            Err(CheckpointError::InvalidField { path: files.path(file), field: field.into(), reason })
        };
        match all.behind.last() {
            Some(ModuleSpec::Dense { outputs: 1, .. }) => {}
            Some(ModuleSpec::Dense { at, outputs, .. }) => {
                let reason =
                    format!("is {outputs}; a reranker has one label, and of several none is a score");
                return refuse(&format!("{at}/{SETTINGS}"), "out_features", reason);
            }
            _ => {
                return refuse(
                    MODULES,
                    "type",
                    "ends without the Dense that makes a reranker's score".into(),
                );
            }
        }
        if architecture.is_decoder() {
            let reason = "names Pooling behind a causal decoder; such a reranker is not supported".into();
            return refuse(MODULES, "type", reason);
        }
        if let (false, Some(file)) = (all.include_prompt, &all.pooling_file) {
            return refuse(file, "include_prompt", "is false, which is not supported in a reranker".into());
        }
        own.activation = all.read_settings(files)?;
        all.read_transformer(files, Calls::VECTORS)?;
        Ok((all, own))
    }

    /// Prompts, and the activation of the logit.
    fn read_settings(&mut self, files: &Files) -> Result<Option<DenseActivation>, CheckpointError> {
        match self.read_prompts(files, SCORES)? {
            Some(config) => DenseActivation::named(&config, "activation_fn"),
            None => Ok(None),
        }
    }
}

/// Whether it is a reranker whose score is made by modules behind a model as an embedder has it: Pooling, and at last a
/// Dense. sentence-transformers trains such rerankers since version 5.4.
pub(in crate::checkpoint) fn scores_by_modules(files: &Files) -> Result<bool, CheckpointError> {
    let modules = modules::read(files)?.unwrap_or_default();
    Ok(modules.iter().any(|module| module.is(PACKAGE, "Pooling")) && super::says(files, Purpose::Scores)?)
}

impl CrossEncoder {
    /// `modules.json`: a Transformer, and behind one that makes logits of all tokens a LogitScore.
    fn read_modules(&mut self, files: &Files) -> Result<(), CheckpointError> {
        let Some(modules) = modules::read(files)? else { return Ok(()) };
        let is = |module: &Module, name: &str| module.is(PACKAGE, name);
        match &modules[..] {
            [transformer] if is(transformer, "Transformer") => Ok(()),
            [transformer, score] if is(transformer, "Transformer") && is(score, "LogitScore") => {
                self.read_answers(&score.settings(files, "modules.json names it as LogitScore's settings")?)
            }
            modules => {
                let classes: Vec<&str> = modules.iter().map(|module| module.class.as_str()).collect();
                let embeds = modules.iter().any(|module| is(module, "Pooling"));
                let what =
                    if embeds { ", as of an embedder, which `Embedder` loads (mlx-embed embed)" } else { "" };
                let reason = format!(
                    "names {}{what}; a reranker that can be run has one Transformer, and behind it LogitScore at most",
                    classes.join(", ")
                );
                Err(modules::refused(files, "type", reason))
            }
        }
    }

    /// The settings of LogitScore.
    fn read_answers(&mut self, config: &JsonObject) -> Result<(), CheckpointError> {
        if let Some(name) = config.optional::<String>("module_input_name")?
            && name != "causal_logits"
        {
            let reason =
                format!("is `{name}`; only the logits of the last token, `causal_logits`, make a score");
            return Err(config.invalid("module_input_name", reason));
        }
        let wrong: Option<u32> = config.optional("false_token_id")?;
        self.answers = Some(wrong.into_iter().chain([config.required("true_token_id")?]).collect());
        Ok(())
    }
}
