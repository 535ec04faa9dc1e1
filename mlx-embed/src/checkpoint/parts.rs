//! Which optional parts the layers have: config and family say it, and the weights have to agree.

use super::files::TensorFiles;
use super::{Architecture, ModelConfig};

/// Decides what the config leaves to the weights.
pub(super) fn settle(config: &mut ModelConfig, weights: &TensorFiles) {
    // Qwen2 as published has no head norms; a checkpoint with all of them means them.
    if config.architecture == Architecture::Qwen2 {
        let has = |layer: usize, name: &str| {
            weights.tensors.contains_key(&format!("layers.{layer}.self_attn.{name}.weight"))
        };
        config.head_norms = (0..config.layers).all(|layer| has(layer, "q_norm") && has(layer, "k_norm"));
    }
}
