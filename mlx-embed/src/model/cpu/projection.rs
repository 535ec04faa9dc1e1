//! Products of rows with the matrices that read them.

use crate::checkpoint::spec::ProjectionSpec;
use crate::checkpoint::{CheckpointError, Matrix, Weights};
use crate::kernels::{self, Engine, Output, Packed, PackedOrder, Part};
use crate::model::backend::Role;

use super::weights::{Norm, Table, source};
use super::{Pass, Rule};

/// Matrices that read the same rows.
#[derive(Debug)]
pub(crate) struct Projection {
    rule: Rule,
    inputs: usize,
    pub(super) outputs: usize,
    parts: Vec<OwnPart>,
}

#[derive(Debug)]
struct OwnPart {
    weights: OwnWeights,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
enum OwnWeights {
    Packed(Packed),
    /// Dequantised each time.
    Stored {
        table: Box<Table>,
        outputs: usize,
    },
}

impl OwnPart {
    fn as_kernel(&self) -> Part<'_> {
        let weights = match &self.weights {
            OwnWeights::Packed(packed) => kernels::Weights::Packed(packed),
            OwnWeights::Stored { table, outputs } => {
                kernels::Weights::Stored { source: table.source(), outputs: *outputs }
            }
        };
        Part { weights, bias: self.bias.as_deref() }
    }
}

impl Projection {
    /// Loads the matrices, and packs those that can be.
    pub(super) fn load(
        engine: &Engine,
        weights: &Weights<'_>,
        spec: &ProjectionSpec,
        role: Role,
        rule: Rule,
    ) -> Result<Self, CheckpointError> {
        let order = if role == Role::GateUp { PackedOrder::Interleaved } else { PackedOrder::Stacked };
        let mut matrices = Vec::new();
        let mut biases = Vec::new();
        for part in &spec.parts {
            matrices.push(weights.matrix(part, spec.inputs)?);
            biases.push(weights.bias(part)?.map(|bias| bias.to_f32()));
        }
        let pack = |matrices: &[Matrix], order| {
            if rule == Rule::Whole {
                return Ok(None);
            }
            let sources: Vec<_> = matrices.iter().map(source).collect();
            Packed::pack(&sources, spec.inputs, order, engine.pool())
                .map_err(|error| weights.memory_error(&spec.parts[0].path, error))
        };
        let any_bias = biases.iter().any(Option::is_some);
        // Biases would have to be added before the two halves of what is gated are multiplied.
        let together =
            if order == PackedOrder::Interleaved && any_bias { None } else { pack(&matrices, order)? };
        let mut parts = Vec::new();
        if let Some(packed) = together {
            let bias = any_bias.then(|| {
                let of_part = |(bias, part): (&Option<Vec<f32>>, &crate::checkpoint::spec::PartSpec)| {
                    bias.clone().unwrap_or_else(|| vec![0.0; part.outputs()])
                };
                biases.iter().zip(&spec.parts).flat_map(of_part).collect()
            });
            matrices.iter().for_each(Matrix::release);
            parts.push(OwnPart { weights: OwnWeights::Packed(packed), bias });
        } else {
            // Matrices of several kinds stay apart.
            for ((matrix, bias), part) in matrices.into_iter().zip(biases).zip(&spec.parts) {
                let weights = match pack(std::slice::from_ref(&matrix), PackedOrder::Stacked)? {
                    Some(packed) => OwnWeights::Packed(packed),
                    None => OwnWeights::Stored {
                        table: Box::new(Table::new(matrix.clone())),
                        outputs: part.outputs(),
                    },
                };
                matrix.release();
                parts.push(OwnPart { weights, bias });
            }
        }
        Ok(Self { rule, inputs: spec.inputs, outputs: spec.outputs(), parts })
    }

    /// How many rows `x` has.
    pub(super) fn rows(&self, x: &[f32]) -> usize {
        x.len() / self.inputs
    }

    /// Products of rows `x`, or of their norm.
    pub(super) fn run(
        &self,
        engine: &Engine,
        x: &[f32],
        norm: Option<&Norm>,
        pass: &Pass,
        output: Output<'_>,
    ) {
        let parts: Vec<Part<'_>> = self.parts.iter().map(OwnPart::as_kernel).collect();
        let limbs = pass.limbs(self.rule, self.rows(x));
        let rms = norm.and_then(Norm::rms);
        match norm {
            // A norm that the product doesn't apply as it reads.
            Some(norm) if rms.is_none() => {
                let mut normed = engine.buffer(x.len());
                engine.norm(x, norm.as_kernel(), &mut normed);
                engine.project(&normed, None, self.inputs, limbs, &parts, output);
            }
            _ => engine.project(x, rms, self.inputs, limbs, &parts, output),
        }
    }

    /// Bits that its products multiply activations with, or `None` where that is f32.
    #[cfg(feature = "bench")]
    pub(crate) fn activation_bits(&self) -> Option<u32> {
        let packed = self.parts.iter().all(|part| matches!(part.weights, OwnWeights::Packed(_)));
        match self.rule {
            _ if !packed => None,
            Rule::Whole | Rule::All => Some(16),
            Rule::Early | Rule::Late => Some(8),
        }
    }
}
