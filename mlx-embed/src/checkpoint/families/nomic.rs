//! nomic-bert: BERT's order of norms with rotary embedding and SwiGLU.

use super::either;
use super::rotary::{self, FeedForward, Matrix, Names, OF_TRANSFORMERS, thirds};
use crate::checkpoint::config::{self, Architecture, Encoder, ModelConfig};
use crate::checkpoint::files::TensorFiles;
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::spec::{Activation, ModelSpec};
use crate::checkpoint::{CheckpointError, rope_fields};

/// As its own code names them.
const OWN: Names = Names {
    embedding_norm: "emb_ln",
    layers: "encoder.layers",
    qkv: thirds("attn.Wqkv"),
    output: "attn.out_proj",
    attention_norm: "norm1",
    up: &[Matrix::Whole("mlp.fc12"), Matrix::Whole("mlp.fc11")],
    down: "mlp.fc2",
    mlp_norm: "norm2",
};

pub(super) fn read(
    config: &JsonObject,
    weights: &TensorFiles,
) -> Result<(ModelConfig, ModelSpec), CheckpointError> {
    let size = |own: &str, theirs: &str| config::positive(config, either(config, own, theirs)?);
    let (hidden_size, heads) = (size("n_embd", "hidden_size")?, size("n_head", "num_attention_heads")?);
    let head_dim = super::shared_out(config, "num_attention_heads", hidden_size, heads)?;
    refuse_other_forms(config)?;
    let eps_field = either(config, "layer_norm_epsilon", "layer_norm_eps")?;
    let encoder = Encoder {
        architecture: Architecture::NomicBert,
        hidden_size,
        layers: size("n_layer", "num_hidden_layers")? as usize,
        heads,
        head_dim,
        intermediate_size: size("n_inner", "intermediate_size")?,
        vocab_size: config::positive(config, "vocab_size")?,
        longest: size("n_positions", "max_position_embeddings")? as usize,
        norm_eps: config::epsilon(config, eps_field, Some(1e-12))?,
        eos_token_id: config::eos_token_id(config),
    };
    let token_types = config::positive(config, "type_vocab_size")? as usize;
    let own = ModelConfig::of(encoder);
    let mlp = FeedForward { activation: Activation::Silu, biases: [false; 2] };
    Ok(rotary::model(own, theta(config)?, token_types, &mlp, OWN.or(&OF_TRANSFORMERS, weights)))
}

/// The base of the frequencies: its own code's, or transformers', whose nested one goes before the other.
fn theta(config: &JsonObject) -> Result<f32, CheckpointError> {
    let field = "rotary_emb_base";
    let mut theirs = config.optional::<f32>("rope_theta")?;
    if let Some(nested) = config.object("rope_parameters")? {
        if rope_fields::kind(&nested)? != "default" {
            let reason = "stretches positions, which is not supported with nomic_bert";
            return Err(nested.invalid("rope_type", reason));
        }
        theirs = nested.optional("rope_theta")?.or(theirs);
    }
    let theta = match (config.optional::<f32>(field)?, theirs) {
        (Some(own), Some(theirs)) if own != theirs => {
            let reason = format!(
                "is {own}, and rope_theta is {theirs}; leave the one that the model was trained with"
            );
            return Err(config.invalid(field, reason));
        }
        (own, theirs) => own.or(theirs).unwrap_or(1000.0),
    };
    if theta > 1.0 && theta.is_finite() {
        Ok(theta)
    } else {
        Err(config.invalid(field, format!("(or rope_theta) is {theta}; it must be a number above 1")))
    }
}

/// Its code has many switches; these are how the published models stand.
fn refuse_other_forms(config: &JsonObject) -> Result<(), CheckpointError> {
    let off = [
        "causal",
        "mlp_fc1_bias",
        "mlp_fc2_bias",
        "parallel_block",
        "prenorm",
        "qkv_proj_bias",
        "rotary_emb_interleaved",
        "use_rms_norm",
    ];
    for field in off {
        config.only::<bool, _>(field, &[false], " with nomic_bert")?;
    }
    if config.optional::<f32>("rotary_emb_fraction")?.is_some_and(|share| share != 1.0) {
        return Err(
            config.invalid("rotary_emb_fraction", "is not 1; heads that rotate in part are not supported")
        );
    }
    for field in ["rotary_emb_scale_base", "rotary_scaling_factor"] {
        if config.raw(field).is_some_and(|value| !value.is_null()) {
            return Err(config.invalid(field, "stretches positions, which is not supported with nomic_bert"));
        }
    }
    for (field, supported) in [("activation_function", &["swiglu"][..]), ("hidden_act", &["silu", "swish"])] {
        config.only::<String, _>(field, supported, " with nomic_bert")?;
    }
    config.only::<bool, _>("scale_attn_weights", &[true], "")
}
