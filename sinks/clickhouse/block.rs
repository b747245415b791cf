//! Rows that wait to be sent together.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    TimestampNanosecondArray, new_null_array,
};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, TimestampNanosecondType};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use weir_pipeline::batch::{Batch, Level};

use super::table::Kind;

/// Metadata of a field whose values are the same for all rows of an entity.
const ENTITY: &str = "weir.entity";

/// Rows in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Block {
    batches: Vec<RecordBatch>,
    rows: usize,
    /// Bytes of its values, however rows were cut.
    bytes: usize,
    /// Ticks that came since the first row.
    pub(super) ticks: u32,
}

/// A column of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) kind: Kind,
    /// Whether it is the same for all rows of an entity.
    pub(super) entity: bool,
}

impl Block {
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the rows of `batch` with the columns of both levels that have a value.
    pub(super) fn add(&mut self, batch: &Batch) -> Result<(), ArrowError> {
        let wide = timed(batch, batch.wide()?)?;
        let column = |(field, array): (&Arc<Field>, &ArrayRef)| -> Result<_, ArrowError> {
            let entity = batch.level(field.name()) == Some(Level::Entity);
            let array = plain(array)?;
            let mut field = Field::new(field.name(), array.data_type().clone(), true);
            if entity {
                field.set_metadata([(ENTITY.to_owned(), String::new())].into());
            }
            Ok((field, array))
        };
        let both = wide.schema_ref().fields().iter().zip(wide.columns());
        let (fields, arrays): (Vec<_>, Vec<_>) =
            both.map(column).collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        self.push(batch_of(fields, arrays, wide.num_rows())?);
        Ok(())
    }

    fn push(&mut self, batch: RecordBatch) {
        self.rows += batch.num_rows();
        self.bytes += batch.columns().iter().map(bytes).sum::<usize>();
        self.batches.push(batch);
    }

    /// What columns it takes, each of the narrowest type that holds all its values.
    pub(super) fn columns(&self) -> BTreeMap<String, Wanted> {
        let mut columns: BTreeMap<String, Wanted> = BTreeMap::new();
        for field in self.batches.iter().flat_map(|b| b.schema_ref().fields()) {
            let kind = Kind::of(field.data_type());
            let entity = field.metadata().contains_key(ENTITY);
            let known = columns.entry(field.name().clone()).or_insert(Wanted { kind, entity });
            *known = Wanted { kind: known.kind.with(kind), entity: known.entity && entity };
        }
        columns
    }

    /// All rows, with the columns that the table has, in its types; and how many values have no
    /// column, or one that does not take them.
    pub(super) fn joined(
        &self,
        table: &BTreeMap<String, Option<Kind>>,
    ) -> Result<(RecordBatch, usize), ArrowError> {
        let (mut fields, mut arrays, mut left_out) = (Vec::new(), Vec::new(), 0);
        for (name, wanted) in self.columns() {
            let Some(kind) = table.get(&name) else {
                let values = self.batches.iter().filter_map(|b| b.column_by_name(&name));
                left_out += values.map(|a| a.len() - a.null_count()).sum::<usize>();
                continue;
            };
            let kind = kind.unwrap_or(wanted.kind).data_type();
            let mut parts = Vec::with_capacity(self.batches.len());
            for batch in &self.batches {
                parts.push(match batch.column_by_name(&name) {
                    Some(array) => {
                        let part = as_kind(array, &kind)?;
                        left_out += part.null_count() - array.null_count();
                        part
                    }
                    None => new_null_array(&kind, batch.num_rows()),
                });
            }
            arrays.push(concat(&parts.iter().map(|a| &**a).collect::<Vec<_>>())?);
            fields.push(Field::new(name, kind, true));
        }
        Ok((batch_of(fields, arrays, self.rows)?, left_out))
    }

    /// As bytes: ticks, then for each batch an Arrow stream behind its length.
    pub(super) fn encode(&self) -> Result<Vec<u8>, ArrowError> {
        let mut bytes = Vec::new();
        if self.rows == 0 {
            return Ok(bytes);
        }
        bytes.extend(self.ticks.to_le_bytes());
        for batch in &self.batches {
            let stream = arrow_stream(batch)?;
            bytes.extend((stream.len() as u64).to_le_bytes());
            bytes.extend(stream);
        }
        Ok(bytes)
    }

    /// The inverse of [`Block::encode`].
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ArrowError> {
        let mut block = Self::default();
        let cut = || ArrowError::ParseError("what waits for ClickHouse is cut".into());
        let Some((ticks, mut rest)) = bytes.split_first_chunk() else { return Ok(block) };
        block.ticks = u32::from_le_bytes(*ticks);
        while !rest.is_empty() {
            let (len, more) = rest.split_first_chunk().ok_or_else(cut)?;
            let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| cut())?;
            let (stream, more) = more.split_at_checked(len).ok_or_else(cut)?;
            for batch in StreamReader::try_new(Cursor::new(stream), None)? {
                block.push(batch?);
            }
            rest = more;
        }
        Ok(block)
    }
}

/// `batch` as an Arrow stream.
pub(super) fn arrow_stream(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref())?;
    writer.write(batch)?;
    writer.into_inner()
}

fn batch_of(
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
}

/// A column in one of the types of [`Kind`]: objects become JSON.
fn plain(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let kind = Kind::of(array.data_type()).data_type();
    match array.data_type() {
        DataType::Struct(_) => Ok(Arc::new(json(array)?)),
        same if *same == kind => Ok(array.clone()),
        _ => cast(array, &kind),
    }
}

/// A column as another kind; NULL is what cannot be that without becoming something else.
fn as_kind(array: &ArrayRef, kind: &DataType) -> Result<ArrayRef, ArrowError> {
    match (array.data_type(), kind) {
        (from, to) if from == to => Ok(array.clone()),
        (DataType::List(_), DataType::Utf8) => Ok(Arc::new(json(array)?)),
        (_, DataType::Utf8)
        | (DataType::Int64, DataType::Float64)
        | (DataType::Utf8, DataType::Int64 | DataType::Float64 | DataType::Timestamp(..)) => {
            cast(array, kind)
        }
        (DataType::Float64, DataType::Int64) => {
            let doubles = array.as_primitive::<Float64Type>().iter();
            let whole = |v: f64| (v.fract() == 0.0 && v.abs() <= WHOLE).then_some(v as i64);
            Ok(Arc::new(doubles.map(|v| v.and_then(whole)).collect::<Int64Array>()))
        }
        _ => Ok(new_null_array(kind, array.len())),
    }
}

/// Up to here a double holds every whole number.
const WHOLE: f64 = 9_007_199_254_740_992.0;

/// Bytes of the values of a column.
fn bytes(array: &ArrayRef) -> usize {
    match array.as_string_opt::<i32>() {
        Some(texts) => {
            let offsets = texts.value_offsets();
            (offsets[offsets.len() - 1] - offsets[0]) as usize + size_of::<i32>() * texts.len()
        }
        None => size_of::<i64>() * array.len(),
    }
}

/// Rows without a time get that of their receipt.
fn timed(batch: &Batch, wide: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let times = wide.column_by_name(TIMESTAMP).cloned();
    if times.as_ref().is_some_and(|t| t.null_count() == 0) {
        return Ok(wide);
    }
    let received = batch.runs().iter().flat_map(|r| std::iter::repeat_n(r.received, r.rows));
    let known = times.as_ref().and_then(|t| t.as_primitive_opt::<TimestampNanosecondType>());
    let filled = received.enumerate().map(|(row, received)| {
        known.filter(|t| t.is_valid(row)).map_or(received, |t| t.value(row))
    });
    let filled: ArrayRef =
        Arc::new(TimestampNanosecondArray::from_iter_values(filled).with_timezone("UTC"));
    let rows = wide.num_rows();
    let others = wide.schema_ref().fields().iter().zip(wide.columns());
    let others = others.filter(|(field, _)| field.name() != TIMESTAMP);
    let field = Field::new(TIMESTAMP, filled.data_type().clone(), true);
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = others
        .map(|(field, array)| (field.as_ref().clone(), array.clone()))
        .chain([(field, filled)])
        .unzip();
    batch_of(fields, arrays, rows)
}

const TIMESTAMP: &str = "timestamp";

/// Each value as JSON text.
fn json(array: &ArrayRef) -> Result<StringArray, ArrowError> {
    let field = Field::new("v", array.data_type().clone(), true);
    let rows = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![array.clone()])?;
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    writer.write(&rows)?;
    writer.finish()?;
    let lines = writer.into_inner();
    // A line is `{"v":...}`, and `{}` for NULL.
    let value = |line: &[u8]| {
        let value = line.strip_prefix(b"{\"v\":").and_then(|v| v.strip_suffix(b"}"));
        value.map(|v| String::from_utf8_lossy(v).into_owned())
    };
    let values = lines.split(|&b| b == b'\n').take(array.len()).map(value);
    Ok(values.collect())
}
