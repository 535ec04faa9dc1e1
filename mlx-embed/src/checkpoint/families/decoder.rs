//! Qwen2, Qwen3, Llama, Mistral, Gemma and Gemma 3: RMSNorm before each half, rotary embedding, a gated feed-forward part.

use crate::checkpoint::DenseActivation;
use crate::checkpoint::config::{Architecture, ModelConfig};
use crate::checkpoint::files::TensorFiles;
use crate::checkpoint::rope::{RopeScaling, RopeSpec};
use crate::checkpoint::spec::{
    Activation, AttentionSpec, EmbeddingSpec, HalfNorms, HeadsSpec, LayerSpec, MlpSpec, ModelSpec, NormKind,
    NormSpec, PartSpec, ProjectionSpec, Sees, StepSpec,
};

/// `projects` says that `linear` follows the last norm, as in voyage-4-nano.
pub(super) fn spec(config: &ModelConfig, weights: &TensorFiles, projects: bool) -> ModelSpec {
    let [hidden, intermediate, vocabulary] =
        [config.hidden_size, config.intermediate_size, config.vocab_size].map(|size| size as usize);
    let heads = super::heads(config);
    let HeadsSpec { kv_heads, head_dim, .. } = heads;
    let gemma = config.architecture.is_gemma();
    // Its norms stand behind the halves of a layer, too.
    let gemma3 = config.architecture == Architecture::Gemma3;
    let norm = |path: String, size| NormSpec {
        weight: format!("{path}.weight"),
        bias: None,
        size,
        kind: NormKind::Rms { offset: if gemma { 1.0 } else { 0.0 } },
        eps: config.norm_eps,
    };
    let norms = |input: String, output: String| HalfNorms {
        input: Some(norm(input, hidden)),
        output: gemma3.then(|| norm(output, hidden)),
        sum: None,
    };
    let part = PartSpec::whole;
    let layer = |index: usize| {
        let of = |name: &str| format!("layers.{index}.{name}");
        let head_norm =
            |name: &str| config.head_norms.then(|| norm(of(&format!("self_attn.{name}")), head_dim));
        let window = config.layer_windows.get(index).copied().flatten();
        let sees = match (config.causal, window) {
            (true, None) => Sees::Before,
            (true, Some(window)) => Sees::BeforeWithin(window),
            (false, None) => Sees::All,
            // As transformers has them: EmbeddingGemma shares its window out to both sides, the others don't.
            (false, Some(window)) => Sees::AllWithin(if gemma3 { window / 2 } else { window }),
        };
        let mlp_norm = if gemma3 { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        LayerSpec {
            attention: AttentionSpec {
                norms: norms(of("input_layernorm"), of("post_attention_layernorm")),
                qkv: ProjectionSpec {
                    parts: vec![
                        part(of("self_attn.q_proj"), heads.queries(), config.qkv_bias),
                        part(of("self_attn.k_proj"), kv_heads * head_dim, config.qkv_bias),
                        part(of("self_attn.v_proj"), kv_heads * head_dim, config.qkv_bias),
                    ],
                    inputs: hidden,
                },
                heads,
                q_norm: head_norm("q_norm"),
                k_norm: head_norm("k_norm"),
                v_norm: None,
                rope: Some(usize::from(window.is_some() && config.rope_local_theta.is_some())),
                scale: config.query_pre_attn_scalar.unwrap_or(head_dim as f32).powf(-0.5),
                sees,
                output: ProjectionSpec::one(of("self_attn.o_proj"), hidden, heads.queries(), config.o_bias),
            },
            mlp: MlpSpec {
                norms: norms(of(mlp_norm), of("post_feedforward_layernorm")),
                up: ProjectionSpec {
                    parts: vec![
                        part(of("mlp.gate_proj"), intermediate, config.mlp_bias),
                        part(of("mlp.up_proj"), intermediate, config.mlp_bias),
                    ],
                    inputs: hidden,
                },
                activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
                gated: true,
                down: ProjectionSpec::one(of("mlp.down_proj"), hidden, intermediate, config.mlp_bias),
            },
            input: None,
            scalar: None,
        }
    };
    let embedding = EmbeddingSpec {
        scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
        ..EmbeddingSpec::of(super::table("embed_tokens", vocabulary, config.hidden_size))
    };
    let layers = (0..config.layers).map(layer).collect();
    ModelSpec {
        ropes: [config.rope_theta, config.rope_local_theta]
            .into_iter()
            .flatten()
            .zip([&config.rope_scaling, &RopeScaling::None])
            .map(|(base, scaling)| RopeSpec {
                dims: head_dim,
                base,
                traditional: config.rope_traditional,
                scaling: scaling.clone(),
                longest: config.max_position_embeddings,
                query_growth: config.query_growth,
            })
            .collect(),
        norm: Some(norm("norm".into(), hidden)),
        projection: projects
            .then(|| weights.rows("linear.weight"))
            .flatten()
            .map(|outputs| ProjectionSpec::one("linear".into(), outputs, hidden, false)),
        behind: behind(config.architecture, weights, hidden),
        ..ModelSpec::of(hidden, embedding, layers)
    }
}

/// Projections behind pooling: `dense.0`, `dense.1` of MLX's EmbeddingGemma.
fn behind(architecture: Architecture, weights: &TensorFiles, hidden: usize) -> Vec<StepSpec> {
    let (mut all, mut width) = (Vec::new(), hidden);
    while architecture == Architecture::Gemma3
        && let path = format!("dense.{}", all.len())
        && let Some(outputs) = weights.rows(&format!("{path}.weight"))
    {
        let projection = ProjectionSpec::one(path, outputs, width, false);
        all.push(StepSpec::Dense { projection, activation: DenseActivation::Identity });
        width = outputs;
    }
    all
}
