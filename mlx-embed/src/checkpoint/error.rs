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
    /// The weights have a format that this crate does not read.
    #[error("{}: the folder holds {format}, and no safetensors; {remedy}", path.display())]
    WeightsFormat {
        /// The file.
        path: PathBuf,
        /// The format.
        format: &'static str,
        /// What to do instead.
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
    /// A field's value makes no sense, or asks for something that this crate does not do.
    #[error("{}: `{field}` {reason}", path.display())]
    InvalidField {
        /// The file.
        path: PathBuf,
        /// The field; dots separate levels.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The model is of a family that this crate does not have.
    #[error("{}: model_type `{model_type}` is not supported; supported are {}", path.display(), supported_types())]
    UnsupportedArchitecture {
        /// The file.
        path: PathBuf,
        /// The family's name in the file.
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
    /// A file of torch.save is damaged, or holds something other than a state dict of plain tensors.
    #[error("{}: {reason}; save its tensors as safetensors instead, with safetensors.torch.save_file(torch.load(FILE, weights_only=True), FILE)", path.display())]
    NotStateDict {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is not enough memory for a matrix.
    #[error("{}: no memory to pack {tensor}: {source}", path.display())]
    Memory {
        /// The checkpoint.
        path: PathBuf,
        /// The matrix.
        tensor: String,
        /// The system's reason.
        r#source: io::Error,
    },
    /// The weights file is shorter or longer than its header says.
    #[error("{}: the header describes {expected} bytes but the file has {found}; it is truncated or damaged, fetch it again", path.display())]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// Length by the header, in bytes.
        expected: u64,
        /// Length on disk, in bytes.
        found: u64,
    },
    /// The header describes a tensor that can't be.
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
    /// A tensor's shape is not the one that the config asks for.
    #[error("{}: tensor `{tensor}` has shape {found:?}, the config asks for {expected:?}", path.display())]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Shape by the config.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor's element type can't be used.
    #[error("{}: tensor `{tensor}` is of type {found}, but has to be {expected}", path.display())]
    WrongDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Types that can be used.
        expected: &'static str,
        /// Type in the file.
        found: String,
    },
    /// A quantisation that MLX does not have, or one that contradicts the weights.
    #[error("{}: quantisation of `{tensor}`: {reason}", path.display())]
    UnsupportedQuantization {
        /// The config or weights file.
        path: PathBuf,
        /// The matrix, by its path in the model.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// The weights have a tensor that this crate does not use.
    #[error("{}: tensor `{tensor}` is not part of the model that config.json describes: it looks like {looks_like}; {LENIENT} leaves it out, which may change the vectors", path.display())]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// The tensor, as the file names it.
        tensor: String,
        /// What it may be, and what to do.
        looks_like: String,
    },
    /// A file asks for something that this crate does not do, and that may change vectors.
    #[error("{}: `{field}` {reason}; {LENIENT} leaves it out, which may change the vectors", path.display())]
    UnknownField {
        /// The file.
        path: PathBuf,
        /// The field; dots separate levels.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The index names a weights file that doesn't exist.
    #[error("{}: names the shard {shard}, which is missing", path.display())]
    MissingShard {
        /// The index.
        path: PathBuf,
        /// The shard's file name.
        shard: String,
    },
    /// MLX could not make an array of a tensor.
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
    // What has no config.json has no model_type there.
    let names = super::Architecture::ALL.map(|(name, ..)| name);
    let names: Vec<&str> = names.into_iter().filter(|name| *name != super::Architecture::STATIC).collect();
    names.join(", ")
}
