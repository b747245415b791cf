//! `outlier` operator: says which of its peers a series is unlike, at the same moment.
//!
//! ```toml
//! [operators.load]
//! type = "window"
//! inputs = ["otlp.metrics"]
//! every = "1m"
//! group_by = ["service.name", "host.name"]
//! aggregate = { cpu = "avg(value) FILTER (WHERE metric.name = 'system.cpu.utilization')" }
//!
//! [operators.odd]
//! type = "outlier"
//! inputs = ["load"]
//! value = "cpu"
//! among = ["service.name"]
//! min_deviation = 0.1
//! ```
//!
//! Rows of one `timestamp` with the same values in the columns `among` are peers: of a window those
//! of one service, say, each of another host. Every row passes, with
//!
//! - `outlier.score`: how many standard deviations its value lies above (below: negative) the median
//!   of its peers, by their median absolute deviation; NULL with fewer than three peers that have a
//!   value, itself counted;
//! - `outlier.median`, `outlier.low`, `outlier.high`: that median, and between what a value is usual;
//! - `outlier.peers`: how many have a value;
//! - `outlier`: whether it is out of `low` to `high`; NULL where the score is.
//!
//! | key | default | |
//! |---|---|---|
//! | `value` | `value` | column of the number |
//! | `among` | `[]` | columns that peers have in common; none: all rows of the moment |
//! | `threshold` | `3.5` | least score, either way |
//! | `min_deviation` | `0` | least distance from the median, too: peers that are nearly the same are not told apart by it |
//! | `direction` | `both` | `above`, `below` or `both` |
//!
//! Method: the modified z-score of Iglewicz and Hoaglin (How to Detect and Handle Outliers, 1993):
//! (x - median) / (1.4826 MAD), and where more than half of the peers are the same, MAD 0,
//! (x - median) / (1.2533 mean absolute deviation). Up to half of the peers may be odd without hiding
//! it. It takes O(n) for n peers.
//!
//! Rows are compared when the tick comes that ends their epoch: a window gives all rows of a moment
//! there at once. What is scraped or sent has other timestamps for each peer: put a window in front.
//! A row that comes later is compared with those that come with it alone. State: none.

mod peers;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanBuilder, Float64Builder, Int64Builder};
use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{
    Operator, OperatorError, OperatorKind, OperatorPlan, Output, OutputPlan, Tick,
};
use weir_pipeline::config::{Scope, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::edge::Edge;

use self::peers::{Peers, Usual, numbers};
use crate::columns::{nullable, with_columns};
use crate::inputs;

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "outlier",
    about: "say which of its peers a series is unlike",
    source: include_str!("outlier.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Default of `threshold`, as Iglewicz and Hoaglin recommend.
const THRESHOLD: f64 = 3.5;

/// What it adds.
const COLUMNS: [(&str, DataType); 6] = [
    ("outlier", DataType::Boolean),
    ("outlier.high", DataType::Float64),
    ("outlier.low", DataType::Float64),
    ("outlier.median", DataType::Float64),
    ("outlier.peers", DataType::Int64),
    ("outlier.score", DataType::Float64),
];

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Column of the number; default `value`.
    value: Option<Spanned<String>>,
    /// Columns that peers have in common; default none.
    #[serde(default)]
    among: Vec<Spanned<String>>,
    /// Least score of an outlier; default 3.5.
    threshold: Option<Spanned<f64>>,
    /// Least distance of an outlier from the median; default 0.
    min_deviation: Option<Spanned<f64>>,
    /// Which way an outlier lies; default both.
    #[serde(default)]
    direction: Direction,
}

/// Which way an outlier lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Direction {
    Above,
    Below,
    #[default]
    Both,
}

#[derive(Clone, Debug)]
struct Settings {
    value: String,
    among: Vec<String>,
    threshold: f64,
    min_deviation: f64,
    direction: Direction,
}

#[derive(Debug)]
struct OutlierPlan {
    settings: Arc<Settings>,
    edge: Edge,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut edge = inputs::merged(scope);
    let mut wrong = Diagnostics::default();
    for written in config.value.iter().chain(&config.among) {
        match edge.check(&written.value, &section.span(written)) {
            Some(d) if edge.open => scope.warn(d),
            Some(d) => wrong.push(d),
            None => {}
        }
    }
    let mut number = |key: &str, given: &Option<Spanned<f64>>, default: f64, least: f64| {
        let Some(written) = given else { return default };
        if !(written.value.is_finite() && written.value >= least) {
            let d = Diagnostic::error("W310", format!("`{key}` of {}", written.value));
            wrong.push(d.at(&section.span(written)).label(format!("expected {least} at least")));
        }
        written.value
    };
    let threshold = number("threshold", &config.threshold, THRESHOLD, 1.0);
    let min_deviation = number("min_deviation", &config.min_deviation, 0.0, 0.0);
    if wrong.has_errors() {
        return Err(wrong);
    }
    for (name, data_type) in COLUMNS {
        edge.columns.insert(name.to_owned(), Some(data_type));
    }
    let value = config.value.map_or_else(|| "value".to_owned(), |v| v.value);
    let among = config.among.into_iter().map(|a| a.value).collect();
    let direction = config.direction;
    let settings = Settings { value, among, threshold, min_deviation, direction };
    Ok(Box::new(OutlierPlan { settings: Arc::new(settings), edge }))
}

impl OperatorPlan for OutlierPlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: "", edge: self.edge.clone() }]
    }

    fn columns(&self) -> Vec<String> {
        let Settings { value, among, .. } = &*self.settings;
        std::iter::once(value).chain(among).cloned().collect()
    }

    /// Rows wait for the tick that ends their epoch, and states are saved right behind one.
    fn state_shape(&self) -> Option<String> {
        None
    }

    fn reach(&self) -> i64 {
        0
    }

    fn build(&self) -> Box<dyn Operator> {
        Box::new(Outlier { settings: self.settings.clone(), waiting: Vec::new() })
    }
}

struct Outlier {
    settings: Arc<Settings>,
    /// Rows of this epoch.
    waiting: Vec<Batch>,
}

impl Outlier {
    /// Compares the rows that wait, and hands them on as they came.
    fn give(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        let waiting = std::mem::take(&mut self.waiting);
        let Settings { value, among, .. } = &*self.settings;
        let values: Vec<_> = waiting.iter().map(|batch| numbers(batch, value)).collect();
        let mut peers = Peers::default();
        let mut groups = Vec::with_capacity(waiting.len());
        for (batch, values) in waiting.iter().zip(&values) {
            groups.push(peers.add(batch, among, values)?);
        }
        let usual = peers.usual();
        for ((batch, values), groups) in waiting.iter().zip(values).zip(groups) {
            let judged = values.iter().zip(&groups).map(|(v, &group)| (*v, &usual[group]));
            out.emit(self.judged(batch, judged)?);
        }
        Ok(())
    }

    /// `batch` with what is to say of each row, its value and what is usual among its peers.
    fn judged<'a>(
        &self,
        batch: &Batch,
        rows: impl Iterator<Item = (Option<f64>, &'a Usual)>,
    ) -> Result<Batch, OperatorError> {
        let Settings { threshold, min_deviation, direction, .. } = &*self.settings;
        let [mut score, mut low, mut high, mut median] =
            std::array::from_fn(|_| Float64Builder::new());
        let (mut peers, mut is) = (Int64Builder::new(), BooleanBuilder::new());
        for (value, usual) in rows {
            peers.append_value(usual.count as i64);
            let spread = usual.spread.filter(|_| value.is_some());
            let reach = spread.map(|spread| (threshold * spread).max(*min_deviation));
            median.append_option(spread.map(|_| usual.median));
            low.append_option(reach.map(|r| usual.median - r));
            high.append_option(reach.map(|r| usual.median + r));
            let away = value.map(|v| v - usual.median);
            score.append_option(spread.zip(away).map(|(spread, away)| {
                // Peers that are all the same have no spread.
                if away == 0.0 { 0.0 } else { away / spread }
            }));
            is.append_option(reach.zip(away).map(|(reach, away)| match direction {
                Direction::Above => away > reach,
                Direction::Below => away < -reach,
                Direction::Both => away.abs() > reach,
            }));
        }
        let arrays: [ArrayRef; 6] = [
            Arc::new(is.finish()),
            Arc::new(high.finish()),
            Arc::new(low.finish()),
            Arc::new(median.finish()),
            Arc::new(peers.finish()),
            Arc::new(score.finish()),
        ];
        let added = COLUMNS.into_iter().zip(arrays);
        // What no row has is left out.
        let added = added.filter(|(_, array)| array.null_count() < array.len());
        let added = added.map(|((name, kind), array)| (nullable(name, kind), array));
        with_columns(batch, COLUMNS.iter().map(|(name, _)| *name), added)
    }
}

impl Operator for Outlier {
    fn process(
        &mut self,
        _input: usize,
        batch: Batch,
        _out: &mut Output,
    ) -> Result<(), OperatorError> {
        self.waiting.push(batch);
        Ok(())
    }

    fn tick(&mut self, _: Tick, out: &mut Output) -> Result<(), OperatorError> {
        self.give(out)
    }

    fn watermark(&self, inputs: i64) -> i64 {
        inputs
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
        Ok(Vec::new())
    }

    fn restore(&mut self, _: &[u8]) -> Result<(), OperatorError> {
        Ok(())
    }

    fn flush(&mut self, _: Tick, out: &mut Output) -> Result<(), OperatorError> {
        self.give(out)
    }
}
