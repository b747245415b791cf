//! Writes a data file column by column, by a computed order of rows: the memory it takes is one
//! column of the input and the compressed output.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryBuilder, TimestampNanosecondArray, UInt32Array,
};
use arrow::compute::{cast, interleave};
use arrow::datatypes::{DataType, Float64Type, TimestampNanosecondType};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowColumnChunk;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use super::encoding::{
    Choice, ROWS_PER_SAMPLE, STRETCH_ROWS, STRETCH_ROWS_MIN, STRETCHES, Sample, chunks,
};
use super::{EntityPlace, FILE_VERSION, FileColumn, FileMeta, Overflow, file_schema};
use crate::disk::{CrcFile, Written, verify};
use crate::error::Result;
use crate::layout::{Layout, Runs, Slice};
use crate::normalise::TIMESTAMP;
use crate::tokens::{Making, has_filters};
use crate::types::{ColumnType, hex_bytes};

/// The key-value metadata that gives [`FileMeta::entity_max`] where no manifest does.
pub(super) const ENTITY_MAX: &str = "weir.entity_max";
/// Columns with statistics, besides times: the ones that people filter by range.
const WITH_STATISTICS: [&str; 2] = ["severity", "severity_number"];
/// Share of slices that a look for a trace id reads in vain.
const ID_FALSE_POSITIVES: f64 = 0.01;
/// Size of the dictionary of a column with token filters past which it does without: texts that
/// repeat have a small one, and the others none that pays. Pages are as large as ever: a quarter of
/// that made bodies of few templates take three times the room.
const DICTIONARY_BYTES: usize = 256 << 10;
/// Rows of an entity in a row, on average, from which on a dictionary of ids pays.
const LONG_RUN: usize = 256;

/// Rows of a flush by which rules judge a column.
const ROWS_BY_RULE: usize = 4 << 10;

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

/// Writes a file, fsynced and read back. `column` gives a column, as surface type, of each part; it
/// is not asked for times, which `spec` has.
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
    let mut columns = spec.columns.clone();
    let rows_max = spec.groups.iter().map(Range::len).max().unwrap_or_default();
    let mut done: Vec<Vec<ArrowColumnChunk>> = spec.groups.iter().map(|_| Vec::new()).collect();
    let mut filters = Vec::new();
    let mut picks: Picks = Vec::with_capacity(rows_max);
    for column_of_file in &mut columns {
        // The order of rows has the times already.
        let parts = if is_times(column_of_file) { Vec::new() } else { column(column_of_file)? };
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        let choice = choose(&spec, column_of_file, &parts, rows_max, &mut picks)?;
        let FileColumn { name, kind, .. } = &*column_of_file;
        let field = column_of_file.field();
        let mut tokens = Making::of(column_of_file, &parts);
        for (rows, done) in spec.groups.iter().zip(&mut done) {
            let array = if is_times(column_of_file) {
                times(spec.times[rows.clone()].to_vec())
            } else {
                gather(&spec, &parts, rows.clone(), &mut picks)?
            };
            let array = to_rest(&array, *kind, spec.ids_of(rows))?;
            done.extend(chunks(&field, &array, properties(name, *kind, choice, rows_max))?);
            if let (Some(tokens), Some(chunk)) = (&mut tokens, done.last()) {
                tokens.slice(&array, chunk.close().bytes_written);
            }
        }
        filters.extend(tokens);
    }
    let schema = Arc::new(file_schema(&columns, spec.ids.is_some()));
    if spec.ids.is_some() {
        let field = schema.field(columns.len());
        for (rows, done) in spec.groups.iter().zip(&mut done) {
            let ids = spec.ids_of(rows).unwrap_or_default();
            let array: ArrayRef = Arc::new(UInt32Array::from(ids.to_vec()));
            done.extend(chunks(field, &array, entity_properties(ids))?);
        }
    }
    // Last, since only now it is known what columns are kept as.
    let file = CrcFile::create(path)?;
    let writer = ArrowWriter::try_new(file, schema, Some(base().build()))?;
    let (mut writer, _) = writer.into_serialized_writer()?;
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
    let mut tokens = Vec::new();
    for filters in filters {
        let (place, bytes) = filters.finish(writer.bytes_written() as u64);
        writer.write_all(&bytes).map_err(crate::error::StoreError::io("cannot write", path))?;
        tokens.push(place);
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
        columns: columns.into(),
        overflow: spec.overflow,
        entities: spec.entities,
        runs: runs_place,
        entity_max,
        tokens,
    })
}

impl FileSpec<'_> {
    /// Entity ids of some rows of the file.
    fn ids_of(&self, rows: &Range<usize>) -> Option<&[u32]> {
        self.ids.map(|ids| &ids[rows.clone()])
    }
}

/// Whether a column is the time of its rows.
fn is_times(column: &FileColumn) -> bool {
    &*column.name == TIMESTAMP && matches!(column.kind, ColumnType::Time | ColumnType::TimeMs)
}

/// Times as surface type.
fn times(values: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampNanosecondArray::from(values).with_timezone("UTC"))
}

/// Parts and rows of them, in the order of the file: one list that all columns use again.
type Picks = Vec<(usize, usize)>;

/// Rows of the file of a column, out of its parts.
fn gather(
    spec: &FileSpec<'_>,
    parts: &[&dyn Array],
    rows: impl IntoIterator<Item = usize>,
    picks: &mut Picks,
) -> Result<ArrayRef> {
    let place = |row: usize| (spec.order[row].0 as usize, spec.order[row].1 as usize);
    picks.clear();
    picks.extend(rows.into_iter().map(place));
    Ok(interleave(parts, picks)?)
}

/// How `column` is encoded, whose kind may change for it.
fn choose(
    spec: &FileSpec<'_>,
    column: &mut FileColumn,
    parts: &[&dyn Array],
    rows_max: usize,
    picks: &mut Picks,
) -> Result<Choice> {
    let name = column.name.clone();
    // Ids repeat all over a row group: a shorter stretch would not show it.
    let rows: Vec<usize> = match column.kind {
        ColumnType::Id16 | ColumnType::Id8 => {
            spec.groups.first().cloned().unwrap_or(0..0).collect()
        }
        _ => sample(spec.order.len(), spec.level),
    };
    let ids: Option<Vec<u32>> = spec.ids.map(|ids| rows.iter().map(|row| ids[*row]).collect());
    let values = if is_times(column) {
        times(rows.iter().map(|row| spec.times[*row]).collect())
    } else {
        gather(spec, parts, rows.iter().copied(), picks)?
    };
    let sample = Sample {
        name: &name,
        values: &values,
        ids: ids.as_deref(),
        properties: &|kind, choice| properties(&name, kind, choice, rows_max),
    };
    let (kind, choice) = match spec.level {
        0 => sample.ruled(column.kind),
        _ => sample.tried(column.kind)?,
    };
    column.kind = kind;
    Ok(choice)
}

/// The rows of a file that a column is judged by.
fn sample(rows: usize, level: u8) -> Vec<usize> {
    let wanted = if level == 0 { ROWS_BY_RULE } else { rows / ROWS_PER_SAMPLE };
    let stretch = (wanted / STRETCHES).clamp(STRETCH_ROWS_MIN, STRETCH_ROWS);
    if rows <= stretch * STRETCHES {
        return (0..rows).collect();
    }
    let starts = (0..STRETCHES).map(|n| (rows - stretch) * n / (STRETCHES - 1));
    starts.flat_map(|start| start..start + stretch).collect()
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

fn base() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_created_by(format!("weir {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_max_row_group_row_count(None)
}

/// For a column of entity ids: in long runs a dictionary is as small, and quicker to read; in short
/// ones, such as a flush has, it takes more than all values.
fn entity_properties(ids: &[u32]) -> WriterProperties {
    let runs = ids.chunk_by(|a, b| a == b).count();
    base()
        .set_dictionary_enabled(ids.len() >= runs * LONG_RUN)
        .set_encoding(Encoding::DELTA_BINARY_PACKED)
        .build()
}

/// `rows_max`: rows of the largest row group.
fn properties(name: &str, kind: ColumnType, choice: Choice, rows_max: usize) -> WriterProperties {
    let builder = base().set_dictionary_enabled(choice.dictionary);
    let builder = match kind {
        // The manifest has the times of each slice: the statistics of that column cost a comparison
        // for each row and nobody reads them.
        ColumnType::Time | ColumnType::TimeMs if name == TIMESTAMP => {
            builder.set_encoding(choice.encoding)
        }
        ColumnType::Time | ColumnType::TimeMs => {
            builder.set_encoding(choice.encoding).set_statistics_enabled(EnabledStatistics::Chunk)
        }
        // Traces are looked for by their id; a filter shrinks to the ids that there are.
        ColumnType::Id16 => builder
            .set_bloom_filter_enabled(true)
            .set_bloom_filter_fpp(ID_FALSE_POSITIVES)
            .set_bloom_filter_max_ndv(rows_max.max(1) as u64),
        // It is read with whatever is found, however little.
        ColumnType::Text if has_filters(name, kind) => {
            builder.set_encoding(choice.encoding).set_dictionary_page_size_limit(DICTIONARY_BYTES)
        }
        ColumnType::Int
        | ColumnType::WideInt
        | ColumnType::IntDouble
        | ColumnType::Double
        | ColumnType::Text => builder.set_encoding(choice.encoding),
        // What is no decimal is a double like any other.
        ColumnType::Decimal => {
            let leaf = |leaf: &str| ColumnPath::new(vec![name.to_owned(), leaf.to_owned()]);
            builder
                .set_column_encoding(leaf("code"), choice.encoding)
                .set_column_dictionary_enabled(leaf("raw"), false)
                .set_column_encoding(leaf("raw"), Encoding::BYTE_STREAM_SPLIT)
        }
        _ => builder,
    };
    match WITH_STATISTICS.contains(&name) {
        true => builder.set_statistics_enabled(EnabledStatistics::Chunk).build(),
        false => builder.build(),
    }
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
pub(super) fn to_rest(array: &ArrayRef, kind: ColumnType, ids: Option<&[u32]>) -> Result<ArrayRef> {
    Ok(match kind {
        ColumnType::Decimal => crate::decimal::encode(array.as_primitive::<Float64Type>(), ids),
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
