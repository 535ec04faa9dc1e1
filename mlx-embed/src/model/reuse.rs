//! Keys and values that are computed once for many texts: under causal attention a token's depend on nothing behind it.

use crate::mlx::{Array, MlxError, ops};

/// Keys and values of one layer, as its attention reads them.
#[derive(Debug)]
pub(crate) struct KeysValues {
    /// Rotated. `[1, K, L, E]`, or as [`Heads::keys_shape`](crate::kernels::Heads::keys_shape) says, or `[L, K * E]` with
    /// the kernels for NVIDIA GPUs.
    pub(super) keys: Array,
    /// As `keys`, or as [`Heads::values_shape`](crate::kernels::Heads::values_shape) says.
    pub(super) values: Array,
}

impl KeysValues {
    /// Computes what is still to be computed, after which nothing else of the graph is held.
    pub(crate) fn eval(layers: &[Self]) -> Result<(), MlxError> {
        ops::eval(layers.iter().flat_map(|layer| [&layer.keys, &layer.values]))
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.keys.nbytes() + self.values.nbytes()
    }
}

/// How the keys and values of one batch serve another.
#[derive(Debug)]
pub(crate) enum Reuse<'a> {
    /// They don't.
    Nothing,
    /// Each layer's are added here. The batch is one text, which longer ones begin with.
    Keep(&'a mut Vec<KeysValues>),
    /// All texts continue the first `tokens` tokens of these, and the batch holds what follows.
    Continue { layers: &'a [KeysValues], tokens: usize },
}

impl Reuse<'_> {
    /// Tokens before each text's own.
    pub(super) fn past(&self) -> usize {
        match self {
            Self::Nothing | Self::Keep(_) => 0,
            Self::Continue { tokens, .. } => *tokens,
        }
    }

    pub(super) fn layer(&mut self, index: usize) -> LayerReuse<'_> {
        match self {
            Self::Nothing => LayerReuse::Nothing,
            Self::Keep(layers) => LayerReuse::Keep(layers),
            Self::Continue { layers, .. } => LayerReuse::Continue(&layers[index]),
        }
    }
}

/// What a [`Reuse`] means for one layer.
#[derive(Debug)]
pub(super) enum LayerReuse<'a> {
    Nothing,
    Keep(&'a mut Vec<KeysValues>),
    Continue(&'a KeysValues),
}
