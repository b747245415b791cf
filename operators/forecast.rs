//! `forecast` operator: says where each series is going, and when it reaches a limit.
//!
//! ```toml
//! [operators.disks]
//! type = "filter"
//! inputs = ["otlp.metrics"]
//! where = "metric.name = 'system.filesystem.utilization'"
//!
//! [operators.filling]
//! type = "forecast"
//! inputs = ["disks"]
//! horizon = "2d"
//! limit = 0.95
//!
//! [alerts.disk_full_soon]
//! inputs = ["filling"]
//! when = "forecast.crosses_in < 4 * 3600"
//! by = ["host.name", "mountpoint"]
//! resolve_after = "1h"
//! summary = "{{ host.name }} {{ mountpoint }} is full at {{ forecast.crosses_at }}"
//! ```
//!
//! It keeps the mean of each `step` of each series, and every `every` (15 min) of event time gives a
//! row for each series that had points since. The row has the attributes of the series (with `by`:
//! those columns) and
//!
//! | column | what it says |
//! |---|---|
//! | `timestamp`, `value` | end and mean of the last step that is over |
//! | `forecast.for`, `forecast.value` | the end of the horizon, and what is expected then |
//! | `forecast.low`, `forecast.high`, `forecast.level` | between what it lies with the probability `level` |
//! | `forecast.limit` | the limit |
//! | `forecast.crosses_at`, `forecast.crosses_in` | when the limit is reached, and in how many seconds; NULL if not within `horizon`, 0 if it is passed |
//! | `forecast.crosses_in_low`, `forecast.crosses_in_high` | the same by the bound that comes there first, and by the other |
//! | `forecast.method`, `forecast.steps` | how it was made, of how many steps |
//! | `forecast.mase`, `forecast.smape`, `forecast.coverage` | how good such forecasts of this series were: mean error against repeating the last day, mean error in percent, share within `low` to `high` |
//!
//! With `points = 24` there are 24 rows each time, evenly over the horizon: a line for a chart.
//!
//! | key | default | |
//! |---|---|---|
//! | `value` | `value` | column or SQL expression |
//! | `by` | the entity | columns or SQL expressions that tell series apart |
//! | `step` | `5m` | length of a step |
//! | `history` | `7d` | what is remembered; 24 to 10,000 steps: by default the nearest to 7 d |
//! | `horizon` | `1d` | how far ahead; at most 10,000 steps, also by default |
//! | `every` | `15m` | how often, in event time |
//! | `limit` | none | a number, or a column or SQL expression whose last value counts |
//! | `direction` | `above` | from where the limit is reached: `above` it is full, `below` it is empty |
//! | `level` | `0.9` | probability of the interval |
//! | `min`, `max` | none | what the quantity cannot be below, or above: forecasts and their bounds end there |
//! | `seasons` | `["1d", "7d"]` | one or two periods; used once there are two of them |
//! | `points` | `1` | rows of each forecast |
//! | `max_series` | 10,000 | series that are known |
//!
//! A series chooses among 15 methods by how they would have done from up to 24 places in its own
//! past, and again when it has grown by an eighth: the last value, a level, robust trends, profiles
//! of the seasons, exponential smoothing, and seasons by LOESS; or the mean of two of them. The
//! width of the interval is that of the errors of these trials. Nothing is said of less than 12
//! steps, or if half of them have no points. How it works, where it comes from, what it reaches and
//! costs: `docs/forecast.md`.
//!
//! Points may come in any order: a late one counts in its step as long as that is remembered. Rows
//! stamped more than 10 minutes after they were received are left out. Cumulative counters are
//! forecast by their increase per second, with `by` each of those that make up a series by its own. Set `resolve_after` of an alert longer than `every`, or it
//! resolves between two rows.
//!
//! State: 8 bytes for each step, and the attributes, of each series: 16 KiB with the defaults. Series
//! beyond `max_series` are not forecast, which is logged, until others have had no point for
//! `history`. Forecasts are made at ticks, as many as take about a quarter of a second; others wait
//! for the next tick, those that are due first come first.

mod interval;
mod methods;
mod operator;
mod seasonal;
mod select;
mod series;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::DataType;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer};
use weir_pipeline::component::{Operator, OperatorKind, OperatorPlan, OutputPlan};
use weir_pipeline::config::{Duration, Scope, Section, Spanned};
use weir_pipeline::diagnostic::Diagnostics;
use weir_pipeline::edge::Edge;
use weir_pipeline::expression::Expression;
use weir_pipeline::signal::timestamp;
use xxhash_rust::xxh3::xxh3_64;

use crate::series::options::{self, Options};
use crate::series::rows::Column;
use crate::series::{SECOND, VALUE};

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "forecast",
    about: "say where series are going, and when they reach a limit",
    source: include_str!("forecast.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

const SIGNAL: &str = "forecast";

const DAY: i64 = 86_400 * SECOND;

/// Defaults, nanoseconds.
const STEP: i64 = 300 * SECOND;
const HISTORY: i64 = 7 * DAY;
const HORIZON: i64 = DAY;
const EVERY: i64 = 900 * SECOND;
const SEASONS: [i64; 2] = [DAY, 7 * DAY];

/// Default of `level`.
const LEVEL: f64 = 0.9;

/// Default of `max_series`: about 160 MiB.
const SERIES_MAX: usize = 10_000;

/// Steps that can be remembered: fewer choose no method, more take too long to.
const STEPS_MIN: i64 = 24;
const STEPS_MAX: i64 = 10_000;

/// A season of more steps takes too long to smooth.
const SEASON_STEPS_MAX: i64 = 5_000;

/// Rows of one forecast.
const POINTS_MAX: usize = 1_000;

/// What it adds to time and value.
const ADDED: [Column; 15] = [
    // The type is that of `timestamp`; see `columns`.
    ("forecast.for", DataType::Null),
    ("forecast.value", DataType::Float64),
    ("forecast.low", DataType::Float64),
    ("forecast.high", DataType::Float64),
    ("forecast.level", DataType::Float64),
    ("forecast.limit", DataType::Float64),
    ("forecast.crosses_at", DataType::Null),
    ("forecast.crosses_in", DataType::Float64),
    ("forecast.crosses_in_low", DataType::Float64),
    ("forecast.crosses_in_high", DataType::Float64),
    ("forecast.method", DataType::Utf8),
    ("forecast.steps", DataType::Int64),
    ("forecast.mase", DataType::Float64),
    ("forecast.smape", DataType::Float64),
    ("forecast.coverage", DataType::Float64),
];

/// A number, or an expression, as text.
#[derive(Clone, Debug)]
struct Limit(String);

impl AsRef<str> for Limit {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Limit;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a column or SQL expression")
            }
            fn visit_i64<E>(self, n: i64) -> Result<Limit, E> {
                Ok(Limit(n.to_string()))
            }
            fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<Limit, E> {
                let finite = n.is_finite().then(|| Limit(n.to_string()));
                finite.ok_or_else(|| E::custom("a limit that is no number is never reached"))
            }
            fn visit_str<E>(self, text: &str) -> Result<Limit, E> {
                Ok(Limit(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Limit {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Limit".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["number", "string"] })
    }
}

#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Column or SQL expression that is forecast; default: the column `value`.
    #[schemars(extend("x-weir-verbatim" = true))]
    value: Option<Spanned<String>>,
    /// Columns or SQL expressions that tell series apart; default: their entities.
    #[serde(default)]
    #[schemars(extend("x-weir-verbatim" = true))]
    by: Vec<Spanned<String>>,
    /// Length of a step; default 5 m.
    step: Option<Spanned<Duration>>,
    /// What is remembered; default 7 d.
    history: Option<Spanned<Duration>>,
    /// How far ahead; default 1 d.
    horizon: Option<Spanned<Duration>>,
    /// How often a forecast is made; default 15 m.
    every: Option<Spanned<Duration>>,
    /// Number, column or SQL expression that is not to be reached; default none.
    #[schemars(extend("x-weir-verbatim" = true))]
    limit: Option<Spanned<Limit>>,
    /// On which side of the limit it is reached; default `above`.
    #[serde(default)]
    direction: Direction,
    /// Probability that a value lies in the interval; default 0.9.
    level: Option<Spanned<f64>>,
    /// What the quantity cannot be below; default none.
    min: Option<Spanned<f64>>,
    /// What it cannot be above; default none.
    max: Option<Spanned<f64>>,
    /// One or two periods; default a day and a week.
    seasons: Option<Spanned<Vec<Duration>>>,
    /// Rows of each forecast; default 1.
    points: Option<Spanned<usize>>,
    /// Most series that are known; default 10,000.
    max_series: Option<Spanned<usize>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Direction {
    #[default]
    Above,
    Below,
}

/// What the operator was told. Times are nanoseconds.
#[derive(Clone, Debug, PartialEq)]
struct Settings {
    step: i64,
    /// Steps that are remembered, the open one too.
    bins: usize,
    /// Steps ahead.
    horizon: usize,
    every: i64,
    level: f64,
    above: bool,
    /// What values cannot be below and above.
    range: (f64, f64),
    points: usize,
    /// Steps of the periods, the shorter one first.
    seasons: Vec<usize>,
}

impl Settings {
    /// What methods were tried for; with another horizon, level or season they are tried anew.
    fn question(&self) -> u64 {
        let Self { horizon, level, seasons, .. } = self;
        xxh3_64(format!("{horizon} {level} {seasons:?}").as_bytes())
    }

    /// The value nearest to `value` that the quantity can have.
    fn possible(&self, value: f64) -> f64 {
        value.clamp(self.range.0, self.range.1)
    }

    /// The periods of which `n` steps have two.
    fn periods(&self, n: usize) -> Vec<usize> {
        self.seasons.iter().copied().filter(|season| *season >= 2 && n >= 2 * season).collect()
    }
}

/// A forecast operator as proved.
#[derive(Debug)]
struct Shape {
    value: Option<Expression>,
    by: Vec<(String, Expression)>,
    limit: Option<Expression>,
    settings: Settings,
    series_max: usize,
    edge: Edge,
}

#[derive(Debug)]
struct ForecastPlan(Arc<Shape>);

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut options = Options::new(section, scope);
    let value = options.number_of("value", &config.value);
    let by = options.by(&config.by, &columns());
    let limit = options.number_of("limit", &config.limit);
    let step = options.step(&config.step, STEP);
    let steps =
        |options: &mut Options<'_>, key, written: &Option<Spanned<Duration>>, default, least| {
            let steps = options.duration(key, written, default) / step;
            if let Some(written) = written
                && !(least..=STEPS_MAX).contains(&steps)
            {
                let label = format!("expected {least} to {STEPS_MAX} times `step`");
                options.wrong(key, written, "is out of range", &label);
            }
            steps.clamp(least, STEPS_MAX) as usize
        };
    let bins = steps(&mut options, "history", &config.history, HISTORY, STEPS_MIN);
    let horizon = steps(&mut options, "horizon", &config.horizon, HORIZON, 1);
    let every = options.duration("every", &config.every, EVERY.max(step));
    if let Some(written) = config.every.as_ref().filter(|_| every < step) {
        options.wrong("every", written, "is shorter than `step`", "nothing is new in between");
    }
    let level = options.number("level", &config.level, LEVEL, 0.5..=0.99);
    let finite = f64::MIN..=f64::MAX;
    let range = (
        options.number("min", &config.min, f64::MIN, finite.clone()),
        options.number("max", &config.max, f64::MAX, finite),
    );
    if let Some(written) = config.max.as_ref().filter(|_| range.0 >= range.1) {
        options.wrong("max", written, "is not above `min`", "nothing lies between");
    }
    let points = options.count("points", &config.points, 1, 1..=POINTS_MAX);
    let series_max = options.max_series(&config.max_series, SERIES_MAX);
    let seasons = seasons(&mut options, &config.seasons, step);
    let edge = options.edge(SIGNAL, &by, &columns());
    if options.wrong.has_errors() {
        return Err(options.wrong);
    }
    let above = config.direction == Direction::Above;
    let bins = bins + 1;
    let settings = Settings { step, bins, horizon, every, level, above, range, points, seasons };
    let shape = Shape { value, by, limit, settings, series_max, edge };
    Ok(Box::new(ForecastPlan(Arc::new(shape))))
}

/// The periods in steps. Of those that ship, the ones too long for the step are left out.
fn seasons(
    options: &mut Options<'_>,
    written: &Option<Spanned<Vec<Duration>>>,
    step: i64,
) -> Vec<usize> {
    let Some(written) = written else {
        let fit = SEASONS.iter().map(|s| s / step).filter(|s| (2..=SEASON_STEPS_MAX).contains(s));
        return fit.map(|s| s as usize).collect();
    };
    let lengths: Vec<i64> = written.value.iter().map(|d| d.nanos()).collect();
    let ascending = lengths.windows(2).all(|pair| pair[0] < pair[1]);
    let whole =
        lengths.iter().all(|l| l % step == 0 && (2..=SEASON_STEPS_MAX).contains(&(l / step)));
    if lengths.len() > 2 || !ascending || !whole {
        let label = format!(
            "expected at most two, the shorter first, of 2 to {SEASON_STEPS_MAX} whole steps"
        );
        options.wrong("seasons", written, "cannot be used", &label);
    }
    lengths.iter().map(|l| (l / step).max(1) as usize).collect()
}

/// All columns with their types.
fn columns() -> Vec<Column> {
    let added = ADDED.into_iter().map(|(name, data_type)| match data_type {
        DataType::Null => (name, timestamp()),
        other => (name, other),
    });
    std::iter::once((VALUE, DataType::Float64)).chain(added).collect()
}

impl OperatorPlan for ForecastPlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: "", edge: self.0.edge.clone() }]
    }

    fn columns(&self) -> Vec<String> {
        let limit = self.0.limit.iter().flat_map(|e| e.columns().to_vec());
        options::columns(self.0.value.as_ref(), &self.0.by).into_iter().chain(limit).collect()
    }

    fn state_shape(&self) -> Option<String> {
        let of = options::shape(self.0.value.as_ref(), &self.0.by);
        Some(format!("forecast 2: {of} step {}", self.0.settings.step))
    }

    fn reach(&self) -> i64 {
        self.0.settings.step.saturating_mul(self.0.settings.bins as i64)
    }

    fn build(&self) -> Box<dyn Operator> {
        Box::new(operator::ForecastOperator::new(self.0.clone()))
    }
}
