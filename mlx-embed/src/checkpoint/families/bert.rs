//! BERT and its kin: absolute positions, attention to all tokens, a norm of each sum.

use super::{heads, table};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::config::{self, Architecture, Encoder, ModelConfig};
use crate::checkpoint::files::TensorFiles;
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::spec::{
    Activation, AttentionSpec, EmbeddingSpec, HalfNorms, LayerSpec, MlpSpec, ModelSpec, NormKind, NormSpec,
    PartSpec, PositionsSpec, ProjectionSpec, RelativeSpec, Sees,
};

/// What the families of this reader call a layer's tensors.
struct Names {
    layers: &'static str,
    qkv: [&'static str; 3],
    output: &'static str,
    attention_norm: &'static str,
    up: &'static str,
    down: &'static str,
    mlp_norm: &'static str,
}

const BERT: Names = Names {
    layers: "encoder.layer",
    qkv: ["attention.self.query", "attention.self.key", "attention.self.value"],
    output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    mlp_norm: "output.LayerNorm",
};
const MPNET: Names = Names {
    qkv: ["attention.attn.q", "attention.attn.k", "attention.attn.v"],
    output: "attention.attn.o",
    attention_norm: "attention.LayerNorm",
    ..BERT
};
const DISTILBERT: Names = Names {
    layers: "transformer.layer",
    qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    mlp_norm: "output_layer_norm",
};

/// What config.json calls the sizes.
struct Fields {
    hidden: &'static str,
    layers: &'static str,
    heads: &'static str,
    intermediate: &'static str,
    activation: &'static str,
}

impl Fields {
    fn of(config: &JsonObject, architecture: Architecture) -> Result<Self, CheckpointError> {
        Ok(match architecture {
            Architecture::DistilBert => Self {
                hidden: super::either(config, "dim", "hidden_size")?,
                layers: super::either(config, "n_layers", "num_hidden_layers")?,
                heads: super::either(config, "n_heads", "num_attention_heads")?,
                intermediate: "hidden_dim",
                activation: "activation",
            },
            _ => Self {
                hidden: "hidden_size",
                layers: "num_hidden_layers",
                heads: "num_attention_heads",
                intermediate: "intermediate_size",
                activation: "hidden_act",
            },
        })
    }
}

pub(super) fn read(
    config: &JsonObject,
    weights: &TensorFiles,
    architecture: Architecture,
) -> Result<(ModelConfig, ModelSpec), CheckpointError> {
    let size = |field: &str| config::positive(config, field);
    let fields = Fields::of(config, architecture)?;
    let (hidden_size, heads) = (size(fields.hidden)?, size(fields.heads)?);
    let head_dim = super::shared_out(config, fields.heads, hidden_size, heads)?;
    check_kind(config)?;
    let activation = Activation::in_field(config, fields.activation, "gelu")?;
    let positions = positions(config, architecture, hidden_size)?;
    if architecture == Architecture::Electra {
        check_embedding_size(config, hidden_size)?;
    }
    let eps = match architecture {
        Architecture::DistilBert => 1e-12,
        _ => config::epsilon(config, "layer_norm_eps", Some(1e-12))?,
    };
    let layers = size(fields.layers)? as usize;
    let encoder = Encoder {
        architecture,
        hidden_size,
        layers,
        intermediate_size: size(fields.intermediate)?,
        heads,
        head_dim,
        vocab_size: size("vocab_size")?,
        longest: positions.longest(),
        norm_eps: eps,
        eos_token_id: config::eos_token_id(config),
    };
    let own = ModelConfig { qkv_bias: true, o_bias: true, mlp_bias: true, ..ModelConfig::of(encoder) };
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
    let token_types = match architecture {
        Architecture::Bert | Architecture::Roberta | Architecture::Electra => {
            let types = size("type_vocab_size")? as usize;
            Some(table("embeddings.token_type_embeddings", types, hidden_size))
        }
        _ => None,
    };
    let names = match architecture {
        Architecture::DistilBert => &DISTILBERT,
        Architecture::MpNet => &MPNET,
        _ => &BERT,
    };
    let embedding = EmbeddingSpec {
        positions: Some(positions),
        token_types,
        norm: Some(norm("embeddings.LayerNorm".into())),
        ..EmbeddingSpec::of(table("embeddings.word_embeddings", own.vocab_size as usize, hidden_size))
    };
    let layers = (0..layers).map(|layer| layer_spec(layer, names, &own, activation, &norm)).collect();
    let spec = ModelSpec {
        relative: (architecture == Architecture::MpNet)
            .then(|| relative(config, heads, own.max_position_embeddings))
            .transpose()?,
        ..ModelSpec::of(hidden, embedding, layers)
    };
    Ok((own, spec))
}

/// Refuses what makes another model of it.
fn check_kind(config: &JsonObject) -> Result<(), CheckpointError> {
    config.only::<String, _>("position_embedding_type", &["absolute"], "")?;
    for field in ["is_decoder", "add_cross_attention"] {
        if config::flag(config, field)? {
            return Err(config.invalid(field, "is true, which makes another model of it"));
        }
    }
    Ok(())
}

/// The table of positions, and which row a text's first token has.
fn positions(
    config: &JsonObject,
    architecture: Architecture,
    hidden_size: i32,
) -> Result<PositionsSpec, CheckpointError> {
    let field = "max_position_embeddings";
    let rows = config::positive(config, field)? as usize;
    let (first, padding) = match architecture {
        // Counted from behind the padding id, which keeps its own row.
        Architecture::Roberta => {
            let padding: u32 = config.optional("pad_token_id")?.unwrap_or(1);
            (padding as usize + 1, Some(padding))
        }
        // The same, but it is 1 whatever the config says.
        Architecture::MpNet => (2, Some(1)),
        _ => (0, None),
    };
    let table = table("embeddings.position_embeddings", rows, hidden_size);
    let positions = PositionsSpec { table, first, padding };
    if positions.longest() == 0 {
        return Err(config.invalid(field, "leaves no position for a token"));
    }
    Ok(positions)
}

/// Refuses embeddings of another width than the layers: the small ELECTRA projects them.
fn check_embedding_size(config: &JsonObject, hidden_size: i32) -> Result<(), CheckpointError> {
    let field = "embedding_size";
    let width = config::positive(config, field)?;
    if width == hidden_size {
        return Ok(());
    }
    let reason = format!(
        "is {width}, and hidden_size is {hidden_size}; the projection between the two (embeddings_project) is not \
         supported"
    );
    Err(config.invalid(field, reason))
}

/// MPNet's distances. Its code has a constant where the config has a field.
fn relative(config: &JsonObject, heads: i32, longest: usize) -> Result<RelativeSpec, CheckpointError> {
    let field = "relative_attention_num_buckets";
    match config.optional::<usize>(field)? {
        None | Some(RelativeSpec::BUCKETS) => {
            let path = "encoder.relative_attention_bias";
            Ok(RelativeSpec { table: table(path, RelativeSpec::BUCKETS, heads), longest })
        }
        Some(buckets) => {
            let reason =
                format!("is {buckets}; the family's code has {} whatever this says", RelativeSpec::BUCKETS);
            Err(config.invalid(field, reason))
        }
    }
}

fn layer_spec(
    index: usize,
    names: &Names,
    config: &ModelConfig,
    activation: Activation,
    norm: &impl Fn(String) -> NormSpec,
) -> LayerSpec {
    let of = |name: &str| format!("{}.{index}.{name}", names.layers);
    let [hidden, intermediate] = [config.hidden_size, config.intermediate_size].map(|size| size as usize);
    let part = |name: &str| PartSpec::whole(of(name), hidden, true);
    let sum = |name: &str| HalfNorms { sum: Some(norm(of(name))), ..HalfNorms::default() };
    LayerSpec {
        attention: AttentionSpec {
            norms: sum(names.attention_norm),
            qkv: ProjectionSpec { parts: names.qkv.map(part).to_vec(), inputs: hidden },
            heads: heads(config),
            q_norm: None,
            k_norm: None,
            v_norm: None,
            rope: None,
            scale: (config.head_dim as f32).powf(-0.5),
            sees: Sees::All,
            output: ProjectionSpec::one(of(names.output), hidden, hidden, true),
        },
        mlp: MlpSpec {
            norms: sum(names.mlp_norm),
            up: ProjectionSpec::one(of(names.up), intermediate, hidden, true),
            activation,
            gated: false,
            down: ProjectionSpec::one(of(names.down), hidden, intermediate, true),
        },
        input: None,
        scalar: None,
    }
}
