//! Columns after a program: what it set, and what was there before.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, StringArray, StringBuilder,
    TimestampNanosecondArray, UInt32Array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type};
use vrl::value::Value;
use weir_pipeline::entity::{self, build_column};
use weir_pipeline::signal::{META_JSON, Signal};

use super::values::{int, nanos, text, to_attribute, to_value};

/// What a cell of the new column is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cell<'a> {
    /// As it was in row `usize` of the column before.
    Before(usize),
    /// What the program set.
    Set(Option<&'a Value>),
}

/// The column `name` after a program: `before` where it was not set. Canonical columns keep their
/// type ([`super::values::check`] was passed), others take the narrowest that holds all their
/// values.
pub(super) fn column(
    signal: &Signal,
    name: &str,
    before: Option<&ArrayRef>,
    was_json: bool,
    cells: &[Cell<'_>],
) -> (Field, ArrayRef) {
    if let Some(kind) = signal.canonical_type(name)
        && let Some(array) = typed(&kind, before.filter(|a| *a.data_type() == kind), cells)
    {
        let json = was_json && kind == DataType::Utf8;
        return (field(name, array.data_type(), json), array);
    }
    if let Some(kind) = uniform(before, was_json, cells)
        && let Some(array) = typed(&kind, before.filter(|a| *a.data_type() == kind), cells)
    {
        return (field(name, array.data_type(), false), array);
    }
    let values: Vec<Option<entity::Value>> = cells
        .iter()
        .map(|cell| match cell {
            Cell::Set(value) => value.and_then(to_attribute),
            Cell::Before(row) => before.and_then(|a| attribute_at(a, *row, was_json)),
        })
        .collect();
    let json = values.iter().any(|v| matches!(v, Some(entity::Value::Json(_))));
    let array = build_column(values.iter().map(Option::as_ref)).values;
    (field(name, array.data_type(), json && *array.data_type() == DataType::Utf8), array)
}

/// The field of a column that a program set.
pub(super) fn field(name: &str, kind: &DataType, json: bool) -> Field {
    let field = Field::new(name, kind.clone(), true);
    if json {
        field.with_metadata([(META_JSON.to_owned(), "true".to_owned())].into())
    } else {
        field
    }
}

/// The type that all cells have in common, `None` where they differ or hold JSON: what
/// [`build_column`] would give, found without making a value of each.
fn uniform(before: Option<&ArrayRef>, was_json: bool, cells: &[Cell<'_>]) -> Option<DataType> {
    let mut common = None;
    for cell in cells {
        let kind = match cell {
            Cell::Set(None | Some(Value::Null)) => continue,
            Cell::Set(Some(Value::Integer(_))) => DataType::Int64,
            Cell::Set(Some(Value::Float(_))) => DataType::Float64,
            Cell::Set(Some(Value::Boolean(_))) => DataType::Boolean,
            Cell::Set(Some(Value::Object(_) | Value::Array(_))) => return None,
            Cell::Set(Some(_)) => DataType::Utf8,
            Cell::Before(row) => match before.filter(|a| a.is_valid(*row)).map(|a| a.data_type()) {
                None => continue,
                Some(DataType::Utf8) if was_json => return None,
                Some(
                    kind @ (DataType::Utf8
                    | DataType::Int64
                    | DataType::Float64
                    | DataType::Boolean),
                ) => kind.clone(),
                Some(_) => return None,
            },
        };
        match &common {
            None => common = Some(kind),
            Some(c) if *c == kind => {}
            Some(_) => return None,
        }
    }
    Some(common.unwrap_or(DataType::Utf8))
}

fn attribute_at(array: &ArrayRef, i: usize, json: bool) -> Option<entity::Value> {
    if array.is_null(i) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Utf8 if json => entity::Value::Json(array.as_string::<i32>().value(i).into()),
        DataType::Utf8 => entity::Value::Text(array.as_string::<i32>().value(i).into()),
        DataType::Int64 => entity::Value::Int(array.as_primitive::<Int64Type>().value(i)),
        DataType::Float64 => entity::Value::Double(array.as_primitive::<Float64Type>().value(i)),
        DataType::Boolean => entity::Value::Bool(array.as_boolean().value(i)),
        _ => to_attribute(&to_value(array, i)?)?,
    })
}

/// A column of type `kind`; `before` has that type.
fn typed(kind: &DataType, before: Option<&ArrayRef>, cells: &[Cell<'_>]) -> Option<ArrayRef> {
    macro_rules! build {
        ($array:ty, $set:expr) => {{
            let old = before.and_then(|a| a.as_any().downcast_ref::<$array>());
            <$array>::from_iter(cells.iter().map(|cell| match cell {
                Cell::Before(row) => old.filter(|a| a.is_valid(*row)).map(|a| a.value(*row)),
                Cell::Set(value) => value.and_then($set),
            }))
        }};
    }
    Some(match kind {
        DataType::Utf8 => Arc::new(texts(before, cells)),
        DataType::Int64 => Arc::new(build!(Int64Array, int)),
        DataType::Float64 => Arc::new(build!(Float64Array, |v: &Value| match v {
            Value::Float(v) => Some(v.into_inner()),
            Value::Integer(v) => Some(*v as f64),
            _ => None,
        })),
        DataType::Boolean => Arc::new(build!(BooleanArray, Value::as_boolean)),
        DataType::Timestamp(..) => {
            Arc::new(build!(TimestampNanosecondArray, nanos).with_timezone("UTC"))
        }
        // A struct can only be kept or deleted.
        _ => {
            let rows: Vec<Option<u32>> = cells
                .iter()
                .map(|cell| match cell {
                    Cell::Before(row) => Some(*row as u32),
                    Cell::Set(_) => None,
                })
                .collect();
            return take(before?, &UInt32Array::from(rows), None).ok();
        }
    })
}

fn texts(before: Option<&ArrayRef>, cells: &[Cell<'_>]) -> StringArray {
    let old = before.and_then(|a| a.as_string_opt::<i32>());
    let mut out = StringBuilder::with_capacity(cells.len(), cells.len() * TEXT_BYTES);
    for cell in cells {
        match cell {
            Cell::Before(row) => match old.filter(|a| a.is_valid(*row)) {
                Some(old) => out.append_value(old.value(*row)),
                None => out.append_null(),
            },
            Cell::Set(None | Some(Value::Null)) => out.append_null(),
            Cell::Set(Some(value)) => out.append_value(match value {
                Value::Bytes(bytes) => String::from_utf8_lossy(bytes),
                other => Cow::Owned(text(other)),
            }),
        }
    }
    out.finish()
}

/// Room for a text at first, bytes: about a word.
const TEXT_BYTES: usize = 16;
