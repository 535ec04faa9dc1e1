//! What texts that begin alike have in common.

use crate::mlx;
use crate::model::Backend;

/// Keys and values of tokens that many texts begin with, such as those of an instruction.
///
/// Belongs to the thread of the runner that made it, and on a GPU holds the GPU's memory.
#[derive(Debug)]
pub(crate) struct Prefix<B: Backend> {
    pub(super) ids: Vec<u32>,
    /// A layer each; none where there are too few tokens to reuse.
    pub(super) layers: Vec<B::KeysValues>,
    /// After the final norm, `[L, D]`, where pooling needs them.
    pub(super) hidden: Vec<f32>,
    /// Where MLX holds the memory, its device.
    pub(super) device: Option<mlx::Backend>,
}

impl<B: Backend> Prefix<B> {
    /// Number of tokens.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}

impl<B: Backend> Drop for Prefix<B> {
    fn drop(&mut self) {
        let _turn = self.device.and_then(mlx::Backend::turn);
        self.layers.clear();
    }
}
