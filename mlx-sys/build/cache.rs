//! Folders outside the target directory that hold what is fetched and built, named by what went into it.
//!
//! Two of them, since binaries refer to the libraries by their paths: a cache may be cleared at any time, programs may
//! not stop working for it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::{Result, digests, env};

/// What an entry looks like. Another layout has other names, so that versions of this crate share a folder.
const LAYOUT: &str = "files and SHA256SUMS";

/// What an entry is for, which says where it lies.
#[derive(Clone, Copy)]
pub(crate) enum For {
    /// Builds alone, on this machine.
    Build,
    /// Programs, which run on it as long as they are there, on the machine that is built for.
    Programs,
}

/// The folder of such entries, made if it isn't there. Nobody else can write to it.
pub(crate) fn root(of: For) -> Result<PathBuf> {
    let under = |name: &str, path: &str| env::path(name).map(|folder| folder.join(path));
    let root = match of {
        For::Build => None,
        For::Programs => env::path("MLX_SYS_LIBRARY_DIR"),
    };
    let by_default = || match (of, cfg!(target_os = "macos")) {
        (For::Build, true) => under("HOME", "Library/Caches/mlx-sys"),
        (For::Build, false) => under("XDG_CACHE_HOME", "mlx-sys").or_else(|| under("HOME", ".cache/mlx-sys")),
        (For::Programs, true) => under("HOME", "Library/Application Support/mlx-sys"),
        (For::Programs, false) => {
            under("XDG_DATA_HOME", "mlx-sys").or_else(|| under("HOME", ".local/share/mlx-sys"))
        }
    };
    let root = root
        .or_else(|| env::path("MLX_SYS_CACHE_DIR"))
        .or_else(by_default)
        .ok_or("no folder for what is fetched: set MLX_SYS_CACHE_DIR, or HOME")?;
    private_folder(&root)?;
    Ok(root)
}

/// Makes the folder if it isn't there, and fails where another user could put something into it: what lies in it is run
/// and linked.
pub(crate) fn private_folder(root: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|error| {
        format!(
            "can't make the folder {}: {error}\nset MLX_SYS_CACHE_DIR to one that you can write to",
            root.display()
        )
    })?;
    let failed = |path: &Path, error| format!("can't look at {}: {error}", path.display());
    let me = rustix::process::geteuid().as_raw();
    for part in fs::canonicalize(root).map_err(|error| failed(root, error))?.ancestors() {
        let about = fs::metadata(part).map_err(|error| failed(part, error))?;
        let sticky = about.mode() & 0o1000 != 0;
        if ![0, me].contains(&about.uid()) || (about.mode() & 0o022 != 0 && !sticky) {
            return Err(format!(
                "another user can write to {}, and what lies in {} is run and linked\n\
                 `chmod go-w` it if it is yours, or set MLX_SYS_CACHE_DIR to a folder that only you can write to",
                part.display(),
                root.display(),
            ));
        }
    }
    Ok(())
}

/// The entry `name`, filled by `fill` if it isn't there yet.
pub(crate) fn entry(of: For, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    entry_in(&root(of)?, name, fill)
}

/// The entry `name` of a folder.
///
/// `fill` works in a folder beside the entry, which takes the entry's name once it is complete. So an interrupted
/// build leaves no half entry, and of two builds at a time the first one to finish wins. Whoever made it, the entry is
/// used only if its files are those that its list of digests names.
pub(crate) fn entry_in(root: &Path, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let done = root.join(name);
    if !done.is_dir() {
        sweep(root);
        let partial = partial(root, name)?;
        let filled = fill(&partial).and_then(|()| digests::write(&partial)).and_then(|()| {
            match fs::rename(&partial, &done) {
                Err(error) if !done.is_dir() => Err(format!("can't make {}: {error}", done.display())),
                _ => Ok(()),
            }
        });
        // Gone after a rename; left over where filling failed or another build was first.
        let _ = fs::remove_dir_all(&partial);
        filled?;
    }
    digests::check(&done).map_err(|reason| {
        format!(
            "{} is not as the build made it: {reason}\n\
             Nothing of it is used. Remove the folder, and the next build makes it anew.",
            done.display()
        )
    })?;
    Ok(done)
}

/// A folder beside the entry that is this build's alone. Its process's number doesn't make it so: builds in containers
/// that share the folder may have the same.
fn partial(root: &Path, name: &str) -> Result<PathBuf> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    for number in now.. {
        let partial = root.join(format!("{name}.partial-{}-{number:x}", std::process::id()));
        match fs::create_dir(&partial) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(format!("can't make {}: {error}", partial.display())),
            Ok(()) => return Ok(partial),
        }
    }
    Err(format!("no name is left for a folder in {}", root.display()))
}

/// Has cargo run this build again if somebody takes the file away.
pub(crate) fn watch(file: &Path) {
    // A file younger than the build that names it counts as changed, and ours may just have been made.
    if root(For::Programs).is_ok_and(|root| file.starts_with(root)) {
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
pub(crate) struct Key(Sha256);

impl Key {
    pub(crate) fn new() -> Self {
        let mut key = Self(Sha256::new());
        key.add(LAYOUT);
        key
    }

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
        digests::hex(&self.0.finalize())[..16].to_owned()
    }
}
