//! The cache, as the hub's Python library lays it out:
//!
//! ```text
//! models--OWNER--NAME/blobs/HASH                 what files hold
//! models--OWNER--NAME/snapshots/COMMIT/FILE      links to blobs: a checkpoint's folder
//! models--OWNER--NAME/refs/REVISION              the commit that a branch or tag was when it was last asked for
//! .locks/models--OWNER--NAME/HASH.lock           held by whoever fetches that blob
//! ```

use std::collections::BTreeMap;
use std::fs::{self, ReadDir};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::name::is_commit;
use super::{HubError, ModelName};
use crate::file;

const PREFIX: &str = "models--";

/// A model's folder in the cache.
pub(super) struct Repo {
    folder: PathBuf,
    locks: PathBuf,
}

impl Repo {
    pub(super) fn of(cache: &Path, name: &ModelName) -> Self {
        let folder = format!("{PREFIX}{}", name.repository().replace('/', "--"));
        Self { folder: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, hash: &str) -> PathBuf {
        self.folder.join("blobs").join(hash)
    }

    pub(super) fn lock(&self, hash: &str) -> PathBuf {
        self.locks.join(format!("{hash}.lock"))
    }

    /// What a revision was when it was last asked for.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = file::read_note(&self.folder.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Remembers what a revision is. Only once all of its files are there.
    pub(super) fn set_commit(&self, name: &ModelName, commit: &str) -> Result<(), HubError> {
        if self.commit_of(name.revision()).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(name.revision());
        // Renamed, so that what is known of the revision stays where there is no room for more.
        let new = self.blob(&format!("{commit}-{}.incomplete", file::unique()));
        let written = create_folder_of(&path)
            .and_then(|()| create_folder_of(&new))
            .and_then(|()| fs::write(&new, commit))
            .and_then(|()| fs::rename(&new, &path));
        written.map_err(|source| HubError::Disk { at: name.to_string(), path, source })
    }

    /// Lets a commit's file be this blob.
    pub(super) fn link(&self, commit: &str, name: &str, hash: &str) -> io::Result<()> {
        let path = self.snapshot(commit).join(name);
        create_folder_of(&path)?;
        let up = "../".repeat(name.matches('/').count() + 2);
        // Renamed: whoever reads what another process has fetched finds the file at any moment.
        let new = self.blob(&format!("{hash}-{}.incomplete", file::unique()));
        link(&self.blob(hash), Path::new(&format!("{up}blobs/{hash}")), &new)?;
        fs::rename(&new, &path).inspect_err(|_| drop(fs::remove_file(&new)))
    }
}

#[cfg(unix)]
fn link(_: &Path, relative: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, path)
}

#[cfg(not(unix))]
fn link(blob: &Path, _: &Path, path: &Path) -> io::Result<()> {
    fs::copy(blob, path).map(drop)
}

pub(super) fn create_folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// A model in the cache, at one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CachedModel {
    /// The model's name, `owner/name`.
    pub repository: String,
    /// The commit's hash.
    pub commit: String,
    /// Branches and tags that pointed at this commit when they were last asked for.
    pub revisions: Vec<String>,
    /// Its folder, which can be loaded as a path; [`check`](crate::check) says whether it is a model that can.
    pub folder: PathBuf,
    /// Bytes of its files. A file that several commits share is counted for each of them, and stored once.
    pub bytes: u64,
}

/// The models of a cache, by name and commit.
pub(super) fn list(entries: ReadDir) -> io::Result<Vec<CachedModel>> {
    let mut models = Vec::new();
    for entry in entries {
        let folder = entry?.path();
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(repository) = name.strip_prefix(PREFIX).map(|name| name.replacen("--", "/", 1)) else {
            continue;
        };
        let mut revisions: BTreeMap<String, Vec<String>> = BTreeMap::new();
        files_below(&folder.join("refs"), &mut |name, path| {
            // What is no text is no revision, such as the files that file managers leave behind.
            let Ok(commit) = file::read_note(path) else { return Ok(()) };
            revisions.entry(commit.trim().to_owned()).or_default().push(name.to_owned());
            Ok(())
        })?;
        for snapshot in folders_in(&folder.join("snapshots"))? {
            let commit = snapshot.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut bytes = 0;
            files_below(&snapshot, &mut |_, path| {
                bytes += fs::metadata(path).map_or(0, |found| found.len());
                Ok(())
            })?;
            models.push(CachedModel {
                repository: repository.clone(),
                revisions: revisions.remove(&commit).unwrap_or_default(),
                commit,
                folder: snapshot,
                bytes,
            });
        }
    }
    models.sort_by(|a, b| (&a.repository, &a.commit).cmp(&(&b.repository, &b.commit)));
    Ok(models)
}

fn folders_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

/// Shows each file below a folder, with its path from there. Links to folders are none.
fn files_below(folder: &Path, see: &mut dyn FnMut(&str, &Path) -> io::Result<()>) -> io::Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        folders.extend(folders_in(&next)?);
        let entries = match fs::read_dir(&next) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if !entry.file_type()?.is_dir()
                && let Some(name) = path.strip_prefix(folder).ok().and_then(Path::to_str)
            {
                see(name, &path)?;
            }
        }
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_linked_again_is_there_at_any_moment() {
        let cache = tempfile::tempdir().unwrap();
        let repo = Repo::of(cache.path(), &"owner/name".parse().unwrap());
        let path = repo.snapshot("commit").join("1_Pooling/config.json");
        create_folder_of(&repo.blob("hash")).unwrap();
        fs::write(repo.blob("hash"), "what it holds").unwrap();
        let link = || repo.link("commit", "1_Pooling/config.json", "hash").unwrap();
        link();
        std::thread::scope(|scope| {
            let linking = scope.spawn(|| (0..2000).for_each(|_| link()));
            while !linking.is_finished() {
                assert_eq!(fs::read_to_string(&path).unwrap(), "what it holds");
            }
        });
        assert_eq!(fs::read_dir(repo.folder.join("blobs")).unwrap().count(), 1);
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_replaced() {
        let cache = tempfile::tempdir().unwrap();
        let repo = Repo::of(cache.path(), &"owner/name".parse().unwrap());
        let path = repo.snapshot("commit").join("config.json");
        for folder in [&repo.blob("hash"), &path] {
            create_folder_of(folder).unwrap();
        }
        fs::write(repo.blob("hash"), "{}").unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        repo.link("commit", "config.json", "hash").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}");
    }
}
