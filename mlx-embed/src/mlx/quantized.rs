//! Quantised matrices as MLX stores them.

use std::ffi::CStr;

use super::array::Array;

/// How a group of quantised weights is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum QuantMode {
    /// `scale * q + bias`, with whole numbers `q` and a bias for each group.
    Affine,
    /// 4-bit floats in groups of 32, as OCP microscaling has them.
    Mxfp4,
    /// 8-bit floats in groups of 32, as OCP microscaling has them.
    Mxfp8,
    /// 4-bit floats in groups of 16, as NVIDIA has them.
    Nvfp4,
}

impl QuantMode {
    /// As MLX names it.
    pub(super) fn name(self) -> &'static CStr {
        match self {
            Self::Affine => c"affine",
            Self::Mxfp4 => c"mxfp4",
            Self::Mxfp8 => c"mxfp8",
            Self::Nvfp4 => c"nvfp4",
        }
    }
}

impl std::fmt::Display for QuantMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name().to_string_lossy())
    }
}

/// A quantised matrix as MLX stores it.
#[derive(Debug, Clone, Copy)]
pub struct QuantizedRef<'a> {
    /// Packed values, u32 `[rows, columns * bits / 32]`. To dequantise, more dimensions may stand before these.
    pub weight: &'a Array,
    /// A scale for each group, `[rows, columns / group_size]`.
    pub scales: &'a Array,
    /// A bias for each group, of the shape of `scales`; for [`QuantMode::Affine`] only.
    pub biases: Option<&'a Array>,
    /// Number of consecutive columns that share a scale.
    pub group_size: i32,
    /// Bits of a value.
    pub bits: i32,
    /// How a group is scaled.
    pub mode: QuantMode,
}
