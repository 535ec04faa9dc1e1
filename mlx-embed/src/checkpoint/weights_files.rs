//! Which files of a folder hold the weights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use super::json::JsonObject;
use super::{CheckpointError, holds};
use crate::file::Files;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The same as files of torch.save, which are read where there is no safetensors file.
const PICKLED: &str = "pytorch_model.bin";
const PICKLED_INDEX: &str = "pytorch_model.bin.index.json";

/// What a folder may hold in place of safetensors: the start and the end of a name, what it is, and what would do.
const FOREIGN: [(&str, &str, &str, &str); 9] = [
    (
        "pytorch_model",
        ".bin",
        "PyTorch weights (pickle) in parts without pytorch_model.bin.index.json",
        "fetch that file, too, or save them as safetensors: model.save_pretrained(dir)",
    ),
    ("", ".pth", "PyTorch weights (pickle)", "save them as safetensors"),
    ("", ".pt", "PyTorch weights (pickle)", "save them as safetensors"),
    ("", ".gguf", "GGUF weights", "pass a folder with the model's safetensors weights"),
    (
        "adapter_model",
        ".safetensors",
        "a LoRA adapter without its model",
        "merge it into the model's weights",
    ),
    ("consolidated", ".safetensors", "weights in another layout", "convert them with transformers"),
    ("weights", ".npz", "MLX weights of the oldest form", "convert them to safetensors with mlx_lm.convert"),
    ("", ".h5", "TensorFlow weights", "save them as safetensors"),
    ("", ".onnx", "an ONNX graph", "pass a folder with the model's safetensors weights"),
];

/// The names of the weights files, in order.
///
/// As transformers looks for them: safetensors go before files of torch.save, and `model.safetensors` before an index, whatever that names, and before the same
/// weights in another precision (`model.fp16.safetensors`). An index none of whose files is there is left over from
/// other weights; then, as with mlx-lm, every `model*.safetensors` counts.
pub(super) fn find(files: &Files) -> Result<Vec<String>, CheckpointError> {
    let all = || files.names().map_err(|source| CheckpointError::Io { path: files.path("."), source });
    let found = choose(files, &|name| holds(files, &below_model(files, name)), all)?;
    Ok(found.iter().map(|name| below_model(files, name)).collect())
}

/// The name of a file in a folder beside `config.json`, as [`Files`] takes it: that of one without a folder is looked up
/// there in any case.
fn below_model(files: &Files, name: &str) -> String {
    if name.contains('/') { files.model_folder().join(name).display().to_string() } else { name.to_owned() }
}

/// As [`find`], of files that could be put there. The index is there, if there is one.
#[cfg(feature = "hub")]
pub(super) fn among(files: &Files, names: &[String]) -> Result<Vec<String>, CheckpointError> {
    let holds = |name: &str| Ok(names.iter().any(|other| other == name));
    choose(files, &holds, || Ok(names.to_vec()))
}

/// Whether the folder has a file of that name.
type Holds<'a> = &'a dyn Fn(&str) -> Result<bool, CheckpointError>;

fn choose(
    files: &Files,
    holds: Holds<'_>,
    all: impl FnOnce() -> Result<Vec<String>, CheckpointError>,
) -> Result<Vec<String>, CheckpointError> {
    if holds(SINGLE)? {
        return Ok(vec![SINGLE.to_owned()]);
    }
    let all = all()?;
    let is_weights =
        |name: &&String| name.starts_with("model") && name.ends_with(".safetensors") && !name.contains('/');
    let mut found: Vec<String> = all.iter().filter(is_weights).cloned().collect();
    found.sort();
    if let Some(shards) = shards(files, INDEX, holds, !found.is_empty())? {
        return Ok(shards);
    }
    // What has the precision in its name is the same once more.
    if found.iter().any(|name| !is_variant(name)) {
        found.retain(|name| !is_variant(name));
    }
    if !found.is_empty() {
        return Ok(found);
    }
    if holds(PICKLED)? {
        return Ok(vec![PICKLED.to_owned()]);
    }
    shards(files, PICKLED_INDEX, holds, false)?.ok_or_else(|| missing(files, &all))
}

/// Whether a weights file is one of torch.save.
pub(super) fn is_pickled(name: &str) -> bool {
    name.ends_with(".bin")
}

/// The shards of the index of this name; `None` where there is no such file, or none of them is there, and other weights
/// (`others`) are.
fn shards(
    files: &Files,
    name: &str,
    holds: Holds<'_>,
    others: bool,
) -> Result<Option<Vec<String>>, CheckpointError> {
    let Some(index) = JsonObject::open(files, name)? else { return Ok(None) };
    let weight_map: BTreeMap<String, String> = index.required("weight_map")?;
    let named: BTreeSet<String> = weight_map.into_values().collect();
    let mut wrong = None;
    let mut present = BTreeSet::new();
    for shard in named {
        let Some(inside) = inside(&shard) else {
            let reason =
                format!("names the shard {shard:?}, which is no file beside the index or in a folder there");
            wrong.get_or_insert(index.invalid("weight_map", reason));
            continue;
        };
        if holds(&inside)? {
            present.insert(inside);
        } else {
            wrong.get_or_insert(CheckpointError::MissingShard { path: files.path(name), shard });
        }
    }
    match wrong {
        _ if present.is_empty() && others => Ok(None),
        Some(wrong) => Err(wrong),
        None if present.is_empty() => {
            Err(index.invalid("weight_map", "is empty, so no file holds the weights"))
        }
        None => Ok(Some(present.into_iter().collect())),
    }
}

/// A shard's path from the index, where it is beside that or in a folder there.
fn inside(shard: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in Path::new(shard).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_string_lossy()),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// Whether the name is that of a variant: `model.VARIANT.safetensors`, or a shard of one.
fn is_variant(name: &str) -> bool {
    let stem = name.strip_suffix(".safetensors").unwrap_or(name);
    stem.strip_prefix("model.").is_some_and(|rest| !rest.is_empty())
}

#[cold]
fn missing(files: &Files, names: &[String]) -> CheckpointError {
    let foreign = FOREIGN.iter().find_map(|&(start, end, format, remedy)| {
        let name = names.iter().find(|name| name.starts_with(start) && name.ends_with(end))?;
        Some(CheckpointError::WeightsFormat { path: files.path(name), format, remedy })
    });
    foreign.unwrap_or_else(|| CheckpointError::MissingFile {
        path: files.path(SINGLE),
        hint: "a checkpoint holds model.safetensors, or shards and model.safetensors.index.json",
    })
}
