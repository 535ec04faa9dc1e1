//! Products of rows with the matrices that read them.

use crate::checkpoint::{CheckpointError, Weights};
use crate::kernels::{self, Engine, Order, Output, Packed, Part};
use crate::mlx::host::HostInput;
use crate::mlx::{Array, MlxError};
use crate::model::{Arithmetic, Rule, Texts};

use super::form::{Form, arrays};
use super::norm::{Norm, numbers};

/// Matrices that read the same rows, and the norm before them.
#[derive(Debug)]
pub(super) struct Project {
    norm: Option<Norm>,
    rule: Rule,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    parts: Vec<HostPart>,
    /// How many of a kernel's inputs are matrices of this that could not be packed.
    pub(super) arrays: usize,
}

#[derive(Debug)]
struct HostPart {
    weights: HostWeights,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
enum HostWeights {
    Packed(Packed),
    /// Expanded from so many of the kernel's inputs each time.
    Expanded {
        form: Form,
        arrays: usize,
        outputs: usize,
    },
}

/// What a projection is made of.
pub(super) struct ProjectSpec<'a> {
    /// Paths of the matrices and their heights.
    pub(super) matrices: &'a [(String, i32)],
    pub(super) inputs: i32,
    pub(super) norm: Option<Norm>,
    pub(super) order: Order,
    pub(super) rule: Rule,
}

/// A matrix as the checkpoint has it.
struct Loaded<'a> {
    path: &'a str,
    form: Form,
    arrays: Vec<Array>,
    bias: Option<Vec<f32>>,
    outputs: usize,
}

impl<'a> Loaded<'a> {
    fn read(
        weights: &Weights<'_>,
        path: &'a str,
        outputs: i32,
        inputs: i32,
    ) -> Result<Self, CheckpointError> {
        let (form, arrays) = arrays(weights.matrix(path, outputs, inputs)?);
        let bias = format!("{path}.bias");
        let bias = if weights.has(&bias) { Some(numbers(weights, &bias, outputs)?) } else { None };
        Ok(Self { path, form, arrays, bias, outputs: outputs as usize })
    }

    fn bias_or_zeros(&self) -> Vec<f32> {
        self.bias.clone().unwrap_or_else(|| vec![0.0; self.outputs])
    }
}

impl Project {
    /// Loads and packs it; returns it with the arrays of what could not be packed.
    pub(super) fn load(
        engine: &Engine,
        weights: &Weights<'_>,
        spec: ProjectSpec<'_>,
    ) -> Result<(Self, Vec<Array>), CheckpointError> {
        let ProjectSpec { matrices, inputs, norm, order, rule } = spec;
        let mut loaded = Vec::new();
        for (path, outputs) in matrices {
            loaded.push(Loaded::read(weights, path, *outputs, inputs)?);
        }
        let any_bias = loaded.iter().any(|matrix| matrix.bias.is_some());
        let pack = |loaded: &[Loaded<'_>], order| {
            let path = loaded[0].path;
            let sources: Result<Vec<_>, _> =
                loaded.iter().map(|matrix| matrix.form.source(&matrix.arrays)).collect();
            let sources = sources.map_err(|source| weights.tensor_error(path, source))?;
            Packed::pack(&sources, inputs as usize, order, engine.pool())
                .map_err(|source| weights.memory_error(path, source))
        };
        // Biases would have to be added before what follows SwiGLU's two halves.
        let together = if order == Order::Interleaved && any_bias { None } else { pack(&loaded, order)? };
        let mut parts = Vec::new();
        let mut kept = Vec::new();
        if let Some(packed) = together {
            let bias = any_bias.then(|| loaded.iter().flat_map(Loaded::bias_or_zeros).collect());
            parts.push(HostPart { weights: HostWeights::Packed(packed), bias });
        } else {
            // Matrices of several kinds stay apart.
            for matrix in loaded.chunks(1) {
                let packed = pack(matrix, Order::Stacked)?;
                let Loaded { form, arrays, bias, outputs, .. } = &matrix[0];
                let weights = match packed {
                    Some(packed) => HostWeights::Packed(packed),
                    None => {
                        kept.extend(arrays.iter().cloned());
                        HostWeights::Expanded { form: *form, arrays: arrays.len(), outputs: *outputs }
                    }
                };
                parts.push(HostPart { weights, bias: bias.clone() });
            }
        }
        drop(loaded);
        for (path, _) in matrices {
            weights.release(path);
        }
        let outputs = matrices.iter().map(|(_, outputs)| *outputs as usize).sum();
        let project = Self { norm, rule, inputs: inputs as usize, outputs, parts, arrays: kept.len() };
        Ok((project, kept))
    }

    /// What its products multiply, most of them if there are several kinds.
    pub(super) fn arithmetic(&self) -> Arithmetic {
        let packed = self.parts.iter().all(|part| matches!(part.weights, HostWeights::Packed(_)));
        match self.rule {
            _ if !packed => Arithmetic::F32,
            Rule::All => Arithmetic::Int16,
            Rule::Early | Rule::Late => Arithmetic::Int8,
        }
    }

    /// Products of rows `x`; `arrays` are those that [`Project::load`] returned.
    pub(super) fn run<'a>(
        &self,
        engine: &Engine,
        x: &[f32],
        texts: &Texts,
        mut arrays: &[HostInput<'_>],
        output: Output<'a>,
    ) -> Result<&'a mut [f32], MlxError> {
        let mut parts = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let weights = match &part.weights {
                HostWeights::Packed(packed) => kernels::Weights::Packed(packed),
                HostWeights::Expanded { form, arrays: count, outputs } => {
                    let (own, others) = arrays.split_at(*count);
                    arrays = others;
                    kernels::Weights::Expanded { source: form.source(own)?, outputs: *outputs }
                }
            };
            parts.push(Part { weights, bias: part.bias.as_deref() });
        }
        let norm = self.norm.as_ref().map(Norm::parts);
        let digits = texts.digits(self.rule, x.len() / self.inputs);
        Ok(engine.project(x, norm, self.inputs, digits, &parts, output))
    }
}
