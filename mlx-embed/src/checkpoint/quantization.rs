//! Which matrices are quantised, and how: the `quantization` entry of `config.json`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::CheckpointError;
use super::json::JsonObject;
use crate::mlx::ops::QuantMode;

/// How a matrix is quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[non_exhaustive]
pub struct Quantization {
    /// Bits of a value.
    pub bits: i32,
    /// Number of consecutive inputs that share a scale.
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
        let method = match entry.optional::<String>("quant_method")? {
            None => None,
            Some(method) => match method_mode(&method) {
                Some(mode) => mode,
                // mlx-lm doesn't read this key in its own entry, whose packing is always MLX's.
                None if config.raw("quantization").is_some() => None,
                None => {
                    return Err(entry.invalid(
                        "quant_method",
                        format!("is `{method}`; only MLX's own quantisation is supported: convert the checkpoint with mlx_lm.convert"),
                    ));
                }
            },
        };
        // What bitsandbytes is told to do as it loads.
        for field in ["load_in_4bit", "load_in_8bit"] {
            if config.raw("quantization").is_none() && super::config::flag(&entry, field)? {
                return Err(entry.invalid(
                    field,
                    "is true; only MLX's own quantisation is supported: remove quantization_config",
                ));
            }
        }
        let defaults = parse(&entry, method)?;
        let mut paths = BTreeMap::new();
        for (path, value) in entry.entries() {
            let spec = match value {
                Value::Bool(false) => None,
                Value::Bool(true) => Some(defaults),
                Value::Object(_) => match entry.object(path)? {
                    Some(object) => Some(parse(&object, None)?),
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
    /// dense; else its shapes say it, as in mlx-lm: a map that leaves a layer out is no reason to misread it.
    pub(super) fn of(&self, path: &str, stored: Option<&Stored>) -> Result<Option<Quantization>, String> {
        match (self.paths.get(path), stored) {
            (Some(spec), _) => Ok(*spec),
            (None, None) => Ok(None),
            (None, Some(_)) if self.defaults.is_none() => {
                Err("the weights hold scales, but config.json has no `quantization`".into())
            }
            (None, Some(stored)) => stored.quantization().map(Some),
        }
    }
}

/// A quantised matrix as the file has it.
#[derive(Debug)]
pub(super) struct Stored {
    /// Of a row: how many values the model has in it.
    pub(super) inputs: usize,
    /// Of a row: u32 numbers.
    pub(super) packed: usize,
    /// Of a row: scales.
    pub(super) groups: usize,
    /// Whether scales are exponents in a byte, rather than numbers.
    pub(super) byte_scales: bool,
}

impl Stored {
    fn quantization(&self) -> Result<Quantization, String> {
        let Self { inputs, packed, groups, byte_scales } = *self;
        let spec = |bits, group_size| {
            let mode = match (byte_scales, bits, group_size) {
                (false, ..) => QuantMode::Affine,
                (true, 4, 16) => QuantMode::Nvfp4,
                (true, 4, 32) => QuantMode::Mxfp4,
                (true, 8, 32) => QuantMode::Mxfp8,
                _ => return None,
            };
            let spec = Quantization { bits, group_size, mode };
            is_supported(spec).then_some(spec)
        };
        let exact = groups > 0 && inputs > 0 && inputs % groups == 0 && (packed * 32) % inputs == 0;
        let found = exact.then(|| (i32::try_from(packed * 32 / inputs), i32::try_from(inputs / groups)));
        match found {
            Some((Ok(bits), Ok(group_size))) => spec(bits, group_size),
            _ => None,
        }
        .ok_or_else(|| {
            format!(
                "{packed} packed numbers and {groups} scales for {inputs} inputs are no packing that MLX has"
            )
        })
    }
}

/// The mode that a `quant_method` stands for, if it means MLX's packing: `None` where it names none.
fn method_mode(method: &str) -> Option<Option<QuantMode>> {
    match method.to_ascii_lowercase().as_str() {
        "mlx" | "mlx-lm" | "mlx_lm" => Some(None),
        "affine" => Some(Some(QuantMode::Affine)),
        "mxfp4" => Some(Some(QuantMode::Mxfp4)),
        "mxfp8" => Some(Some(QuantMode::Mxfp8)),
        "nvfp4" => Some(Some(QuantMode::Nvfp4)),
        _ => None,
    }
}

/// Reads bits, group size and mode; what is missing takes the mode's own default, as in MLX.
fn parse(entry: &JsonObject, method: Option<QuantMode>) -> Result<Quantization, CheckpointError> {
    let mode = entry.optional("mode")?.or(method).unwrap_or(QuantMode::Affine);
    let (group_size, bits) = own(mode);
    let spec = Quantization {
        bits: entry.optional("bits")?.unwrap_or(bits),
        group_size: entry.optional("group_size")?.unwrap_or(group_size),
        mode,
    };
    if is_supported(spec) {
        Ok(spec)
    } else {
        Err(entry.invalid(
            "bits",
            format!("and group_size describe {spec}, which MLX does not have; it has affine 2, 3, 4, 5, 6, 8 bit in groups of 32, 64, 128, mxfp4 (32), mxfp8 (32) and nvfp4 (16)"),
        ))
    }
}

/// A mode's own group size and bits.
fn own(mode: QuantMode) -> (i32, i32) {
    match mode {
        QuantMode::Affine => (64, 4),
        QuantMode::Mxfp4 => (32, 4),
        QuantMode::Mxfp8 => (32, 8),
        QuantMode::Nvfp4 => (16, 4),
    }
}

fn is_supported(spec: Quantization) -> bool {
    match spec.mode {
        QuantMode::Affine => {
            [2, 3, 4, 5, 6, 8].contains(&spec.bits) && [32, 64, 128].contains(&spec.group_size)
        }
        mode => (spec.group_size, spec.bits) == own(mode),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_tell_bits_and_group_size() {
        let of = |inputs, packed, groups, byte_scales| {
            Stored { inputs, packed, groups, byte_scales }.quantization().ok()
        };
        let spec = |bits, group_size, mode| Some(Quantization { bits, group_size, mode });
        // 8 bits in groups of 32 and 4 in groups of 64 have as many numbers a scale.
        assert_eq!(of(256, 64, 8, false), spec(8, 32, QuantMode::Affine));
        assert_eq!(of(256, 32, 4, false), spec(4, 64, QuantMode::Affine));
        assert_eq!(of(256, 24, 2, false), spec(3, 128, QuantMode::Affine));
        assert_eq!(of(256, 32, 16, true), spec(4, 16, QuantMode::Nvfp4));
        assert_eq!(of(256, 32, 8, true), spec(4, 32, QuantMode::Mxfp4));
        assert_eq!(of(256, 64, 8, true), spec(8, 32, QuantMode::Mxfp8));
        for (inputs, packed, groups, byte_scales) in [
            (256, 32, 3, false),
            (256, 0, 0, false),
            (0, 0, 0, false),
            (256, 56, 4, false),
            (256, 64, 4, true),
        ] {
            assert_eq!(of(inputs, packed, groups, byte_scales), None, "{inputs} {packed} {groups}");
        }
    }
}
