//! Where the files of a checkpoint are, and what may be opened as one.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::{fs, io};

use sha2::{Digest, Sha256};

/// Where the files of a checkpoint are.
#[derive(Debug, Clone)]
pub(crate) enum Files {
    /// In a directory.
    Directory(PathBuf),
    /// In this program.
    #[cfg_attr(
        not(feature = "default-model"),
        allow(dead_code, reason = "only the default model is embedded")
    )]
    Embedded(&'static EmbeddedFiles),
}

/// A checkpoint that is part of this program.
#[derive(Debug)]
pub(crate) struct EmbeddedFiles {
    /// What stands for the directory in messages.
    pub(crate) name: &'static str,
    /// Path below the directory, and contents.
    pub(crate) files: &'static [(&'static str, &'static [u8])],
}

impl EmbeddedFiles {
    /// The file's contents; the error is of the kind that a missing file gives.
    pub(crate) fn get(&self, name: &Path) -> io::Result<&'static [u8]> {
        let found = self.files.iter().find(|(file, _)| Path::new(file) == name);
        found.map(|&(_, contents)| contents).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Files {
    /// The directory, or what stands for it in messages.
    pub(crate) fn root(&self) -> &Path {
        match self {
            Self::Directory(dir) => dir,
            Self::Embedded(embedded) => Path::new(embedded.name),
        }
    }

    /// The file's path, for messages.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(name)
    }

    /// The file's contents.
    pub(crate) fn read(&self, name: impl AsRef<Path>) -> io::Result<Cow<'static, [u8]>> {
        match self {
            Self::Directory(dir) => {
                let path = dir.join(name);
                require_regular(&path)?;
                fs::read(path).map(Cow::Owned)
            }
            Self::Embedded(embedded) => embedded.get(name.as_ref()).map(Cow::Borrowed),
        }
    }

    /// The SHA-256 of a file, in hexadecimal.
    pub(crate) fn sha256(&self, name: &str) -> io::Result<String> {
        let mut hasher = Sha256::new();
        match self {
            Self::Directory(dir) => {
                let path = dir.join(name);
                require_regular(&path)?;
                io::copy(&mut fs::File::open(path)?, &mut hasher)?;
            }
            Self::Embedded(embedded) => hasher.update(embedded.get(Path::new(name))?),
        }
        Ok(hex(&hasher.finalize()))
    }

    pub(crate) fn holds(&self, name: &str) -> bool {
        match self {
            Self::Directory(dir) => dir.join(name).exists(),
            Self::Embedded(embedded) => embedded.get(Path::new(name)).is_ok(),
        }
    }

    /// Names of the files beside `config.json`.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        match self {
            Self::Directory(dir) => fs::read_dir(dir)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect(),
            Self::Embedded(embedded) => Ok(embedded.files.iter().map(|&(name, _)| name.to_owned()).collect()),
        }
    }
}

/// Fails unless `path` is a regular file. To be asked before opening: a pipe waits for its other end, and a device may
/// have no end at all.
pub(crate) fn require_regular(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.is_file() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// Bytes in hexadecimal, as hashes are written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
