//! Keys and values that are computed once for many texts: under causal attention a token's depend on nothing behind it.

/// How the keys and values of one batch serve another.
#[derive(Debug)]
pub(crate) enum Cache<'a, K> {
    /// They don't.
    None,
    /// Each layer's are added here. The batch is one text, which longer ones begin with.
    Keep(&'a mut Vec<K>),
    /// All texts continue the first `tokens` tokens of these, and the batch holds what follows.
    Continue { layers: &'a [K], tokens: usize },
}

impl<K> Cache<'_, K> {
    /// Tokens before each text's own.
    pub(super) fn past(&self) -> usize {
        match self {
            Self::None | Self::Keep(_) => 0,
            Self::Continue { tokens, .. } => *tokens,
        }
    }

    pub(super) fn layer(&mut self, index: usize) -> LayerCache<'_, K> {
        match self {
            Self::None => LayerCache::None,
            Self::Keep(layers) => LayerCache::Keep(layers),
            Self::Continue { layers, .. } => LayerCache::Continue(&layers[index]),
        }
    }
}

/// What a [`Cache`] means for one layer.
#[derive(Debug)]
pub(crate) enum LayerCache<'a, K> {
    None,
    Keep(&'a mut Vec<K>),
    Continue(&'a K),
}
