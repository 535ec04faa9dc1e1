//! Weight matrices, several in one, in the forms that products read.

use std::cell::Cell;

use crate::checkpoint::{CheckpointError, Groups, Matrix};
use crate::mlx::cuda::{self, Bits, Fixed, For, Format, Part};
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
    /// Where what follows the product leaves f16, the power of two that this is times.
    pub(super) shift: Cell<i32>,
}

/// A matrix `[out, in]`.
#[derive(Debug)]
enum Weight {
    /// Packed, and the same dequantised where that stays in memory.
    Packed(cuda::Packed, Option<Box<Self>>),
    Dense(cuda::Dense),
    /// For activations of f32.
    Halves(cuda::Halves),
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
        parts: &[Matrix],
        order: RowOrder,
        bias: Option<Fixed>,
    ) -> Result<Self, CheckpointError> {
        let (mut matrices, mut outputs) = (Vec::new(), 0);
        for alike in parts.chunk_by(|a, b| a.quantization() == b.quantization()) {
            let weight = Weight::new(cuda, alike, order)?;
            let first = outputs;
            outputs += alike.iter().map(|matrix| matrix.weight.shape()[0] as i32).sum::<i32>();
            matrices.push((first, weight));
        }
        if order == RowOrder::ByEights && matrices.len() != 1 {
            let why = MlxError::new("product", "gate and up are stored in different ways");
            return Err(cuda.error(parts[0].weight.name(), why));
        }
        Ok(Self { matrices, outputs, bias, shift: Cell::default() })
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
    fn new(cuda: &Cuda, matrices: &[Matrix], order: RowOrder) -> Result<Self, CheckpointError> {
        let first = &matrices[0];
        let failed = |source| cuda.error(first.weight.name(), source);
        let stream = &cuda.stream;
        let format = first.quantization().and_then(|q| Format::new(q.mode, q.bits, q.group_size));
        let wide = cuda.form.is_wide();
        if let Some(format) = format.filter(|_| matrices.iter().all(|matrix| cuda.form.keeps_packed(matrix)))
        {
            let packed = packed(cuda, matrices, format, order)?;
            let dense = match cuda.policy {
                MatmulPolicy::Resident if wide => {
                    cuda.ops.dequantize_to_halves(&packed, stream).map(Self::Halves).map(Some)
                }
                MatmulPolicy::Resident => cuda.ops.dequantize(&packed, stream).map(Self::Dense).map(Some),
                _ => Ok(None),
            };
            return Ok(Self::Packed(packed, dense.map_err(failed)?.map(Box::new)));
        }
        let is_dense = first.groups.is_none();
        let all = |dtype| is_dense && matrices.iter().all(|matrix| matrix.weight.dtype() == dtype);
        let stacked = order == RowOrder::Stacked || matrices.len() == 1;
        let kept = if wide { Dtype::F16 } else { Dtype::Bf16 };
        let [rows, inputs] = [0, 1].map(|i| first.weight.shape()[i] as i32);
        let others = matrices[1..].iter().map(|matrix| matrix.weight.shape()[0] as i32);
        let shape = [rows + others.sum::<i32>(), inputs];
        if all(kept) && stacked && inputs % 8 == 0 {
            let mut upload = cuda.ops.upload(For::Kernels, &shape, kept, stream).map_err(failed)?;
            for matrix in matrices {
                cuda.read_stored(&matrix.weight, &mut |bytes| upload.put(bytes))?;
            }
            let fixed = upload.fixed().map_err(failed)?;
            let weight = if wide {
                cuda::Halves::of_f16(fixed, 0).map(Self::Halves)
            } else {
                cuda::Dense::fixed(fixed).map(Self::Dense)
            };
            return weight.map_err(failed);
        }
        if wide && is_dense && stacked {
            let mut upload = cuda.ops.wide(shape, stream).map_err(failed)?;
            for matrix in matrices {
                cuda.read_f32(&matrix.weight, &mut |bytes| upload.put(bytes))?;
            }
            let short = all(Dtype::F16) || all(Dtype::Bf16);
            let bits = if short { Bits::Eleven } else { Bits::TwentyTwo };
            return upload.halves(bits, stream).map(Self::Halves).map_err(failed);
        }
        let mut parts = Vec::new();
        for matrix in matrices {
            parts.push(dense(&cuda.table(matrix)?, cuda.activation(), stream).map_err(failed)?);
        }
        let whole = concatenated(&parts, order, stream).map_err(failed)?;
        let weight = if wide {
            let bits = Bits::of(cuda.form.geometry.numbers);
            cuda.ops.halves(whole, bits, stream).map(Self::Halves)
        } else {
            cuda::Dense::new(whole).map(Self::Dense)
        };
        weight.map_err(failed)
    }

    fn read(&self, cuda: &Cuda, packed: bool, stream: &Stream) -> Result<cuda::Matrix<'_>, MlxError> {
        match self {
            Self::Packed(matrix, _) if packed => Ok(cuda::Matrix::Packed(matrix)),
            Self::Packed(_, Some(dense)) => dense.read(cuda, packed, stream),
            Self::Packed(matrix, None) => cuda.ops.dequantized(matrix, stream),
            Self::Dense(dense) => Ok(cuda::Matrix::Dense(dense)),
            Self::Halves(halves) => Ok(cuda::Matrix::Halves(halves)),
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

/// Several packed matrices as one.
fn packed(
    cuda: &Cuda,
    matrices: &[Matrix],
    format: Format,
    order: RowOrder,
) -> Result<cuda::Packed, CheckpointError> {
    let (first, stream) = (&matrices[0].weight, &cuda.stream);
    let failed = |source| cuda.error(first.name(), source);
    let outputs = matrices.iter().map(|matrix| matrix.weight.shape()[0] as i32).sum();
    let inputs = first.shape()[1] as i32 * 32 / format.bits();
    let mut stored = cuda.ops.stored(format, [outputs, inputs], stream).map_err(failed)?;
    for Matrix { weight, groups } in matrices {
        cuda.read_stored(weight, &mut |bytes| stored.put(Part::Weight, bytes))?;
        let Some(Groups { scales, biases, .. }) = groups else { continue };
        cuda.read_factors(scales, &mut |bytes| stored.put(Part::Scales, bytes))?;
        if let Some(biases) = biases {
            cuda.read_factors(biases, &mut |bytes| stored.put(Part::Biases, bytes))?;
        }
    }
    let alternate = order == RowOrder::ByEights && matrices.len() > 1;
    if alternate && (matrices.len() != 2 || matrices[1].weight.shape() != first.shape()) {
        return Err(failed(MlxError::new("product", "gate and up are not two matrices of one shape")));
    }
    stored.pack(alternate, stream).map_err(failed)
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
