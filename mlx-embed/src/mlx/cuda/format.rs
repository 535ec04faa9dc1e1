//! How numbers are stored, as the kernels know it.

use half::f16;

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

    /// The type of what products multiply.
    pub(super) fn multiplied(self) -> Dtype {
        if self == Self::Bf16 { Dtype::Bf16 } else { Dtype::F16 }
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

    /// The largest that a code stands for.
    fn level(self) -> f32 {
        match self.mode {
            Some(QuantMode::Mxfp4 | QuantMode::Nvfp4) => 6.0,
            Some(QuantMode::Mxfp8) => 448.0,
            Some(QuantMode::Affine) | None => ((1 << self.bits) - 1) as f32,
        }
    }

    /// What a scale or a bias is, without its sign, from its bits; those of floats are of f16.
    fn size(self, bits: u16) -> f32 {
        match self.mode {
            Some(QuantMode::Mxfp4 | QuantMode::Mxfp8) => 2_f32.powi(i32::from(bits) - 127),
            // E4M3, whose exponent and mantissa in place make an f16 that is too small by 2^8.
            Some(QuantMode::Nvfp4) => f16::from_bits((bits & 0x7f) << 7).to_f32() * 256.0,
            Some(QuantMode::Affine) | None => f16::from_bits(bits & 0x7fff).to_f32(),
        }
    }

    /// The exponent of the power of two that a matrix is multiplied with so that no weight is beyond f16, and few are below its
    /// normal numbers, from the bits of the largest scale and bias. Larger ones than 15 f16 doesn't have.
    pub(super) fn exponent(self, [scale, bias]: [u16; 2]) -> i32 {
        let bias = if self.has_biases() { self.size(bias) } else { 0.0 };
        let largest = self.size(scale) * self.level() + bias;
        if largest.is_finite() { (14.0 - largest.log2().floor()).clamp(-14.0, 15.0) as i32 } else { 0 }
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

    /// Bits of f16.
    fn half(x: f32) -> u16 {
        f16::from_f32(x).to_bits()
    }

    #[test]
    fn the_largest_weight_keeps_within_f16() {
        let of = |mode, bits, group, largest| Format::new(mode, bits, group).unwrap().exponent(largest);
        // 15 * 2^-4 + 2^-1 is between 1 and 2, and becomes 2^14.
        assert_eq!(of(QuantMode::Affine, 4, 64, [half(0.0625), half(0.5)]), 14);
        assert_eq!(of(QuantMode::Affine, 8, 32, [half(65504.0), half(65504.0)]), -9);
        assert_eq!(of(QuantMode::Affine, 2, 32, [half(1e-7), 0]), 15);
        assert_eq!(of(QuantMode::Affine, 2, 32, [0, 0]), 15);
        assert_eq!(of(QuantMode::Affine, 4, 64, [f16::INFINITY.to_bits(), 0]), 0);
        // 6 * 2^3 and 448 * 2^-2, whatever the bits of a bias that isn't there.
        assert_eq!(of(QuantMode::Mxfp4, 4, 32, [130, 7]), 9);
        assert_eq!(of(QuantMode::Mxfp8, 8, 32, [125, 0]), 8);
        // 1.5 is 0x3c.
        assert_eq!(of(QuantMode::Nvfp4, 4, 16, [0x3c, 0]), 11);
    }

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
