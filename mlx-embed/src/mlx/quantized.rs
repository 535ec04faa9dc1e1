//! Quantised matrices as MLX stores them.

use std::ffi::CStr;

use super::array::Array;

/// How groups of quantised weights are scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum QuantMode {
    /// `scale * q + bias` for each group.
    Affine,
    /// OCP microscaling, 4-bit floats, groups of 32.
    Mxfp4,
    /// OCP microscaling, 8-bit floats, groups of 32.
    Mxfp8,
    /// NVIDIA's 4-bit floats, groups of 16.
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
    /// Packed values, u32 `[rows, columns * bits / 32]`; to dequantise, also with more dimensions before these.
    pub weight: &'a Array,
    /// `[rows, columns / group_size]`.
    pub scales: &'a Array,
    /// As `scales`; for [`QuantMode::Affine`] only.
    pub biases: Option<&'a Array>,
    /// Consecutive columns that share a scale.
    pub group_size: i32,
    /// Bits a value takes.
    pub bits: i32,
    /// How a group is scaled.
    pub mode: QuantMode,
}
