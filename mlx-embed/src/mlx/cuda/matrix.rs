//! Weights in the forms that kernels read.

use super::arguments::NormArguments;
use super::format::Format;
use super::halves::Halves;
use super::kernels::wrong;
use super::queue::{Tensor, pointer};
use crate::mlx::array::Array;
use crate::mlx::dtype::Dtype;
use crate::mlx::error::MlxError;

/// An array that kernels read where it lies. Nobody else reads it meanwhile, which could move it.
#[derive(Debug)]
pub(crate) struct Fixed {
    _memory: Array,
    pub(super) pointer: u64,
    shape: Vec<i32>,
    dtype: Dtype,
}

impl Fixed {
    /// Computes the array.
    pub(crate) fn new(array: Array) -> Result<Self, MlxError> {
        array.eval()?;
        let dtype = array.dtype().ok_or_else(|| wrong("array", format!("{array:?} has no known type")))?;
        Ok(Self { pointer: pointer(&array)?, shape: array.shape().to_vec(), dtype, _memory: array })
    }

    /// Numbers in memory that has room for them, from `pointer` on.
    pub(super) fn in_room((memory, pointer): (Array, u64), shape: &[i32], dtype: Dtype) -> Self {
        Self { _memory: memory, pointer, shape: shape.to_vec(), dtype }
    }

    pub(super) fn shape(&self) -> &[i32] {
        &self.shape
    }

    /// How many numbers of f32 it has.
    pub(super) fn of_f32(&self) -> Result<usize, MlxError> {
        self.expect("array", &self.shape, Dtype::F32)?;
        Ok(self.shape.iter().map(|&size| size as usize).product())
    }

    /// That it has this shape and type.
    pub(super) fn expect(&self, what: &'static str, shape: &[i32], dtype: Dtype) -> Result<(), MlxError> {
        if self.shape == shape && self.dtype == dtype {
            return Ok(());
        }
        Err(wrong(what, format!("{:?} of {} where {shape:?} of {dtype} is needed", self.shape, self.dtype)))
    }
}

/// A packed matrix as `product.cu` reads it.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(super) format: Format,
    pub(super) weight: Fixed, // u32, see pack.cu
    /// Where they begin in the same memory: u32, see pack.cu.
    pub(super) factors: u64,
    pub(super) outputs: i32,
    pub(super) inputs: i32,
    /// Its numbers are times two to the power of this: see [`Format::exponent`].
    pub(super) exponent: i32,
}

/// A matrix of bf16 or f32.
#[derive(Debug)]
pub(crate) struct Dense {
    weight: Fixed,
    outputs: i32,
    inputs: i32,
    dtype: Dtype,
}

impl Dense {
    /// `weight` is `[outputs, inputs]` of bf16, with inputs a multiple of 8, or of f32.
    pub(crate) fn new(weight: Array) -> Result<Self, MlxError> {
        Self::fixed(Fixed::new(weight)?)
    }

    /// As [`Dense::new`].
    pub(crate) fn fixed(weight: Fixed) -> Result<Self, MlxError> {
        let (&[outputs, inputs], dtype @ (Dtype::Bf16 | Dtype::F32)) = (weight.shape(), weight.dtype) else {
            return Err(wrong("product", format!("{weight:?} is no matrix of bf16 or f32")));
        };
        if dtype == Dtype::Bf16 && (!weight.pointer.is_multiple_of(16) || inputs % 8 != 0) {
            return Err(wrong("product", format!("rows of {weight:?} don't begin at multiples of 16 bytes")));
        }
        Ok(Self { weight, outputs, inputs, dtype })
    }
}

/// The right factor of a product.
#[derive(Debug)]
pub(crate) enum Matrix<'a> {
    Packed(&'a Packed),
    /// Stays.
    Dense(&'a Dense),
    /// Stays, for rows of f32.
    Halves(&'a Halves),
    /// For this product: of bf16 or, for rows of f32, f16, times two to the power of this.
    Dequantized(Tensor, i32),
}

impl Matrix<'_> {
    /// Outputs, inputs.
    pub(super) fn shape(&self) -> [i32; 2] {
        match self {
            Self::Packed(w) => [w.outputs, w.inputs],
            Self::Dense(w) => [w.outputs, w.inputs],
            Self::Halves(w) => [w.outputs, w.inputs],
            Self::Dequantized(w, _) => w.shape(),
        }
    }

    /// Where its numbers of this type lie, if it has such.
    pub(super) fn numbers(&self, dtype: Dtype) -> Option<u64> {
        match self {
            Self::Dense(w) if w.dtype == dtype => Some(w.weight.pointer),
            Self::Dequantized(w, _) if w.dtype() == dtype => Some(w.pointer()),
            Self::Halves(w) if dtype == Dtype::F16 => w.of_eleven_bits(),
            _ => None,
        }
    }

    /// Its numbers are to be multiplied with two to the power of this.
    pub(super) fn exponent(&self) -> i32 {
        match self {
            Self::Packed(w) => w.exponent,
            Self::Dense(_) => 0,
            Self::Halves(w) => w.exponent,
            Self::Dequantized(_, exponent) => *exponent,
        }
    }
}

/// A norm's weights.
#[derive(Debug)]
pub(crate) struct Norm {
    weight: Fixed,       // f32 [D]
    bias: Option<Fixed>, // f32 [D]
    kind: NormKind,
    eps: f32,
}

/// As `norms.cuh` numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// By the root mean square.
    Rms = 1,
    /// By mean and variance.
    Layer = 2,
}

impl Norm {
    /// `weight`, with what is added to it, and `bias` are f32 `[D]`.
    pub(crate) fn new(
        weight: Fixed,
        bias: Option<Fixed>,
        kind: NormKind,
        eps: f32,
    ) -> Result<Self, MlxError> {
        let size = weight.shape().first().copied().unwrap_or(0);
        for vector in [&weight].into_iter().chain(&bias) {
            vector.expect("norm", &[size], Dtype::F32)?;
        }
        Ok(Self { weight, bias, kind, eps })
    }

    /// f32 `[D]`.
    pub(crate) fn weight(&self) -> &Fixed {
        &self.weight
    }

    pub(super) fn arguments(&self) -> NormArguments {
        NormArguments {
            weight: self.weight.pointer,
            bias: address(self.bias.as_ref()),
            kind: self.kind as i32,
            eps: self.eps,
        }
    }
}

/// Where something is that may be nothing.
pub(super) fn address(of: Option<&Fixed>) -> u64 {
    of.map_or(0, |of| of.pointer)
}
