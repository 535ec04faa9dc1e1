//! What a command reads, so that its output is none of it.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Folders below a model's own that are looked into: its files lie in the first two.
const DEPTH: usize = 4;

/// Files by device and inode, whatever they are called.
#[derive(Debug, Default)]
pub(crate) struct Sources(Vec<Source>);

#[derive(Debug)]
struct Source {
    file: (u64, u64),
    what: What,
}

#[derive(Debug)]
enum What {
    Input,
    Model(PathBuf),
}

impl Sources {
    /// The files of a model's directory; those that links point at as well.
    pub(crate) fn of_model(dir: Option<&Path>) -> Self {
        let mut sources = Self::default();
        if let Some(dir) = dir {
            sources.add_folder(dir, DEPTH);
        }
        sources
    }

    /// The file that texts are read from, if it is one.
    pub(crate) fn add_input(&mut self, input: &Metadata) {
        self.add(input, What::Input);
    }

    /// Why this file must not be written.
    pub(crate) fn refuse(&self, file: &Metadata) -> Option<String> {
        let same = |source: &&Source| file.is_file() && source.file == (file.dev(), file.ino());
        self.0.iter().find(same).map(|source| match &source.what {
            What::Input => "it would overwrite the input".to_owned(),
            What::Model(path) => {
                format!("it is a file of the model and would be overwritten ({})", path.display())
            }
        })
    }

    fn add(&mut self, file: &Metadata, what: What) {
        if file.is_file() {
            self.0.push(Source { file: (file.dev(), file.ino()), what });
        }
    }

    /// What can't be looked at can't be read as a model either.
    fn add_folder(&mut self, dir: &Path, depth: usize) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if depth > 0 {
                    self.add_folder(&path, depth - 1);
                }
            } else if let Ok(metadata) = fs::metadata(&path) {
                self.add(&metadata, What::Model(path));
            }
        }
    }
}
