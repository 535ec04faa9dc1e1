//! What stands behind pooling: sentence-transformers' Dense, LayerNorm and Normalize and pplx-embed's rounding, in their
//! order.

use std::path::Path;

use crate::checkpoint::spec::{ProjectionSpec, StepSpec};
use crate::checkpoint::{Checkpoint, ModuleSpec, Weights};
use crate::error::Error;
use crate::mlx::MlxError;
use crate::model::{self, Backend};
use crate::pooling;

/// The modules behind the pooled vector, with their weights in f32. `B` multiplies with matrices.
#[derive(Debug)]
pub(crate) struct Modules<B: Backend> {
    /// Of the pooled vector.
    width: usize,
    modules: Vec<Module<B::Matrix>>,
}

#[derive(Debug)]
enum Module<M> {
    /// `act(W x + b)`, and plus `x` where it has a residual connection.
    Dense {
        weight: M,
        bias: Option<Vec<f32>>,
        activation: Option<fn(f32) -> f32>,
        residual: Residual<M>,
    },
    LayerNorm {
        weight: Vec<f32>,
        bias: Option<Vec<f32>>,
        eps: f64,
    },
    Normalize,
    Truncate(usize),
    TanhInt8,
}

/// What a Dense module adds of its input.
#[derive(Debug)]
enum Residual<M> {
    None,
    /// The input.
    Input,
    /// Its product with a matrix, where the widths differ.
    Projected(M),
}

/// PyTorch's default, which sentence-transformers' LayerNorm keeps.
const EPS: f64 = 1e-5;

impl<B: Backend> Modules<B> {
    /// Reads the weights of what the checkpoint puts behind pooled vectors of `width` numbers.
    pub(crate) fn load(checkpoint: &Checkpoint, backend: &B, width: usize) -> Result<Self, Error> {
        let load = |spec: &ModuleSpec| match checkpoint.own_step(spec) {
            Some(step) => Module::of_weights(&Weights::new(checkpoint), &step, backend),
            None => Module::of_folder(checkpoint, spec, backend),
        };
        Ok(Self { width, modules: checkpoint.modules().iter().map(load).collect::<Result<_, _>>()? })
    }

    /// What becomes of pooled vectors, row after row. Their rows may have another width then.
    pub(crate) fn apply(&self, backend: &B, pooled: Vec<f32>) -> Result<Vec<f32>, MlxError> {
        let (mut rows, mut width) = (pooled, self.width);
        let number = rows.len() / width;
        for module in &self.modules {
            rows = module.apply(backend, rows, width)?;
            width = rows.len() / number.max(1);
        }
        Ok(rows)
    }
}

impl<M> Module<M> {
    fn apply<B: Backend<Matrix = M>>(
        &self,
        backend: &B,
        mut rows: Vec<f32>,
        width: usize,
    ) -> Result<Vec<f32>, MlxError> {
        match self {
            Self::Dense { weight, bias, activation, residual } => {
                let mut out = backend.product(&rows, weight)?;
                if let Some(bias) = bias {
                    out.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
                }
                if let Some(activation) = activation {
                    out.iter_mut().for_each(|x| *x = activation(*x));
                }
                match residual {
                    Residual::None => {}
                    Residual::Input => add(&mut out, &rows),
                    Residual::Projected(weight) => add(&mut out, &backend.product(&rows, weight)?),
                }
                return Ok(out);
            }
            Self::LayerNorm { weight, bias, eps } => {
                for row in rows.chunks_exact_mut(width) {
                    layer_norm(row, weight, *eps);
                    if let Some(bias) = bias {
                        add(row, bias);
                    }
                }
            }
            Self::Normalize => rows.chunks_exact_mut(width).for_each(pooling::normalize),
            Self::Truncate(size) => {
                return Ok(rows
                    .chunks_exact(width)
                    .flat_map(|row| &row[..width.min(*size)])
                    .copied()
                    .collect());
            }
            // Halves to even, as PyTorch rounds.
            Self::TanhInt8 => rows.iter_mut().for_each(|x| *x = (127.0 * x.tanh()).round_ties_even()),
        }
        Ok(rows)
    }

    /// From the model's own weights.
    fn of_weights(
        weights: &Weights<'_>,
        step: &StepSpec,
        backend: &impl Backend<Matrix = M>,
    ) -> Result<Self, Error> {
        match step {
            StepSpec::Dense { projection: ProjectionSpec { parts, inputs }, activation } => {
                let (mut weight, mut bias) = (Vec::new(), Vec::new());
                for part in parts {
                    weight.extend(model::dequantized(weights.matrix(part, *inputs)?, *inputs)?);
                    if let Some(part) = weights.bias(part)? {
                        bias.extend(part.to_f32()?);
                    }
                }
                let outputs = weight.len() / inputs;
                Ok(Self::Dense {
                    weight: backend.load_matrix(&weight, [outputs, *inputs])?,
                    bias: (!bias.is_empty()).then_some(bias),
                    activation: activation.function(),
                    residual: Residual::None,
                })
            }
            StepSpec::Norm(norm) => Ok(Self::LayerNorm {
                weight: weights.norm_weight(norm)?.to_f32()?,
                bias: weights.norm_bias(norm)?.map(|bias| bias.to_f32()).transpose()?,
                eps: norm.eps.into(),
            }),
        }
    }

    /// From the folder of a module of sentence-transformers.
    fn of_folder(
        checkpoint: &Checkpoint,
        spec: &ModuleSpec,
        backend: &impl Backend<Matrix = M>,
    ) -> Result<Self, Error> {
        match spec {
            ModuleSpec::Dense { at, bias, activation, residual, inputs, outputs } => {
                let file = checkpoint.module_file(at)?;
                let shape = [*outputs, *inputs];
                let matrix = |name: &str| -> Result<M, Error> {
                    Ok(backend.load_matrix(&file.tensor(name, &shape)?, shape)?)
                };
                let own = if ModuleSpec::is_file(Path::new(at)) { "" } else { "linear." };
                let weight = format!("{own}weight");
                let bias = bias.then(|| format!("{own}bias"));
                let projected = (*residual && inputs != outputs).then(|| "residual.weight".to_owned());
                let module = Self::Dense {
                    weight: matrix(&weight)?,
                    bias: bias.as_ref().map(|bias| file.tensor(bias, &[*outputs])).transpose()?,
                    activation: activation.function(),
                    residual: match &projected {
                        Some(weight) => Residual::Projected(matrix(weight)?),
                        None if *residual => Residual::Input,
                        None => Residual::None,
                    },
                };
                let used: Vec<String> = [Some(weight), bias, projected].into_iter().flatten().collect();
                file.check_all_used(&used)?;
                Ok(module)
            }
            ModuleSpec::LayerNorm { at, size } => {
                let file = checkpoint.module_file(at)?;
                Ok(Self::LayerNorm {
                    weight: file.tensor("norm.weight", &[*size])?,
                    bias: Some(file.tensor("norm.bias", &[*size])?),
                    eps: EPS,
                })
            }
            ModuleSpec::TanhInt8 => Ok(Self::TanhInt8),
            ModuleSpec::Normalize => Ok(Self::Normalize),
            ModuleSpec::Truncate { size } => Ok(Self::Truncate(*size)),
        }
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn layer_norm(vector: &mut [f32], weight: &[f32], eps: f64) {
    let count = vector.len() as f64;
    let mean = vector.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let variance = vector.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
    let factor = 1.0 / (variance + eps).sqrt();
    for (x, weight) in vector.iter_mut().zip(weight) {
        *x = ((f64::from(*x) - mean) * factor) as f32 * weight;
    }
}
