//! From what files and databases give to the few types that columns have here.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch,
    RecordBatchOptions, StringArray, TimestampNanosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::error::ArrowError;
use weir_pipeline::lookup::instant;

use super::Type;
use super::numbers::numbers;

/// The same rows with columns of bool, int, double, text and UTC nanoseconds; numbers that these
/// may not hold are what holds them exactly, and what is nested becomes JSON text.
pub(super) fn plain(rows: &RecordBatch) -> Result<RecordBatch, String> {
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns()).map(|(field, column)| {
        let column = match plain_type(column.data_type()) {
            Some(Kind::Of(kind)) => cast(column, &kind)?,
            Some(Kind::Number) => {
                let texts = cast(column, &DataType::Utf8)?;
                numbers(text(&texts)).map_err(ArrowError::CastError)?
            }
            None => json(field.name(), column)?,
        };
        Ok((Field::new(field.name(), column.data_type().clone(), true), column))
    });
    let columns: Result<Vec<(Field, ArrayRef)>, ArrowError> = columns.collect();
    batch(columns.map_err(|e| e.to_string())?, rows.num_rows())
}

/// What a column becomes.
enum Kind {
    Of(DataType),
    Number,
}

fn plain_type(kind: &DataType) -> Option<Kind> {
    Some(Kind::Of(match kind {
        DataType::Boolean => DataType::Boolean,
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32 => DataType::Int64,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => DataType::Float64,
        DataType::UInt64
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => return Some(Kind::Number),
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))
        }
        DataType::Dictionary(_, values) => return plain_type(values),
        kind if kind.is_nested() => return None,
        _ => DataType::Utf8,
    }))
}

/// Each value of a nested column as JSON text.
fn json(name: &str, column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let field = Field::new(name, column.data_type().clone(), true);
    let rows = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column.clone()])?;
    let mut text = Vec::new();
    let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
    let mut writer = builder.build::<_, arrow::json::writer::LineDelimited>(&mut text);
    writer.write(&rows)?;
    writer.finish()?;
    let lines = text.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    let values = lines.map(|line| {
        let row: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line).ok()?;
        row.get(name).filter(|v| !v.is_null()).map(ToString::to_string)
    });
    Ok(Arc::new(values.collect::<StringArray>()))
}

/// Rows of these columns.
pub(super) fn batch(columns: Vec<(Field, ArrayRef)>, rows: usize) -> Result<RecordBatch, String> {
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .map_err(|e| e.to_string())
}

/// A column of text as the narrowest type that all its values are written in as it would write
/// them: `007` and `1.10` stay text. Empty is NULL.
pub(super) fn narrowed(column: &StringArray) -> ArrayRef {
    let values = || column.iter().map(|v| v.filter(|v| !v.is_empty()));
    if column.iter().flatten().all(str::is_empty) {
        return Arc::new(values().collect::<StringArray>());
    }
    if values().flatten().all(|v| v.parse::<i64>().is_ok_and(|n| n.to_string() == v)) {
        return Arc::new(values().map(|v| v?.parse().ok()).collect::<Int64Array>());
    }
    let as_written = |v: &str| v.parse::<f64>().is_ok_and(|n| n.is_finite() && n.to_string() == v);
    if values().flatten().all(as_written) {
        return Arc::new(values().map(|v| v?.parse().ok()).collect::<Float64Array>());
    }
    if values().flatten().all(|v| v == "true" || v == "false") {
        return Arc::new(values().map(|v| Some(v? == "true")).collect::<BooleanArray>());
    }
    Arc::new(values().collect::<StringArray>())
}

/// A column of text as a type that was asked for.
///
/// # Errors
/// At the first value that is none of it.
pub(super) fn typed(column: &StringArray, kind: Type) -> Result<ArrayRef, String> {
    fn all<T>(
        column: &StringArray,
        what: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<Option<T>>, String> {
        let parsed = (0..column.len()).map(|row| {
            let text = column.is_valid(row).then(|| column.value(row).trim());
            let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok(None) };
            let wrong = || format!("`{text}` in row {} is no {what}", row + 1);
            parse(text).map(Some).ok_or_else(wrong)
        });
        parsed.collect()
    }
    Ok(match kind {
        Type::Text => Arc::new(column.clone()),
        Type::Int => Arc::new(Int64Array::from(all(column, "int", |t| t.parse().ok())?)),
        Type::Double => Arc::new(Float64Array::from(all(column, "double", |t| t.parse().ok())?)),
        Type::Bool => {
            let parse = |t: &str| match t.to_ascii_lowercase().as_str() {
                "true" | "t" | "1" | "yes" => Some(true),
                "false" | "f" | "0" | "no" => Some(false),
                _ => None,
            };
            Arc::new(BooleanArray::from(all(column, "bool", parse)?))
        }
        Type::Time => {
            let times = TimestampNanosecondArray::from(all(column, "time", instant)?);
            Arc::new(times.with_timezone("UTC"))
        }
    })
}

/// The text of a column that is known to be text.
pub(super) fn text(column: &ArrayRef) -> &StringArray {
    column.as_string::<i32>()
}
