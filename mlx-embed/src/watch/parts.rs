//! What a pass is made of, and how long it took.

use std::time::Duration;

use serde::Serialize;

/// A part of what a decoder computes. Kernels may compute several in one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// Rows of the embedding table, looked up and dequantised.
    Gather,
    /// The RMSNorm before attention.
    InputNorm,
    /// The projections to queries, keys and values.
    Qkv,
    /// The RMSNorm of each head of queries and keys.
    HeadNorms,
    /// The rotation of queries and keys.
    Rope,
    /// Scores, softmax, and the sum of values.
    Attention,
    /// The output projection, added to the residual stream.
    Output,
    /// The RMSNorm before the feed-forward part.
    PostAttentionNorm,
    /// The gate and up projections.
    GateUp,
    /// The activation, and its product with up where it is of a gate.
    SwiGlu,
    /// The down projection, added to the residual stream.
    Down,
    /// What all layers take in of the first hidden state, projected and normed.
    LayerInputs,
    /// What a layer takes in, gated, projected and added to the residual stream.
    LayerInput,
    /// The RMSNorm behind the last layer.
    FinalNorm,
    /// Hidden states to one vector a text.
    Pooling,
    /// A whole layer.
    Layer,
    /// Everything from token ids to vectors.
    Model,
}

impl Part {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gather => "embedding gather",
            Self::InputNorm => "input RMSNorm",
            Self::Qkv => "q/k/v",
            Self::HeadNorms => "q/k norm",
            Self::Rope => "RoPE",
            Self::Attention => "attention",
            Self::Output => "o",
            Self::PostAttentionNorm => "post-attention RMSNorm",
            Self::GateUp => "gate/up",
            Self::SwiGlu => "SwiGLU",
            Self::Down => "down",
            Self::LayerInputs => "layers' inputs",
            Self::LayerInput => "layer's input",
            Self::FinalNorm => "final RMSNorm",
            Self::Pooling => "pooling",
            Self::Layer => "layer",
            Self::Model => "model",
        }
    }
}

/// The numbers that an operation multiplies, which decide how fast a device could.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Arithmetic {
    /// 32-bit floats.
    F32,
    /// f16 or bf16.
    Half,
    /// 16-bit integers, as two limbs of 8 bits or at once.
    Int16,
    /// 8-bit integers.
    Int8,
}

/// How finely a pass is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Each operation is computed by itself.
    Operations,
    /// Each layer is computed by itself.
    Layers,
    /// The whole pass is computed at once, as users' passes are.
    Model,
}

/// One operation's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) parts: &'static [Part],
    pub(crate) arithmetic: Arithmetic,
    /// None outside the layers.
    pub(crate) layer: Option<usize>,
    /// Building its part of the graph.
    pub(crate) host: Duration,
    /// Computing it.
    pub(crate) device: Duration,
}
