//! What rotary kinds of BERT share: its order of norms, and attention to all tokens, with a rotary embedding in the place of
//! a table of positions.

use super::{heads, layer_norm, table};
use crate::checkpoint::config::ModelConfig;
use crate::checkpoint::files::TensorFiles;
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

impl Names {
    /// These where the file has them, else those of `others`.
    pub(super) fn or<'a>(&'a self, others: &'a Self, weights: &TensorFiles) -> &'a Self {
        let first = format!("{}.0.{}.weight", self.layers, self.attention_norm);
        if weights.tensors.contains_key(&first) { self } else { others }
    }
}

/// As transformers names a model with a gate in memory, and in some files.
pub(super) const OF_TRANSFORMERS: Names = Names {
    embedding_norm: "embeddings.LayerNorm",
    layers: "layers",
    qkv: [
        Matrix::Whole("self_attn.q_proj"),
        Matrix::Whole("self_attn.k_proj"),
        Matrix::Whole("self_attn.v_proj"),
    ],
    output: "self_attn.o_proj",
    attention_norm: "post_attention_layernorm",
    up: &[Matrix::Whole("mlp.gate_proj"), Matrix::Whole("mlp.up_proj")],
    down: "mlp.down_proj",
    mlp_norm: "post_mlp_layernorm",
};

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

/// What lies between two layers' attention.
pub(super) struct FeedForward {
    pub(super) activation: Activation,
    /// Whether the projections that lead into it have a bias, and the one that leads out.
    pub(super) biases: [bool; 2],
}

/// The model of a config, with a rotary embedding of this base and so many types of tokens.
pub(super) fn model(
    own: ModelConfig,
    theta: f32,
    token_types: usize,
    mlp: &FeedForward,
    names: &Names,
) -> (ModelConfig, ModelSpec) {
    let own = ModelConfig { rope_theta: Some(theta), ..own };
    let ModelConfig { hidden_size, norm_eps: eps, qkv_bias, o_bias, .. } = own;
    let [up_bias, down_bias] = mlp.biases;
    let [width, intermediate] = [hidden_size, own.intermediate_size].map(|size| size as usize);
    let layer = |index: usize| {
        let of = |name: &str| format!("{}.{index}.{name}", names.layers);
        let part = |matrix: Matrix, outputs: usize, bias: bool| match matrix {
            Matrix::Whole(name) => PartSpec::whole(of(name), outputs, bias),
            Matrix::Part(name, part, count) => PartSpec::nth(of(name), part, count, outputs, bias),
        };
        let sum =
            |name: &str| HalfNorms { sum: Some(layer_norm(&of(name), width, eps)), ..HalfNorms::default() };
        let qkv = names.qkv.map(|matrix| part(matrix, width, qkv_bias));
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
                scale: (own.head_dim as f32).powf(-0.5),
                sees: Sees::All,
                output: ProjectionSpec::one(of(names.output), width, width, o_bias),
            },
            mlp: MlpSpec {
                norms: sum(names.mlp_norm),
                up: ProjectionSpec { parts: up.collect(), inputs: width },
                activation: mlp.activation,
                gated: names.up.len() == 2,
                down: ProjectionSpec::one(of(names.down), width, intermediate, down_bias),
            },
            input: None,
            scalar: None,
        }
    };
    let embedding = EmbeddingSpec {
        token_types: (token_types > 0)
            .then(|| table("embeddings.token_type_embeddings", token_types, hidden_size)),
        norm: Some(layer_norm(names.embedding_norm, width, eps)),
        ..EmbeddingSpec::of(table("embeddings.word_embeddings", own.vocab_size as usize, hidden_size))
    };
    let layers = (0..own.layers).map(layer).collect();
    let spec = ModelSpec {
        ropes: vec![RopeSpec {
            dims: own.head_dim as usize,
            base: theta,
            traditional: false,
            scaling: own.rope_scaling.clone(),
            longest: own.max_position_embeddings,
            query_growth: None,
        }],
        ..ModelSpec::of(width, embedding, layers)
    };
    (own, spec)
}
