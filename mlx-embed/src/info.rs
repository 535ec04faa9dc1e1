//! What an embedder is made of, for logs and for `mlx-embed inspect`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::checkpoint::{ModelConfig, SentenceTransformers};
use crate::mlx::Backend;
use crate::model::Precision;
use crate::pooling::Pooling;
use crate::text::{AddedTokenInfo, EndTokenSource, TruncationSide};

/// Where a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Source {
    /// The caller chose it.
    Caller,
    /// The checkpoint's files say it.
    Checkpoint,
    /// Neither; this crate's default.
    Default,
}

/// The token that ends every text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EndTokenInfo {
    /// Its id.
    pub id: u32,
    /// Its written form.
    pub token: String,
    /// Who appends it.
    pub appended_by: EndTokenSource,
}

/// What loading compiled for an NVIDIA GPU. Compiled code is kept: in the folder that the environment variable
/// `MLX_EMBED_CACHE` names, else in `mlx-embed` below the user's cache folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CompiledKernels {
    /// Kernels that were compiled now.
    pub anew: usize,
    /// All kernels of the model.
    pub of: usize,
    /// How long it took to compile or to read them.
    pub time: Duration,
}

/// What an [`Embedder`](crate::Embedder) is made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Info {
    /// The checkpoint directory.
    pub model: PathBuf,
    /// The decoder's geometry.
    pub config: ModelConfig,
    /// Parameters that embedding uses.
    pub parameters: u64,
    /// Bytes of the weights files.
    pub weights_bytes: u64,
    /// Their names; [`Embedder::weights_sha256`](crate::Embedder::weights_sha256) has their hashes.
    pub weights_files: Vec<String>,
    /// For each kind of matrix, how its matrices are stored and how many are stored so.
    pub storage: BTreeMap<String, BTreeMap<String, usize>>,
    /// How hidden states become a vector.
    pub pooling: Pooling,
    /// Who says so.
    pub pooling_source: Source,
    /// Whether vectors are scaled to length 1 unless a call says otherwise.
    pub normalize: bool,
    /// Pooling, prompts and limits of the sentence-transformers files.
    pub sentence_transformers: SentenceTransformers,
    /// The token that ends every text.
    pub end_token: Option<EndTokenInfo>,
    /// Longest input in tokens, end token included; longer ones are cut, and their results say so.
    pub max_tokens: usize,
    /// Who sets that limit: the caller, or a field of one of the checkpoint's files.
    pub max_tokens_source: String,
    /// The side on which longer ones are cut.
    pub truncation_side: TruncationSide,
    /// Tokens that texts are searched for, though `tokenizer.json` doesn't have them as such.
    pub added_tokens: Vec<AddedTokenInfo>,
    /// Most bytes that a text may have, prompt included; longer ones are errors.
    pub max_text_bytes: usize,
    /// Most tokens that run at once.
    pub batch_tokens: usize,
    /// What runs the model.
    pub backend: Backend,
    /// The family of kernels that computes, or `mlx` for MLX's own operations.
    pub kernels: &'static str,
    /// What was compiled for them; `None` where nothing is.
    pub compiled: Option<CompiledKernels>,
    /// How closely this crate's kernels follow 4- and 8-bit checkpoints; `None` where they don't run.
    pub precision: Option<Precision>,
    /// Version of the MLX core.
    pub mlx_version: String,
    /// Version of mlx-c.
    pub mlx_c_version: String,
}
