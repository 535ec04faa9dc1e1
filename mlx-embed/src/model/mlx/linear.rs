//! Products with matrices, dense and quantised, and rows of them.

use crate::checkpoint::Quantization;
use crate::mlx::ops::{self, QuantizedRef};
use crate::mlx::{Array, Backend, Dtype, MlxError, Stream};

/// Rows of `x` up to which MLX's CPU kernel, which works on the packed weights one row at a time, beats dequantising the
/// matrix once and calling BLAS. Measured by `cargo bench --bench matmul_policy`.
const CPU_PACKED_ROWS: i32 = 1;

/// A matrix, `[rows, columns]`.
#[derive(Debug)]
pub(crate) enum Table {
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

/// A quantised matrix's parts as MLX takes them.
pub(crate) fn quantized_ref<'a>(
    weight: &'a Array,
    scales: &'a Array,
    biases: Option<&'a Array>,
    quantization: Quantization,
) -> QuantizedRef<'a> {
    let Quantization { bits, group_size, mode } = quantization;
    QuantizedRef { weight, scales, biases, group_size, bits, mode }
}

/// `x @ weight.T + bias`.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(super) weight: Table,       // [out, in]
    pub(super) bias: Option<Array>, // [out]
}

impl Linear {
    /// # Shape
    /// `x` `[.., in]`, result `[.., out]`.
    pub(super) fn forward(&self, x: &Array, stream: &Stream) -> Result<Array, MlxError> {
        let product = match &self.weight {
            Table::Dense(weight) => matmul_transposed(x, weight, stream)?,
            Table::Quantized { weight, scales, biases, quantization } => {
                quantized(x, weight, scales, biases.as_ref(), *quantization, stream)?
            }
        };
        match &self.bias {
            Some(bias) => ops::add(&product, bias, stream),
            None => Ok(product),
        }
    }
}

fn quantized(
    x: &Array,
    weight: &Array,
    scales: &Array,
    biases: Option<&Array>,
    quantization: Quantization,
    stream: &Stream,
) -> Result<Array, MlxError> {
    let dtype = x.dtype().unwrap_or(Dtype::F32);
    let (scales, biases) = scales_in(dtype, scales, biases, stream)?;
    let parts = quantized_ref(weight, &scales, biases.as_ref(), quantization);
    let (rows, inputs) = rows_and_inputs(x);
    let dequantize = match stream.backend() {
        Backend::Cpu => rows > CPU_PACKED_ROWS,
        // For a matrix of one group MLX 0.32 picks a kernel for Hopper GPUs that returns garbage.
        Backend::Cuda => inputs <= quantization.group_size,
        Backend::Metal => false,
    };
    if dequantize {
        let dequantized = ops::dequantize(parts, dtype, stream)?;
        matmul_transposed(x, &dequantized, stream)
    } else {
        ops::quantized_matmul(x, parts, stream)
    }
}

/// Scales and biases in `dtype`, because affine groups are dequantised in the type of their scales. The scales of other
/// modes are exponents and stay as they are.
fn scales_in(
    dtype: Dtype,
    scales: &Array,
    biases: Option<&Array>,
    stream: &Stream,
) -> Result<(Array, Option<Array>), MlxError> {
    let converted = |array: &Array| match array.dtype() {
        Some(own) if own.is_float() && own != dtype => ops::astype(array, dtype, stream),
        _ => Ok(array.clone()),
    };
    Ok((converted(scales)?, biases.map(converted).transpose()?))
}

/// How many vectors `x` holds, over all its leading dimensions, and how long they are.
fn rows_and_inputs(x: &Array) -> (i32, i32) {
    match x.shape().split_last() {
        Some((&inputs, leading)) => (leading.iter().product(), inputs),
        None => (1, 1),
    }
}

fn matmul_transposed(x: &Array, weight: &Array, stream: &Stream) -> Result<Array, MlxError> {
    let weight = match x.dtype() {
        Some(dtype) if weight.dtype() != Some(dtype) => ops::astype(weight, dtype, stream)?,
        _ => weight.clone(),
    };
    let transposed = ops::transpose(&weight, &[1, 0], stream)?;
    ops::matmul(x, &transposed, stream)
}

/// Rows of a table. They are gathered first and dequantised after, so the table itself never is.
///
/// # Shape
/// `ids` `[B, L]`, result `[B, L, D]` in the activation's type.
pub(super) fn gather(
    table: &Table,
    activation: Dtype,
    ids: &Array,
    stream: &Stream,
) -> Result<Array, MlxError> {
    let gather = |table: &Array| ops::take(table, ids, 0, stream);
    match table {
        Table::Dense(table) => ops::astype(&gather(table)?, activation, stream),
        Table::Quantized { weight, scales, biases, quantization } => {
            let rows = gather(weight)?;
            let biases = biases.as_ref().map(gather).transpose()?;
            let (scales, biases) = scales_in(activation, &gather(scales)?, biases.as_ref(), stream)?;
            let parts = quantized_ref(&rows, &scales, biases.as_ref(), *quantization);
            ops::dequantize(parts, activation, stream)
        }
    }
}
