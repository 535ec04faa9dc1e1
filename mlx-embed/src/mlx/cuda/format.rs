//! How numbers are stored, as the kernels know it.

use crate::mlx::dtype::Dtype;
use crate::mlx::ops::QuantMode;

/// What activations are, and what of them products multiply; sums are of f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Numbers {
    Bf16,
    /// f32, of which products multiply 22 bits (`halve.cu`).
    F32,
    /// f32, of which products multiply as many bits as an f16 has, 11.
    F16,
}

impl Numbers {
    /// The type of activations.
    pub(crate) fn dtype(self) -> Dtype {
        if self == Self::Bf16 { Dtype::Bf16 } else { Dtype::F32 }
    }

    pub(crate) fn is_wide(self) -> bool {
        self != Self::Bf16
    }
}

/// How `product.cu` reads a matrix: in one of MLX's formats, packed, or as rows of bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    /// Of packed ones.
    mode: Option<QuantMode>,
    bits: i32,
    /// Numbers that share a scale.
    group: i32,
}

impl Format {
    /// bf16, row after row. Inputs are a multiple of 64.
    pub(crate) const ROWS: Self = Self { mode: None, bits: 16, group: 64 };

    /// `None` where the kernels don't know it.
    pub(crate) fn new(mode: QuantMode, bits: i32, group: i32) -> Option<Self> {
        let known = match mode {
            QuantMode::Affine => [2, 3, 4, 5, 6, 8].contains(&bits) && [32, 64, 128].contains(&group),
            QuantMode::Mxfp4 => (bits, group) == (4, 32),
            QuantMode::Mxfp8 => (bits, group) == (8, 32),
            QuantMode::Nvfp4 => (bits, group) == (4, 16),
        };
        known.then_some(Self { mode: Some(mode), bits, group })
    }

    pub(super) fn is_packed(self) -> bool {
        self.mode.is_some()
    }

    pub(crate) fn bits(self) -> i32 {
        self.bits
    }

    pub(super) fn group(self) -> i32 {
        self.group
    }

    /// The type of its scales, where those of floats have this one.
    pub(super) fn scales(self, floats: Dtype) -> Dtype {
        if self.has_biases() { floats } else { Dtype::U8 }
    }

    pub(super) fn has_biases(self) -> bool {
        self.mode == Some(QuantMode::Affine)
    }

    /// What `formats.cuh` and `pack.cu` are compiled with.
    pub(super) fn defines(self) -> Vec<(&'static str, i32)> {
        let (code, scales) = match self.mode {
            Some(QuantMode::Affine) => (0, 0),
            Some(QuantMode::Mxfp4) => (1, 1),
            Some(QuantMode::Mxfp8) => (2, 1),
            Some(QuantMode::Nvfp4) => (1, 2),
            None => (3, 0),
        };
        vec![("BITS", self.bits), ("GROUP", self.group), ("CODE", code), ("SCALES", scales)]
    }
}

#[cfg(test)]
impl Format {
    /// All packed ones.
    pub(super) fn all() -> Vec<Self> {
        let affine = [2, 3, 4, 5, 6, 8]
            .into_iter()
            .flat_map(|bits| [32, 64, 128].map(|group| Self::new(QuantMode::Affine, bits, group)));
        let floats = [(QuantMode::Mxfp4, 4, 32), (QuantMode::Mxfp8, 8, 32), (QuantMode::Nvfp4, 4, 16)]
            .map(|(mode, bits, group)| Self::new(mode, bits, group));
        affine.chain(floats).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mlx_formats_are_known() {
        assert!(Format::new(QuantMode::Affine, 6, 128).is_some());
        assert!(Format::new(QuantMode::Nvfp4, 4, 16).is_some_and(|format| !format.has_biases()));
        for (mode, bits, group) in
            [(QuantMode::Affine, 7, 64), (QuantMode::Affine, 4, 16), (QuantMode::Mxfp8, 8, 64)]
        {
            assert_eq!(Format::new(mode, bits, group), None, "{mode} {bits} {group}");
        }
    }
}
