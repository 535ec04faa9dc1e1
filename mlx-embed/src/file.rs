//! Where the files of a checkpoint are, and what may be opened as one.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, SafeTensorError};
use sha2::{Digest, Sha256};

/// Where the files of a checkpoint are.
#[derive(Debug, Clone)]
pub(crate) enum Files {
    /// In a directory.
    Directory {
        dir: PathBuf,
        /// The folder of it that the model's own files are in, as in the first versions of sentence-transformers; empty where
        /// they are beside all others.
        model: PathBuf,
        /// The model itself, where the directory has an adapter of it.
        base: Option<Box<Self>>,
        /// The folder of an adapter that is to be put on the model.
        adapter: Option<PathBuf>,
    },
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

/// What stands beside the model's folder in any case.
const OF_ALL: [&str; 2] = ["modules.json", "config_sentence_transformers.json"];

/// What a tokenizer is made from where there is no `tokenizer.json`.
pub(crate) mod vocabularies {
    /// One token a line, by id.
    pub(crate) const WORDS: &str = "vocab.txt";
    /// Ids by token, and which two tokens make one.
    pub(crate) const TOKENS: &str = "vocab.json";
    pub(crate) const MERGES: &str = "merges.txt";
    /// Models of SentencePiece.
    pub(crate) const PIECES: &str = "sentencepiece.bpe.model";
    pub(crate) const PIECES_OF_T5: &str = "spiece.model";

    /// The files of each kind.
    pub(crate) const ALL: [&[&str]; 4] = [&[WORDS], &[TOKENS, MERGES], &[PIECES], &[PIECES_OF_T5]];
}

impl Files {
    /// Those of a directory with its model in it.
    pub(crate) fn of(dir: &Path) -> Self {
        Self::with_model(dir, PathBuf::new())
    }

    /// Those of a directory with its model in this folder of it.
    pub(crate) fn with_model(dir: &Path, model: PathBuf) -> Self {
        Self::Directory { dir: dir.to_owned(), model, base: None, adapter: None }
    }

    /// The same with an adapter to be put on the model, which is there or in `base`.
    pub(crate) fn adapting(mut self, base: Option<Self>, adapter: PathBuf) -> Self {
        if let Self::Directory { base: at, adapter: folder, .. } = &mut self {
            *at = base.map(Box::new);
            *folder = Some(adapter);
        }
        self
    }

    /// Where the model itself is: its config and its weights.
    pub(crate) fn base(&self) -> &Self {
        match self {
            Self::Directory { base: Some(base), .. } => base,
            _ => self,
        }
    }

    /// The folder of an adapter that is to be put on the model.
    pub(crate) fn adapter(&self) -> Option<&Path> {
        match self {
            Self::Directory { adapter, .. } => adapter.as_deref(),
            Self::Embedded(_) => None,
        }
    }

    /// Where a file is below the directory: the model's own are in its folder.
    fn place(&self, name: &Path) -> PathBuf {
        let own = name.components().count() == 1 && !OF_ALL.iter().any(|other| name == Path::new(other));
        match self {
            Self::Directory { model, .. } if own => model.join(name),
            _ => name.to_owned(),
        }
    }

    /// The folder of the model's own files below the directory, if it isn't the directory.
    pub(crate) fn model_folder(&self) -> &Path {
        match self {
            Self::Directory { model, .. } => model,
            Self::Embedded(_) => Path::new(""),
        }
    }

    /// The directory, or what stands for it in messages.
    pub(crate) fn root(&self) -> &Path {
        match self {
            Self::Directory { dir, .. } => dir,
            Self::Embedded(embedded) => Path::new(embedded.name),
        }
    }

    /// The file's path, for messages.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(self.place(name.as_ref()))
    }

    /// The contents of a file that has at most so many bytes.
    pub(crate) fn read(&self, name: impl AsRef<Path>, most: u64) -> io::Result<Cow<'static, [u8]>> {
        match self {
            Self::Directory { .. } => read_regular(&self.path(name), most).map(Cow::Owned),
            Self::Embedded(embedded) => embedded.get(name.as_ref()).map(Cow::Borrowed),
        }
    }

    /// The same, or `None` if there is no such file.
    pub(crate) fn read_if_there(
        &self,
        name: impl AsRef<Path>,
        most: u64,
    ) -> io::Result<Option<Cow<'static, [u8]>>> {
        if_there(self.read(name, most))
    }

    /// Whether there is such a file. One that can't be reached is an error: unreachable is not absent.
    pub(crate) fn holds(&self, name: &str) -> io::Result<bool> {
        let found = match self {
            Self::Directory { .. } => reach(&self.path(name)).map(drop),
            Self::Embedded(embedded) => embedded.get(Path::new(name)).map(drop),
        };
        Ok(if_there(found)?.is_some())
    }

    /// Names of the files beside `config.json`.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        match self {
            Self::Directory { dir, model, .. } => fs::read_dir(dir.join(model))?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect(),
            Self::Embedded(embedded) => Ok(embedded.files.iter().map(|&(name, _)| name.to_owned()).collect()),
        }
    }
}

/// `None` in place of the error that there is no such file.
pub(crate) fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
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
            Files::Directory { .. } => {
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

    /// Fills `buffer` with the bytes from `start` on. A file that was cut meanwhile is an error, where a mapping of it would
    /// raise a signal.
    pub(crate) fn read_at(&self, start: usize, buffer: &mut [u8]) -> io::Result<()> {
        match &self.contents {
            Contents::File { file, length, .. } => {
                let read = FromStart { file, at: start as u64, end: *length }.read_exact(buffer);
                read.map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => self.check_unchanged().err().unwrap_or(error),
                    _ => error,
                })
            }
            Contents::Embedded(bytes) => {
                let end = start.saturating_add(buffer.len());
                let bytes = bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(bytes);
                Ok(())
            }
        }
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

/// Bytes that are had a part at a time, such as those of a file that is not read as a whole.
pub(crate) trait Parts {
    /// How many there are.
    fn len(&self) -> usize;

    /// Those of a range.
    ///
    /// # Errors
    /// When they can't be read, or are not all there.
    fn part(&self, range: Range<usize>) -> io::Result<Cow<'_, [u8]>>;
}

impl Parts for [u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn part(&self, range: Range<usize>) -> io::Result<Cow<'_, [u8]>> {
        self.get(range).map(Cow::Borrowed).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Parts for OpenFile {
    fn len(&self) -> usize {
        match &self.contents {
            Contents::File { length, .. } => usize::try_from(*length).unwrap_or(usize::MAX),
            Contents::Embedded(bytes) => bytes.len(),
        }
    }

    fn part(&self, range: Range<usize>) -> io::Result<Cow<'_, [u8]>> {
        if range.start > range.end || range.end > self.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &self.contents {
            Contents::Embedded(bytes) => bytes.part(range),
            Contents::File { .. } => {
                let mut part = vec![0; range.len()];
                self.read_at(range.start, &mut part)?;
                Ok(Cow::Owned(part))
            }
        }
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

/// What stands before a safetensors file's tensors: eight bytes that say how long the header is, and the header. Of a file
/// that is shorter, or says of its header what no file can, the first of its bytes.
///
/// Refuses a header that would take memory and time out of proportion to its tensors.
pub(crate) fn safetensors_head(file: &(impl Parts + ?Sized)) -> io::Result<Cow<'_, [u8]>> {
    let first = file.part(0..file.len().min(size_of::<u64>()))?;
    let bytes = first.first_chunk::<8>().map_or(0, |length| u64::from_le_bytes(*length));
    // One that is longer than its file is another mistake, told where the header is parsed.
    if bytes > HEADER_BYTES && bytes <= file.len() as u64 {
        let reason = format!("its header has {bytes} bytes, but at most {HEADER_BYTES} are read");
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let end = first.len() + bytes.min(HEADER_BYTES) as usize;
    file.part(0..end.min(file.len()))
}

/// The header among a file's first bytes, as [`safetensors_head`] has them.
pub(crate) fn safetensors_header(head: &[u8]) -> Result<Metadata, SafeTensorError> {
    if let Some((length, header)) = head.split_first_chunk::<8>()
        && u64::from_le_bytes(*length) == header.len() as u64
        && let Ok(header) = serde_json::from_slice(header)
    {
        return Ok(header);
    }
    // Says what is wrong, and goes wrong itself where nothing is, since it looks for the tensors, too.
    Err(SafeTensors::read_metadata(head).err().unwrap_or(SafeTensorError::InvalidHeaderLength))
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
    /// Bytes at the start of a file that tell.
    pub(crate) const BYTES: usize = 64;

    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let start = &bytes[..bytes.len().min(Self::BYTES)];
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
