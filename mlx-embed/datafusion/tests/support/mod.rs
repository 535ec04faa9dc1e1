//! Tables and queries.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::compute::concat_batches;
use datafusion::prelude::SessionContext;

/// A golden checkpoint's folder.
pub(crate) fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(case)
}

pub(crate) fn text(row: usize) -> String {
    format!("row {row} has the number {}", row * 7919 % 1000)
}

/// Rows of `id` and `body`, null in every tenth.
pub(crate) fn rows_of(ids: impl Iterator<Item = usize> + Clone) -> RecordBatch {
    let bodies = ids.clone().map(|row| (row % 10 != 9).then(|| text(row)));
    let columns: [(&str, ArrayRef); 2] = [
        ("id", Arc::new(Int64Array::from_iter_values(ids.map(|row| row as i64)))),
        ("body", Arc::new(StringArray::from_iter(bodies))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

pub(crate) async fn ask(ctx: &SessionContext, query: &str) -> RecordBatch {
    let frame = ctx.sql(query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let batches = frame.collect().await.unwrap_or_else(|error| panic!("{query}: {error}"));
    concat_batches(&batches.first().map_or(schema, RecordBatch::schema), &batches).unwrap()
}

/// Why the query fails, be it while it is planned or run.
pub(crate) async fn failure(ctx: &SessionContext, query: &str) -> String {
    match ctx.sql(query).await {
        Err(error) => error.to_string(),
        Ok(frame) => frame.collect().await.expect_err(query).to_string(),
    }
}
