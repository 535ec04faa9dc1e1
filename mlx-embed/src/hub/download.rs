//! One file at a time, from the hub into the cache: whole and right, or not at all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::header::CONTENT_RANGE;
use ureq::http::{Response, StatusCode};

use super::cache::{Repo, create_folder_of};
use super::http::{Attempts, Client, Expected};
use super::{Hub, HubError, ModelName, Progress};
use crate::file::hex;

/// Bytes that are read at once.
const PART: usize = 256 << 10;

/// The files of a commit that come one after the other.
pub(super) struct Pull<'a> {
    hub: &'a Hub,
    client: &'a Client<'a>,
    name: &'a ModelName,
    repo: &'a Repo,
    commit: &'a str,
    /// Bytes that are there, of all files that were asked for so far, and their sizes.
    done: u64,
    of: u64,
}

/// A file on its way.
struct Target {
    file: String,
    /// Model and file, for messages.
    at: String,
    url: String,
    expected: Expected,
    blob: PathBuf,
    /// What of it has come, under the blob's lock.
    part: PathBuf,
}

impl<'a> Pull<'a> {
    pub(super) fn new(
        hub: &'a Hub,
        client: &'a Client<'a>,
        name: &'a ModelName,
        repo: &'a Repo,
        commit: &'a str,
    ) -> Self {
        Self { hub, client, name, repo, commit, done: 0, of: 0 }
    }

    /// Sees to it that these files are there.
    pub(super) fn fetch(&mut self, files: &[String]) -> Result<(), HubError> {
        let folder = self.repo.snapshot(self.commit);
        let mut targets = Vec::new();
        // What there is to come is known before the first byte comes.
        for file in files.iter().filter(|file| !folder.join(file).exists()) {
            let target = self.target(file)?;
            // A hub may say any number.
            self.of = self.of.saturating_add(target.expected.bytes);
            targets.push(target);
        }
        for target in targets {
            self.blob(&target)?;
            let linked = self.repo.link(self.commit, &target.file, &target.expected.hash);
            linked.map_err(|source| target.disk(&folder.join(&target.file), source))?;
        }
        Ok(())
    }

    fn target(&self, file: &str) -> Result<Target, HubError> {
        let at = format!("{}: {file}", self.name);
        let url = self.client.url(self.name, self.commit, file);
        let expected = self.client.expected(&url, &at)?;
        let blob = self.repo.blob(&expected.hash);
        let part = self.repo.blob(&format!("{}.incomplete", expected.hash));
        Ok(Target { file: file.to_owned(), at, url, expected, blob, part })
    }

    /// Sees to it that the blob is there. Of two processes one fetches it.
    fn blob(&mut self, target: &Target) -> Result<(), HubError> {
        let _lock = self.lock(target)?;
        if target.blob.exists() {
            self.done += target.expected.bytes;
            return Ok(());
        }
        let before = self.done;
        let resumed = fs::metadata(&target.part).is_ok_and(|part| part.len() > 0);
        match self.part(target) {
            // What lay there from another time may have been wrong from the start.
            Err(HubError::WrongHash { .. }) if resumed => {
                self.done = before;
                self.part(target)?;
            }
            result => result?,
        }
        fs::rename(&target.part, &target.blob).map_err(|source| target.disk(&target.blob, source))
    }

    fn lock(&self, target: &Target) -> Result<File, HubError> {
        let path = self.repo.lock(&target.expected.hash);
        let locked = || {
            create_folder_of(&path)?;
            create_folder_of(&target.blob)?;
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    self.hub.tell(Progress::Waiting { file: &target.file });
                    file.lock()?;
                }
                Err(TryLockError::Error(error)) => return Err(error),
                Ok(()) => {}
            }
            Ok(file)
        };
        locked().map_err(|source| target.disk(&path, source))
    }

    /// Makes the partial file whole, and checks it.
    fn part(&mut self, target: &Target) -> Result<(), HubError> {
        let disk = |source| target.disk(&target.part, source);
        let mut part = Part::open(&target.part, &target.expected).map_err(disk)?;
        let start = self.done;
        let mut attempts = Attempts::new(self.hub);
        while part.bytes < target.expected.bytes {
            let before = part.bytes;
            let result = self.go_on(target, &mut part, start);
            if part.bytes > before {
                attempts.renew();
            }
            match result {
                Ok(()) if part.bytes == target.expected.bytes => {}
                Ok(()) => attempts.after(target.broken(&part, "the connection ended"))?,
                Err(error) => attempts.after(error)?,
            }
        }
        self.done = start + part.bytes;
        let found = part.hash.finish();
        if found == target.expected.hash {
            // Or a crash might leave a name without its bytes.
            return part.file.sync_all().map_err(disk);
        }
        fs::remove_file(&target.part).map_err(disk)?;
        Err(HubError::WrongHash { at: target.at.clone(), expected: target.expected.hash.clone(), found })
    }

    /// Takes what comes of one request.
    fn go_on(&mut self, target: &Target, part: &mut Part, start: u64) -> Result<(), HubError> {
        let disk = |source| target.disk(&target.part, source);
        let response = self.client.bytes(&target.url, &target.at, part.bytes)?;
        match first_byte(&response) {
            Some(first) if first == part.bytes => {}
            Some(0) => part.begin_anew(&target.expected).map_err(disk)?,
            _ => {
                let reason = format!("it was asked for bytes from {} on, and gives others", part.bytes);
                return Err(HubError::Answer { at: target.at.clone(), reason });
            }
        }
        let mut body = response.into_body().into_reader().take(target.expected.bytes - part.bytes);
        let mut buffer = vec![0; PART];
        loop {
            match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => part.add(&buffer[..read]).map_err(disk)?,
                Err(error) => return Err(target.broken(part, &error.to_string())),
            }
            let done = start + part.bytes;
            self.hub.tell(Progress::Fetching { file: &target.file, done, of: self.of });
        }
    }
}

impl Target {
    fn disk(&self, path: &Path, source: io::Error) -> HubError {
        HubError::Disk { at: self.at.clone(), path: path.to_owned(), source }
    }

    fn broken(&self, part: &Part, why: &str) -> HubError {
        let reason = format!("{why} after {} of {} bytes", part.bytes, self.expected.bytes);
        HubError::Connection { at: self.at.clone(), reason }
    }
}

/// Where in the file an answer's bytes begin: not every server can begin elsewhere than at the start.
fn first_byte(response: &Response<Body>) -> Option<u64> {
    match response.status() {
        StatusCode::OK => Some(0),
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
            range.trim_start().strip_prefix("bytes ")?.split('-').next()?.parse().ok()
        }
        _ => None,
    }
}

/// What of a file has come, from its start.
struct Part {
    file: File,
    hash: Hash,
    bytes: u64,
}

impl Part {
    /// What is there from another time, if anything.
    fn open(path: &Path, expected: &Expected) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let mut part = Self { file, hash: Hash::of(expected), bytes: 0 };
        if part.file.metadata()?.len() > expected.bytes {
            part.begin_anew(expected)?;
        }
        let mut buffer = vec![0; PART];
        loop {
            let read = part.file.read(&mut buffer)?;
            if read == 0 {
                return Ok(part);
            }
            part.hash.update(&buffer[..read]);
            part.bytes += read as u64;
        }
    }

    fn begin_anew(&mut self, expected: &Expected) -> io::Result<()> {
        self.file.set_len(0)?;
        (self.hash, self.bytes) = (Hash::of(expected), 0);
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// The hash that a hub gives: SHA-256 of large files, and what git calls others, by their length.
enum Hash {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hash {
    fn of(expected: &Expected) -> Self {
        if expected.hash.len() == 64 {
            return Self::Sha256(Sha256::new());
        }
        Self::Git(Sha1::new_with_prefix(format!("blob {}\0", expected.bytes)))
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    fn finish(&mut self) -> String {
        match self {
            Self::Sha256(hash) => hex(&hash.finalize_reset()),
            Self::Git(hash) => hex(&hash.finalize_reset()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_have_gits_hash() {
        // echo hello | git hash-object --stdin
        let hash = "ce013625030ba8dba906f756967f9e9ca394464a".to_owned();
        let mut found = Hash::of(&Expected { hash: hash.clone(), bytes: 6 });
        found.update(b"hello\n");
        assert_eq!(found.finish(), hash);
    }
}
