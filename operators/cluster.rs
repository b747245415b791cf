//! `cluster` operator: groups series that go up and down together.
//!
//! ```toml
//! [operators.alike]
//! type = "cluster"
//! inputs = ["otlp.metrics"]
//! over = "6h"
//!
//! [alerts.left_its_group]
//! inputs = ["alike"]
//! when = "cluster.left AND cluster.size_before >= 5"
//! by = ["metric.name", "host.name"]
//! resolve_after = "30m"
//! summary = "{{ metric.name }} of {{ host.name }} no longer does what {{ cluster.size_before }} others do"
//! ```
//!
//! Every `every` of event time there is a row for each series that had points in three quarters of
//! the steps of `over`, with the attributes of the series (with `by`: those columns) and
//!
//! | column | what it says |
//! |---|---|
//! | `timestamp` | end of the time that was looked at |
//! | `cluster.id` | number of its group; NULL if it is like no others, or does not vary |
//! | `cluster.size` | series in the group |
//! | `cluster.distance` | 1 less the correlation with the representative of the group |
//! | `cluster.representative` | the series that is most like all of them, as text |
//! | `cluster.left` | true if it was in a group before and no longer is |
//! | `cluster.size_before` | series in the group that it was in |
//!
//! A group keeps its number as long as most of its series stay together; no number is used again.
//!
//! | key | default | |
//! |---|---|---|
//! | `value` | `value` | column or SQL expression |
//! | `by` | the entity | columns or SQL expressions that tell series apart |
//! | `step` | `5m` | length of a step, whose mean is looked at |
//! | `over` | `6h` | what is looked at: 12 to 512 steps |
//! | `every` | `15m` | how often, in event time |
//! | `similarity` | `0.8` | least correlation of neighbours |
//! | `min_size` | `3` | series without which there is no group |
//! | `method` | `shape` | `dtw`: patterns may be shifted by up to a tenth of `over`; of 200 series at most |
//! | `max_series` | 10,000 | series that are known |
//!
//! Method: values less their mean, divided by their deviation, so that neither level nor unit
//! counts, and at most 4 robust deviations from the median, so that one spike is no likeness. Two
//! series are as far apart as the root of twice 1 less their correlation (or as dynamic time warping
//! says, Sakoe and Chiba 1978). Groups are those of DBSCAN (Ester et al. 1996): what is connected by
//! neighbours of which each has `min_size`; no number of groups is given. Distances and DBSCAN are
//! those of the library augurs. Numbers of groups are matched by how many series they have in
//! common.
//!
//! Cost: of up to 1,500 series each is compared with each, which takes about 0.2 s for 72 steps, as
//! do 200 with `dtw`; of more, so many are grouped and the others join the group whose representative
//! they are like. Those are taken by a hash of the series: always the same, and of every kind of
//! series its share. Groups of which hardly one is among them are not found. Points may come in any
//! order, a late one counts in its step. Cumulative counters are compared by their increase per
//! second, with `by` each of those that make up a series by its own.
//!
//! State: 8 bytes for each step, and the attributes, of each series. Series beyond `max_series` are
//! not looked at, which is logged, until others have been silent for `over`.

mod groups;
mod operator;
mod series;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::{Operator, OperatorKind, OperatorPlan, OutputPlan};
use weir_pipeline::config::{Duration, Scope, Section, Spanned};
use weir_pipeline::diagnostic::Diagnostics;
use weir_pipeline::edge::Edge;
use weir_pipeline::expression::Expression;

use crate::series::SECOND;
use crate::series::options::{self, Options};
use crate::series::rows::Column;

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "cluster",
    about: "group series that go up and down together",
    source: include_str!("cluster.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

const SIGNAL: &str = "cluster";

/// Defaults, nanoseconds.
const STEP: i64 = 300 * SECOND;
const OVER: i64 = 6 * 3_600 * SECOND;
const EVERY: i64 = 900 * SECOND;

/// Default of `similarity`.
const SIMILARITY: f64 = 0.8;

/// Default of `min_size`.
const SIZE_MIN: usize = 3;

/// Default of `max_series`.
const SERIES_MAX: usize = 10_000;

/// Steps that are looked at: chance makes fewer alike, and more take long to compare.
const STEPS_MIN: i64 = 12;
const STEPS_MAX: i64 = 512;

/// What it adds to the time.
const ADDED: [Column; 6] = [
    ("cluster.id", DataType::Int64),
    ("cluster.size", DataType::Int64),
    ("cluster.distance", DataType::Float64),
    ("cluster.representative", DataType::Utf8),
    ("cluster.left", DataType::Boolean),
    ("cluster.size_before", DataType::Int64),
];

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Column or SQL expression that is compared; default: the column `value`.
    #[schemars(extend("x-weir-verbatim" = true))]
    value: Option<Spanned<String>>,
    /// Columns or SQL expressions that tell series apart; default: their entities.
    #[serde(default)]
    #[schemars(extend("x-weir-verbatim" = true))]
    by: Vec<Spanned<String>>,
    /// Length of a step; default 5 m.
    step: Option<Spanned<Duration>>,
    /// What is looked at; default 6 h.
    over: Option<Spanned<Duration>>,
    /// How often; default 15 m.
    every: Option<Spanned<Duration>>,
    /// Least correlation of neighbours; default 0.8.
    similarity: Option<Spanned<f64>>,
    /// Series without which there is no group; default 3.
    min_size: Option<Spanned<usize>>,
    /// Whether patterns may be shifted; default `shape`.
    #[serde(default)]
    method: Method,
    /// Most series that are known; default 10,000.
    max_series: Option<Spanned<usize>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Method {
    #[default]
    Shape,
    Dtw,
}

/// What the operator was told. Times are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Settings {
    step: i64,
    /// Steps that are looked at.
    steps: usize,
    every: i64,
    similarity: f64,
    size_min: usize,
    method: Method,
}

/// A cluster operator as proved.
#[derive(Debug)]
struct Shape {
    value: Option<Expression>,
    by: Vec<(String, Expression)>,
    settings: Settings,
    series_max: usize,
    edge: Edge,
}

#[derive(Debug)]
struct ClusterPlan(Arc<Shape>);

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut options = Options::new(section, scope);
    let value = options.number_of("value", &config.value);
    let by = options.by(&config.by, &ADDED);
    let step = options.step(&config.step, STEP);
    let steps = options.duration("over", &config.over, OVER) / step;
    if let Some(written) = &config.over
        && !(STEPS_MIN..=STEPS_MAX).contains(&steps)
    {
        let label = format!("expected {STEPS_MIN} to {STEPS_MAX} times `step`");
        options.wrong("over", written, "is out of range", &label);
    }
    let every = options.duration("every", &config.every, EVERY.max(step));
    if let Some(written) = config.every.as_ref().filter(|_| every < step) {
        options.wrong("every", written, "is shorter than `step`", "nothing is new in between");
    }
    let settings = Settings {
        step,
        steps: steps.clamp(STEPS_MIN, STEPS_MAX) as usize,
        every,
        similarity: options.number("similarity", &config.similarity, SIMILARITY, 0.0..=1.0),
        size_min: options.count("min_size", &config.min_size, SIZE_MIN, 2..=1_000),
        method: config.method,
    };
    let series_max = options.max_series(&config.max_series, SERIES_MAX);
    let edge = options.edge(SIGNAL, &by, &ADDED);
    if options.wrong.has_errors() {
        return Err(options.wrong);
    }
    Ok(Box::new(ClusterPlan(Arc::new(Shape { value, by, settings, series_max, edge }))))
}

impl OperatorPlan for ClusterPlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: "", edge: self.0.edge.clone() }]
    }

    fn columns(&self) -> Vec<String> {
        options::columns(self.0.value.as_ref(), &self.0.by)
    }

    fn state_shape(&self) -> Option<String> {
        let of = options::shape(self.0.value.as_ref(), &self.0.by);
        Some(format!("cluster 2: {of} step {}", self.0.settings.step))
    }

    fn reach(&self) -> i64 {
        self.0.settings.step.saturating_mul(self.0.settings.steps as i64)
    }

    fn build(&self) -> Box<dyn Operator> {
        Box::new(operator::Cluster::new(self.0.clone()))
    }
}
