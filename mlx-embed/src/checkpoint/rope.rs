//! How rotary frequencies are stretched.

use serde::Serialize;

/// How rotary frequencies change for longer texts. Kinds and formulas are those of transformers and, for text, mlx-lm.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum RopeScaling {
    /// They don't.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// The base grows for texts longer than `max_position_embeddings` (NTK-aware).
    Dynamic {
        /// How fast it grows.
        factor: f32,
    },
    /// As in Llama 3.1: long wavelengths are stretched, short ones are kept, with a ramp between.
    Llama3 {
        /// How much is stretched.
        factor: f32,
        /// Wavelengths above `original / low` are stretched in full.
        low_freq_factor: f32,
        /// Wavelengths below `original / high` are kept.
        high_freq_factor: f32,
        /// Context length before stretching.
        original_max_position_embeddings: f32,
    },
    /// YaRN (Peng et al., 2023).
    Yarn {
        /// How much is stretched.
        factor: f32,
        /// Context length before stretching.
        original_max_position_embeddings: f32,
        /// A frequency with more rotations than this over the original context is kept.
        beta_fast: f32,
        /// A frequency with fewer rotations than this is stretched in full.
        beta_slow: f32,
        /// Whether the bounds of the ramp are rounded to whole numbers.
        truncate: bool,
        /// Factor of queries and keys; if it is there, the two numbers below don't count.
        attention_factor: Option<f32>,
        /// Numerator of the factor of queries and keys.
        mscale: f32,
        /// Denominator of the factor of queries and keys.
        mscale_all_dim: f32,
    },
    /// LongRoPE: a factor for each frequency (Ding et al., 2024).
    LongRope {
        /// Context length before stretching.
        original_max_position_embeddings: f32,
        /// Factors of the `head_dim / 2` frequencies, for texts of up to `original_max_position_embeddings` tokens.
        short_factor: Vec<f32>,
        /// Factors for longer texts.
        long_factor: Vec<f32>,
        /// Factor of queries and keys.
        attention_factor: f32,
    },
    /// Only the first of the frequencies rotate.
    Proportional {
        /// Share of the head that rotates, from 0 to 1.
        partial_rotary_factor: f32,
        /// How much is stretched.
        factor: f32,
    },
}

/// A rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RopeSpec {
    /// Numbers of a head.
    pub(crate) dims: usize,
    /// Base of the frequencies.
    pub(crate) base: f32,
    /// Whether neighbours rotate together, as in the paper, rather than halves.
    pub(crate) traditional: bool,
    pub(crate) scaling: RopeScaling,
    /// Longest input that the model was made for, in tokens.
    pub(crate) longest: usize,
    /// What queries grow by with their position.
    pub(crate) query_growth: Option<QueryGrowth>,
}

/// Queries at position `p` are multiplied with `1 + beta * ln(1 + floor(p / original))`, so that attention in long texts
/// stays sharp. Llama 4 calls it temperature tuning.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct QueryGrowth {
    /// How fast queries grow.
    pub beta: f32,
    /// Number of tokens before they begin to grow.
    pub original: f32,
}

impl QueryGrowth {
    /// The factor at a position.
    pub(crate) fn at(self, position: usize) -> f32 {
        1.0 + self.beta * (1.0 + (position as f32 / self.original).floor()).ln()
    }
}
