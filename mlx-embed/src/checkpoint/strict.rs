//! The weights against the model: no tensor is missing, and none is left over.

use super::doubt::Doubt;
use super::files::TensorFiles;
use super::parts::{self, Parts};
use super::quantization::QuantizationTable;
use super::{CheckpointError, ModelConfig, stored};
use crate::file::Files;
use crate::mlx::ops::QuantMode;

/// Takes away what embedding doesn't need, and says what of it nobody knows.
///
/// # Errors
/// When a tensor is missing.
pub(super) fn hold(
    weights: &mut TensorFiles,
    config: &ModelConfig,
    quantization: &QuantizationTable,
    place: &Files,
) -> Result<Vec<Doubt>, CheckpointError> {
    let parts = Parts::of(config);
    for name in parts.needed() {
        if !weights.tensors.contains_key(&name) {
            return Err(CheckpointError::MissingTensor { path: place.root().to_owned(), tensor: name });
        }
    }
    let mut used = parts.all();
    for path in &parts.matrices {
        // What contradicts itself here is an error of its own when the matrix is loaded.
        let Ok(quantization) = quantization.of(path, stored(weights, config, path).as_ref()) else {
            continue;
        };
        if quantization.is_none() {
            used.remove(&format!("{path}.scales"));
        }
        if quantization.is_none_or(|quantization| quantization.mode != QuantMode::Affine) {
            used.remove(&format!("{path}.biases"));
        }
    }
    let mut doubts = Vec::new();
    weights.tensors.retain(|name, entry| {
        if used.contains(name) {
            return true;
        }
        if !parts::is_known_to_be_left_out(name) {
            let path = weights.files[entry.file].path().to_owned();
            let looks_like = parts::looks_like(name, entry, config);
            doubts.push(Doubt::tensor(path, name.clone(), looks_like));
        }
        false
    });
    Ok(doubts)
}
