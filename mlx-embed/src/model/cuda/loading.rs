//! Weights in the GPU's memory that are no matrices of layers.

use crate::checkpoint::spec::{NormKind, NormSpec, ProjectionSpec, TableSpec};
use crate::checkpoint::{CheckpointError, Weights};
use crate::mlx::cuda::Fixed;
use crate::mlx::{Array, MlxError};
use crate::model::backend::{Backend, Place, Role};

use super::Cuda;
use super::weight::{dense, on_gpu};

impl Cuda {
    /// Numbers in the GPU's memory.
    pub(super) fn numbers(&self, numbers: &[f32], shape: &[i32]) -> Result<Fixed, MlxError> {
        Fixed::new(on_gpu(&Array::from_slice(numbers, shape)?, &self.stream)?)
    }

    /// A table's rows in the type of activations, `[rows, D]`.
    pub(super) fn rows_of(&self, weights: &Weights<'_>, spec: &TableSpec) -> Result<Fixed, CheckpointError> {
        let table = weights.table(spec)?;
        let rows = dense(&self.arrays.matrix(&table, &self.stream)?, self.activation(), &self.stream);
        let fixed = rows.and_then(Fixed::new);
        self.arrays.release(&table);
        fixed.map_err(|source| self.arrays.error(&spec.path, source))
    }

    /// Of all parts, f32; a part without has zeros. Nothing where no part has one and none is asked for.
    pub(super) fn bias(
        &self,
        weights: &Weights<'_>,
        spec: &ProjectionSpec,
        place: Place,
    ) -> Result<Option<Fixed>, CheckpointError> {
        let asked = matches!(place.role, Role::Qkv | Role::SharpQkv) && self.form.geometry.bias;
        let mut numbers = Vec::new();
        let mut any = asked;
        for part in &spec.parts {
            let bias = weights.bias(part)?;
            any |= bias.is_some();
            numbers.extend(match bias {
                Some(bias) => bias.to_f32()?,
                None => vec![0.0; part.outputs()],
            });
        }
        if !any {
            return Ok(None);
        }
        let fixed = self.numbers(&numbers, &[numbers.len() as i32]);
        fixed.map(Some).map_err(|source| self.arrays.error(&spec.parts[0].path, source))
    }
}

/// What a norm multiplies with.
pub(super) fn norm_weight(weights: &Weights<'_>, spec: &NormSpec) -> Result<Vec<f32>, CheckpointError> {
    let weight = weights.norm_weight(spec)?.to_f32()?;
    Ok(match spec.kind {
        NormKind::Rms { offset } => weight.iter().map(|x| x + offset).collect(),
        NormKind::Layer => weight,
    })
}
