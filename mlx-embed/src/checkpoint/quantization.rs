//! Which matrices are quantised, and how: the `quantization` entry of `config.json`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::CheckpointError;
use super::json::JsonObject;
use crate::mlx::ops::QuantMode;

/// How one matrix is quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[non_exhaustive]
pub struct Quantization {
    /// Bits a value takes.
    pub bits: i32,
    /// Consecutive inputs that share a scale.
    pub group_size: i32,
    /// How a group is scaled.
    pub mode: QuantMode,
}

impl std::fmt::Display for Quantization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}-bit, groups of {}", self.mode, self.bits, self.group_size)
    }
}

/// The `quantization` entry: defaults, and what single matrices say otherwise.
#[derive(Debug, Default)]
pub(super) struct QuantizationTable {
    defaults: Option<Quantization>,
    /// By path in the model without a leading `model.`; `None` means dense.
    paths: BTreeMap<String, Option<Quantization>>,
}

impl QuantizationTable {
    pub(super) fn read(config: &JsonObject) -> Result<Self, CheckpointError> {
        let Some(entry) = (match config.object("quantization")? {
            Some(entry) => Some(entry),
            None => config.object("quantization_config")?,
        }) else {
            return Ok(Self::default());
        };
        if let Some(method) = entry.optional::<String>("quant_method")? {
            return Err(entry.invalid(
                "quant_method",
                format!("is `{method}`; only MLX's own quantisation is supported: convert the checkpoint with mlx_lm.convert"),
            ));
        }
        let defaults = parse(&entry)?;
        let mut paths = BTreeMap::new();
        for (path, value) in entry.entries() {
            let spec = match value {
                Value::Bool(false) => None,
                Value::Bool(true) => Some(defaults),
                Value::Object(_) => match entry.object(path)? {
                    Some(object) => Some(parse(&object)?),
                    None => continue,
                },
                // group_size, bits, mode and whatever else describes the defaults.
                _ => continue,
            };
            paths.insert(super::without_prefix(path).to_owned(), spec);
        }
        Ok(Self { defaults: Some(defaults), paths })
    }

    /// How the matrix at `path` is stored; `None` means dense. A path entry wins; else a matrix without scales is
    /// dense; else the defaults hold.
    pub(super) fn of(&self, path: &str, has_scales: bool) -> Result<Option<Quantization>, &'static str> {
        match self.paths.get(path) {
            Some(spec) => Ok(*spec),
            None if !has_scales => Ok(None),
            None => self
                .defaults
                .map(Some)
                .ok_or("the weights hold scales, but config.json has no `quantization`"),
        }
    }
}

/// Reads bits, group size and mode; what is missing takes the mode's own default, as in MLX.
fn parse(entry: &JsonObject) -> Result<Quantization, CheckpointError> {
    let mode = entry.optional("mode")?.unwrap_or(QuantMode::Affine);
    let (group_size, bits) = match mode {
        QuantMode::Affine => (64, 4),
        QuantMode::Mxfp4 => (32, 4),
        QuantMode::Mxfp8 => (32, 8),
        QuantMode::Nvfp4 => (16, 4),
    };
    let spec = Quantization {
        bits: entry.optional("bits")?.unwrap_or(bits),
        group_size: entry.optional("group_size")?.unwrap_or(group_size),
        mode,
    };
    let supported = match mode {
        QuantMode::Affine => {
            [2, 3, 4, 5, 6, 8].contains(&spec.bits) && [32, 64, 128].contains(&spec.group_size)
        }
        _ => spec.bits == bits && spec.group_size == group_size,
    };
    if supported {
        Ok(spec)
    } else {
        Err(entry.invalid(
            "bits",
            format!("and group_size describe {spec}, which MLX does not have; it has affine 2, 3, 4, 5, 6, 8 bit in groups of 32, 64, 128, mxfp4 (32), mxfp8 (32) and nvfp4 (16)"),
        ))
    }
}
