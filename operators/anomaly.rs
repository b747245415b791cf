//! `anomaly` operator: says how unusual each point of each series is, and why.
//!
//! ```toml
//! [operators.scored]
//! type = "anomaly"
//! inputs = ["otlp.metrics"]
//! min_deviation = 5.0
//!
//! [alerts.unusual]
//! inputs = ["scored"]
//! when = "anomaly.alert"
//! by = ["metric.name", "service.name"]
//! ```
//!
//! Rows pass through with seven columns more:
//!
//! | column | what it says |
//! |---|---|
//! | `anomaly.score` | how unusual, 0 to 1; 0.5 and more is news. Falls back after the first row of an event |
//! | `anomaly.alert` | true at the first row of an event whose score reaches `threshold` |
//! | `anomaly.expected` | the value that was expected |
//! | `anomaly.low`, `anomaly.high` | bounds within which the value by itself is not news |
//! | `anomaly.part` | what deviated: `value`, `level` (16 points against 64), `trend` (64 points), `change`, `season`, `shape` |
//! | `anomaly.state` | `learning` (fewer than 144 points), `young` (1,000), `mature` |
//!
//! They are NULL for rows without a finite value (up to 10^150) or without `timestamp`.
//!
//! A series is an entity, for metrics the labels and the resource; with `by` (columns or SQL
//! expressions) it is what has these values; without either, all rows are one. `value` is a column
//! or an SQL expression, by default the column `value`.
//!
//! Each series is judged by its own past alone: a deviation is news by how far it is beyond the
//! largest that were seen, more so the less often they came. `season` says whether the hour of the
//! day is reckoned with (`day`), weekends apart (`week`), not at all (`none`), or, by default
//! (`auto`), whichever foretells the series better; it takes three days to start. `direction` is
//! `above`, `below` or `both`. Deviations of less than `min_deviation` (default 0) or of less than
//! `min_deviation_ratio` (default 0.01) times the running mean are none. After an event only what
//! is clearly larger is news for 120 points; a new level is the expected one after about 1,000. How
//! it works and what it reaches: `docs/anomaly.md`.
//!
//! Metrics that say that they are cumulative counters are scored by their increase per second, in
//! which bounds and the expected value are then too, with `by` each of those that make up a series by
//! its own; so are series that rose 64 times without a
//! fall and then drop to less than half. A reset of a counter is no event. Rows that are not newer
//! than the newest of their series, and rows stamped more than 10 minutes after they were received,
//! are scored (those of counters are not) and not learned from. Rows for which the expression of
//! `value` fails pass through without a score.
//!
//! State: about 1 KiB for each series. Limit: `max_series` (default 100,000); beyond it those whose
//! newest point is oldest are forgotten, a sixteenth at a time, which is logged.

mod detector;
mod level;
mod operator;
pub(crate) mod season;
mod series;
mod shape;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::{Operator, OperatorKind, OperatorPlan, OutputPlan};
use weir_pipeline::config::{Scope, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::edge::Edge;
use weir_pipeline::expression::Expression;

use self::detector::{LONG_POINTS, Settings, WARM_UP};
use self::season::Mode;
use crate::inputs;
use crate::series::VALUE;
use crate::series::options;

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "anomaly",
    about: "score how unusual each point of each series is",
    source: include_str!("anomaly.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Default of `max_series`: about 100 MiB.
const SERIES_MAX: usize = 100_000;

/// Default of `threshold`.
const THRESHOLD: f64 = 0.5;

/// Default of `min_deviation_ratio`: a hundredth of the level is nothing to wake for.
const RATIO: f64 = 0.01;

/// How long a replay runs before its scores are about those of the original, nanoseconds: a week,
/// within which levels, extremes and both kinds of days were seen. More would cost more than it
/// brings.
const REACH: i64 = 7 * 86_400 * 1_000_000_000;

/// The columns that it adds.
const ADDED: [(&str, DataType); 7] = [
    ("anomaly.score", DataType::Float64),
    ("anomaly.expected", DataType::Float64),
    ("anomaly.low", DataType::Float64),
    ("anomaly.high", DataType::Float64),
    ("anomaly.part", DataType::Utf8),
    ("anomaly.state", DataType::Utf8),
    ("anomaly.alert", DataType::Boolean),
];

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Column or SQL expression that is scored; default: the column `value`.
    #[schemars(extend("x-weir-verbatim" = true))]
    value: Option<Spanned<String>>,
    /// Columns or SQL expressions that tell series apart; default: their entities.
    #[serde(default)]
    #[schemars(extend("x-weir-verbatim" = true))]
    by: Vec<Spanned<String>>,
    /// Which deviations count; default `both`.
    #[serde(default)]
    direction: Direction,
    /// Whether the hour of the day is reckoned with; default `auto`.
    #[serde(default)]
    season: SeasonConfig,
    /// Least deviation that counts, in the unit of the value; default 0.
    min_deviation: Option<Spanned<f64>>,
    /// Least deviation that counts, as a share of the running mean; default 0.01.
    min_deviation_ratio: Option<Spanned<f64>>,
    /// Score from which on a row is an alert; default 0.5.
    threshold: Option<Spanned<f64>>,
    /// Most series that are known; default 100,000.
    max_series: Option<Spanned<usize>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Direction {
    #[default]
    Both,
    Above,
    Below,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum SeasonConfig {
    #[default]
    Auto,
    None,
    Day,
    Week,
}

/// An anomaly operator as proved.
#[derive(Debug)]
struct Shape {
    value: Option<Expression>,
    by: Vec<(String, Expression)>,
    settings: Settings,
    series_max: usize,
    edge: Edge,
}

#[derive(Debug)]
struct AnomalyPlan(Arc<Shape>);

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut edge = inputs::merged(scope);
    let mut wrong = Diagnostics::default();
    let text = config.value.as_ref().map(|written| section.text(written));
    let value = text.and_then(|text| wrong.ok(Expression::parse(&text, &edge, scope)));
    let mut by = Vec::new();
    for written in &config.by {
        let text = section.text(written);
        if let Some(expression) = wrong.ok(Expression::parse(&text, &edge, scope)) {
            by.push((written.value.clone(), expression));
        }
    }
    let mut number = |written: &Option<Spanned<f64>>, name: &str, default: f64, open_end: f64| {
        let Some(written) = written else { return default };
        // Not a number is out of any range.
        if !(written.value >= 0.0 && written.value < open_end) {
            let d = Diagnostic::error("W310", format!("`{name}` is out of range"));
            let expected = if open_end.is_finite() { "0 to less than 1" } else { "0 or more" };
            wrong.push(d.at(&section.span(written)).label(format!("expected {expected}")));
        }
        written.value
    };
    let settings = Settings {
        season: match config.season {
            SeasonConfig::Auto => Mode::Auto,
            SeasonConfig::None => Mode::None,
            SeasonConfig::Day => Mode::Day,
            SeasonConfig::Week => Mode::Week,
        },
        above: !matches!(config.direction, Direction::Below),
        below: !matches!(config.direction, Direction::Above),
        min_absolute: number(&config.min_deviation, "min_deviation", 0.0, f64::INFINITY),
        min_relative: number(
            &config.min_deviation_ratio,
            "min_deviation_ratio",
            RATIO,
            f64::INFINITY,
        ),
        threshold: number(&config.threshold, "threshold", THRESHOLD, 1.0),
    };
    if let Some(written) = config.threshold.as_ref().filter(|t| t.value == 0.0) {
        let d = Diagnostic::error("W310", "`threshold` of 0: every row would be an alert");
        wrong.push(d.at(&section.span(written)).label("expected more than 0"));
    }
    let series_max = config.max_series.as_ref().map_or(SERIES_MAX, |m| m.value);
    if let Some(written) = &config.max_series
        && !(1..u32::MAX as usize).contains(&series_max)
    {
        let d = Diagnostic::error("W310", "`max_series` is out of range");
        wrong.push(d.at(&section.span(written)).label("expected 1 or more, less than 2^32"));
    }
    if wrong.has_errors() {
        return Err(wrong);
    }
    for (name, data_type) in ADDED {
        edge.columns.insert(name.to_owned(), Some(data_type));
    }
    Ok(Box::new(AnomalyPlan(Arc::new(Shape { value, by, settings, series_max, edge }))))
}

/// The word for how much a series is known.
fn maturity(points: u64) -> &'static str {
    if (points as f64) < WARM_UP {
        "learning"
    } else if (points as f64) < LONG_POINTS {
        "young"
    } else {
        "mature"
    }
}

impl OperatorPlan for AnomalyPlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: "", edge: self.0.edge.clone() }]
    }

    fn columns(&self) -> Vec<String> {
        let value = match &self.0.value {
            Some(expression) => expression.columns().to_vec(),
            None => vec![VALUE.to_owned()],
        };
        let by = self.0.by.iter().flat_map(|(_, e)| e.columns().to_vec());
        value.into_iter().chain(by).collect()
    }

    fn state_shape(&self) -> Option<String> {
        Some(format!("anomaly 1: {}", options::shape(self.0.value.as_ref(), &self.0.by)))
    }

    fn reach(&self) -> i64 {
        REACH
    }

    fn build(&self) -> Box<dyn Operator> {
        Box::new(operator::Anomaly::new(self.0.clone()))
    }
}
