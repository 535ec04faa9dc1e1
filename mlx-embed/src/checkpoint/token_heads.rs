//! Heads of each token's state whose weights are in a file of their own beside the model: bge-m3's, which FlagEmbedding
//! reads. One makes a weight of each token, the other a vector.

use std::path::Path;

use super::modules::{ModuleFile, ModuleSpec};
use super::spec::ModelSpec;
use super::{CheckpointError, DenseActivation, Purpose, holds};
use crate::file::Files;

/// What the files' names end with, in the order in which they are looked for: the second is upstream's.
const FORMATS: [&str; 2] = ["safetensors", "pt"];

/// The head that a checkpoint has for this purpose beside its model.
pub(super) fn find(
    files: &Files,
    spec: &ModelSpec,
    purpose: Purpose,
) -> Result<Option<ModuleSpec>, CheckpointError> {
    let (stem, outputs, activation) = match purpose {
        Purpose::Sparse => ("sparse_linear", Some(1), DenseActivation::Relu),
        Purpose::TokenVectors => ("colbert_linear", None, DenseActivation::Identity),
        Purpose::Vectors | Purpose::Scores => return Ok(None),
    };
    for format in FORMATS {
        let name = format!("{stem}.{format}");
        if holds(files, &name)? {
            let file = ModuleFile::open(files, Path::new(&name))?;
            let outputs = match outputs {
                Some(outputs) => outputs,
                None => file.rows(WEIGHT)?,
            };
            file.check_shape(WEIGHT, &[outputs, spec.hidden])?;
            let (inputs, bias) = (spec.hidden, file.has(BIAS));
            return Ok(Some(ModuleSpec::Dense {
                at: name,
                inputs,
                outputs,
                bias,
                activation,
                residual: false,
            }));
        }
    }
    Ok(None)
}

const WEIGHT: &str = "weight";
const BIAS: &str = "bias";
