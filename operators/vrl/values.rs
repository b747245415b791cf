//! Between Arrow columns and VRL values.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, TimestampNanosecondType};
use vrl::value::{KeyString, ObjectMap, Value};
use weir_pipeline::batch::Batch;
use weir_pipeline::entity::{self, Entity, double_text};
use weir_pipeline::signal::{ATTRIBUTES, META_JSON, Signal};

use super::functions::time;

/// What a program can read: the columns of a batch, or the attributes of one entity.
#[derive(Debug)]
pub(super) struct Columns {
    columns: BTreeMap<String, Column>,
    /// The JSON column `attributes`, for names without a column.
    overflow: bool,
}

/// A column that a program can read.
#[derive(Debug)]
pub(super) enum Column {
    /// A row column.
    Row { array: ArrayRef, json: bool },
    /// An entity column, gathered when it is first read.
    Entity { batch: Arc<Batch>, array: OnceCell<Option<ArrayRef>> },
    /// An attribute of a single entity.
    Single(entity::Value),
}

impl Columns {
    /// Both levels of a batch.
    pub(super) fn of_batch(batch: &Batch) -> Self {
        let mut columns = BTreeMap::new();
        if let Some(entities) = batch.entities() {
            let batch = Arc::new(batch.clone());
            for name in entities.table.names() {
                let column = Column::Entity { batch: batch.clone(), array: OnceCell::new() };
                columns.insert(name.to_string(), column);
            }
        }
        for (field, array) in batch.rows().schema_ref().fields().iter().zip(batch.rows().columns())
        {
            let column = Column::Row { array: array.clone(), json: is_json(field) };
            columns.insert(field.name().clone(), column);
        }
        let overflow = columns.contains_key(ATTRIBUTES);
        Self { columns, overflow }
    }

    /// One entity, as a batch of one row.
    pub(super) fn of_entity(entity: &Entity) -> Self {
        let of = |a: &entity::Attribute| (a.name.to_string(), Column::Single(a.value.clone()));
        Self { columns: entity.attributes().iter().map(of).collect(), overflow: false }
    }

    /// The column `name`.
    pub(super) fn get(&self, name: &str) -> Option<&Column> {
        self.columns.get(name)
    }

    /// The value of `name` in row `index`; `None` for NULL.
    pub(super) fn value(&self, name: &str, index: usize) -> Option<Value> {
        match self.columns.get(name) {
            Some(column) => column.value(name, index),
            None if self.overflow => match self.value(ATTRIBUTES, index)? {
                Value::Object(mut object) => object.remove(name),
                _ => None,
            },
            None => None,
        }
    }

    /// Names of the columns in a range, sorted. Names in the overflow are not among them.
    pub(super) fn names<'a>(
        &'a self,
        range: (Bound<&str>, Bound<&str>),
    ) -> impl Iterator<Item = &'a str> {
        self.columns.range::<str, _>(range).map(|(name, _)| name.as_str())
    }

    /// Whether the column `name` holds objects as such, not as columns below it.
    pub(super) fn is_json(&self, name: &str) -> bool {
        match self.columns.get(name) {
            Some(Column::Row { array, json }) => {
                *json || matches!(array.data_type(), DataType::Struct(_))
            }
            _ => false,
        }
    }

    /// Whether `name` may stand only in the overflow.
    pub(super) fn in_overflow(&self, name: &str) -> bool {
        self.overflow && !self.columns.contains_key(name)
    }
}

impl Column {
    /// The value in row `index` of this column, which is called `name`; `None` for NULL.
    pub(super) fn value(&self, name: &str, index: usize) -> Option<Value> {
        match self {
            Self::Row { array, json: true } => parse(text_at(array, index)?),
            Self::Row { array, json: false } => to_value(array, index),
            Self::Entity { batch, array } => {
                to_value(array.get_or_init(|| batch.array(name)).as_ref()?, index)
            }
            Self::Single(value) => Some(from_attribute(value)),
        }
    }
}

/// Whether a column holds JSON as text.
pub(super) fn is_json(field: &Field) -> bool {
    field.metadata().get(META_JSON).is_some_and(|v| v == "true") || field.name() == ATTRIBUTES
}

fn text_at(array: &ArrayRef, index: usize) -> Option<&str> {
    let array = array.as_string_opt::<i32>()?;
    array.is_valid(index).then(|| array.value(index))
}

/// JSON text as a value; text that is no JSON stays text.
pub(super) fn parse(text: &str) -> Option<Value> {
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(json) => Some(Value::from(json)),
        Err(_) => Some(Value::from(text)),
    }
}

/// The value of one cell, `None` for NULL and for NaN, which VRL cannot hold.
pub(super) fn to_value(array: &ArrayRef, i: usize) -> Option<Value> {
    if array.is_null(i) {
        return None;
    }
    match array.data_type() {
        DataType::Utf8 => Some(Value::from(array.as_string::<i32>().value(i))),
        DataType::Int64 => Some(Value::Integer(array.as_primitive::<Int64Type>().value(i))),
        DataType::Float64 => from_double(array.as_primitive::<Float64Type>().value(i)),
        DataType::Boolean => Some(Value::Boolean(array.as_boolean().value(i))),
        DataType::Timestamp(..) => {
            let array = array.as_primitive_opt::<TimestampNanosecondType>()?;
            Some(Value::Timestamp(time(array.value(i))))
        }
        DataType::Struct(_) => {
            let array = array.as_struct();
            let mut object = ObjectMap::new();
            for (field, column) in array.fields().iter().zip(array.columns()) {
                if let Some(value) = to_value(column, i) {
                    object.insert(KeyString::from(field.name().as_str()), value);
                }
            }
            Some(Value::Object(object))
        }
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(i);
            let items = (0..items.len()).map(|j| to_value(&items, j).unwrap_or(Value::Null));
            Some(Value::Array(items.collect()))
        }
        _ => None,
    }
}

fn from_double(v: f64) -> Option<Value> {
    (!v.is_nan()).then(|| Value::from_f64_or_zero(v))
}

fn from_attribute(value: &entity::Value) -> Value {
    match value {
        entity::Value::Bool(v) => Value::Boolean(*v),
        entity::Value::Int(v) => Value::Integer(*v),
        entity::Value::Double(v) => from_double(*v).unwrap_or(Value::Null),
        entity::Value::Text(v) => Value::from(&**v),
        entity::Value::Json(v) => parse(v).unwrap_or(Value::Null),
    }
}

/// A value as an attribute, `None` for null. Times become RFC 3339 text.
pub(super) fn to_attribute(value: &Value) -> Option<entity::Value> {
    Some(match value {
        Value::Null => return None,
        Value::Boolean(v) => entity::Value::Bool(*v),
        Value::Integer(v) => entity::Value::Int(*v),
        Value::Float(v) => entity::Value::Double(v.into_inner()),
        Value::Object(_) | Value::Array(_) => {
            entity::Value::Json(serde_json::to_string(value).unwrap_or_default().into())
        }
        other => entity::Value::Text(text(other).into()),
    })
}

/// A scalar as text.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Value::String(s) => s.to_string(),
        Value::Integer(v) => v.to_string(),
        Value::Float(v) => double_text(v.into_inner()),
        Value::Boolean(v) => v.to_string(),
        Value::Timestamp(t) => t.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
        Value::Regex(r) => r.to_string(),
        Value::Null => String::new(),
        other => serde_json::to_string(other).unwrap_or_default(),
    }
}

/// Checks that `value` can stand in the canonical column of `signal` called `name`; other columns
/// take anything.
pub(super) fn check(signal: &Signal, name: &str, value: &Value) -> Result<(), String> {
    signal.canonical_type(name).map_or(Ok(()), |kind| check_kind(&kind, name, value))
}

/// As [`check`], of a canonical column of type `kind`.
pub(super) fn check_kind(kind: &DataType, name: &str, value: &Value) -> Result<(), String> {
    let fits = match (kind, value) {
        (_, Value::Null) | (DataType::Utf8, _) => true,
        (DataType::Int64, v) => int(v).is_some(),
        (DataType::Float64, v) => matches!(v, Value::Float(_) | Value::Integer(_)),
        (DataType::Boolean, v) => matches!(v, Value::Boolean(_)),
        (DataType::Timestamp(..), v) => nanos(v).is_some(),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let takes = match kind {
        DataType::Int64 => "an integer",
        DataType::Float64 => "a number",
        DataType::Boolean => "a boolean",
        DataType::Timestamp(..) => "a timestamp",
        _ => return Err(format!("column `{name}` cannot be set by a program")),
    };
    Err(format!("column `{name}` takes {takes}, not {}", value.kind_str()))
}

pub(super) fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(v) => Some(*v),
        Value::Float(v) if v.fract() == 0.0 && v.abs() <= 9e15 => Some(v.into_inner() as i64),
        _ => None,
    }
}

pub(super) fn nanos(value: &Value) -> Option<i64> {
    match value {
        Value::Timestamp(t) => t.timestamp_nanos_opt(),
        Value::Integer(v) => Some(*v),
        Value::Bytes(_) | Value::String(_) => {
            let time = chrono::DateTime::parse_from_rfc3339(&text(value)).ok()?;
            time.timestamp_nanos_opt()
        }
        _ => None,
    }
}
