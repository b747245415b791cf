//! A dashboard: as many panels as people put on one, asked for together.

use std::time::Instant;

use futures::StreamExt;
use jiff::{Timestamp, ToSpan};

use super::{Times, ends};

/// What each panel looks back, and the width of its bins, seconds.
pub(super) const HOURS: i64 = 6;
pub(super) const STEP: u32 = 300;
/// Metrics that are shown, each twice.
const METRICS: usize = 10;
/// Panels that are asked for at a time, as browsers do.
const AT_A_TIME: usize = 6;

/// The average of a metric by mode, or its greatest value by job.
pub(super) struct Panel {
    metric: String,
    greatest: bool,
}

pub(super) fn panels() -> impl Iterator<Item = Panel> {
    let of = |i| format!("load_{i}_requests");
    (0..METRICS).flat_map(move |i| [false, true].map(|greatest| Panel { metric: of(i), greatest }))
}

impl Panel {
    fn parts(&self) -> (&str, &str) {
        if self.greatest { ("max", "job") } else { ("avg", "mode") }
    }

    fn sql(&self, bin: &str, name: &str, from: &str, to: &str) -> String {
        let (function, by) = self.parts();
        let metric = &self.metric;
        format!(
            "SELECT {bin} AS t, {by}, {function}(value) FROM metrics WHERE {name} = '{metric}' \
             AND timestamp > {from} AND timestamp <= {to} GROUP BY t, {by} ORDER BY t"
        )
    }

    pub(super) fn weir(&self, end: Timestamp) -> String {
        let bin = format!("date_bin(interval '{STEP} second', timestamp)");
        let from = end - HOURS.hours();
        self.sql(&bin, "metric.name", &format!("'{from}'"), &format!("'{end}'"))
    }

    pub(super) fn clickhouse(&self, end: Timestamp) -> String {
        let bin = format!("toStartOfInterval(timestamp, INTERVAL {STEP} SECOND)");
        let time = |t: Timestamp| format!("parseDateTime64BestEffort('{t}', 9, 'UTC')");
        self.sql(&bin, "\"metric.name\"", &time(end - HOURS.hours()), &time(end))
    }

    pub(super) fn duckdb(&self, end: Timestamp) -> String {
        let bin = format!("time_bucket(INTERVAL '{STEP} second', timestamp)");
        let time = |t: Timestamp| format!("TIMESTAMPTZ '{t}'");
        self.sql(&bin, "\"metric.name\"", &time(end - HOURS.hours()), &time(end))
    }

    pub(super) fn promql(&self) -> String {
        let (function, by) = self.parts();
        format!("{function} by ({by}) ({function}_over_time({}[{STEP}s]))", self.metric)
    }
}

/// Asks for all panels, again and again: milliseconds until the last of them was there.
pub(super) async fn timed(last: Timestamp, ask: impl AsyncFn(Panel, Timestamp)) -> Times {
    let mut asked = Vec::new();
    for end in ends(last) {
        let start = Instant::now();
        let all = futures::stream::iter(panels()).for_each_concurrent(AT_A_TIME, |p| ask(p, end));
        all.await;
        asked.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Times::new(asked)
}
