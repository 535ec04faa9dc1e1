//! The pooling's `config.json`.

use serde_json::Value;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::json::JsonObject;
use crate::pooling::Pooling;

/// Newer files name the mode, or list several whose vectors are joined; older ones turn modes on one by one. Where none
/// is named or turned on it is the mean.
pub(super) fn mode(config: &JsonObject) -> Result<Pooling, CheckpointError> {
    let field = "pooling_mode";
    let modes: Vec<String> = match config.raw(field) {
        None => return by_switches(config),
        Some(Value::Array(_)) => config.required(field)?,
        Some(_) => vec![config.required(field)?],
    };
    match modes.as_slice() {
        [mode] => of_name(mode).ok_or_else(|| {
            config.invalid(field, format!("is `{mode}`; supported are lasttoken, mean, cls, max, mean_sqrt_len_tokens and weightedmean"))
        }),
        _ => Err(config
            .invalid(field, format!("names {modes:?}; exactly one of lasttoken, mean, cls, max, mean_sqrt_len_tokens and weightedmean is supported"))),
    }
}

fn by_switches(config: &JsonObject) -> Result<Pooling, CheckpointError> {
    let prefix = "pooling_mode_";
    let mut on = Vec::new();
    for (field, value) in config.entries().filter(|(field, _)| field.starts_with(prefix)) {
        match value {
            Value::Bool(true) => on.push(field.as_str()),
            Value::Bool(false) | Value::Null => {}
            _ => return Err(config.invalid(field, format!("is {value}; it must be true or false"))),
        }
    }
    let of_switch = |field: &str| {
        let name = field.strip_prefix(prefix)?;
        of_name(name.strip_suffix("_tokens").or_else(|| name.strip_suffix("_token")).unwrap_or(name))
    };
    let found = match on.as_slice() {
        [] => Some(Pooling::Mean),
        [field] => of_switch(field),
        _ => None,
    };
    found.ok_or_else(|| {
        config.invalid(
            "pooling_mode_*",
            format!("turns on {on:?}; exactly one of lasttoken, mean_tokens, cls_token, max_tokens, mean_sqrt_len_tokens and weightedmean_tokens is supported"),
        )
    })
}

fn of_name(name: &str) -> Option<Pooling> {
    Some(match name {
        "lasttoken" => Pooling::LastToken,
        "mean" => Pooling::Mean,
        "cls" => Pooling::Cls,
        "max" => Pooling::Max,
        "mean_sqrt_len" | "mean_sqrt_len_tokens" => Pooling::MeanSqrtLen,
        "weightedmean" => Pooling::WeightedMean,
        _ => return None,
    })
}
