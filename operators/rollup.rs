//! `rollup` operator: reduces metrics by time and labels, so that they can be kept for years.
//!
//! ```toml
//! [operators.cpu_1m]
//! type = "rollup"
//! inputs = ["node.metrics"]
//! every = "1m"
//! keep = ["job", "mode"]
//!
//! [sinks.cpu]
//! type = "store"
//! inputs = ["cpu_1m"]
//! table = "cpu_1m"
//! ```
//!
//! How long the table is kept stands in `weir.toml`: `[tables.cpu_1m]`, `retention = "2y"`. For
//! coarser steps beside it add another `rollup` of the same input.
//!
//! For each step of `every` (aligned to the UTC epoch) and each group of series there is a row:
//! `timestamp` (start of the step), `window_end`, the labels and the columns of the metric's type:
//!
//! | `metric.type` | columns | over the hours of a day |
//! |---|---|---|
//! | all | `count` (points) | `sum(count)` |
//! | `gauge`, `unknown` | `sum`, `min`, `max` | `sum(sum) / sum(count)`, `min(min)`, `max(max)` |
//! | | `last`, `last_timestamp` | `last_value(last ORDER BY last_timestamp)` |
//! | | `sketch` (if asked for) | `sketch_quantile(sketch_merge(sketch), 0.99)` |
//! | `counter` | `increase` | `sum(increase)` |
//! | histograms, `summary` | `histogram` | `histogram_quantile(histogram_merge(histogram), 0.99)` |
//!
//! Of explicit buckets `histogram_quantile` takes `metric.bounds` as third argument, by which they
//! have to be grouped, too.
//!
//! `increase` is that of each series, from its sample before to each sample of the step, summed over
//! the group; so none is lost between steps. After a reset (a lower value, or a `start_timestamp`
//! past the sample before) a sample counts from zero; the first sample of a series, or after `every`
//! or an hour of silence, whichever is longer, counts nothing. Metrics of delta temporality are
//! summed. `histogram` is the increase of count, sum and buckets likewise; exponential ones are
//! brought to the coarsest scale among them, and to one at which they have at most 1,024 buckets;
//! those without a temporality go to `<id>.errors`. NaN counts as no value. `counters` lists names
//! of counters that do not say so, a `*` at one end allowed: `["*_count", "*_sum"]`.
//!
//! Groups are by `keep` (these labels), or by all but those in `drop`; without either, only time is
//! reduced. What says what the metric is (`metric.name`, `metric.type`, `metric.unit`,
//! `metric.bounds`), `le` and `quantile` are always kept. Labels called like a column of the rows
//! become `label.<name>`. Columns of rows that `vrl` has set are labels, too, if they are text or
//! booleans, or in `keep`.
//!
//! **Late data.** A step is given `lateness` (default 10 s) after its end. What comes later, for
//! `correct_for` (default 10 m), is given within a minute in rows of its own for the same step and
//! group, with `correction` true: what is to be *added*. All columns combine as the table above says,
//! so the same question over the table gives the right answer whether rows were late or not. A late
//! sample of a counter changes the increase of its own step and of the next; a correction can be
//! negative. What is later still goes to `<id>.late` as it is; while its step is open that is only a
//! sample of a cumulative series that is older than `lateness` and `correct_for`: what a counter rose
//! is not known without its neighbours. So with long steps set `correct_for` to the delay that senders
//! of counters can have.
//!
//! `aggregate` says which columns there are, of `count`, `sum`, `min`, `max`, `last`, `increase`,
//! `histogram`, `sketch`; default: all but `sketch`. A sketch answers quantiles within 1 %, also of
//! many rows merged; its text form is told in the guide.
//!
//! A change of `every`, of labels, of columns or of `counters` begins anew: what is open is given, the
//! rest of the step has rows of its own, and what counters rose between the last sample before and the
//! first after is not counted.
//!
//! State: open steps; of each cumulative series its samples of the last `lateness` and
//! `correct_for`, 32 bytes each, of histograms as much again for each bucket. Checkpoints are larger
//! by it: where little is late, a shorter `correct_for` is cheaper. Limits: `max_groups` (default
//! 100,000) of one step, `max_series` (default 100,000) cumulative ones, beyond which rows go to
//! `<id>.errors`; 10,000 open steps; 320 MB of samples, beyond which the oldest of a series go and it
//! is corrected for a shorter time. Rows stamped more than 10 minutes after they were received are
//! dropped, and counted.

mod emit;
mod groups;
mod operator;
mod series;
mod state;
#[cfg(test)]
mod tests;
mod windows;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::{Operator, OperatorKind, OperatorPlan, OutputPlan};
use weir_pipeline::config::{Duration, Scope, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::edge::Edge;
use weir_pipeline::signal::{Signal, histogram, timestamp};

use self::groups::{IDENTITY, Labels, Pattern};
use crate::inputs;

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "rollup",
    about: "reduce metrics by time and labels",
    source: include_str!("rollup.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Default of `lateness`, as of windows, nanoseconds.
const LATENESS: i64 = 10_000_000_000;

/// Default of `correct_for`, nanoseconds: 40 samples of a series that is scraped every 15 s.
const CORRECT_FOR: i64 = 600_000_000_000;

/// Default of `max_groups`, as of windows.
const GROUPS_MAX: usize = 100_000;

/// Default of `max_series`: about 130 MiB with the default of `correct_for`.
const SERIES_MAX: usize = 100_000;

/// The least silence of a series after which its next sample is a first one, nanoseconds: an hour.
const IDLE_MIN: i64 = 3_600_000_000_000;

const TIMESTAMP: &str = "timestamp";

/// Row columns of what it gives.
const COLUMNS: [&str; 12] = [
    TIMESTAMP,
    "window_end",
    "count",
    "sum",
    "min",
    "max",
    "last",
    "last_timestamp",
    "increase",
    "histogram",
    "sketch",
    "correction",
];

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Length of a step, aligned to the UTC epoch.
    every: Spanned<Duration>,
    /// Labels that are kept; all others go.
    keep: Option<Spanned<Vec<String>>>,
    /// Labels that go; all others are kept.
    drop: Option<Spanned<Vec<String>>>,
    /// Columns to make; default: all but `sketch`.
    aggregate: Option<Spanned<Vec<Column>>>,
    /// Names of counters that do not say that they are, a `*` at one end allowed.
    #[serde(default)]
    counters: Vec<Spanned<String>>,
    /// How long after its end a step still takes rows; default 10 s.
    lateness: Option<Spanned<Duration>>,
    /// How long after that it is corrected; default 10 m.
    correct_for: Option<Spanned<Duration>>,
    /// Most groups of one step; default 100,000.
    max_groups: Option<Spanned<usize>>,
    /// Most cumulative series; default 100,000.
    max_series: Option<Spanned<usize>>,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
enum Column {
    Count,
    Sum,
    Min,
    Max,
    Last,
    Increase,
    Histogram,
    Sketch,
}

impl Column {
    const DEFAULT: [Self; 7] =
        [Self::Count, Self::Sum, Self::Min, Self::Max, Self::Last, Self::Increase, Self::Histogram];

    /// The columns that it stands for.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Count => &["count"],
            Self::Sum => &["sum"],
            Self::Min => &["min"],
            Self::Max => &["max"],
            Self::Last => &["last", "last_timestamp"],
            Self::Increase => &["increase"],
            Self::Histogram => &["histogram"],
            Self::Sketch => &["sketch"],
        }
    }
}

/// A rollup as proved. Times are nanoseconds.
#[derive(Debug)]
struct Shape {
    every: i64,
    lateness: i64,
    correct_for: i64,
    idle: i64,
    labels: Labels,
    columns: BTreeSet<Column>,
    counters: Vec<Pattern>,
    groups_max: usize,
    series_max: usize,
    input: Edge,
    output: Edge,
}

#[derive(Debug)]
struct RollupPlan(Arc<Shape>);

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let input = inputs::merged(scope);
    let mut wrong = Diagnostics::default();
    let every = config.every.value.nanos();
    if every <= 0 {
        let d = Diagnostic::error("W310", "steps of no length").at(&section.span(&config.every));
        wrong.push(d.label("expected more than 0s"));
    }
    for (name, written) in [("max_groups", &config.max_groups), ("max_series", &config.max_series)]
    {
        if let Some(written) = written
            && !(1..u32::MAX as usize).contains(&written.value)
        {
            let d = Diagnostic::error("W310", format!("`{name}` is out of range"));
            wrong.push(d.at(&section.span(written)).label("expected 1 or more, less than 2^32"));
        }
    }
    if let (Some(_), Some(dropped)) = (&config.keep, &config.drop) {
        let d = Diagnostic::error("W310", "both `keep` and `drop`").at(&section.span(dropped));
        wrong.push(d.label("what is not kept is dropped already"));
    }
    if let Some(dropped) = &config.drop
        && let Some(name) = dropped.value.iter().find(|n| IDENTITY.contains(&n.as_str()))
    {
        let d = Diagnostic::error("W310", format!("`{name}` cannot be dropped"));
        wrong.push(d.at(&section.span(dropped)).label("it says what the metric is"));
    }
    for written in config.keep.iter().chain(&config.drop) {
        for name in &written.value {
            match input.check(name, &section.span(written)) {
                Some(d) if input.open => scope.warn(d),
                Some(d) => wrong.push(d),
                None => {}
            }
        }
    }
    let columns: BTreeSet<Column> = match &config.aggregate {
        Some(written) => written.value.iter().copied().collect(),
        None => Column::DEFAULT.into(),
    };
    if let Some(written) = config.aggregate.as_ref().filter(|a| a.value.is_empty()) {
        let d = Diagnostic::error("W310", "no column to make").at(&section.span(written));
        wrong.push(d.label("expected `count`, `sum`, `increase` and the like"));
    }
    let mut counters = Vec::new();
    for written in &config.counters {
        match Pattern::parse(&written.value) {
            _ if written.value.trim().is_empty() => {
                let d = Diagnostic::error("W310", "name of a counter that is empty");
                wrong.push(d.at(&section.span(written)).label("expected a name, or `*_total`"));
            }
            Some(pattern) => counters.push(pattern),
            None => {
                let d = Diagnostic::error("W310", "pattern of names with `*` within");
                wrong.push(d.at(&section.span(written)).label("expected a `*` at one end at most"));
            }
        }
    }
    if wrong.has_errors() {
        return Err(wrong);
    }
    let labels = match (config.keep, config.drop) {
        (Some(keep), _) => Labels::Keep(keep.value.into_iter().collect()),
        (None, dropped) => Labels::Drop(dropped.into_iter().flat_map(|d| d.value).collect()),
    };
    let nanos =
        |d: &Option<Spanned<Duration>>, default| d.as_ref().map_or(default, |d| d.value.nanos());
    let lateness = nanos(&config.lateness, LATENESS);
    Ok(Box::new(RollupPlan(Arc::new(Shape {
        every,
        lateness,
        correct_for: nanos(&config.correct_for, CORRECT_FOR),
        idle: every.max(IDLE_MIN),
        output: output(&labels, &columns),
        labels,
        columns,
        counters,
        groups_max: config.max_groups.map_or(GROUPS_MAX, |m| m.value),
        series_max: config.max_series.map_or(SERIES_MAX, |m| m.value),
        input,
    }))))
}

/// What flows on: closed where all labels are known.
fn output(labels: &Labels, columns: &BTreeSet<Column>) -> Edge {
    let asked: BTreeSet<&str> = columns.iter().flat_map(|c| c.names()).copied().collect();
    let always = [TIMESTAMP, "window_end", "correction"];
    let known = COLUMNS.iter().filter(|name| always.contains(name) || asked.contains(*name));
    let mut all: Vec<(String, Option<DataType>)> =
        known.map(|name| ((*name).to_owned(), Some(column_type(name)))).collect();
    all.extend(IDENTITY.iter().map(|name| ((*name).to_owned(), None)));
    if let Labels::Keep(names) = labels {
        all.extend(names.iter().map(|name| (groups::label(name).to_string(), None)));
    }
    let open = matches!(labels, Labels::Drop(_));
    Edge { signal: Signal::named("rollup"), columns: all.into_iter().collect(), open }
}

/// The type of a row column.
fn column_type(name: &str) -> DataType {
    match name {
        TIMESTAMP | "window_end" | "last_timestamp" => timestamp(),
        "count" => DataType::Int64,
        "correction" => DataType::Boolean,
        "sketch" => DataType::Utf8,
        "histogram" => histogram(),
        _ => DataType::Float64,
    }
}

impl OperatorPlan for RollupPlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![
            OutputPlan { name: "", edge: self.0.output.clone() },
            OutputPlan { name: "late", edge: self.0.input.clone() },
        ]
    }

    fn columns(&self) -> Vec<String> {
        match &self.0.labels {
            Labels::Keep(names) => names.iter().cloned().collect(),
            Labels::Drop(_) => Vec::new(),
        }
    }

    fn state_shape(&self) -> Option<String> {
        let Shape { every, labels, columns, counters, .. } = &*self.0;
        Some(format!("rollup 1: every {every} {labels:?} {columns:?} counters {counters:?}"))
    }

    fn reach(&self) -> i64 {
        let Shape { every, lateness, correct_for, idle, .. } = &*self.0;
        every.saturating_add(*lateness).saturating_add(*correct_for).max(*idle)
    }

    fn build(&self) -> Box<dyn Operator> {
        Box::new(operator::Rollup::new(self.0.clone()))
    }
}
