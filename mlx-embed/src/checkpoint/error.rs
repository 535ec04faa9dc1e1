//! What can be wrong with a checkpoint directory.

use std::io;
use std::path::PathBuf;

/// How to turn doubts into warnings.
const LENIENT: &str = "--lenient (LoadOptions::lenient)";

/// Why a checkpoint could not be opened. Each message names the file and, where there is one, the tensor or field.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The directory isn't there or isn't a directory.
    #[error("{}: no checkpoint directory; pass the folder that holds config.json and model.safetensors", path.display())]
    NoDirectory {
        /// What was given.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        r#source: io::Error,
    },
    /// A file that every checkpoint needs is missing.
    #[error("{}: missing; {hint}", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
        /// Where it comes from.
        hint: &'static str,
    },
    /// The weights are there in a format that this crate does not read.
    #[error("{}: the folder holds {format}, and no safetensors; {remedy}", path.display())]
    WeightsFormat {
        /// The file.
        path: PathBuf,
        /// What it is.
        format: &'static str,
        /// What would do.
        remedy: &'static str,
    },
    /// A JSON file can't be parsed.
    #[error("{}: not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        r#source: serde_json::Error,
    },
    /// A field that the model needs is missing.
    #[error("{}: needs the field `{field}`", path.display())]
    MissingField {
        /// The file.
        path: PathBuf,
        /// The field; dots separate levels.
        field: String,
    },
    /// A field has a value that makes no sense.
    #[error("{}: `{field}` {reason}", path.display())]
    InvalidField {
        /// The file.
        path: PathBuf,
        /// The field; dots separate levels.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The model is of a kind that this crate does not build.
    #[error("{}: model_type `{model_type}` is not supported; supported are {}", path.display(), supported_types())]
    UnsupportedArchitecture {
        /// The file.
        path: PathBuf,
        /// The kind it names.
        model_type: String,
    },
    /// The weights file is not safetensors, or its header is broken.
    #[error("{}: not a valid safetensors file: {reason}", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file of torch.save is damaged, or holds something else than a state dict of plain tensors.
    #[error("{}: {reason}; save its tensors as safetensors instead, with safetensors.torch.save_file(torch.load(FILE, weights_only=True), FILE)", path.display())]
    NotStateDict {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system has no memory for a matrix.
    #[error("{}: no memory to pack {tensor}: {source}", path.display())]
    Memory {
        /// The checkpoint.
        path: PathBuf,
        /// The matrix.
        tensor: String,
        /// The system's reason.
        r#source: io::Error,
    },
    /// The weights file ends too early, or goes on too long.
    #[error("{}: the header describes {expected} bytes but the file has {found}; it is truncated or damaged, fetch it again", path.display())]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// Length by the header.
        expected: u64,
        /// Length on disk.
        found: u64,
    },
    /// The header describes a tensor in an impossible way.
    #[error("{}: tensor `{tensor}`: {reason}", path.display())]
    InvalidTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// The model needs a tensor that no weights file holds.
    #[error("{}: no tensor `{tensor}` in the weights; the config and the weights do not belong together, or a shard is incomplete", path.display())]
    MissingTensor {
        /// The checkpoint directory.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor's shape is not what the config asks for.
    #[error("{}: tensor `{tensor}` has shape {found:?}, the config asks for {expected:?}", path.display())]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// By the config.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// A tensor's element type can't be used.
    #[error("{}: tensor `{tensor}` is of type {found}, needed is {expected}", path.display())]
    WrongDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What would do.
        expected: &'static str,
        /// In the file.
        found: String,
    },
    /// A quantisation that MLX does not have, or that contradicts the weights.
    #[error("{}: quantisation of `{tensor}`: {reason}", path.display())]
    UnsupportedQuantization {
        /// The config or weights file.
        path: PathBuf,
        /// The matrix, by its path in the model.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// The weights hold a tensor that this crate does not compute with.
    #[error("{}: tensor `{tensor}` is not part of the model that config.json describes: it looks like {looks_like}; leaving it out may give other vectors, which {LENIENT} would do", path.display())]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// The tensor, as the file names it.
        tensor: String,
        /// What it may be, and what would do.
        looks_like: String,
    },
    /// A file says something that this crate does not do, and that may change vectors.
    #[error("{}: `{field}` {reason}; leaving it out may give other vectors, which {LENIENT} would do", path.display())]
    UnknownField {
        /// The file.
        path: PathBuf,
        /// The field; dots separate levels.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The index names a weights file that isn't there.
    #[error("{}: names the shard {shard}, which is missing", path.display())]
    MissingShard {
        /// The index.
        path: PathBuf,
        /// The shard's file name.
        shard: String,
    },
    /// MLX could not take a tensor.
    #[error("{}: tensor `{tensor}`: {source}", path.display())]
    Mlx {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// MLX's reason.
        r#source: crate::mlx::MlxError,
    },
}

fn supported_types() -> String {
    super::Architecture::ALL.map(|(name, ..)| name).join(", ")
}
