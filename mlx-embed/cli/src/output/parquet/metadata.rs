//! What a file's metadata say: words by key.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use parquet::file::metadata::{KeyValue, ParquetMetaDataReader};

/// The ranges of a file's bytes.
pub(super) const RANGES: &str = "mlx_embed.ranges";

/// What was made of a part's records.
pub(super) const MADE: &str = "mlx_embed.part";

pub(super) fn pairs(metadata: &BTreeMap<String, String>) -> Vec<KeyValue> {
    metadata.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect()
}

pub(super) fn value(metadata: Option<&Vec<KeyValue>>, key: &str) -> Option<String> {
    metadata?.iter().find(|pair| pair.key == key)?.value.clone()
}

/// The ranges that a file says that its bytes have.
pub(in crate::output) fn ranges_in(file: &File) -> io::Result<Option<String>> {
    let metadata = ParquetMetaDataReader::new().parse_and_finish(file)?;
    Ok(value(metadata.file_metadata().key_value_metadata(), RANGES))
}
