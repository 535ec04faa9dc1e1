//! A checkpoint directory, opened and checked: config, weights, quantisation, sentence-transformers files.
//!
//! Opening maps the weights and reads their headers only. [`Weights`] hands out tensors where they lie.

mod activation;
mod adapter;
mod config;
mod contents;
mod defaults;
mod doubt;
mod error;
mod families;
mod files;
mod jinja;
mod json;
pub(crate) mod judge;
mod keys;
mod late;
mod marks;
mod modules;
mod parts;
mod quantization;
pub(crate) mod rope;
mod rope_fields;
mod scoring;
mod sentence_transformers;
mod sight;
pub(crate) mod spec;
mod strict;
mod tensor;
mod token_heads;
mod torch_file;
mod weights;
mod weights_files;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use activation::DenseActivation;
pub use config::{Architecture, ModelConfig};
#[cfg(feature = "hub")]
pub(crate) use contents::{HEADS, beside};
pub use doubt::Doubt;
pub use error::CheckpointError;
pub(crate) use json::JsonObject;
pub(crate) use late::{Expansion, LateInteraction, SideSpec};
pub use modules::ModuleSpec;
pub use quantization::Quantization;
pub use rope::{QueryGrowth, RopeScaling};
pub(crate) use scoring::{Pairs, Scoring};
pub use sentence_transformers::SentenceTransformers;
#[cfg(feature = "hub")]
pub(crate) use sentence_transformers::place;
pub(crate) use tensor::{Groups, Matrix, Numbers, Tensor};
pub(crate) use weights::Weights;

use crate::file::{self, Files, OpenFile, Parts};
use crate::mlx::Dtype;
use files::{TensorEntry, TensorFiles};
use quantization::{QuantizationTable, Stored};
use spec::{HeadSpec, Logits};

const CONFIG: &str = "config.json";

/// Whether a checkpoint is sentence-transformers' StaticEmbedding, which has no `config.json`.
#[cfg(feature = "hub")]
pub(crate) fn is_static(files: &Files) -> Result<bool, CheckpointError> {
    sentence_transformers::is_static(files)
}

/// The folders beside `config.json` that modules have, as `modules.json` says, and whether there are weights in each.
#[cfg(feature = "hub")]
pub(crate) fn module_folders(files: &Files) -> Result<Vec<(String, bool)>, CheckpointError> {
    sentence_transformers::folders(files)
}

/// Those of the `names` that hold the weights, of a checkpoint whose index, if it has one, is among `files`.
#[cfg(feature = "hub")]
pub(crate) fn weights_among(files: &Files, names: &[String]) -> Result<Vec<String>, CheckpointError> {
    weights_files::among(files, names)
}

/// Whether there are weights, each file that the index names among them.
#[cfg(feature = "hub")]
pub(crate) fn has_weights(files: &Files) -> bool {
    weights_files::find(files).is_ok()
}

/// What a checkpoint is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// One vector a text.
    Vectors,
    /// Scores of pairs: a reranker's.
    Scores,
    /// A weight for each token of the vocabulary, most of them 0.
    Sparse,
    /// A vector a token.
    TokenVectors,
}

/// A checkpoint directory that was opened and checked, without running its model.
///
/// ```
/// # #[cfg(feature = "default-model")]
/// # fn main() -> Result<(), mlx_embed::CheckpointError> {
/// let checkpoint = mlx_embed::Checkpoint::default_model()?; // or Checkpoint::open("path/to/a/checkpoint")?
/// let config = checkpoint.config();
/// println!("{} layers of width {}, {} parameters", config.layers, config.hidden_size, checkpoint.parameters()?);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "default-model"))]
/// # fn main() {}
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    place: Files,
    config: ModelConfig,
    spec: spec::ModelSpec,
    purpose: Purpose,
    /// Of one that was opened as a reranker.
    scoring: Option<Scoring>,
    /// Of one that was opened for vectors of tokens.
    late: Option<LateInteraction>,
    sentence_transformers: SentenceTransformers,
    quantization: QuantizationTable,
    weights: TensorFiles,
    doubts: Vec<Doubt>,
    /// Fields of config.json that are there and not null.
    given_fields: BTreeSet<String>,
    /// Fields of config.json that nobody knows and that look harmless.
    unknown_fields: Vec<String>,
}

/// The files of a directory, which has to be one.
fn directory(dir: &Path) -> Result<Files, CheckpointError> {
    match file::reach(dir) {
        Ok(found) if found.is_dir() => adapter::place(dir),
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(CheckpointError::Io { path: dir.to_owned(), source })
        }
        _ => Err(CheckpointError::NoDirectory { path: dir.to_owned() }),
    }
}

/// Whether there is such a file among these.
fn holds(files: &Files, name: &str) -> Result<bool, CheckpointError> {
    files.holds(name).map_err(|source| CheckpointError::Io { path: files.path(name), source })
}

impl Checkpoint {
    /// Opens a directory with `config.json` and safetensors weights. Without those it takes a `pytorch_model.bin` that
    /// torch.save wrote since version 1.6, if it is a state dict of plain tensors. No code in it is run.
    ///
    /// # Errors
    /// [`CheckpointError`] says which file is missing or damaged, and where.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        Self::open_for(dir, Purpose::Vectors)
    }

    /// As [`Checkpoint::open`], with a reranker's head.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], and when the checkpoint is no reranker.
    pub fn open_reranker(dir: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        Self::open_for(dir, Purpose::Scores)
    }

    /// Whether the files of a directory say that it is a reranker: by the class of its model, the files of
    /// sentence-transformers, or the chat template. The first releases of Qwen3-Reranker have none of these.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn is_reranker(dir: impl AsRef<Path>) -> Result<bool, CheckpointError> {
        let files = directory(dir.as_ref())?;
        match JsonObject::open(files.base(), CONFIG)? {
            Some(config) => marks::of_reranker(&files, &config),
            None => Ok(false),
        }
    }

    /// Whether the sentence-transformers files of a directory say that it is a sparse encoder. For bge-m3, which gives
    /// sparse vectors beside others, the answer is no.
    ///
    /// # Errors
    /// When there is no such directory, or a file is damaged.
    pub fn is_sparse_encoder(dir: impl AsRef<Path>) -> Result<bool, CheckpointError> {
        sentence_transformers::says(&directory(dir.as_ref())?, Purpose::Sparse)
    }

    /// Whether the files of a directory say that it is a model of late interaction: by PyLate's files, or the class of
    /// its model. For bge-m3, which gives vectors of tokens beside others, the answer is no.
    ///
    /// # Errors
    /// When there is no such directory, or a file is damaged.
    pub fn is_multi_vector(dir: impl AsRef<Path>) -> Result<bool, CheckpointError> {
        let files = directory(dir.as_ref())?;
        let is_colbert = match JsonObject::open(files.base(), CONFIG)? {
            Some(config) => marks::is_colbert(&config)?,
            None => false,
        };
        Ok(is_colbert || sentence_transformers::says(&files, Purpose::TokenVectors)?)
    }

    /// Opens a directory as what its files say that it is: a reranker, a sparse encoder, a model of late interaction, or
    /// else an embedder.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_any(dir: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let dir = dir.as_ref();
        let purpose = if Self::is_reranker(dir)? {
            Purpose::Scores
        } else if Self::is_sparse_encoder(dir)? {
            Purpose::Sparse
        } else if Self::is_multi_vector(dir)? {
            Purpose::TokenVectors
        } else {
            Purpose::Vectors
        };
        Self::open_for(dir, purpose)
    }

    /// As [`Checkpoint::open`], for what is wanted of it.
    pub(crate) fn open_for(dir: impl AsRef<Path>, purpose: Purpose) -> Result<Self, CheckpointError> {
        Self::read(directory(dir.as_ref())?, purpose)
    }

    /// The built-in model.
    ///
    /// # Errors
    /// None in a build that passes this crate's tests. The files are checked as any others.
    #[cfg(feature = "default-model")]
    pub fn default_model() -> Result<Self, CheckpointError> {
        Self::read(Files::Embedded(&crate::default_model::FILES), Purpose::Vectors)
    }

    /// Opens what is at `place`.
    pub(crate) fn read(place: Files, purpose: Purpose) -> Result<Self, CheckpointError> {
        let config = match JsonObject::open(place.base(), CONFIG)? {
            Some(config) => config,
            None if sentence_transformers::is_static(&place)? => {
                let model_type = [("model_type".to_owned(), Architecture::STATIC.into())];
                JsonObject::of(place.path(CONFIG), model_type.into_iter().collect())
            }
            None => {
                // It may be a model that has none here.
                sentence_transformers::check_first(&place)?;
                return Err(CheckpointError::MissingFile {
                    path: place.path(CONFIG),
                    hint: "it describes the model, and every checkpoint but a StaticEmbedding has one",
                });
            }
        };
        if !config.has("model_type") {
            // Version 0 of sentence-transformers has its own number there, and the model in a folder.
            sentence_transformers::check_first(&place)?;
        }
        let quantization = QuantizationTable::read(&config)?;
        let mut doubts = marks::of_another_model(&place, &config, purpose)?;
        let unknown_fields = keys::hold(&config, &mut doubts)?;
        let given = config.entries().filter(|(_, value)| !value.is_null());
        let given_fields = given.map(|(field, _)| field.clone()).collect();
        let mut weights = TensorFiles::open(place.base())?;
        if let Some(folder) = place.adapter() {
            adapter::put_on(&mut weights, folder)?;
        }
        let fields = defaults::add(config)?;
        let by_modules = purpose == Purpose::Scores && sentence_transformers::scores_by_modules(&place)?;
        // The model itself has no head then.
        let of_model = if by_modules { Purpose::Vectors } else { purpose };
        let (config, mut spec) = families::read(&fields, &weights, &mut doubts, of_model)?;
        defaults::hold(&fields, &weights, &spec)?;
        let token_head = token_heads::find(&place, &spec, purpose)?;
        let has_token_head = token_head.is_some();
        let of_modules = by_modules
            .then(|| SentenceTransformers::read_reranker_of_modules(&place, config.architecture))
            .transpose()?;
        if let Some(pooling) = of_modules.as_ref().and_then(|(files, _)| files.pooling) {
            spec.head = Some(HeadSpec { pooling, logits: Logits::Label });
        }
        let (sentence_transformers, scoring) = match &spec.head {
            None => {
                let files = &place;
                let read =
                    SentenceTransformers::read(files, config.architecture, &spec, purpose, token_head)?;
                (read, None)
            }
            Some(head) => {
                let (files, own) =
                    of_modules.map_or_else(|| SentenceTransformers::read_reranker(&place), Ok)?;
                let scoring = Scoring::read(&place, &fields, head, &own, &files)?;
                (files, Some(scoring))
            }
        };
        let late = match purpose {
            Purpose::TokenVectors if has_token_head => Some(LateInteraction::plain()),
            Purpose::TokenVectors => Some(LateInteraction::read(&place, &fields, &spec)?),
            _ => None,
        };
        if purpose == Purpose::Sparse && !has_token_head {
            marks::require_mlm(&place, &fields)?;
            spec.mlm = Some(families::mlm::read(&fields, &weights, &spec, &sentence_transformers)?);
        }
        doubts.extend(strict::hold(&mut weights, &config, &spec, &quantization, &place)?);
        Ok(Self {
            place,
            config,
            spec,
            purpose,
            scoring,
            late,
            sentence_transformers,
            quantization,
            weights,
            doubts,
            given_fields,
            unknown_fields,
        })
    }

    /// The directory. For the built-in model it is a name that messages show instead.
    pub fn dir(&self) -> &Path {
        self.place.root()
    }

    /// Where its files are.
    pub(crate) fn place(&self) -> &Files {
        &self.place
    }

    /// The model's geometry.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What the model is.
    pub(crate) fn spec(&self) -> &spec::ModelSpec {
        &self.spec
    }

    /// How it makes scores, where it was opened as a reranker.
    pub(crate) fn scoring(&self) -> Option<&Scoring> {
        self.scoring.as_ref()
    }

    /// What it was opened for.
    pub(crate) fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// How queries and documents are read, where it was opened for vectors of tokens.
    pub(crate) fn late(&self) -> Option<&LateInteraction> {
        self.late.as_ref()
    }

    /// Makes the logits of these tokens the ones that a reranker's pairs get, where its answers are tokens.
    pub(crate) fn answer(&mut self, ids: &[u32]) {
        scoring::answer(&mut self.spec, ids);
    }

    /// What the pooled vector goes through: what the files name, or a reranker's own head.
    pub(crate) fn modules(&self) -> Cow<'_, [ModuleSpec]> {
        let named = &self.sentence_transformers.behind;
        match self.spec.head {
            Some(_) if named.is_empty() => self.spec.behind.iter().map(ModuleSpec::of_weights).collect(),
            _ => Cow::Borrowed(named),
        }
    }

    /// What the sentence-transformers files say.
    pub fn sentence_transformers(&self) -> &SentenceTransformers {
        &self.sentence_transformers
    }

    /// What this crate leaves out of the checkpoint, though it may change vectors. Loading refuses such a checkpoint
    /// unless [`LoadOptions::lenient`](crate::LoadOptions::lenient) is set.
    pub fn doubts(&self) -> &[Doubt] {
        &self.doubts
    }

    /// Fields of `config.json` that this crate does not know and takes for harmless: they turn nothing on, and their
    /// names are not about a model's arithmetic.
    pub fn unknown_fields(&self) -> &[String] {
        &self.unknown_fields
    }

    /// Fields of `config.json` that are there and not null.
    pub(crate) fn given_fields(&self) -> &BTreeSet<String> {
        &self.given_fields
    }

    /// Bytes of all weights files.
    pub fn weights_bytes(&self) -> u64 {
        self.weights.files.iter().map(|file| file.len() as u64).sum()
    }

    /// All weights files.
    pub(crate) fn open_weights(&self) -> Vec<Arc<OpenFile>> {
        self.weights.files.clone()
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

    /// How matrices are stored: for each kind of matrix (`q_proj`, `embed_tokens`, ..), the number of matrices in each
    /// form. Vectors are left out.
    ///
    /// # Errors
    /// When weights and `quantization` contradict each other.
    pub fn storage_by_kind(&self) -> Result<BTreeMap<String, BTreeMap<String, usize>>, CheckpointError> {
        let mut kinds: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        for (name, entry) in &self.weights.tensors {
            let Some(path) = name.strip_suffix(".weight") else { continue };
            if entry.shape.len() != 2 {
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

    /// Number of parameters that the embedder uses. Scales and biases of quantised groups don't count.
    ///
    /// # Errors
    /// When weights and `quantization` contradict each other.
    pub fn parameters(&self) -> Result<u64, CheckpointError> {
        let mut sum = 0;
        for (name, entry) in &self.weights.tensors {
            let path = name.rsplit_once('.').map_or(name.as_str(), |(path, _)| path);
            if name.ends_with(".scales") || name.ends_with(".biases") {
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
        self.weights.tensors.iter().map(|(name, entry)| (name.as_str(), entry.nbytes))
    }

    /// The type of the tensor `name`, if there is one that MLX has too.
    pub(crate) fn dtype_of(&self, name: &str) -> Option<Dtype> {
        self.weights.tensors.get(name)?.mlx_dtype()
    }

    /// How the matrix `path.weight` is quantised, if it is.
    pub(crate) fn quantization_of(&self, path: &str) -> Result<Option<Quantization>, CheckpointError> {
        let stored = stored(&self.weights, &self.spec, path);
        self.quantization.of(path, stored.as_ref()).map_err(|reason| {
            CheckpointError::UnsupportedQuantization {
                path: self.place.base().path(CONFIG),
                tensor: path.to_owned(),
                reason,
            }
        })
    }
}

/// How the file has the matrix at `path`, where it has scales.
fn stored(weights: &TensorFiles, spec: &spec::ModelSpec, path: &str) -> Option<Stored> {
    let scales = weights.tensors.get(&format!("{path}.scales"))?;
    let columns = |entry: &TensorEntry| entry.shape.last().copied().unwrap_or(0);
    Some(Stored {
        inputs: parts::inputs(spec, path),
        packed: weights.tensors.get(&format!("{path}.weight")).map_or(0, columns),
        groups: columns(scales),
        byte_scales: scales.mlx_dtype() == Some(Dtype::U8),
    })
}

/// A tensor's or matrix's name without what some checkpoints put before all of them: the model's place in a larger one.
fn without_prefix(name: &str) -> &str {
    // model2vec's table, by sentence-transformers' name.
    if name == "embeddings" {
        return "embedding.weight";
    }
    let prefixes = [
        "model.",
        "language_model.",
        "bert.",
        "roberta.",
        "electra.",
        "distilbert.",
        "mpnet.",
        "gte.",
        "new.",
    ];
    match prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        Some(rest) => without_prefix(rest),
        None => name,
    }
}
