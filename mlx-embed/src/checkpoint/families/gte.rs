//! Alibaba's gte and jina-embeddings-v3: rotary BERT, with GeGLU and with GELU.
//!
//! Formulas are those of transformers. Alibaba's own code stretches positions in a way that transformers doesn't have
//! (`ntk`); its formula is at <https://kexue.fm/archives/9706>, as vLLM computes it.

use super::rotary::{self, FeedForward, Matrix, Names, OF_TRANSFORMERS, thirds};
use crate::checkpoint::config::{self, Architecture, Encoder, ModelConfig};
use crate::checkpoint::doubt::Doubt;
use crate::checkpoint::files::TensorFiles;
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::spec::{Activation, ModelSpec};
use crate::checkpoint::{CheckpointError, RopeScaling, rope_fields};

/// As its own code does.
const GTE_OWN: Names = Names {
    embedding_norm: "embeddings.LayerNorm",
    layers: "encoder.layer",
    qkv: thirds("attention.qkv_proj"),
    output: "attention.o_proj",
    attention_norm: "attn_ln",
    // The gate is behind what it gates.
    up: &[Matrix::Part("mlp.up_gate_proj", 1, 2), Matrix::Part("mlp.up_gate_proj", 0, 2)],
    down: "mlp.down_proj",
    mlp_norm: "mlp_ln",
};
const JINA: Names = Names { up: &[Matrix::Whole("mlp.fc1")], down: "mlp.fc2", ..OF_TRANSFORMERS };
const JINA_OWN: Names = Names {
    embedding_norm: "emb_ln",
    layers: "encoder.layers",
    qkv: thirds("mixer.Wqkv"),
    output: "mixer.out_proj",
    attention_norm: "norm1",
    up: &[Matrix::Whole("mlp.fc1")],
    down: "mlp.fc2",
    mlp_norm: "norm2",
};

pub(super) fn read(
    config: &JsonObject,
    weights: &TensorFiles,
    architecture: Architecture,
    doubts: &mut Vec<Doubt>,
) -> Result<(ModelConfig, ModelSpec), CheckpointError> {
    let size = |field: &str| config::positive(config, field);
    let (hidden_size, heads) = (size("hidden_size")?, size("num_attention_heads")?);
    let head_dim = super::shared_out(config, "num_attention_heads", hidden_size, heads)?;
    let longest = size("max_position_embeddings")? as usize;
    refuse_other_forms(config)?;
    let (theta, scaling) = frequencies(config, architecture, head_dim, longest, doubts)?;
    let (own_names, theirs, eps) = match architecture {
        Architecture::Gte => (&GTE_OWN, &OF_TRANSFORMERS, 1e-12),
        _ => (&JINA_OWN, &JINA, 1e-5),
    };
    let encoder = Encoder {
        architecture,
        hidden_size,
        layers: size("num_hidden_layers")? as usize,
        heads,
        head_dim,
        intermediate_size: size("intermediate_size")?,
        vocab_size: size("vocab_size")?,
        longest,
        norm_eps: config::epsilon(config, "layer_norm_eps", Some(eps))?,
        eos_token_id: config::eos_token_id(config),
    };
    let up_bias = architecture != Architecture::Gte;
    let own = ModelConfig {
        qkv_bias: true,
        o_bias: true,
        mlp_bias: up_bias,
        rope_scaling: scaling,
        ..ModelConfig::of(encoder)
    };
    let token_types = config.optional("type_vocab_size")?.unwrap_or(1);
    let mlp = FeedForward {
        activation: Activation::in_field(config, "hidden_act", "gelu")?,
        biases: [up_bias, true],
    };
    Ok(rotary::model(own, theta, token_types, &mlp, own_names.or(theirs, weights)))
}

/// The base of the frequencies, and how they are stretched.
fn frequencies(
    config: &JsonObject,
    architecture: Architecture,
    head_dim: i32,
    longest: usize,
    doubts: &mut Vec<Doubt>,
) -> Result<(f32, RopeScaling), CheckpointError> {
    if let Some(ntk) = config.object("rope_scaling")?
        && !ntk.is_empty()
        && architecture == Architecture::Gte
        && rope_fields::kind(&ntk)? == "ntk"
    {
        if ntk.raw("mixed_b").is_some_and(|value| !value.is_null()) {
            return Err(ntk.invalid("mixed_b", "is not supported; only plain ntk is"));
        }
        let (factor, theta): (f32, f32) = (ntk.required("factor")?, config.required("rope_theta")?);
        if !(factor >= 1.0 && factor.is_finite()) {
            return Err(ntk.invalid("factor", format!("is {factor}; it must be a number from 1 on")));
        }
        if !(theta > 1.0 && (theta * factor).is_finite()) {
            return Err(config.invalid("rope_theta", format!("is {theta}; it must be a number above 1")));
        }
        let linear = factor.powf(2.0 / head_dim as f32);
        return Ok((theta * factor, RopeScaling::Linear { factor: linear }));
    }
    // Which its own code and transformers have different defaults for.
    if config.has("auto_map") && !config.has("rope_parameters") {
        config.required::<f32>("rope_theta")?;
    }
    let rope = rope_fields::read(config, architecture, head_dim, longest, doubts)?;
    Ok((rope.theta, rope.scaling))
}

/// Alibaba's code has switches; these are how the published models stand.
fn refuse_other_forms(config: &JsonObject) -> Result<(), CheckpointError> {
    for (field, supported) in [("layer_norm_type", "layer_norm"), ("position_embedding_type", "rope")] {
        config.only::<String, _>(field, &[supported], " with this model_type")?;
    }
    config.only::<bool, _>("logn_attention_scale", &[false], "")?;
    config.only::<bool, _>("pack_qkv", &[true], "")
}
