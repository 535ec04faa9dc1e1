//! Files of folders.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test's helper fails its test")]

use std::fs;
use std::path::{Path, PathBuf};

/// All files below a folder, in order of their names, or the one file that the path is.
pub fn below(path: impl AsRef<Path>) -> Vec<PathBuf> {
    let path = path.as_ref();
    // Follows links: golden cases share their tokenizer through one.
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries.into_iter().flat_map(below).collect()
}
