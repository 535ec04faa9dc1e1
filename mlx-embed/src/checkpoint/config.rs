//! `config.json`: the decoder's geometry.

use serde::Serialize;

use super::CheckpointError;
use super::json::JsonObject;

/// Families of decoders that this crate builds. They are parameters of one description, not separate models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Architecture {
    /// Qwen2: biases on q, k and v.
    Qwen2,
    /// Qwen3: RMSNorm on each head of q and k.
    Qwen3,
    /// Llama: neither.
    Llama,
}

/// The decoder's geometry, as `config.json` gives it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Width of the residual stream, and of the vectors.
    pub hidden_size: i32,
    /// Number of decoder layers.
    pub layers: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: i32,
    /// Query heads.
    pub heads: i32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: i32,
    /// Width of a head; not always `hidden_size / heads`.
    pub head_dim: i32,
    /// Rows of the embedding table.
    pub vocab_size: i32,
    /// Longest input that the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Attention window, where the config turns one on. Inputs up to this length don't notice it.
    pub sliding_window: Option<usize>,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Whether rotary embedding pairs neighbours, as in the paper, rather than halves.
    pub rope_traditional: bool,
    /// Changes to the rotary frequencies for longer inputs.
    pub rope_scaling: RopeScaling,
    /// Token that ends a text, where the config names one.
    pub eos_token_id: Option<u32>,
}

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

impl ModelConfig {
    pub(super) fn read(config: &JsonObject) -> Result<Self, CheckpointError> {
        let model_type: String = config.required("model_type")?;
        let architecture = match model_type.as_str() {
            "qwen2" => Architecture::Qwen2,
            "qwen3" => Architecture::Qwen3,
            "llama" => Architecture::Llama,
            _ => {
                return Err(CheckpointError::UnsupportedArchitecture {
                    path: config.path().to_owned(),
                    model_type,
                });
            }
        };
        refuse_what_would_be_wrong(config)?;

        let hidden_size = positive(config, "hidden_size")?;
        let heads = positive(config, "num_attention_heads")?;
        let kv_heads = match (config.raw("num_key_value_heads"), architecture) {
            (None, Architecture::Llama) => heads,
            _ => positive(config, "num_key_value_heads")?,
        };
        if heads % kv_heads != 0 {
            return Err(config.invalid(
                "num_attention_heads",
                format!("is {heads}, which num_key_value_heads ({kv_heads}) does not divide"),
            ));
        }
        let head_dim = match (config.raw("head_dim"), architecture) {
            // mlx-lm's qwen2 knows no head_dim; a checkpoint that gives one means it.
            (None, Architecture::Qwen2 | Architecture::Llama) => {
                if hidden_size % heads != 0 {
                    return Err(config.invalid(
                        "hidden_size",
                        format!("is {hidden_size}, which is not a multiple of {heads} heads, and there is no head_dim"),
                    ));
                }
                hidden_size / heads
            }
            _ => positive(config, "head_dim")?,
        };
        if head_dim % 2 != 0 {
            return Err(
                config.invalid("head_dim", format!("is {head_dim}; rotary embedding needs an even one"))
            );
        }
        if heads.checked_mul(head_dim).is_none() {
            return Err(config.invalid("head_dim", "times num_attention_heads is too large"));
        }
        let rms_norm_eps: f32 = config.required("rms_norm_eps")?;
        if !(rms_norm_eps >= 0.0 && rms_norm_eps.is_finite()) {
            return Err(config.invalid("rms_norm_eps", format!("is {rms_norm_eps}")));
        }
        let max_position_embeddings =
            if config.raw("max_position_embeddings").is_none() && architecture == Architecture::Qwen2 {
                32768
            } else {
                positive(config, "max_position_embeddings")? as usize
            };
        let (rope_theta, rope_scaling) = rope(config, architecture, head_dim)?;
        Ok(Self {
            architecture,
            hidden_size,
            layers: positive(config, "num_hidden_layers")? as usize,
            intermediate_size: positive(config, "intermediate_size")?,
            heads,
            kv_heads,
            head_dim,
            vocab_size: positive(config, "vocab_size")?,
            max_position_embeddings,
            sliding_window: sliding_window(config)?,
            rms_norm_eps,
            rope_theta,
            rope_traditional: config.optional("rope_traditional")?.unwrap_or(false),
            rope_scaling,
            eos_token_id: eos_token_id(config),
        })
    }

    /// Whether a row's rotary frequencies depend on how long the padded batch is, so that only texts of one length
    /// may share a batch.
    pub(crate) fn frequencies_depend_on_length(&self, longest: usize) -> bool {
        matches!(self.rope_scaling, RopeScaling::Dynamic { .. }) && longest > self.max_position_embeddings
    }
}

/// Settings under which this crate's graph would silently compute something else.
fn refuse_what_would_be_wrong(config: &JsonObject) -> Result<(), CheckpointError> {
    for activation in ["hidden_act", "hidden_activation"] {
        if let Some(name) = config.optional::<String>(activation)?
            && name != "silu"
            && name != "swish"
        {
            return Err(config.invalid(activation, format!("is `{name}`; only silu is supported")));
        }
    }
    if config.optional::<bool>("is_causal")? == Some(false) {
        return Err(config.invalid("is_causal", "is false; bidirectional attention is not supported"));
    }
    Ok(())
}

fn positive(config: &JsonObject, field: &str) -> Result<i32, CheckpointError> {
    let value: i64 = config.required(field)?;
    match i32::try_from(value) {
        Ok(value) if value > 0 => Ok(value),
        _ => Err(config.invalid(field, format!("is {value}; it must be between 1 and {}", i32::MAX))),
    }
}

fn sliding_window(config: &JsonObject) -> Result<Option<usize>, CheckpointError> {
    let layer_types: Vec<String> = config.optional("layer_types")?.unwrap_or_default();
    let in_use = config.optional::<bool>("use_sliding_window")? == Some(true)
        || layer_types.iter().any(|kind| kind == "sliding_attention");
    match (in_use, config.raw("sliding_window")) {
        (true, Some(_)) => Ok(Some(positive(config, "sliding_window")? as usize)),
        _ => Ok(None),
    }
}

/// The field may be one id or a list; the first of a list is the one that ends a document.
fn eos_token_id(config: &JsonObject) -> Option<u32> {
    let value = config.raw("eos_token_id")?;
    let id = value.as_array().map_or(Some(value), |list| list.first())?;
    u32::try_from(id.as_u64()?).ok()
}

fn rope(
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
