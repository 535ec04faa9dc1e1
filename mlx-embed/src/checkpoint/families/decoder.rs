//! Qwen2, Qwen3 and Llama: RMSNorm before each half, rotary embedding, SwiGLU.

use crate::checkpoint::config::{Architecture, ModelConfig};
use crate::checkpoint::rope::RopeSpec;
use crate::checkpoint::spec::{
    Activation, AttentionSpec, EmbeddingSpec, HalfNorms, HeadsSpec, LayerSpec, MlpSpec, ModelSpec, NormKind,
    NormSpec, PartSpec, ProjectionSpec, Sees, TableSpec,
};

pub(super) fn spec(config: &ModelConfig, has: impl Fn(&str) -> bool) -> ModelSpec {
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
    let part = |path: String, outputs| {
        let bias = has(&format!("{path}.bias"));
        PartSpec::whole(path, outputs, bias)
    };
    let one = |path: String, outputs, inputs| ProjectionSpec { parts: vec![part(path, outputs)], inputs };
    let layer = |index: usize| {
        let of = |name: &str| format!("layers.{index}.{name}");
        // A Qwen2 config whose checkpoint has them means them.
        let head_norm = |name: &str| {
            let path = of(&format!("self_attn.{name}"));
            let present = config.architecture == Architecture::Qwen3 || has(&format!("{path}.weight"));
            present.then(|| norm(path, head_dim))
        };
        LayerSpec {
            attention: AttentionSpec {
                norms: before(of("input_layernorm")),
                qkv: ProjectionSpec {
                    parts: vec![
                        part(of("self_attn.q_proj"), heads.queries()),
                        part(of("self_attn.k_proj"), kv_heads * head_dim),
                        part(of("self_attn.v_proj"), kv_heads * head_dim),
                    ],
                    inputs: hidden,
                },
                heads,
                q_norm: head_norm("q_norm"),
                k_norm: head_norm("k_norm"),
                rope: Some(0),
                scale: (head_dim as f32).powf(-0.5),
                sees: Sees::Before,
                output: one(of("self_attn.o_proj"), hidden, heads.queries()),
            },
            mlp: MlpSpec {
                norms: before(of("post_attention_layernorm")),
                up: ProjectionSpec {
                    parts: vec![
                        part(of("mlp.gate_proj"), intermediate),
                        part(of("mlp.up_proj"), intermediate),
                    ],
                    inputs: hidden,
                },
                activation: Activation::Silu,
                gated: true,
                down: one(of("mlp.down_proj"), hidden, intermediate),
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
