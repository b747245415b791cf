//! Histograms of durations out of aggregates of windows: a count for each bucket, and the slowest as
//! exemplar.

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use weir_pipeline::component::OperatorError;
use weir_pipeline::config::{Duration, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};

use super::{Histogram, column};

/// Nanoseconds of a second.
const NS: f64 = 1e9;

/// Default bounds, nanoseconds: those that the semantic conventions advise for requests, and one
/// less for what is faster than the network.
const BOUNDS: [i64; 15] = [
    1_000_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
];

/// Each bound costs every row an aggregate.
const BOUNDS_MAX: usize = 100;

/// Bounds of buckets, nanoseconds, ascending.
#[derive(Clone, Debug)]
pub(crate) struct Buckets(Vec<i64>);

impl Buckets {
    /// As written under `buckets`; without it the default.
    pub(crate) fn plan(
        section: &Section,
        written: Option<&Spanned<Vec<Duration>>>,
        wrong: &mut Diagnostics,
    ) -> Self {
        let Some(written) = written else { return Self(BOUNDS.to_vec()) };
        let bounds: Vec<i64> = written.value.iter().map(|b| b.nanos()).collect();
        let message = match bounds.len() {
            0 => Some("`buckets` without a bound"),
            BOUNDS_MAX.. => Some("`buckets` of 100 bounds or more"),
            _ if !bounds.is_sorted_by(|a, b| a < b) => Some("`buckets` do not ascend"),
            _ => None,
        };
        if let Some(message) = message {
            let d = Diagnostic::error("W310", message).at(&section.span(written));
            wrong.push(d.label("expected ascending durations"));
        }
        Self(bounds)
    }

    /// The bounds in seconds as JSON, as sources write them.
    pub(crate) fn text(&self) -> String {
        let seconds: Vec<f64> = self.0.iter().map(|&b| b as f64 / NS).collect();
        serde_json::json!(seconds).to_string()
    }

    /// Names, which begin with `prefix`, and texts of the aggregates over the nanoseconds in the
    /// column `of`.
    pub(crate) fn aggregates(&self, prefix: &str, of: &str) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = ["count", "sum", "min", "max"]
            .map(|f| (format!("{prefix}_{f}"), format!("{f}({of})")))
            .into();
        for (at, bound) in self.0.iter().enumerate() {
            let text = format!("count(*) FILTER (WHERE {of} <= {bound})");
            all.push((format!("{prefix}_{at}"), text));
        }
        all.push((format!("{prefix}_slowest"), slowest(of)));
        all
    }
}

/// The greatest of these texts is that of the slowest: digits of one length order like numbers. None
/// without a trace id, or of a negative duration.
fn slowest(of: &str) -> String {
    format!(
        "max(lpad(CAST({of} AS VARCHAR), 20, '0') || '/' || trace_id || '/' \
         || coalesce(span_id, '') || '/' || CAST(CAST(timestamp AS BIGINT) AS VARCHAR)) \
         FILTER (WHERE {of} >= 0 AND trace_id IS NOT NULL)"
    )
}

/// The aggregates of [`Buckets::aggregates`] in the rows of windows.
pub(crate) struct Durations<'a> {
    count: &'a Int64Array,
    sum: &'a Int64Array,
    min: &'a Int64Array,
    max: &'a Int64Array,
    buckets: Vec<&'a Int64Array>,
    slowest: Option<&'a StringArray>,
}

/// A column of integers.
pub(crate) fn ints<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a Int64Array, OperatorError> {
    let array = column(rows, name)?.as_primitive_opt::<Int64Type>();
    array.ok_or_else(|| OperatorError::new(format!("`{name}` is no integer")))
}

impl<'a> Durations<'a> {
    pub(crate) fn of(
        rows: &'a RecordBatch,
        buckets: &Buckets,
        prefix: &str,
    ) -> Result<Self, OperatorError> {
        let get = |name: &str| ints(rows, &format!("{prefix}_{name}"));
        Ok(Self {
            count: get("count")?,
            sum: get("sum")?,
            min: get("min")?,
            max: get("max")?,
            buckets: (0..buckets.0.len())
                .map(|at| get(&at.to_string()))
                .collect::<Result<_, _>>()?,
            slowest: column(rows, &format!("{prefix}_slowest"))?.as_string_opt::<i32>(),
        })
    }

    /// The histogram at `row` in seconds, none if nothing had a duration, and its exemplar.
    pub(crate) fn at(&self, row: usize) -> Option<(Histogram, Option<String>)> {
        let count = self.count.value(row);
        if count == 0 {
            return None;
        }
        let mut below = 0;
        let mut counts: Vec<i64> = Vec::with_capacity(self.buckets.len() + 1);
        for bucket in &self.buckets {
            counts.push(bucket.value(row) - below);
            below = bucket.value(row);
        }
        counts.push(count - below);
        let seconds = |array: &Int64Array| array.value(row) as f64 / NS;
        let (sum, min, max) = (seconds(self.sum), seconds(self.min), seconds(self.max));
        let slowest = self.slowest.filter(|s| s.is_valid(row)).map(|s| s.value(row));
        Some((Histogram { count, sum, min, max, counts }, slowest.and_then(exemplar)))
    }
}

/// What [`slowest`] gave as JSON.
fn exemplar(slowest: &str) -> Option<String> {
    let mut parts = slowest.split('/');
    let duration: i64 = parts.next()?.parse().ok()?;
    let (trace, span, time) = (parts.next()?, parts.next()?, parts.next()?);
    // Ids have no slash, unless somebody made them up.
    if parts.next().is_some() {
        return None;
    }
    let time: i64 = time.parse().ok()?;
    let seconds = duration as f64 / NS;
    let mut exemplar = serde_json::json!({
        "timestamp": time, "value": seconds, "trace_id": trace,
    });
    if !span.is_empty() {
        exemplar["span_id"] = span.into();
    }
    Some(format!("[{exemplar}]"))
}
