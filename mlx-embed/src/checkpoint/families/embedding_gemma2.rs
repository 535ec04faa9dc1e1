//! EmbeddingGemma 2, the text model: layers without a window have wider heads, values are normed, and each layer takes in
//! a projection of the first hidden state.

use std::collections::BTreeMap;

use serde_json::Value;

use super::table;
use crate::checkpoint::config::{self, Architecture, Encoder, ModelConfig};
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::rope::{RopeScaling, RopeSpec};
use crate::checkpoint::rope_fields::{self, Rope};
use crate::checkpoint::spec::{
    Activation, AttentionSpec, EmbeddingSpec, HalfNorms, HeadsSpec, LayerInputSpec, LayerInputsSpec,
    LayerSpec, MlpSpec, ModelSpec, NormKind, NormSpec, PartSpec, ProjectionSpec, Sees,
};
use crate::checkpoint::{CheckpointError, sight};

const PER_LAYER: &str = "per_layer_config";

/// What differs between layers that slide and those that don't.
struct Kinds {
    /// For each layer whether it slides.
    slides: Vec<bool>,
    full: HeadsSpec,
    sliding: HeadsSpec,
}

pub(super) fn read(config: &JsonObject) -> Result<(ModelConfig, ModelSpec), CheckpointError> {
    let text = config.object("text_config")?;
    let text =
        text.as_ref().ok_or_else(|| config.invalid("text_config", "is missing; it describes the model"))?;
    let kind: Option<String> = text.optional("model_type")?;
    if let Some(kind) = kind.filter(|kind| kind != "embedding_gemma2_text") {
        return Err(text.invalid("model_type", format!("is `{kind}`; it must be embedding_gemma2_text")));
    }
    sight::causal(text, Architecture::EmbeddingGemma2)?;
    let layers = size(text, "num_hidden_layers", 24)? as usize;
    let kinds = Kinds::read(text, layers)?;
    let window = size(text, "sliding_window", 512)? as usize;
    let activation = Activation::in_field(text, "hidden_activation", "gelu_pytorch_tanh")?;
    let longest = size(text, "max_position_embeddings", 262_144)? as usize;
    let rope = ropes(text, &kinds, longest)?;
    let thetas = [rope.theta, rope.local_theta.unwrap_or(rope.theta)];
    let bias = config::flag(text, "attention_bias")?;
    let encoder = Encoder {
        architecture: Architecture::EmbeddingGemma2,
        hidden_size: size(text, "hidden_size", 512)?,
        layers,
        intermediate_size: size(text, "intermediate_size", 2048)?,
        heads: kinds.sliding.heads as i32,
        head_dim: kinds.sliding.head_dim as i32,
        vocab_size: size(text, "vocab_size", 262_144)?,
        longest,
        norm_eps: config::epsilon(text, "rms_norm_eps", Some(1e-6))?,
        eos_token_id: config::eos_token_id(text),
    };
    let own = ModelConfig {
        kv_heads: kinds.sliding.kv_heads as i32,
        layer_windows: kinds.slides.iter().map(|slides| slides.then_some(window)).collect(),
        qkv_bias: bias,
        o_bias: bias,
        head_norms: true,
        rope_theta: Some(rope.theta),
        rope_local_theta: rope.local_theta,
        query_pre_attn_scalar: Some(1.0),
        rope_scaling: rope.scaling,
        ..ModelConfig::of(encoder)
    };
    let input = size(text, "hidden_size_per_layer_input", 512)? as usize;
    let outputs = size(text, "embedding_dim", 768)? as usize;
    let spec = spec(&own, &kinds, thetas, activation, input, outputs);
    Ok((own, spec))
}

/// A size, by transformers' default where it is missing.
fn size(config: &JsonObject, field: &str, default: i32) -> Result<i32, CheckpointError> {
    if config.has(field) { config::positive(config, field) } else { Ok(default) }
}

impl Kinds {
    fn read(text: &JsonObject, layers: usize) -> Result<Self, CheckpointError> {
        let period = size(text, "sliding_window_pattern", 6)? as usize;
        let types = sight::layer_types(text, layers)?;
        let mut slides =
            types.unwrap_or_else(|| (0..layers).map(|layer| (layer + 1) % period != 0).collect());
        // As transformers has it, whatever the config says.
        if let Some(last) = slides.last_mut() {
            *last = false;
        }
        let heads = HeadsSpec {
            heads: size(text, "num_attention_heads", 4)? as usize,
            kv_heads: size(text, "num_key_value_heads", 2)? as usize,
            head_dim: size(text, "head_dim", 256)? as usize,
        };
        let full = HeadsSpec {
            kv_heads: size(text, "num_global_key_value_heads", 1)? as usize,
            head_dim: size(text, "global_head_dim", 512)? as usize,
            ..heads
        };
        let [full, sliding] = match text.object(PER_LAYER)? {
            None => [full, heads],
            Some(all) => {
                let of_layers = per_layer(&all, heads, layers)?;
                let of = |kind| of_kind(text, &of_layers, &slides, kind, heads);
                [of(false)?, of(true)?]
            }
        };
        for HeadsSpec { heads, kv_heads, head_dim } in [full, sliding] {
            if heads % kv_heads != 0 || head_dim % 2 != 0 {
                let reason = format!(
                    "is {heads}, with {kv_heads} key and value heads of {head_dim} numbers; those have to divide it, and these to be even"
                );
                return Err(text.invalid("num_attention_heads", reason));
            }
        }
        Ok(Self { slides, full, sliding })
    }

    fn of(&self, layer: usize) -> HeadsSpec {
        if self.slides[layer] { self.sliding } else { self.full }
    }
}

/// The heads of layers that have their own, by their number, which may be written with leading zeros.
fn per_layer(
    all: &JsonObject,
    heads: HeadsSpec,
    layers: usize,
) -> Result<BTreeMap<usize, HeadsSpec>, CheckpointError> {
    let mut found = BTreeMap::new();
    for (key, _) in all.entries() {
        let Some(layer) = key.parse().ok().filter(|layer| *layer < layers) else {
            return Err(all.invalid(key, format!("is no number of one of {layers} layers")));
        };
        let own = all.object(key)?.ok_or_else(|| all.invalid(key, "is null; it has to be an object"))?;
        let known = ["head_dim", "num_key_value_heads"];
        let unknown =
            own.entries().find(|(field, value)| !known.contains(&field.as_str()) && **value != Value::Null);
        if let Some((field, value)) = unknown {
            return Err(
                own.invalid(field, format!("is {value}; layers may differ in {} only", known.join(" and ")))
            );
        }
        let own = HeadsSpec {
            head_dim: size(&own, known[0], heads.head_dim as i32)? as usize,
            kv_heads: size(&own, known[1], heads.kv_heads as i32)? as usize,
            ..heads
        };
        if found.insert(layer, own).is_some() {
            return Err(all.invalid(key, "is a layer that stands there twice"));
        }
    }
    Ok(found)
}

/// The heads that all layers of a kind have.
fn of_kind(
    text: &JsonObject,
    own: &BTreeMap<usize, HeadsSpec>,
    slides: &[bool],
    kind: bool,
    otherwise: HeadsSpec,
) -> Result<HeadsSpec, CheckpointError> {
    let of_layer = |(layer, _)| own.get(&layer).copied().unwrap_or(otherwise);
    let mut all = slides.iter().enumerate().filter(|(_, slides)| **slides == kind).map(of_layer);
    let first = all.next().unwrap_or(otherwise);
    if all.any(|heads| heads != first) {
        let reason = "gives layers of one type different heads, which is not supported";
        return Err(text.invalid(PER_LAYER, reason));
    }
    Ok(first)
}

/// As Gemma 3's by layer types; the older fields are not read there.
fn ropes(text: &JsonObject, kinds: &Kinds, longest: usize) -> Result<Rope, CheckpointError> {
    for field in ["rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor"] {
        if text.raw(field).is_some() {
            return Err(text.invalid(field, "is no field of this family, which has rope_parameters"));
        }
    }
    if let Some(all) = text.object("rope_parameters")? {
        for kind in ["full_attention", "sliding_attention"] {
            let Some(object) = all.object(kind)? else {
                return Err(all.invalid(kind, "is missing; each type of layers has its parameters"));
            };
            let share: Option<f32> = object.optional("partial_rotary_factor")?;
            let is_default = object.optional::<String>("rope_type")?.is_none_or(|kind| kind == "default");
            if is_default && share.is_some_and(|share| share != 1.0) {
                let reason = "counts with rope_type proportional only";
                return Err(object.invalid("partial_rotary_factor", reason));
            }
        }
    }
    rope_fields::by_layer_types(text, kinds.full.head_dim as i32, longest)
}

/// `thetas` are the bases in full layers and in those that slide.
fn spec(
    own: &ModelConfig,
    kinds: &Kinds,
    thetas: [f32; 2],
    activation: Activation,
    input: usize,
    outputs: usize,
) -> ModelSpec {
    let [hidden, intermediate] = [own.hidden_size, own.intermediate_size].map(|size| size as usize);
    let norm = |path: String, size| NormSpec {
        weight: format!("{path}.weight"),
        bias: None,
        size,
        kind: NormKind::Rms { offset: 0.0 },
        eps: own.norm_eps,
    };
    let layer = |index: usize| {
        let of = |name: &str| format!("layers.{index}.{name}");
        let norms = |before: &str, behind: &str| HalfNorms {
            input: Some(norm(of(before), hidden)),
            output: Some(norm(of(behind), hidden)),
            sum: None,
        };
        let heads = kinds.of(index);
        let part =
            |name: &str, outputs| PartSpec::whole(of(&format!("self_attn.{name}")), outputs, own.qkv_bias);
        let keys = heads.kv_heads * heads.head_dim;
        let head_norm = |name: &str| Some(norm(of(&format!("self_attn.{name}")), heads.head_dim));
        let mlp = |name: &str| PartSpec::whole(of(&format!("mlp.{name}")), intermediate, false);
        LayerSpec {
            attention: AttentionSpec {
                norms: norms("input_layernorm", "post_attention_layernorm"),
                qkv: ProjectionSpec {
                    parts: vec![part("q_proj", heads.queries()), part("k_proj", keys), part("v_proj", keys)],
                    inputs: hidden,
                },
                heads,
                q_norm: head_norm("q_norm"),
                k_norm: head_norm("k_norm"),
                v_norm: Some(own.norm_eps),
                rope: Some(usize::from(kinds.slides[index])),
                scale: 1.0,
                // On each side.
                sees: own.layer_windows[index].map_or(Sees::All, Sees::AllWithin),
                output: ProjectionSpec::one(of("self_attn.o_proj"), hidden, heads.queries(), own.o_bias),
            },
            mlp: MlpSpec {
                norms: norms("pre_feedforward_layernorm", "post_feedforward_layernorm"),
                up: ProjectionSpec { parts: vec![mlp("gate_proj"), mlp("up_proj")], inputs: hidden },
                activation,
                gated: true,
                down: ProjectionSpec::one(of("mlp.down_proj"), hidden, intermediate, false),
            },
            input: Some(LayerInputSpec {
                gate: ProjectionSpec::one(of("ple_block.per_layer_input_gate"), input, hidden, false),
                activation,
                output: ProjectionSpec::one(of("ple_block.per_layer_projection"), hidden, input, false),
                norms: HalfNorms {
                    output: Some(norm(of("ple_block.post_per_layer_input_norm"), hidden)),
                    ..HalfNorms::default()
                },
            }),
            scalar: Some(of("layer_scalar")),
        }
    };
    let rope = |heads: HeadsSpec, base, scaling| RopeSpec {
        dims: heads.head_dim,
        base,
        traditional: false,
        scaling,
        longest: own.max_position_embeddings,
        query_growth: None,
    };
    let embedding = EmbeddingSpec {
        scale: (hidden as f32).sqrt(),
        ..EmbeddingSpec::of(table("embed_tokens", own.vocab_size as usize, own.hidden_size))
    };
    let layers = (0..own.layers).map(layer).collect();
    ModelSpec {
        ropes: vec![
            rope(kinds.full, thetas[0], own.rope_scaling.clone()),
            rope(kinds.sliding, thetas[1], RopeScaling::None),
        ],
        layer_inputs: Some(LayerInputsSpec {
            projection: ProjectionSpec::one(
                "ple.per_layer_model_projection".into(),
                own.layers * input,
                hidden,
                false,
            ),
            // The reference divides what is normed by the root of D, which is as much as an epsilon D times as large.
            norm: NormSpec {
                eps: own.norm_eps * hidden as f32,
                ..norm("ple.per_layer_projection_norm".into(), input)
            },
        }),
        norm: Some(norm("norm".into(), hidden)),
        projection: Some(ProjectionSpec::one("embedding_projection".into(), outputs, hidden, false)),
        ..ModelSpec::of(hidden, embedding, layers)
    }
}
