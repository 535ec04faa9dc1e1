//! Rows of a Parquet file, some hundred at a time: one column has the texts, others are kept as they are.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Compression;
use parquet::errors::ParquetError;

use super::records::{Record, Records};
use super::{Places, find_column};
use crate::error::CliError;
use crate::row::{Column, Holds, Kept};

/// Rows that are read at once.
const ROWS: usize = 512;

/// Rows of a file.
pub(super) struct Parquet {
    file: File,
    metadata: ArrowReaderMetadata,
    name: Arc<str>,
    field: Arc<str>,
    /// Of the columns that are read, where the text is and those that are kept.
    text: usize,
    keep: Vec<usize>,
    columns: Vec<Column>,
    /// The columns of the file that are read.
    roots: Vec<usize>,
    rows: usize,
    position: usize,
    /// None until a row is asked for.
    reader: Option<ParquetRecordBatchReader>,
    batch: Option<Batch>,
}

/// Rows that are read already.
struct Batch {
    texts: Texts,
    kept: Arc<RecordBatch>,
    next: usize,
}

impl fmt::Debug for Parquet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parquet")
            .field("name", &self.name)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Parquet {
    pub(super) fn new(file: File, name: String, field: &str, keep: &[String]) -> Result<Self, CliError> {
        let fail = |error: ParquetError| failed(&name, error.to_string());
        let metadata = ArrowReaderMetadata::load(&file, Default::default()).map_err(fail)?;
        let schema = metadata.schema();
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let text = find_text(&name, field, &names, schema)?;
        let find = |column: &String| find_column("keep", &name, column, &names);
        let keep_roots = keep.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let column = |&root: &usize| {
            let field = Arc::clone(&schema.fields()[root]);
            Column { name: names[root].clone(), holds: Holds::Arrow(field) }
        };
        let columns = keep_roots.iter().map(column).collect();
        let metadata = if keep_roots.contains(&text) {
            metadata
        } else {
            texts_as_views(&metadata, text).map_err(fail)?
        };
        let mut roots: Vec<usize> = keep_roots.iter().copied().chain([text]).collect();
        roots.sort_unstable();
        roots.dedup();
        check_compression(&metadata, &roots).map_err(|reason| failed(&name, reason))?;
        let place = |root: usize| roots.partition_point(|&each| each < root);
        let rows = metadata.metadata().file_metadata().num_rows();
        Ok(Self {
            file,
            metadata,
            field: field.into(),
            text: place(text),
            keep: keep_roots.into_iter().map(place).collect(),
            columns,
            roots,
            rows: usize::try_from(rows).unwrap_or_default(),
            position: 0,
            reader: None,
            batch: None,
            name: name.into(),
        })
    }

    /// Reads from the next row on.
    fn start(&self) -> Result<ParquetRecordBatchReader, String> {
        let copy = self.file.try_clone().map_err(|error| error.to_string())?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(copy, self.metadata.clone());
        let mask = ProjectionMask::roots(builder.parquet_schema(), self.roots.iter().copied());
        let builder = builder.with_projection(mask).with_batch_size(ROWS).with_offset(self.position);
        builder.build().map_err(|error| error.to_string())
    }

    /// The next rows; none where nothing follows.
    fn read_batch(&mut self) -> Result<Option<Batch>, String> {
        if self.reader.is_none() {
            self.reader = Some(self.start()?);
        }
        let Some(batch) = self.reader.as_mut().and_then(Iterator::next) else { return Ok(None) };
        let batch = batch.map_err(|error: ArrowError| error.to_string())?;
        let texts =
            Texts::of(batch.column(self.text)).ok_or("the column with the texts has changed its type")?;
        let kept = batch.project(&self.keep).map_err(|error| error.to_string())?;
        Ok(Some(Batch { texts, kept: Arc::new(kept), next: 0 }))
    }
}

impl Records for Parquet {
    fn next(&mut self) -> Result<Record, CliError> {
        loop {
            if let Some(batch) = &mut self.batch
                && batch.next < batch.texts.len()
            {
                let row = batch.next;
                (batch.next, self.position) = (row + 1, self.position + 1);
                let text = batch.texts.get(row).map(str::to_owned);
                let kept = Kept::Row(Arc::clone(&batch.kept), row);
                return Ok(Record::row(self.position - 1, text, kept));
            }
            let first = self.position + 1;
            match self.read_batch() {
                Ok(Some(batch)) => self.batch = Some(batch),
                Ok(None) => return Ok(Record::End),
                Err(error) => {
                    let reason = format!("row {first} and those that follow can't be read: {error}");
                    return Err(failed(&self.name, reason));
                }
            }
        }
    }

    fn position(&self) -> usize {
        self.position
    }

    fn skip_to(&mut self, position: usize) -> Result<(), CliError> {
        self.position = position.min(self.rows);
        (self.reader, self.batch) = (None, None);
        Ok(())
    }

    fn places(&self) -> Places {
        Places::Rows(Arc::clone(&self.name), Arc::clone(&self.field))
    }

    fn read(&self) -> u64 {
        self.position as u64
    }

    fn len(&self) -> Option<u64> {
        Some(self.rows as u64)
    }

    fn columns(&self) -> &[Column] {
        &self.columns
    }
}

/// The same file with the texts as views. A text that a dictionary has once is then there once, however many rows have
/// it, where strings would repeat it in each.
fn texts_as_views(metadata: &ArrowReaderMetadata, text: usize) -> Result<ArrowReaderMetadata, ParquetError> {
    let schema = metadata.schema();
    let view = |(at, field): (usize, &Arc<Field>)| match at == text {
        true => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        false => Arc::clone(field),
    };
    let fields: Vec<_> = schema.fields().iter().enumerate().map(view).collect();
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    let options = ArrowReaderOptions::new().with_schema(schema);
    ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options)
}

/// Refuses columns that are compressed by what this program doesn't read, before anything is computed.
fn check_compression(metadata: &ArrowReaderMetadata, roots: &[usize]) -> Result<(), String> {
    let file = metadata.metadata();
    let root = |leaf: usize| file.file_metadata().schema_descr().get_column_root_idx(leaf);
    let columns = file.row_groups().iter().flat_map(|group| group.columns().iter().enumerate());
    for (_, column) in columns.filter(|&(leaf, _)| roots.contains(&root(leaf))) {
        let by = match column.compression() {
            Compression::BROTLI(_) => "brotli",
            Compression::LZO => "lzo",
            _ => continue,
        };
        let name = column.column_path();
        return Err(format!(
            "the column {name} is compressed by {by}, which is not read here; write it with zstd"
        ));
    }
    Ok(())
}

fn failed(name: &str, reason: String) -> CliError {
    CliError::Read { name: name.to_owned(), source: io::Error::other(reason) }
}

/// Where the texts are.
fn find_text(table: &str, field: &str, names: &[String], schema: &SchemaRef) -> Result<usize, CliError> {
    let outer = field.split('.').next().unwrap_or_default();
    let nested = |name: &str| {
        Err(CliError::Usage(format!(
            "--field {field}: in {table} `{name}` is nested ({}), and texts are read from a column of strings; make one of it",
            names
                .iter()
                .position(|each| each == name)
                .map_or("?".to_owned(), |at| schema.field(at).data_type().to_string())
        )))
    };
    if !names.iter().any(|name| name == field) && outer != field && names.iter().any(|name| name == outer) {
        return nested(outer);
    }
    let text = find_column("field", table, field, names)?;
    match schema.field(text).data_type() {
        kind if is_text(kind) => Ok(text),
        kind if kind.is_nested() => nested(field),
        kind => Err(CliError::Usage(format!(
            "--field {field}: in {table} it is {kind}, and texts are strings; cast the column, or name another"
        ))),
    }
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// Strings of whatever type, by row.
struct Texts {
    values: ArrayRef,
    /// Of a dictionary, which value each row has.
    keys: Option<ArrayRef>,
}

impl Texts {
    fn of(array: &ArrayRef) -> Option<Self> {
        match array.as_any_dictionary_opt() {
            Some(dictionary) => {
                let values = Arc::clone(dictionary.values());
                is_text(values.data_type()).then(|| Self { values, keys: Some(Arc::clone(array)) })
            }
            None => is_text(array.data_type()).then(|| Self { values: Arc::clone(array), keys: None }),
        }
    }

    fn len(&self) -> usize {
        self.keys.as_ref().unwrap_or(&self.values).len()
    }

    fn get(&self, row: usize) -> Option<&str> {
        let row = match &self.keys {
            None => row,
            Some(keys) if keys.is_null(row) => return None,
            Some(keys) => *keys.slice(row, 1).as_any_dictionary_opt()?.normalized_keys().first()?,
        };
        if self.values.is_null(row) {
            return None;
        }
        Some(match self.values.data_type() {
            DataType::LargeUtf8 => self.values.as_string::<i64>().value(row),
            DataType::Utf8View => self.values.as_string_view().value(row),
            _ => self.values.as_string::<i32>().value(row),
        })
    }
}
