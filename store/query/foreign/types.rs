//! Columns of ClickHouse as queries see them: what is asked for of each type, so that one of few
//! Arrow types comes, whatever the version.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use weir_pipeline::signal::timestamp;

/// What conditions may say of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Int,
    UInt64,
    Float,
    /// Text whose bytes are what is seen.
    Text,
    /// What is seen is a text made of the value.
    Words,
    Bool,
    /// Whole seconds of 1970 to 2106.
    DateTime,
    /// Of so many decimal places.
    DateTime64(u32),
    Date,
    Other,
}

/// A column that can be read.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) field: Field,
    pub(super) class: Class,
    /// The column itself.
    pub(super) raw: String,
    /// What is asked for: what is seen of it.
    pub(super) select: String,
}

/// A name in back quotes, whatever it holds.
pub(super) fn name(text: &str) -> String {
    format!("`{}`", text.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A text as a literal, whatever it holds.
pub(super) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// What stands in the brackets behind `outer`.
fn inside<'a>(kind: &'a str, outer: &str) -> Option<&'a str> {
    kind.strip_prefix(outer)?.strip_prefix('(')?.strip_suffix(')')
}

/// The first argument of a list, which may hold brackets and texts.
fn first(list: &str) -> (&str, &str) {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in list.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '\'' => quoted = !quoted,
            _ if quoted => {}
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => return (list[..at].trim(), list[at + 1..].trim()),
            _ => {}
        }
    }
    (list.trim(), "")
}

/// The type without what says how it is stored.
fn bare(kind: &str) -> &str {
    let kind = kind.trim();
    for outer in ["Nullable", "LowCardinality"] {
        if let Some(inner) = inside(kind, outer) {
            return bare(inner);
        }
    }
    match inside(kind, "SimpleAggregateFunction") {
        Some(list) => bare(first(list).1),
        None => kind,
    }
}

/// What is seen of a value `x` of a type: the Arrow type, what conditions may say of it, and how it is
/// asked for. `None`: nothing can be.
fn seen(kind: &str, x: &str) -> Option<(DataType, Class, String)> {
    let kind = bare(kind);
    let of = |t: DataType, class: Class, sql: String| Some((t, class, sql));
    let head = kind.split('(').next().unwrap_or(kind);
    match head {
        "Int8" | "Int16" | "Int32" | "Int64" | "UInt8" | "UInt16" | "UInt32" => {
            of(DataType::Int64, Class::Int, format!("toInt64({x})"))
        }
        "UInt64" => of(DataType::UInt64, Class::UInt64, x.to_owned()),
        "Float32" | "Float64" | "BFloat16" => {
            of(DataType::Float64, Class::Float, format!("toFloat64({x})"))
        }
        "Bool" => of(DataType::Boolean, Class::Bool, x.to_owned()),
        "String" => of(DataType::Utf8, Class::Text, format!("toValidUTF8({x})")),
        "FixedString" => of(DataType::Utf8, Class::Other, format!("toValidUTF8(toString({x}))")),
        "UUID" | "IPv4" | "IPv6" | "Enum8" | "Enum16" => {
            of(DataType::Utf8, Class::Words, format!("toString({x})"))
        }
        "Int128" | "Int256" | "UInt128" | "UInt256" | "Time" | "Time64" | "Nothing" => {
            of(DataType::Utf8, Class::Other, format!("toString({x})"))
        }
        head if head.starts_with("Interval") => {
            of(DataType::Utf8, Class::Other, format!("toString({x})"))
        }
        "Date" | "Date32" => of(DataType::Date32, Class::Date, format!("toDate32({x})")),
        "DateTime" => of(timestamp(), Class::DateTime, format!("toDateTime64({x}, 0, 'UTC')")),
        "DateTime64" => {
            let scale = first(inside(kind, head)?).0.parse().ok().filter(|s| *s <= 9)?;
            let sql = format!("toDateTime64({x}, {scale}, 'UTC')");
            of(timestamp(), Class::DateTime64(scale), sql)
        }
        "Decimal" => {
            let (precision, scale) = first(inside(kind, head)?);
            let (precision, scale) = (precision.parse::<u8>().ok()?, scale.parse::<i8>().ok()?);
            let t = match precision {
                0..=38 => DataType::Decimal128(precision, scale),
                _ => DataType::Decimal256(precision, scale),
            };
            of(t, Class::Other, x.to_owned())
        }
        "Array" => list(inside(kind, head)?, x),
        "AggregateFunction" => None,
        _ => of(DataType::Utf8, Class::Other, format!("toJSONString({x})")),
    }
}

/// What is seen of an array: a list where its items are of few types, else JSON.
fn list(item: &str, x: &str) -> Option<(DataType, Class, String)> {
    let (t, class, sql) = seen(item, "v")?;
    let plain = matches!(class, Class::Int | Class::UInt64 | Class::Float | Class::Text)
        || matches!(class, Class::Words | Class::Bool);
    if !plain {
        return Some((DataType::Utf8, Class::Other, format!("toJSONString({x})")));
    }
    let t = DataType::List(Arc::new(Field::new_list_field(t, true)));
    Some((t, Class::Other, format!("arrayMap(v -> {sql}, {x})")))
}

impl Column {
    /// `None` if values of the type cannot be read.
    pub(super) fn new(column: &str, kind: &str) -> Option<Self> {
        let raw = name(column);
        let (data_type, class, select) = seen(kind, &raw)?;
        Some(Self { field: Field::new(column, data_type, true), class, raw, select })
    }
}

/// The type that a column comes as, where it is not the one that is seen: times of few decimal
/// places, which have a wider range.
pub(super) fn fits(given: &DataType, wanted: &DataType) -> bool {
    match (given, wanted) {
        (DataType::Timestamp(_, Some(_)), DataType::Timestamp(TimeUnit::Nanosecond, _)) => true,
        (DataType::List(given) | DataType::LargeList(given), DataType::List(wanted)) => {
            fits(given.data_type(), wanted.data_type())
        }
        (
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary,
            DataType::Utf8,
        )
        | (DataType::UInt8, DataType::Boolean)
        | (DataType::Null, _) => true,
        (given, wanted) => given == wanted,
    }
}
