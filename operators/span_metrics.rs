//! `span_metrics` operator: makes metrics of spans: rate, errors and duration of every operation.
//!
//! ```toml
//! [operators.red]
//! type = "span_metrics"
//! inputs = ["otlp.spans"]
//! every = "10s"
//! dimensions = ["http.route"]
//! ```
//!
//! For every window of event time (`every`, aligned to the clock) and each combination of
//! `service.name`, `span.name`, `span.kind`, `status.code` and the columns in `dimensions` that had
//! spans, two metrics leave, stamped with the end of the window, both delta:
//!
//! - `traces.span.metrics.calls`, a counter: how many spans. The rate of errors is that of
//!   `status.code = 'error'`.
//! - `traces.span.metrics.duration`, a histogram in seconds with the bounds in `buckets` (default
//!   1 ms to 10 s), sum, least and greatest. Its exemplar is the slowest span that has a trace id.
//!
//! A span belongs to the window of its start (`timestamp`). Spans without a duration count as calls
//! only. `lateness` (default 10 s) says how long after its end a window takes spans; a span lasts
//! before it is sent, so it should be longer than most spans. Later ones go to `<id>.late` as they
//! are.
//!
//! State: the open windows. Limit: `max_groups` (default 100,000) combinations per window; spans of
//! others go to `<id>.errors`. All else that is said of windows under `window` holds here.

mod points;
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

use self::points::{SpanPoints, metric_label};
use crate::inputs;
use crate::metered::durations::Buckets;
use crate::metered::{self, Metered};
use crate::window::Shape;

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "span_metrics",
    about: "make metrics of spans: rate, errors and duration",
    source: include_str!("span_metrics.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Default of `every` and of `lateness`, nanoseconds.
const TEN_SECONDS: i64 = 10_000_000_000;

/// Default of `max_groups`, as of windows.
const GROUPS_MAX: usize = 100_000;

/// Columns of spans that tell series apart, and what they are called there.
const GROUPS: [(&str, &str); 4] = [
    ("service.name", "service.name"),
    ("name", "span.name"),
    ("kind", "span.kind"),
    ("status", "status.code"),
];

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Length of a window; default 10 s.
    every: Option<Spanned<Duration>>,
    /// How long after its end a window still takes spans; default 10 s.
    lateness: Option<Spanned<Duration>>,
    /// Further columns that tell series apart.
    #[serde(default)]
    dimensions: Vec<Spanned<String>>,
    /// Bounds of the histogram, ascending; default 1 ms to 10 s in 15 steps.
    buckets: Option<Spanned<Vec<Duration>>>,
    /// Most series of one window; default 100,000.
    max_groups: Option<Spanned<usize>>,
}

#[derive(Debug)]
struct SpanMetricsPlan {
    shape: Arc<Shape>,
    labels: Vec<String>,
    buckets: Buckets,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let input = inputs::merged(scope);
    let mut wrong = Diagnostics::default();
    let every = config.every.as_ref().map_or(TEN_SECONDS, |e| e.value.nanos());
    if let Some(written) = &config.every
        && every <= 0
    {
        let d = Diagnostic::error("W310", "window of no length");
        wrong.push(d.at(&section.span(written)).label("expected more than 0s"));
    }
    let groups_max = config.max_groups.as_ref().map_or(GROUPS_MAX, |g| g.value);
    if let Some(written) = &config.max_groups
        && groups_max == 0
    {
        let d = Diagnostic::error("W310", "no group is allowed");
        wrong.push(d.at(&section.span(written)).label("expected at least 1"));
    }
    let buckets = Buckets::plan(section, config.buckets.as_ref(), &mut wrong);
    let sql = |text: &str| Text { text: text.into(), span: section.header.clone(), exact: false };
    let mut group_by = Vec::new();
    let mut labels = Vec::new();
    for (column, label) in GROUPS {
        group_by.push((column.to_owned(), Expression::parse(&sql(column), &input, scope)?));
        labels.push(label.to_owned());
    }
    for written in &config.dimensions {
        let text = section.text(written);
        let Some(expression) = wrong.ok(Expression::parse(&text, &input, scope)) else { continue };
        let Some(column) = expression.as_column().map(str::to_owned) else {
            let d = Diagnostic::error("W310", "a dimension is a column");
            wrong.push(d.at(&text.span).label("expected the name of a column"));
            continue;
        };
        if group_by.iter().any(|(name, _)| *name == column) {
            let d = Diagnostic::error("W311", format!("two columns of one name: `{column}`"));
            wrong.push(d.at(&text.span).label("series are told apart by it already"));
            continue;
        }
        labels.push(metric_label(&column));
        group_by.push((column, expression));
    }
    let mut aggregates = Vec::new();
    for (name, text) in points::aggregates(&buckets) {
        aggregates.push((name, Aggregate::parse(&sql(&text), &input, scope)?));
    }
    if wrong.has_errors() {
        return Err(wrong);
    }
    let output = Edge { signal: Signal::named("window"), columns: [].into(), open: false };
    let lateness = config.lateness.as_ref().map_or(TEN_SECONDS, |l| l.value.nanos());
    let (over, idle) = (every, None);
    let shape =
        Shape { every, over, lateness, idle, groups_max, group_by, aggregates, output, input };
    Ok(Box::new(SpanMetricsPlan { shape: Arc::new(shape), labels, buckets }))
}

impl OperatorPlan for SpanMetricsPlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![
            OutputPlan { name: "", edge: metered::edge(self.labels.iter().cloned()) },
            OutputPlan { name: "late", edge: self.shape.input.clone() },
        ]
    }

    fn columns(&self) -> Vec<String> {
        self.shape.reads()
    }

    fn state_shape(&self) -> Option<String> {
        Some(format!("span_metrics 1: {}", self.shape.state()))
    }

    fn reach(&self) -> i64 {
        self.shape.over.saturating_add(self.shape.lateness)
    }

    fn build(&self) -> Box<dyn Operator> {
        let points = SpanPoints::new(
            self.shape.group_by.iter().map(|(column, _)| column.clone()).collect(),
            self.labels.clone(),
            self.buckets.clone(),
        );
        Box::new(Metered::new(self.shape.clone(), Box::new(points)))
    }
}
