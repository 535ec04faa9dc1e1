//! Where the files of a checkpoint are, and what may be opened as one.

use std::borrow::Cow;
use std::io::Read;
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

    /// The contents of a file that has at most so many bytes.
    pub(crate) fn read(&self, name: impl AsRef<Path>, most: u64) -> io::Result<Cow<'static, [u8]>> {
        match self {
            Self::Directory(dir) => {
                let path = dir.join(name);
                require_regular(&path)?;
                let file = fs::File::open(path)?;
                let bytes = file.metadata()?.len();
                let mut contents = Vec::new();
                // The length says how much to expect, not how much there is: the file may grow.
                if bytes <= most
                    && file.take(most.saturating_add(1)).read_to_end(&mut contents)? as u64 <= most
                {
                    return Ok(Cow::Owned(contents));
                }
                let reason = format!("has {} bytes, but at most {most} are read", bytes.max(most));
                Err(io::Error::new(io::ErrorKind::InvalidData, reason))
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

/// Bytes of a safetensors header: some 80,000 tensors. The largest models have a few thousand in a file.
const HEADER_BYTES: u64 = 8 << 20;

/// Refuses a safetensors file whose header would take memory and time out of proportion to its tensors.
pub(crate) fn check_header(file: &[u8]) -> Result<(), String> {
    let bytes = file.first_chunk::<8>().map_or(0, |length| u64::from_le_bytes(*length));
    // One that is longer than its file is another mistake, told where the file is read.
    if bytes > HEADER_BYTES && bytes <= file.len() as u64 {
        return Err(format!("its header has {bytes} bytes, but at most {HEADER_BYTES} are read"));
    }
    Ok(())
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
