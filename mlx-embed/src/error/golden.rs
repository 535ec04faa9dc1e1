//! Why a golden file can't be used: part of the crate's error, so it stands here and not with what reads such files.

use std::io;
use std::path::PathBuf;

/// The newest form of golden files that this crate reads, as `tools/golden/golden_file.py` and `tests/golden/families.py`
/// write them.
pub(crate) const VERSION: u64 = 2;

const MAKE: &str = "tools/golden/make.py makes one";

/// Why a golden file can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoldenError {
    /// It can't be read.
    #[error("{}: {source}; {MAKE}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        r#source: io::Error,
    },
    /// It is damaged or something else.
    #[error("{}: not a golden file: {reason}; {MAKE}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It has a form that this version of the crate doesn't read.
    #[error("{}: a golden file of version {found}, but this program reads versions up to {VERSION}; {MAKE}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// A tensor is missing, or has a shape or values that can't be.
    #[error("{}: tensor {tensor}: {reason}; {MAKE}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It was made with another model.
    #[error("{}: made for another model: {reason}; {MAKE} for this one", path.display())]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// How the models differ.
        reason: String,
    },
}
