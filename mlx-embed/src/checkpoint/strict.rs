//! The weights against the model: no tensor is missing, and none is left over.

use std::collections::BTreeSet;

use super::doubt::Doubt;
use super::files::TensorFiles;
use super::parts;
use super::quantization::QuantizationTable;
use super::spec::ModelSpec;
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
    spec: &ModelSpec,
    quantization: &QuantizationTable,
    place: &Files,
) -> Result<Vec<Doubt>, CheckpointError> {
    let matrices: BTreeSet<&str> = spec.matrices().map(|(path, _)| path).collect();
    let mut used: BTreeSet<String> = spec.vectors().collect();
    used.extend(matrices.iter().map(|path| format!("{path}.weight")));
    for name in &used {
        if !weights.tensors.contains_key(name) {
            return Err(CheckpointError::MissingTensor {
                path: place.root().to_owned(),
                tensor: name.clone(),
            });
        }
    }
    for path in matrices {
        // What contradicts itself here is an error of its own when the matrix is loaded.
        let quantization = quantization.of(path, stored(weights, spec, path).as_ref());
        let [scales, biases] = match quantization {
            Ok(None) => [false; 2],
            Ok(Some(quantization)) => [true, quantization.mode == QuantMode::Affine],
            Err(_) => [true; 2],
        };
        used.extend(scales.then(|| format!("{path}.scales")));
        used.extend(biases.then(|| format!("{path}.biases")));
    }
    let mut doubts = Vec::new();
    weights.tensors.retain(|name, entry| {
        if used.contains(name) {
            return true;
        }
        if !parts::is_known_to_be_left_out(name, config.architecture) {
            let path = weights.files[entry.file].path().to_owned();
            let looks_like = parts::looks_like(name, entry, config);
            doubts.push(Doubt::tensor(path, name.clone(), looks_like));
        }
        false
    });
    Ok(doubts)
}
