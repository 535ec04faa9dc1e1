//! What a checkpoint says that this crate does not do.

use std::path::PathBuf;

use serde::Serialize;

use super::CheckpointError;

/// Something in a checkpoint that this crate leaves out, though it may change vectors. Loading fails, unless
/// [`LoadOptions::lenient`](crate::LoadOptions::lenient) is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Doubt {
    /// The file.
    pub file: PathBuf,
    /// The tensor or field that is left out.
    pub name: String,
    /// Why it may change vectors.
    pub reason: String,
    /// Whether it is a tensor; otherwise it is a field.
    pub tensor: bool,
}

impl Doubt {
    pub(super) fn tensor(file: PathBuf, name: String, looks_like: String) -> Self {
        Self { file, name, reason: looks_like, tensor: true }
    }

    pub(super) fn field(file: PathBuf, name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { file, name: name.into(), reason: reason.into(), tensor: false }
    }

    /// The first of several as the reason not to load.
    pub(crate) fn error(doubts: &[Self]) -> Option<CheckpointError> {
        let doubt = doubts.first()?;
        let (path, name, mut reason) = (doubt.file.clone(), doubt.name.clone(), doubt.reason.clone());
        if doubts.len() > 1 {
            reason.push_str(&format!(" (and {} more, which `inspect --lenient` lists)", doubts.len() - 1));
        }
        Some(if doubt.tensor {
            CheckpointError::UnknownTensor { path, tensor: name, looks_like: reason }
        } else {
            CheckpointError::UnknownField { path, field: name, reason }
        })
    }
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file, name, reason, tensor } = self;
        let file = file.display();
        if *tensor {
            write!(f, "{file}: tensor `{name}` was left out; it looks like {reason}")
        } else {
            write!(f, "{file}: `{name}` {reason}; it was left out")
        }
    }
}
