//! A folder outside the target directory that holds what is fetched and built, named by what went into it.
//!
//! Binaries refer to the libraries in it, so it outlives `cargo clean`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::{Result, env};

/// The cache folder, made if it isn't there.
pub(crate) fn root() -> Result<PathBuf> {
    let under = |name: &str, path: &str| env::path(name).map(|folder| folder.join(path));
    let by_default = if env::cargo("CARGO_CFG_TARGET_OS") == "macos" {
        under("HOME", "Library/Caches/mlx-sys")
    } else {
        under("XDG_CACHE_HOME", "mlx-sys").or_else(|| under("HOME", ".cache/mlx-sys"))
    };
    let root = env::path("MLX_SYS_CACHE_DIR")
        .or(by_default)
        .ok_or("no cache folder: set MLX_SYS_CACHE_DIR, or HOME")?;
    fs::create_dir_all(&root).map_err(|error| {
        format!(
            "can't make the cache folder {}: {error}\nset MLX_SYS_CACHE_DIR to a folder you can write to",
            root.display()
        )
    })?;
    Ok(root)
}

/// The entry `name`, filled by `fill` if it isn't there yet.
///
/// `fill` works in a folder beside the entry, which takes the entry's name once it is complete. So an interrupted
/// build leaves no half entry, and of two builds at a time the first one to finish wins.
pub(crate) fn entry(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let root = root()?;
    let done = root.join(name);
    if done.is_dir() {
        return Ok(done);
    }
    sweep(&root);
    let partial = root.join(format!("{name}.partial-{}", std::process::id()));
    let filled = fs::create_dir_all(&partial)
        .map_err(|error| format!("can't make {}: {error}", partial.display()))
        .and_then(|()| fill(&partial))
        .and_then(|()| match fs::rename(&partial, &done) {
            Err(error) if !done.is_dir() => Err(format!("can't make {}: {error}", done.display())),
            _ => Ok(()),
        });
    // Gone after a rename; left over where filling failed or another build was first.
    let _ = fs::remove_dir_all(&partial);
    filled.map(|()| done)
}

/// Has cargo run this build again if somebody takes the file away.
pub(crate) fn watch(file: &Path) {
    // A file younger than the build that names it counts as changed, and ours may just have been made.
    if root().is_ok_and(|root| file.starts_with(root)) {
        let _ = fs::File::open(file).and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH));
    }
    println!("cargo::rerun-if-changed={}", file.display());
}

/// Removes what killed builds left behind: partial entries nobody has touched for a day.
fn sweep(root: &Path) {
    let day = Duration::from_secs(24 * 60 * 60);
    for file in fs::read_dir(root).into_iter().flatten().flatten() {
        let partial = file.file_name().to_string_lossy().contains(".partial-");
        let old = file
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > day));
        if partial && old {
            let _ = fs::remove_dir_all(file.path());
        }
    }
}

/// A short name for everything that was added to it.
#[derive(Default)]
pub(crate) struct Key(Sha256);

impl Key {
    pub(crate) fn add(&mut self, part: impl AsRef<[u8]>) {
        let part = part.as_ref();
        // With its length, so that two parts can't pass for one.
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    /// Adds a file's content, or those of all files below a folder with their names.
    pub(crate) fn add_path(&mut self, path: &Path) -> Result<()> {
        let failed = |error| format!("can't read {}: {error}", path.display());
        if path.is_dir() {
            let mut entries: Vec<_> =
                fs::read_dir(path).map_err(failed)?.flatten().map(|entry| entry.path()).collect();
            entries.sort();
            for entry in entries {
                self.add(entry.file_name().unwrap_or_default().as_encoded_bytes());
                self.add_path(&entry)?;
            }
        } else {
            self.add(fs::read(path).map_err(failed)?);
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> String {
        hex(&self.0.finalize())[..16].to_owned()
    }
}

/// The SHA-256 of some bytes in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
