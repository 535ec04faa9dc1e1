//! What an embedder is made of, for logs and for `mlx-embed inspect`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use crate::checkpoint::{Architecture, DenseActivation, Doubt, ModelConfig, Scoring, SentenceTransformers};
use crate::mlx::Backend;
use crate::mlx::CompiledKernels;
use crate::model::{Precision, Rounding};
use crate::options::LoadOptions;
use crate::pooling::Pooling;
use crate::text::{AddedTokenInfo, EndToken, EndTokenSource, TruncationSide};

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

/// The token at the end of every text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EndTokenInfo {
    /// Its id.
    pub id: u32,
    /// Its text, such as `<|endoftext|>`.
    pub token: String,
    /// Who appends it.
    pub appended_by: EndTokenSource,
}

/// How a reranker makes scores of pairs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RerankerInfo {
    /// How a query and a document become one text: `tokenizer` for the template of a pair in tokenizer.json, or
    /// `qwen3-reranker` for the conversation that this model was trained with, or `chat-template` for the checkpoint's own.
    pub pairs: &'static str,
    /// What goes before the query unless a call says otherwise.
    pub instruction: Option<String>,
    /// The tokens whose logits make the score, that for "yes" last. Empty where the logit of a label makes it.
    pub answers: Vec<String>,
    /// The function of a pair's logit, or of the difference of its answers' logits, that gives the score, unless a call says
    /// otherwise.
    pub activation: DenseActivation,
}

/// How a [`MultiVectorEmbedder`](crate::MultiVectorEmbedder) reads queries and documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LateInteractionInfo {
    /// The token behind a query's first one.
    pub query_marker: Option<String>,
    /// The token behind a document's first one.
    pub document_marker: Option<String>,
    /// Most tokens of a query, its marker among them.
    pub query_tokens: usize,
    /// Most tokens of a document, its marker among them.
    pub document_tokens: usize,
    /// Whether queries are filled up with mask tokens, which have vectors too: to [`LateInteractionInfo::query_tokens`], or
    /// where sentence-transformers' `query_expansion` has the strategy `min` to its `length`.
    pub expands_queries: bool,
    /// Whether tokens attend to these mask tokens.
    pub attends_to_expansion: bool,
    /// How many tokens of the vocabulary get no vector in a document.
    pub skipped_tokens: usize,
}

/// What an [`Embedder`](crate::Embedder) or a [`Reranker`](crate::Reranker) is made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Info {
    /// The checkpoint directory.
    pub model: PathBuf,
    /// The decoder's geometry.
    pub config: ModelConfig,
    /// Number of parameters that embedding uses.
    pub parameters: u64,
    /// Bytes of the weights files.
    pub weights_bytes: u64,
    /// Their names; [`Embedder::weights_sha256`](crate::Embedder::weights_sha256) has their hashes.
    pub weights_files: Vec<String>,
    /// How matrices are stored: for each kind of matrix, the number of matrices in each form.
    pub storage: BTreeMap<String, BTreeMap<String, usize>>,
    /// How hidden states become a vector.
    pub pooling: Pooling,
    /// What decided that.
    pub pooling_source: Source,
    /// Numbers in a vector: as many as the last module behind pooling gives, or the hidden size once for each way of
    /// pooling.
    pub embedding_size: usize,
    /// Of a [`Reranker`](crate::Reranker), how pairs become scores; its pooling and what stands behind that are its
    /// head's. `None` for an embedder.
    pub reranker: Option<RerankerInfo>,
    /// Of a [`MultiVectorEmbedder`](crate::MultiVectorEmbedder), how queries and documents are read.
    pub late_interaction: Option<LateInteractionInfo>,
    /// Whether vectors are scaled to length 1 unless a call says otherwise.
    pub normalize: bool,
    /// Pooling, prompts and limits of the sentence-transformers files.
    pub sentence_transformers: SentenceTransformers,
    /// What was left out of the checkpoint though it may change vectors, which only happens with
    /// [`LoadOptions::lenient`](crate::LoadOptions::lenient).
    pub warnings: Vec<Doubt>,
    /// Fields of `config.json` that this crate doesn't know, and that by their names change nothing.
    pub unknown_fields: Vec<String>,
    /// What decided each setting of the model and its vectors: a file of the checkpoint with its fields, the caller, or a
    /// default.
    pub decided_by: BTreeMap<&'static str, String>,
    /// The token at the end of every text, if there is one.
    pub end_token: Option<EndTokenInfo>,
    /// Longest input in tokens, end token included; longer ones are cut, and their results say so.
    pub max_tokens: usize,
    /// What set that limit: the caller, or a field of one of the checkpoint's files.
    pub max_tokens_source: String,
    /// The side on which longer ones are cut.
    pub truncation_side: TruncationSide,
    /// Tokens that the files beside `tokenizer.json` add to it.
    pub added_tokens: Vec<AddedTokenInfo>,
    /// Most bytes that a text may have, prompt included; longer ones are errors.
    pub max_text_bytes: usize,
    /// Most tokens in a batch.
    pub batch_tokens: usize,
    /// The kind of device that runs the model.
    pub backend: Backend,
    /// The family of kernels that computes, or `mlx` for MLX's own operations.
    pub kernels: &'static str,
    /// Which kernels were compiled at run time; `None` where none are.
    pub compiled: Option<CompiledKernels>,
    /// How much this crate's kernels round; `None` where they don't run.
    pub precision: Option<Precision>,
    /// What they round, and to how many bits.
    pub rounding: Rounding,
    /// Version of the MLX core.
    pub mlx_version: String,
    /// Version of mlx-c.
    pub mlx_c_version: String,
}

/// What decided each setting, as [`Info::decided_by`] has it; `given` are the fields of config.json.
pub(crate) fn decided_by(
    info: &Info,
    given: &BTreeSet<String>,
    options: &LoadOptions,
    scoring: Option<&Scoring>,
) -> BTreeMap<&'static str, String> {
    let (config, files) = (&info.config, &info.sentence_transformers);
    let caller = || "the caller".to_owned();
    let pooling = match info.pooling_source {
        Source::Caller => caller(),
        Source::Checkpoint => files.pooling_file.clone().unwrap_or_else(|| "modules.json".into()),
        Source::Default => "default, as no file says it".into(),
    };
    let field = |fields: &[&str], otherwise: &str| {
        let named: Vec<&str> = fields.iter().copied().filter(|field| given.contains(*field)).collect();
        if named.is_empty() { otherwise.to_owned() } else { format!("config.json ({})", named.join(", ")) }
    };
    let normalize = match files.normalize {
        _ if config.architecture == Architecture::Model2Vec => field(&["normalize"], "model2vec's default"),
        Some(_) => "modules.json".to_owned(),
        None => "default, as there is no modules.json".into(),
    };
    let prompt = match &files.default_prompt_name {
        Some(_) => "config_sentence_transformers.json (default_prompt_name)",
        None => "default, as no file names one",
    };
    let end_token = match info.end_token.as_ref().map(|end| end.appended_by) {
        Some(EndTokenSource::Tokenizer) => "tokenizer.json (post_processor)".into(),
        Some(EndTokenSource::Embedder) if matches!(options.end_token, EndToken::Token(_)) => caller(),
        Some(EndTokenSource::Embedder) => "config.json (eos_token_id), as the tokenizer appends none".into(),
        None => "tokenizer.json, which appends none".into(),
    };
    let family = format!("the family, {}", config.architecture);
    let attention = ["is_causal", "use_bidirectional_attention", "auto_map"];
    let windows = ["layer_types", "use_sliding_window", "sliding_window", "max_window_layers"];
    let mut all = BTreeMap::from([
        ("attention", field(&attention, &family)),
        ("biases", field(&["attention_bias", "mlp_bias"], &family)),
        ("end_token", end_token),
        ("head_dim", field(&["head_dim"], "the weights' shapes and the family")),
        ("kv_heads", field(&["num_key_value_heads"], "the weights' shapes and the family")),
        ("max_tokens", info.max_tokens_source.clone()),
        ("normalize", normalize),
        ("pooling", pooling),
        ("prompt", prompt.to_owned()),
        ("quantization", field(&["quantization", "quantization_config"], "the weights: none is quantised")),
        ("rope", field(&["rope_theta", "rope_scaling", "rope_parameters", "rope_traditional"], &family)),
        ("windows", field(&windows, "default")),
    ]);
    if let Some(scoring) = scoring {
        all.insert("activation", scoring.activation_by.clone());
        all.insert("pooling", field(&["architectures", "classifier_pooling"], &family));
        all.insert("end_token", "the form of a pair".into());
        all.remove("normalize");
    }
    if info.late_interaction.is_some() {
        if info.normalize {
            all.insert("normalize", "late interaction, whose vectors have length 1".into());
        }
        all.remove("pooling");
    }
    all
}
