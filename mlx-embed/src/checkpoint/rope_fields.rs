//! `config.json`: rotary frequencies.

use super::doubt::Doubt;
use super::json::JsonObject;
use super::rope::{QueryGrowth, RopeScaling};
use super::{Architecture, CheckpointError};

/// The base of the frequencies, and how they are stretched.
///
/// As transformers reads them, where these fields come from: `rope_scaling` goes before `rope_parameters`, `rope_type`
/// before `type`, and what a kind leaves out is taken from the rest of the config. mlx-lm reads some of it otherwise.
/// What says one thing in one place and another in the next is refused.
pub(super) fn read(
    config: &JsonObject,
    architecture: Architecture,
    head_dim: i32,
    max_position_embeddings: usize,
    doubts: &mut Vec<Doubt>,
) -> Result<Rope, CheckpointError> {
    if architecture == Architecture::Gemma3 {
        return by_layer_types(config, head_dim, max_position_embeddings);
    }
    let ministral = architecture == Architecture::Ministral3;
    let mut objects = Vec::new();
    for field in ["rope_scaling", "rope_parameters"] {
        // An empty object is none.
        objects.extend(config.object(field)?.filter(|object| !object.is_empty()));
    }
    if ministral && objects.is_empty() && !config.has("rope_theta") {
        return Ok(ministral3());
    }
    let mut thetas: Vec<f32> = config.optional("rope_theta")?.into_iter().collect();
    let mut scalings = Vec::new();
    for object in &objects {
        refuse_layer_types(object)?;
        thetas.extend(object.optional::<f32>("rope_theta")?);
        let around = Around { config, head_dim, max_position_embeddings };
        scalings.push(rope_scaling(object, &around)?);
        let of_ministral = |key: &str| ministral && OF_MINISTRAL.contains(&key);
        let unknown = object
            .entries()
            .filter(|(key, value)| !value.is_null() && !KNOWN.contains(&key.as_str()) && !of_ministral(key));
        doubts.extend(unknown.map(|(key, _)| {
            let reason = "is not known to this crate, and may change how positions are computed";
            Doubt::field(config.path().to_owned(), object.name(key), reason)
        }));
    }
    if scalings.iter().any(|scaling| *scaling != scalings[0]) {
        return Err(contradictory(config));
    }
    if thetas.iter().any(|theta| *theta != thetas[0]) {
        return Err(config.invalid(
            "rope_theta",
            format!("has the values {thetas:?} in different places; leave one of them"),
        ));
    }
    let theta = match (thetas.first(), architecture) {
        (Some(theta), _) => *theta,
        (None, Architecture::Gte) => 160_000.0,
        (None, Architecture::JinaV3) => 20_000.0,
        // EuroBERT's own code takes another one than transformers where there is none, and so does mlx-lm in a Qwen2.
        (None, architecture)
            if !matches!(architecture, Architecture::EuroBert | Architecture::Qwen2)
                && !config.has("rope_theta") =>
        {
            10_000.0
        }
        (None, _) => config.required("rope_theta")?,
    };
    let theta = base(config, "rope_theta", theta)?;
    let scaling = scalings.into_iter().next().unwrap_or(RopeScaling::None);
    if !matches!(scaling, RopeScaling::Proportional { .. }) {
        for object in [Some(config), objects.first()].into_iter().flatten() {
            if let Some(share) = object.optional::<f32>(PARTIAL)?
                && share != 1.0
            {
                return Err(object.invalid(
                    PARTIAL,
                    format!(
                        "is {share}; heads that rotate in part are supported with rope_type proportional only"
                    ),
                ));
            }
        }
    }
    let query_growth = match objects.first() {
        Some(object) if ministral => Some(query_growth(object)?),
        None if ministral => {
            return Err(config
                .invalid("rope_theta", "is no place for it in a Ministral 3, which has rope_parameters"));
        }
        _ => None,
    };
    Ok(Rope { theta, local_theta: None, scaling, query_growth })
}

#[cold]
fn contradictory(config: &JsonObject) -> CheckpointError {
    config.invalid("rope_scaling", "and rope_parameters contradict each other; leave one of them")
}

/// Of every Ministral 3.
fn query_growth(object: &JsonObject) -> Result<QueryGrowth, CheckpointError> {
    let number = |field: &str| -> Result<f32, CheckpointError> {
        let value: f32 = object.required(field)?;
        if value >= 0.0 && value.is_finite() {
            Ok(value)
        } else {
            Err(object.invalid(field, format!("is {value}; it must not be below 0")))
        }
    };
    let growth = QueryGrowth { beta: number("llama_4_scaling_beta")?, original: number(ORIGINAL)? };
    if growth.original < 1.0 {
        return Err(object.invalid(ORIGINAL, "must be at least 1"));
    }
    Ok(growth)
}

/// transformers' own where a Ministral 3 has no parameters.
fn ministral3() -> Rope {
    let original = 16_384.0;
    Rope {
        theta: 1e6,
        local_theta: None,
        scaling: RopeScaling::Yarn {
            factor: 16.0,
            original_max_position_embeddings: original,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor: None,
            mscale: 1.0,
            mscale_all_dim: 1.0,
        },
        query_growth: Some(QueryGrowth { beta: 0.1, original }),
    }
}

/// The rotary embedding of a decoder.
#[derive(Debug)]
pub(super) struct Rope {
    pub(super) theta: f32,
    /// Of layers with a window, where it is another; these are never stretched.
    pub(super) local_theta: Option<f32>,
    pub(super) scaling: RopeScaling,
    pub(super) query_growth: Option<QueryGrowth>,
}

/// A base of frequencies that a field gives.
pub(super) fn base(object: &JsonObject, field: &str, base: f32) -> Result<f32, CheckpointError> {
    if base > 1.0 && base.is_finite() {
        Ok(base)
    } else {
        Err(object.invalid(field, format!("is {base}; it must be a number above 1")))
    }
}

/// Two bases, of layers that see all and of those that slide: `rope_theta` and `rope_local_base_freq`, or with transformers 5 one set of parameters for each type of layers.
pub(super) fn by_layer_types(
    config: &JsonObject,
    head_dim: i32,
    max_position_embeddings: usize,
) -> Result<Rope, CheckpointError> {
    let around = Around { config, head_dim, max_position_embeddings };
    let number = |object: &JsonObject, field: &str, default: f32| -> Result<f32, CheckpointError> {
        base(object, field, object.optional(field)?.unwrap_or(default))
    };
    let nested = match config.object("rope_parameters")? {
        Some(all) => Some((all.object("full_attention")?, all.object("sliding_attention")?)),
        None => None,
    };
    let old = config.object("rope_scaling")?.filter(|object| !object.is_empty());
    if let Some(old) = &old {
        require_rope_type(old, "such a model")?;
    }
    if let Some((Some(full), Some(sliding))) = nested {
        let theta = number(&full, "rope_theta", number(config, "rope_theta", 1e6)?)?;
        if let Some(old) = old
            && (rope_scaling(&old, &around)? != rope_scaling(&full, &around)?
                || number(&old, "rope_theta", theta)? != theta)
        {
            return Err(contradictory(config));
        }
        if rope_scaling(&sliding, &around)? != RopeScaling::None {
            return Err(
                sliding.invalid("rope_type", "stretches layers with a window, which is not supported")
            );
        }
        return Ok(Rope {
            theta,
            local_theta: Some(number(&sliding, "rope_theta", number(config, "rope_local_base_freq", 1e4)?)?),
            scaling: rope_scaling(&full, &around)?,
            query_growth: None,
        });
    }
    if config.object("rope_parameters")?.is_some_and(|object| !object.is_empty()) {
        return Err(config.invalid(
            "rope_parameters",
            "has no full_attention and sliding_attention, which this family needs both",
        ));
    }
    // As transformers has it, which lays the one over the other.
    let at = old.as_ref().filter(|old| old.has("rope_theta")).unwrap_or(config);
    Ok(Rope {
        theta: number(at, "rope_theta", 1e6)?,
        local_theta: Some(number(config, "rope_local_base_freq", 1e4)?),
        scaling: match &old {
            Some(object) => rope_scaling(object, &around)?,
            None => RopeScaling::None,
        },
        query_growth: None,
    })
}

/// Refuses the older name of `rope_type` alone where layers of several types have bases of their own: mlx-lm goes by it.
pub(super) fn require_rope_type(object: &JsonObject, model: &str) -> Result<(), CheckpointError> {
    if object.has("rope_type") {
        return Ok(());
    }
    let reason =
        format!("is missing; transformers computes {model} with `type` alone as one that isn't stretched");
    Err(object.invalid("rope_type", reason))
}

/// What the object of a type of layers says, in a family that transformers alone computes.
pub(super) fn of_layer_type(
    config: &JsonObject,
    object: &JsonObject,
    head_dim: i32,
    max_position_embeddings: usize,
) -> Result<RopeScaling, CheckpointError> {
    let kind = kind(object)?;
    if !["default", "linear", "dynamic", "llama3", "yarn"].contains(&kind.as_str()) {
        let reason = format!(
            "is `{kind}`; supported with this model_type are default, linear, dynamic, llama3 and yarn"
        );
        return Err(object.invalid("rope_type", reason));
    }
    if let Some((key, _)) =
        object.entries().find(|(key, value)| !value.is_null() && !KNOWN.contains(&key.as_str()))
    {
        return Err(
            object.invalid(key, "is not known to this crate, and may change how positions are computed")
        );
    }
    if object.optional::<f32>(PARTIAL)?.is_some_and(|share| share != 1.0) {
        return Err(
            object.invalid(PARTIAL, "rotates heads in part, which is not supported with this model_type")
        );
    }
    rope_scaling(object, &Around { config, head_dim, max_position_embeddings })
}

const ORIGINAL: &str = "original_max_position_embeddings";
const PARTIAL: &str = "partial_rotary_factor";

/// What these objects may hold.
const KNOWN: [&str; 17] = [
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "high_freq_factor",
    "long_factor",
    "low_freq_factor",
    // Which frequencies are whose where positions have several axes; a text's axes are all the same.
    "mrope_section",
    "mscale",
    "mscale_all_dim",
    ORIGINAL,
    PARTIAL,
    "rope_theta",
    "rope_type",
    "short_factor",
    "truncate",
    "type",
];

/// And in a Ministral 3; the latter counts for nothing.
const OF_MINISTRAL: [&str; 2] = ["llama_4_scaling_beta", "max_position_embeddings"];

/// What stands around an object of parameters.
struct Around<'a> {
    config: &'a JsonObject,
    head_dim: i32,
    max_position_embeddings: usize,
}

impl Around<'_> {
    /// A number above 0 that may stand in the object, at the top of the config or in both.
    fn at_either_level(&self, object: &JsonObject, field: &str) -> Result<Option<f32>, CheckpointError> {
        match (object.optional::<f32>(field)?, self.config.optional::<f32>(field)?) {
            (Some(inner), Some(outer)) if inner != outer => Err(object.invalid(
                field,
                format!("is {inner}, and {outer} at the top of the file; leave one of them"),
            )),
            (inner, outer) => match inner.or(outer) {
                Some(value) if value <= 0.0 || !value.is_finite() => {
                    Err(object.invalid(field, format!("is {value}; it must be above 0")))
                }
                value => Ok(value),
            },
        }
    }

    /// The context length before stretching.
    fn original(&self, object: &JsonObject) -> Result<f32, CheckpointError> {
        Ok(self.at_either_level(object, ORIGINAL)?.unwrap_or(self.max_position_embeddings as f32))
    }
}

/// Parameters of its own for each type of layers.
fn refuse_layer_types(object: &JsonObject) -> Result<(), CheckpointError> {
    match object.entries().find(|(_, value)| value.is_object()) {
        None => Ok(()),
        Some((layers, _)) => Err(object.invalid(
            layers,
            "holds parameters of its own for a type of layers; these families have one set for all",
        )),
    }
}

/// The kind by `rope_type`, or by the older `type`.
pub(super) fn kind(scaling: &JsonObject) -> Result<String, CheckpointError> {
    let plain = |kind: &str| kind == "default" || kind == "mrope";
    match (scaling.optional::<String>("rope_type")?, scaling.optional::<String>("type")?) {
        (Some(kind), None) | (None, Some(kind)) => Ok(kind),
        (None, None) => Ok("default".into()),
        // Some writers leave the older key at its default.
        (Some(kind), Some(old)) if kind == old || plain(&old) => Ok(kind),
        (Some(kind), Some(old)) => Err(scaling.invalid(
            "rope_type",
            format!("is `{kind}`, and type is `{old}`, which contradict each other; leave one of them"),
        )),
    }
}

fn rope_scaling(scaling: &JsonObject, around: &Around<'_>) -> Result<RopeScaling, CheckpointError> {
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
    let attention_factor = || match scaling.raw("attention_factor") {
        Some(_) => above_zero("attention_factor", None).map(Some),
        None => Ok(None),
    };
    let kind = kind(scaling)?;
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
                original_max_position_embeddings: around.original(scaling)?,
            }
        }
        "yarn" => {
            let original = around.original(scaling)?;
            // A factor of null means the whole stretch.
            let stretch = scaling.has("factor").then(|| around.max_position_embeddings as f32 / original);
            // One without the other doesn't count.
            let (mscale, mscale_all_dim) = match (or("mscale", 0.0)?, or("mscale_all_dim", 0.0)?) {
                (mscale, all) if mscale != 0.0 && all != 0.0 => (mscale, all),
                _ => (1.0, 0.0),
            };
            RopeScaling::Yarn {
                factor: above_zero("factor", stretch)?,
                original_max_position_embeddings: original,
                beta_fast: above_zero("beta_fast", Some(32.0))?,
                beta_slow: above_zero("beta_slow", Some(1.0))?,
                truncate: scaling.optional("truncate")?.unwrap_or(true),
                attention_factor: attention_factor()?,
                mscale,
                mscale_all_dim,
            }
        }
        "longrope" => longrope(scaling, around, attention_factor()?)?,
        "proportional" => {
            let share = around.at_either_level(scaling, PARTIAL)?.unwrap_or(1.0);
            let rotating = (f64::from(around.head_dim) * f64::from(share)) as i32;
            if share > 1.0 || rotating % 2 != 0 {
                return Err(scaling.invalid(
                    PARTIAL,
                    format!(
                        "is {share}; of {} elements it must leave an even number that rotate",
                        around.head_dim
                    ),
                ));
            }
            RopeScaling::Proportional {
                partial_rotary_factor: share,
                factor: above_zero("factor", Some(1.0))?,
            }
        }
        _ => {
            return Err(scaling.invalid(
                "rope_type",
                format!("(or type) is `{kind}`; supported are default, linear, dynamic, llama3, yarn, longrope, proportional and mrope"),
            ));
        }
    })
}

fn longrope(
    scaling: &JsonObject,
    around: &Around<'_>,
    attention_factor: Option<f32>,
) -> Result<RopeScaling, CheckpointError> {
    let frequencies = around.head_dim as usize / 2;
    let factors = |field: &str| -> Result<Vec<f32>, CheckpointError> {
        let factors = match scaling.required(field)? {
            OneOrMany::One(factor) => vec![factor; frequencies],
            OneOrMany::Many(factors) => factors,
        };
        if factors.len() == frequencies && factors.iter().all(|factor| *factor > 0.0 && factor.is_finite()) {
            Ok(factors)
        } else {
            Err(scaling.invalid(field, format!("must be one number above 0 or {frequencies} of them")))
        }
    };
    let original = around.original(scaling)?;
    if original <= 1.0 {
        return Err(scaling.invalid(ORIGINAL, "must be above 1"));
    }
    let stretch = match around.at_either_level(scaling, "factor")? {
        Some(factor) => factor,
        None => around.max_position_embeddings as f32 / original,
    };
    Ok(RopeScaling::LongRope {
        original_max_position_embeddings: original,
        short_factor: factors("short_factor")?,
        long_factor: factors("long_factor")?,
        attention_factor: attention_factor.unwrap_or(if stretch > 1.0 {
            (1.0 + stretch.ln() / original.ln()).sqrt()
        } else {
            1.0
        }),
    })
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(f32),
    Many(Vec<f32>),
}
