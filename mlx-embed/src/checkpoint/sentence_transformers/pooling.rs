//! The pooling's `config.json`.

use serde_json::Value;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::json::JsonObject;
use crate::pooling::{Pooling, PoolingMode};

/// sentence-transformers' names, old and new, in the order in which it joins the vectors of modes that are turned on.
const MODES: [(&str, &str, PoolingMode); 6] = [
    ("pooling_mode_cls_token", "cls", PoolingMode::Cls),
    ("pooling_mode_max_tokens", "max", PoolingMode::Max),
    ("pooling_mode_mean_tokens", "mean", PoolingMode::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", PoolingMode::MeanSqrtLen),
    ("pooling_mode_weightedmean_tokens", "weightedmean", PoolingMode::WeightedMean),
    ("pooling_mode_lasttoken", "lasttoken", PoolingMode::LastToken),
];

/// Newer files name the mode, or list several; older ones turn modes on one by one. Where none is named or turned on it
/// is the mean.
pub(super) fn mode(config: &JsonObject) -> Result<Pooling, CheckpointError> {
    let field = "pooling_mode";
    let names: Vec<String> = match config.raw(field) {
        None => return by_switches(config),
        Some(Value::Array(_)) => config.required(field)?,
        Some(_) => vec![config.required(field)?],
    };
    let mode = |name: &String| match MODES.iter().find(|(_, known, _)| known == name) {
        Some((.., mode)) => Ok(*mode),
        None => Err(config.invalid(field, format!("names `{name}`; {}", supported(|(_, name, _)| name)))),
    };
    let modes = names.iter().map(mode).collect::<Result<Vec<_>, _>>()?;
    Pooling::joined(&modes)
        .map_err(|_| config.invalid(field, format!("names {names:?}; it has to name one, and none twice")))
}

fn by_switches(config: &JsonObject) -> Result<Pooling, CheckpointError> {
    let mut on = Vec::new();
    for (field, value) in config.entries().filter(|(field, _)| field.starts_with("pooling_mode_")) {
        match value {
            Value::Bool(true) => on.push(field.as_str()),
            Value::Bool(false) | Value::Null => {}
            _ => return Err(config.invalid(field, format!("is {value}; it must be true or false"))),
        }
    }
    if let Some(field) = on.iter().find(|field| MODES.iter().all(|(known, ..)| known != *field)) {
        return Err(config.invalid(field, format!("is on; {}", supported(|(field, ..)| field))));
    }
    let modes = MODES.iter().filter(|(field, ..)| on.contains(field)).map(|(.., mode)| *mode);
    let modes: Vec<PoolingMode> = modes.collect();
    Ok(Pooling::joined(&modes).unwrap_or_else(|_| PoolingMode::Mean.into()))
}

fn supported(name: impl Fn(&(&'static str, &'static str, PoolingMode)) -> &'static str) -> String {
    format!("supported are {}", MODES.iter().map(name).collect::<Vec<_>>().join(", "))
}
