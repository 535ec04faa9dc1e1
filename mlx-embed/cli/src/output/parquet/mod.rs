//! Parquet: a row group at a time, each a part of its own until all are there.
//!
//! A Parquet file says what is in it at its end, so one that is half written is none. Row groups are whole files in a
//! folder `OUTPUT.parts` first, and are copied into the output as they are once the input ends. A job that is killed
//! leaves its parts; the same job continues after them and makes the same file.

mod batch;
mod folder;
mod job;
mod join;
mod metadata;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow_schema::Schema;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::new_file::NewFile;
use super::numbers::{Dtype, Numbers};
use crate::error::CliError;
use crate::row::Row;
use batch::{EMBEDDING, Layout};
use folder::Folder;

pub(super) use folder::Made;
pub(super) use job::{Job, Written};
pub(super) use metadata::ranges_in;

/// Says why a file must not be written.
type Refuse = Box<dyn Fn(&Metadata) -> Option<String>>;

/// Row groups on their way into a file.
pub(super) struct Parts {
    /// Locked from the beginning.
    output: NewFile,
    folder: Folder,
    job: Job,
    layout: Layout,
    numbers: Numbers,
    /// Of the part that is made now.
    rows: Vec<Row>,
    made: Made,
    refuse: Refuse,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Parts {
    /// Begins the file, or continues what `job` has left.
    pub(super) fn open(
        path: &Path,
        job: Job,
        mut numbers: Numbers,
        refuse: impl Fn(&Metadata) -> Option<String> + 'static,
    ) -> io::Result<Self> {
        let output = NewFile::create(path, &refuse)?;
        let layout = Layout::new(&job.columns, job.with_text, &numbers)?;
        let folder = Folder::open(output.path(), &job, &layout, &refuse)?;
        // The first may have had no vectors to take ranges from.
        let ranges = folder.last_part().map(|part| ranges_in(&File::open(part)?)).transpose()?;
        if let Some(ranges) = ranges.flatten() {
            numbers.set_ranges(serde_json::from_str(&ranges)?);
        }
        let (rows, made, refuse) = (Vec::new(), Made::default(), Box::new(refuse));
        Ok(Self { output, folder, job, layout, numbers, rows, made, refuse })
    }

    /// Parts that are there, and what was made of their records.
    pub(super) fn made(&self) -> (usize, Made) {
        (self.folder.parts(), self.folder.made())
    }

    /// Where the parts are.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Takes results, with those that are null among them.
    pub(super) fn write(&mut self, rows: Vec<Row>) {
        for mut row in rows {
            if !self.layout.with_text() {
                row.text = None;
            }
            let found = row.found.as_ref();
            self.made.truncated += usize::from(found.is_some_and(|found| found.truncated()));
            self.rows.push(row);
        }
    }

    /// After a window that left out `skipped` texts and reaches up to record `position`.
    pub(super) fn end_window(&mut self, position: usize, skipped: usize) -> io::Result<()> {
        self.made.skipped += skipped;
        let complete = position / self.job.records > self.folder.parts();
        if complete { self.write_part() } else { Ok(()) }
    }

    /// Whether the same job continues with the parts of one that failed.
    pub(super) fn is_repeatable(&self) -> bool {
        self.job.is_repeatable()
    }

    /// Fails if the input has changed since the job was begun.
    pub(super) fn check_input(&self) -> Result<(), CliError> {
        self.job.check_input()
    }

    /// Makes the file of its parts, and gives it its name. After an error there are as many results in parts that stay.
    pub(super) fn publish(mut self) -> Result<(), (io::Error, usize)> {
        if let Err(error) = self.join() {
            return Err((error, self.abandon()));
        }
        let rows = self.folder.made().rows;
        self.output.publish().map_err(|error| (error, rows))?;
        self.folder.remove();
        Ok(())
    }

    fn join(&mut self) -> io::Result<()> {
        if !self.rows.is_empty() || self.made != Made::default() {
            self.write_part()?;
        }
        self.note_ranges();
        join::join(&mut self.output, &self.layout.schema(), &self.job.metadata, &self.folder.files())
    }

    /// Ends a job that failed: rows of no whole part are lost. Results in parts that stay.
    pub(super) fn abandon(self) -> usize {
        let rows = self.folder.made().rows;
        if self.folder.parts() == 0 {
            self.folder.remove();
        }
        rows
    }

    fn write_part(&mut self) -> io::Result<()> {
        self.numbers.prepare(&self.rows);
        self.note_ranges();
        self.made.rows = self.rows.len();
        let batch = self.layout.batch(&self.rows, &self.numbers)?;
        let mut file = NewFile::create(&self.folder.next(), &self.refuse)?;
        let mut metadata = self.job.metadata.clone();
        metadata.insert(metadata::MADE.to_owned(), serde_json::to_string(&self.made)?);
        let properties = properties(&metadata, &self.layout.schema(), self.numbers.dtype(), self.job.records);
        let mut writer = ArrowWriter::try_new(&mut file, self.layout.schema(), Some(properties))?;
        writer.write(&batch)?;
        writer.close()?;
        file.publish()?;
        self.folder.add(std::mem::take(&mut self.made));
        self.rows.clear();
        Ok(())
    }

    /// Ranges that were found with the first part.
    fn note_ranges(&mut self) {
        if let Some(ranges) = self.numbers.known_ranges() {
            self.job.metadata.insert(metadata::RANGES.to_owned(), job::ranges(ranges));
        }
    }
}

/// How a file with one row group is written.
fn properties(
    metadata: &BTreeMap<String, String>,
    schema: &Arc<Schema>,
    dtype: Dtype,
    rows: usize,
) -> WriterProperties {
    let leaf = schema.fields().iter().find(|field| field.name() == EMBEDDING).map(|field| batch::leaf(field));
    let vectors = ColumnPath::new(leaf.unwrap_or_default());
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(rows))
        .set_key_value_metadata(Some(metadata::pairs(metadata)))
        // Numbers of vectors hardly come twice, but for bytes; and nobody asks for the least of them.
        .set_column_dictionary_enabled(vectors.clone(), dtype == Dtype::Int8)
        .set_column_statistics_enabled(vectors, EnabledStatistics::None)
        .build()
}
