//! `log_to_metric` operator: makes metrics of log lines, or of rows of any kind.
//!
//! ```toml
//! [operators.requests]
//! type = "log_to_metric"
//! inputs = ["otlp.logs"]
//! every = "10s"
//! group_by = ["service.name", "http.route"]
//! counters = { "http.requests" = "count(*)", "http.sent.bytes" = "sum(bytes)" }
//! gauges = { "http.slowest" = "max(took_ms)", "http.p99" = "quantile(took_ms, 0.99)" }
//! ```
//!
//! For every window of event time and each group that had rows, each metric gives a point, stamped
//! with the end of the window. Its value is an SQL aggregate, as `window` has them; where it is NULL
//! there is no point. Counters are delta. The columns in `group_by` become labels.
//!
//! This is `window` whose rows leave as metrics, so that they lie in tables of metrics and are asked
//! for by name; all that is said of windows there holds here: `lateness` (default 10 s), late rows
//! in `<id>.late`, rows of groups beyond `max_groups` (default 100,000) in `<id>.errors`. Which rows
//! count is said by `FILTER (WHERE ...)` of an aggregate, or by a `filter` before; what a line holds
//! is found by `vrl`, and its pattern by `log_pattern`. Histograms are not made; `span_metrics`
//! makes them of spans.
//!
//! State: the open windows.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::{Operator, OperatorError, OperatorKind, OperatorPlan, OutputPlan};
use weir_pipeline::config::{Duration, Scope, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::edge::Edge;
use weir_pipeline::entity::{Attribute, Entity};
use weir_pipeline::expression::{Aggregate, Expression};
use weir_pipeline::signal::Signal;

use crate::inputs;
use crate::metered::{self, Metered, Point, Points, column, label, times};
use crate::window::Shape;

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "log_to_metric",
    about: "make metrics of log lines",
    source: include_str!("log_to_metric.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Default of `lateness`, as of windows, nanoseconds.
const LATENESS: i64 = 10_000_000_000;

/// Default of `max_groups`, as of windows.
const GROUPS_MAX: usize = 100_000;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Length of a window, aligned to the UTC epoch.
    every: Spanned<Duration>,
    /// How long after its end a window still takes rows; default 10 s.
    lateness: Option<Spanned<Duration>>,
    /// Columns or SQL expressions that become labels.
    #[serde(default)]
    #[schemars(extend("x-weir-verbatim" = true))]
    group_by: Vec<Spanned<String>>,
    /// Name of a counter to its SQL aggregate.
    #[serde(default)]
    counters: IndexMap<String, Spanned<String>>,
    /// Name of a gauge to its SQL aggregate.
    #[serde(default)]
    gauges: IndexMap<String, Spanned<String>>,
    /// Most groups of one window; default 100,000.
    max_groups: Option<Spanned<usize>>,
}

#[derive(Debug)]
struct LogToMetricPlan {
    shape: Arc<Shape>,
    points: MetricPoints,
}

/// What becomes of the columns of windows.
#[derive(Clone, Debug)]
struct MetricPoints {
    /// Columns, and the labels that they become.
    labels: Vec<(String, String)>,
    /// Columns, and the metrics that they are the values of.
    metrics: Vec<(String, Vec<Attribute>)>,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let input = inputs::merged(scope);
    let mut wrong = Diagnostics::default();
    let every = config.every.value.nanos();
    if every <= 0 {
        let d = Diagnostic::error("W310", "window of no length");
        wrong.push(d.at(&section.span(&config.every)).label("expected more than 0s"));
    }
    let groups_max = config.max_groups.as_ref().map_or(GROUPS_MAX, |g| g.value);
    if let Some(written) = &config.max_groups
        && groups_max == 0
    {
        let d = Diagnostic::error("W310", "no group is allowed");
        wrong.push(d.at(&section.span(written)).label("expected at least 1"));
    }
    let mut points = MetricPoints { labels: Vec::new(), metrics: Vec::new() };
    let mut group_by: Vec<(String, Expression)> = Vec::new();
    for written in &config.group_by {
        let text = section.text(written);
        let Some(expression) = wrong.ok(Expression::parse(&text, &input, scope)) else { continue };
        let name = expression.as_column().unwrap_or(written.value.trim()).to_owned();
        if group_by.iter().any(|(other, _)| *other == name) {
            let d = Diagnostic::error("W311", format!("two columns of one name: `{name}`"));
            wrong.push(d.at(&text.span).label("groups are told apart by it already"));
            continue;
        }
        let label = Signal::Metrics.attribute_column(&name).into_owned();
        points.labels.push((name.clone(), label));
        group_by.push((name, expression));
    }
    let mut aggregates = Vec::new();
    let kinds = [("counter", &config.counters), ("gauge", &config.gauges)];
    for (kind, metrics) in kinds {
        for (name, written) in metrics {
            let text = section.text(written);
            let aggregate = wrong.ok(Aggregate::parse(&text, &input, scope));
            let Some(aggregate) = aggregate else { continue };
            if aggregate.data_type().is_some_and(|t| !t.is_numeric()) {
                let d = Diagnostic::error("W310", format!("the value of `{name}` is no number"));
                wrong.push(d.at(&text.span).label("expected a number"));
            }
            // Labels and metrics may have one name.
            let column = format!("{kind} {name}");
            points.metrics.push((column.clone(), metered::metric(name, kind, "", None)));
            aggregates.push((column, aggregate));
        }
    }
    if config.counters.is_empty() && config.gauges.is_empty() {
        let d = Diagnostic::error("W310", "no metric").at(&section.header);
        wrong.push(d.label("expected `counters` or `gauges`"));
    }
    if wrong.has_errors() {
        return Err(wrong);
    }
    let shape = Shape {
        every,
        over: every,
        lateness: config.lateness.as_ref().map_or(LATENESS, |l| l.value.nanos()),
        idle: None,
        groups_max,
        group_by,
        aggregates,
        output: Edge { signal: Signal::named("window"), columns: [].into(), open: false },
        input,
    };
    Ok(Box::new(LogToMetricPlan { shape: Arc::new(shape), points }))
}

impl OperatorPlan for LogToMetricPlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        let labels = self.points.labels.iter().map(|(_, label)| label.clone());
        vec![
            OutputPlan { name: "", edge: metered::edge(labels) },
            OutputPlan { name: "late", edge: self.shape.input.clone() },
        ]
    }

    fn columns(&self) -> Vec<String> {
        self.shape.reads()
    }

    fn state_shape(&self) -> Option<String> {
        Some(format!("log_to_metric 1: {}", self.shape.state()))
    }

    fn reach(&self) -> i64 {
        self.shape.over.saturating_add(self.shape.lateness)
    }

    fn build(&self) -> Box<dyn Operator> {
        Box::new(Metered::new(self.shape.clone(), Box::new(self.points.clone())))
    }
}

impl Points for MetricPoints {
    fn points(&self, rows: &RecordBatch) -> Result<Vec<Point>, OperatorError> {
        let groups: Vec<(&ArrayRef, &str)> = self
            .labels
            .iter()
            .map(|(name, label)| Ok((column(rows, name)?, label.as_str())))
            .collect::<Result<_, OperatorError>>()?;
        let values: Vec<(ArrayRef, &Vec<Attribute>)> = self
            .metrics
            .iter()
            .map(|(name, metric)| Ok((cast(column(rows, name)?, &DataType::Float64)?, metric)))
            .collect::<Result<_, OperatorError>>()?;
        let mut points = Vec::with_capacity(rows.num_rows() * values.len());
        for row in 0..rows.num_rows() {
            let span = times(rows, row)?;
            let labels: Vec<Attribute> =
                groups.iter().filter_map(|(array, name)| label(name, array, row)).collect();
            for (array, metric) in values.iter().filter(|(array, _)| array.is_valid(row)) {
                let entity = Entity::new(metric.iter().chain(&labels).cloned().collect());
                let value = array.as_primitive::<Float64Type>().value(row);
                points.push(Point::value(span, entity, value));
            }
        }
        Ok(points)
    }
}
