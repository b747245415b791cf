//! `tail_sample` operator: keeps the traces worth keeping, decided on whole traces.
//!
//! ```toml
//! [operators.sampled]
//! type = "tail_sample"
//! inputs = ["otlp.spans"]
//! wait = "30s"
//! slow = "2s"
//! rare = 5
//! rate = 10
//! share = 0.01
//! ```
//!
//! Spans are held until their trace is whole: `wait` (default 30 s) after the first of them came. Then
//! all of them pass or none. A trace is kept for the first of these reasons, which its spans get as
//! `sample.reason`:
//!
//! - `error`: a span has the status error (`errors = false` turns this off);
//! - `slow`: a span lasted `slow` or longer;
//! - `rare`: it is among the first `rare` traces of its operation in this hour of running;
//! - `rate`: its service had fewer than `rate` traces a second for this reason;
//! - `share`: chance, by a hash of the trace id: alike on every server and in every replay.
//!
//! Those that are not set are not asked. Service and operation of a trace are those (`service.name`,
//! `name`) of its span without a parent, else of the first that came.
//!
//! A span that comes after the decision follows it; the latest 100,000 traces are remembered. Spans
//! without a trace id pass. Dropped spans are counted. The span of a client is as long as what it
//! waits for, so `wait` should be longer than most traces. What reads the output should be as late:
//! its windows close `wait` later than they would before it.
//!
//! State: the spans that are held, whole, so checkpoints are larger by them. Limits: `max_spans`
//! (default 200,000) are held. Beyond, a trace that begins is decided by its first span at once, and
//! further spans of those that are held are dropped; 10,000 operations and services are known, and
//! further ones are not asked for `rare` and `rate`.

mod decide;
mod held;
mod operator;
mod state;
#[cfg(test)]
mod tests;

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::{Operator, OperatorKind, OperatorPlan, OutputPlan};
use weir_pipeline::config::{Duration, Scope, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::edge::Edge;

use self::decide::Rules;
use crate::inputs;

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "tail_sample",
    about: "keep the traces worth keeping, decided on whole traces",
    source: include_str!("tail_sample.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Default of `wait`, nanoseconds.
const WAIT: i64 = 30_000_000_000;

/// Until the tick that decides: the one after the first span came and the one after `wait`, each
/// at most a second away.
const TICKS: i64 = 2_000_000_000;

/// Default of `max_spans`: some 200 MB.
const SPANS_MAX: usize = 200_000;

/// The column that tells why a span was kept.
const REASON: &str = "sample.reason";

/// The columns that are read.
const READS: [&str; 6] =
    ["trace_id", "parent_span_id", "duration_ns", "status", "name", "service.name"];

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// How long after its first span a trace is decided; default 30 s.
    wait: Option<Spanned<Duration>>,
    /// Whether traces with an error are kept; default true.
    errors: Option<bool>,
    /// Keep traces with a span that lasted so long.
    slow: Option<Spanned<Duration>>,
    /// Keep so many traces of each operation an hour.
    rare: Option<u64>,
    /// Keep so many traces of each service a second.
    rate: Option<Spanned<f64>>,
    /// Keep this share of all traces, 0 to 1.
    share: Option<Spanned<f64>>,
    /// Most spans that are held; default 200,000.
    max_spans: Option<Spanned<usize>>,
}

#[derive(Debug)]
struct TailSamplePlan {
    wait: i64,
    spans_max: usize,
    rules: Rules,
    edge: Edge,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let mut refuse = |bad: bool, message: &str, at, expected: &str| {
        if bad {
            let d = Diagnostic::error("W310", message.to_owned());
            wrong.push(d.at(&at).label(expected.to_owned()));
        }
    };
    if let Some(wait) = &config.wait {
        let at = section.span(wait);
        refuse(wait.value.nanos() <= 0, "`wait` of no length", at, "expected more than 0s");
    }
    if let Some(rate) = &config.rate {
        let good = (1e-6..=1e6).contains(&rate.value);
        refuse(!good, "`rate` out of range", section.span(rate), "expected 0.000001 to 1,000,000");
    }
    if let Some(share) = &config.share {
        let good = (0.0..=1.0).contains(&share.value);
        refuse(!good, "`share` out of range", section.span(share), "expected 0 to 1");
    }
    if let Some(max) = &config.max_spans {
        refuse(max.value == 0, "no span is allowed", section.span(max), "expected at least 1");
    }
    if wrong.has_errors() {
        return Err(wrong);
    }
    let rules = Rules::new(
        config.errors.unwrap_or(true),
        config.slow.map(|s| s.value.nanos()),
        config.rare.unwrap_or_default(),
        config.rate.map(|r| r.value),
        config.share.map_or(0.0, |s| s.value),
    );
    let mut edge = inputs::merged(scope);
    edge.columns.insert(REASON.to_owned(), Some(DataType::Utf8));
    Ok(Box::new(TailSamplePlan {
        wait: config.wait.map_or(WAIT, |w| w.value.nanos()),
        spans_max: config.max_spans.map_or(SPANS_MAX, |m| m.value),
        rules,
        edge,
    }))
}

impl OperatorPlan for TailSamplePlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: "", edge: self.edge.clone() }]
    }

    fn columns(&self) -> Vec<String> {
        READS.map(str::to_owned).into()
    }

    fn state_shape(&self) -> Option<String> {
        Some("tail_sample 1".into())
    }

    fn reach(&self) -> i64 {
        self.wait.saturating_add(decide::HOUR)
    }

    fn build(&self) -> Box<dyn Operator> {
        Box::new(operator::TailSample::new(self.wait, self.spans_max, self.rules.clone()))
    }
}
