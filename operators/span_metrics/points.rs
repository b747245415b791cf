//! What is asked of the windows, and how their rows become data points.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use weir_pipeline::component::OperatorError;
use weir_pipeline::entity::{Attribute, Entity};
use weir_pipeline::signal::Signal;

use crate::metered::{self, Histogram, Point, Points, column, label, times};

const CALLS: &str = "traces.span.metrics.calls";
const DURATION: &str = "traces.span.metrics.duration";

const NS: f64 = 1e9;

/// The greatest of these texts is that of the slowest span: digits of one length order like the
/// numbers. None without a trace id, or of a negative duration.
const SLOWEST: &str = "max(lpad(CAST(duration_ns AS VARCHAR), 20, '0') || '/' || trace_id || '/' \
    || coalesce(span_id, '') || '/' || CAST(CAST(timestamp AS BIGINT) AS VARCHAR)) \
    FILTER (WHERE duration_ns >= 0 AND trace_id IS NOT NULL)";

/// The label that a column of spans becomes.
pub(super) fn metric_label(column: &str) -> String {
    Signal::Metrics.attribute_column(column).into_owned()
}

/// Names and texts of the aggregates.
pub(super) fn aggregates(buckets: &[i64]) -> Vec<(String, String)> {
    let mut all = vec![
        ("calls".to_owned(), "count(*)".to_owned()),
        ("count".to_owned(), "count(duration_ns)".to_owned()),
        ("sum".to_owned(), "sum(duration_ns)".to_owned()),
        ("min".to_owned(), "min(duration_ns)".to_owned()),
        ("max".to_owned(), "max(duration_ns)".to_owned()),
        ("slowest".to_owned(), SLOWEST.to_owned()),
    ];
    for (at, bound) in buckets.iter().enumerate() {
        all.push((bucket(at), format!("count(*) FILTER (WHERE duration_ns <= {bound})")));
    }
    all
}

fn bucket(at: usize) -> String {
    format!("bucket_{at}")
}

pub(super) struct SpanPoints {
    /// Columns of the windows, and the labels that they become.
    columns: Vec<String>,
    labels: Vec<String>,
    calls: Vec<Attribute>,
    duration: Vec<Attribute>,
    buckets: usize,
}

impl SpanPoints {
    pub(super) fn new(columns: Vec<String>, labels: Vec<String>, buckets: &[i64]) -> Self {
        let bounds: Vec<f64> = buckets.iter().map(|&b| b as f64 / NS).collect();
        let bounds = metered::bounds_text(&bounds);
        Self {
            columns,
            labels,
            calls: metered::metric(CALLS, "counter", "{call}", None),
            duration: metered::metric(DURATION, "histogram", "s", Some(&bounds)),
            buckets: buckets.len(),
        }
    }
}

fn ints<'a>(
    rows: &'a RecordBatch,
    name: &str,
) -> Result<impl Fn(usize) -> Option<i64> + use<'a>, OperatorError> {
    let array = column(rows, name)?.as_primitive_opt::<Int64Type>();
    let array = array.ok_or_else(|| OperatorError::new(format!("`{name}` is no integer")))?;
    Ok(|row| array.is_valid(row).then(|| array.value(row)))
}

impl Points for SpanPoints {
    fn points(&self, rows: &RecordBatch) -> Result<Vec<Point>, OperatorError> {
        let groups: Vec<&ArrayRef> =
            self.columns.iter().map(|name| column(rows, name)).collect::<Result<_, _>>()?;
        let (calls, count) = (ints(rows, "calls")?, ints(rows, "count")?);
        let (sum, min, max) = (ints(rows, "sum")?, ints(rows, "min")?, ints(rows, "max")?);
        let buckets: Vec<_> =
            (0..self.buckets).map(|at| ints(rows, &bucket(at))).collect::<Result<_, _>>()?;
        let slowest = column(rows, "slowest")?.as_string_opt::<i32>();
        let mut points = Vec::with_capacity(rows.num_rows() * 2);
        for row in 0..rows.num_rows() {
            let (start, end) = times(rows, row)?;
            let labels: Vec<Attribute> = groups
                .iter()
                .zip(&self.labels)
                .filter_map(|(array, name)| label(name, array, row))
                .collect();
            let entity = |of: &[Attribute]| {
                Entity::new(of.iter().cloned().chain(labels.iter().cloned()).collect())
            };
            let value = calls(row).map(|calls| calls as f64);
            let point = |entity| Point {
                start,
                end,
                entity,
                value: None,
                histogram: None,
                exemplars: None,
            };
            points.push(Point { value, ..point(entity(&self.calls)) });
            let all = count(row).unwrap_or_default();
            if all == 0 {
                continue;
            }
            let seconds = |ns: Option<i64>| ns.unwrap_or_default() as f64 / NS;
            let mut below = 0;
            let mut counts: Vec<i64> = Vec::with_capacity(self.buckets + 1);
            for bucket in &buckets {
                let upto = bucket(row).unwrap_or_default();
                counts.push(upto - below);
                below = upto;
            }
            counts.push(all - below);
            let histogram = Histogram {
                count: all,
                sum: seconds(sum(row)),
                min: seconds(min(row)),
                max: seconds(max(row)),
                counts,
            };
            let slowest = slowest.filter(|s| s.is_valid(row)).map(|s| s.value(row));
            points.push(Point {
                histogram: Some(histogram),
                exemplars: slowest.and_then(exemplar),
                ..point(entity(&self.duration))
            });
        }
        Ok(points)
    }
}

/// What [`SLOWEST`] gave as JSON.
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
