//! The folder `OUTPUT.parts`: `job.json`, which says what is made there, and a file for each part.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use parquet::arrow::ArrowSchemaConverter;
use parquet::file::metadata::ParquetMetaDataReader;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::new_file::{NewFile, in_the_way, is_named, try_lock};
use super::batch::Layout;
use super::job::{FORM, Job};
use super::metadata::{MADE, value};

/// Says what is made in the folder.
const JOB: &str = "job.json";

/// What was made of some records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::output) struct Made {
    pub(in crate::output) rows: usize,
    /// Texts that were left out, as they can't be read or embedded.
    pub(in crate::output) skipped: usize,
    /// Texts that were cut.
    pub(in crate::output) truncated: usize,
}

impl Made {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.skipped += other.skipped;
        self.truncated += other.truncated;
    }
}

/// Parts in a folder, from the first to the last without a gap.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// The folder itself, locked: once the output has its name, the next job may begin before this one's parts are gone.
    _locked: File,
    parts: usize,
    made: Made,
}

impl Folder {
    /// Opens the folder of `output`, and makes it if it isn't there. Only the one writer of `output` may do that.
    pub(super) fn open(
        output: &Path,
        job: &Job,
        layout: &Layout,
        refuse: &impl Fn(&Metadata) -> Option<String>,
    ) -> io::Result<Self> {
        let mut name = output.as_os_str().to_owned();
        name.push(".parts");
        let path = PathBuf::from(name);
        let open = || {
            let mut folder =
                Self { path: path.clone(), _locked: locked(&path)?, parts: 0, made: Made::default() };
            folder.find(job, layout, refuse)?;
            Ok(folder)
        };
        open().map_err(|error: io::Error| {
            io::Error::new(error.kind(), format!("its folder {}: {error}", path.display()))
        })
    }

    fn find(
        &mut self,
        job: &Job,
        layout: &Layout,
        refuse: &impl Fn(&Metadata) -> Option<String>,
    ) -> io::Result<()> {
        if self.has_parts()? {
            self.check_job(job)?;
            while self.file(self.parts).exists() {
                let made = self.check_part(layout)?;
                self.add(made);
            }
            return Ok(());
        }
        // Nothing is lost if another job was to begin here.
        let mut file = NewFile::create(&self.path.join(JOB), refuse)?;
        file.append(&serde_json::to_vec_pretty(&job.facts)?)?;
        file.publish()
    }

    /// Whether there is a part, be it the first or not.
    fn has_parts(&self) -> io::Result<bool> {
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".parquet"));
            if number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Refuses to go on with what another job has begun.
    fn check_job(&self, job: &Job) -> io::Result<()> {
        let begun = fs::read(self.path.join(JOB))
            .and_then(|bytes| Ok(serde_json::from_slice::<Map<String, Value>>(&bytes)?))
            .map_err(|error| {
                self.refused(&format!("{JOB}, which says of what they are, can't be read ({error})"))
            })?;
        if !job.is_repeatable() {
            return Err(self.refused("the input of this job is not a named file, so it can't be continued"));
        }
        if begun.get(FORM) != job.facts.get(FORM) {
            return Err(self.refused(
                "another version of mlx-embed began it, and only that version can continue it: it identifies a model's files by another hash",
            ));
        }
        let keys = begun.keys().chain(job.facts.keys());
        let changed = keys.into_iter().find(|&key| begun.get(key) != job.facts.get(key));
        let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
        changed.map_or(Ok(()), |key| {
            Err(self.refused(&format!(
                "there `{key}` is {}, and now it is {}",
                shown(begun.get(key)),
                shown(job.facts.get(key))
            )))
        })
    }

    fn refused(&self, why: &str) -> io::Error {
        io::Error::other(format!(
            "parts of another job are there: {why}; run the command that began it to continue, choose another --output, or remove the folder to start again"
        ))
    }

    /// What was made of the records of the part behind those that are known.
    fn check_part(&self, layout: &Layout) -> io::Result<Made> {
        let path = self.file(self.parts);
        let damaged = |why: String| {
            io::Error::other(format!(
                "{} is damaged ({why}); remove it, and its rows are embedded again",
                path.display()
            ))
        };
        let metadata = ParquetMetaDataReader::new()
            .parse_and_finish(&File::open(&path)?)
            .map_err(|error| damaged(error.to_string()))?;
        let file = metadata.file_metadata();
        let expected = ArrowSchemaConverter::new().convert(&layout.schema())?;
        if file.schema() != expected.root_schema() {
            return Err(damaged("its columns are others".to_owned()));
        }
        let made = value(file.key_value_metadata(), MADE).ok_or_else(|| damaged(format!("no {MADE}")))?;
        let made: Made = serde_json::from_str(&made).map_err(|error| damaged(error.to_string()))?;
        if usize::try_from(file.num_rows()) != Ok(made.rows) {
            return Err(damaged(format!("{} rows of {}", file.num_rows(), made.rows)));
        }
        Ok(made)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many parts there are.
    pub(super) fn parts(&self) -> usize {
        self.parts
    }

    /// What was made of all their records.
    pub(super) fn made(&self) -> Made {
        self.made
    }

    pub(super) fn last_part(&self) -> Option<PathBuf> {
        Some(self.file(self.parts.checked_sub(1)?))
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        (0..self.parts).map(|part| self.file(part)).collect()
    }

    /// Where the next part goes.
    pub(super) fn next(&self) -> PathBuf {
        self.file(self.parts)
    }

    /// The next part is there.
    pub(super) fn add(&mut self, made: Made) {
        self.parts += 1;
        self.made.add(made);
    }

    /// Removes what was made there, and the folder unless somebody else's files are in it.
    pub(super) fn remove(self) {
        // There is nobody to tell. What stays is the beginning of this job, wherever it ends.
        let parts = self.files().into_iter().rev();
        for file in [self.partial()].into_iter().chain(parts).chain([self.path.join(JOB)]) {
            let _ = fs::remove_file(file);
        }
        let _ = fs::remove_dir(&self.path);
    }

    fn file(&self, part: usize) -> PathBuf {
        self.path.join(format!("{part:08}.parquet"))
    }

    /// What a killed job left of the part behind the last.
    fn partial(&self) -> PathBuf {
        self.path.join(format!("{:08}.parquet.partial", self.parts))
    }
}

/// Opens the folder and locks it, and makes it if it isn't there.
fn locked(path: &Path) -> io::Result<File> {
    loop {
        match fs::create_dir(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made?,
        }
        let opened = fs::symlink_metadata(path)
            .and_then(|named| if named.is_dir() { File::open(path) } else { Err(in_the_way()) });
        let folder = match opened {
            // The job before has just removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened?,
        };
        // Where a file system has no locks, that on the output has to do.
        try_lock(&folder)?;
        if is_named(&folder, path)? {
            return Ok(folder);
        }
    }
}
