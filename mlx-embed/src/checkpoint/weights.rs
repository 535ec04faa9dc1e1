//! Tensors as MLX arrays on one stream.

use std::io;
use std::sync::Arc;

use super::files::TensorEntry;
use super::{Checkpoint, CheckpointError};
use crate::checkpoint::Quantization;
use crate::mlx::ops::{self, QuantizedRef};
use crate::mlx::{Array, Backend, Dtype, MappedArrays, MappedFile, MlxError, Stream};

/// A matrix, `[rows, columns]`, as the checkpoint stores it.
#[derive(Debug)]
pub(crate) enum Matrix {
    Dense(Array),
    Quantized {
        /// u32 `[rows, columns * bits / 32]`
        weight: Array,
        /// `[rows, columns / group_size]`
        scales: Array,
        /// As `scales`; affine only.
        biases: Option<Array>,
        quantization: Quantization,
    },
}

impl Matrix {
    /// A quantised matrix's parts as MLX takes them.
    pub(crate) fn parts<'a>(
        weight: &'a Array,
        scales: &'a Array,
        biases: Option<&'a Array>,
        quantization: Quantization,
    ) -> QuantizedRef<'a> {
        let Quantization { bits, group_size, mode } = quantization;
        QuantizedRef { weight, scales, biases, group_size, bits, mode }
    }
}

/// The tensors of a checkpoint for one stream. Holds the mapped files that the arrays lie in.
#[derive(Debug)]
pub(crate) struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    files: Vec<MappedArrays>,
    stream: &'a Stream,
    activation: Dtype,
}

impl<'a> Weights<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint, stream: &'a Stream) -> Result<Self, CheckpointError> {
        let mut files = Vec::new();
        for file in &checkpoint.weights.files {
            files.push(MappedArrays::new(Arc::clone(file), stream).map_err(|source| {
                CheckpointError::Mlx {
                    path: file.path().to_owned(),
                    tensor: "(the whole file)".into(),
                    source,
                }
            })?);
        }
        let mut weights = Self { checkpoint, files, stream, activation: Dtype::F32 };
        // On x86, MLX's CPU kernels accumulate in the activation's type: f32 or the result is worthless. f16 ends at 65504,
        // and residual streams of trained models don't: that of the model inside reaches 245,001.
        if stream.backend() != Backend::Cpu && weights.dtype_of_norm()? == Dtype::Bf16 {
            weights.activation = Dtype::Bf16;
        }
        Ok(weights)
    }

    /// The type that activations have on this stream.
    pub(crate) fn activation(&self) -> Dtype {
        self.activation
    }

    /// Hands over what keeps the arrays' memory mapped.
    pub(crate) fn into_mappings(self) -> Vec<MappedArrays> {
        self.files
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.checkpoint.has(name)
    }

    /// A vector `[size]`, in the activation's type.
    pub(crate) fn vector(&self, name: &str, size: i32) -> Result<Array, CheckpointError> {
        let entry = self.entry(name)?;
        self.expect_shape(name, entry, &[size])?;
        self.float(name, entry)
    }

    /// The matrix `path.weight`, with `path.scales` and `path.biases` where it is quantised.
    pub(crate) fn matrix(&self, path: &str, rows: i32, columns: i32) -> Result<Matrix, CheckpointError> {
        let name = format!("{path}.weight");
        let entry = self.entry(&name)?;
        let Some(quantization) = self.checkpoint.quantization_of(path)? else {
            self.expect_shape(&name, entry, &[rows, columns])?;
            return Ok(Matrix::Dense(self.matrix_of_floats(&name, entry)?));
        };
        let unsupported = |reason: String| CheckpointError::UnsupportedQuantization {
            path: self.file(entry).path().to_owned(),
            tensor: path.to_owned(),
            reason,
        };
        let Quantization { bits, group_size, mode } = quantization;
        if columns % group_size != 0 {
            return Err(unsupported(format!(
                "{columns} inputs are not a multiple of the group size {group_size}"
            )));
        }
        if entry.mlx_dtype() != Some(Dtype::U32) {
            return Err(self.wrong_dtype(&name, entry, "u32 (packed, as MLX quantises)"));
        }
        let packed = i64::from(columns) * i64::from(bits) / 32;
        let packed = i32::try_from(packed).map_err(|_| unsupported("the matrix is too large".into()))?;
        self.expect_shape(&name, entry, &[rows, packed])?;
        let weight = self.array(&name, entry)?;

        let group_shape = [rows, columns / group_size];
        let of_groups = |name: String| -> Result<Array, CheckpointError> {
            let entry = self.entry(&name)?;
            self.expect_shape(&name, entry, &group_shape)?;
            match mode {
                ops::QuantMode::Affine => self.matrix_of_floats(&name, entry),
                _ if entry.mlx_dtype() == Some(Dtype::U8) => self.array(&name, entry),
                _ => Err(self.wrong_dtype(&name, entry, "u8 (a group's exponent)")),
            }
        };
        Ok(Matrix::Quantized {
            weight,
            scales: of_groups(format!("{path}.scales"))?,
            biases: match mode {
                ops::QuantMode::Affine => Some(of_groups(format!("{path}.biases"))?),
                _ => None,
            },
            quantization,
        })
    }

    /// Lets go of the memory that the pages of matrix `path` took when they were read. They can be read again.
    pub(crate) fn release(&self, path: &str) {
        for part in ["weight", "scales", "biases"] {
            if let Some(entry) = self.checkpoint.weights.tensors.get(&format!("{path}.{part}")) {
                self.file(entry).release(entry.start..entry.start + entry.nbytes);
            }
        }
    }

    /// What went wrong with tensor `name`.
    #[cold]
    pub(crate) fn tensor_error(&self, name: &str, source: MlxError) -> CheckpointError {
        CheckpointError::Mlx { path: self.checkpoint.dir().to_owned(), tensor: name.to_owned(), source }
    }

    /// There is no memory for the packed form of matrix `path`.
    #[cold]
    pub(crate) fn memory_error(&self, path: &str, source: io::Error) -> CheckpointError {
        CheckpointError::Memory { path: self.checkpoint.dir().to_owned(), tensor: path.to_owned(), source }
    }

    fn entry(&self, name: &str) -> Result<&TensorEntry, CheckpointError> {
        self.checkpoint.weights.tensors.get(name).ok_or_else(|| CheckpointError::MissingTensor {
            path: self.checkpoint.dir().to_owned(),
            tensor: name.to_owned(),
        })
    }

    fn file(&self, entry: &TensorEntry) -> &MappedFile {
        &self.checkpoint.weights.files[entry.file]
    }

    fn expect_shape(&self, name: &str, entry: &TensorEntry, expected: &[i32]) -> Result<(), CheckpointError> {
        let expected: Vec<usize> = expected.iter().map(|&dim| dim as usize).collect();
        if entry.shape == expected {
            return Ok(());
        }
        Err(CheckpointError::WrongShape {
            path: self.file(entry).path().to_owned(),
            tensor: name.to_owned(),
            expected,
            found: entry.shape.clone(),
        })
    }

    #[cold]
    fn wrong_dtype(&self, name: &str, entry: &TensorEntry, expected: &'static str) -> CheckpointError {
        CheckpointError::WrongDtype {
            path: self.file(entry).path().to_owned(),
            tensor: name.to_owned(),
            expected,
            found: format!("{:?}", entry.dtype),
        }
    }

    fn float_dtype(&self, name: &str, entry: &TensorEntry) -> Result<Dtype, CheckpointError> {
        entry
            .mlx_dtype()
            .filter(|dtype| dtype.is_float())
            .ok_or_else(|| self.wrong_dtype(name, entry, "f32, f16 or bf16"))
    }

    /// A floating-point tensor in the activation's type.
    fn float(&self, name: &str, entry: &TensorEntry) -> Result<Array, CheckpointError> {
        self.float_dtype(name, entry)?;
        let array = self.array(name, entry)?;
        self.convert(name, entry, &array)
    }

    /// A matrix of numbers, be it weights or the scales of groups. The CPU keeps the file's type in place, since f32
    /// copies take twice that memory; its products convert as they go.
    fn matrix_of_floats(&self, name: &str, entry: &TensorEntry) -> Result<Array, CheckpointError> {
        if self.stream.backend() == Backend::Cpu {
            self.float_dtype(name, entry)?;
            self.array(name, entry)
        } else {
            self.float(name, entry)
        }
    }

    fn array(&self, name: &str, entry: &TensorEntry) -> Result<Array, CheckpointError> {
        let Some(dtype) = entry.mlx_dtype() else {
            return Err(self.wrong_dtype(name, entry, "one of f32, f16, bf16, u32 and u8"));
        };
        let path = self.file(entry).path();
        self.file(entry).check_unchanged().map_err(|source| io_error(path, source))?;
        // `expect_shape` compared them with an i32 shape.
        let shape: Vec<i32> = entry.shape.iter().map(|&dim| dim as i32).collect();
        self.files[entry.file]
            .tensor(entry.start, entry.nbytes, &shape, dtype, self.stream)
            .map_err(|source| self.mlx_error(name, entry, source))
    }

    fn convert(&self, name: &str, entry: &TensorEntry, array: &Array) -> Result<Array, CheckpointError> {
        let converted = ops::astype(array, self.activation, self.stream)
            .and_then(|converted| converted.eval().map(|()| converted));
        converted.map_err(|source| self.mlx_error(name, entry, source))
    }

    fn dtype_of_norm(&self) -> Result<Dtype, CheckpointError> {
        let name = "norm.weight";
        self.float_dtype(name, self.entry(name)?)
    }

    #[cold]
    fn mlx_error(&self, name: &str, entry: &TensorEntry, source: MlxError) -> CheckpointError {
        CheckpointError::Mlx { path: self.file(entry).path().to_owned(), tensor: name.to_owned(), source }
    }
}

#[cold]
fn io_error(path: &std::path::Path, source: io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.to_owned(), source }
}
