//! Which of a model's files a checkpoint needs.

use std::path::{Component, Path};

use crate::checkpoint::{self, CheckpointError};
use crate::file::Files;

/// What is read beside weights, where there is such a file.
const BESIDE: [&str; 17] = [
    "config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
    "artifact.metadata",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// What else changes which model it is, or is looked for beside the weights.
const MARKS: [&str; 2] = ["adapter_config.json", "chat_template.jinja"];

/// The heads of bge-m3, of which the first that is there is read.
const HEADS: [[&str; 2]; 2] =
    [["sparse_linear.safetensors", "sparse_linear.pt"], ["colbert_linear.safetensors", "colbert_linear.pt"]];

/// The files that say what a model is.
pub(super) fn first(listed: &[String]) -> Vec<String> {
    let wanted = |file: &&String| BESIDE.contains(&file.as_str()) || MARKS.contains(&file.as_str());
    listed.iter().filter(wanted).cloned().collect()
}

/// The files in folders of modules, and heads, of a model whose [`first`] files are in `folder`.
pub(super) fn modules(folder: &Path, listed: &[String]) -> Result<Vec<String>, CheckpointError> {
    let mut wanted = Vec::new();
    for (module, has_weights) in checkpoint::module_folders(&files(folder))? {
        let file = |file: &str| {
            let name = format!("{}/{file}", module.trim_end_matches('/'));
            // It becomes a path below the model's folder.
            let stays_inside = Path::new(&name).components().all(|part| matches!(part, Component::Normal(_)));
            Some(name).filter(|name| stays_inside && listed.contains(name))
        };
        wanted.extend(file("config.json"));
        if has_weights {
            wanted.extend(file("model.safetensors").or_else(|| file("pytorch_model.bin")));
        }
    }
    for formats in HEADS {
        wanted.extend(formats.iter().find_map(|format| listed.iter().find(|file| file == format)).cloned());
    }
    Ok(wanted)
}

/// The weights of a model whose [`first`] files are in `folder`.
pub(super) fn weights(folder: &Path, listed: &[String]) -> Result<Vec<String>, CheckpointError> {
    checkpoint::weights_among(&files(folder), listed)
}

/// Whether a folder in the cache has what every checkpoint has. Weights come last.
pub(super) fn is_whole(folder: &Path) -> bool {
    let files = files(folder);
    let holds = |name| files.holds(name).unwrap_or(false);
    holds("config.json") && holds("tokenizer.json") && checkpoint::has_weights(&files)
}

fn files(folder: &Path) -> Files {
    Files::Directory(folder.to_owned())
}
