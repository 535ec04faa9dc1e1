//! Where the files of a checkpoint are, and what may be opened as one.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
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

/// A file that stays open while what was read from it is in use. It is that file still when another one has taken its
/// path.
#[derive(Debug)]
pub(crate) struct OpenFile {
    path: PathBuf,
    contents: Contents,
}

#[derive(Debug)]
enum Contents {
    File {
        file: fs::File,
        length: u64,
        /// `None` where the file system keeps none.
        modified: Option<SystemTime>,
    },
    Embedded(&'static [u8]),
}

impl OpenFile {
    /// The file `name` of a checkpoint.
    pub(crate) fn of(files: &Files, name: &str) -> io::Result<Self> {
        let path = files.path(name);
        let contents = match files {
            Files::Directory(_) => {
                require_regular(&path)?;
                let file = fs::File::open(&path)?;
                let metadata = file.metadata()?;
                Contents::File { length: metadata.len(), modified: metadata.modified().ok(), file }
            }
            Files::Embedded(embedded) => Contents::Embedded(embedded.get(Path::new(name))?),
        };
        Ok(Self { path, contents })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The open file; its bytes, where it is part of this program.
    pub(crate) fn source(&self) -> Result<&fs::File, &'static [u8]> {
        match &self.contents {
            Contents::File { file, .. } => Ok(file),
            Contents::Embedded(bytes) => Err(bytes),
        }
    }

    /// Fails if the file was written to or cut since it was opened. A file that took its path by a rename is another one
    /// and changes nothing.
    pub(crate) fn check_unchanged(&self) -> io::Result<()> {
        let Contents::File { file, length, modified } = &self.contents else {
            return Ok(());
        };
        let metadata = file.metadata()?;
        let now = metadata.len();
        if now < *length {
            let reason = format!("the file shrank from {length} to {now} bytes while it was in use");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
        }
        if now != *length || metadata.modified().ok() != *modified {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the file was written to while it was in use (replace weights by renaming a new file to their name)",
            ));
        }
        Ok(())
    }

    /// The SHA-256 of what was opened, in hexadecimal.
    pub(crate) fn sha256(&self) -> io::Result<String> {
        let mut hasher = Sha256::new();
        match &self.contents {
            Contents::File { file, length, .. } => {
                self.check_unchanged()?;
                io::copy(&mut FromStart { file, at: 0, end: *length }, &mut hasher)?;
                self.check_unchanged()?;
            }
            Contents::Embedded(bytes) => hasher.update(bytes),
        }
        Ok(hex(&hasher.finalize()))
    }
}

/// Reads an open file with a position of its own, as several threads may at a time.
struct FromStart<'a> {
    file: &'a fs::File,
    at: u64,
    end: u64,
}

impl io::Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let buffer = &mut buffer[..wanted];
        #[cfg(unix)]
        let read = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.at)?;
        #[cfg(not(unix))]
        let read = std::os::windows::fs::FileExt::seek_read(self.file, buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
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
