//! Weights as the kernels take them.

use half::{bf16, f16};

use crate::checkpoint::spec::{NormKind, NormSpec};
use crate::checkpoint::{CheckpointError, Groups, Matrix, Tensor, Weights};
use crate::kernels::{self, Floats, Scales, Source};
use crate::mlx::Dtype;
use crate::mlx::ops::QuantMode;

/// A norm's weights.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    kind: NormKind,
    eps: f32,
}

impl Norm {
    pub(super) fn load(weights: &Weights<'_>, spec: &NormSpec) -> Result<Self, CheckpointError> {
        let mut weight = weights.norm_weight(spec)?.to_f32();
        if let NormKind::Rms { offset } = spec.kind {
            weight.iter_mut().for_each(|x| *x += offset);
        }
        let bias = weights.norm_bias(spec)?.map(|bias| bias.to_f32());
        Ok(Self { weight, bias, kind: spec.kind, eps: spec.eps })
    }

    pub(super) fn as_kernel(&self) -> kernels::Norm<'_> {
        let Self { weight, bias, kind, eps } = self;
        match kind {
            NormKind::Rms { .. } => kernels::Norm::Rms { weight, eps: *eps },
            NormKind::Layer => kernels::Norm::Layer { weight, bias: bias.as_deref(), eps: *eps },
        }
    }

    /// Weight and epsilon of one by the root mean square, which a product can apply to what it reads.
    pub(super) fn rms(&self) -> Option<(&[f32], f32)> {
        matches!(self.kind, NormKind::Rms { .. }).then_some((&self.weight[..], self.eps))
    }
}

/// A matrix as the checkpoint has it. Its rows are dequantised as they are needed.
#[derive(Debug)]
pub(crate) struct Table(Matrix);

impl Table {
    pub(super) fn new(matrix: Matrix) -> Self {
        Self(matrix)
    }

    pub(super) fn source(&self) -> Source<'_> {
        source(&self.0)
    }
}

pub(super) fn source(matrix: &Matrix) -> Source<'_> {
    let Some(Groups { scales, biases, quantization }) = &matrix.groups else {
        return Source::Dense(floats(&matrix.weight));
    };
    let scales = match (quantization.mode, biases) {
        (QuantMode::Affine, Some(biases)) => {
            Scales::Affine { scales: floats(scales), biases: floats(biases) }
        }
        (QuantMode::Affine, None) => Scales::Affine { scales: floats(scales), biases: Floats::F32(&[]) },
        (QuantMode::Mxfp4, _) => Scales::Mxfp4(scales.numbers()),
        (QuantMode::Mxfp8, _) => Scales::Mxfp8(scales.numbers()),
        (QuantMode::Nvfp4, _) => Scales::Nvfp4(scales.numbers()),
    };
    Source::Quantized {
        words: matrix.weight.numbers(),
        bits: quantization.bits as usize,
        group_size: quantization.group_size as usize,
        scales,
    }
}

/// All numbers of a matrix `[rows, columns]`, dequantised.
pub(crate) fn dequantized(matrix: &Matrix, [rows, columns]: [usize; 2]) -> Vec<f32> {
    let mut all = vec![0.0; rows * columns];
    for (row, out) in all.chunks_exact_mut(columns).enumerate() {
        source(matrix).row(row, out);
    }
    all
}

fn floats(tensor: &Tensor) -> Floats<'_> {
    match tensor.dtype() {
        Dtype::F16 => Floats::F16(tensor.numbers::<f16>()),
        Dtype::Bf16 => Floats::Bf16(tensor.numbers::<bf16>()),
        _ => Floats::F32(tensor.numbers()),
    }
}
