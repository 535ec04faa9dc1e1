//! Which of a model's files a checkpoint needs.

use std::path::{Component, Path};

use crate::checkpoint::{self, CheckpointError, HEADS, place};
use crate::file::vocabularies;

/// The files that say what a model is.
pub(super) fn first(listed: &[String]) -> Vec<String> {
    let has_tokenizer_json = listed.iter().any(|file| file == "tokenizer.json");
    let wanted = |file: &&String| checkpoint::beside(has_tokenizer_json).any(|name| name == *file);
    listed.iter().filter(wanted).cloned().collect()
}

/// The files in folders of modules, the model's own among them if it has one, and heads, of a model whose [`first`] files
/// are in `folder`.
pub(super) fn modules(folder: &Path, listed: &[String]) -> Result<Vec<String>, CheckpointError> {
    let mut wanted = Vec::new();
    let files = place(folder)?;
    let (own, inside) = of_model(files.model_folder(), listed);
    if !own.is_empty() {
        wanted.extend(first(&inside).into_iter().map(|name| own.clone() + &name));
    }
    for (module, has_weights) in checkpoint::module_folders(&files)? {
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

/// The weights of a model whose [`first`] files are in `folder`, and those of its modules.
pub(super) fn weights(folder: &Path, listed: &[String]) -> Result<Vec<String>, CheckpointError> {
    let files = place(folder)?;
    let (own, inside) = of_model(files.model_folder(), listed);
    let weights = checkpoint::weights_among(&files, &inside)?;
    Ok(weights.into_iter().map(|name| own.clone() + &name).collect())
}

/// What stands before the names of the model's own files, and these names without it.
fn of_model(folder: &Path, listed: &[String]) -> (String, Vec<String>) {
    let mut own = String::new();
    for part in folder {
        own.push_str(&part.to_string_lossy());
        own.push('/');
    }
    let inside = listed.iter().filter_map(|file| file.strip_prefix(&own)).map(str::to_owned).collect();
    (own, inside)
}

/// Whether a folder in the cache has what every checkpoint has. Weights come last.
pub(super) fn is_whole(folder: &Path) -> bool {
    let Ok(files) = place(folder) else { return false };
    let holds = |name: &str| files.holds(name).unwrap_or(false);
    let has_tokenizer = holds("tokenizer.json")
        || vocabularies::ALL.iter().any(|all_of_kind| all_of_kind.iter().all(|name| holds(name)));
    let describes_itself = holds("config.json") || checkpoint::is_static(&files).unwrap_or(false);
    describes_itself && has_tokenizer && checkpoint::has_weights(&files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_embedding_has_no_config_and_its_files_are_in_its_folder() {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/static-embeddings/st-in-a-folder");
        if !folder.is_dir() {
            return;
        }
        let own = ["0_StaticEmbedding/tokenizer.json", "0_StaticEmbedding/model.safetensors"];
        let listed: Vec<String> =
            own.iter().chain(&["modules.json", "README.md"]).map(|&name| name.into()).collect();
        assert_eq!(first(&listed), ["modules.json"]);
        assert_eq!(modules(&folder, &listed).unwrap(), own[..1]);
        assert_eq!(weights(&folder, &listed).unwrap(), own[1..]);
        assert!(is_whole(&folder));
    }

    #[test]
    fn vocabularies_are_fetched_where_there_is_no_tokenizer_json() {
        let listed = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let old = listed(&["config.json", "vocab.txt", "vocab.json", "merges.txt", "README.md"]);
        assert_eq!(first(&old), old[..4]);
        let new = listed(&["config.json", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"]);
        assert_eq!(first(&new), new[..2]);
    }
}
