//! A text on its way from the input to the output.

use serde_json::Value;

use crate::found::Found;

#[cfg(feature = "parquet")]
use {arrow_array::RecordBatch, arrow_schema::FieldRef, std::sync::Arc};

/// A text with what stands beside it, and its result once there is one.
#[derive(Debug)]
pub(crate) struct Row {
    /// The line, argument or row of the input that it is, from 0.
    pub(crate) index: usize,
    /// `None` where a table has null in its place.
    pub(crate) text: Option<String>,
    pub(crate) kept: Kept,
    pub(crate) found: Option<Found>,
}

/// Values of the columns that an output keeps, in their order.
#[derive(Debug, Clone)]
pub(crate) enum Kept {
    Values(Vec<Value>),
    /// A row of these columns.
    #[cfg(feature = "parquet")]
    Row(Arc<RecordBatch>, usize),
}

/// A column that is kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) holds: Holds,
}

/// What stands in a kept column.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Holds {
    Texts,
    /// i64.
    WholeNumbers,
    /// f64.
    Numbers,
    Booleans,
    /// What a Parquet file says.
    #[cfg(feature = "parquet")]
    Arrow(FieldRef),
}
