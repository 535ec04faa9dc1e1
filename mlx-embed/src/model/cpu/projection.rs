//! Products of rows with the matrices that read them.

use crate::checkpoint::spec::{PartSpec, ProjectionSpec};
use crate::checkpoint::{CheckpointError, Weights};
use crate::kernels::{self, Dense, Engine, Fit, Output, PackError, Packed, PackedOrder, Part, Pool};
use crate::model::backend::Role;
use crate::model::rounding::Rounding;

use super::weights::{Norm, Stored};
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
    Dense(Dense),
}

impl OwnWeights {
    /// Packs matrices as one, if they go together. Without `fit` no product is of integers.
    fn pack(
        matrices: &[Stored],
        inputs: usize,
        order: PackedOrder,
        fit: Option<Fit>,
        pool: &Pool,
    ) -> Result<Option<Self>, PackError<CheckpointError>> {
        if let Some(fit) = fit
            && let Some(packed) = Packed::pack(matrices, inputs, order, fit, pool)?
        {
            return Ok(Some(Self::Packed(packed)));
        }
        Ok(Dense::pack(matrices, inputs, order, pool)?.map(Self::Dense))
    }

    fn pack_one(
        matrix: &Stored,
        inputs: usize,
        fit: Option<Fit>,
        pool: &Pool,
    ) -> Result<Self, PackError<CheckpointError>> {
        if let Some(fit) = fit {
            let one = std::slice::from_ref(matrix);
            if let Some(packed) = Packed::pack(one, inputs, PackedOrder::Stacked, fit, pool)? {
                return Ok(Self::Packed(packed));
            }
        }
        Dense::pack_one(matrix, inputs, pool).map(Self::Dense)
    }
}

impl OwnPart {
    fn as_kernel(&self) -> Part<'_> {
        let weights = match &self.weights {
            OwnWeights::Packed(packed) => kernels::Weights::Packed(packed),
            OwnWeights::Dense(dense) => kernels::Weights::Dense(dense),
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
        fit: Option<Fit>,
    ) -> Result<Self, CheckpointError> {
        let order = if role == Role::GateUp { PackedOrder::Interleaved } else { PackedOrder::Stacked };
        let mut matrices = Vec::new();
        let mut biases = Vec::new();
        for part in &spec.parts {
            matrices.push(Stored(weights.matrix(part, spec.inputs)?));
            biases.push(weights.bias(part)?.map(|bias| bias.to_f32()).transpose()?);
        }
        let failed = |error| match error {
            PackError::Memory(error) => weights.memory_error(&spec.parts[0].path, error),
            PackError::Rows(error) => error,
        };
        let (inputs, pool) = (spec.inputs, engine.pool());
        let any_bias = biases.iter().any(Option::is_some);
        // Biases would have to be added before the two halves of what is gated are multiplied.
        let together = if order == PackedOrder::Interleaved && any_bias {
            None
        } else {
            OwnWeights::pack(&matrices, inputs, order, fit, pool).map_err(failed)?
        };
        let mut parts = Vec::new();
        if let Some(packed) = together {
            let bias = any_bias.then(|| {
                let of_part = |(bias, part): (&Option<Vec<f32>>, &PartSpec)| {
                    bias.clone().unwrap_or_else(|| vec![0.0; part.outputs()])
                };
                biases.iter().zip(&spec.parts).flat_map(of_part).collect()
            });
            parts.push(OwnPart { weights: packed, bias });
        } else {
            // Matrices of several kinds stay apart.
            for (matrix, bias) in matrices.iter().zip(biases) {
                let weights = OwnWeights::pack_one(matrix, inputs, fit, pool).map_err(failed)?;
                parts.push(OwnPart { weights, bias });
            }
        }
        Ok(Self { rule, inputs: spec.inputs, outputs: spec.outputs(), parts })
    }

    pub(super) fn rule(&self) -> Rule {
        self.rule
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

    /// What its products round.
    pub(super) fn rounding(&self) -> Rounding {
        let of_part = |part: &OwnPart| match &part.weights {
            OwnWeights::Packed(packed) => {
                let bits = packed.bits_of_rows(self.rule.bits());
                Rounding { activations: Some(bits), weights: packed.rounded_to(), ..Rounding::default() }
            }
            OwnWeights::Dense(_) => Rounding::default(),
        };
        self.parts.iter().map(of_part).fold(Rounding::default(), Rounding::with)
    }
}
