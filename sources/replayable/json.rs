//! A JSON object as a log record.

use serde_json::{Map, Value};

use super::decode::Parsed;
use crate::columns::Cell;

/// Objects within objects become columns with dotted names down to this depth, then JSON text.
const DEPTH_MAX: usize = 8;

/// Names under which loggers write the time, the body and the severity, best first. The first is
/// what Weir's own sinks write.
const TIMES: [&str; 4] = ["timestamp", "@timestamp", "time", "ts"];
const BODIES: [&str; 3] = ["body", "message", "msg"];
const SEVERITIES: [&str; 4] = ["severity", "severity_text", "level", "lvl"];

/// What rows of one producer have in common; resource attributes by the semantic conventions.
const RESOURCE: [&str; 8] = [
    "service.name",
    "service.namespace",
    "service.version",
    "service.instance.id",
    "deployment.environment.name",
    "host.name",
    "k8s.namespace.name",
    "k8s.pod.name",
];

/// Reads one record.
///
/// # Errors
/// Why it is no JSON object.
pub(super) fn read(value: &[u8]) -> Result<Parsed<'static>, String> {
    let mut object: Map<String, Value> =
        serde_json::from_slice(value).map_err(|e| format!("not a JSON object: {e}"))?;
    let mut parsed = Parsed::default();
    for name in TIMES {
        if let Some(time) = object.get(name).and_then(time) {
            object.remove(name);
            parsed.time = Some(time);
            break;
        }
    }
    if let Some(time) = object.get("observed_timestamp").and_then(time) {
        object.remove("observed_timestamp");
        parsed.observed = Some(time);
    }
    for name in BODIES {
        match object.remove(name) {
            None | Some(Value::Null) => continue,
            Some(Value::String(text)) => parsed.body = Some(text.into()),
            Some(other) => parsed.body = Some(other.to_string().into()),
        }
        break;
    }
    for name in SEVERITIES {
        if let Some(Value::String(text)) = object.get(name) {
            parsed.severity(text);
            object.remove(name);
            break;
        }
    }
    if let Some(number) = object.get("severity_number").and_then(Value::as_i64) {
        object.remove("severity_number");
        parsed.severity_number = Some(number);
    }
    for (name, length, id) in
        [("trace_id", 32, &mut parsed.trace_id), ("span_id", 16, &mut parsed.span_id)]
    {
        let is_id = |t: &&str| t.len() == length && t.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(text) = object.get(name).and_then(Value::as_str).filter(is_id) {
            *id = Some(text.to_ascii_lowercase());
            object.remove(name);
        }
    }
    flatten(object, String::new(), DEPTH_MAX, &mut parsed);
    Ok(parsed)
}

/// Puts what is left under dotted names.
fn flatten(object: Map<String, Value>, prefix: String, depth: usize, parsed: &mut Parsed<'_>) {
    for (key, value) in object {
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            Value::Null => {}
            Value::Object(inner) if depth > 1 && !inner.is_empty() => {
                flatten(inner, name, depth - 1, parsed);
            }
            Value::String(text) if RESOURCE.contains(&name.as_str()) => {
                parsed.resource.push((name, text));
            }
            value => parsed.attributes.push((name, value)),
        }
    }
}

/// The value for a column, its text in `json` if it is a structure.
pub(super) fn cell<'a>(value: &'a Value, json: &'a mut String) -> Option<Cell<'a>> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(v) => Cell::Bool(*v),
        Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(v), _, _) => Cell::Int(v),
            (None, None, Some(v)) => Cell::Double(v),
            // Above what an integer holds: no digit is lost.
            _ => {
                *json = n.to_string();
                Cell::Text(json)
            }
        },
        Value::String(v) => Cell::Text(v),
        Value::Array(_) | Value::Object(_) => {
            *json = value.to_string();
            Cell::Json(json)
        }
    })
}

/// A time: RFC 3339, or a number since the epoch whose size tells the unit (seconds, milli-, micro-
/// or nanoseconds).
fn time(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => {
            let time: jiff::Timestamp = text.parse().ok()?;
            i64::try_from(time.as_nanosecond()).ok()
        }
        Value::Number(n) => {
            let scale = |size: f64| match size {
                // Until the year 5138; 1973 in the next unit.
                s if s < 1e11 => 1_000_000_000,
                s if s < 1e14 => 1_000_000,
                s if s < 1e17 => 1_000,
                _ => 1,
            };
            match n.as_i64() {
                Some(v) if v >= 0 => v.checked_mul(scale(v as f64)),
                Some(_) => None,
                None => {
                    let v = n.as_f64().filter(|v| *v >= 0.0 && *v < 9e18)?;
                    let ns = v * scale(v) as f64;
                    (ns < i64::MAX as f64).then_some(ns as i64)
                }
            }
        }
        _ => None,
    }
}
