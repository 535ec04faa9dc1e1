//! Weights as the kernels take them.

use std::ops::Range;

use half::{bf16, f16};

use crate::checkpoint::spec::{NormKind, NormSpec};
use crate::checkpoint::{CheckpointError, Groups, Matrix, Numbers, Weights};
use crate::kernels::{self, ByRows, Floats, RowBuffer, Scales, Source};
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
        let mut weight = weights.norm_weight(spec)?.to_f32()?;
        if let NormKind::Rms { offset } = spec.kind {
            weight.iter_mut().for_each(|x| *x += offset);
        }
        let bias = weights.norm_bias(spec)?.map(|bias| bias.to_f32()).transpose()?;
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

/// A matrix as the checkpoint has it. Its rows are read as they are needed.
#[derive(Debug)]
pub(crate) struct Stored(pub(super) Matrix);

impl ByRows for Stored {
    type Error = CheckpointError;

    fn count(&self) -> usize {
        self.0.weight.shape().first().copied().unwrap_or(0)
    }

    fn read<'a>(
        &'a self,
        rows: Range<usize>,
        buffer: &'a mut RowBuffer,
    ) -> Result<Source<'a>, CheckpointError> {
        let Matrix { weight, groups } = &self.0;
        let weight = weight.read(rows.clone(), &mut buffer.weight)?;
        let Some(Groups { scales, biases, quantization }) = groups else {
            return Ok(Source::Dense(floats(weight)));
        };
        let scales = scales.read(rows.clone(), &mut buffer.scales)?;
        let scales = match (quantization.mode, biases) {
            (QuantMode::Affine, Some(biases)) => Scales::Affine {
                scales: floats(scales),
                biases: floats(biases.read(rows, &mut buffer.biases)?),
            },
            (QuantMode::Affine, None) => Scales::Affine { scales: floats(scales), biases: Floats::F32(&[]) },
            (QuantMode::Mxfp4, _) => Scales::Mxfp4(scales.of()),
            (QuantMode::Mxfp8, _) => Scales::Mxfp8(scales.of()),
            (QuantMode::Nvfp4, _) => Scales::Nvfp4(scales.of()),
        };
        Ok(Source::Quantized {
            words: weight.of(),
            bits: quantization.bits as usize,
            group_size: quantization.group_size as usize,
            scales,
        })
    }
}

/// Rows that are read together.
const BAND: usize = 32;

/// All numbers of a matrix of so many columns, dequantised.
pub(crate) fn dequantized(matrix: Matrix, columns: usize) -> Result<Vec<f32>, CheckpointError> {
    let stored = Stored(matrix);
    let mut all = vec![0.0; stored.count() * columns];
    let mut buffer = RowBuffer::default();
    for (band, out) in all.chunks_mut(BAND * columns).enumerate() {
        let first = band * BAND;
        let source = stored.read(first..first + out.len() / columns, &mut buffer)?;
        out.chunks_exact_mut(columns).enumerate().for_each(|(row, out)| source.row(row, out));
    }
    Ok(all)
}

fn floats(numbers: Numbers<'_>) -> Floats<'_> {
    match numbers.dtype() {
        Dtype::F16 => Floats::F16(numbers.of::<f16>()),
        Dtype::Bf16 => Floats::Bf16(numbers.of::<bf16>()),
        Dtype::I8 => Floats::I8(numbers.of()),
        _ => Floats::F32(numbers.of()),
    }
}
