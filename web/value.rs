//! Arrow values as JSON and as CSV cells.
//!
//! Times are RFC 3339 in UTC with nine digits. Integers are numbers with all their digits, also
//! past 2^53: a client whose numbers are doubles must read them as text (`CAST(x AS VARCHAR)`).
//! NaN and the infinities, which JSON has not, are the texts `"NaN"`, `"Inf"`, `"-Inf"`.

use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Appends row `i` of `batch` as a JSON object.
pub(crate) fn row_json(out: &mut Vec<u8>, batch: &RecordBatch, i: usize) {
    out.push(b'{');
    for (n, (field, column)) in batch.schema_ref().fields().iter().zip(batch.columns()).enumerate()
    {
        if n > 0 {
            out.push(b',');
        }
        text_json(out, field.name());
        out.push(b':');
        value_json(out, column, i);
    }
    out.push(b'}');
}

/// Appends a JSON string.
pub(crate) fn text_json(out: &mut Vec<u8>, text: &str) {
    // Writing to memory does not fail, and a string is always serialisable.
    let _ = serde_json::to_writer(&mut *out, text);
}

/// Appends value `i` of `column` as JSON.
pub(crate) fn value_json(out: &mut Vec<u8>, column: &ArrayRef, i: usize) {
    if column.is_null(i) || *column.data_type() == DataType::Null {
        out.extend_from_slice(b"null");
        return;
    }
    macro_rules! number {
        ($t:ty) => {{
            let _ = write!(out, "{}", column.as_primitive::<$t>().value(i));
        }};
    }
    match column.data_type() {
        DataType::Boolean => {
            let value: &[u8] = if column.as_boolean().value(i) { b"true" } else { b"false" };
            out.extend_from_slice(value);
        }
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => {
            double_json(out, f64::from(column.as_primitive::<Float32Type>().value(i)));
        }
        DataType::Float64 => double_json(out, column.as_primitive::<Float64Type>().value(i)),
        DataType::Utf8 => text_json(out, column.as_string::<i32>().value(i)),
        DataType::LargeUtf8 => text_json(out, column.as_string::<i64>().value(i)),
        DataType::Utf8View => text_json(out, column.as_string_view().value(i)),
        DataType::Timestamp(unit, _) => {
            let (value, scale) = match unit {
                TimeUnit::Second => {
                    (column.as_primitive::<TimestampSecondType>().value(i), 1_000_000_000)
                }
                TimeUnit::Millisecond => {
                    (column.as_primitive::<TimestampMillisecondType>().value(i), 1_000_000)
                }
                TimeUnit::Microsecond => {
                    (column.as_primitive::<TimestampMicrosecondType>().value(i), 1_000)
                }
                TimeUnit::Nanosecond => {
                    (column.as_primitive::<TimestampNanosecondType>().value(i), 1)
                }
            };
            text_json(out, &time(i128::from(value) * scale));
        }
        DataType::Struct(fields) => {
            let column = column.as_struct();
            out.push(b'{');
            for (n, (field, column)) in fields.iter().zip(column.columns()).enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                text_json(out, field.name());
                out.push(b':');
                value_json(out, column, i);
            }
            out.push(b'}');
        }
        DataType::List(_) => items_json(out, &column.as_list::<i32>().value(i)),
        DataType::LargeList(_) => items_json(out, &column.as_list::<i64>().value(i)),
        DataType::FixedSizeList(..) => items_json(out, &column.as_fixed_size_list().value(i)),
        DataType::Dictionary(..) => {
            let dictionary = column.as_any_dictionary();
            match dictionary.normalized_keys().get(i) {
                Some(&key) => value_json(out, dictionary.values(), key),
                None => out.extend_from_slice(b"null"),
            }
        }
        _ => {
            let options = FormatOptions::default();
            match ArrayFormatter::try_new(column.as_ref(), &options) {
                Ok(formatter) => text_json(out, &formatter.value(i).to_string()),
                Err(_) => out.extend_from_slice(b"null"),
            }
        }
    }
}

fn items_json(out: &mut Vec<u8>, items: &ArrayRef) {
    out.push(b'[');
    for i in 0..items.len() {
        if i > 0 {
            out.push(b',');
        }
        value_json(out, items, i);
    }
    out.push(b']');
}

fn double_json(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        let _ = serde_json::to_writer(&mut *out, &value);
    } else {
        text_json(out, &weir_pipeline::entity::double_text(value));
    }
}

/// UTC nanoseconds as RFC 3339 with nine digits. Civil calendar after Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms".
pub(crate) fn time(ns: i128) -> String {
    const DAY_NS: i128 = 86_400_000_000_000;
    let (days, rest) = (ns.div_euclid(DAY_NS), ns.rem_euclid(DAY_NS));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i128::from(month <= 2);
    let seconds = rest / 1_000_000_000;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60,
        rest % 1_000_000_000
    )
}

/// Appends value `i` of `column` as a CSV cell (RFC 4180): NULL is empty, an empty text is `""`.
pub(crate) fn value_csv(out: &mut Vec<u8>, column: &ArrayRef, i: usize) {
    let mut json = Vec::new();
    value_json(&mut json, column, i);
    if json == b"null" {
        return;
    }
    if json.first() != Some(&b'"') {
        if json.iter().any(|b| matches!(b, b',' | b'"' | b'\n' | b'\r')) {
            text_csv(out, &String::from_utf8_lossy(&json));
        } else {
            out.extend_from_slice(&json);
        }
        return;
    }
    match serde_json::from_slice::<String>(&json) {
        Ok(text) => text_csv(out, &text),
        Err(_) => text_csv(out, &String::from_utf8_lossy(&json)),
    }
}

/// Appends text as a CSV cell.
pub(crate) fn text_csv(out: &mut Vec<u8>, text: &str) {
    if !text.is_empty() && !text.contains([',', '"', '\n', '\r']) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringArray, TimestampNanosecondArray};

    use super::*;

    fn check(column: ArrayRef, json: &[&str], csv: &[&str]) {
        for i in 0..column.len() {
            let mut out = Vec::new();
            value_json(&mut out, &column, i);
            assert_eq!(String::from_utf8(out).unwrap(), json[i]);
            let mut out = Vec::new();
            value_csv(&mut out, &column, i);
            assert_eq!(String::from_utf8(out).unwrap(), csv[i]);
        }
    }

    #[test]
    fn values() {
        let big = (1 << 53) + 1;
        check(
            Arc::new(Int64Array::from(vec![Some(big), None, Some(-1)])),
            &["9007199254740993", "null", "-1"],
            &["9007199254740993", "", "-1"],
        );
        check(
            Arc::new(Float64Array::from(vec![0.1, f64::NAN, f64::INFINITY, -2.0])),
            &["0.1", "\"NaN\"", "\"Inf\"", "-2.0"],
            &["0.1", "NaN", "Inf", "-2.0"],
        );
        check(
            Arc::new(StringArray::from(vec![Some("a,\"b\"\n"), Some(""), None, Some("é")])),
            &["\"a,\\\"b\\\"\\n\"", "\"\"", "null", "\"é\""],
            &["\"a,\"\"b\"\"\n\"", "\"\"", "", "é"],
        );
        let times = [0, 1, -1, 1_763_713_357_123_456_789, i64::MIN, i64::MAX];
        let texts = [
            "1970-01-01T00:00:00.000000000Z",
            "1970-01-01T00:00:00.000000001Z",
            "1969-12-31T23:59:59.999999999Z",
            "2025-11-21T08:22:37.123456789Z",
            "1677-09-21T00:12:43.145224192Z",
            "2262-04-11T23:47:16.854775807Z",
        ];
        let quoted = texts.map(|t| format!("\"{t}\""));
        let quoted: Vec<&str> = quoted.iter().map(String::as_str).collect();
        check(Arc::new(TimestampNanosecondArray::from(times.to_vec())), &quoted, &texts);
    }
}
