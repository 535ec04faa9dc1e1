//! `config.json`: the model's geometry.

use serde::Serialize;
use serde_json::Value;

use super::CheckpointError;
use super::doubt::Doubt;
use super::files::TensorFiles;
use super::json::JsonObject;
use super::rope::{QueryGrowth, RopeScaling};
use super::spec::Activation;
use super::{rope_fields, sight};

/// Families of models. All are run by one decoder, as settings of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// Qwen2: Llama with biases on the query, key and value projections.
    Qwen2,
    /// Qwen3: Llama with an RMSNorm on each head of queries and keys.
    Qwen3,
    /// Qwen3 without the causal mask, as in pplx-embed.
    PplxQwen3,
    /// Llama.
    Llama,
    /// Llama without the causal mask, as in llama-nemotron-embed.
    LlamaBidirectional,
    /// EuroBERT: Llama without the causal mask.
    EuroBert,
    /// Mistral: Llama with sliding-window attention.
    Mistral,
    /// Ministral 3: Mistral with queries that grow with their position, as in Nemotron-3-Embed.
    Ministral3,
    /// Gemma: Llama with GeGLU, norms that multiply by 1 + weight, and scaled embeddings.
    Gemma,
    /// Gemma 3's text model, which EmbeddingGemma has: four norms a layer, GeGLU, sliding windows.
    Gemma3,
    /// EmbeddingGemma 2's text model: wider heads in layers without a window, and an input of each layer's own.
    EmbeddingGemma2,
    /// BERT: absolute positions, norms after the residual connections, GELU.
    Bert,
    /// RoBERTa, XLM-RoBERTa and CamemBERT: BERT with positions counted from the padding id.
    Roberta,
    /// ELECTRA: BERT with other heads.
    Electra,
    /// DistilBERT: BERT without token types.
    DistilBert,
    /// MPNet: BERT with a bias by distance in its scores, and positions as RoBERTa's.
    MpNet,
    /// ModernBERT: norms before attention and feed-forward part, rotary positions, GeGLU, sliding windows.
    ModernBert,
    /// nomic-bert: BERT with rotary positions and SwiGLU.
    NomicBert,
    /// Alibaba's gte, `new` in its own configs: BERT with rotary positions and GeGLU.
    Gte,
    /// T5's encoder: norms before attention and feed-forward part, and a bias by distance in its scores.
    T5,
    /// jina-embeddings-v3 as transformers has it: XLM-RoBERTa with rotary positions.
    JinaV3,
    /// StaticEmbedding of sentence-transformers: the mean of a table's rows. It has no layers, and no `config.json`.
    StaticEmbedding,
    /// model2vec, as in potion: the same, without unknown tokens.
    Model2Vec,
}

impl Architecture {
    /// Each with its `model_type` and what transformers' classes begin with. Several types may be one family.
    pub(super) const ALL: [(&str, Self, &str); 26] = [
        ("qwen2", Self::Qwen2, "Qwen2"),
        ("qwen3", Self::Qwen3, "Qwen3"),
        ("bidirectional_pplx_qwen3", Self::PplxQwen3, "PPLXQwen3"),
        ("llama", Self::Llama, "Llama"),
        ("llama_bidirec", Self::LlamaBidirectional, "LlamaBidirectional"),
        ("eurobert", Self::EuroBert, "EuroBert"),
        ("mistral", Self::Mistral, "Mistral"),
        ("ministral3", Self::Ministral3, "Ministral3"),
        ("embedding_gemma2", Self::EmbeddingGemma2, "EmbeddingGemma2"),
        ("gemma", Self::Gemma, "Gemma"),
        ("gemma3_text", Self::Gemma3, "Gemma3Text"),
        ("bert", Self::Bert, "Bert"),
        ("roberta", Self::Roberta, "Roberta"),
        ("xlm-roberta", Self::Roberta, "XLMRoberta"),
        ("camembert", Self::Roberta, "Camembert"),
        ("electra", Self::Electra, "Electra"),
        ("distilbert", Self::DistilBert, "DistilBert"),
        ("mpnet", Self::MpNet, "MPNet"),
        ("modernbert", Self::ModernBert, "ModernBert"),
        ("nomic_bert", Self::NomicBert, "NomicBert"),
        ("gte", Self::Gte, "Gte"),
        ("new", Self::Gte, "New"),
        ("jina_embeddings_v3", Self::JinaV3, "JinaEmbeddingsV3"),
        ("t5", Self::T5, "T5"),
        (Self::STATIC, Self::StaticEmbedding, "StaticEmbedding"),
        ("model2vec", Self::Model2Vec, "Static"),
    ];

    /// What stands for the `model_type` that a StaticEmbedding hasn't.
    pub(super) const STATIC: &str = "static_embedding";

    pub(super) fn read(config: &JsonObject) -> Result<Self, CheckpointError> {
        let model_type: String = config.required("model_type")?;
        match Self::ALL.iter().find(|(name, ..)| *name == model_type) {
            Some((_, architecture, _)) => Ok(*architecture),
            None => {
                Err(CheckpointError::UnsupportedArchitecture { path: config.path().to_owned(), model_type })
            }
        }
    }

    /// Whether its layers are those of a Qwen3.
    pub(super) fn is_qwen3(self) -> bool {
        matches!(self, Self::Qwen3 | Self::PplxQwen3)
    }

    /// Whether it has Gemma's norms, activation and scaled embeddings.
    pub(super) fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma | Self::Gemma3)
    }

    /// Whether its layers are those of a Llama, more or less.
    pub(crate) fn is_decoder(self) -> bool {
        use Architecture as A;
        !matches!(
            self,
            A::Bert
                | A::Roberta
                | A::Electra
                | A::DistilBert
                | A::MpNet
                | A::ModernBert
                | A::NomicBert
                | A::Gte
                | A::JinaV3
                | A::T5
                | A::StaticEmbedding
                | A::Model2Vec
        )
    }

    /// Whether a text's vector is the mean of its tokens' rows, and texts are read by `tokenizer.json` alone.
    pub(crate) fn is_static(self) -> bool {
        matches!(self, Self::StaticEmbedding | Self::Model2Vec)
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named = Self::ALL.iter().find(|(_, architecture, _)| architecture == self);
        f.write_str(named.map_or("unknown", |(name, ..)| name))
    }
}

impl Serialize for Architecture {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The model's geometry, as `config.json` gives it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Width of the hidden states.
    pub hidden_size: i32,
    /// Number of layers.
    pub layers: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: i32,
    /// Number of query heads.
    pub heads: i32,
    /// Number of key and value heads; it divides `heads`. Layers of EmbeddingGemma 2 without a window have another.
    pub kv_heads: i32,
    /// Width of a head; not always `hidden_size / heads`. Layers of EmbeddingGemma 2 without a window have another.
    pub head_dim: i32,
    /// Rows of the embedding table.
    pub vocab_size: i32,
    /// Longest input that the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Whether a token sees only those before it. Otherwise all tokens of a text see each other.
    pub causal: bool,
    /// For each layer, how many tokens a token sees, itself included; `None` means no limit. With a window of `w` the
    /// token at position `i` sees those at `j` with `i - w < j <= i`.
    pub layer_windows: Vec<Option<usize>>,
    /// Whether the projections of queries, keys and values have a bias, in all layers.
    pub qkv_bias: bool,
    /// Whether attention's output projection has a bias, in all layers.
    pub o_bias: bool,
    /// Whether the gate, up and down projections have a bias, in all layers.
    pub mlp_bias: bool,
    /// Whether each head of queries and keys has an RMSNorm, in all layers.
    pub head_norms: bool,
    /// Epsilon of all norms.
    pub norm_eps: f32,
    /// Base of the rotary frequencies; `None` for models without rotary positions.
    pub rope_theta: Option<f32>,
    /// The base in layers with a window; `None` if it is `rope_theta`.
    pub rope_local_theta: Option<f32>,
    /// Scores of attention are divided by the square root of this number; `None` if that is `head_dim`.
    pub query_pre_attn_scalar: Option<f32>,
    /// How queries grow with their position; `None` if they don't.
    pub query_growth: Option<QueryGrowth>,
    /// Whether rotary positions pair neighbours, as in the paper, rather than halves.
    pub rope_traditional: bool,
    /// How rotary frequencies change for longer texts.
    pub rope_scaling: RopeScaling,
    /// The token that ends a text; `None` if the config names none.
    pub eos_token_id: Option<u32>,
}

/// What encoders say of themselves, all of them.
pub(super) struct Encoder {
    pub(super) architecture: Architecture,
    pub(super) hidden_size: i32,
    pub(super) layers: usize,
    pub(super) intermediate_size: i32,
    pub(super) heads: i32,
    pub(super) head_dim: i32,
    pub(super) vocab_size: i32,
    pub(super) longest: usize,
    pub(super) norm_eps: f32,
    pub(super) eos_token_id: Option<u32>,
}

impl ModelConfig {
    /// All tokens see all, with as many heads of keys as of queries, without biases, norms of heads and rotary positions.
    pub(super) fn of(encoder: Encoder) -> Self {
        Self {
            architecture: encoder.architecture,
            hidden_size: encoder.hidden_size,
            layers: encoder.layers,
            intermediate_size: encoder.intermediate_size,
            heads: encoder.heads,
            kv_heads: encoder.heads,
            head_dim: encoder.head_dim,
            vocab_size: encoder.vocab_size,
            max_position_embeddings: encoder.longest,
            causal: false,
            layer_windows: vec![None; encoder.layers],
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            head_norms: false,
            norm_eps: encoder.norm_eps,
            rope_theta: None,
            rope_local_theta: None,
            query_pre_attn_scalar: None,
            query_growth: None,
            rope_traditional: false,
            rope_scaling: RopeScaling::None,
            eos_token_id: encoder.eos_token_id,
        }
    }

    pub(super) fn read_decoder(
        config: &JsonObject,
        weights: &TensorFiles,
        doubts: &mut Vec<Doubt>,
    ) -> Result<Self, CheckpointError> {
        let architecture = Architecture::read(config)?;
        refuse_what_would_be_wrong(config, architecture)?;

        let hidden_size = positive(config, "hidden_size")?;
        let heads = positive(config, "num_attention_heads")?;
        let head_dim = head_dim(config, architecture, hidden_size, heads, weights)?;
        let kv_heads = kv_heads(config, heads, head_dim, weights)?;
        if heads % kv_heads != 0 {
            return Err(config.invalid(
                "num_attention_heads",
                format!("is {heads}, which num_key_value_heads ({kv_heads}) does not divide"),
            ));
        }
        if head_dim % 2 != 0 {
            return Err(
                config.invalid("head_dim", format!("is {head_dim}; rotary embedding needs an even one"))
            );
        }
        if heads.checked_mul(head_dim).is_none() {
            return Err(config.invalid("head_dim", "times num_attention_heads is too large"));
        }
        let norm_eps = epsilon(config, "rms_norm_eps", None)?;
        let max_position_embeddings = positive(config, "max_position_embeddings")? as usize;
        let layers = positive(config, "num_hidden_layers")? as usize;
        // Qwen2 has its biases whatever this key says; transformers and mlx-lm don't read it there.
        let attention_bias = architecture != Architecture::Qwen2 && flag(config, "attention_bias")?;
        let gemma3 = architecture == Architecture::Gemma3;
        let rope = rope_fields::read(config, architecture, head_dim, max_position_embeddings, doubts)?;
        Ok(Self {
            architecture,
            hidden_size,
            layers,
            intermediate_size: positive(config, "intermediate_size")?,
            heads,
            kv_heads,
            head_dim,
            vocab_size: positive(config, "vocab_size")?,
            max_position_embeddings,
            causal: sight::causal(config, architecture)?,
            layer_windows: sight::layer_windows(config, architecture, layers)?,
            qkv_bias: architecture == Architecture::Qwen2 || attention_bias,
            o_bias: attention_bias,
            mlp_bias: has_mlp_bias(architecture) && flag(config, "mlp_bias")?,
            head_norms: architecture.is_qwen3() || gemma3,
            norm_eps,
            rope_theta: Some(rope.theta),
            rope_local_theta: rope.local_theta,
            query_pre_attn_scalar: if gemma3 { Some(pre_attn_scalar(config)?) } else { None },
            query_growth: rope.query_growth,
            // mlx-lm's key, which its Qwen3 has not: there it is one of those that nobody knows.
            rope_traditional: keeps_rope_traditional(architecture) && flag(config, "rope_traditional")?,
            rope_scaling: rope.scaling,
            eos_token_id: eos_token_id(config),
        })
    }

    /// Whether a row's rotary frequencies depend on how long the padded batch is, so that only texts of one length
    /// may share a batch.
    pub(crate) fn frequencies_depend_on_length(&self, longest: usize) -> bool {
        matches!(self.rope_scaling, RopeScaling::Dynamic { .. }) && longest > self.max_position_embeddings
    }
}

/// Where mlx-lm reads `rope_traditional`.
fn keeps_rope_traditional(architecture: Architecture) -> bool {
    matches!(architecture, Architecture::Qwen2 | Architecture::Llama | Architecture::Mistral)
}

fn has_mlp_bias(architecture: Architecture) -> bool {
    matches!(architecture, Architecture::Llama | Architecture::LlamaBidirectional | Architecture::EuroBert)
}

fn pre_attn_scalar(config: &JsonObject) -> Result<f32, CheckpointError> {
    let field = "query_pre_attn_scalar";
    let value = config.optional(field)?.unwrap_or(256.0_f32);
    if value > 0.0 && value.is_finite() {
        Ok(value)
    } else {
        Err(config.invalid(field, format!("is {value}; it must be above 0")))
    }
}

/// A norm's epsilon.
pub(super) fn epsilon(
    config: &JsonObject,
    field: &str,
    default: Option<f32>,
) -> Result<f32, CheckpointError> {
    let eps: f32 = match (config.optional(field)?, default) {
        (Some(eps), _) | (None, Some(eps)) => eps,
        (None, None) => config.required(field)?,
    };
    if eps >= 0.0 && eps.is_finite() { Ok(eps) } else { Err(config.invalid(field, format!("is {eps}"))) }
}

/// Activations and caps under which this crate's graph would silently compute something else.
fn refuse_what_would_be_wrong(
    config: &JsonObject,
    architecture: Architecture,
) -> Result<(), CheckpointError> {
    let (wanted, name) = match architecture.is_gemma() {
        true => (Activation::GeluTanh, "gelu_pytorch_tanh"),
        false => (Activation::Silu, "silu"),
    };
    // Of the two transformers reads one in a Gemma.
    let fields: &[&str] = match architecture {
        Architecture::Gemma => &["hidden_act"],
        Architecture::Gemma3 => &["hidden_activation"],
        _ => &["hidden_act", "hidden_activation"],
    };
    for activation in fields {
        if let Some(found) = config.optional::<String>(activation)?
            && Activation::of_transformers(&found) != Some(wanted)
            // The first Gemmas' files say it for the approximation by tanh, and transformers takes it so.
            && !(architecture == Architecture::Gemma && found == "gelu")
        {
            return Err(
                config.invalid(activation, format!("is `{found}`; supported with this model_type is {name}"))
            );
        }
    }
    for cap in ["attn_logit_softcapping"] {
        if config.optional::<f32>(cap)?.is_some_and(|cap| cap != 0.0) {
            return Err(config.invalid(cap, "caps scores, which is not supported; Gemma 3 has null here"));
        }
    }
    Ok(())
}

pub(super) fn positive(config: &JsonObject, field: &str) -> Result<i32, CheckpointError> {
    let value: i64 = config.required(field)?;
    match i32::try_from(value) {
        Ok(value) if value > 0 => Ok(value),
        _ => Err(config.invalid(field, format!("is {value}; it must be between 1 and {}", i32::MAX))),
    }
}

/// Key and value heads. Where the config doesn't say, as with transformers a number of the family's or as many as query
/// heads, whichever the weights have.
fn kv_heads(
    config: &JsonObject,
    heads: i32,
    head_dim: i32,
    weights: &TensorFiles,
) -> Result<i32, CheckpointError> {
    let field = "num_key_value_heads";
    if config.raw(field).is_some() {
        return positive(config, field);
    }
    let rows = weights.rows("layers.0.self_attn.k_proj.weight");
    let fits = |count: i64| rows == usize::try_from(count.saturating_mul(i64::from(head_dim))).ok();
    let default = config.default_of(field).and_then(Value::as_i64).filter(|count| fits(*count));
    Ok(default.and_then(|count| i32::try_from(count).ok()).unwrap_or(heads))
}

/// The width of a head. Where the config doesn't say, as with transformers 128 in a Qwen3 or else the hidden size shared
/// out, whichever the weights have.
fn head_dim(
    config: &JsonObject,
    architecture: Architecture,
    hidden_size: i32,
    heads: i32,
    weights: &TensorFiles,
) -> Result<i32, CheckpointError> {
    const QWEN3: i32 = 128;
    const GEMMA: i32 = 256;
    const MINISTRAL3: i32 = 128;
    let field = "head_dim";
    if config.raw(field).is_some() {
        return positive(config, field);
    }
    match architecture {
        Architecture::Gemma | Architecture::Gemma3 => return Ok(GEMMA),
        // null stands for the hidden size shared out.
        Architecture::Ministral3 if !config.has(field) => return Ok(MINISTRAL3),
        _ => {}
    }
    let rows = weights.rows("layers.0.self_attn.q_proj.weight");
    let fits = |head_dim: i32| rows == usize::try_from(i64::from(heads) * i64::from(head_dim)).ok();
    let shared = (hidden_size % heads == 0).then_some(hidden_size / heads);
    match shared {
        Some(shared) if !architecture.is_qwen3() || fits(shared) && !fits(QWEN3) => Ok(shared),
        _ if architecture.is_qwen3() => Ok(QWEN3),
        _ => Err(config.invalid(
            "hidden_size",
            format!("is {hidden_size}, which is not a multiple of {heads} heads, and there is no head_dim"),
        )),
    }
}

/// A field that is true or false; missing and null mean false.
pub(super) fn flag(config: &JsonObject, field: &str) -> Result<bool, CheckpointError> {
    Ok(config.optional(field)?.unwrap_or(false))
}

/// The field may be one id or a list; the first of a list is the one that ends a document.
pub(super) fn eos_token_id(config: &JsonObject) -> Option<u32> {
    let value = config.raw("eos_token_id")?;
    let id = value.as_array().map_or(Some(value), |list| list.first())?;
    u32::try_from(id.as_u64()?).ok()
}
