//! Reads whole columns of a data file, for merges and exports.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef};
use arrow::compute::concat;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};

use super::FileEntry;
use super::write::ENTITY_MAX;
use crate::error::{Result, StoreError};
use crate::types::{ColumnType, to_surface};

/// Rows decoded at a time.
const BATCH_ROWS: usize = 16 << 10;

/// The highest entity id in the file `path`, which no manifest lists yet; `None` if it has none,
/// or is not a whole file.
pub(crate) fn staged_entity_max(path: &Path) -> Option<u32> {
    let file = File::open(path).ok()?;
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).ok()?;
    let metadata = metadata.metadata().file_metadata().key_value_metadata()?;
    metadata.iter().find(|kv| kv.key == ENTITY_MAX)?.value.as_ref()?.parse().ok()
}

/// An open data file.
pub(crate) struct FileReader {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    /// The only row group that is read; `None`: all.
    group: Option<usize>,
    rows: usize,
}

impl FileReader {
    /// Opens `entry` and reads its footer.
    pub(crate) fn open(entry: &FileEntry) -> Result<Self> {
        let path = entry.path().to_owned();
        let file = File::open(&path).map_err(StoreError::io("cannot open", &path))?;
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
            .map_err(|e| StoreError::damaged(&path, e.to_string()))?;
        let rows = metadata.metadata().file_metadata().num_rows();
        if u64::try_from(rows).ok() != Some(entry.meta.rows) {
            return Err(StoreError::damaged(&path, "it has another number of rows than listed"));
        }
        Ok(Self { path, metadata, group: None, rows: entry.meta.rows as usize })
    }

    /// The same file, of which only slice `slice` is read.
    pub(crate) fn slice(self, slice: usize) -> Result<Self> {
        let groups = self.metadata.metadata().row_groups();
        let rows = groups.get(slice).and_then(|g| usize::try_from(g.num_rows()).ok());
        let rows = rows.ok_or_else(|| StoreError::damaged(&self.path, "a slice is missing"))?;
        Ok(Self { group: Some(slice), rows, ..self })
    }

    /// All values of the column `name`, which the file has as `kind`, as surface type.
    pub(crate) fn column(&self, name: &str, kind: ColumnType) -> Result<ArrayRef> {
        let file = File::open(&self.path).map_err(StoreError::io("cannot open", &self.path))?;
        let damaged = |why: String| StoreError::damaged(&self.path, why);
        let schema = self.metadata.schema();
        let index = schema.index_of(name).map_err(|e| damaged(e.to_string()))?;
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), [index]);
        let mut builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                .with_projection(mask)
                .with_batch_size(BATCH_ROWS);
        if let Some(group) = self.group {
            builder = builder.with_row_groups(vec![group]);
        }
        let reader = builder.build()?;
        let mut parts: Vec<ArrayRef> = Vec::new();
        for batch in reader {
            let batch = batch.map_err(|e| damaged(e.to_string()))?;
            parts.push(batch.column(0).clone());
        }
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        let array = if parts.is_empty() {
            arrow::array::new_empty_array(&kind.at_rest())
        } else {
            concat(&parts)?
        };
        if array.len() != self.rows {
            return Err(damaged(format!("column `{name}` has {} rows", array.len())));
        }
        if kind == ColumnType::EntityId { Ok(array) } else { Ok(to_surface(&array, kind)?) }
    }
}
