//! `sentence_bert_config.json`: how sentence-transformers calls the model and its tokenizer.

use serde_json::{Map, Value};

use super::SentenceTransformers;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::judge::Form;
use crate::file::Files;
use crate::json;

/// All names of the file, of which the first that is there counts. The old ones were the model's kind.
pub(in crate::checkpoint) const FILES: [&str; 7] = [
    FILE,
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// The file's name today.
pub(in crate::checkpoint) const FILE: &str = "sentence_bert_config.json";

/// What a Transformer makes logits of masked tokens for.
pub(super) const FILL_MASK: &str = "fill-mask";

/// How the model is loaded, with no say in what it computes: a pooler would make what nobody asks for.
const LOADING: [&str; 20] = [
    "add_pooling_layer",
    "attn_implementation",
    "backend",
    "cache_dir",
    "device_map",
    "dtype",
    "export",
    "force_download",
    "local_files_only",
    "low_cpu_mem_usage",
    "output_attentions",
    "provider",
    "proxies",
    "revision",
    "token",
    "torch_dtype",
    "trust_remote_code",
    "use_auth_token",
    "use_cache",
    "use_safetensors",
];

/// What a model may be asked for, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Calls {
    tasks: &'static [&'static str],
    /// What sentence-transformers calls the result, and transformers' model.
    outputs: &'static [&'static str],
    of_model: &'static str,
    /// Whether the chat template may have its part in it.
    messages: bool,
    /// Fields besides, which are read elsewhere.
    besides: &'static [&'static str],
    /// Whether what texts are padded with may have vectors of its own.
    fills_up: bool,
}

impl Calls {
    pub(super) const VECTORS: Self = Self {
        tasks: &["feature-extraction"],
        outputs: &["token_embeddings"],
        of_model: "last_hidden_state",
        messages: false,
        besides: &[],
        fills_up: false,
    };
    /// Of a model of late interaction, where the file says how queries and documents are read.
    pub(super) const TOKEN_VECTORS: Self = Self {
        besides: &["query_length", "document_length", "query_expansion"],
        fills_up: true,
        ..Self::VECTORS
    };
    pub(super) const LOGITS: Self = Self {
        tasks: &[FILL_MASK],
        outputs: &["token_embeddings"],
        of_model: "logits",
        messages: false,
        besides: &[],
        fills_up: false,
    };
    pub(super) const SCORES: Self = Self {
        tasks: &["sequence-classification", "text-generation"],
        outputs: &["scores", "causal_logits"],
        of_model: "logits",
        messages: true,
        besides: &[],
        fills_up: false,
    };
}

impl SentenceTransformers {
    /// Whether texts are put into the chat template, where the file says what the model takes.
    pub(super) fn read_transformer(
        &mut self,
        files: &Files,
        calls: Calls,
    ) -> Result<Option<bool>, CheckpointError> {
        match settings(files)? {
            Some((_, config)) => self.read_calls(files, &config, calls),
            None => Ok(None),
        }
    }

    fn read_calls(
        &mut self,
        files: &Files,
        config: &JsonObject,
        calls: Calls,
    ) -> Result<Option<bool>, CheckpointError> {
        let one_of = |names: &[&str], value: &Value| names.iter().any(|name| value == name);
        let mut messages = None;
        for (field, value) in config.entries().filter(|(_, value)| !value.is_null()) {
            match field.as_str() {
                // Version 5 has the names of the left.
                "max_seq_length" | "do_lower_case" | "tokenizer_args" | "processor_kwargs"
                | "unpad_inputs" | "backend" => {}
                "model_args" | "model_kwargs" => check_model(config, field)?,
                "config_args" | "config_kwargs" => check_config(files, config, field)?,
                "processing_kwargs" => self.limit = processing(config, calls)?,
                "transformer_task" if one_of(calls.tasks, value) => {}
                "module_output_name" if one_of(calls.outputs, value) => {}
                other if calls.besides.contains(&other) => {}
                "modality_config" => messages = modalities(config, calls)?,
                "tokenizer_name_or_path" => {
                    let reason = format!("is {value}; put that tokenizer's files here and remove the field");
                    return Err(config.invalid(field, reason));
                }
                _ => {
                    let reason =
                        format!("is {value}, which this crate does not do; remove it to load without");
                    return Err(config.invalid(field, reason));
                }
            }
        }
        self.do_lower_case = config.optional("do_lower_case")?.unwrap_or(false);
        // The old name wins, as it is what sentence-transformers takes in place of the new one.
        for field in ["tokenizer_args", "processor_kwargs"] {
            if let Some(settings) = config.optional(field)? {
                self.processor_kwargs = settings;
                self.processor_kwargs_at = (config.path().to_owned(), field);
                break;
            }
        }
        let limit = |value: Option<&Value>, field: &str| {
            let limit = value.filter(|value| !value.is_null()).map(json::token_limit);
            limit.transpose().map_err(|reason| config.invalid(field, reason))
        };
        let max_seq_length = limit(config.raw("max_seq_length"), "max_seq_length")?;
        self.max_seq_length = max_seq_length.flatten();
        let field = format!("{}.model_max_length", self.processor_kwargs_at.1);
        let model_max_length = limit(self.processor_kwargs.get("model_max_length"), &field)?;
        // As sentence-transformers has it: what calls are given, then what the tokenizer is given, of which
        // max_seq_length is a part unless it is there already.
        self.limit = self
            .limit
            .or(model_max_length.map(|limit| ("model_max_length of the tokenizer's arguments", limit)))
            .or(max_seq_length.map(|limit| ("max_seq_length", limit)));
        self.processor_kwargs.remove("model_max_length");
        Ok(messages)
    }
}

/// The first of the files that says anything, and its name.
pub(in crate::checkpoint) fn settings(
    files: &Files,
) -> Result<Option<(&'static str, JsonObject)>, CheckpointError> {
    for name in FILES {
        if let Some(config) = JsonObject::open(files, name)?.filter(|config| !config.is_empty()) {
            return Ok(Some((name, config)));
        }
    }
    Ok(None)
}

/// What the model is called for, where the file says so.
pub(super) fn task(files: &Files) -> Result<Option<String>, CheckpointError> {
    settings(files)?.map(|(_, config)| config.optional("transformer_task")).transpose().map(Option::flatten)
}

/// Refuses arguments of the model's class that may change what it computes.
fn check_model(config: &JsonObject, field: &str) -> Result<(), CheckpointError> {
    for (name, value) in arguments(config, field)? {
        if !LOADING.contains(&name.as_str()) {
            let reason =
                format!("is {value}, an argument of the model that this crate does not know; remove it");
            return Err(config.invalid(&format!("{field}.{name}"), reason));
        }
    }
    Ok(())
}

/// Refuses fields that go over those of config.json and differ from them.
fn check_config(files: &Files, config: &JsonObject, field: &str) -> Result<(), CheckpointError> {
    let model = JsonObject::open(files, "config.json")?;
    for (name, value) in arguments(config, field)? {
        let same = model.as_ref().and_then(|model| model.raw(&name)) == Some(&value);
        if !same && !LOADING.contains(&name.as_str()) {
            let reason = format!(
                "is {value}, which goes over config.json; write it there as `{name}` and remove it here, so that it \
                 is checked with the rest of the model"
            );
            return Err(config.invalid(&format!("{field}.{name}"), reason));
        }
    }
    Ok(())
}

/// A reranker's settings of its Transformer, where sentence-transformers reads them.
fn of_reranker(files: &Files) -> Result<Option<JsonObject>, CheckpointError> {
    let found = settings(files)?;
    Ok(if super::reads_rerankers_files(files)? { found.map(|(_, config)| config) } else { None })
}

/// Whether a reranker's chat template is asked for the beginning of an answer.
pub(in crate::checkpoint) fn generates(files: &Files) -> Result<bool, CheckpointError> {
    of_reranker(files)?.map_or(Ok(false), |config| chat_template(&config))
}

/// The form of messages that the file of the Transformer's settings names, where it is read.
pub(in crate::checkpoint) fn form_of_messages(files: &Files) -> Result<Option<Form>, CheckpointError> {
    let Some(config) = of_reranker(files)? else { return Ok(None) };
    let Some(modalities) = config.object("modality_config")? else { return Ok(None) };
    let Some(message) = modalities.object("message")? else { return Ok(None) };
    match message.optional::<String>("format")?.as_deref() {
        None | Some("auto") => Ok(None),
        Some("flat") => Ok(Some(Form::Flat)),
        Some("structured") => Ok(Some(Form::Structured)),
        Some(other) => {
            Err(message.invalid("format", format!("is `{other}`; supported are flat, structured and auto")))
        }
    }
}

/// The same of one file. Whatever else the chat template is given is refused.
fn chat_template(config: &JsonObject) -> Result<bool, CheckpointError> {
    let all = config.object("processing_kwargs")?;
    let Some(arguments) = all.map(|all| all.object("chat_template")).transpose()?.flatten() else {
        return Ok(false);
    };
    let field = "add_generation_prompt";
    match arguments.entries().find(|(name, value)| *name != field && !value.is_null()) {
        Some((name, value)) => {
            let reason = format!("is {value}, which this crate does not do; remove it to load without");
            Err(arguments.invalid(name, reason))
        }
        None => Ok(arguments.optional(field)?.unwrap_or(false)),
    }
}

/// The limit that calls of the tokenizer are given. Whatever else they are given is refused.
fn processing(
    config: &JsonObject,
    calls: Calls,
) -> Result<Option<(&'static str, Option<usize>)>, CheckpointError> {
    chat_template(config)?;
    let mut limit = None;
    // What goes to all kinds of input goes over what goes to texts.
    for part in ["text", "common"] {
        let Some(arguments) =
            config.object("processing_kwargs")?.map(|all| all.object(part)).transpose()?.flatten()
        else {
            continue;
        };
        for (name, value) in arguments.entries().filter(|(_, value)| !value.is_null()) {
            let cuts = || value == true || value == "longest_first" || value == "only_first";
            match name.as_str() {
                "max_length" => {
                    let tokens =
                        json::token_limit(value).map_err(|reason| arguments.invalid(name, reason))?;
                    limit = Some(("processing_kwargs.text.max_length", tokens));
                }
                "padding" if value != "max_length" => {}
                "truncation" if cuts() => {}
                "padding_side" if value == "right" || !calls.fills_up => {}
                "pad_to_multiple_of"
                | "return_tensors"
                | "return_attention_mask"
                | "return_token_type_ids"
                | "verbose" => {}
                _ => {
                    let reason =
                        format!("is {value}, which this crate does not do; remove it to load without");
                    return Err(arguments.invalid(name, reason));
                }
            }
        }
    }
    Ok(limit)
}

/// Whether texts are put into a chat's template, where the file says what the model takes. What isn't text is refused.
fn modalities(config: &JsonObject, calls: Calls) -> Result<Option<bool>, CheckpointError> {
    let Some(modalities) = config.object("modality_config")? else { return Ok(None) };
    let message = modalities.object("message")?;
    if message.is_some() && !calls.messages {
        let reason = "puts every text into the chat template, which this crate does not do";
        return Err(modalities.invalid("message", reason));
    }
    let Some(text) = modalities.object("text")? else {
        return Err(modalities.invalid("text", "is missing; the model takes no texts"));
    };
    for way in [Some(&text), message.as_ref()].into_iter().flatten() {
        for (field, expected) in [("method", "forward"), ("method_output_name", calls.of_model)] {
            if way.raw(field).is_some_and(|value| value != expected) {
                let reason = format!("must be `{expected}`; this crate computes nothing else");
                return Err(way.invalid(field, reason));
            }
        }
    }
    Ok(Some(message.is_some()))
}

/// The entries of an object that are not null; those that say where from a model is fetched say nothing here.
fn arguments(config: &JsonObject, field: &str) -> Result<Map<String, Value>, CheckpointError> {
    let mut arguments: Map<String, Value> = config.optional(field)?.unwrap_or_default();
    arguments.retain(|name, value| !value.is_null() && (name != "subfolder" || value != ""));
    Ok(arguments)
}
