//! What texts that begin alike have in common.

use crate::mlx::Backend;
use crate::model::KeysValues;

/// Keys and values of tokens that many texts begin with, such as those of an instruction.
///
/// Belongs to the thread of the runner that made it, and holds memory of MLX's, on a GPU the GPU's.
#[derive(Debug)]
pub(crate) struct Prefix {
    pub(super) ids: Vec<u32>,
    /// A layer each; none where there are too few tokens to reuse.
    pub(super) layers: Vec<KeysValues>,
    /// After the final norm, `[L, D]`, where pooling needs them.
    pub(super) hidden: Vec<f32>,
    pub(super) backend: Backend,
}

impl Prefix {
    /// Number of tokens.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Memory that it holds.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        let layers: usize = self.layers.iter().map(KeysValues::bytes).sum();
        layers + size_of_val(&self.hidden[..]) + size_of_val(&self.ids[..])
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        let _turn = self.backend.turn();
        self.layers.clear();
    }
}
