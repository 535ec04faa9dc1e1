//! What every layer adds to its scores, by how far the key is from the query.

use crate::checkpoint::spec::RelativeSpec;
use crate::checkpoint::{CheckpointError, Weights};
use crate::kernels::Distances;

use super::dequantized;

/// A number for each head and each distance that texts have.
#[derive(Debug)]
pub(crate) struct Relative {
    /// `[H, columns]`, as [`Distances`] has them.
    numbers: Vec<f32>,
    columns: usize,
    own: usize,
}

impl Relative {
    pub(super) fn load(weights: &Weights<'_>, spec: &RelativeSpec) -> Result<Self, CheckpointError> {
        let (columns, own) = Distances::columns_of(spec.longest);
        Ok(Self { numbers: Self::numbers(weights, spec, columns, own)?, columns, own })
    }

    /// `[H, columns]`, where a query's own position has the column `own`.
    pub(super) fn numbers(
        weights: &Weights<'_>,
        spec: &RelativeSpec,
        columns: usize,
        own: usize,
    ) -> Result<Vec<f32>, CheckpointError> {
        let heads = spec.table.width;
        let buckets = dequantized(weights.table(&spec.table)?, heads)?;
        let bucket = |column: usize| RelativeSpec::bucket(column.cast_signed() - own.cast_signed());
        let mut numbers = Vec::with_capacity(heads * columns);
        for head in 0..heads {
            numbers.extend((0..columns).map(|column| buckets[bucket(column) * heads + head]));
        }
        Ok(numbers)
    }

    /// As the kernels for the CPU take them.
    pub(super) fn distances(&self) -> Distances<'_> {
        Distances { numbers: &self.numbers, columns: self.columns, own: self.own }
    }

    /// What each head adds for this query and these keys, which the texts have: head after head.
    pub(super) fn rows(&self, query: usize, keys: usize) -> impl Iterator<Item = &[f32]> {
        self.numbers.chunks_exact(self.columns).map(move |row| &row[self.own - query..][..keys])
    }
}
