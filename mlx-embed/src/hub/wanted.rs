//! Which of a model's files a checkpoint needs.

use std::path::{Component, Path};

use crate::checkpoint::{self, CheckpointError, HEADS};
use crate::file::Files;

/// The files that say what a model is.
pub(super) fn first(listed: &[String]) -> Vec<String> {
    listed.iter().filter(|file| checkpoint::beside().any(|name| name == *file)).cloned().collect()
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
