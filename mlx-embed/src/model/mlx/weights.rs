//! A checkpoint's tensors as arrays on one stream.

use std::path::PathBuf;

use crate::checkpoint::spec::ModelSpec;
use crate::checkpoint::{CheckpointError, Matrix, Tensor, Weights};
use crate::mlx::{Array, Backend as Device, Dtype, MappedArrays, MlxError, Stream, ops};

use super::linear::Table;

/// The mapped files that arrays lie in, and the type of activations.
#[derive(Debug)]
pub(crate) struct Arrays {
    files: Vec<MappedArrays>,
    activation: Dtype,
    /// For messages.
    path: PathBuf,
}

impl Arrays {
    pub(crate) fn new(
        weights: &Weights<'_>,
        spec: &ModelSpec,
        stream: &Stream,
    ) -> Result<Self, CheckpointError> {
        let mut files = Vec::new();
        for file in weights.files() {
            files.push(MappedArrays::new(file, stream).map_err(|source| CheckpointError::Mlx {
                path: file.path().to_owned(),
                tensor: "(the whole file)".into(),
                source,
            })?);
        }
        // On x86, MLX's CPU kernels accumulate in the activation's type: f32 or the result is worthless. f16 ends at 65504,
        // and residual streams of trained models don't: that of the built-in model reaches 245,001.
        let norms = spec.layers.first().and_then(|layer| {
            let norms = &layer.attention.norms;
            norms.input.as_ref().or(norms.sum.as_ref())
        });
        let mut activation = Dtype::F32;
        if let Some(norm) = spec.norm.as_ref().or(norms)
            && stream.backend() != Device::Cpu
            && weights.norm_weight(norm)?.dtype() == Dtype::Bf16
        {
            activation = Dtype::Bf16;
        }
        Ok(Self { files, activation, path: weights.dir().to_owned() })
    }

    pub(crate) fn activation(&self) -> Dtype {
        self.activation
    }

    #[cold]
    pub(crate) fn error(&self, tensor: &str, source: MlxError) -> CheckpointError {
        CheckpointError::Mlx { path: self.path.clone(), tensor: tensor.to_owned(), source }
    }

    /// The tensor as it is.
    pub(crate) fn array(&self, tensor: &Tensor, stream: &Stream) -> Result<Array, CheckpointError> {
        let shape: Result<Vec<i32>, _> = tensor.shape().iter().map(|&size| i32::try_from(size)).collect();
        let array = match shape {
            Ok(shape) if tensor.is_adapted() => {
                let mut buffer = Vec::new();
                let numbers = tensor.read(0..tensor.shape()[0], &mut buffer)?;
                Array::from_bytes(numbers.bytes(), &shape, tensor.dtype())
            }
            Ok(shape) => {
                let range = tensor.range();
                let file = &self.files[tensor.index()];
                file.tensor(range.start, range.len(), &shape, tensor.dtype(), stream)
            }
            Err(_) => Err(MlxError::new("array", "a dimension is beyond what MLX counts")),
        };
        array.map_err(|source| self.error(tensor.name(), source))
    }

    /// A tensor of floats in the activation's type.
    pub(crate) fn vector(&self, tensor: &Tensor, stream: &Stream) -> Result<Array, CheckpointError> {
        let array = self.array(tensor, stream)?;
        self.convert(tensor, &array, stream)
    }

    /// Other numbers in a vector's place, in the activation's type.
    pub(crate) fn numbers(
        &self,
        tensor: &Tensor,
        numbers: &[f32],
        stream: &Stream,
    ) -> Result<Array, CheckpointError> {
        let array = Array::from_slice(numbers, &[numbers.len() as i32]);
        self.convert(tensor, &array.map_err(|source| self.error(tensor.name(), source))?, stream)
    }

    /// A matrix. The CPU keeps the file's type of floats, since f32 copies take twice that memory; its products convert as
    /// they go.
    pub(crate) fn matrix(&self, matrix: &Matrix, stream: &Stream) -> Result<Table, CheckpointError> {
        let floats = |tensor: &Tensor| match stream.backend() {
            Device::Cpu => self.array(tensor, stream),
            _ if !tensor.dtype().is_float() => self.array(tensor, stream),
            _ => self.vector(tensor, stream),
        };
        let Some(groups) = &matrix.groups else { return Ok(Table::Dense(floats(&matrix.weight)?)) };
        Ok(Table::Quantized {
            weight: self.array(&matrix.weight, stream)?,
            scales: floats(&groups.scales)?,
            biases: groups.biases.as_ref().map(floats).transpose()?,
            quantization: groups.quantization,
        })
    }

    /// All have been loaded.
    pub(crate) fn loaded(&self) {
        self.files.iter().for_each(MappedArrays::end_uploads);
    }

    fn convert(&self, tensor: &Tensor, array: &Array, stream: &Stream) -> Result<Array, CheckpointError> {
        let converted = ops::astype(array, self.activation, stream)
            .and_then(|converted| converted.eval().map(|()| converted));
        converted.map_err(|source| self.error(tensor.name(), source))
    }
}
