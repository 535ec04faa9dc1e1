//! Which row of the embedding table each token has, and what it is multiplied with.

use std::borrow::Cow;

use crate::checkpoint::spec::EmbeddingSpec;
use crate::checkpoint::{CheckpointError, Weights};

/// Of each token id; `None` where a token's row has its number, or rows count as they are.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    rows: Option<Vec<u32>>,
    factors: Option<Vec<f32>>,
}

impl Lookup {
    pub(super) fn load(weights: &Weights<'_>, spec: &EmbeddingSpec) -> Result<Self, CheckpointError> {
        let Some(lookup) = &spec.lookup else { return Ok(Self::default()) };
        Ok(Self {
            rows: weights.rows_of_ids(lookup, spec.tokens.rows)?,
            factors: weights.factors_of_ids(lookup)?,
        })
    }

    /// The rows of tokens.
    pub(super) fn rows<'a>(&self, ids: &'a [u32]) -> Cow<'a, [u32]> {
        match &self.rows {
            Some(rows) => ids.iter().map(|&id| rows[id as usize]).collect(),
            None => Cow::Borrowed(ids),
        }
    }

    /// What their rows are multiplied with, if they are.
    pub(super) fn factors(&self, ids: &[u32]) -> Option<Vec<f32>> {
        self.factors.as_ref().map(|factors| ids.iter().map(|&id| factors[id as usize]).collect())
    }
}
