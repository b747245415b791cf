//! Values in templates, and the filters that shape them.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampNanosecondType};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use weir_pipeline::entity::double_text;

/// One value of a column.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    /// UTC nanoseconds.
    Time(i64),
    Text(String),
}

impl Scalar {
    /// The value at `row`, which must be in the array. What has no shape here is text.
    pub(super) fn read(values: &ArrayRef, row: usize) -> Self {
        if values.is_null(row) {
            return Self::Null;
        }
        let one = values.slice(row, 1);
        let to = |t: DataType| cast(&one, &t).ok().filter(|a| a.is_valid(0));
        let read = match values.data_type() {
            DataType::Null => None,
            DataType::Boolean => Some(Self::Bool(one.as_boolean().value(0))),
            t if t.is_integer() => {
                to(DataType::Int64).map(|a| Self::Int(a.as_primitive::<Int64Type>().value(0)))
            }
            t if t.is_numeric() => to(DataType::Float64)
                .map(|a| Self::Double(a.as_primitive::<Float64Type>().value(0))),
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
                to(DataType::Timestamp(TimeUnit::Nanosecond, None))
                    .map(|a| Self::Time(a.as_primitive::<TimestampNanosecondType>().value(0)))
            }
            _ => None,
        };
        read.unwrap_or_else(|| {
            let text = to(DataType::Utf8).map(|a| a.as_string::<i32>().value(0).to_owned());
            text.map_or(Self::Null, Self::Text)
        })
    }

    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(v) => v.to_string(),
            Self::Int(v) => v.to_string(),
            Self::Double(v) => double_text(*v),
            Self::Time(v) => timestamp(*v).map(|t| t.to_string()).unwrap_or_default(),
            Self::Text(v) => v.clone(),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(v) => (*v).into(),
            Self::Int(v) => (*v).into(),
            // JSON has no NaN and no infinities.
            Self::Double(v) if v.is_finite() => (*v).into(),
            other => other.to_text().into(),
        }
    }

    fn number(&self, filter: &str) -> Result<f64, String> {
        let number = match self {
            Self::Int(v) => Some(*v as f64),
            Self::Double(v) => Some(*v),
            Self::Text(v) => v.trim().parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| format!("{filter} of `{}`", self.to_text()))
    }
}

fn timestamp(nanoseconds: i64) -> Option<Timestamp> {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()
}

/// A filter with its argument proved.
#[derive(Clone, Debug)]
pub(super) enum Filter {
    Bytes,
    /// Nanoseconds per unit.
    Duration(f64),
    Percent,
    Round(usize),
    Time(TimeZone),
    Json,
}

/// Most decimals that a double can mean.
const DECIMALS_MAX: usize = 17;

const UNITS: [(&str, f64); 6] =
    [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

impl Filter {
    pub(super) const NAMES: [&'static str; 6] =
        ["bytes", "duration", "json", "percent", "round", "time"];

    /// The filter `name`, one of [`Filter::NAMES`].
    ///
    /// # Errors
    /// If the argument does not suit it.
    pub(super) fn new(name: &str, argument: Option<&str>) -> Result<Self, String> {
        match (name, argument) {
            ("bytes", None) => Ok(Self::Bytes),
            ("percent", None) => Ok(Self::Percent),
            ("json", None) => Ok(Self::Json),
            ("duration", unit) => {
                let unit = unit.unwrap_or("ns");
                let found = UNITS.iter().find(|(n, _)| *n == unit);
                found.map(|(_, n)| Self::Duration(*n)).ok_or_else(|| {
                    format!("`{unit}` is no unit, expected `ns`, `us`, `ms`, `s`, `m` or `h`")
                })
            }
            ("round", digits) => match digits.unwrap_or("0").parse() {
                Ok(digits) if digits <= DECIMALS_MAX => Ok(Self::Round(digits)),
                _ => Err(format!("`round` takes a number of decimals up to {DECIMALS_MAX}")),
            },
            ("time", zone) => {
                let zone = zone.unwrap_or("UTC");
                TimeZone::get(zone)
                    .map(Self::Time)
                    .map_err(|_| format!("there is no time zone `{zone}`"))
            }
            (name, _) => Err(format!("filter `{name}` takes no argument")),
        }
    }

    /// NULL goes through every filter as it is.
    pub(super) fn apply(&self, value: Scalar) -> Result<Scalar, String> {
        if value == Scalar::Null && !matches!(self, Self::Json) {
            return Ok(value);
        }
        let text = match self {
            Self::Bytes => bytes(value.number("bytes")?),
            Self::Duration(unit) => duration(value.number("duration")? * unit),
            Self::Percent => format!("{} %", short(value.number("percent")? * 100.0)),
            Self::Round(digits) => format!("{:.digits$}", value.number("round")?),
            Self::Json => value.to_json().to_string(),
            Self::Time(zone) => {
                let time = match &value {
                    Scalar::Time(t) => timestamp(*t),
                    Scalar::Int(t) => timestamp(*t),
                    Scalar::Text(t) => t.parse().ok(),
                    _ => None,
                };
                let time = time.ok_or_else(|| format!("time of `{}`", value.to_text()))?;
                time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
            }
        };
        Ok(Scalar::Text(text))
    }
}

/// Up to three significant digits after the leading ones, without trailing zeros.
fn short(v: f64) -> String {
    if !v.is_finite() {
        return double_text(v);
    }
    let digits = match v.abs() {
        a if a >= 100.0 => 0,
        a if a >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{v:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn bytes(v: f64) -> String {
    const NAMES: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut v = v;
    let mut unit = 0;
    while v.abs() >= 1024.0 && unit + 1 < NAMES.len() {
        v /= 1024.0;
        unit += 1;
    }
    format!("{} {}", short(v), NAMES[unit])
}

/// The two largest units: `1m 30s`, `2d 3h`; below a second one: `1.5ms`.
fn duration(ns: f64) -> String {
    if !ns.is_finite() {
        return double_text(ns);
    }
    let (sign, ns) = if ns < 0.0 { ("-", -ns) } else { ("", ns) };
    let small = [(1e3, 1.0, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms"), (60e9, 1e9, "s")];
    if let Some((_, unit, name)) = small.iter().find(|(below, ..)| ns < *below) {
        return format!("{sign}{}{name}", short(ns / unit));
    }
    let large = [(86_400e9, "d"), (3600e9, "h"), (60e9, "m"), (1e9, "s")];
    let first = large.iter().position(|(unit, _)| ns >= *unit).unwrap_or(3);
    let (unit, name) = large[first];
    let mut out = format!("{sign}{}{name}", (ns / unit).floor());
    if let Some((next, next_name)) = large.get(first + 1) {
        let rest = ((ns % unit) / next).floor();
        if rest > 0.0 {
            out = format!("{out} {rest}{next_name}");
        }
    }
    out
}
