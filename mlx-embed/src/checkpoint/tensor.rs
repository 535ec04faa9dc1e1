//! Tensors of a checkpoint where they lie: in open files, a few rows of which are read at a time.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::adapter::LowRank;
use super::files::TensorEntry;
use super::{CheckpointError, Quantization};
use crate::file::OpenFile;
use crate::mlx::Dtype;

/// A tensor, row-major.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(super) name: String,
    pub(super) file: Arc<OpenFile>,
    /// Which of the checkpoint's files that is.
    pub(super) index: usize,
    /// Its bytes in the file.
    pub(super) range: Range<usize>,
    pub(super) shape: Vec<usize>,
    pub(super) dtype: Dtype,
    /// What is added to it as it is read, and which of that matrix's rows is its first.
    adapter: Option<(Arc<LowRank>, usize)>,
}

/// Some of a tensor's numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers<'a> {
    /// They begin at a multiple of a number's size.
    bytes: &'a [u8],
    dtype: Dtype,
}

impl<'a> Numbers<'a> {
    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// As `T`, which is their type; of another there are none.
    pub(crate) fn of<T: FromBytes + Immutable + KnownLayout>(&self) -> &'a [T] {
        <[T]>::ref_from_bytes(self.bytes).unwrap_or_default()
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// As f32. None if they are no floats.
    pub(crate) fn to_f32(self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => self.of::<f32>().to_vec(),
            Dtype::F16 => self.of::<f16>().iter().map(|x| x.to_f32()).collect(),
            Dtype::Bf16 => self.of::<bf16>().iter().map(|x| x.to_f32()).collect(),
            _ => Vec::new(),
        }
    }
}

impl Tensor {
    /// All of what is at `entry` of a file.
    pub(super) fn whole(name: String, file: Arc<OpenFile>, entry: &TensorEntry, dtype: Dtype) -> Self {
        Self {
            name,
            file,
            index: entry.file,
            range: entry.start..entry.start + entry.nbytes,
            shape: entry.shape.clone(),
            dtype,
            adapter: entry.adapter.clone().map(|adapter| (adapter, 0)),
        }
    }

    /// Whether its numbers are others than those in the file.
    pub(crate) fn is_adapted(&self) -> bool {
        self.adapter.is_some()
    }

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

    /// The numbers of some of its rows, counted over its first dimension; read into `buffer` where they don't lie in memory.
    pub(crate) fn read<'a>(
        &'a self,
        rows: Range<usize>,
        buffer: &'a mut Vec<u32>,
    ) -> Result<Numbers<'a>, CheckpointError> {
        let Some((adapter, first)) = &self.adapter else { return self.stored(rows, buffer) };
        let mut sums = self.stored(rows.clone(), buffer)?.to_f32();
        adapter.add_to(first + rows.start, &mut sums, self.shape.last().copied().unwrap_or(1))?;
        buffer.resize((sums.len() * self.dtype.size()).div_ceil(size_of::<u32>()), 0);
        let bytes = &mut buffer.as_mut_bytes()[..sums.len() * self.dtype.size()];
        for (to, sum) in bytes.chunks_exact_mut(self.dtype.size()).zip(sums) {
            match self.dtype {
                Dtype::Bf16 => to.copy_from_slice(&bf16::from_f32(sum).to_ne_bytes()),
                Dtype::F16 => to.copy_from_slice(&f16::from_f32(sum).to_ne_bytes()),
                _ => to.copy_from_slice(&sum.to_ne_bytes()),
            }
        }
        Ok(Numbers { bytes, dtype: self.dtype })
    }

    /// The same numbers as they are in the file.
    fn stored<'a>(
        &'a self,
        rows: Range<usize>,
        buffer: &'a mut Vec<u32>,
    ) -> Result<Numbers<'a>, CheckpointError> {
        let Range { start, end } = self.range_of(rows);
        let whole = |bytes: &'a [u8]| bytes.get(start..end).filter(|bytes| self.fits(bytes));
        let bytes = match self.file.source().err().and_then(whole) {
            Some(bytes) => bytes,
            None => {
                buffer.resize((end - start).div_ceil(size_of::<u32>()), 0);
                let bytes = &mut buffer.as_mut_bytes()[..end - start];
                self.file.read_at(start, bytes).map_err(|source| self.io_error(source))?;
                bytes
            }
        };
        Ok(Numbers { bytes, dtype: self.dtype })
    }

    /// Its numbers as f32. Empty if they are no floats.
    pub(crate) fn to_f32(&self) -> Result<Vec<f32>, CheckpointError> {
        let rows = self.shape.first().copied().unwrap_or(0);
        Ok(self.read(0..rows, &mut Vec::new())?.to_f32())
    }

    /// These rows of it, counted over its first dimension.
    pub(super) fn rows(mut self, rows: Range<usize>) -> Self {
        self.range = self.range_of(rows.clone());
        if let Some((_, first)) = &mut self.adapter {
            *first += rows.start;
        }
        if let Some(all) = self.shape.first_mut() {
            *all = rows.len();
        }
        self
    }

    /// Whether bytes begin where numbers of its type may.
    fn fits(&self, bytes: &[u8]) -> bool {
        bytes.as_ptr().addr().is_multiple_of(self.dtype.size())
    }

    fn range_of(&self, rows: Range<usize>) -> Range<usize> {
        let all = self.shape.first().copied().unwrap_or(1).max(1);
        let bytes = self.range.len() / all;
        self.range.start + rows.start * bytes..self.range.start + rows.end * bytes
    }

    #[cold]
    fn io_error(&self, source: io::Error) -> CheckpointError {
        CheckpointError::Io { path: self.file.path().to_owned(), source }
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
    /// How it is quantised, if it is.
    pub(crate) fn quantization(&self) -> Option<Quantization> {
        self.groups.as_ref().map(|groups| groups.quantization)
    }

    /// Its tensors.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let groups = self
            .groups
            .iter()
            .flat_map(|Groups { scales, biases, .. }| std::iter::once(scales).chain(biases));
        std::iter::once(&self.weight).chain(groups)
    }
}
