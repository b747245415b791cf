//! Reads whole columns of a data file, for merges and exports.

use std::fs::File;
use std::path::PathBuf;

use arrow::array::{Array, ArrayRef};
use arrow::compute::concat;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};

use super::FileEntry;
use crate::error::{Result, StoreError};
use crate::types::{ColumnType, to_surface};

/// Rows decoded at a time.
const BATCH_ROWS: usize = 16 << 10;

/// An open data file.
pub(crate) struct FileReader {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
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
        Ok(Self { path, metadata, rows: entry.meta.rows as usize })
    }

    /// All values of the column `name`, which the file has as `kind`, as surface type.
    pub(crate) fn column(&self, name: &str, kind: ColumnType) -> Result<ArrayRef> {
        let file = File::open(&self.path).map_err(StoreError::io("cannot open", &self.path))?;
        let damaged = |why: String| StoreError::damaged(&self.path, why);
        let schema = self.metadata.schema();
        let index = schema.index_of(name).map_err(|e| damaged(e.to_string()))?;
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), [index]);
        let reader =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                .with_projection(mask)
                .with_batch_size(BATCH_ROWS)
                .build()?;
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
