//! Where the files of a checkpoint are, and what may be opened as one.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
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

    /// The contents of a file that has at most so many bytes.
    pub(crate) fn read(&self, name: impl AsRef<Path>, most: u64) -> io::Result<Cow<'static, [u8]>> {
        match self {
            Self::Directory(dir) => read_regular(&dir.join(name), most).map(Cow::Owned),
            Self::Embedded(embedded) => embedded.get(name.as_ref()).map(Cow::Borrowed),
        }
    }

    /// Whether there is such a file. One that can't be reached is an error: unreachable is not absent.
    pub(crate) fn holds(&self, name: &str) -> io::Result<bool> {
        let found = match self {
            Self::Directory(dir) => reach(&dir.join(name)).map(drop),
            Self::Embedded(embedded) => embedded.get(Path::new(name)).map(drop),
        };
        match found {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
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
    pub(crate) fn of(files: &Files, name: impl AsRef<Path>) -> io::Result<Self> {
        let path = files.path(&name);
        let contents = match files {
            Files::Directory(_) => {
                let (file, metadata) = open_regular(&path)?;
                Contents::File { length: metadata.len(), modified: metadata.modified().ok(), file }
            }
            Files::Embedded(embedded) => Contents::Embedded(embedded.get(name.as_ref())?),
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

/// The contents of a regular file that has at most so many bytes.
fn read_regular(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open_regular(path)?;
    let bytes = metadata.len();
    let mut contents = Vec::new();
    // The length says how much to expect, not how much there is: the file may grow.
    if bytes > most || file.take(most.saturating_add(1)).read_to_end(&mut contents)? as u64 > most {
        let reason = format!("has {} bytes, but at most {most} are read", bytes.max(most));
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    match Foreign::of(&contents) {
        Some(Foreign::LfsPointer) => {
            Err(io::Error::new(io::ErrorKind::InvalidData, Foreign::LfsPointer.to_string()))
        }
        _ => Ok(contents),
    }
}

/// The text of a small file, such as a name or a key.
#[cfg(feature = "hub")]
pub(crate) fn read_note(path: &Path) -> io::Result<String> {
    const MOST: u64 = 64 << 10;
    String::from_utf8(read_regular(path, MOST)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Opens a regular file. A pipe would wait for its other end, and a device may have no end at all: so the path is asked
/// before it is opened, and again what was opened, since another file may have taken the path between.
fn open_regular(path: &Path) -> io::Result<(fs::File, fs::Metadata)> {
    require_regular(&reach(path)?)?;
    let mut options = fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::NONBLOCK.bits().cast_signed(),
    );
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    require_regular(&metadata)?;
    Ok((file, metadata))
}

fn require_regular(found: &fs::Metadata) -> io::Result<()> {
    if found.is_file() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// What the system says of a file. It finds nothing behind a dangling link either, and an optional file that is linked
/// but not there is no file left out: half a download looks like that.
pub(crate) fn reach(path: &Path) -> io::Result<fs::Metadata> {
    fs::metadata(path).map_err(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            return error;
        }
        let dangling =
            path.ancestors().find(|part| fs::symlink_metadata(part).is_ok_and(|found| found.is_symlink()));
        match dangling {
            Some(link) if fs::metadata(link).is_err() => {
                let target = fs::read_link(link).unwrap_or_default();
                let reason = format!(
                    "{} is a link to {}, which is not there; fetch the checkpoint again or remove the link",
                    link.display(),
                    target.display()
                );
                io::Error::new(io::ErrorKind::InvalidInput, reason)
            }
            _ => error,
        }
    })
}

/// What files begin with that are often found in place of a checkpoint's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    LfsPointer,
    Gguf,
    Pickle,
    Zip,
    Hdf5,
    Html,
}

impl Foreign {
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let start = &bytes[..bytes.len().min(64)];
        let text = start.trim_ascii_start().to_ascii_lowercase();
        Some(match start {
            _ if start.starts_with(b"version https://git-lfs.") => Self::LfsPointer,
            _ if start.starts_with(b"GGUF") => Self::Gguf,
            _ if start.starts_with(b"\x80\x02") => Self::Pickle,
            _ if start.starts_with(b"PK\x03\x04") => Self::Zip,
            _ if start.starts_with(b"\x89HDF") => Self::Hdf5,
            _ if text.starts_with(b"<!doctype") || text.starts_with(b"<html") => Self::Html,
            _ => return None,
        })
    }
}

impl std::fmt::Display for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::LfsPointer => {
                "a Git LFS pointer stands in place of the file's contents; fetch them with `git lfs pull`"
            }
            Self::Gguf => "it is a GGUF file; pass a folder with the model's safetensors weights",
            Self::Pickle | Self::Zip => {
                "it is a PyTorch file (pickle); save the weights as safetensors: model.save_pretrained(dir)"
            }
            Self::Hdf5 => "it is an HDF5 file; pass the model's safetensors weights",
            Self::Html => "it is an HTML page, such as servers send in place of a file; fetch it again",
        })
    }
}

/// Part of a name for a file that nobody else writes. A process's number is not enough: the process's threads share it,
/// and so may programs in containers that share a folder.
pub(crate) fn unique() -> String {
    let random = RandomState::new().hash_one(SystemTime::now());
    format!("{}-{random:016x}", std::process::id())
}

/// Bytes in hexadecimal, as hashes are written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
