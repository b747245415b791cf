//! What the Prometheus sources share: the text formats, metric rows.

pub(crate) mod rows;
pub(crate) mod text;

use weir_pipeline::component::{DecodeError, Rejected};

use crate::json;

/// Rows of one entry: what a decoder makes of few bytes must not take gigabytes.
const ROWS_MAX: usize = 4_000_000;

/// Milliseconds that nanoseconds can hold: the years 1677 to 2262.
const MILLIS_MAX: i64 = i64::MAX / 1_000_000;

/// The bit pattern of the NaN that says that a series has ended (Prometheus `value.StaleNaN`).
pub(crate) const STALE_NAN: u64 = 0x7ff0_0000_0000_0002;

/// What a series is, as `metric.type` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only grows, but for resets.
    Counter,
    /// Rows with explicit buckets.
    Histogram,
    /// Rows with exponential buckets.
    Exponential,
    /// The same, with counts that go up and down.
    GaugeHistogram,
    /// The same, with counts that go up and down.
    GaugeExponential,
    /// Nobody said.
    Unknown,
}

impl Kind {
    /// The value of `metric.type`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram | Self::GaugeHistogram => "histogram",
            Self::Exponential | Self::GaugeExponential => "exponential_histogram",
            Self::Unknown => "unknown",
        }
    }
}

/// Writes exemplars as the JSON of the column `exemplars`, in the shape of `otlp`.
pub(crate) fn write_exemplar<'a>(
    value: f64,
    time_ms: Option<i64>,
    labels: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    out: &mut String,
) {
    use std::fmt::Write;
    out.push('{');
    if let Some(ms) = time_ms.filter(|ms| is_time(*ms)) {
        let _ = write!(out, "\"timestamp\":{},", ms * 1_000_000);
    }
    out.push_str("\"value\":");
    json::double(value, out);
    let is_id = |name: &str, text: &str| {
        let digits = match name {
            "trace_id" => 32,
            "span_id" => 16,
            _ => return false,
        };
        text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    for (name, text) in labels.clone().filter(|(n, v)| is_id(n, v)) {
        let _ = write!(out, ",\"{name}\":\"{}\"", text.to_ascii_lowercase());
    }
    let mut first = true;
    for (name, text) in labels.filter(|(n, v)| !is_id(n, v)) {
        out.push_str(if first { ",\"attributes\":{" } else { "," });
        first = false;
        json::text(name, out);
        out.push(':');
        json::text(text, out);
    }
    out.push_str(if first { "}" } else { "}}" });
}

/// Rows that were left out, by reason, each with the first message as its sample.
#[derive(Debug, Default)]
pub(crate) struct Rejects(Vec<Rejected>);

impl Rejects {
    /// Counts `rows`.
    pub(crate) fn add(
        &mut self,
        rows: u64,
        reason: &'static str,
        message: impl FnOnce() -> String,
    ) {
        match self.0.iter_mut().find(|r| r.reason == reason) {
            Some(known) => known.rows += rows,
            None => self.0.push(Rejected { rows, reason, message: message() }),
        }
    }

    /// What was counted.
    pub(crate) fn into_list(self) -> Vec<Rejected> {
        self.0
    }
}

/// Whether nanoseconds can hold `millis`.
pub(crate) fn is_time(millis: i64) -> bool {
    millis.unsigned_abs() <= MILLIS_MAX.unsigned_abs()
}

/// # Errors
/// If there are too many rows.
pub(crate) fn check_rows(rows: usize) -> Result<(), DecodeError> {
    if rows > ROWS_MAX {
        return Err(DecodeError::new("too_large", format!("more than {ROWS_MAX} samples at once")));
    }
    Ok(())
}
