//! What the environment says. Every read makes cargo watch the variable.

use std::path::PathBuf;

/// The variable's value, `None` where unset or empty.
pub(crate) fn var(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The variable as an absolute path.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(var(name)?);
    Some(std::path::absolute(&path).unwrap_or(path))
}

/// Whether a switch is on: set, and neither empty nor `0`.
pub(crate) fn switch(name: &str) -> bool {
    var(name).is_some_and(|value| value != "0")
}

/// A variable that cargo always sets for build scripts.
pub(crate) fn cargo(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}

/// Whether the crate's feature is on.
pub(crate) fn feature(name: &str) -> bool {
    std::env::var_os(format!("CARGO_FEATURE_{}", name.to_uppercase().replace('-', "_"))).is_some()
}

/// The crate's own folder.
pub(crate) fn manifest_dir() -> PathBuf {
    PathBuf::from(cargo("CARGO_MANIFEST_DIR"))
}
