//! A reader a family: `config.json` and the names of tensors to a [`ModelSpec`].

mod decoder;

use super::Checkpoint;
use super::spec::ModelSpec;

/// What the checkpoint's model is.
pub(super) fn spec(checkpoint: &Checkpoint) -> ModelSpec {
    decoder::spec(checkpoint.config())
}
