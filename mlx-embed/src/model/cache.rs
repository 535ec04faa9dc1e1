//! Keys and values that are computed once for many texts: under causal attention a token's depend on nothing behind it.

/// How the keys and values of one batch serve another.
#[derive(Debug)]
pub(crate) enum KvCache<'a, K> {
    /// They don't.
    None,
    /// Each layer's are added here. The batch is one text, which longer ones begin with.
    Keep(&'a mut Vec<K>),
    /// All texts continue the first `tokens` tokens of these, and the batch holds what follows.
    Continue { layers: &'a [K], tokens: usize },
}

impl<K> KvCache<'_, K> {
    /// Tokens before each text's own.
    pub(super) fn cached(&self) -> usize {
        match self {
            Self::None | Self::Keep(_) => 0,
            Self::Continue { tokens, .. } => *tokens,
        }
    }

    pub(super) fn layer(&mut self, index: usize) -> LayerKvCache<'_, K> {
        match self {
            Self::None => LayerKvCache::None,
            Self::Keep(layers) => LayerKvCache::Keep(layers),
            Self::Continue { layers, .. } => LayerKvCache::Continue(&layers[index]),
        }
    }
}

/// What a [`KvCache`] means for one layer.
#[derive(Debug)]
pub(crate) enum LayerKvCache<'a, K> {
    None,
    Keep(&'a mut Vec<K>),
    Continue(&'a K),
}
