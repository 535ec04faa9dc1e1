//! How rotary frequencies are stretched.

use serde::Serialize;

/// How rotary frequencies are stretched; the kinds and their formulas are those of transformers and, for text, mlx-lm.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// The base grows with inputs longer than `max_position_embeddings` (NTK-aware).
    Dynamic {
        /// The growth.
        factor: f32,
    },
    /// Llama 3.1's: long wavelengths stretched, short ones kept, a ramp between.
    Llama3 {
        /// The stretch.
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
        /// The stretch.
        factor: f32,
        /// Context length before stretching.
        original_max_position_embeddings: f32,
        /// Rotations above which a frequency is kept.
        beta_fast: f32,
        /// Rotations below which a frequency is stretched in full.
        beta_slow: f32,
        /// Whether the bounds between which frequencies are stretched in part are whole numbers.
        truncate: bool,
        /// Scale of queries and keys; where given, it takes the place of the two below.
        attention_factor: Option<f32>,
        /// Scale of queries and keys, numerator.
        mscale: f32,
        /// Scale of queries and keys, denominator.
        mscale_all_dim: f32,
    },
    /// LongRoPE: a factor for each frequency.
    LongRope {
        /// Context length before stretching.
        original_max_position_embeddings: f32,
        /// For texts of up to that many tokens: one for each of the `head_dim / 2` frequencies.
        short_factor: Vec<f32>,
        /// The same for longer texts.
        long_factor: Vec<f32>,
        /// Scale of queries and keys.
        attention_factor: f32,
    },
    /// Only the first of the frequencies rotate.
    Proportional {
        /// Share of the head that rotates.
        partial_rotary_factor: f32,
        /// The stretch.
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

/// Queries at position `p` are multiplied with `1 + beta * ln(1 + floor(p / original))`, so that scores of long texts
/// stay sharp: Llama 4's attention temperature.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct QueryGrowth {
    /// How fast they grow.
    pub beta: f32,
    /// Tokens of a text before they do.
    pub original: f32,
}

impl QueryGrowth {
    /// The factor at a position.
    pub(crate) fn at(self, position: usize) -> f32 {
        1.0 + self.beta * (1.0 + (position as f32 / self.original).floor()).ln()
    }
}
