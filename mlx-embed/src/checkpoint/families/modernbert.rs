//! ModernBERT: norms before each half, rotary embedding, GeGLU, and layers that see a window.

use super::{heads, table};
use crate::checkpoint::config::{self, Architecture, Encoder, ModelConfig};
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::rope::RopeSpec;
use crate::checkpoint::spec::{
    Activation, AttentionSpec, EmbeddingSpec, HalfNorms, LayerSpec, MlpSpec, ModelSpec, NormKind, NormSpec,
    PartSpec, ProjectionSpec, Sees,
};
use crate::checkpoint::{CheckpointError, RopeScaling, rope_fields};

pub(super) fn read(config: &JsonObject) -> Result<(ModelConfig, ModelSpec), CheckpointError> {
    let size = |field: &str| config::positive(config, field);
    let (hidden_size, heads_count) = (size("hidden_size")?, size("num_attention_heads")?);
    let head_dim = super::shared_out(config, "num_attention_heads", hidden_size, heads_count)?;
    let activation = Activation::in_field(config, "hidden_activation", "gelu")?;
    let [attention_bias, mlp_bias, norm_bias] =
        ["attention_bias", "mlp_bias", "norm_bias"].map(|field| config::flag(config, field));
    let (attention_bias, mlp_bias, norm_bias) = (attention_bias?, mlp_bias?, norm_bias?);
    let layers = size("num_hidden_layers")? as usize;
    let local = local(config)?;
    let slides = slides(config, layers)?;
    let longest = size("max_position_embeddings")? as usize;
    let [(global_theta, scaling), (local_theta, local_scaling)] = frequencies(config, head_dim, longest)?;
    let eps = config::epsilon(config, "norm_eps", Some(1e-5))?;
    let encoder = Encoder {
        architecture: Architecture::ModernBert,
        hidden_size,
        layers,
        intermediate_size: size("intermediate_size")?,
        heads: heads_count,
        head_dim,
        vocab_size: size("vocab_size")?,
        longest,
        norm_eps: eps,
        eos_token_id: config::eos_token_id(config),
    };
    let own = ModelConfig {
        layer_windows: slides.iter().map(|slides| slides.then_some(local)).collect(),
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        mlp_bias,
        rope_theta: Some(global_theta),
        rope_local_theta: Some(local_theta),
        rope_scaling: scaling,
        ..ModelConfig::of(encoder)
    };
    let [hidden, intermediate] = [own.hidden_size, own.intermediate_size].map(|size| size as usize);
    let norm = |path: String| NormSpec {
        weight: format!("{path}.weight"),
        bias: norm_bias.then(|| format!("{path}.bias")),
        size: hidden,
        kind: NormKind::Layer,
        eps,
    };
    let layer = |index: usize| {
        let of = |name: &str| format!("layers.{index}.{name}");
        // A third each of one matrix, and a half each.
        let third = |part: usize| PartSpec::nth(of("attn.Wqkv"), part, 3, hidden, attention_bias);
        let half = |part: usize| PartSpec::nth(of("mlp.Wi"), part, 2, intermediate, mlp_bias);
        let before = |name: &str| HalfNorms { input: Some(norm(of(name))), ..HalfNorms::default() };
        LayerSpec {
            attention: AttentionSpec {
                // The first layer reads what the embedding's norm made.
                norms: if index == 0 { HalfNorms::default() } else { before("attn_norm") },
                qkv: ProjectionSpec { parts: vec![third(0), third(1), third(2)], inputs: hidden },
                heads: heads(&own),
                q_norm: None,
                k_norm: None,
                v_norm: None,
                rope: Some(usize::from(slides[index])),
                scale: (head_dim as f32).powf(-0.5),
                // Half of it on each side.
                sees: if slides[index] { Sees::AllWithin(local / 2) } else { Sees::All },
                output: ProjectionSpec::one(of("attn.Wo"), hidden, hidden, attention_bias),
            },
            mlp: MlpSpec {
                norms: before("mlp_norm"),
                up: ProjectionSpec { parts: vec![half(0), half(1)], inputs: hidden },
                activation,
                gated: true,
                down: ProjectionSpec::one(of("mlp.Wo"), hidden, intermediate, mlp_bias),
            },
            input: None,
            scalar: None,
        }
    };
    let rope = |base, scaling| RopeSpec {
        dims: head_dim as usize,
        base,
        traditional: false,
        scaling,
        longest: own.max_position_embeddings,
        query_growth: None,
    };
    let embedding = EmbeddingSpec {
        norm: Some(norm("embeddings.norm".into())),
        ..EmbeddingSpec::of(table("embeddings.tok_embeddings", own.vocab_size as usize, hidden_size))
    };
    let layers = (0..layers).map(layer).collect();
    let spec = ModelSpec {
        ropes: vec![rope(global_theta, own.rope_scaling.clone()), rope(local_theta, local_scaling)],
        norm: Some(norm("final_norm".into())),
        ..ModelSpec::of(hidden, embedding, layers)
    };
    Ok((own, spec))
}

/// The window, on both sides together. transformers has `sliding_window` for one side, which goes over the other.
fn local(config: &JsonObject) -> Result<usize, CheckpointError> {
    let side = config.optional::<u32>("sliding_window")?.map(|side| side as usize * 2);
    Ok(side.or(config.optional("local_attention")?).unwrap_or(128))
}

/// Which layers see a window.
fn slides(config: &JsonObject, layers: usize) -> Result<Vec<bool>, CheckpointError> {
    if let Some(types) = crate::checkpoint::sight::layer_types(config, layers)? {
        return Ok(types);
    }
    let period = config.optional::<usize>("global_attn_every_n_layers")?.unwrap_or(3);
    if period == 0 {
        return Err(config.invalid("global_attn_every_n_layers", "is 0; it must be at least 1"));
    }
    Ok((0..layers).map(|layer| layer % period != 0).collect())
}

/// A base, and how frequencies are stretched.
type Frequencies = (f32, RopeScaling);

/// Of layers that see all and of those that see a window.
fn frequencies(
    config: &JsonObject,
    head_dim: i32,
    longest: usize,
) -> Result<[Frequencies; 2], CheckpointError> {
    let theta = |object: &JsonObject, field: &str, default: f32| -> Result<f32, CheckpointError> {
        rope_fields::base(object, field, object.optional(field)?.unwrap_or(default))
    };
    let mut both = [("global_rope_theta", 160_000.0), ("local_rope_theta", 10_000.0)]
        .map(|(field, default)| theta(config, field, default).map(|theta| (theta, RopeScaling::None)));
    let all = config.object("rope_parameters")?.filter(|object| !object.is_empty());
    // What older files have is for all layers.
    let of_all = config.object("rope_scaling")?.filter(|object| !object.is_empty());
    if let Some(object) = &of_all {
        if all.is_some() {
            return Err(config.invalid("rope_scaling", "stands beside rope_parameters; leave one of them"));
        }
        rope_fields::require_rope_type(object, "a ModernBERT")?;
    }
    let kinds = ["full_attention", "sliding_attention"];
    if let Some(all) = &all
        && let Some((other, _)) = all.entries().find(|(name, _)| !kinds.contains(&name.as_str()))
    {
        let reason = "is no type of layers; parameters belong into full_attention and sliding_attention, each with its own";
        return Err(all.invalid(other, reason));
    }
    for (kind, of) in kinds.into_iter().zip(&mut both) {
        let Ok((base, scaling)) = of else { continue };
        let own = match &all {
            Some(all) => all.object(kind)?,
            None => None,
        };
        if let Some(object) = own.as_ref().or(of_all.as_ref()) {
            *base = theta(object, "rope_theta", *base)?;
            *scaling = rope_fields::of_layer_type(config, object, head_dim, longest)?;
        }
    }
    let [full, sliding] = both;
    let (full, sliding) = (full?, sliding?);
    if matches!(sliding.1, RopeScaling::Dynamic { .. }) && sliding.1 != full.1 {
        let reason = "has layers with a window of which alone frequencies depend on a text's length";
        return Err(config.invalid("rope_parameters", reason));
    }
    Ok([full, sliding])
}
