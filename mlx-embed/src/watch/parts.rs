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
    /// The activation, multiplied with the up projection where there is a gate.
    SwiGlu,
    /// The down projection, added to the residual stream.
    Down,
    /// The inputs of all layers that come from the first hidden state, projected and normed.
    LayerInputs,
    /// A layer's own input, gated, projected and added to the residual stream.
    LayerInput,
    /// The norm after the last layer.
    FinalNorm,
    /// Hidden states to one vector a text.
    Pooling,
    /// A whole layer.
    Layer,
    /// Everything from token ids to vectors.
    Model,
}

impl Part {
    /// Its name in tables.
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

/// The type of the numbers that an operation multiplies, which limits how fast a device can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Arithmetic {
    /// 32-bit floats.
    F32,
    /// f16 or bf16.
    Half,
    /// 16-bit integers, at once or as two halves of 8 bits.
    Int16,
    /// 8-bit integers.
    Int8,
}

/// How finely a pass is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Each operation by itself.
    Operations,
    /// Each layer by itself.
    Layers,
    /// The whole pass at once, as users' passes are.
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
