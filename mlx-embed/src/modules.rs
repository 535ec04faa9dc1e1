//! What stands behind pooling: sentence-transformers' Dense, LayerNorm and Normalize and pplx-embed's rounding, in their
//! order.

use crate::checkpoint::spec::{ProjectionSpec, StepSpec};
use crate::checkpoint::{Checkpoint, CheckpointError, ModuleSpec, Weights};
use crate::{model, pooling};

/// The modules behind the pooled vector, with their weights in f32.
#[derive(Debug, Default)]
pub(crate) struct Modules(Vec<Module>);

#[derive(Debug)]
enum Module {
    /// `act(W x + b)`, and plus `x` where it has a residual connection.
    Dense {
        weight: Vec<f32>, // [out, in]
        bias: Option<Vec<f32>>,
        activation: Option<fn(f32) -> f32>,
        residual: Residual,
    },
    LayerNorm {
        weight: Vec<f32>,
        bias: Option<Vec<f32>>,
        eps: f64,
    },
    Normalize,
    TanhInt8,
}

/// What a Dense module adds of its input.
#[derive(Debug)]
enum Residual {
    None,
    /// The input.
    Input,
    /// Its product with a matrix, where the widths differ.
    Projected(Vec<f32>),
}

/// PyTorch's default, which sentence-transformers' LayerNorm keeps.
const EPS: f64 = 1e-5;

impl Modules {
    /// Reads the weights of what the checkpoint puts behind pooling.
    pub(crate) fn load(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let load = |spec: &ModuleSpec| match checkpoint.own_step(spec) {
            Some(step) => Module::of_weights(&Weights::new(checkpoint), &step),
            None => Module::of_folder(checkpoint, spec),
        };
        checkpoint.modules().iter().map(load).collect::<Result<_, _>>().map(Self)
    }

    /// What becomes of a pooled vector.
    pub(crate) fn apply(&self, mut vector: Vec<f32>) -> Vec<f32> {
        for module in &self.0 {
            match module {
                Module::Dense { weight, bias, activation, residual } => {
                    let mut out = product(weight, &vector);
                    if let Some(bias) = bias {
                        add(&mut out, bias);
                    }
                    if let Some(activation) = activation {
                        out.iter_mut().for_each(|x| *x = activation(*x));
                    }
                    match residual {
                        Residual::None => {}
                        Residual::Input => add(&mut out, &vector),
                        Residual::Projected(weight) => add(&mut out, &product(weight, &vector)),
                    }
                    vector = out;
                }
                Module::LayerNorm { weight, bias, eps } => {
                    layer_norm(&mut vector, weight, *eps);
                    if let Some(bias) = bias {
                        add(&mut vector, bias);
                    }
                }
                Module::Normalize => pooling::finish(&mut vector, None, true),
                // Halves to even, as PyTorch rounds.
                Module::TanhInt8 => vector.iter_mut().for_each(|x| *x = (127.0 * x.tanh()).round_ties_even()),
            }
        }
        vector
    }
}

impl Module {
    /// From the model's own weights.
    fn of_weights(weights: &Weights<'_>, step: &StepSpec) -> Result<Self, CheckpointError> {
        match step {
            StepSpec::Dense { projection: ProjectionSpec { parts, inputs }, activation } => {
                let (mut weight, mut bias) = (Vec::new(), Vec::new());
                for part in parts {
                    let matrix = weights.matrix(part, *inputs)?;
                    weight.extend(model::dequantized(&matrix, [part.outputs(), *inputs]));
                    bias.extend(weights.bias(part)?.map(|bias| bias.to_f32()).unwrap_or_default());
                }
                Ok(Self::Dense {
                    weight,
                    bias: (!bias.is_empty()).then_some(bias),
                    activation: activation.function(),
                    residual: Residual::None,
                })
            }
            StepSpec::Norm(norm) => Ok(Self::LayerNorm {
                weight: weights.norm_weight(norm)?.to_f32(),
                bias: weights.norm_bias(norm)?.map(|bias| bias.to_f32()),
                eps: norm.eps.into(),
            }),
        }
    }

    /// From the folder of a module of sentence-transformers.
    fn of_folder(checkpoint: &Checkpoint, spec: &ModuleSpec) -> Result<Self, CheckpointError> {
        match spec {
            ModuleSpec::Dense { at, bias, activation, residual, inputs, outputs } => {
                let file = checkpoint.module_file(at)?;
                let shape = [*outputs, *inputs];
                Ok(Self::Dense {
                    weight: file.tensor("linear.weight", &shape)?,
                    bias: bias.then(|| file.tensor("linear.bias", &[*outputs])).transpose()?,
                    activation: activation.function(),
                    residual: match (residual, inputs == outputs) {
                        (false, _) => Residual::None,
                        (true, true) => Residual::Input,
                        (true, false) => Residual::Projected(file.tensor("residual.weight", &shape)?),
                    },
                })
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
        }
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// A matrix `[out, in]` times a vector.
fn product(weight: &[f32], vector: &[f32]) -> Vec<f32> {
    weight.chunks_exact(vector.len()).map(|row| dot(row, vector)).collect()
}

/// Eight sums side by side, so that the compiler uses vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest
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
