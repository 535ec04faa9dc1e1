//! What may be opened as a file of a checkpoint.

use std::path::Path;
use std::{fs, io};

/// Fails unless `path` is a regular file. To be asked before opening: a pipe waits for its other end, and a device may
/// have no end at all.
pub(crate) fn require_regular(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.is_file() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}
