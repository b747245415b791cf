//! Values as keys are compared: as text, so that `42` finds 42 whatever the type of either column.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampNanosecondType};

use crate::entity::double_text;

/// A column as the text that its values are compared by.
#[derive(Clone, Debug)]
pub struct Canonical(StringArray);

impl Canonical {
    /// # Errors
    /// If the type has no text (a list, a struct).
    pub fn of(column: &ArrayRef) -> Result<Self, String> {
        if let DataType::Dictionary(_, values) = column.data_type() {
            let plain = cast(column, values).map_err(|e| e.to_string())?;
            return Self::of(&plain);
        }
        let text: ArrayRef = match column.data_type() {
            DataType::Utf8 => column.clone(),
            DataType::Float16 | DataType::Float32 | DataType::Float64 => {
                let doubles = cast(column, &DataType::Float64).map_err(|e| e.to_string())?;
                let doubles = doubles.as_primitive::<Float64Type>();
                Arc::new(doubles.iter().map(|v| v.map(double_text)).collect::<StringArray>())
            }
            DataType::Timestamp(..) => {
                let nanos = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
                let times = cast(column, &nanos).map_err(|e| e.to_string())?;
                let times = times.as_primitive::<TimestampNanosecondType>();
                Arc::new(times.iter().map(|v| v.map(|v| v.to_string())).collect::<StringArray>())
            }
            _ => cast(column, &DataType::Utf8).map_err(|e| e.to_string())?,
        };
        Ok(Self(text.as_string::<i32>().clone()))
    }

    /// The text of a row; `None` where there is no value.
    pub fn get(&self, row: usize) -> Option<&str> {
        self.0.is_valid(row).then(|| self.0.value(row))
    }
}

/// Sets `key` to what rows are found by: `texts`, without the difference of capitals if `fold`.
/// `None` if one of them is missing.
pub(super) fn set_key<'a>(
    key: &mut String,
    texts: impl ExactSizeIterator<Item = Option<&'a str>>,
    fold: bool,
) -> Option<()> {
    use std::fmt::Write;
    key.clear();
    let many = texts.len() > 1;
    for text in texts {
        let start = key.len();
        match fold {
            true => key.extend(text?.chars().flat_map(char::to_lowercase)),
            false => key.push_str(text?),
        }
        if many {
            // Read from its end, no key of other texts is the same.
            let length = key.len() - start;
            let _ = write!(key, ":{length},");
        }
    }
    Some(())
}

/// Times of a column, UTC nanoseconds. Text is RFC 3339 or a date, a number nanoseconds.
///
/// # Errors
/// At the first value that is no time.
pub(super) fn times(column: &ArrayRef) -> Result<Vec<Option<i64>>, String> {
    let nanos = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    match column.data_type() {
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 | DataType::Int64 => {
            let times = cast(column, &nanos).map_err(|e| e.to_string())?;
            let times = times.as_primitive::<TimestampNanosecondType>();
            Ok(times.iter().collect())
        }
        _ => {
            let text = Canonical::of(column)?;
            let time = |row: usize| match text.get(row).map(str::trim) {
                None | Some("") => Ok(None),
                Some(text) => instant(text)
                    .map(Some)
                    .ok_or_else(|| format!("`{text}` in row {} is no time", row + 1)),
            };
            (0..column.len()).map(time).collect()
        }
    }
}

/// A time as people write it: RFC 3339, or a date, which is its first moment in UTC. What lies beyond
/// nanoseconds of 64 bits (`9999-12-31`, `infinity`) is their end.
pub fn instant(text: &str) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let time = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        let date = text.parse::<jiff::civil::DateTime>().ok().or_else(|| {
            text.parse::<jiff::civil::Date>()
                .ok()
                .map(|d| d.to_datetime(jiff::civil::Time::midnight()))
        })?;
        let end = if date.year() > 0 { jiff::Timestamp::MAX } else { jiff::Timestamp::MIN };
        Some(date.to_zoned(jiff::tz::TimeZone::UTC).map_or(end, |zoned| zoned.timestamp()))
    })?;
    let end = if time.as_nanosecond() > 0 { i64::MAX } else { i64::MIN };
    Some(i64::try_from(time.as_nanosecond()).unwrap_or(end))
}
