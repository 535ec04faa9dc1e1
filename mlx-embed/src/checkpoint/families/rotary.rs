//! What rotary kinds of BERT share: its order of norms, and attention to all tokens, with a rotary embedding in the place of
//! a table of positions.

use super::{heads, layer_norm, table};
use crate::checkpoint::RopeScaling;
use crate::checkpoint::config::{self, Architecture, ModelConfig};
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::rope::RopeSpec;
use crate::checkpoint::spec::{
    Activation, AttentionSpec, EmbeddingSpec, HalfNorms, LayerSpec, MlpSpec, ModelSpec, PartSpec,
    ProjectionSpec, Sees,
};

/// What a checkpoint calls its tensors.
pub(super) struct Names {
    pub(super) embedding_norm: &'static str,
    pub(super) layers: &'static str,
    pub(super) qkv: [Matrix; 3],
    pub(super) output: &'static str,
    pub(super) attention_norm: &'static str,
    /// The gate comes first, where there is one.
    pub(super) up: &'static [Matrix],
    pub(super) down: &'static str,
    pub(super) mlp_norm: &'static str,
}

/// A matrix by itself, or which of so many equal parts of one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Matrix {
    Whole(&'static str),
    Part(&'static str, usize, usize),
}

/// Thirds of one matrix.
pub(super) const fn thirds(name: &'static str) -> [Matrix; 3] {
    [Matrix::Part(name, 0, 3), Matrix::Part(name, 1, 3), Matrix::Part(name, 2, 3)]
}

/// What config.json says.
pub(super) struct Sizes {
    pub(super) architecture: Architecture,
    pub(super) hidden: i32,
    pub(super) layers: usize,
    pub(super) heads: i32,
    pub(super) head_dim: i32,
    pub(super) intermediate: i32,
    pub(super) vocabulary: i32,
    /// None where there are no types.
    pub(super) token_types: usize,
    pub(super) longest: usize,
    pub(super) eps: f32,
    pub(super) theta: f32,
    pub(super) scaling: RopeScaling,
    pub(super) activation: Activation,
    /// Of attention's projections, of those that lead into the feed-forward part, and of the one that leads out.
    pub(super) biases: [bool; 3],
}

pub(super) fn model(config: &JsonObject, sizes: Sizes, names: &Names) -> (ModelConfig, ModelSpec) {
    let Sizes { hidden, eps, biases: [attention_bias, up_bias, down_bias], .. } = sizes;
    let own = ModelConfig {
        architecture: sizes.architecture,
        hidden_size: hidden,
        layers: sizes.layers,
        intermediate_size: sizes.intermediate,
        heads: sizes.heads,
        kv_heads: sizes.heads,
        head_dim: sizes.head_dim,
        vocab_size: sizes.vocabulary,
        max_position_embeddings: sizes.longest,
        causal: false,
        layer_windows: vec![None; sizes.layers],
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        mlp_bias: up_bias && down_bias,
        head_norms: false,
        norm_eps: eps,
        rope_theta: Some(sizes.theta),
        rope_local_theta: None,
        query_pre_attn_scalar: None,
        query_growth: None,
        rope_traditional: false,
        rope_scaling: sizes.scaling.clone(),
        eos_token_id: config::eos_token_id(config),
    };
    let [width, intermediate] = [hidden, sizes.intermediate].map(|size| size as usize);
    let layer = |index: usize| {
        let of = |name: &str| format!("{}.{index}.{name}", names.layers);
        let part = |matrix: Matrix, outputs: usize, bias: bool| match matrix {
            Matrix::Whole(name) => PartSpec::whole(of(name), outputs, bias),
            Matrix::Part(name, part, count) => PartSpec::nth(of(name), part, count, outputs, bias),
        };
        let sum =
            |name: &str| HalfNorms { sum: Some(layer_norm(&of(name), width, eps)), ..HalfNorms::default() };
        let qkv = names.qkv.map(|matrix| part(matrix, width, attention_bias));
        let up = names.up.iter().map(|&matrix| part(matrix, intermediate, up_bias));
        LayerSpec {
            attention: AttentionSpec {
                norms: sum(names.attention_norm),
                qkv: ProjectionSpec { parts: qkv.to_vec(), inputs: width },
                heads: heads(&own),
                q_norm: None,
                k_norm: None,
                v_norm: None,
                rope: Some(0),
                scale: (sizes.head_dim as f32).powf(-0.5),
                sees: Sees::All,
                output: ProjectionSpec::one(of(names.output), width, width, attention_bias),
            },
            mlp: MlpSpec {
                norms: sum(names.mlp_norm),
                up: ProjectionSpec { parts: up.collect(), inputs: width },
                activation: sizes.activation,
                gated: names.up.len() == 2,
                down: ProjectionSpec::one(of(names.down), width, intermediate, down_bias),
            },
            input: None,
            scalar: None,
        }
    };
    let embedding = EmbeddingSpec {
        tokens: table("embeddings.word_embeddings", own.vocab_size as usize, hidden),
        lookup: None,
        scale: 1.0,
        positions: None,
        token_types: (sizes.token_types > 0)
            .then(|| table("embeddings.token_type_embeddings", sizes.token_types, hidden)),
        norm: Some(layer_norm(names.embedding_norm, width, eps)),
    };
    let layers = (0..sizes.layers).map(layer).collect();
    let spec = ModelSpec {
        ropes: vec![RopeSpec {
            dims: sizes.head_dim as usize,
            base: sizes.theta,
            traditional: false,
            scaling: sizes.scaling,
            longest: sizes.longest,
            query_growth: None,
        }],
        ..ModelSpec::of(width, embedding, layers)
    };
    (own, spec)
}
