//! nomic-bert: BERT's order of norms with rotary embedding and SwiGLU.

use super::layer_norm;
use super::{either, heads, table};
use crate::checkpoint::config::{self, Architecture, ModelConfig};
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::rope::RopeSpec;
use crate::checkpoint::spec::{
    Activation, AttentionSpec, EmbeddingSpec, HalfNorms, LayerSpec, MlpSpec, ModelSpec, PartSpec,
    ProjectionSpec, Sees,
};
use crate::checkpoint::{CheckpointError, RopeScaling, rope_fields};

pub(super) fn read(config: &JsonObject) -> Result<(ModelConfig, ModelSpec), CheckpointError> {
    let size = |own: &str, theirs: &str| config::positive(config, either(config, own, theirs)?);
    let (hidden_size, heads_count) = (size("n_embd", "hidden_size")?, size("n_head", "num_attention_heads")?);
    let head_dim = super::shared_out(config, "num_attention_heads", hidden_size, heads_count)?;
    refuse_other_forms(config)?;
    let layers = size("n_layer", "num_hidden_layers")? as usize;
    let eps_field = either(config, "layer_norm_epsilon", "layer_norm_eps")?;
    let eps = config::epsilon(config, eps_field, Some(1e-12))?;
    let theta = theta(config)?;
    let own = ModelConfig {
        architecture: Architecture::NomicBert,
        hidden_size,
        layers,
        intermediate_size: size("n_inner", "intermediate_size")?,
        heads: heads_count,
        kv_heads: heads_count,
        head_dim,
        vocab_size: config::positive(config, "vocab_size")?,
        max_position_embeddings: size("n_positions", "max_position_embeddings")? as usize,
        causal: false,
        layer_windows: vec![None; layers],
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        head_norms: false,
        norm_eps: eps,
        rope_theta: Some(theta),
        rope_local_theta: None,
        query_pre_attn_scalar: None,
        query_growth: None,
        rope_traditional: false,
        rope_scaling: RopeScaling::None,
        eos_token_id: config::eos_token_id(config),
    };
    let [hidden, intermediate] = [own.hidden_size, own.intermediate_size].map(|size| size as usize);
    let layer = |index: usize| {
        let of = |name: &str| format!("encoder.layers.{index}.{name}");
        let third = |part: usize| PartSpec::nth(of("attn.Wqkv"), part, 3, hidden, false);
        let sum =
            |name: &str| HalfNorms { sum: Some(layer_norm(&of(name), hidden, eps)), ..HalfNorms::default() };
        LayerSpec {
            attention: AttentionSpec {
                norms: sum("norm1"),
                qkv: ProjectionSpec { parts: vec![third(0), third(1), third(2)], inputs: hidden },
                heads: heads(&own),
                q_norm: None,
                k_norm: None,
                v_norm: None,
                rope: Some(0),
                scale: (head_dim as f32).powf(-0.5),
                sees: Sees::All,
                output: ProjectionSpec::one(of("attn.out_proj"), hidden, hidden, false),
            },
            mlp: MlpSpec {
                norms: sum("norm2"),
                // fc12 is the gate.
                up: ProjectionSpec {
                    parts: ["mlp.fc12", "mlp.fc11"]
                        .map(|name| PartSpec::whole(of(name), intermediate, false))
                        .to_vec(),
                    inputs: hidden,
                },
                activation: Activation::Silu,
                gated: true,
                down: ProjectionSpec::one(of("mlp.fc2"), hidden, intermediate, false),
            },
            input: None,
            scalar: None,
        }
    };
    let types = config::positive(config, "type_vocab_size")? as usize;
    let spec = ModelSpec {
        hidden,
        embedding: EmbeddingSpec {
            tokens: table("embeddings.word_embeddings", own.vocab_size as usize, hidden_size),
            scale: 1.0,
            positions: None,
            token_types: Some(table("embeddings.token_type_embeddings", types, hidden_size)),
            norm: Some(layer_norm("emb_ln", hidden, eps)),
        },
        ropes: vec![RopeSpec {
            dims: head_dim as usize,
            base: theta,
            traditional: false,
            scaling: RopeScaling::None,
            longest: own.max_position_embeddings,
            query_growth: None,
        }],
        relative: None,
        layer_inputs: None,
        layers: (0..layers).map(layer).collect(),
        norm: None,
        projection: None,
        behind: Vec::new(),
        head: None,
        mlm: None,
    };
    Ok((own, spec))
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
        if config::flag(config, field)? {
            return Err(config.invalid(field, "is true; only false is supported with nomic_bert"));
        }
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
        if let Some(name) = config.optional::<String>(field)?
            && !supported.contains(&name.as_str())
        {
            let reason = format!("is `{name}`; only {} is supported with nomic_bert", supported[0]);
            return Err(config.invalid(field, reason));
        }
    }
    if config.optional::<bool>("scale_attn_weights")? == Some(false) {
        return Err(config.invalid("scale_attn_weights", "is false; only true is supported"));
    }
    Ok(())
}
