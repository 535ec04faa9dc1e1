//! One file of many: row groups are copied as they are.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_schema::Schema;
use parquet::arrow::{ArrowSchemaConverter, add_encoded_arrow_schema_to_metadata};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use super::super::new_file::NewFile;
use super::metadata::pairs;

/// Writes the row groups of `parts`, which all have this schema, one behind the other.
pub(super) fn join(
    output: &mut NewFile,
    schema: &Arc<Schema>,
    metadata: &BTreeMap<String, String>,
    parts: &[PathBuf],
) -> io::Result<()> {
    let mut properties = WriterProperties::builder().set_key_value_metadata(Some(pairs(metadata))).build();
    // What Parquet has no word for, such as the lists' one length. Some readers show the metadata of this schema only.
    let said: HashMap<String, String> = metadata.clone().into_iter().collect();
    let with_metadata = Schema::clone(schema).with_metadata(said);
    add_encoded_arrow_schema_to_metadata(&with_metadata, &mut properties);
    let root = ArrowSchemaConverter::new().convert(schema)?.root_schema_ptr();
    let mut writer = SerializedFileWriter::new(output, root, Arc::new(properties))?;
    for part in parts {
        copy(part, &mut writer)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", part.display())))?;
    }
    writer.close()?;
    Ok(())
}

fn copy(part: &PathBuf, writer: &mut SerializedFileWriter<&mut NewFile>) -> io::Result<()> {
    let file = File::open(part)?;
    let metadata = ParquetMetaDataReader::new()
        .with_page_index_policy(PageIndexPolicy::Optional)
        .parse_and_finish(&file)?;
    let index = metadata.page_index();
    for (group, from) in metadata.row_groups().iter().enumerate() {
        let mut to = writer.next_row_group()?;
        for (column, chunk) in from.columns().iter().enumerate() {
            let copied = ColumnCloseResult {
                bytes_written: chunk.compressed_size().unsigned_abs(),
                rows_written: from.num_rows().unsigned_abs(),
                metadata: chunk.clone(),
                bloom_filter: None,
                column_index: index.and_then(|index| index.column_index(group, column)).cloned(),
                offset_index: index.and_then(|index| index.offset_index(group, column)).cloned(),
            };
            to.append_column(&file, copied)?;
        }
        to.close()?;
    }
    Ok(())
}
