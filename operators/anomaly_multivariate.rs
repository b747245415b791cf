//! `anomaly_multivariate` operator: says when series that belong together no longer fit each other.
//!
//! ```toml
//! [operators.service_health]
//! type = "anomaly_multivariate"
//! inputs = ["otlp.metrics"]
//! among = ["service.name"]
//!
//! [alerts.unlike_itself]
//! inputs = ["service_health"]
//! when = "anomaly.alert"
//! by = ["service.name"]
//! summary = "{{ service.name }}: {{ anomaly.series }} is {{ anomaly.value }}, by the others it should be {{ anomaly.expected }}"
//! ```
//!
//! Where `anomaly` judges each series by its own past, this one judges the series of a group by each
//! other: requests and CPU rise together every day, and CPU without requests is news, however usual
//! its value is. For each `step` of each group that is known well enough there is one row, with the
//! columns `among` and
//!
//! | column | what it says |
//! |---|---|
//! | `timestamp` | end of the step |
//! | `anomaly.score` | how badly the series fit each other, 0 to 1; 0.5 is half beyond what was seen |
//! | `anomaly.alert` | true if the score reaches `threshold`, and did not within the ten steps before |
//! | `anomaly.series` | the series that fits least, as text |
//! | `anomaly.contribution` | its share of the misfit |
//! | `anomaly.value`, `anomaly.expected` | its value, and the one that fits the others |
//! | `anomaly.contributions` | the five that fit least with their shares, as JSON |
//! | `anomaly.members` | series that were compared |
//!
//! | key | default | |
//! |---|---|---|
//! | `value` | `value` | column or SQL expression |
//! | `by` | the entity | columns or SQL expressions that tell series apart |
//! | `among` | `[]` | attributes of series (with `by`: columns of it) that those of a group have in common; none: all are one group |
//! | `step` | `1m` | length of a step, whose mean is looked at |
//! | `history` | `12h` | what is learned from: 64 to 2,000 steps |
//! | `threshold` | `0.5` | score of an alert |
//! | `max_series` | 10,000 | series that are known |
//!
//! Method: principal components (Pearson 1901) of the steps of the history, of values less their
//! median, divided by their robust deviation, at most eight of these; as many components as hold 90 %
//! of the variance. What of a step is not in their space, series by series against how much of it
//! usually is not, is the misfit (the squared prediction error of Jackson and Mudholkar 1979; for
//! networks Lakhina, Crovella and Diot 2004). Three quarters of the history give the components, the
//! last one gives what misfit is usual, of all together and of the worst of them: no distribution is
//! assumed. The components are those of the library smartcore, fitted anew every 64 steps of event
//! time; the numbers of the model are saved, not the history alone, so that a restart changes no bit.
//!
//! A group is known after 64 steps, more than five of each series, and when two of its series at
//! least have points in three quarters of them and vary. Of more than 64 series those are compared
//! whose fingerprints come first: always the same. Gaps are as usual. Cumulative counters are
//! compared by their increase per second, with `by` each of those that make up a series by its own. A
//! step is judged 10 s after its end, by the clock of Weir; a point that comes later counts for the
//! model alone. A new state that stays is news until the history has it.
//!
//! Cost: a fit of 720 steps takes 2 ms for 18 series and 40 ms for 64, a step microseconds. State: 8
//! bytes for each step of each series, and their attributes. Series beyond `max_series` are left out,
//! which is logged, until others have been silent for `history`; of what comes late in one piece, a
//! backfill, the last 240 steps are judged.

mod group;
mod model;
mod operator;
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
use weir_pipeline::signal::Signal;

use crate::series::SECOND;
use crate::series::options::{self, Options};
use crate::series::rows::Column;

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "anomaly_multivariate",
    about: "say when series that belong together do not fit each other",
    source: include_str!("anomaly_multivariate.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

const SIGNAL: &str = "anomaly_multivariate";

/// Defaults, nanoseconds.
const STEP: i64 = 60 * SECOND;
const HISTORY: i64 = 12 * 3_600 * SECOND;

/// Steps that are learned from: of fewer nothing is known, more take long to fit.
const STEPS_MIN: i64 = 64;
const STEPS_MAX: i64 = 2_000;

/// Default of `threshold`.
const THRESHOLD: f64 = 0.5;
/// A step is judged so long after its end, as windows are, nanoseconds.
const LATENESS: i64 = 10 * SECOND;

/// With less than this every step would be an alert.
const THRESHOLD_MIN: f64 = 0.01;

/// Default of `max_series`.
const SERIES_MAX: usize = 10_000;

/// What it adds to the time.
const ADDED: [Column; 8] = [
    ("anomaly.score", DataType::Float64),
    ("anomaly.alert", DataType::Boolean),
    ("anomaly.series", DataType::Utf8),
    ("anomaly.contribution", DataType::Float64),
    ("anomaly.value", DataType::Float64),
    ("anomaly.expected", DataType::Float64),
    ("anomaly.contributions", DataType::Utf8),
    ("anomaly.members", DataType::Int64),
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
    /// Attributes that the series of a group have in common; default none.
    #[serde(default)]
    among: Vec<Spanned<String>>,
    /// Length of a step; default 1 m.
    step: Option<Spanned<Duration>>,
    /// What is learned from; default 12 h.
    history: Option<Spanned<Duration>>,
    /// Score of an alert; default 0.5.
    threshold: Option<Spanned<f64>>,
    /// Most series that are known; default 10,000.
    max_series: Option<Spanned<usize>>,
}

/// What the operator was told.
#[derive(Clone, Debug, PartialEq)]
struct Settings {
    /// Nanoseconds.
    step: i64,
    steps: usize,
    threshold: f64,
    among: Vec<String>,
}

/// Such an operator as proved.
#[derive(Debug)]
struct Shape {
    value: Option<Expression>,
    by: Vec<(String, Expression)>,
    settings: Settings,
    series_max: usize,
    edge: Edge,
}

#[derive(Debug)]
struct MultivariatePlan(Arc<Shape>);

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut options = Options::new(section, scope);
    let value = options.number_of("value", &config.value);
    let by = options.by(&config.by, &[]);
    for written in &config.among {
        let known = by.iter().any(|(name, _)| *name == written.value);
        if by.is_empty() {
            options.column(written);
        } else if !known {
            options.wrong("among", written, "names no column of `by`", "expected one of them");
        }
    }
    let step = options.step(&config.step, STEP);
    let steps = options.duration("history", &config.history, HISTORY) / step;
    if let Some(written) = &config.history
        && !(STEPS_MIN..=STEPS_MAX).contains(&steps)
    {
        let label = format!("expected {STEPS_MIN} to {STEPS_MAX} times `step`");
        options.wrong("history", written, "is out of range", &label);
    }
    let settings = Settings {
        step,
        steps: steps.clamp(STEPS_MIN, STEPS_MAX) as usize,
        threshold: options.number("threshold", &config.threshold, THRESHOLD, THRESHOLD_MIN..=1.0),
        among: config.among.into_iter().map(|a| a.value).collect(),
    };
    let series_max = options.max_series(&config.max_series, SERIES_MAX);
    if options.wrong.has_errors() {
        return Err(options.wrong);
    }
    let mut edge = Edge::open(Signal::named(SIGNAL));
    let among = settings.among.iter().map(|name| (name.clone(), None));
    edge.columns.extend(among.chain(ADDED.map(|(name, t)| (name.to_owned(), Some(t)))));
    edge.open = false;
    Ok(Box::new(MultivariatePlan(Arc::new(Shape { value, by, settings, series_max, edge }))))
}

impl OperatorPlan for MultivariatePlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: "", edge: self.0.edge.clone() }]
    }

    fn columns(&self) -> Vec<String> {
        let among = self.0.settings.among.iter().filter(|_| self.0.by.is_empty()).cloned();
        options::columns(self.0.value.as_ref(), &self.0.by).into_iter().chain(among).collect()
    }

    fn state_shape(&self) -> Option<String> {
        let of = options::shape(self.0.value.as_ref(), &self.0.by);
        let Settings { step, among, .. } = &self.0.settings;
        Some(format!("anomaly_multivariate 2: {of} among {among:?} step {step}"))
    }

    fn reach(&self) -> i64 {
        self.0.settings.step.saturating_mul(self.0.settings.steps as i64)
    }

    fn build(&self) -> Box<dyn Operator> {
        Box::new(operator::Multivariate::new(self.0.clone()))
    }
}
