//! A file that takes its name once it is written.
//!
//! Until then it stands beside, as `NAME.partial`: whatever ends the program, `NAME` is what it was before or the new
//! file as a whole. The partial file is locked while it is written, so that two programs can't write one output.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// What is said where another program holds the lock.
const BUSY: &str = "another program is writing this file; wait for it, or name another";

/// Symbolic links to follow: as many as Linux does.
const MOST_LINKS: usize = 40;

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct NewFile {
    /// The name that it takes in the end.
    path: PathBuf,
    partial: PathBuf,
    file: File,
    len: u64,
    /// Whether the partial file holds something that may not be thrown away.
    kept: bool,
}

impl NewFile {
    /// Starts the file that `path` will name. A symbolic link stays, and what it points at is replaced.
    ///
    /// `refuse` says why an existing file must not be written; it is asked about both names.
    pub(crate) fn create(path: &Path, refuse: impl Fn(&fs::Metadata) -> Option<String>) -> io::Result<Self> {
        if path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let path = without_links(path)?;
        let refused =
            |metadata: &fs::Metadata| refuse(metadata).map_or(Ok(()), |why| Err(io::Error::other(why)));
        let old = match fs::metadata(&path) {
            Ok(old) if old.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(old) if !old.is_file() => {
                return Err(io::Error::other("not a regular file, which this format needs"));
            }
            Ok(old) => {
                refused(&old)?;
                // A file that may not be written is not replaced either.
                OpenOptions::new().write(true).open(&path)?;
                Some(old)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(".partial");
        let partial = path.with_file_name(name);
        // Its trouble is not that of the output's own name.
        let named = |error: io::Error| {
            let shown = partial.display();
            io::Error::new(error.kind(), format!("its partial file {shown}: {error}"))
        };
        let file = lock(&partial).map_err(named)?;
        refused(&file.metadata()?).map_err(named)?;
        if let Some(old) = old {
            // Only root may give files away; for others the new file is theirs.
            let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
            file.set_permissions(old.permissions())?;
        }
        file.set_len(0)?;
        Ok(Self { path, partial, file, len: 0, kept: false })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Where the file stands until it is published.
    pub(crate) fn partial(&self) -> &Path {
        &self.partial
    }

    /// The name that it will have, behind symbolic links.
    #[cfg(feature = "parquet")]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Writes over what stands at the start.
    pub(crate) fn overwrite(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, 0)
    }

    /// Drops what stands behind the first `len` bytes.
    pub(crate) fn cut(&mut self, len: u64) -> io::Result<()> {
        self.len = len;
        self.file.set_len(len)
    }

    /// From now on the partial file stays, also where it can't be published.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    /// Gives the file its name. It is on the disk before.
    pub(crate) fn publish(mut self) -> io::Result<()> {
        match self.file.sync_all() {
            // Some file systems have nothing to wait for.
            Err(error)
                if !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) =>
            {
                return Err(error);
            }
            _ => {}
        }
        fs::rename(&self.partial, &self.path)?;
        self.kept = true;
        Ok(())
    }
}

#[cfg(feature = "parquet")]
impl io::Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            // Still locked, so it is ours. There is nobody to tell where it can't be removed.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// The path behind symbolic links, also where nothing is there yet.
fn without_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// Opens and locks the file, and makes it if it isn't there.
fn lock(path: &Path) -> io::Result<File> {
    loop {
        // Neither a planted link is followed nor a pipe's other end waited for.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(flags.bits().cast_signed());
        let (file, made) = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match options.open(path) {
                // Its writer has just ended.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                    return Err(in_the_way());
                }
                opened => (opened?, false),
            },
            opened => (opened?, true),
        };
        // On a file system without locks, whoever made the file has it.
        if !try_lock(&file)? && !made {
            return Err(in_the_way());
        }
        let held = file.metadata()?;
        if !held.is_file() || held.nlink() > 1 {
            return Err(in_the_way());
        }
        if is_named(&file, path)? {
            return Ok(file);
        }
    }
}

pub(super) fn in_the_way() -> io::Error {
    io::Error::other("in the way; remove it")
}

/// Locks it, or fails where another program has. `false` on a file system without locks.
pub(super) fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(io::ErrorKind::ResourceBusy, BUSY)),
        Err(TryLockError::Error(_)) => Ok(false),
    }
}

/// Whether the path is this file's still: whoever held its lock before may have renamed or removed it.
pub(super) fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    Ok(fs::symlink_metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino())))
}
