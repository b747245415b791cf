//! What is asked of the windows, and how their rows become data points.

use arrow::array::{ArrayRef, RecordBatch};
use weir_pipeline::component::OperatorError;
use weir_pipeline::entity::{Attribute, Entity};
use weir_pipeline::signal::Signal;

use crate::metered::durations::{Buckets, Durations, ints};
use crate::metered::{self, Point, Points, column, label, times};

const CALLS: &str = "traces.span.metrics.calls";
const DURATION: &str = "traces.span.metrics.duration";

/// Column of the windows with the number of calls, and what those about durations begin with.
const N: &str = "calls";
const TOOK: &str = "took";

/// The label that a column of spans becomes.
pub(super) fn metric_label(column: &str) -> String {
    Signal::Metrics.attribute_column(column).into_owned()
}

/// Names and texts of the aggregates.
pub(super) fn aggregates(buckets: &Buckets) -> Vec<(String, String)> {
    let calls = (N.to_owned(), "count(*)".to_owned());
    std::iter::once(calls).chain(buckets.aggregates(TOOK, "duration_ns")).collect()
}

pub(super) struct SpanPoints {
    /// Columns of the windows, and the labels that they become.
    columns: Vec<String>,
    labels: Vec<String>,
    calls: Vec<Attribute>,
    duration: Vec<Attribute>,
    buckets: Buckets,
}

impl SpanPoints {
    pub(super) fn new(columns: Vec<String>, labels: Vec<String>, buckets: Buckets) -> Self {
        Self {
            columns,
            labels,
            calls: metered::metric(CALLS, "counter", "{call}", None),
            duration: metered::metric(DURATION, "histogram", "s", Some(&buckets.text())),
            buckets,
        }
    }
}

impl Points for SpanPoints {
    fn points(&self, rows: &RecordBatch) -> Result<Vec<Point>, OperatorError> {
        let groups: Vec<&ArrayRef> =
            self.columns.iter().map(|name| column(rows, name)).collect::<Result<_, _>>()?;
        let calls = ints(rows, N)?;
        let took = Durations::of(rows, &self.buckets, TOOK)?;
        let mut points = Vec::with_capacity(rows.num_rows() * 2);
        for row in 0..rows.num_rows() {
            let span = times(rows, row)?;
            let labels = groups.iter().zip(&self.labels);
            let labels: Vec<Attribute> =
                labels.filter_map(|(array, name)| label(name, array, row)).collect();
            let entity =
                |metric: &[Attribute]| Entity::new(metric.iter().chain(&labels).cloned().collect());
            let calls = calls.value(row) as f64;
            points.push(Point::value(span, entity(&self.calls), calls));
            if let Some((histogram, exemplars)) = took.at(row) {
                let entity = entity(&self.duration);
                points.push(Point::histogram(span, entity, histogram, exemplars));
            }
        }
        Ok(points)
    }
}
