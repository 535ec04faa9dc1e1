//! Which files say what a checkpoint is, and one hash of them all.

use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{CONFIG, Checkpoint, CheckpointError, adapter, directory, holds, sentence_transformers};
use crate::file::{Files, OpenFile, hex, if_there, vocabularies};

/// What is read beside weights, or changes which model they are, where there is such a file.
const BESIDE: [&str; 12] = [
    "config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "modules.json",
    "config_sentence_transformers.json",
    "artifact.metadata",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "adapter_config.json",
    "chat_template.jinja",
];

/// Every file that may stand beside weights in a checkpoint's own folder, but for heads.
pub(crate) fn beside(has_tokenizer_json: bool) -> impl Iterator<Item = &'static str> {
    let vocabularies = if has_tokenizer_json { &[][..] } else { &vocabularies::ALL };
    let vocabularies = vocabularies.iter().copied().flatten().copied();
    BESIDE.into_iter().chain(sentence_transformers::TRANSFORMER_FILES).chain(vocabularies)
}

/// The heads of bge-m3, of which the first that is there is read.
pub(crate) const HEADS: [[&str; 2]; 2] =
    [["sparse_linear.safetensors", "sparse_linear.pt"], ["colbert_linear.safetensors", "colbert_linear.pt"]];

/// What a module's folder may hold.
const OF_MODULE: [&str; 3] = ["config.json", "model.safetensors", "pytorch_model.bin"];

impl Checkpoint {
    /// One SHA-256 of all files that decide which model it is: weights, configuration, tokenizer, modules. Two folders
    /// with the same hash hold the same model, whatever other files they have. The weights are read through, which takes
    /// about a second a gigabyte.
    ///
    /// # Errors
    /// When a file can't be read, or weights were written to since they were opened.
    pub fn sha256(&self) -> Result<String, CheckpointError> {
        let mut all = Sha256::new();
        for (name, file) in self.weights_files().iter().zip(self.open_weights()) {
            add(&mut all, &self.place, name, file.sha256())?;
        }
        add_beside(&mut all, &self.place)?;
        Ok(hex(&all.finalize()))
    }

    /// As [`Checkpoint::sha256`], for the files in `dir` except the model's weights: configuration, tokenizer, and
    /// modules with weights of their own. It takes milliseconds.
    ///
    /// # Errors
    /// When there is no such directory, or a file can't be read.
    pub fn sha256_beside_weights(dir: impl AsRef<Path>) -> Result<String, CheckpointError> {
        let mut all = Sha256::new();
        add_beside(&mut all, &directory(dir.as_ref())?)?;
        Ok(hex(&all.finalize()))
    }
}

fn add_beside(all: &mut Sha256, place: &Files) -> Result<(), CheckpointError> {
    let beside =
        beside(holds(place, "tokenizer.json")?).chain(HEADS.into_iter().flatten()).map(str::to_owned);
    let modules = sentence_transformers::folders(place)?.into_iter().flat_map(|(folder, _)| {
        let folder = folder.trim_end_matches('/').to_owned();
        OF_MODULE.map(|file| format!("{folder}/{file}"))
    });
    for name in beside.chain(modules) {
        add_if_there(all, place, &name)?;
    }
    if let Some(folder) = place.adapter() {
        add_if_there(all, place.base(), CONFIG)?;
        add_if_there(all, &Files::of(folder), adapter::CONFIG)?;
    }
    Ok(())
}

fn add_if_there(all: &mut Sha256, place: &Files, name: &str) -> Result<(), CheckpointError> {
    match if_there(OpenFile::of(place, name)).transpose() {
        None => Ok(()),
        Some(opened) => add(all, place, name, opened.and_then(|file| file.sha256())),
    }
}

/// Adds a file by its hash and its name.
fn add(all: &mut Sha256, place: &Files, name: &str, hash: io::Result<String>) -> Result<(), CheckpointError> {
    let hash = hash.map_err(|source| CheckpointError::Io { path: place.path(name), source })?;
    all.update(format!("{hash}  {name}\n"));
    Ok(())
}
