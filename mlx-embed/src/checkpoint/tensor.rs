//! Tensors of a checkpoint where they lie: in mapped files, not copied.

use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Quantization;
use crate::mlx::{Dtype, MappedFile};

/// A tensor, row-major.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(super) name: String,
    pub(super) file: Arc<MappedFile>,
    /// Which of the checkpoint's files that is.
    pub(super) index: usize,
    /// Its bytes in the file.
    pub(super) range: Range<usize>,
    pub(super) shape: Vec<usize>,
    pub(super) dtype: Dtype,
    /// The same bytes, where those in the file don't begin at a multiple of a number's size.
    pub(super) copy: Option<Arc<[u32]>>,
}

impl Tensor {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its numbers. `T` is the tensor's type; of another there are none.
    pub(crate) fn numbers<T: FromBytes + Immutable + KnownLayout>(&self) -> &[T] {
        let bytes = match &self.copy {
            Some(words) => &words.as_bytes()[..self.range.len()],
            None => &self.file.bytes()[self.range.clone()],
        };
        <[T]>::ref_from_bytes(bytes).unwrap_or_default()
    }

    /// Its numbers as f32. Empty if they are no floats.
    pub(crate) fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => self.numbers::<f32>().to_vec(),
            Dtype::F16 => self.numbers::<f16>().iter().map(|x| x.to_f32()).collect(),
            Dtype::Bf16 => self.numbers::<bf16>().iter().map(|x| x.to_f32()).collect(),
            _ => Vec::new(),
        }
    }

    /// Lets go of the memory that its pages took when they were read. They can be read again.
    pub(crate) fn release(&self) {
        self.file.release(self.range.clone());
    }

    /// These rows of it, counted over its first dimension.
    pub(super) fn rows(mut self, rows: Range<usize>) -> Self {
        if let Some(all) = self.shape.first_mut() {
            let bytes = self.range.len() / (*all).max(1);
            *all = rows.len();
            self.range = self.range.start + rows.start * bytes..self.range.start + rows.end * bytes;
        }
        self
    }

    /// Its numbers will be read: copies them where they don't begin at a multiple of their size.
    pub(super) fn aligned(mut self) -> Self {
        let bytes = &self.file.bytes()[self.range.clone()];
        if !bytes.as_ptr().addr().is_multiple_of(self.dtype.size()) {
            let mut words = vec![0_u32; bytes.len().div_ceil(size_of::<u32>())];
            words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
            self.copy = Some(words.into());
        }
        self
    }
}

/// A matrix, `[rows, columns]`, as the checkpoint stores it.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    /// Dense `[rows, columns]`, or quantised u32 `[rows, columns * bits / 32]`.
    pub(crate) weight: Tensor,
    /// What is beside a quantised one.
    pub(crate) groups: Option<Groups>,
}

/// Scales of the groups of a quantised matrix.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    pub(crate) scales: Tensor, // [rows, columns / group_size]
    /// As `scales`; affine only.
    pub(crate) biases: Option<Tensor>,
    pub(crate) quantization: Quantization,
}

impl Matrix {
    /// Lets go of the memory that its pages took.
    pub(crate) fn release(&self) {
        self.weight.release();
        if let Some(Groups { scales, biases, .. }) = &self.groups {
            scales.release();
            biases.iter().for_each(Tensor::release);
        }
    }
}
