//! Weights on their way to the GPU's memory.

use std::f32::consts::LOG2_E;

use half::bf16;
use zerocopy::IntoBytes;

use crate::checkpoint::spec::{NormKind, NormSpec, ProjectionSpec, RelativeSpec, TableSpec};
use crate::checkpoint::{CheckpointError, Groups, Matrix, Tensor, Weights};
use crate::mlx::cuda::{Fixed, For, Upload};
use crate::mlx::{Array, Dtype, MlxError};
use crate::model::backend::{Backend, Place, Role};
use crate::model::mlx::Table;
use crate::model::relative::Relative;

use super::Cuda;
use super::weight::dense;

/// Bytes of a tensor that are read at once.
const PIECE: usize = 2 << 20;

/// Takes the bytes that come next.
type Put<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), MlxError>;

impl Cuda {
    #[cold]
    pub(super) fn error(&self, tensor: &str, source: MlxError) -> CheckpointError {
        CheckpointError::Mlx { path: self.path.clone(), tensor: tensor.to_owned(), source }
    }

    /// The type that scales and biases of groups have on the GPU.
    fn of_groups(&self, stored: Dtype) -> Dtype {
        match stored.is_float() {
            true if self.form.has_precisions() => Dtype::F32,
            true => Dtype::Bf16,
            false => stored,
        }
    }

    /// Scales or biases of a matrix that stays packed, piece by piece.
    pub(super) fn read_factors(&self, tensor: &Tensor, put: Put<'_>) -> Result<(), CheckpointError> {
        let wide = self.form.is_wide();
        self.read_as(if wide { tensor.dtype() } else { self.of_groups(tensor.dtype()) }, tensor, put)
    }

    /// The tensor as it is stored, piece by piece.
    pub(super) fn read_stored(&self, tensor: &Tensor, put: Put<'_>) -> Result<(), CheckpointError> {
        self.read_as(tensor.dtype(), tensor, put)
    }

    /// The tensor in f32, piece by piece.
    pub(super) fn read_f32(&self, tensor: &Tensor, put: Put<'_>) -> Result<(), CheckpointError> {
        self.read_as(Dtype::F32, tensor, put)
    }

    /// `dtype` is f32, bf16 or the tensor's own.
    fn read_as(&self, dtype: Dtype, tensor: &Tensor, put: Put<'_>) -> Result<(), CheckpointError> {
        let mut buffer = self.buffer.borrow_mut();
        let rows = tensor.shape().first().copied().unwrap_or(0);
        let step = (PIECE / (tensor.range().len() / rows.max(1)).max(1)).max(1);
        for first in (0..rows).step_by(step) {
            let numbers = tensor.read(first..rows.min(first + step), &mut buffer)?;
            let done = if dtype == tensor.dtype() {
                put(numbers.bytes())
            } else if dtype == Dtype::Bf16 {
                let numbers: Vec<bf16> = numbers.to_f32().into_iter().map(bf16::from_f32).collect();
                put(numbers.as_bytes())
            } else {
                put(numbers.to_f32().as_bytes())
            };
            done.map_err(|source| self.error(tensor.name(), source))?;
        }
        Ok(())
    }

    /// The tensor on its way to the GPU, as `dtype`, which is as above.
    fn upload(&self, whom: For, dtype: Dtype, tensor: &Tensor) -> Result<Upload<'_>, CheckpointError> {
        let failed = |source| self.error(tensor.name(), source);
        let sizes = tensor.shape().iter().map(|&size| i32::try_from(size));
        let Ok(shape) = sizes.collect::<Result<Vec<_>, _>>() else {
            return Err(failed(MlxError::new("array", "a dimension is beyond what MLX counts")));
        };
        let mut upload = self.ops.upload(whom, &shape, dtype, &self.stream).map_err(failed)?;
        self.read_as(dtype, tensor, &mut |bytes| upload.put(bytes))?;
        Ok(upload)
    }

    fn fixed(&self, dtype: Dtype, tensor: &Tensor) -> Result<Fixed, CheckpointError> {
        let fixed = self.upload(For::Kernels, dtype, tensor)?.fixed();
        fixed.map_err(|source| self.error(tensor.name(), source))
    }

    /// A matrix as MLX's operations take it.
    pub(super) fn table(&self, Matrix { weight, groups }: &Matrix) -> Result<Table, CheckpointError> {
        let array = |dtype: Dtype, tensor: &Tensor| -> Result<Array, CheckpointError> {
            let array = self.upload(For::Mlx, dtype, tensor)?.array(&self.stream);
            array.map_err(|source| self.error(tensor.name(), source))
        };
        let floats = |tensor: &Tensor| array(self.of_groups(tensor.dtype()), tensor);
        let weight = array(weight.dtype(), weight)?;
        let Some(Groups { scales, biases, quantization }) = groups else { return Ok(Table::Dense(weight)) };
        let (scales, biases) = (floats(scales)?, biases.as_ref().map(floats).transpose()?);
        Ok(Table::Quantized { weight, scales, biases, quantization: *quantization })
    }

    /// A quantised table's parts, for the kernel that reads rows of it.
    pub(super) fn parts_of(&self, matrix: &Matrix) -> Result<Vec<Fixed>, CheckpointError> {
        matrix.tensors().map(|tensor| self.fixed(self.of_groups(tensor.dtype()), tensor)).collect()
    }

    /// A table's rows in the type of activations, `[rows, D]`.
    pub(super) fn rows_of(&self, weights: &Weights<'_>, spec: &TableSpec) -> Result<Fixed, CheckpointError> {
        let table = weights.table(spec)?;
        let activation = self.activation();
        if table.groups.is_none() && table.weight.dtype() == activation {
            return self.fixed(activation, &table.weight);
        }
        let rows = dense(&self.table(&table)?, activation, &self.stream).and_then(Fixed::new);
        rows.map_err(|source| self.error(&spec.path, source))
    }

    /// Numbers in the GPU's memory.
    pub(super) fn numbers(&self, numbers: &[f32], shape: &[i32]) -> Result<Fixed, MlxError> {
        let mut upload = self.ops.upload(For::Kernels, shape, Dtype::F32, &self.stream)?;
        upload.put(numbers.as_bytes())?;
        upload.fixed()
    }

    /// What is added to scores by distance, as `attention.cu` takes it: `[H, 2 * FAR + 1]`.
    pub(super) fn distances(
        &self,
        weights: &Weights<'_>,
        spec: &RelativeSpec,
    ) -> Result<Fixed, CheckpointError> {
        let columns = 2 * RelativeSpec::FAR + 1;
        let mut numbers = Relative::numbers(weights, spec, columns, RelativeSpec::FAR)?;
        numbers.iter_mut().for_each(|number| *number *= LOG2_E);
        let fixed = self.numbers(&numbers, &[spec.table.width as i32, columns as i32]);
        fixed.map_err(|source| self.error(&spec.table.path, source))
    }

    /// Of all parts, f32; a part without has zeros. Nothing where no part has one and none is asked for.
    pub(super) fn bias(
        &self,
        weights: &Weights<'_>,
        spec: &ProjectionSpec,
        place: Place,
    ) -> Result<Option<Fixed>, CheckpointError> {
        let asked = matches!(place.role, Role::Qkv | Role::SharpQkv) && self.form.geometry.bias;
        let mut numbers = Vec::new();
        let mut any = asked;
        for part in &spec.parts {
            let bias = weights.bias(part)?;
            any |= bias.is_some();
            numbers.extend(match bias {
                Some(bias) => bias.to_f32()?,
                None => vec![0.0; part.outputs()],
            });
        }
        if !any {
            return Ok(None);
        }
        let fixed = self.numbers(&numbers, &[numbers.len() as i32]);
        fixed.map(Some).map_err(|source| self.error(&spec.parts[0].path, source))
    }
}

/// What a norm multiplies with.
pub(super) fn norm_weight(weights: &Weights<'_>, spec: &NormSpec) -> Result<Vec<f32>, CheckpointError> {
    let weight = weights.norm_weight(spec)?.to_f32()?;
    Ok(match spec.kind {
        NormKind::Rms { offset } => weight.iter().map(|x| x + offset).collect(),
        NormKind::Layer => weight,
    })
}
