//! Rows as Arrow's columns.

use std::io;
use std::sync::Arc;

use arrow_array::types::Float16Type;
use arrow_array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int8Array, Int64Array,
    PrimitiveArray, RecordBatch, StringArray, UInt8Array,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field, FieldRef, Schema};
use arrow_select::interleave::interleave;
use parquet::arrow::ArrowSchemaConverter;
use serde_json::Value;

use super::super::numbers::{Dtype, Numbers};
use crate::input::not_finite;
use crate::row::{Column, Holds, Kept, Row};

/// The column with the vectors.
pub(super) const EMBEDDING: &str = "embedding";

/// The column with the texts, where they are wanted.
const TEXT: &str = "text";

/// The columns of a file: those that are kept, the text where it is wanted, the vector.
#[derive(Debug)]
pub(super) struct Layout {
    columns: Vec<Column>,
    with_text: bool,
    schema: Arc<Schema>,
}

impl Layout {
    pub(super) fn new(columns: &[Column], with_text: bool, numbers: &Numbers) -> io::Result<Self> {
        let mut fields: Vec<FieldRef> = columns.iter().map(field).collect();
        if with_text {
            fields.push(Arc::new(Field::new(TEXT, DataType::Utf8, true)));
        }
        fields.push(Arc::new(Field::new(EMBEDDING, vectors_type(numbers)?, true)));
        for (at, field) in fields.iter().enumerate() {
            if fields[..at].iter().any(|before| before.name() == field.name()) {
                return Err(io::Error::other(format!(
                    "two of its columns would be called `{}`; leave it out of --keep, or rename it in the input",
                    field.name()
                )));
            }
        }
        let schema = Arc::new(Schema::new(fields));
        // What Parquet can't hold is said before anything is embedded.
        ArrowSchemaConverter::new().convert(&schema)?;
        Ok(Self { columns: columns.to_vec(), with_text, schema })
    }

    pub(super) fn with_text(&self) -> bool {
        self.with_text
    }

    pub(super) fn schema(&self) -> Arc<Schema> {
        Arc::clone(&self.schema)
    }

    pub(super) fn batch(&self, rows: &[Row], numbers: &Numbers) -> io::Result<RecordBatch> {
        let mut arrays = (0..self.columns.len())
            .map(|column| self.kept(rows, column))
            .collect::<io::Result<Vec<ArrayRef>>>()?;
        if self.with_text {
            arrays.push(Arc::new(StringArray::from_iter(rows.iter().map(|row| row.text.as_deref()))));
        }
        arrays.push(vectors(rows, numbers)?);
        RecordBatch::try_new(self.schema(), arrays).map_err(io::Error::other)
    }

    fn kept(&self, rows: &[Row], column: usize) -> io::Result<ArrayRef> {
        let value = |row: &'_ Row| match &row.kept {
            Kept::Values(values) => values.get(column).cloned().unwrap_or_default(),
            Kept::Row(..) => Value::Null,
        };
        let values = rows.iter().map(value);
        Ok(match &self.columns[column].holds {
            Holds::Texts => {
                Arc::new(StringArray::from_iter(values.map(|value| value.as_str().map(str::to_owned))))
            }
            Holds::WholeNumbers => Arc::new(Int64Array::from_iter(values.map(|value| value.as_i64()))),
            Holds::Numbers => Arc::new(Float64Array::from_iter(
                values.map(|value| value.as_f64().or_else(|| not_finite(&value))),
            )),
            Holds::Booleans => Arc::new(BooleanArray::from_iter(values.map(|value| value.as_bool()))),
            Holds::Arrow(field) => kept_of_batches(rows, column, field)?,
        })
    }
}

fn field(column: &Column) -> FieldRef {
    let of = |kind| Arc::new(Field::new(&column.name, kind, true));
    match &column.holds {
        Holds::Texts => of(DataType::Utf8),
        Holds::WholeNumbers => of(DataType::Int64),
        Holds::Numbers => of(DataType::Float64),
        Holds::Booleans => of(DataType::Boolean),
        Holds::Arrow(field) => Arc::clone(field),
    }
}

/// A column of the batches that the rows are of.
fn kept_of_batches(rows: &[Row], column: usize, field: &FieldRef) -> io::Result<ArrayRef> {
    let mut batches: Vec<&Arc<RecordBatch>> = Vec::new();
    let mut places = Vec::with_capacity(rows.len());
    for row in rows {
        let Kept::Row(batch, at) = &row.kept else { continue };
        if !batches.last().is_some_and(|last| Arc::ptr_eq(last, batch)) {
            batches.push(batch);
        }
        places.push((batches.len() - 1, *at));
    }
    if batches.is_empty() {
        return Ok(arrow_array::new_empty_array(field.data_type()));
    }
    let arrays: Vec<&dyn arrow_array::Array> = batches.iter().map(|batch| &**batch.column(column)).collect();
    interleave(&arrays, &places)
        .map_err(|error| io::Error::other(format!("its column `{}`: {error}", field.name())))
}

/// The list's own field: its name is the one that Parquet gives it.
fn item(numbers: &Numbers) -> FieldRef {
    let kind = match numbers.dtype() {
        Dtype::F32 => DataType::Float32,
        Dtype::F16 => DataType::Float16,
        Dtype::Int8 => DataType::Int8,
        Dtype::Binary => DataType::UInt8,
    };
    Arc::new(Field::new("element", kind, false))
}

fn vectors_type(numbers: &Numbers) -> io::Result<DataType> {
    let columns = i32::try_from(numbers.columns()).map_err(io::Error::other)?;
    Ok(DataType::FixedSizeList(item(numbers), columns))
}

/// Where the numbers of a column of lists are.
pub(super) fn leaf(list: &Field) -> Vec<String> {
    vec![list.name().clone(), "list".to_owned(), "element".to_owned()]
}

fn vectors(rows: &[Row], numbers: &Numbers) -> io::Result<ArrayRef> {
    let mut bytes = Vec::with_capacity(rows.len() * numbers.columns() * numbers.size());
    for row in rows {
        match &row.found {
            Some(found) => numbers.write(found, &mut bytes),
            None => bytes.resize(bytes.len() + numbers.columns() * numbers.size(), 0),
        }
    }
    let values: ArrayRef = match numbers.dtype() {
        Dtype::F32 => Arc::new(Float32Array::from_iter_values(
            bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)),
        )),
        Dtype::F16 => Arc::new(PrimitiveArray::<Float16Type>::from_iter_values(
            bytes.as_chunks::<2>().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes)),
        )),
        Dtype::Int8 => Arc::new(Int8Array::from_iter_values(bytes.iter().map(|byte| byte.cast_signed()))),
        // Without a sign, as Parquet's readers have bits: sentence-transformers calls that `ubinary`.
        Dtype::Binary => Arc::new(UInt8Array::from_iter_values(bytes.iter().map(|byte| byte ^ 0x80))),
    };
    let known = NullBuffer::from_iter(rows.iter().map(|row| row.found.is_some()));
    let columns = i32::try_from(numbers.columns()).map_err(io::Error::other)?;
    let list = FixedSizeListArray::try_new(item(numbers), columns, values, Some(known));
    Ok(Arc::new(list.map_err(io::Error::other)?))
}
