//! `[alerts.*]`: a condition over rows, watched per instance.
//!
//! ```toml
//! [alerts.error_burst]
//! inputs = ["errors"]
//! when = "errors > 10 AND errors > 0.05 * total"
//! for = "30s"
//! by = ["service.name"]
//! labels = { severity = "page" }
//! summary = "{{ service.name }}: {{ errors }} errors in 10 s"
//! annotations = { runbook_url = "https://wiki.example/errors" }
//! ```
//! An instance is what has the same values in `by`; these, `labels` and `alertname` (the id) are
//! its identity. It is *pending* while `when` holds, *firing* once it has held for `for` (at least
//! that long; none means at once), and *resolved* when it holds no more and `keep_firing_for` has
//! passed. NULL keeps the state. A value of `by` over 256 characters is cut in labels and marked
//! with a hash of the whole.
//!
//! What holds depends on what flows. Behind a `window` (and other streams of that kind) the rows
//! of one time decide: the condition holds if it is true for any of them, and does not if it is
//! for none. For metrics each series counts: the condition holds while the newest sample, by its
//! own time, of any series makes it true. Logs and spans are events: a row that does not match says
//! nothing, the condition holds until none has matched for `resolve_after`. A time ahead of that of
//! receipt counts as that.
//!
//! `resolve_after`: without a (matching) row for that long an instance resolves with reason
//! `absent`, counted only once the watermark has passed it. Default: two window lengths, 5 minutes
//! where there is no window. While the source is late (5 minutes and `resolve_after` further
//! behind than it usually is) nothing resolves or fires by time; one alert with the label
//! `weir.reason = "source_late"` says so.
//!
//! `no_data` says what happens to an instance that had rows and has none of any kind for
//! `resolve_after`: `ok` (default) as above; `keep` holds its state; `firing` makes it fire;
//! `alert` resolves it and raises an alert of its own, with `weir.reason = "no_data"`. Without
//! `by` this also covers a stream that never had a row. Instances are forgotten after a day
//! without rows.
//!
//! At most `limit` (1,000) instances are watched; the first to come are kept, and
//! `weir.reason = "limit"` tells of the rest. Output: one row per change, to the router; the
//! output `<id>.held`, for the router too, says at the start and then every minute what the rule
//! holds open: what the router has open and the rule does not (its state was lost) is closed with
//! reason `state_lost`, what the router does not know is opened. State: in checkpoints. Timers
//! count the time that Weir runs.

mod instance;
mod machine;
mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::Array;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{
    Operator, OperatorError, OperatorKind, OperatorPlan, Output, OutputPlan, Tick,
};
use weir_pipeline::config::{Duration, Scope, Section, Spanned, Text};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics, Span, nearest};
use weir_pipeline::edge::Edge;
use weir_pipeline::expression::Expression;
use weir_pipeline::signal::Signal;

use crate::template::Template;
use crate::transition::{self, STREAM, columns, to_batch};
use machine::{Machine, Mode, RESOLVE_AFTER, Settings};
use rows::{details, rows_mask};

/// The row for the engine.
pub const ALERT: OperatorKind = OperatorKind {
    name: "alert",
    about: "watch a condition and tell the router when it begins and ends",
    source: include_str!("rule.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Output for the router: all that the rule holds open, so that neither lost state nor a lost
/// log leaves an alert open that nobody closes, or one unknown that nobody opens again.
const HELD: &str = "held";
/// How often it is said, besides at the first tick.
const HELD_EVERY: i64 = 60_000_000_000;
/// Instances watched if `limit` is not given.
const LIMIT: usize = 1_000;
/// Most instances that `limit` may ask for: each takes about 2 KiB of state.
const LIMIT_MAX: usize = 100_000;

/// As written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The condition, SQL.
    #[schemars(extend("x-weir-verbatim" = true))]
    when: Spanned<String>,
    /// How long it must hold (default 0).
    r#for: Option<Duration>,
    /// How long it keeps firing after it held last (default 0).
    keep_firing_for: Option<Duration>,
    /// After what time without rows an instance resolves.
    resolve_after: Option<Spanned<Duration>>,
    /// What happens without rows.
    #[serde(default)]
    no_data: NoData,
    /// Most instances (default 1,000).
    limit: Option<Spanned<usize>>,
    /// Columns whose values make an instance.
    #[serde(default)]
    by: Vec<Spanned<String>>,
    /// Further labels.
    #[serde(default)]
    labels: BTreeMap<String, Spanned<String>>,
    /// One line for people, a template.
    summary: Option<Spanned<String>>,
    /// Further texts, templates.
    #[serde(default)]
    annotations: BTreeMap<String, Spanned<String>>,
}

/// What happens to an instance without rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum NoData {
    /// It resolves.
    #[default]
    Ok,
    /// It fires.
    Firing,
    /// It stays as it is.
    Keep,
    /// It resolves, and an alert of its own fires.
    Alert,
}

/// As proved: one set of expressions per input.
#[derive(Debug)]
struct Plan {
    settings: Arc<Settings>,
    inputs: Arc<Vec<Watch>>,
}

/// What is read of one input.
#[derive(Clone, Debug)]
struct Watch {
    when: Expression,
    /// The columns of `by`, in their order.
    by: Vec<Expression>,
    /// Those that `when` reads.
    values: Vec<(String, Expression)>,
    annotations: Vec<(String, Template)>,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut problems = Diagnostics::default();
    let mut inputs = Vec::new();
    for input in &scope.inputs {
        if let Some(watch) = problems.ok(watch(section, &config, &input.edge, scope)) {
            inputs.push(watch);
        }
    }
    let names: Vec<&str> = config.by.iter().map(|b| b.value.as_str()).collect();
    for (i, by) in config.by.iter().enumerate() {
        if names[..i].contains(&by.value.as_str()) || config.labels.contains_key(&by.value) {
            let message = format!("label `{}` is given twice", by.value);
            problems.push(Diagnostic::error("W163", message).at(&section.span(by)));
        }
    }
    let by = config.by.iter().map(|by| (&by.value, by));
    for (name, written) in config.labels.iter().chain(by) {
        if name == "alertname" || name == machine::REASON_LABEL {
            let message = format!("label `{name}` is set by Weir");
            let problem = Diagnostic::error("W163", message).at(&section.span(written));
            problems.push(problem.hint("`alertname` is the id of the alert"));
        }
    }
    let limit = config.limit.as_ref().map_or(LIMIT, |l| l.value);
    if let Some(written) = &config.limit
        && (limit == 0 || limit > LIMIT_MAX)
    {
        let message = format!("`limit` must be from 1 to {LIMIT_MAX}");
        problems.push(Diagnostic::error("W163", message).at(&section.span(written)));
    }
    if problems.has_errors() {
        return Err(problems);
    }
    let settings = Settings {
        alert: section.id.clone(),
        hold: config.r#for.map_or(0, Duration::nanos),
        keep: config.keep_firing_for.map_or(0, Duration::nanos),
        resolve_after: config.resolve_after.map(|d| d.value.nanos()),
        no_data: config.no_data,
        limit,
        by: config.by.into_iter().map(|b| b.value).collect(),
        labels: config.labels.into_iter().map(|(k, v)| (k, v.value)).collect(),
    };
    Ok(Box::new(Plan { settings: Arc::new(settings), inputs: Arc::new(inputs) }))
}

fn watch(
    section: &Section,
    config: &Config,
    edge: &Edge,
    scope: &Scope,
) -> Result<Watch, Diagnostics> {
    let mut problems = Diagnostics::default();
    let when = problems.ok(Expression::condition(&section.text(&config.when), edge, scope));
    for by in config.by.iter().filter(|b| edge.names().all(|n| n != b.value)) {
        let near = nearest(&by.value, edge.names());
        let message = format!("there is no column `{}`", by.value);
        let label = near.map(|n| format!("did you mean `{n}`?"));
        let mut problem = match edge.open {
            true if label.is_none() => continue,
            true => Diagnostic::warning("W164", message),
            false => Diagnostic::error("W164", message),
        };
        problem.label = label;
        let problem = problem.at(&section.span(by));
        if edge.open { scope.warn(problem) } else { problems.push(problem) }
    }
    let mut annotations = Vec::new();
    let summary = config.summary.iter().map(|s| ("summary", s));
    let others = config.annotations.iter().map(|(k, v)| (k.as_str(), v));
    for (name, text) in summary.chain(others) {
        if let Some(template) = problems.ok(Template::parse(&section.text(text), edge, scope)) {
            annotations.push((name.to_owned(), template));
        }
    }
    let by = config.by.iter().map(|by| column(&by.value, &section.span(by), edge, scope));
    let by = by.filter_map(|by| problems.ok(by)).collect();
    let Some(when) = when else { return Err(problems) };
    let at = section.span(&config.when);
    let values = when.columns().iter().filter_map(|name| {
        problems.ok(column(name, &at, edge, scope)).map(|column| (name.clone(), column))
    });
    let values = values.collect();
    if problems.has_errors() { Err(problems) } else { Ok(Watch { when, by, values, annotations }) }
}

/// A column as expressions read it, wherever a batch has it. That it exists was looked at before.
fn column(name: &str, at: &Span, edge: &Edge, scope: &Scope) -> Result<Expression, Diagnostics> {
    let text = format!("\"{}\"", name.replace('"', "\"\""));
    let any = Edge { signal: edge.signal.clone(), columns: Default::default(), open: true };
    Expression::parse(&Text { text, span: at.clone(), exact: false }, &any, scope)
}

impl OperatorPlan for Plan {
    fn outputs(&self) -> Vec<OutputPlan> {
        let columns = columns().into_iter().map(|(n, t)| (n.to_owned(), Some(t))).collect();
        let edge = Edge { signal: Signal::named(STREAM), columns, open: false };
        let held = Edge { signal: Signal::named(transition::HELD), ..edge.clone() };
        vec![OutputPlan { name: "", edge }, OutputPlan { name: HELD, edge: held }]
    }

    fn columns(&self) -> Vec<String> {
        let read = self.inputs.iter().flat_map(|w| w.by.iter().chain([&w.when]));
        read.flat_map(|e| e.columns().to_vec()).collect()
    }

    /// Always the same: a changed rule takes over the state, so that what was opened is closed.
    fn state_shape(&self) -> Option<String> {
        Some("alert 1".to_owned())
    }

    fn reach(&self) -> i64 {
        let Settings { hold, keep, resolve_after, .. } = &*self.settings;
        let absent = resolve_after.unwrap_or(RESOLVE_AFTER);
        hold.saturating_add(*keep).saturating_add(absent)
    }

    fn build(&self) -> Box<dyn Operator> {
        Box::new(Alert {
            source: self.settings.alert.as_str().into(),
            inputs: self.inputs.clone(),
            machine: Machine::new(self.settings.clone()),
            held_at: None,
        })
    }
}

struct Alert {
    source: Arc<str>,
    inputs: Arc<Vec<Watch>>,
    machine: Machine,
    /// Elapsed time at which it last said what it holds. Not part of its state: it says so again
    /// after every start, whatever it started with.
    held_at: Option<i64>,
}

impl Alert {
    fn emit(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        let transitions = self.machine.take();
        if !transitions.is_empty() {
            out.emit(to_batch(&transitions, &self.source)?);
        }
        Ok(())
    }
}

impl Operator for Alert {
    fn process(
        &mut self,
        input: usize,
        batch: Batch,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let inputs = self.inputs.clone();
        let watch = inputs.get(input).ok_or_else(|| OperatorError::new("no such input"))?;
        let (mask, errors) = watch.when.mask_each(&batch)?;
        if !errors.is_empty() {
            let failed: Vec<usize> = errors.iter().map(|(row, _)| *row).collect();
            let failed = batch.filter(&rows_mask(batch.num_rows(), &failed))?;
            out.reject(failed, errors.into_iter().map(|(_, e)| e).collect());
        }
        let mode = match (batch.signal(), batch.entities()) {
            (Signal::Logs | Signal::Spans | Signal::Profiles, _) => Mode::Events,
            (Signal::Metrics, Some(_)) => Mode::Series,
            _ => Mode::Steps,
        };
        let picked = self.pick(mode, &batch, &mask);
        if picked.is_empty() {
            return Ok(());
        }
        let rows = batch.filter(&rows_mask(batch.num_rows(), &picked))?;
        let truth: Vec<Option<bool>> =
            picked.iter().map(|&i| mask.is_valid(i).then(|| mask.value(i))).collect();
        let wanted = self.machine_rows(watch, mode, &rows, &truth)?;
        let details = details(watch, &rows, &wanted)?;
        self.machine.describe(&wanted, details);
        self.emit(out)
    }

    fn tick(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        self.machine.tick(tick);
        self.emit(out)?;
        if self.held_at.is_none_or(|at| tick.elapsed - at >= HELD_EVERY) {
            self.held_at = Some(tick.elapsed);
            out.emit_to(HELD, self.machine.held(tick).to_batch(&self.source)?);
        }
        Ok(())
    }

    fn watermark(&self, inputs: i64) -> i64 {
        inputs
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
        self.machine.snapshot()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), OperatorError> {
        self.machine.restore(state)
    }

    fn flush(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        self.machine.flush(tick);
        self.emit(out)
    }
}

#[cfg(test)]
mod tests;
