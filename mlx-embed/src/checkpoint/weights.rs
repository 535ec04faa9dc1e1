//! The tensors that a model asks for, with the shapes and types that it needs.

use std::sync::Arc;

use safetensors::tensor::Dtype as FileDtype;

use super::files::TensorEntry;
use super::spec::{LookupSpec, MlmSpec, NormSpec, PartSpec, TableSpec};
use super::tensor::{Groups, Matrix, Tensor};
use super::{Checkpoint, CheckpointError, Quantization};
use crate::file::OpenFile;
use crate::mlx::Dtype;
use crate::mlx::ops::QuantMode;

/// A checkpoint's tensors by what the model's parts are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weights<'a> {
    checkpoint: &'a Checkpoint,
}

impl<'a> Weights<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint }
    }

    /// The files that tensors lie in, by their index.
    pub(crate) fn files(&self) -> &'a [Arc<OpenFile>] {
        &self.checkpoint.weights.files
    }

    /// The checkpoint, for messages.
    pub(crate) fn dir(&self) -> &'a std::path::Path {
        self.checkpoint.dir()
    }

    /// What a norm multiplies with, `[size]`.
    pub(crate) fn norm_weight(&self, norm: &NormSpec) -> Result<Tensor, CheckpointError> {
        self.vector(&norm.weight, norm.size)
    }

    /// What a norm adds, `[size]`, if it does.
    pub(crate) fn norm_bias(&self, norm: &NormSpec) -> Result<Option<Tensor>, CheckpointError> {
        norm.bias.as_ref().map(|name| self.vector(name, norm.size)).transpose()
    }

    /// A tensor of one number.
    pub(crate) fn number(&self, name: &str) -> Result<f32, CheckpointError> {
        Ok(self.vector(name, 1)?.to_f32()?.first().copied().unwrap_or_default())
    }

    /// What a head adds to its logits, `[vocabulary]`.
    pub(crate) fn mlm_bias(&self, head: &MlmSpec) -> Result<Option<Tensor>, CheckpointError> {
        head.bias.as_ref().map(|bias| self.vector(bias, head.vocabulary)).transpose()
    }

    /// The matrix of a part of a projection, `[outputs, inputs]`.
    pub(crate) fn matrix(&self, part: &PartSpec, inputs: usize) -> Result<Matrix, CheckpointError> {
        let matrix = self.whole(&part.path, [part.of, inputs])?;
        let rows = |tensor: Tensor| tensor.rows(part.rows.clone());
        Ok(Matrix {
            weight: rows(matrix.weight),
            groups: matrix.groups.map(|groups| Groups {
                scales: rows(groups.scales),
                biases: groups.biases.map(rows),
                quantization: groups.quantization,
            }),
        })
    }

    /// What a part of a projection adds, `[outputs]`, if it does.
    pub(crate) fn bias(&self, part: &PartSpec) -> Result<Option<Tensor>, CheckpointError> {
        if !part.bias {
            return Ok(None);
        }
        let bias = self.of_shape(&format!("{}.bias", part.path), &[part.of], Self::float)?;
        Ok(Some(bias.rows(part.rows.clone())))
    }

    /// A table, `[rows, width]`.
    pub(crate) fn table(&self, table: &TableSpec) -> Result<Matrix, CheckpointError> {
        let name = format!("{}.weight", table.path);
        if table.may_be_whole && self.entry(&name)?.mlx_dtype() == Some(Dtype::I8) {
            let weight = self.of_shape(&name, &[table.rows, table.width], |_, _, _| Ok(Dtype::I8))?;
            return Ok(Matrix { weight, groups: None });
        }
        let part = PartSpec::whole(table.path.clone(), table.rows, false);
        self.matrix(&part, table.width)
    }

    /// Of each token id which of a table's rows it has, where the file says so.
    pub(crate) fn rows_of_ids(
        &self,
        spec: &LookupSpec,
        rows: usize,
    ) -> Result<Option<Vec<u32>>, CheckpointError> {
        let Some(name) = &spec.rows else { return Ok(None) };
        let (entry, bytes) = self.of_ids(name, spec.vocabulary)?;
        let numbers: Vec<i64> = match entry.dtype {
            FileDtype::I32 => bytes.as_chunks().0.iter().map(|x| i32::from_le_bytes(*x).into()).collect(),
            FileDtype::I64 => bytes.as_chunks().0.iter().map(|x| i64::from_le_bytes(*x)).collect(),
            _ => return Err(self.wrong_dtype(name, entry, "i32 or i64")),
        };
        let row = |(id, &number): (usize, &i64)| match u32::try_from(number) {
            Ok(row) if (row as usize) < rows => Ok(row),
            _ => Err(CheckpointError::InvalidTensor {
                path: self.file(entry).path().to_owned(),
                tensor: name.clone(),
                reason: format!("has {number} for token id {id}, but the table has {rows} rows"),
            }),
        };
        numbers.iter().enumerate().map(row).collect::<Result<_, _>>().map(Some)
    }

    /// Of each token id what its row is multiplied with, where the file says so.
    pub(crate) fn factors_of_ids(&self, spec: &LookupSpec) -> Result<Option<Vec<f32>>, CheckpointError> {
        let Some(name) = &spec.factors else { return Ok(None) };
        let (entry, bytes) = self.of_ids(name, spec.vocabulary)?;
        match entry.dtype {
            FileDtype::F64 => {
                Ok(Some(bytes.as_chunks().0.iter().map(|x| f64::from_le_bytes(*x) as f32).collect()))
            }
            _ => self.vector(name, spec.vocabulary)?.to_f32().map(Some),
        }
    }

    /// A tensor of a number for each token id, as bytes.
    fn of_ids(&self, name: &str, vocabulary: usize) -> Result<(&'a TensorEntry, Vec<u8>), CheckpointError> {
        let entry = self.entry(name)?;
        // Whatever its type is: it is looked at next.
        let tensor = self.of_shape(name, &[vocabulary], |_, _, _| Ok(Dtype::U8))?;
        let mut bytes = vec![0; entry.nbytes];
        tensor
            .file
            .read_at(entry.start, &mut bytes)
            .map_err(|source| CheckpointError::Io { path: tensor.file.path().to_owned(), source })?;
        Ok((entry, bytes))
    }

    /// There is no memory for the packed form of matrix `path`.
    #[cold]
    pub(crate) fn memory_error(&self, path: &str, source: std::io::Error) -> CheckpointError {
        CheckpointError::Memory { path: self.checkpoint.dir().to_owned(), tensor: path.to_owned(), source }
    }

    fn vector(&self, name: &str, size: usize) -> Result<Tensor, CheckpointError> {
        self.of_shape(name, &[size], Self::float)
    }

    /// The matrix `path.weight`, with `path.scales` and `path.biases` where it is quantised.
    fn whole(&self, path: &str, [rows, columns]: [usize; 2]) -> Result<Matrix, CheckpointError> {
        let name = format!("{path}.weight");
        let Some(quantization) = self.checkpoint.quantization_of(path)? else {
            return Ok(Matrix { weight: self.of_shape(&name, &[rows, columns], Self::float)?, groups: None });
        };
        let Quantization { bits, group_size, mode } = quantization;
        let [bits, group_size] = [bits, group_size].map(|number| number as usize);
        if columns % group_size != 0 {
            return Err(CheckpointError::UnsupportedQuantization {
                path: self.file(self.entry(&name)?).path().to_owned(),
                tensor: path.to_owned(),
                reason: format!("{columns} inputs are not a multiple of the group size {group_size}"),
            });
        }
        let packed = columns / 32 * bits + columns % 32 * bits / 32;
        let weight = self.of_shape(&name, &[rows, packed], |weights, name, entry| {
            weights.of_type(name, entry, Dtype::U32, "u32 (packed, as MLX quantises)")
        })?;
        let of_groups = |name: String| {
            self.of_shape(&name, &[rows, columns / group_size], |weights, name, entry| match mode {
                QuantMode::Affine => weights.float(name, entry),
                _ => weights.of_type(name, entry, Dtype::U8, "u8 (a group's exponent)"),
            })
        };
        let biases = match mode {
            QuantMode::Affine => Some(of_groups(format!("{path}.biases"))?),
            _ => None,
        };
        let scales = of_groups(format!("{path}.scales"))?;
        Ok(Matrix { weight, groups: Some(Groups { scales, biases, quantization }) })
    }

    fn entry(&self, name: &str) -> Result<&'a TensorEntry, CheckpointError> {
        self.checkpoint.weights.tensors.get(name).ok_or_else(|| CheckpointError::MissingTensor {
            path: self.checkpoint.dir().to_owned(),
            tensor: name.to_owned(),
        })
    }

    fn file(&self, entry: &TensorEntry) -> &'a Arc<OpenFile> {
        &self.checkpoint.weights.files[entry.file]
    }

    /// The tensor, whose type `check` decides on.
    fn of_shape(
        &self,
        name: &str,
        expected: &[usize],
        check: impl Fn(&Self, &str, &TensorEntry) -> Result<Dtype, CheckpointError>,
    ) -> Result<Tensor, CheckpointError> {
        let entry = self.entry(name)?;
        let file = self.file(entry);
        let path = || file.path().to_owned();
        let dtype = check(self, name, entry)?;
        if entry.shape != expected {
            return Err(CheckpointError::WrongShape {
                path: path(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: entry.shape.clone(),
            });
        }
        file.check_unchanged().map_err(|source| CheckpointError::Io { path: path(), source })?;
        Ok(Tensor::whole(name.to_owned(), Arc::clone(file), entry, dtype))
    }

    fn of_type(
        &self,
        name: &str,
        entry: &TensorEntry,
        dtype: Dtype,
        expected: &'static str,
    ) -> Result<Dtype, CheckpointError> {
        if entry.mlx_dtype() == Some(dtype) {
            Ok(dtype)
        } else {
            Err(self.wrong_dtype(name, entry, expected))
        }
    }

    fn float(&self, name: &str, entry: &TensorEntry) -> Result<Dtype, CheckpointError> {
        entry
            .mlx_dtype()
            .filter(|dtype| dtype.is_float())
            .ok_or_else(|| self.wrong_dtype(name, entry, "f32, f16 or bf16"))
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
}
