//! Products with weight matrices, dense and quantised, and the embedding table.

use crate::batch::Batch;
use crate::checkpoint::{CheckpointError, Matrix, ModelConfig, Quantization, Weights};
use crate::mlx::ops;
use crate::mlx::{Array, Backend, Dtype, MlxError, Stream};

use super::rope::Rope;
use super::{Hidden, Kernels, cuda, host};

/// Rows of `x` up to which MLX's CPU kernel, which works on the packed weights one row at a time, beats expanding the
/// matrix once and calling BLAS. Measured by `cargo bench --bench matmul_policy`.
const CPU_PACKED_ROWS: i32 = 1;

/// `x @ weight.T + bias`.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Matrix,      // [out, in]
    bias: Option<Array>, // [out]
}

impl Linear {
    /// Loads `path.weight` and, where the checkpoint has it, `path.bias`.
    pub(super) fn load(
        weights: &Weights<'_>,
        path: &str,
        inputs: i32,
        outputs: i32,
    ) -> Result<Self, CheckpointError> {
        let bias = format!("{path}.bias");
        Ok(Self {
            weight: weights.matrix(path, outputs, inputs)?,
            bias: if weights.has(&bias) { Some(weights.vector(&bias, outputs)?) } else { None },
        })
    }

    /// # Shape
    /// `x` `[.., in]`, result `[.., out]`.
    pub(super) fn forward(&self, x: &Array, stream: &Stream) -> Result<Array, MlxError> {
        let product = match &self.weight {
            Matrix::Dense(weight) => matmul_transposed(x, weight, stream)?,
            Matrix::Quantized { weight, scales, biases, quantization } => {
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
    let parts = Matrix::parts(weight, &scales, biases.as_ref(), quantization);
    let (rows, inputs) = rows_and_inputs(x);
    let expand = match stream.backend() {
        Backend::Cpu => rows > CPU_PACKED_ROWS,
        // For a matrix of one group MLX 0.32 picks a kernel for Hopper GPUs that returns garbage.
        Backend::Cuda => inputs <= quantization.group_size,
        Backend::Metal => false,
    };
    if expand {
        let expanded = ops::dequantize(parts, dtype, stream)?;
        matmul_transposed(x, &expanded, stream)
    } else {
        ops::quantized_matmul(x, parts, stream)
    }
}

/// Scales and biases in `dtype`, because affine groups are expanded in the type of their scales. The scales of other
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

/// The embedding table.
#[derive(Debug)]
pub(super) enum Embedding {
    /// On MLX's own operations: rows are gathered first and expanded after, so the table itself never is.
    Mlx { table: Matrix, activation: Dtype },
    /// On this crate's kernels for the CPU.
    Host(host::Embedding),
    /// On this crate's kernels for NVIDIA GPUs.
    Cuda(cuda::Embedding),
}

impl Embedding {
    pub(super) fn load(
        weights: &Weights<'_>,
        path: &str,
        config: &ModelConfig,
        kernels: &Kernels,
        stream: &Stream,
    ) -> Result<Self, CheckpointError> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        Ok(match kernels {
            Kernels::Mlx => {
                Self::Mlx { table: weights.matrix(path, vocab, hidden)?, activation: weights.activation() }
            }
            Kernels::Host(engine, _) => {
                Self::Host(host::Embedding::load(engine, weights, path, vocab, hidden)?)
            }
            Kernels::Cuda(cuda) => Self::Cuda(cuda::Embedding::load(cuda, weights, path, config, stream)?),
        })
    }

    /// The first hidden state of texts that continue `past` tokens, and what the kernels for NVIDIA GPUs go on with.
    pub(super) fn forward(
        &self,
        batch: &Batch,
        past: usize,
        rope: &Rope,
        stream: &Stream,
    ) -> Result<(Hidden, Option<cuda::Call>), MlxError> {
        let ids = || Array::from_slice(&batch.ids, &batch.shape);
        match self {
            Self::Mlx { table, activation } => {
                Ok((gather(table, *activation, &ids()?, stream)?.into(), None))
            }
            Self::Host(embedding) => Ok((embedding.forward(&ids()?, stream)?.into(), None)),
            Self::Cuda(embedding) => {
                let (x, ahead, call) = embedding.forward(&batch.ids, &batch.lengths, past, rope, stream)?;
                Ok(((x, ahead).into(), Some(call)))
            }
        }
    }
}

/// # Shape
/// `ids` `[B, L]`, result `[B, L, D]` in the activation's type.
fn gather(table: &Matrix, activation: Dtype, ids: &Array, stream: &Stream) -> Result<Array, MlxError> {
    let gather = |table: &Array| ops::take(table, ids, 0, stream);
    match table {
        Matrix::Dense(table) => ops::astype(&gather(table)?, activation, stream),
        Matrix::Quantized { weight, scales, biases, quantization } => {
            let rows = gather(weight)?;
            let biases = biases.as_ref().map(gather).transpose()?;
            let (scales, biases) = scales_in(activation, &gather(scales)?, biases.as_ref(), stream)?;
            let parts = Matrix::parts(&rows, &scales, biases.as_ref(), *quantization);
            ops::dequantize(parts, activation, stream)
        }
    }
}
