//! Matrices as the checkpoint has them, as the kernels take them.

use crate::checkpoint::Matrix;
use crate::kernels::{Floats, Scales, Source};
use crate::mlx::host::HostInput;
use crate::mlx::ops::QuantMode;
use crate::mlx::{Array, Dtype, MlxError};

/// How a matrix is stored, without its numbers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    Dense,
    Quantized { bits: usize, group_size: usize, mode: QuantMode },
}

/// The arrays of a matrix, and their form.
pub(super) fn arrays(matrix: Matrix) -> (Form, Vec<Array>) {
    match matrix {
        Matrix::Dense(weight) => (Form::Dense, vec![weight]),
        Matrix::Quantized { weight, scales, biases, quantization } => {
            let form = Form::Quantized {
                bits: quantization.bits as usize,
                group_size: quantization.group_size as usize,
                mode: quantization.mode,
            };
            (form, [Some(weight), Some(scales), biases].into_iter().flatten().collect())
        }
    }
}

/// An array whose numbers can be looked at: at load an [`Array`], in a kernel a [`HostInput`].
pub(super) trait Look {
    fn dtype(&self) -> Option<Dtype>;
    fn look<T: crate::mlx::Element>(&self) -> Result<&[T], MlxError>;
}

impl Look for Array {
    fn dtype(&self) -> Option<Dtype> {
        Array::dtype(self)
    }
    fn look<T: crate::mlx::Element>(&self) -> Result<&[T], MlxError> {
        self.as_slice()
    }
}

impl Look for HostInput<'_> {
    fn dtype(&self) -> Option<Dtype> {
        HostInput::dtype(self)
    }
    fn look<T: crate::mlx::Element>(&self) -> Result<&[T], MlxError> {
        self.as_slice()
    }
}

impl Form {
    pub(super) fn source<'a>(&self, arrays: &'a [impl Look]) -> Result<Source<'a>, MlxError> {
        match *self {
            Self::Dense => Ok(Source::Dense(floats(&arrays[0])?)),
            Self::Quantized { bits, group_size, mode } => {
                let scales = match mode {
                    QuantMode::Affine => {
                        Scales::Affine { scales: floats(&arrays[1])?, biases: floats(&arrays[2])? }
                    }
                    QuantMode::Mxfp4 => Scales::Mxfp4(arrays[1].look()?),
                    QuantMode::Mxfp8 => Scales::Mxfp8(arrays[1].look()?),
                    QuantMode::Nvfp4 => Scales::Nvfp4(arrays[1].look()?),
                };
                Ok(Source::Quantized { words: arrays[0].look()?, bits, group_size, scales })
            }
        }
    }
}

fn floats(array: &impl Look) -> Result<Floats<'_>, MlxError> {
    Ok(match array.dtype() {
        Some(Dtype::F16) => Floats::F16(array.look()?),
        Some(Dtype::Bf16) => Floats::Bf16(array.look()?),
        _ => Floats::F32(array.look()?),
    })
}
