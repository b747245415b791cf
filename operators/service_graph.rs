//! `service_graph` operator: who calls whom, with rate, errors and latency.
//!
//! ```toml
//! [operators.graph]
//! type = "service_graph"
//! inputs = ["otlp.spans"]
//! every = "10s"
//! ```
//!
//! A call has two spans: one of who calls (`kind` client or producer) and one of who is called
//! (server or consumer), whose parent it is. When both came, the call counts for the pair of their
//! services. For every window of event time and each pair four metrics leave, stamped with the end
//! of the window, all delta, with the labels `client`, `server` and `connection`:
//!
//! - `traces.service.graph.requests` and `traces.service.graph.failures`, counters: calls, and those
//!   of which one side has the status error;
//! - `traces.service.graph.client.duration` and `traces.service.graph.server.duration`, histograms
//!   in seconds of either side, with the slowest as exemplar.
//!
//! `connection` is `direct`, or `messaging` between producer and consumer. What has one side only:
//!
//! - A client whose other side does not come within `wait` (default 10 s after it came) called
//!   something that sends no spans. It is named by the first that the span has of `peer.service`,
//!   `db.namespace`, `db.system.name`, `db.system`, `messaging.destination.name` and
//!   `server.address`: `connection` is `database` for those of `db`, else `peer`.
//! - A server span without a parent was called by somebody outside: `client` is `user`, `connection`
//!   too.
//! - Others are `unpaired`: the label of the other side is missing. Many of them say that spans are
//!   sampled or lost, or that `wait` is too short.
//!
//! A call belongs to the window of the start of its client span, if that is known, else of its
//! server span. Windows wait for `lateness` (default 10 s) and `wait`; calls of which both sides
//! are later still are dropped, counted.
//!
//! State: sides that wait, at most `max_waiting` (default 100,000, about 300 bytes each; further
//! ones are not paired, and counted as dropped), and the open windows, at most `max_groups` pairs
//! in each (default 10,000; calls of others go to `<id>.errors`). Services without `service.name`
//! are `unknown`.

mod calls;
mod operator;
mod pairs;
mod points;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::{Operator, OperatorKind, OperatorPlan, OutputPlan};
use weir_pipeline::config::{Duration, Scope, Section, Spanned, Text};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::edge::Edge;
use weir_pipeline::expression::{Aggregate, Expression};
use weir_pipeline::signal::Signal;

use self::calls::{COLUMNS, PEERS, READS};
use self::operator::ServiceGraph;
use self::points::{GROUPS, GraphPoints};
use crate::metered::durations::Buckets;
use crate::metered::{self, Metered};
use crate::window::Shape;

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "service_graph",
    about: "who calls whom, with rate, errors and latency",
    source: include_str!("service_graph.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Default of `every`, `lateness` and `wait`, nanoseconds.
const TEN_SECONDS: i64 = 10_000_000_000;

/// From when a side came until the tick that finds that it waited long enough: the tick after it
/// came and the one after its time, each at most a second away.
const TICKS: i64 = 2_000_000_000;

/// Default of `max_groups`: services are hundreds, and few call many.
const GROUPS_MAX: usize = 10_000;

/// Default of `max_waiting`: 30 MB.
const WAITING_MAX: usize = 100_000;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Length of a window; default 10 s.
    every: Option<Spanned<Duration>>,
    /// How long after its end a window still takes spans; default 10 s.
    lateness: Option<Spanned<Duration>>,
    /// How long one side of a call waits for the other; default 10 s.
    wait: Option<Spanned<Duration>>,
    /// Bounds of the histograms, ascending; default 1 ms to 10 s in 15 steps.
    buckets: Option<Spanned<Vec<Duration>>>,
    /// Most pairs of services in one window; default 10,000.
    max_groups: Option<Spanned<usize>>,
    /// Most sides that wait; default 100,000.
    max_waiting: Option<Spanned<usize>>,
}

#[derive(Debug)]
struct ServiceGraphPlan {
    shape: Arc<Shape>,
    buckets: Buckets,
    wait: i64,
    waiting_max: usize,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let mut time = |written: &Option<Spanned<Duration>>, least: i64| {
        let nanos = written.as_ref().map_or(TEN_SECONDS, |w| w.value.nanos());
        if let Some(written) = written
            && nanos < least
        {
            let d = Diagnostic::error("W310", "duration of no length");
            wrong.push(d.at(&section.span(written)).label("expected more than 0s"));
        }
        nanos
    };
    let (every, wait) = (time(&config.every, 1), time(&config.wait, 1));
    let lateness = time(&config.lateness, 0);
    let mut limit = |written: &Option<Spanned<usize>>, default: usize| {
        if let Some(written) = written
            && written.value == 0
        {
            let d = Diagnostic::error("W310", "a limit of nothing");
            wrong.push(d.at(&section.span(written)).label("expected at least 1"));
        }
        written.as_ref().map_or(default, |w| w.value)
    };
    let groups_max = limit(&config.max_groups, GROUPS_MAX);
    let waiting_max = limit(&config.max_waiting, WAITING_MAX);
    let buckets = Buckets::plan(section, config.buckets.as_ref(), &mut wrong);
    if wrong.has_errors() {
        return Err(wrong);
    }
    let columns = COLUMNS.iter().map(|(n, t)| ((*n).to_owned(), Some(t.data_type()))).collect();
    let input = Edge { signal: Signal::named("service_graph"), columns, open: false };
    let sql = |text: &str| Text { text: text.into(), span: section.header.clone(), exact: false };
    let mut group_by = Vec::new();
    for column in GROUPS {
        group_by.push((column.to_owned(), Expression::parse(&sql(column), &input, scope)?));
    }
    let mut aggregates = Vec::new();
    for (name, text) in points::aggregates(&buckets) {
        aggregates.push((name, Aggregate::parse(&sql(&text), &input, scope)?));
    }
    let shape = Shape {
        every,
        over: every,
        lateness: lateness.saturating_add(wait).saturating_add(TICKS),
        idle: None,
        groups_max,
        group_by,
        aggregates,
        output: Edge { signal: Signal::named("window"), columns: [].into(), open: false },
        input,
    };
    Ok(Box::new(ServiceGraphPlan { shape: Arc::new(shape), buckets, wait, waiting_max }))
}

impl OperatorPlan for ServiceGraphPlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: "", edge: metered::edge(GROUPS.map(str::to_owned)) }]
    }

    fn columns(&self) -> Vec<String> {
        READS.iter().chain(PEERS.iter().map(|(name, _)| name)).map(|n| (*n).to_owned()).collect()
    }

    fn state_shape(&self) -> Option<String> {
        Some(format!("service_graph 1: {}", self.shape.state()))
    }

    fn reach(&self) -> i64 {
        self.shape.over.saturating_add(self.shape.lateness)
    }

    fn build(&self) -> Box<dyn Operator> {
        let points = GraphPoints::new(self.buckets.clone());
        let windows = Metered::new(self.shape.clone(), Box::new(points));
        Box::new(ServiceGraph::new(windows, self.wait, self.waiting_max))
    }
}
