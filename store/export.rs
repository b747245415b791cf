//! Writes one version of a table as one plain, wide Parquet file: a column per name, no entities,
//! no ids, surface types. For other tools.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array,
};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{Schema, SchemaRef, TimestampNanosecondType, UInt32Type};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::disk::{CrcFile, sync_folder, verify};
use crate::error::{Result, StoreError};
use crate::file::{ENTITY_COLUMN, FileEntry, FileReader};
use crate::merge::expand;
use crate::normalise::{TIMESTAMP, widen_array};
use crate::snapshot::{HotRun, TableSnapshot};
use crate::types::ColumnType;

/// What was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Exported {
    /// Rows written.
    pub rows: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Files that could not be read and were set aside: their rows are not in it.
    pub damaged: u64,
}

/// Writes the rows of `snapshot` with `from <= timestamp < to` (UTC nanoseconds) to the new file
/// `path`, which appears whole or not at all. Rows past retention at `now` are left out. Columns
/// are those of the table; rows are in no order across files. Memory: one slice's rows.
///
/// # Errors
/// If `path` is there already, or the disk refuses.
pub fn export(
    snapshot: &TableSnapshot,
    from: i64,
    to: i64,
    now: i64,
    path: &Path,
) -> Result<Exported> {
    if path.exists() {
        let there = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        return Err(StoreError::io("cannot create", path)(there));
    }
    let from = from.max(snapshot.min_time(now));
    let fields: Vec<_> = snapshot.schema().columns().iter().map(|c| c.field()).collect();
    let schema = Arc::new(Schema::new(fields));
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = std::path::PathBuf::from(name);
    std::fs::remove_file(&temporary).ok();
    let written = write(snapshot, from, to, &schema, &temporary);
    let exported = match written {
        Ok(exported) => exported,
        Err(e) => {
            std::fs::remove_file(&temporary).ok();
            return Err(e);
        }
    };
    std::fs::rename(&temporary, path).map_err(StoreError::io("cannot rename", &temporary))?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    sync_folder(folder.unwrap_or(Path::new(".")))?;
    Ok(exported)
}

fn write(
    snapshot: &TableSnapshot,
    from: i64,
    to: i64,
    schema: &SchemaRef,
    path: &Path,
) -> Result<Exported> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut writer =
        ArrowWriter::try_new(CrcFile::create(path)?, schema.clone(), Some(properties))?;
    let mut exported = Exported::default();
    let wanted = |min: i64, max: i64| max >= from && min < to;
    for file in snapshot.files().iter().filter(|f| wanted(f.meta.min_time, f.meta.max_time)) {
        if let Err(e) = verify(&file.path, file.meta.bytes, file.meta.crc) {
            let StoreError::Damaged { why, .. } = e else { return Err(e) };
            snapshot.table().report_damage(file, &why)?;
            exported.damaged += 1;
            continue;
        }
        for (slice, times) in file.meta.slices.iter().enumerate() {
            if wanted(times.min_time, times.max_time) {
                let batch = wide_slice(file, slice, snapshot, schema)?;
                exported.rows += write_range(&mut writer, &batch, from, to)?;
            }
        }
    }
    for run in snapshot.hot().iter().filter(|h| wanted(h.min_time, h.max_time)) {
        exported.rows += write_range(&mut writer, &wide_run(run, schema)?, from, to)?;
    }
    exported.bytes = writer.into_inner()?.finish()?.bytes;
    Ok(exported)
}

fn write_range(
    writer: &mut ArrowWriter<CrcFile>,
    batch: &RecordBatch,
    from: i64,
    to: i64,
) -> Result<u64> {
    let times = batch.column_by_name(TIMESTAMP);
    let times = times.and_then(|t| t.as_primitive_opt::<TimestampNanosecondType>());
    let Some(times) = times else { return Ok(0) };
    let mask: BooleanArray = times.values().iter().map(|t| Some(from <= *t && *t < to)).collect();
    let batch = filter_record_batch(batch, &mask)?;
    writer.write(&batch)?;
    Ok(batch.num_rows() as u64)
}

/// The rows of one slice of a file.
pub(crate) fn wide_slice(
    file: &FileEntry,
    slice: usize,
    snapshot: &TableSnapshot,
    schema: &SchemaRef,
) -> Result<RecordBatch> {
    let reader = FileReader::open(file)?.slice(slice)?;
    let rows = file.meta.slices[slice].rows as usize;
    let ids = match &file.set {
        Some(set) => Some((set, reader.column(ENTITY_COLUMN, ColumnType::EntityId)?)),
        None => None,
    };
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for column in snapshot.schema().columns() {
        let mut array = None;
        if let Some(own) = file.column(&column.name) {
            array = Some(reader.column(&column.name, own.kind)?);
        } else if let Some((set, ids)) = &ids
            && file.may_have_entity_column(&column.name)
        {
            array = expand(set, &column.name, ids.as_primitive::<UInt32Type>())?;
        }
        arrays.push(to_kind(array, column.kind, rows)?);
    }
    batch_of(schema, arrays, rows)
}

pub(crate) fn wide_run(run: &HotRun, schema: &SchemaRef) -> Result<RecordBatch> {
    let rows = run.batch.num_rows();
    let arrays = schema.fields().iter().map(|field| {
        let kind = ColumnType::from_arrow(field.data_type()).unwrap_or(ColumnType::Text);
        to_kind(run.batch.array(field.name()), kind, rows)
    });
    batch_of(schema, arrays.collect::<Result<_>>()?, rows)
}

/// `array` as `kind`; what does not fit is NULL.
fn to_kind(array: Option<ArrayRef>, kind: ColumnType, rows: usize) -> Result<ArrayRef> {
    let Some(array) = array else { return Ok(new_null_array(&kind.at_rest(), rows)) };
    if kind == ColumnType::Text {
        return widen_array(&array, kind);
    }
    if *array.data_type() == kind.at_rest() {
        return Ok(array);
    }
    Ok(cast(&array, &kind.at_rest()).unwrap_or_else(|_| new_null_array(&kind.at_rest(), rows)))
}

fn batch_of(schema: &SchemaRef, arrays: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema.clone(), arrays, &options)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::testing::{SECOND, START, logs, open, writer};

    #[test]
    fn a_range_of_files_and_hot_rows_is_one_plain_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("store"));
        let mut w = writer(&store, "logs");
        w.append(&logs(100, START, SECOND, 3)).unwrap();
        let staged = w.stage(1, true).unwrap();
        w.commit(1, &staged.work).unwrap();
        w.append(&logs(50, START, SECOND, 2)).unwrap();
        let path = dir.path().join("out.parquet");
        let (from, to) = (START + 10 * SECOND, START + 60 * SECOND);
        let snapshot = w.table().snapshot();
        let exported = export(&snapshot, from, to, START, &path).unwrap();
        assert_eq!((exported.rows, exported.damaged), (50 + 40, 0));
        let file = std::fs::File::open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), exported.bytes);
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let batches: Vec<RecordBatch> = reader.map(|b| b.unwrap()).collect();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 90);
        let names: Vec<&str> =
            batches[0].schema_ref().fields().iter().map(|f| f.name().as_str()).collect();
        let expected = ["body", "service.name", "severity", "shard", "timestamp", "trace_id"];
        assert_eq!(names, expected);
        let ids = batches[0].column_by_name("trace_id").unwrap().as_string::<i32>();
        assert!(ids.iter().all(|id| id.unwrap().len() == 32));
        let times = batches[0].column_by_name("timestamp").unwrap();
        let times = times.as_primitive::<TimestampNanosecondType>();
        assert!(times.values().iter().all(|t| (from..to).contains(t)));
        // Never over something that is there, and nothing half-made stays.
        assert!(export(&snapshot, from, to, START, &path).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
