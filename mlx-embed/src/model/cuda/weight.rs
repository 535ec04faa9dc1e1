//! Weight matrices, several in one, in the forms that products read.

use crate::mlx::cuda::{self, Fixed};
use crate::mlx::{Array, Dtype, MlxError, Stream, ops};
use crate::model::mlx::{Table, quantized_ref};

use super::{Cuda, MatmulPolicy};
use crate::model::backend::Backend;

/// Matrices that read the same rows; their outputs lie side by side.
#[derive(Debug)]
pub(crate) struct Projection {
    /// With the first output of each. What is stored alike is one.
    matrices: Vec<(i32, Weight)>,
    pub(super) outputs: i32,
    /// f32 `[outputs]`
    pub(super) bias: Option<Fixed>,
}

/// A matrix `[out, in]`.
#[derive(Debug)]
struct Weight {
    packed: Option<cuda::Packed>,
    /// In the type of activations, where it stays in memory.
    dense: Option<cuda::Dense>,
}

/// How the rows of several matrices lie in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// One matrix after the other.
    Stacked,
    /// Eight rows of one, eight of the next, and so on. They are stored alike.
    ByEights,
}

impl Projection {
    pub(super) fn new(
        cuda: &Cuda,
        parts: &[Table],
        order: RowOrder,
        bias: Option<Fixed>,
        stream: &Stream,
    ) -> Result<Self, MlxError> {
        let (mut matrices, mut outputs) = (Vec::new(), 0);
        for alike in parts.chunk_by(|a, b| a.quantization() == b.quantization()) {
            let first = outputs;
            outputs += alike.iter().map(Table::rows).sum::<i32>();
            matrices.push((first, Weight::new(cuda, alike, order, stream)?));
        }
        if order == RowOrder::ByEights && matrices.len() != 1 {
            return Err(MlxError::new("product", "gate and up are stored in different ways"));
        }
        Ok(Self { matrices, outputs, bias })
    }

    /// The matrices in the form in which a product reads them, packed or not.
    pub(super) fn read(
        &self,
        cuda: &Cuda,
        packed: bool,
        stream: &Stream,
    ) -> Result<Vec<(i32, cuda::Matrix<'_>)>, MlxError> {
        let mut matrices = Vec::new();
        for (first, weight) in &self.matrices {
            matrices.push((*first, weight.read(cuda, packed, stream)?));
        }
        Ok(matrices)
    }
}

impl Weight {
    /// Several matrices, stored alike, as one.
    fn new(cuda: &Cuda, matrices: &[Table], order: RowOrder, stream: &Stream) -> Result<Self, MlxError> {
        let mut parts: [Vec<Array>; 3] = Default::default();
        let mut quantization = None;
        for matrix in matrices {
            match matrix {
                Table::Dense(weight) => parts[0].push(weight.clone()),
                Table::Quantized { weight, scales, biases, quantization: own } => {
                    quantization = Some(*own);
                    parts[0].push(weight.clone());
                    parts[1].push(scales.clone());
                    parts[2].extend(biases.clone());
                }
            }
        }
        let Some(quantization) = quantization else {
            let floats = concatenated(&parts[0], order, stream)?;
            let dense = cuda::Dense::new(ops::astype(&floats, cuda.activation(), stream)?)?;
            return Ok(Self { packed: None, dense: Some(dense) });
        };
        let [weight, scales] =
            [concatenated(&parts[0], order, stream)?, concatenated(&parts[1], order, stream)?];
        let biases = if parts[2].is_empty() { None } else { Some(concatenated(&parts[2], order, stream)?) };
        if !cuda.form.is_packed() {
            let table = Table::Quantized { weight, scales, biases, quantization };
            let dense = cuda::Dense::new(dense(&table, cuda.activation(), stream)?)?;
            return Ok(Self { packed: None, dense: Some(dense) });
        }
        let quantized = quantized_ref(&weight, &scales, biases.as_ref(), quantization);
        let packed = cuda.ops.pack(quantized, stream)?;
        let resident = cuda.policy == MatmulPolicy::Resident;
        let dense = if resident { Some(cuda.ops.dequantize(&packed, stream)?) } else { None };
        Ok(Self { packed: Some(packed), dense })
    }

    fn read(&self, cuda: &Cuda, packed: bool, stream: &Stream) -> Result<cuda::Matrix<'_>, MlxError> {
        match (&self.packed, &self.dense) {
            (Some(matrix), _) if packed => Ok(cuda::Matrix::Packed(matrix)),
            (_, Some(dense)) => Ok(cuda::Matrix::Dense(dense)),
            (Some(matrix), None) => cuda.ops.dequantized(matrix, stream),
            (None, None) => Err(MlxError::new("product", "the matrix has no form")),
        }
    }
}

/// The matrix in this type. It is dequantised in the type of its scales.
pub(super) fn dense(table: &Table, dtype: Dtype, stream: &Stream) -> Result<Array, MlxError> {
    match table {
        Table::Dense(weight) => ops::astype(weight, dtype, stream),
        Table::Quantized { weight, scales, biases, quantization } => {
            let from = scales.dtype().filter(|scales| scales.is_float()).unwrap_or(dtype);
            let quantized = quantized_ref(weight, scales, biases.as_ref(), *quantization);
            let floats = ops::dequantize(quantized, from, stream)?;
            ops::astype(&floats, dtype, stream)
        }
    }
}

/// A copy in the GPU's own memory. What comes from the host lies in memory that both see, whose pages move when the GPU
/// first touches them.
pub(super) fn on_gpu(array: &Array, stream: &Stream) -> Result<Array, MlxError> {
    let rows = array.shape().first().copied().unwrap_or(0);
    let halves =
        [ops::slice_axis(array, 0, 0, rows / 2, stream)?, ops::slice_axis(array, 0, rows / 2, rows, stream)?];
    ops::concatenate(&halves, 0, stream)
}

fn concatenated(parts: &[Array], order: RowOrder, stream: &Stream) -> Result<Array, MlxError> {
    match (parts, order) {
        ([only], _) => Ok(only.clone()),
        (_, RowOrder::Stacked) => ops::concatenate(parts, 0, stream),
        (_, RowOrder::ByEights) => {
            let mut eights = Vec::new();
            for part in parts {
                eights.push(ops::reshape(part, &[part.shape()[0] / 8, 1, -1], stream)?);
            }
            let rows = parts.iter().map(|part| part.shape()[0]).sum();
            ops::reshape(&ops::concatenate(&eights, 1, stream)?, &[rows, -1], stream)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_as_their_order_says() {
        let stream = Stream::cpu().unwrap();
        let rows = |first: i32| -> Array {
            let numbers: Vec<i32> = (0..32).map(|i| first + i / 2).collect();
            Array::from_slice(&numbers, &[16, 2]).unwrap()
        };
        let of = |order| {
            concatenated(&[rows(0), rows(100)], order, &stream).unwrap().to_vec::<i32>(&stream).unwrap()
        };
        let expected = |rows: [(i32, i32); 4]| -> Vec<i32> {
            rows.iter().flat_map(|&(from, to)| (from..to).flat_map(|row| [row, row])).collect()
        };
        assert_eq!(of(RowOrder::Stacked), expected([(0, 8), (8, 16), (100, 108), (108, 116)]));
        assert_eq!(of(RowOrder::ByEights), expected([(0, 8), (100, 108), (8, 16), (108, 116)]));
    }
}
