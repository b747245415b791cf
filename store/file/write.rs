//! Writes a data file column by column, by a computed order of rows: the memory it takes is one
//! column of the input and the compressed output.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeBinaryBuilder, UInt32Array};
use arrow::compute::{cast, interleave};
use arrow::datatypes::{DataType, Float64Type, TimestampNanosecondType};
use hashbrown::HashSet;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, compute_leaves};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::{
    ENTITY_COLUMN, EntityPlace, FILE_VERSION, FileColumn, FileMeta, Overflow, file_schema,
};
use crate::disk::{CrcFile, Written, verify};
use crate::error::Result;
use crate::layout::{Layout, Runs, Slice};
use crate::types::{ColumnType, hex_bytes};

/// The key-value metadata that gives [`FileMeta::entity_max`] where no manifest does.
pub(super) const ENTITY_MAX: &str = "weir.entity_max";
/// Columns with statistics, besides times and ids: the ones that people filter by range.
const WITH_STATISTICS: [&str; 2] = ["severity", "severity_number"];
/// Columns of numbers that hardly repeat, so that a dictionary only costs.
const WITHOUT_DICTIONARY: [&str; 3] = ["value", "value_int", "duration_ns"];
/// Share of slices that a look for a trace id reads in vain.
const ID_FALSE_POSITIVES: f64 = 0.01;
/// Values looked at to choose between a dictionary and byte-stream-split.
const SAMPLE: usize = 4_096;

/// What a file shall hold.
pub(crate) struct FileSpec<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) name: String,
    pub(crate) level: u8,
    pub(crate) layout: Layout,
    /// Sorted by name.
    pub(crate) columns: Vec<FileColumn>,
    pub(crate) overflow: Overflow,
    /// For each row of the file, the part that it comes from and its row there.
    pub(crate) order: &'a [(u32, u32)],
    /// Rows of each row group.
    pub(crate) groups: &'a [Range<usize>],
    /// Time of each row of the file.
    pub(crate) times: &'a [i64],
    /// Entity id of each row of the file.
    pub(crate) ids: Option<&'a [u32]>,
    pub(crate) entities: Option<EntityPlace>,
    pub(crate) raw_bytes: u64,
    pub(crate) entity_bytes: u64,
    pub(crate) received: i64,
}

/// Writes a file, fsynced and read back. `column` gives a column, as surface type, of each part.
pub(crate) fn write_file(
    spec: FileSpec<'_>,
    column: &mut dyn FnMut(&FileColumn) -> Result<Vec<ArrayRef>>,
) -> Result<FileMeta> {
    let path = spec.folder.join(&spec.name);
    let written = write_to(&path, spec, column);
    if written.is_err() {
        // Nobody will name it; on a full disk its bytes are needed.
        std::fs::remove_file(&path).ok();
    }
    written
}

fn write_to(
    path: &Path,
    spec: FileSpec<'_>,
    column: &mut dyn FnMut(&FileColumn) -> Result<Vec<ArrayRef>>,
) -> Result<FileMeta> {
    let schema = Arc::new(file_schema(&spec.columns, spec.ids.is_some()));
    let file = CrcFile::create(path)?;
    let doubles = double_encodings(&spec, column)?;
    let rows_max = spec.groups.iter().map(Range::len).max().unwrap_or_default();
    let properties = properties(&spec.columns, &doubles, rows_max);
    let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))?;
    let (mut writer, factory) = writer.into_serialized_writer()?;
    let mut pending = Vec::with_capacity(spec.groups.len());
    for i in 0..spec.groups.len() {
        pending.push(factory.create_column_writers(i)?.into_iter());
    }
    let mut done: Vec<Vec<ArrowColumnChunk>> = spec.groups.iter().map(|_| Vec::new()).collect();
    let mut picks: Vec<(usize, usize)> = Vec::with_capacity(rows_max);
    for (i, wanted) in spec.columns.iter().enumerate() {
        let parts = column(wanted)?;
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        for (g, rows) in spec.groups.iter().enumerate() {
            picks.clear();
            picks.extend(spec.order[rows.clone()].iter().map(|&(p, r)| (p as usize, r as usize)));
            let array = to_rest(&interleave(&parts, &picks)?, wanted.kind)?;
            write_column(schema.field(i), &array, &mut pending[g], &mut done[g])?;
        }
    }
    if let Some(ids) = spec.ids {
        let field = schema.field(spec.columns.len());
        for (g, rows) in spec.groups.iter().enumerate() {
            let array: ArrayRef = Arc::new(UInt32Array::from(ids[rows.clone()].to_vec()));
            write_column(field, &array, &mut pending[g], &mut done[g])?;
        }
    }
    for chunks in done {
        let mut group = writer.next_row_group()?;
        for chunk in chunks {
            chunk.append_to_row_group(&mut group)?;
        }
        group.close()?;
    }
    let mut runs_place = None;
    if let Some(ids) = spec.ids {
        let runs = encode_runs(&spec, ids)?;
        runs_place = Some((writer.bytes_written() as u64, runs.len() as u64));
        writer.write_all(&runs).map_err(crate::error::StoreError::io("cannot write", path))?;
    }
    let layout = serde_json::to_string(&spec.layout).unwrap_or_default();
    let entity_max = spec.ids.and_then(|ids| ids.iter().max().copied());
    let mut metadata = vec![("weir.format", FILE_VERSION.to_string()), ("weir.layout", layout)];
    metadata.extend(entity_max.map(|id| (ENTITY_MAX, id.to_string())));
    for (key, value) in metadata {
        writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
    }
    let Written { bytes, crc } = writer.into_inner()?.finish()?;
    verify(path, bytes, crc)?;
    let range = |times: &[i64]| {
        let min = times.iter().min().copied().unwrap_or_default();
        (min, times.iter().max().copied().unwrap_or_default())
    };
    let slices = spec.groups.iter().map(|g| {
        let (min_time, max_time) = range(&spec.times[g.clone()]);
        Slice { rows: g.len() as u32, min_time, max_time }
    });
    let (min_time, max_time) = range(spec.times);
    Ok(FileMeta {
        name: spec.name.as_str().into(),
        level: spec.level,
        version: FILE_VERSION,
        layout: spec.layout,
        rows: spec.order.len() as u64,
        bytes,
        raw_bytes: spec.raw_bytes,
        entity_bytes: spec.entity_bytes,
        crc,
        received: spec.received,
        min_time,
        max_time,
        slices: slices.collect(),
        columns: spec.columns.into(),
        overflow: spec.overflow,
        entities: spec.entities,
        runs: runs_place,
        entity_max,
    })
}

fn write_column(
    field: &arrow::datatypes::Field,
    array: &ArrayRef,
    writers: &mut dyn Iterator<Item = ArrowColumnWriter>,
    done: &mut Vec<ArrowColumnChunk>,
) -> Result<()> {
    for leaf in compute_leaves(field, array)? {
        if let Some(mut writer) = writers.next() {
            writer.write(&leaf)?;
            done.push(writer.close()?);
        }
    }
    Ok(())
}

fn encode_runs(spec: &FileSpec<'_>, ids: &[u32]) -> Result<Vec<u8>> {
    let mut runs = Runs::default();
    for group in spec.groups {
        for row in group.clone() {
            runs.push(ids[row], spec.times[row], row == group.start);
        }
    }
    runs.encode()
}

/// Of the double columns, those whose values repeat enough for a dictionary.
fn double_encodings(
    spec: &FileSpec<'_>,
    column: &mut dyn FnMut(&FileColumn) -> Result<Vec<ArrayRef>>,
) -> Result<HashSet<Arc<str>>> {
    let mut with_dictionary = HashSet::new();
    for wanted in spec.columns.iter().filter(|c| c.kind == ColumnType::Double) {
        let mut distinct = HashSet::new();
        let mut seen = 0;
        for part in column(wanted)? {
            let Some(values) = part.as_primitive_opt::<Float64Type>() else { continue };
            for v in values.iter().flatten().take(SAMPLE - seen) {
                distinct.insert(v.to_bits());
                seen += 1;
            }
        }
        if distinct.len() * 4 < seen {
            with_dictionary.insert(wanted.name.clone());
        }
    }
    Ok(with_dictionary)
}

/// `rows_max`: rows of the largest row group.
fn properties(
    columns: &[FileColumn],
    doubles: &HashSet<Arc<str>>,
    rows_max: usize,
) -> WriterProperties {
    let mut builder = WriterProperties::builder()
        .set_created_by(format!("weir {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_max_row_group_row_count(None);
    let entity = ColumnPath::new(vec![ENTITY_COLUMN.to_owned()]);
    builder = builder.set_column_statistics_enabled(entity, EnabledStatistics::Chunk);
    for c in columns {
        let path = ColumnPath::new(vec![c.name.to_string()]);
        let name = &*c.name;
        builder = match c.kind {
            ColumnType::Time | ColumnType::TimeMs => builder
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED)
                .set_column_statistics_enabled(path, EnabledStatistics::Chunk),
            // Traces are looked for by their id; a filter shrinks to the ids that there are.
            ColumnType::Id16 => builder
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_bloom_filter_enabled(path.clone(), true)
                .set_column_bloom_filter_fpp(path.clone(), ID_FALSE_POSITIVES)
                .set_column_bloom_filter_max_ndv(path, rows_max.max(1) as u64),
            ColumnType::Id8 => builder.set_column_dictionary_enabled(path, false),
            ColumnType::Int | ColumnType::WideInt | ColumnType::IntDouble => {
                let dictionary = !WITHOUT_DICTIONARY.contains(&name);
                let builder = builder
                    .set_column_dictionary_enabled(path.clone(), dictionary)
                    .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED);
                if WITH_STATISTICS.contains(&name) {
                    builder.set_column_statistics_enabled(path, EnabledStatistics::Chunk)
                } else {
                    builder
                }
            }
            ColumnType::Double => builder
                .set_column_dictionary_enabled(path.clone(), doubles.contains(name))
                .set_column_encoding(path, Encoding::BYTE_STREAM_SPLIT),
            _ if WITH_STATISTICS.contains(&name) => {
                builder.set_column_statistics_enabled(path, EnabledStatistics::Chunk)
            }
            _ => builder,
        };
    }
    builder.build()
}

/// How a column of surface type `kind` is best kept: ids as bytes, whole doubles as integers,
/// whole milliseconds as such. `name` only decides which text is tried as an id.
pub(crate) fn rest_kind(name: &str, kind: ColumnType, parts: &[ArrayRef]) -> ColumnType {
    let ids = |width: usize| {
        parts.iter().filter_map(|p| p.as_string_opt::<i32>()).flat_map(|p| p.iter().flatten()).all(
            |text| match width {
                16 => hex_bytes::<16>(text).is_some(),
                _ => hex_bytes::<8>(text).is_some(),
            },
        )
    };
    match (kind, name) {
        (ColumnType::Text, "trace_id") if ids(16) => ColumnType::Id16,
        (ColumnType::Text, "span_id" | "parent_span_id") if ids(8) => ColumnType::Id8,
        (ColumnType::Double, _) if parts.iter().all(whole_doubles) => ColumnType::IntDouble,
        (ColumnType::Time, _) if parts.iter().all(whole_milliseconds) => ColumnType::TimeMs,
        (kind, _) => kind,
    }
}

fn whole_doubles(part: &ArrayRef) -> bool {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    part.as_primitive_opt::<Float64Type>().is_none_or(|values| {
        values
            .iter()
            .flatten()
            .all(|v| v.fract() == 0.0 && v.abs() <= EXACT_MAX && (v != 0.0 || v.is_sign_positive()))
    })
}

fn whole_milliseconds(part: &ArrayRef) -> bool {
    part.as_primitive_opt::<TimestampNanosecondType>()
        .is_none_or(|values| values.iter().flatten().all(|v| v % 1_000_000 == 0))
}

/// A column of surface type as it stands in the file.
fn to_rest(array: &ArrayRef, kind: ColumnType) -> Result<ArrayRef> {
    Ok(match kind {
        ColumnType::Id16 => Arc::new(packed_ids::<16>(array)?),
        ColumnType::Id8 => Arc::new(packed_ids::<8>(array)?),
        kind if *array.data_type() == kind.at_rest() => array.clone(),
        kind => cast(array, &kind.at_rest())?,
    })
}

fn packed_ids<const N: usize>(array: &ArrayRef) -> Result<arrow::array::FixedSizeBinaryArray> {
    let mut out = FixedSizeBinaryBuilder::with_capacity(array.len(), N as i32);
    let text = cast(array, &DataType::Utf8)?;
    for id in text.as_string::<i32>() {
        match id.and_then(hex_bytes::<N>) {
            Some(bytes) => out.append_value(bytes)?,
            None => out.append_null(),
        }
    }
    Ok(out.finish())
}
