//! BERT and RoBERTa: absolute positions, attention to all tokens, a norm of each sum.

use super::{heads, table};
use crate::checkpoint::config::{self, Architecture, ModelConfig};
use crate::checkpoint::files::TensorFiles;
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::spec::{
    Activation, AttentionSpec, EmbeddingSpec, HalfNorms, LayerSpec, MlpSpec, ModelSpec, NormKind, NormSpec,
    PartSpec, PositionsSpec, ProjectionSpec, Sees,
};
use crate::checkpoint::{CheckpointError, RopeScaling};

pub(super) fn read(
    config: &JsonObject,
    weights: &TensorFiles,
    architecture: Architecture,
) -> Result<(ModelConfig, ModelSpec), CheckpointError> {
    let size = |field: &str| config::positive(config, field);
    let (hidden_size, heads) = (size("hidden_size")?, size("num_attention_heads")?);
    let head_dim = super::shared_out(config, "num_attention_heads", hidden_size, heads)?;
    if let Some(kind) = config.optional::<String>("position_embedding_type")?
        && kind != "absolute"
    {
        return Err(
            config.invalid("position_embedding_type", format!("is `{kind}`; only absolute is supported"))
        );
    }
    for field in ["is_decoder", "add_cross_attention"] {
        if config::flag(config, field)? {
            return Err(config.invalid(field, "is true, which makes another model of it"));
        }
    }
    let activation = super::activation(config, "hidden_act", "gelu")?;
    let rows = size("max_position_embeddings")? as usize;
    let positions = |first, padding| PositionsSpec {
        table: table("embeddings.position_embeddings", rows, hidden_size),
        first,
        padding,
    };
    let positions = match architecture {
        // Counted from behind the padding id, which keeps its own row.
        Architecture::Roberta => {
            let padding: u32 = config.optional("pad_token_id")?.unwrap_or(1);
            positions(padding as usize + 1, Some(padding))
        }
        _ => positions(0, None),
    };
    if positions.longest() == 0 {
        return Err(config.invalid("max_position_embeddings", "leaves no position for a token"));
    }
    let eps = config::epsilon(config, "layer_norm_eps", Some(1e-12))?;
    let layers = size("num_hidden_layers")? as usize;
    let own = ModelConfig {
        architecture,
        hidden_size,
        layers,
        intermediate_size: size("intermediate_size")?,
        heads,
        kv_heads: heads,
        head_dim,
        vocab_size: size("vocab_size")?,
        max_position_embeddings: positions.longest(),
        causal: false,
        layer_windows: vec![None; layers],
        qkv_bias: true,
        o_bias: true,
        mlp_bias: true,
        head_norms: false,
        norm_eps: eps,
        rope_theta: None,
        rope_local_theta: None,
        query_pre_attn_scalar: None,
        query_growth: None,
        rope_traditional: false,
        rope_scaling: RopeScaling::None,
        eos_token_id: config::eos_token_id(config),
    };
    let hidden = hidden_size as usize;
    // Files of the first years name a norm's weight gamma and its bias beta.
    let old = weights.tensors.contains_key("embeddings.LayerNorm.gamma");
    let norm = |path: String| {
        let [weight, bias] = if old { ["gamma", "beta"] } else { ["weight", "bias"] };
        NormSpec {
            weight: format!("{path}.{weight}"),
            bias: Some(format!("{path}.{bias}")),
            size: hidden,
            kind: NormKind::Layer,
            eps,
        }
    };
    let types = size("type_vocab_size")? as usize;
    let spec = ModelSpec {
        hidden,
        embedding: EmbeddingSpec {
            tokens: table("embeddings.word_embeddings", own.vocab_size as usize, hidden_size),
            scale: 1.0,
            positions: Some(positions),
            token_types: Some(table("embeddings.token_type_embeddings", types, hidden_size)),
            norm: Some(norm("embeddings.LayerNorm".into())),
        },
        ropes: Vec::new(),
        layer_inputs: None,
        layers: (0..layers).map(|layer| layer_spec(layer, &own, activation, &norm)).collect(),
        norm: None,
        projection: None,
        behind: Vec::new(),
        head: None,
        mlm: None,
    };
    Ok((own, spec))
}

fn layer_spec(
    index: usize,
    config: &ModelConfig,
    activation: Activation,
    norm: &impl Fn(String) -> NormSpec,
) -> LayerSpec {
    let of = |name: &str| format!("encoder.layer.{index}.{name}");
    let [hidden, intermediate] = [config.hidden_size, config.intermediate_size].map(|size| size as usize);
    let part = |name: &str| PartSpec::whole(of(&format!("attention.self.{name}")), hidden, true);
    let sum = |name: &str| HalfNorms { sum: Some(norm(of(name))), ..HalfNorms::default() };
    LayerSpec {
        attention: AttentionSpec {
            norms: sum("attention.output.LayerNorm"),
            qkv: ProjectionSpec { parts: vec![part("query"), part("key"), part("value")], inputs: hidden },
            heads: heads(config),
            q_norm: None,
            k_norm: None,
            v_norm: None,
            rope: None,
            scale: (config.head_dim as f32).powf(-0.5),
            sees: Sees::All,
            output: ProjectionSpec::one(of("attention.output.dense"), hidden, hidden, true),
        },
        mlp: MlpSpec {
            norms: sum("output.LayerNorm"),
            up: ProjectionSpec::one(of("intermediate.dense"), intermediate, hidden, true),
            activation,
            gated: false,
            down: ProjectionSpec::one(of("output.dense"), hidden, intermediate, true),
        },
        input: None,
        scalar: None,
    }
}
