//! A checkpoint directory, opened and checked: config, weights, quantisation, sentence-transformers files.
//!
//! Opening maps the weights and reads their headers only. Nothing here touches MLX until [`Weights`] makes arrays of
//! the tensors for one stream.

mod config;
mod error;
mod files;
mod json;
mod quantization;
mod rope;
mod sentence_transformers;
mod weights;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub use config::{Architecture, ModelConfig};
pub use error::CheckpointError;
pub(crate) use json::JsonObject;
pub use quantization::Quantization;
pub use rope::RopeScaling;
pub use sentence_transformers::SentenceTransformers;
pub(crate) use weights::{Matrix, Weights};

use crate::file::{Files, OpenFile};
use crate::mlx::Dtype;
use files::TensorFiles;
use quantization::QuantizationTable;

/// An opened checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    place: Files,
    config: ModelConfig,
    sentence_transformers: SentenceTransformers,
    quantization: QuantizationTable,
    weights: TensorFiles,
}

impl Checkpoint {
    /// Opens a directory that holds `config.json` and safetensors weights.
    ///
    /// # Errors
    /// [`CheckpointError`] says which file is missing or damaged, and where.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let dir = dir.as_ref();
        if !dir.is_dir() {
            return Err(CheckpointError::NoDirectory { path: dir.to_owned() });
        }
        Self::read(Files::Directory(dir.to_owned()))
    }

    /// The model that this crate carries.
    ///
    /// # Errors
    /// None that a build of this crate which passes its tests can have; the files are checked as any others.
    #[cfg(feature = "default-model")]
    pub fn default_model() -> Result<Self, CheckpointError> {
        Self::read(Files::Embedded(&crate::default_model::FILES))
    }

    /// Opens what is at `place`.
    pub(crate) fn read(place: Files) -> Result<Self, CheckpointError> {
        let name = "config.json";
        let config = JsonObject::open(&place, name)?.ok_or_else(|| CheckpointError::MissingFile {
            path: place.path(name),
            hint: "it describes the model, and every checkpoint has one",
        })?;
        Ok(Self {
            sentence_transformers: SentenceTransformers::read(&place)?,
            quantization: QuantizationTable::read(&config)?,
            config: ModelConfig::read(&config)?,
            weights: TensorFiles::open(&place)?,
            place,
        })
    }

    /// The directory, or what stands for it in messages where the checkpoint is part of the program.
    pub fn dir(&self) -> &Path {
        self.place.root()
    }

    /// Where its files are.
    pub(crate) fn place(&self) -> &Files {
        &self.place
    }

    /// The decoder's geometry.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What the sentence-transformers files say.
    pub fn sentence_transformers(&self) -> &SentenceTransformers {
        &self.sentence_transformers
    }

    /// Bytes of all weights files.
    pub fn weights_bytes(&self) -> u64 {
        self.weights.files.iter().map(|file| file.bytes().len() as u64).sum()
    }

    /// All weights files, without their mappings.
    pub(crate) fn open_weights(&self) -> Vec<Arc<OpenFile>> {
        self.weights.files.iter().map(|file| Arc::clone(file.opened())).collect()
    }

    /// Whether the weights files are still as they were when they were opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), CheckpointError> {
        for file in &self.weights.files {
            let path = || file.path().to_owned();
            file.check_unchanged().map_err(|source| CheckpointError::Io { path: path(), source })?;
        }
        Ok(())
    }

    /// Names of all weights files.
    pub(crate) fn weights_files(&self) -> Vec<String> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.weights.files.iter().map(|file| name(file.path())).collect()
    }

    /// How matrices of each kind are stored: for every kind (`q_proj`, `embed_tokens`, ..) each storage and how many
    /// matrices have it. Vectors are left out.
    ///
    /// # Errors
    /// When weights and `quantization` contradict each other.
    pub fn storage_by_kind(&self) -> Result<BTreeMap<String, BTreeMap<String, usize>>, CheckpointError> {
        let mut kinds: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        for (name, entry) in &self.weights.tensors {
            let Some(path) = name.strip_suffix(".weight") else { continue };
            if entry.shape.len() != 2 || is_ignored(path) {
                continue;
            }
            let storage = match self.quantization_of(path)? {
                Some(quantization) => quantization.to_string(),
                None => format!("dense {:?}", entry.dtype).to_lowercase(),
            };
            let kind = path.rsplit('.').next().unwrap_or(path).to_owned();
            *kinds.entry(kind).or_default().entry(storage).or_default() += 1;
        }
        Ok(kinds)
    }

    /// Number of parameters that the embedder uses; scales and biases of quantised groups are not parameters.
    ///
    /// # Errors
    /// When weights and `quantization` contradict each other.
    pub fn parameters(&self) -> Result<u64, CheckpointError> {
        let mut sum = 0;
        for (name, entry) in &self.weights.tensors {
            let path = name.rsplit_once('.').map_or(name.as_str(), |(path, _)| path);
            if name.ends_with(".scales") || name.ends_with(".biases") || is_ignored(path) {
                continue;
            }
            let stored: u64 = entry.shape.iter().map(|&dim| dim as u64).product();
            sum += match self.quantization_of(path)? {
                Some(quantization) if name.ends_with(".weight") => stored * 32 / quantization.bits as u64,
                _ => stored,
            };
        }
        Ok(sum)
    }

    /// Every tensor that embedding uses, by name without a leading `model.`, and its bytes.
    #[cfg(feature = "bench")]
    pub(crate) fn tensor_bytes(&self) -> impl Iterator<Item = (&str, usize)> {
        let tensors = self.weights.tensors.iter().filter(|(name, _)| !is_ignored(name));
        tensors.map(|(name, entry)| (name.as_str(), entry.nbytes))
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.weights.tensors.contains_key(name)
    }

    /// Its type, if there is one that MLX has too.
    pub(crate) fn dtype_of(&self, name: &str) -> Option<Dtype> {
        self.weights.tensors.get(name)?.mlx_dtype()
    }

    /// How the matrix `path.weight` is quantised, if it is.
    pub(crate) fn quantization_of(&self, path: &str) -> Result<Option<Quantization>, CheckpointError> {
        let has_scales = self.weights.tensors.contains_key(&format!("{path}.scales"));
        self.quantization.of(path, has_scales).map_err(|reason| CheckpointError::UnsupportedQuantization {
            path: self.place.path("config.json"),
            tensor: path.to_owned(),
            reason: reason.to_owned(),
        })
    }
}

/// Tensors that embedding never needs.
fn is_ignored(path: &str) -> bool {
    path.starts_with("lm_head")
}

/// A tensor's or matrix's name without the `model.` that some checkpoints put before all of them.
fn without_prefix(name: &str) -> &str {
    name.strip_prefix("model.").unwrap_or(name)
}
