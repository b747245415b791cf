//! `changepoint` operator: says when a series has another level, spread or trend than before.
//!
//! ```toml
//! [operators.shifts]
//! type = "changepoint"
//! inputs = ["otlp.metrics"]
//! min_change_ratio = 0.1
//!
//! [alerts.shifted]
//! inputs = ["shifts"]
//! when = "changepoint.kind = 'level' AND abs(changepoint.size) > 3"
//! by = ["metric.name", "service.name"]
//! summary = "{{ metric.name }}: {{ changepoint.before }} became {{ changepoint.after }}"
//! ```
//!
//! One row for each change, behind the row that proved it, with the attributes of the series (with
//! `by`: those columns) and
//!
//! | column | what it says |
//! |---|---|
//! | `timestamp` | when the change was proved: some 10 points after it |
//! | `changepoint.at` | time of the first point after it |
//! | `changepoint.kind` | `level`, `variance` or `trend` |
//! | `changepoint.before`, `changepoint.after` | median of up to 128 points before, and of those since |
//! | `changepoint.size` | by how many standard deviations these differ, at most a million |
//! | `changepoint.spread_before`, `changepoint.spread_after` | standard deviations, by the median absolute deviation |
//! | `changepoint.slope_before`, `changepoint.slope_after` | change per second, robust |
//! | `changepoint.confidence` | 1 less the chance that noise looks like this |
//!
//! | key | default | |
//! |---|---|---|
//! | `value` | `value` | column or SQL expression |
//! | `by` | the entity | columns or SQL expressions that tell series apart |
//! | `kinds` | all | which changes are told |
//! | `sensitivity` | `0.5` | 0 to 1: how little evidence is enough |
//! | `min_points` | `8` | what lasts for fewer points is no change |
//! | `min_change`, `min_change_ratio` | `0` | least change of the level, and as a share of the level before |
//! | `season` | `auto` | whether the hour of the day is taken out first: `auto`, `none`, `day`, `week` |
//! | `max_series` | 100,000 | series that are known |
//!
//! Method: of the last 128 points the Mann-Whitney statistic at each place where they could be split
//! in before and after; the largest, corrected for how alike points are that follow each other, must
//! be as large as noise makes it once in about a million points (`sensitivity` 0.5). It is taken of
//! the values less their season and trend, then of their distances to the median for the spread. Of
//! a change of level whose points go on rising or falling (Mann-Kendall) it is one of trend, which is
//! then taken out. Sources, power and false alarms: `docs/changepoint.md`.
//!
//! Ranks are counted, not sizes: a spike is one point. Of the points after a change `min_points` must
//! be nearer to their median than to the one before: what is shorter is no change. What goes and comes back later is two. Points that are not newer than the newest of their
//! series, and rows stamped more than 10 minutes after they were received, are left out; a pause is no
//! change. Cumulative counters are looked at by their increase per second, with `by` each of those that
//! make up a series by its own. Of several rows of a series at one time the first counts: put a `window` in
//! front where `by` joins what comes together.
//!
//! State: about 3 KiB for each series. Series beyond `max_series` are not looked at, which is logged,
//! until others have been silent for a day.

mod operator;
mod ranks;
mod series;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::{Operator, OperatorKind, OperatorPlan, OutputPlan};
use weir_pipeline::config::{Scope, Section, Spanned};
use weir_pipeline::diagnostic::Diagnostics;
use weir_pipeline::edge::Edge;
use weir_pipeline::expression::Expression;
use weir_pipeline::signal::timestamp;

use self::series::{BEFORE, Change, WINDOW};
use crate::anomaly::season::Mode;
use crate::series::options::{self, Options};
use crate::series::rows::Column;

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "changepoint",
    about: "say when the level, spread or trend of a series changes",
    source: include_str!("changepoint.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

const SIGNAL: &str = "changepoint";

/// Default of `max_series`: about 300 MiB.
const SERIES_MAX: usize = 100_000;

/// Default of `min_points`.
const POINTS_MIN: usize = 8;

/// Deviations that are enough at a sensitivity of 0 and of 1.
const DEVIATIONS: (f64, f64) = (6.5, 3.5);

/// How long a replay runs before its changes are those of the original, nanoseconds: a week, so that
/// both kinds of days were seen.
const REACH: i64 = 7 * 86_400 * 1_000_000_000;

/// What it adds to the time.
const ADDED: [Column; 10] = [
    // The type is that of `timestamp`; see `columns`.
    ("changepoint.at", DataType::Null),
    ("changepoint.kind", DataType::Utf8),
    ("changepoint.before", DataType::Float64),
    ("changepoint.after", DataType::Float64),
    ("changepoint.size", DataType::Float64),
    ("changepoint.spread_before", DataType::Float64),
    ("changepoint.spread_after", DataType::Float64),
    ("changepoint.slope_before", DataType::Float64),
    ("changepoint.slope_after", DataType::Float64),
    ("changepoint.confidence", DataType::Float64),
];

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Column or SQL expression that is looked at; default: the column `value`.
    #[schemars(extend("x-weir-verbatim" = true))]
    value: Option<Spanned<String>>,
    /// Columns or SQL expressions that tell series apart; default: their entities.
    #[serde(default)]
    #[schemars(extend("x-weir-verbatim" = true))]
    by: Vec<Spanned<String>>,
    /// Which changes are told; default all.
    kinds: Option<Spanned<Vec<KindConfig>>>,
    /// How little evidence is enough, 0 to 1; default 0.5.
    sensitivity: Option<Spanned<f64>>,
    /// What lasts for fewer points is no change; default 8.
    min_points: Option<Spanned<usize>>,
    /// Least change of the level, in the unit of the value; default 0.
    min_change: Option<Spanned<f64>>,
    /// Least change of the level, as a share of the level before; default 0.
    min_change_ratio: Option<Spanned<f64>>,
    /// Whether the hour of the day is taken out first; default `auto`.
    #[serde(default)]
    season: SeasonConfig,
    /// Most series that are known; default 100,000.
    max_series: Option<Spanned<usize>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum KindConfig {
    Level,
    Variance,
    Trend,
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

/// Which changes are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kinds {
    level: bool,
    variance: bool,
    trend: bool,
}

/// What the operator was told.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Settings {
    kinds: Kinds,
    /// Deviations of the statistic that are a change.
    least: f64,
    min_points: usize,
    min_change: f64,
    min_ratio: f64,
    season: Mode,
}

impl Settings {
    /// Whether a change of level is worth telling.
    fn large(&self, change: &Change) -> bool {
        let by = (change.after.level - change.before.level).abs();
        by >= self.min_change && by >= self.min_ratio * change.before.level.abs()
    }
}

/// A changepoint operator as proved.
#[derive(Debug)]
struct Shape {
    value: Option<Expression>,
    by: Vec<(String, Expression)>,
    settings: Settings,
    series_max: usize,
    edge: Edge,
}

#[derive(Debug)]
struct ChangepointPlan(Arc<Shape>);

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut options = Options::new(section, scope);
    let value = options.number_of("value", &config.value);
    let by = options.by(&config.by, &ADDED);
    if let Some(written) = config.kinds.as_ref().filter(|kinds| kinds.value.is_empty()) {
        options.wrong("kinds", written, "is empty", "expected `level`, `variance` or `trend`");
    }
    let told = |kind| config.kinds.as_ref().is_none_or(|kinds| kinds.value.contains(&kind));
    let kinds = Kinds {
        level: told(KindConfig::Level),
        variance: told(KindConfig::Variance),
        trend: told(KindConfig::Trend),
    };
    let sensitivity = options.number("sensitivity", &config.sensitivity, 0.5, 0.0..=1.0);
    let settings = Settings {
        kinds,
        least: DEVIATIONS.0 + sensitivity * (DEVIATIONS.1 - DEVIATIONS.0),
        min_points: options.count(
            "min_points",
            &config.min_points,
            POINTS_MIN,
            4..=WINDOW - BEFORE,
        ),
        min_change: options.number("min_change", &config.min_change, 0.0, 0.0..=f64::MAX),
        min_ratio: options.number(
            "min_change_ratio",
            &config.min_change_ratio,
            0.0,
            0.0..=f64::MAX,
        ),
        season: match config.season {
            SeasonConfig::Auto => Mode::Auto,
            SeasonConfig::None => Mode::None,
            SeasonConfig::Day => Mode::Day,
            SeasonConfig::Week => Mode::Week,
        },
    };
    let series_max = options.max_series(&config.max_series, SERIES_MAX);
    let edge = options.edge(SIGNAL, &by, &columns());
    if options.wrong.has_errors() {
        return Err(options.wrong);
    }
    Ok(Box::new(ChangepointPlan(Arc::new(Shape { value, by, settings, series_max, edge }))))
}

/// All columns with their types.
fn columns() -> Vec<Column> {
    let added = ADDED.into_iter().map(|(name, data_type)| match data_type {
        DataType::Null => (name, timestamp()),
        other => (name, other),
    });
    added.collect()
}

impl OperatorPlan for ChangepointPlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: "", edge: self.0.edge.clone() }]
    }

    fn columns(&self) -> Vec<String> {
        options::columns(self.0.value.as_ref(), &self.0.by)
    }

    fn state_shape(&self) -> Option<String> {
        Some(format!("changepoint 2: {}", options::shape(self.0.value.as_ref(), &self.0.by)))
    }

    fn reach(&self) -> i64 {
        REACH
    }

    fn build(&self) -> Box<dyn Operator> {
        Box::new(operator::Changepoint::new(self.0.clone()))
    }
}
