//! T5's encoder: RMSNorm before each half, scores that are not scaled and depend on distance, no biases.

use super::{either, heads, table};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::config::{self, Architecture, Encoder, ModelConfig};
use crate::checkpoint::files::TensorFiles;
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::spec::{
    Activation, AttentionSpec, EmbeddingSpec, HalfNorms, HeadsSpec, LayerSpec, MlpSpec, ModelSpec, NormKind,
    NormSpec, PartSpec, ProjectionSpec, RelativeSpec, Sees,
};

/// Nothing in the model ends with a text's length; this is what distances are kept for.
const LONGEST: usize = 8192;

pub(super) fn read(
    config: &JsonObject,
    weights: &TensorFiles,
) -> Result<(ModelConfig, ModelSpec), CheckpointError> {
    let size = |own: &str, theirs: &str| config::positive(config, either(config, own, theirs)?);
    let heads_count = size("num_heads", "num_attention_heads")?;
    let head_dim = size("d_kv", "head_dim")?;
    if heads_count.checked_mul(head_dim).is_none() {
        return Err(config.invalid("d_kv", "times num_heads is too large"));
    }
    let layers = size("num_layers", "num_hidden_layers")? as usize;
    let (activation, gated) = feed_forward(config)?;
    if config::flag(config, "is_decoder")? {
        return Err(config
            .invalid("is_decoder", "is true, by which tokens see those before them only in transformers"));
    }
    let own = ModelConfig::of(Encoder {
        architecture: Architecture::T5,
        hidden_size: size("d_model", "hidden_size")?,
        layers,
        intermediate_size: config::positive(config, "d_ff")?,
        heads: heads_count,
        head_dim,
        vocab_size: config::positive(config, "vocab_size")?,
        longest: LONGEST,
        norm_eps: config::epsilon(config, "layer_norm_epsilon", Some(1e-6))?,
        eos_token_id: config::eos_token_id(config),
    });
    let [hidden, intermediate] = [own.hidden_size, own.intermediate_size].map(|size| size as usize);
    let norm = |path: String| NormSpec {
        weight: format!("{path}.weight"),
        bias: None,
        size: hidden,
        kind: NormKind::Rms { offset: 0.0 },
        eps: own.norm_eps,
    };
    let heads: HeadsSpec = heads(&own);
    let layer = |index: usize| {
        let of = |half: usize, name: &str| format!("encoder.block.{index}.layer.{half}.{name}");
        let before = |half| HalfNorms { input: Some(norm(of(half, "layer_norm"))), ..HalfNorms::default() };
        let attention = |name: &str| of(0, &format!("SelfAttention.{name}"));
        let dense = |name: &str| of(1, &format!("DenseReluDense.{name}"));
        let up: &[&str] = if gated { &["wi_0", "wi_1"] } else { &["wi"] };
        LayerSpec {
            attention: AttentionSpec {
                norms: before(0),
                qkv: ProjectionSpec {
                    parts: ["q", "k", "v"]
                        .map(|name| PartSpec::whole(attention(name), heads.queries(), false))
                        .to_vec(),
                    inputs: hidden,
                },
                heads,
                q_norm: None,
                k_norm: None,
                v_norm: None,
                rope: None,
                scale: 1.0,
                sees: Sees::All,
                output: ProjectionSpec::one(attention("o"), hidden, heads.queries(), false),
            },
            mlp: MlpSpec {
                norms: before(1),
                up: ProjectionSpec {
                    parts: up.iter().map(|name| PartSpec::whole(dense(name), intermediate, false)).collect(),
                    inputs: hidden,
                },
                activation,
                gated,
                down: ProjectionSpec::one(dense("wo"), hidden, intermediate, false),
            },
            input: None,
            scalar: None,
        }
    };
    let embedding = EmbeddingSpec::of(table(tokens(weights), own.vocab_size as usize, own.hidden_size));
    let layers = (0..layers).map(layer).collect();
    let spec = ModelSpec {
        relative: Some(relative(config, own.heads)?),
        norm: Some(norm("encoder.final_layer_norm".into())),
        ..ModelSpec::of(hidden, embedding, layers)
    };
    Ok((own, spec))
}

/// The table of tokens: the encoder's own where the file has it, as in transformers 5 even if the other one differs. If not,
/// the whole model's, which is the decoder's too.
fn tokens(weights: &TensorFiles) -> &'static str {
    let own = "encoder.embed_tokens";
    if weights.tensors.contains_key(&format!("{own}.weight")) { own } else { "shared" }
}

/// The activation, and whether it is of a gate.
fn feed_forward(config: &JsonObject) -> Result<(Activation, bool), CheckpointError> {
    let field = "feed_forward_proj";
    let named = config.optional::<String>(field)?.unwrap_or_else(|| "relu".to_owned());
    let (name, gated) = match named.strip_prefix("gated-") {
        // As transformers takes it, for the sake of the first ones.
        Some("gelu") => ("gelu_new", true),
        Some(name) => (name, true),
        None => (&*named, false),
    };
    match Activation::of_transformers(name) {
        Some(activation) => Ok((activation, gated)),
        None => Err(config.invalid(field, format!("is `{named}`, which is not supported"))),
    }
}

/// The first layer's distances, which all layers have.
fn relative(config: &JsonObject, heads: i32) -> Result<RelativeSpec, CheckpointError> {
    let sizes = [
        ("relative_attention_num_buckets", RelativeSpec::BUCKETS),
        ("relative_attention_max_distance", RelativeSpec::FAR),
    ];
    for (field, supported) in sizes {
        config.only::<usize, _>(field, &[supported], "")?;
    }
    let path = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias";
    Ok(RelativeSpec { table: table(path, RelativeSpec::BUCKETS, heads), longest: LONGEST })
}
