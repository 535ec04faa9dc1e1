//! Qwen2, Qwen3 and Llama: RMSNorm before each half, rotary embedding, SwiGLU.

use crate::checkpoint::config::ModelConfig;
use crate::checkpoint::rope::RopeSpec;
use crate::checkpoint::spec::{
    Activation, AttentionSpec, EmbeddingSpec, HalfNorms, HeadsSpec, LayerSpec, MlpSpec, ModelSpec, NormKind,
    NormSpec, PartSpec, ProjectionSpec, Sees, TableSpec,
};

pub(super) fn spec(config: &ModelConfig) -> ModelSpec {
    let [hidden, intermediate, vocabulary] =
        [config.hidden_size, config.intermediate_size, config.vocab_size].map(|size| size as usize);
    let [heads, kv_heads, head_dim] =
        [config.heads, config.kv_heads, config.head_dim].map(|size| size as usize);
    let heads = HeadsSpec { heads, kv_heads, head_dim };
    let norm = |path: String, size| NormSpec {
        path,
        size,
        kind: NormKind::Rms { offset: 0.0 },
        eps: config.rms_norm_eps,
    };
    let before = |path: String| HalfNorms { input: Some(norm(path, hidden)), ..HalfNorms::default() };
    let part = PartSpec::whole;
    let layer = |index: usize| {
        let of = |name: &str| format!("layers.{index}.{name}");
        let head_norm =
            |name: &str| config.head_norms.then(|| norm(of(&format!("self_attn.{name}")), head_dim));
        let sees = match (config.causal, config.layer_windows.get(index).copied().flatten()) {
            (true, None) => Sees::Before,
            (true, Some(window)) => Sees::BeforeWithin(window),
            (false, None) => Sees::All,
            // As transformers has it: as many on each side.
            (false, Some(window)) => Sees::AllWithin(window),
        };
        LayerSpec {
            attention: AttentionSpec {
                norms: before(of("input_layernorm")),
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
                rope: Some(0),
                scale: (head_dim as f32).powf(-0.5),
                sees,
                output: ProjectionSpec::one(of("self_attn.o_proj"), hidden, heads.queries(), config.o_bias),
            },
            mlp: MlpSpec {
                norms: before(of("post_attention_layernorm")),
                up: ProjectionSpec {
                    parts: vec![
                        part(of("mlp.gate_proj"), intermediate, config.mlp_bias),
                        part(of("mlp.up_proj"), intermediate, config.mlp_bias),
                    ],
                    inputs: hidden,
                },
                activation: Activation::Silu,
                gated: true,
                down: ProjectionSpec::one(of("mlp.down_proj"), hidden, intermediate, config.mlp_bias),
            },
        }
    };
    ModelSpec {
        hidden,
        embedding: EmbeddingSpec {
            tokens: TableSpec { path: "embed_tokens".into(), rows: vocabulary, width: hidden },
            scale: 1.0,
            positions: None,
            token_types: None,
            norm: None,
        },
        ropes: vec![RopeSpec {
            dims: head_dim,
            base: config.rope_theta,
            traditional: config.rope_traditional,
            scaling: config.rope_scaling.clone(),
            longest: config.max_position_embeddings,
        }],
        layers: (0..config.layers).map(layer).collect(),
        norm: Some(norm("norm".into(), hidden)),
    }
}
