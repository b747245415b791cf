//! Brings a batch to the shapes that tables have: row columns of the closed set of types, and a
//! `timestamp` in every row.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringArray,
    TimestampNanosecondArray,
};
use arrow::compute::{cast, max, min};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, TimestampNanosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use weir_pipeline::batch::Batch;
use weir_pipeline::entity::double_text;
use weir_pipeline::signal;

use crate::error::Result;
use crate::types::ColumnType;

/// The name of the column that every table has.
pub(crate) const TIMESTAMP: &str = "timestamp";

/// A batch as the store holds it, with its range of time.
pub(crate) struct Normal {
    pub(crate) batch: Batch,
    pub(crate) min_time: i64,
    pub(crate) max_time: i64,
}

/// `batch` with row columns of the closed set of types. A missing time becomes the time at which
/// its entry was received. `None` for an empty batch.
pub(crate) fn normalise(batch: &Batch) -> Result<Option<Normal>> {
    if batch.num_rows() == 0 {
        return Ok(None);
    }
    let rows = batch.rows();
    let times = times(batch)?;
    let (Some(min_time), Some(max_time)) = (min(&times), max(&times)) else { return Ok(None) };
    let same = rows.schema_ref().fields().iter().all(|f| {
        ColumnType::from_arrow(f.data_type()).is_some_and(|t| t.at_rest() == *f.data_type())
    });
    let stamped = rows.column_by_name(TIMESTAMP).is_some_and(|a| a.null_count() == 0);
    if same && stamped {
        return Ok(Some(Normal { batch: batch.clone(), min_time, max_time }));
    }
    let mut fields: Vec<Arc<Field>> = Vec::with_capacity(rows.num_columns() + 1);
    let mut arrays = Vec::with_capacity(rows.num_columns() + 1);
    for (field, array) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        if field.name() == TIMESTAMP {
            continue;
        }
        let array = closed(array)?;
        let mut field = field.as_ref().clone().with_nullable(true);
        if is_nested(rows.column_by_name(field.name())) && *array.data_type() == DataType::Utf8 {
            let mut meta = field.metadata().clone();
            meta.insert(signal::META_JSON.to_owned(), "true".to_owned());
            field = field.with_metadata(meta);
        }
        fields.push(Arc::new(field.with_data_type(array.data_type().clone())));
        arrays.push(array);
    }
    fields.push(Arc::new(Field::new(TIMESTAMP, signal::timestamp(), false)));
    arrays.push(Arc::new(times));
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let rows = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?;
    Ok(Some(Normal { batch: batch.with_rows(rows)?, min_time, max_time }))
}

fn is_nested(array: Option<&ArrayRef>) -> bool {
    array.is_some_and(|a| a.data_type().is_nested())
}

/// The time of each row, UTC nanoseconds, without nulls.
fn times(batch: &Batch) -> Result<TimestampNanosecondArray> {
    let column = batch.array(TIMESTAMP);
    let column = match column {
        // Overflow and nonsense become NULL, and NULL becomes the time of receipt.
        Some(array) => cast(&array, &signal::timestamp()).ok(),
        None => None,
    };
    if let Some(array) = &column
        && array.null_count() == 0
    {
        return Ok(array.as_primitive::<TimestampNanosecondType>().clone());
    }
    let given = column.as_ref().map(|a| a.as_primitive::<TimestampNanosecondType>());
    let mut values = Vec::with_capacity(batch.num_rows());
    for run in batch.runs().iter() {
        for _ in 0..run.rows {
            let row = values.len();
            values.push(match given {
                Some(array) if array.is_valid(row) => array.value(row),
                _ => run.received,
            });
        }
    }
    Ok(TimestampNanosecondArray::from(values).with_timezone("UTC"))
}

/// An array as one of the closed set of types: the nearest that loses nothing, else text.
fn closed(array: &ArrayRef) -> Result<ArrayRef> {
    let t = array.data_type();
    if let Some(kind) = ColumnType::from_arrow(t) {
        return Ok(if kind.at_rest() == *t {
            array.clone()
        } else {
            cast(array, &kind.at_rest())?
        });
    }
    Ok(match t {
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::Duration(_) => cast(array, &DataType::Int64)?,
        DataType::UInt64 => {
            let ints = cast(array, &DataType::Int64)?;
            if ints.null_count() == array.null_count() {
                ints
            } else {
                cast(array, &DataType::Utf8)?
            }
        }
        DataType::Float16 | DataType::Float32 => cast(array, &DataType::Float64)?,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            cast(array, &signal::timestamp())?
        }
        DataType::Dictionary(_, values) => closed(&cast(array, values)?)?,
        DataType::LargeUtf8 | DataType::Utf8View => cast(array, &DataType::Utf8)?,
        DataType::Null => arrow::array::new_null_array(&DataType::Utf8, array.len()),
        t if t.is_nested() => Arc::new(json_text(array)?),
        _ => Arc::new(display_text(array)?),
    })
}

/// Nested values as JSON text.
fn json_text(array: &ArrayRef) -> Result<StringArray> {
    let schema = Schema::new(vec![Field::new("v", array.data_type().clone(), true)]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![array.clone()])?;
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    writer.write(&batch)?;
    writer.finish()?;
    let text = writer.into_inner();
    let lines = text.split(|&b| b == b'\n').filter(|l| !l.is_empty());
    Ok(lines
        .enumerate()
        .map(|(i, line)| {
            // `{"v":…}`, or `{}` for NULL.
            let inner = line.strip_prefix(b"{\"v\":").and_then(|l| l.strip_suffix(b"}"));
            inner.filter(|_| array.is_valid(i)).and_then(|l| std::str::from_utf8(l).ok())
        })
        .collect())
}

fn display_text(array: &ArrayRef) -> Result<StringArray> {
    let format = FormatOptions::default();
    let format = ArrayFormatter::try_new(array.as_ref(), &format)?;
    Ok((0..array.len()).map(|i| array.is_valid(i).then(|| format.value(i).to_string())).collect())
}

/// The narrowest type that holds the values of all `arrays` exactly. Ints past 2^53 beside
/// doubles make text.
pub(crate) fn common_type(arrays: &[&ArrayRef]) -> ColumnType {
    let mut common: Option<ColumnType> = None;
    for array in arrays.iter().filter(|a| a.null_count() < a.len()) {
        let kind = ColumnType::of_array(array).unwrap_or(ColumnType::Text);
        common = Some(common.map_or(kind, |c| c.widen(kind)));
    }
    common.unwrap_or_else(|| {
        let first = arrays.first().and_then(|a| ColumnType::from_arrow(a.data_type()));
        first.unwrap_or(ColumnType::Text)
    })
}

/// `array` (of the closed set) as `kind`, which is as wide or wider.
pub(crate) fn widen_array(array: &ArrayRef, kind: ColumnType) -> Result<ArrayRef> {
    let target = kind.at_rest();
    let from = array.data_type();
    if *from == target {
        return Ok(array.clone());
    }
    if array.null_count() == array.len() {
        return Ok(arrow::array::new_null_array(&target, array.len()));
    }
    if target != DataType::Utf8 {
        return Ok(cast(array, &target)?);
    }
    // The text that `Value::to_text` gives.
    Ok(match from {
        DataType::Float64 => {
            let doubles = array.as_primitive::<Float64Type>();
            Arc::new(doubles.iter().map(|v| v.map(double_text)).collect::<StringArray>())
        }
        DataType::Boolean | DataType::Int64 => cast(array, &target)?,
        t if t.is_nested() => Arc::new(json_text(array)?),
        _ => Arc::new(display_text(array)?),
    })
}

/// Splits off the rows whose time is outside `[received - keep, received + ahead]` of their own
/// entry: those that stay, and those that do not.
pub(crate) fn split_late(
    normal: Normal,
    keep: Option<std::time::Duration>,
    ahead: std::time::Duration,
) -> Result<(Option<Normal>, Option<Normal>)> {
    let ns = |d: std::time::Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    let low = |received: i64| keep.map_or(i64::MIN, |k| received.saturating_sub(ns(k)));
    let high = |received: i64| received.saturating_add(ns(ahead));
    let runs = normal.batch.runs();
    let inside = runs
        .iter()
        .all(|r| low(r.received) <= normal.min_time && normal.max_time <= high(r.received));
    if inside {
        return Ok((Some(normal), None));
    }
    let times = times(&normal.batch)?;
    let mut mask = Vec::with_capacity(times.len());
    for run in runs.iter() {
        let (low, high) = (low(run.received), high(run.received));
        let start = mask.len();
        mask.extend(
            times.values()[start..start + run.rows].iter().map(|t| low <= *t && *t <= high),
        );
    }
    let mask = BooleanArray::from(mask);
    let stay = normal.batch.filter(&mask)?;
    let go = normal.batch.filter(&arrow::compute::not(&mask)?)?;
    Ok((normalise(&stay)?, normalise(&go)?))
}
