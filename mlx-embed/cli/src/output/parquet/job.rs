//! What a job is: what it reads, which vectors it makes of that, and how it writes them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use mlx_embed::{Checkpoint, Error, Info, Prompt};
use serde_json::{Map, Value, json};

use super::metadata::RANGES;
use crate::error::CliError;
use crate::input::Input;
use crate::options::Model;
use crate::row::Column;

/// The form of the facts. The first, which has no number, had another hash of the files beside the weights.
pub(super) const FORM: &str = "form";

/// A job that makes Parquet.
#[derive(Debug)]
pub(in crate::output) struct Job {
    pub(super) columns: Vec<Column>,
    pub(super) with_text: bool,
    /// Records of the input for each row group.
    pub(super) records: usize,
    /// What the file says of itself.
    pub(super) metadata: BTreeMap<String, String>,
    /// All that has to be the same for the job to be gone on with.
    pub(super) facts: Map<String, Value>,
    source: Option<Source>,
}

/// A file as it was when it was opened.
#[derive(Debug, PartialEq)]
struct Source {
    path: PathBuf,
    bytes: u64,
    modified_ns: u128,
}

impl Source {
    fn of(path: &Path, metadata: &fs::Metadata) -> io::Result<Self> {
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let path = fs::canonicalize(path)?;
        Ok(Self { path, bytes: metadata.len(), modified_ns: modified.as_nanos() })
    }
}

/// How the output is written.
#[derive(Debug)]
pub(in crate::output) struct Written {
    pub(in crate::output) dtype: String,
    pub(in crate::output) with_text: bool,
    pub(in crate::output) records: usize,
}

impl Job {
    /// `model` is what the command line calls it, `None` the built-in one.
    pub(in crate::output) fn new(
        input: &Input,
        name: Option<&Path>,
        model: &Model,
        written: &Written,
    ) -> Result<Self, CliError> {
        let info = model.embedder.info();
        let source = match (input.path(), input.metadata()) {
            (Some(path), Some(metadata)) => Some(
                Source::of(path, metadata)
                    .map_err(|source| CliError::Read { name: path.display().to_string(), source })?,
            ),
            _ => None,
        };
        let metadata = metadata(name, model, &written.dtype)?;
        let mut facts = facts_of_model(info, name.is_some())?;
        facts.extend(metadata.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))));
        facts.insert("field".to_owned(), json!(input.field()));
        let columns = input.columns().to_vec();
        let keep: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        facts.insert("keep".to_owned(), json!(keep));
        facts.insert("with_text".to_owned(), json!(written.with_text));
        facts.insert("row_group".to_owned(), json!(written.records));
        if let Some(Source { path, bytes, modified_ns }) = &source {
            facts.insert("input".to_owned(), json!(path.display().to_string()));
            facts.insert("input_bytes".to_owned(), json!(bytes));
            facts.insert("input_modified_ns".to_owned(), json!(modified_ns.to_string()));
        }
        let (with_text, records) = (written.with_text, written.records);
        Ok(Self { columns, with_text, records, metadata, facts, source })
    }

    /// Adds the ranges that were given, to what the file says and to what may not change.
    pub(in crate::output) fn with_ranges(mut self, given: Option<[&[f32]; 2]>) -> Self {
        if let Some(given) = given {
            let text = ranges(given);
            self.facts.insert(RANGES.to_owned(), Value::from(text.as_str()));
            self.metadata.insert(RANGES.to_owned(), text);
        }
        self
    }

    /// Whether what was read can be read again.
    pub(super) fn is_repeatable(&self) -> bool {
        self.source.is_some()
    }

    /// Fails if the input is not the file any more that was opened.
    pub(in crate::output) fn check_input(&self) -> Result<(), CliError> {
        let Some(source) = &self.source else { return Ok(()) };
        let name = || source.path.display().to_string();
        let failed = |source| CliError::Read { name: name(), source };
        let metadata = fs::metadata(&source.path).map_err(failed)?;
        if Source::of(&source.path, &metadata).map_err(failed)? == *source {
            return Ok(());
        }
        Err(failed(io::Error::other(
            "it was changed while it was read, so rows may be of either version; start again",
        )))
    }
}

/// What a file says of its vectors.
fn metadata(name: Option<&Path>, model: &Model, dtype: &str) -> Result<BTreeMap<String, String>, CliError> {
    let (info, options) = (model.embedder.info(), &model.options);
    let hashes: BTreeMap<String, String> = model.embedder.weights_sha256()?.into_iter().collect();
    let normalized = options.normalize.unwrap_or(info.normalize);
    let pairs = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("model", name.map_or("built-in".to_owned(), |name| name.display().to_string())),
        ("weights_sha256", json!(hashes).to_string()),
        ("prompt", prompt(info, &options.prompt)),
        ("pooling", info.pooling.to_string()),
        ("normalized", normalized.to_string()),
        ("dims", model.dims().to_string()),
        ("max_tokens", info.max_tokens.to_string()),
        ("dtype", dtype.to_owned()),
    ];
    Ok(pairs.into_iter().map(|(key, value)| (format!("mlx_embed.{key}"), value)).collect())
}

/// The text before each text.
fn prompt(info: &Info, prompt: &Prompt) -> String {
    let files = &info.sentence_transformers;
    let named = |name: &String| files.prompts.get(name).cloned();
    match prompt {
        Prompt::Text(text) => Some(text.clone()),
        Prompt::Named(name) | Prompt::IfNamed(name) => named(name),
        Prompt::None => None,
        _ => files.default_prompt_name.as_ref().and_then(named),
    }
    .unwrap_or_default()
}

/// What else decides a vector's bits.
fn facts_of_model(info: &Info, has_files: bool) -> Result<Map<String, Value>, CliError> {
    let mut facts = Map::new();
    facts.insert(FORM.to_owned(), json!(2));
    if has_files {
        let hash = Checkpoint::sha256_beside_weights(&info.model).map_err(Error::from)?;
        facts.insert("model_files_sha256".to_owned(), json!(hash));
    }
    facts.insert("backend".to_owned(), json!(info.backend.to_string()));
    facts.insert("kernels".to_owned(), json!(info.kernels));
    facts.insert("precision".to_owned(), json!(info.precision.map(|precision| precision.to_string())));
    facts.insert("end_token".to_owned(), json!(info.end_token));
    Ok(facts)
}

/// Two rows, the least and the largest number of each dimension.
pub(super) fn ranges(ranges: [&[f32]; 2]) -> String {
    json!(ranges).to_string()
}
