//! Footers of files, and which of their columns are read, and as what.

use std::fs::File;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::Encoding;
use parquet::file::metadata::RowGroupMetaData;

use super::exec::Shared;
use super::file::{Stop, unread};
use crate::file::FileEntry;
use crate::types::ColumnType;

/// The footer of a file, read once and cached.
pub(super) fn footer(
    entry: &FileEntry,
    shared: &Shared,
) -> std::result::Result<ArrowReaderMetadata, Stop> {
    if let Some(found) = shared.footers.get::<ArrowReaderMetadata>(entry.id()) {
        return Ok(found.as_ref().clone());
    }
    let file = File::open(entry.path()).map_err(unread)?;
    let options = ArrowReaderOptions::new().with_schema(Arc::new(entry.arrow_schema()));
    let metadata = ArrowReaderMetadata::load(&file, options).map_err(unread)?;
    let bytes = metadata.metadata().memory_size();
    shared.footers.insert(entry.id(), Arc::new(metadata.clone()), bytes);
    Ok(metadata)
}

/// `metadata` by which columns `names` are read as dictionaries, where all of their pages are.
pub(super) fn with_dictionaries(
    entry: &FileEntry,
    metadata: ArrowReaderMetadata,
    names: &[String],
) -> std::result::Result<ArrowReaderMetadata, Stop> {
    let groups = metadata.metadata().row_groups();
    let coded = |name: &str| {
        let leaves = metadata.parquet_schema().columns();
        let leaf = leaves.iter().position(|leaf| leaf.path().parts() == [name]);
        let text = entry.column(name).is_some_and(|c| c.kind == ColumnType::Text);
        let of = |group: &RowGroupMetaData| {
            let mask = leaf.and_then(|leaf| group.column(leaf).page_encoding_stats_mask());
            mask.is_some_and(|mask| mask.is_only(Encoding::RLE_DICTIONARY))
        };
        text && groups.iter().all(of)
    };
    let names: Vec<&String> = names.iter().filter(|name| coded(name)).collect();
    if names.is_empty() {
        return Ok(metadata);
    }
    let kind = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let schema = entry.arrow_schema();
    let fields = schema.fields().iter().map(|f| match names.contains(&f.name()) {
        true => Arc::new(f.as_ref().clone().with_data_type(kind.clone())),
        false => f.clone(),
    });
    let schema = Schema::new(fields.collect::<Vec<_>>());
    let options = ArrowReaderOptions::new().with_schema(Arc::new(schema));
    ArrowReaderMetadata::try_new(metadata.metadata().clone(), options).map_err(unread)
}

/// Compressed bytes of the columns of a slice.
pub(super) fn compressed(
    metadata: &ArrowReaderMetadata,
    columns: &ProjectionMask,
    slice: usize,
) -> u64 {
    let group = metadata.metadata().row_group(slice);
    (0..group.num_columns())
        .filter(|&i| columns.leaf_included(i))
        .map(|i| u64::try_from(group.column(i).compressed_size()).unwrap_or(0))
        .sum()
}

/// `ProjectionMask` by whole names: its own constructor splits names at dots.
pub(super) trait ColumnsExact {
    fn columns_exact(metadata: &ArrowReaderMetadata, names: &[&str]) -> ProjectionMask;
}

impl ColumnsExact for ProjectionMask {
    fn columns_exact(metadata: &ArrowReaderMetadata, names: &[&str]) -> Self {
        let roots = metadata.parquet_schema().root_schema().get_fields();
        let wanted = roots.iter().enumerate().filter(|(_, f)| names.contains(&f.name()));
        Self::roots(metadata.parquet_schema(), wanted.map(|(i, _)| i).collect::<Vec<_>>())
    }
}
