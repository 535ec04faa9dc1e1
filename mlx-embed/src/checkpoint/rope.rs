//! `config.json`: rotary frequencies.

use serde::Serialize;

use super::json::JsonObject;
use super::{Architecture, CheckpointError};

/// How rotary frequencies are stretched; the kinds and their formulas are mlx-lm's.
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
        /// One factor, or one for each of the `head_dim / 2` frequencies.
        long_factor: Vec<f32>,
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
}

/// The base of the frequencies, and how they are stretched.
pub(super) fn read(
    config: &JsonObject,
    architecture: Architecture,
    head_dim: i32,
) -> Result<(f32, RopeScaling), CheckpointError> {
    // transformers 5 nests theta and scaling under rope_parameters; before, they stood at the top.
    let nested = config.object("rope_parameters")?;
    let theta: Option<f32> = match (config.optional("rope_theta")?, &nested) {
        (Some(theta), _) => Some(theta),
        (None, Some(nested)) => nested.optional("rope_theta")?,
        (None, None) => None,
    };
    let theta = match (theta, architecture) {
        (Some(theta), _) => theta,
        (None, Architecture::Qwen2) => 1_000_000.0,
        (None, Architecture::Llama) => 10_000.0,
        (None, Architecture::Qwen3) => config.required("rope_theta")?,
    };
    if !(theta > 1.0 && theta.is_finite()) {
        return Err(config.invalid("rope_theta", format!("is {theta}; it must be a number above 1")));
    }
    let scaling = match (config.object("rope_scaling")?, nested) {
        (Some(scaling), _) | (None, Some(scaling)) => rope_scaling(&scaling, head_dim)?,
        (None, None) => RopeScaling::None,
    };
    Ok((theta, scaling))
}

fn rope_scaling(scaling: &JsonObject, head_dim: i32) -> Result<RopeScaling, CheckpointError> {
    let named: Option<String> = scaling.optional("type")?;
    let kind = match named {
        Some(kind) => kind,
        None => scaling.optional("rope_type")?.unwrap_or_else(|| "default".into()),
    };
    let or = |field: &str, default: f32| -> Result<f32, CheckpointError> {
        let value = scaling.optional(field)?.unwrap_or(default);
        if value.is_finite() { Ok(value) } else { Err(scaling.invalid(field, "is not finite")) }
    };
    let above_zero = |field: &str, default: Option<f32>| -> Result<f32, CheckpointError> {
        let value = match default {
            Some(default) => or(field, default)?,
            None => scaling.required(field)?,
        };
        if value > 0.0 && value.is_finite() {
            Ok(value)
        } else {
            Err(scaling.invalid(field, format!("is {value}; it must be above 0")))
        }
    };
    const ORIGINAL: &str = "original_max_position_embeddings";
    Ok(match kind.as_str() {
        // mrope sections concern images; for text alone it is plain RoPE.
        "default" | "mrope" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: above_zero("factor", None)? },
        "dynamic" => RopeScaling::Dynamic { factor: above_zero("factor", None)? },
        "llama3" => {
            let low = above_zero("low_freq_factor", Some(1.0))?;
            let high = above_zero("high_freq_factor", Some(4.0))?;
            if high <= low {
                return Err(scaling.invalid("high_freq_factor", "must be above low_freq_factor"));
            }
            RopeScaling::Llama3 {
                factor: above_zero("factor", None)?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: above_zero(ORIGINAL, Some(8192.0))?,
            }
        }
        "yarn" => RopeScaling::Yarn {
            factor: above_zero("factor", None)?,
            original_max_position_embeddings: above_zero(ORIGINAL, Some(4096.0))?,
            beta_fast: above_zero("beta_fast", Some(32.0))?,
            beta_slow: above_zero("beta_slow", Some(1.0))?,
            attention_factor: match scaling.raw("attention_factor") {
                Some(_) => Some(above_zero("attention_factor", None)?),
                None => None,
            },
            mscale: or("mscale", 1.0)?,
            mscale_all_dim: or("mscale_all_dim", 0.0)?,
        },
        "longrope" => {
            let long_factor = match scaling.required("long_factor")? {
                OneOrMany::One(factor) => vec![factor],
                OneOrMany::Many(factors) => factors,
            };
            let frequencies = head_dim as usize / 2;
            if (long_factor.len() != 1 && long_factor.len() != frequencies)
                || !long_factor.iter().all(|factor| *factor > 0.0 && factor.is_finite())
            {
                return Err(scaling
                    .invalid("long_factor", format!("must be one number above 0 or {frequencies} of them")));
            }
            let original = above_zero(ORIGINAL, None)?;
            if original <= 1.0 {
                return Err(scaling.invalid(ORIGINAL, "must be above 1"));
            }
            RopeScaling::LongRope { original_max_position_embeddings: original, long_factor }
        }
        "proportional" => {
            let partial_rotary_factor = above_zero("partial_rotary_factor", Some(1.0))?;
            if partial_rotary_factor > 1.0 {
                return Err(scaling.invalid("partial_rotary_factor", "must be at most 1"));
            }
            RopeScaling::Proportional { partial_rotary_factor, factor: above_zero("factor", Some(1.0))? }
        }
        _ => {
            return Err(scaling.invalid(
                "type",
                format!("is `{kind}`; supported are default, linear, dynamic, llama3, yarn, longrope, proportional and mrope"),
            ));
        }
    })
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(f32),
    Many(Vec<f32>),
}
