//! What a model gives for a text.

use std::sync::Arc;

/// A text's result, neither cut nor normalised.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Output {
    /// Numbers: one vector, or one row a token.
    Numbers(Arc<[f32]>),
    /// What is not 0 of a vector as wide as the vocabulary, by rising token ids.
    Weights(Arc<[(u32, f32)]>),
}

impl Output {
    /// Memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Numbers(numbers) => size_of_val(&**numbers),
            Self::Weights(weights) => size_of_val(&**weights),
        }
    }

    /// Its numbers.
    pub(crate) fn to_numbers(&self) -> Vec<f32> {
        match self {
            Self::Numbers(numbers) => numbers.to_vec(),
            Self::Weights(weights) => weights.iter().map(|&(_, weight)| weight).collect(),
        }
    }
}

impl From<Vec<f32>> for Output {
    fn from(numbers: Vec<f32>) -> Self {
        Self::Numbers(numbers.into())
    }
}
