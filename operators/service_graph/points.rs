//! What is asked of the windows of calls, and how their rows become data points.

use arrow::array::{ArrayRef, RecordBatch};
use weir_pipeline::component::OperatorError;
use weir_pipeline::entity::{Attribute, Entity};

use crate::metered::durations::{Buckets, Durations, ints};
use crate::metered::{self, Point, Points, column, label, times};

/// Labels that tell pairs apart.
pub(super) const GROUPS: [&str; 3] = ["client", "server", "connection"];

const PREFIX: &str = "traces.service.graph";

/// Names and texts of the aggregates.
pub(super) fn aggregates(buckets: &Buckets) -> Vec<(String, String)> {
    let failed = "count(*) FILTER (WHERE failed)".to_owned();
    let mut all =
        vec![("calls".to_owned(), "count(*)".to_owned()), ("failures".to_owned(), failed)];
    all.extend(buckets.aggregates("client_took", "client_ns"));
    all.extend(buckets.aggregates("server_took", "server_ns"));
    all
}

pub(super) struct GraphPoints {
    requests: Vec<Attribute>,
    failures: Vec<Attribute>,
    client: Vec<Attribute>,
    server: Vec<Attribute>,
    buckets: Buckets,
}

impl GraphPoints {
    pub(super) fn new(buckets: Buckets) -> Self {
        let bounds = buckets.text();
        let counter =
            |name| metered::metric(&format!("{PREFIX}.{name}"), "counter", "{call}", None);
        let histogram = |side| {
            let name = format!("{PREFIX}.{side}.duration");
            metered::metric(&name, "histogram", "s", Some(&bounds))
        };
        Self {
            requests: counter("requests"),
            failures: counter("failures"),
            client: histogram("client"),
            server: histogram("server"),
            buckets,
        }
    }
}

impl Points for GraphPoints {
    fn points(&self, rows: &RecordBatch) -> Result<Vec<Point>, OperatorError> {
        let groups: Vec<&ArrayRef> =
            GROUPS.iter().map(|name| column(rows, name)).collect::<Result<_, _>>()?;
        let (calls, failures) = (ints(rows, "calls")?, ints(rows, "failures")?);
        let client = Durations::of(rows, &self.buckets, "client_took")?;
        let server = Durations::of(rows, &self.buckets, "server_took")?;
        let mut points = Vec::with_capacity(rows.num_rows() * 4);
        for row in 0..rows.num_rows() {
            let span = times(rows, row)?;
            let labels = groups.iter().zip(GROUPS);
            let labels: Vec<Attribute> =
                labels.filter_map(|(array, name)| label(name, array, row)).collect();
            let entity =
                |metric: &[Attribute]| Entity::new(metric.iter().chain(&labels).cloned().collect());
            let counters = [(&self.requests, calls), (&self.failures, failures)];
            for (metric, count) in counters {
                points.push(Point::value(span, entity(metric), count.value(row) as f64));
            }
            for (metric, took) in [(&self.client, &client), (&self.server, &server)] {
                if let Some((histogram, exemplars)) = took.at(row) {
                    points.push(Point::histogram(span, entity(metric), histogram, exemplars));
                }
            }
        }
        Ok(points)
    }
}
