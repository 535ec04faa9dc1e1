//! Low-rank adapters (LoRA: Hu et al., 2021), as peft saves them: a folder with an adapter, whose model is elsewhere. What an
//! adapter adds to a matrix is added as rows of that matrix are read, in f32, and the sum is rounded to the model's own type,
//! as `merge_and_unload` of peft does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::files::{TensorEntry, TensorFiles};
use super::json::JsonObject;
use super::tensor::Tensor;
use super::{CheckpointError, holds, sentence_transformers, without_prefix};
use crate::file::Files;

pub(super) const CONFIG: &str = "adapter_config.json";

/// Adapters, the first of which is read that is there.
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// Files beside an adapter that say how texts are read. Where there are none, those beside the model do.
const OF_TEXTS: [&str; 4] = ["modules.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"];

/// Fields that change nothing of what an adapter computes, or that its tensors say as well.
const HARMLESS: [&str; 19] = [
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
    "use_rslora",
];

/// The files of a directory with a checkpoint, or with an adapter alone.
///
/// # Errors
/// When the model of an adapter isn't there.
pub(super) fn place(dir: &Path) -> Result<Files, CheckpointError> {
    let files = sentence_transformers::place(dir)?;
    // Beside a whole model it says nothing of whether it is merged.
    if holds(&files, super::CONFIG)? {
        return Ok(files);
    }
    let Some(config) = JsonObject::open(&files, CONFIG)? else { return Ok(files) };
    let folder = config.path().parent().unwrap_or(dir).to_owned();
    let base = base(&config, &folder)?;
    let mut of_texts = false;
    for name in OF_TEXTS {
        of_texts |= holds(&files, name)?;
    }
    Ok(if of_texts { files.adapting(Some(base), folder) } else { base.adapting(None, folder) })
}

/// The model that an adapter is for: the folder that its config names, or the one that the adapter's is in.
fn base(config: &JsonObject, folder: &Path) -> Result<Files, CheckpointError> {
    const FIELD: &str = "base_model_name_or_path";
    let named = config.optional::<String>(FIELD)?;
    let above = folder.parent().map(Path::to_owned);
    let named_folder = named.iter().filter(|name| !name.is_empty()).map(Into::into);
    for dir in named_folder.chain(above) {
        let files = sentence_transformers::place(&dir)?;
        if holds(&files, super::CONFIG)? {
            return Ok(files);
        }
    }
    let named = named.unwrap_or_default();
    Err(config.invalid(
        FIELD,
        format!(
            "names `{named}`, and neither there nor in the folder above is a config.json; put the path of a folder with that model \
             there (`mlx-embed pull` fetches one by its name), or merge the adapter (merge_and_unload of peft)"
        ),
    ))
}

/// What is added to a matrix `[rows, columns]`: `factor` times the product of two narrow ones.
#[derive(Debug)]
pub(super) struct LowRank {
    /// `[rank, columns]`, or of a table of embeddings `[rank, rows]`.
    first: Tensor,
    /// `[rows, rank]`, or of a table of embeddings `[columns, rank]`.
    second: Tensor,
    factor: f32,
    is_table: bool,
    /// Both in f32, from when they are first needed.
    numbers: OnceLock<[Vec<f32>; 2]>,
}

impl LowRank {
    /// Adds it to rows of the matrix, of which the first is `row`.
    pub(super) fn add_to(&self, row: usize, sums: &mut [f32], columns: usize) -> Result<(), CheckpointError> {
        let [first, second] = match self.numbers.get() {
            Some(numbers) => numbers,
            None => {
                let read = [self.first.to_f32()?, self.second.to_f32()?];
                self.numbers.get_or_init(|| read)
            }
        };
        let rank = self.first.shape()[0];
        let mut added = vec![0.0_f32; columns];
        for (row, sums) in (row..).zip(sums.chunks_exact_mut(columns)) {
            if self.is_table {
                let of_row: Vec<f32> =
                    first.chunks_exact(first.len() / rank).map(|first| first[row]).collect();
                for (added, second) in added.iter_mut().zip(second.chunks_exact(rank)) {
                    *added = second.iter().zip(&of_row).map(|(a, b)| a * b).sum();
                }
            } else {
                added.fill(0.0);
                for (first, second) in first.chunks_exact(columns).zip(&second[row * rank..]) {
                    added.iter_mut().zip(first).for_each(|(added, first)| *added += first * second);
                }
            }
            sums.iter_mut().zip(&added).for_each(|(sum, added)| *sum += added * self.factor);
        }
        Ok(())
    }
}

/// The halves of an adapter by the matrix that they are for.
#[derive(Default)]
struct Halves {
    first: Option<Tensor>,
    second: Option<Tensor>,
    is_table: bool,
}

/// Puts the adapter in `folder` on these weights.
///
/// # Errors
/// When it is of another kind, or for another model.
pub(super) fn put_on(weights: &mut TensorFiles, folder: &Path) -> Result<(), CheckpointError> {
    let files = Files::of(folder);
    let Some(config) = JsonObject::open(&files, CONFIG)? else { return Ok(()) };
    check(&config)?;
    let mut name = WEIGHTS[0];
    if !holds(&files, name)? && holds(&files, WEIGHTS[1])? {
        name = WEIGHTS[1];
    }
    let (file, tensors) = TensorFiles::read(&files, name)?;
    let index = weights.files.len();
    weights.files.push(Arc::clone(&file));
    let invalid = |tensor: &str, reason: String| CheckpointError::InvalidTensor {
        path: file.path().to_owned(),
        tensor: tensor.to_owned(),
        reason,
    };
    let mut all: BTreeMap<String, Halves> = BTreeMap::new();
    for (name, stored) in tensors {
        let in_model = without_prefix(name.strip_prefix("base_model.model.").unwrap_or(&name));
        let entry = TensorEntry::of(stored, index);
        let half = [".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B"]
            .into_iter()
            .find_map(|end| Some((in_model.strip_suffix(end)?, end)));
        let Some((path, end)) = half else {
            if in_model.contains("lora_") || in_model.contains(".base_layer.") {
                return Err(invalid(&name, "is of a kind of adapter that is unknown to this crate".into()));
            }
            // What was trained as a whole.
            weights.tensors.insert(in_model.to_owned(), entry);
            continue;
        };
        let Some(dtype) = entry.mlx_dtype().filter(|dtype| dtype.is_float() && entry.shape.len() == 2) else {
            return Err(invalid(&name, "must be a matrix of f32, f16 or bf16".into()));
        };
        let halves = all.entry(path.to_owned()).or_default();
        halves.is_table = end.contains("embedding");
        let half = if end.contains("_A") { &mut halves.first } else { &mut halves.second };
        *half = Some(Tensor::whole(name.clone(), Arc::clone(&file), &entry, dtype));
    }
    for (path, halves) in all {
        let Halves { first: Some(first), second: Some(second), is_table } = halves else {
            return Err(invalid(
                &path,
                "has one half of an adapter, lora_A or lora_B, without the other".into(),
            ));
        };
        let name = format!("{path}.weight");
        if weights.tensors.contains_key(&format!("{path}.scales")) {
            let reason = "adapts a quantised matrix; merge it into the dense weights, and quantise those";
            return Err(invalid(first.name(), reason.into()));
        }
        let Some(entry) = weights.tensors.get_mut(&name) else {
            return Err(invalid(first.name(), format!("adapts `{name}`, which the model doesn't have")));
        };
        let rank = first.shape()[0];
        let (rows, columns) = if is_table {
            (first.shape()[1], second.shape()[0])
        } else {
            (second.shape()[0], first.shape()[1])
        };
        if entry.shape != [rows, columns] || second.shape()[1] != rank || rank == 0 {
            let shapes = format!("{:?} and {:?}", first.shape(), second.shape());
            let reason =
                format!("the adapter's halves have the shapes {shapes}, which don't fit {:?}", entry.shape);
            return Err(invalid(first.name(), reason));
        }
        let factor = factor(&config, rank)?;
        entry.adapter = Some(Arc::new(LowRank { first, second, factor, is_table, numbers: OnceLock::new() }));
    }
    Ok(())
}

/// What the product of two halves of this rank is multiplied with.
fn factor(config: &JsonObject, rank: usize) -> Result<f32, CheckpointError> {
    let alpha: f64 = config.required("lora_alpha")?;
    let rank = rank as f64;
    let is_stabilised = config.switch("use_rslora")?.unwrap_or(false);
    Ok((alpha / if is_stabilised { rank.sqrt() } else { rank }) as f32)
}

/// Refuses what isn't a plain low-rank adapter.
fn check(config: &JsonObject) -> Result<(), CheckpointError> {
    const REMEDY: &str = "merge it into the weights (merge_and_unload of peft)";
    let kind: String = config.required("peft_type")?;
    if kind != "LORA" {
        return Err(config.invalid("peft_type", format!("is {kind}; only LORA is computed, so {REMEDY}")));
    }
    for (field, value) in config.entries() {
        let is_off = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Bool(true) => field == "init_lora_weights",
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(value) => match field.as_str() {
                "bias" => value == "none",
                "init_lora_weights" => ["gaussian", "orthogonal"].contains(&value.as_str()),
                _ => value.is_empty(),
            },
            Value::Array(values) => values.is_empty(),
            Value::Object(values) => values.is_empty(),
        };
        if !is_off && !HARMLESS.contains(&field.as_str()) {
            let reason =
                format!("is {value}, and this crate doesn't know how to compute such an adapter; {REMEDY}");
            return Err(config.invalid(field, reason));
        }
    }
    Ok(())
}
