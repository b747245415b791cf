//! Which slices may hold an id: the Bloom filters of a file, read once and cached.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;

use arrow::array::BooleanArray;
use datafusion::common::ScalarValue;
use parquet::bloom_filter::Sbbf;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};

use crate::cache::Cache;
use crate::file::FileEntry;
use crate::types::{ColumnType, hex_bytes};

/// Tells the filters of a file from its footer in the cache: ids of files never get so high.
const FILTERS: u64 = 1 << 63;

/// Of each slice: none of its rows has one of `values` in `column` (false), or that is not known.
/// `None` if no filter says anything of it.
pub(super) fn contained(
    file: &FileEntry,
    footer: &ParquetMetaData,
    cache: &Cache,
    column: &str,
    values: &HashSet<ScalarValue>,
) -> Option<BooleanArray> {
    if file.column(column)?.kind != ColumnType::Id16 {
        return None;
    }
    let texts: Option<Vec<Option<&str>>> = values.iter().map(ScalarValue::try_as_str).collect();
    // What is no id stands in no such column.
    let ids: Vec<[u8; 16]> = texts?.into_iter().flatten().filter_map(hex_bytes::<16>).collect();
    let filters = filters(file, footer, cache, column)?;
    let may_have = |filter: &Sbbf| ids.iter().any(|id| filter.check(id.as_slice()));
    let unknown = |filter: &Option<Sbbf>| filter.as_ref().is_none_or(may_have);
    Some(filters.iter().map(|filter| (!unknown(filter)).then_some(false)).collect())
}

/// One for each slice; a file has at most one column with filters. `None` if they cannot be read:
/// then the rows are.
fn filters(
    file: &FileEntry,
    footer: &ParquetMetaData,
    cache: &Cache,
    column: &str,
) -> Option<Arc<Vec<Option<Sbbf>>>> {
    let key = file.id() | FILTERS;
    if let Some(found) = cache.get(key) {
        return Some(found);
    }
    let columns = footer.file_metadata().schema_descr().columns();
    let index = columns.iter().position(|c| c.path().parts() == [column])?;
    let source = File::open(file.path()).ok()?;
    let read =
        |group: &RowGroupMetaData| Sbbf::read_from_column_chunk(group.column(index), &source);
    let filters: Vec<Option<Sbbf>> =
        footer.row_groups().iter().map(read).collect::<Result<_, _>>().ok()?;
    let bytes = filters.iter().flatten().map(|f| f.num_blocks() * 32).sum();
    let filters = Arc::new(filters);
    cache.insert(key, filters.clone(), bytes);
    Some(filters)
}
