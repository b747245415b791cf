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
//! passed. NULL keeps the state.
//!
//! What holds depends on what flows. Behind a `window` (and other streams of that kind) the rows
//! of one time decide: the condition holds if it is true for any of them, and does not if it is
//! for none. For metrics each series counts: the condition holds while the newest sample of any
//! series makes it true. Logs and spans are events: a row that does not match says nothing, the
//! condition holds until none has matched for `resolve_after`.
//!
//! `resolve_after`: without a (matching) row for that long an instance resolves with reason
//! `absent`, counted only once the watermark has passed it. Default: two window lengths, 5 minutes
//! where there is no window. While the source is late nothing resolves or fires by time; one alert
//! with the label `weir.reason = "source_late"` says so.
//!
//! `no_data` says what happens to an instance that had rows and has none of any kind for
//! `resolve_after`: `ok` (default) as above; `keep` holds its state; `firing` makes it fire;
//! `alert` resolves it and raises an alert of its own, with `weir.reason = "no_data"`. Without
//! `by` this also covers a stream that never had a row. Instances are forgotten after a day
//! without rows.
//!
//! At most `limit` (1,000) instances are watched; the first to come are kept, and
//! `weir.reason = "limit"` tells of the rest. Output: one row per change, to the router.
//! State: in checkpoints. Timers count the time that Weir runs.

mod instance;
mod machine;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{
    Operator, OperatorError, OperatorKind, OperatorPlan, Output, OutputPlan, Tick,
};
use weir_pipeline::config::{Duration, Scope, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics, nearest};
use weir_pipeline::edge::Edge;
use weir_pipeline::expression::Expression;
use weir_pipeline::signal::Signal;

use crate::template::{Template, json_value};
use crate::transition::{STREAM, columns, to_batch};
use instance::{Details, Key};
use machine::{Machine, Mode, Row, Settings};

/// The row for the engine.
pub const ALERT: OperatorKind = OperatorKind {
    name: "alert",
    about: "watch a condition and tell the router when it begins and ends",
    source: include_str!("rule.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
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
    for (name, value) in &config.labels {
        if name == "alertname" || name == machine::REASON_LABEL {
            let message = format!("label `{name}` is set by Weir");
            let problem = Diagnostic::error("W163", message).at(&section.span(value));
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
    match when {
        Some(when) if !problems.has_errors() => Ok(Watch { when, annotations }),
        _ => Err(problems),
    }
}

impl OperatorPlan for Plan {
    fn outputs(&self) -> Vec<OutputPlan> {
        let columns = columns().into_iter().map(|(n, t)| (n.to_owned(), Some(t))).collect();
        let edge = Edge { signal: Signal::named(STREAM), columns, open: false };
        vec![OutputPlan { name: "", edge }]
    }

    /// Always the same: a changed rule takes over the state, so that what was opened is closed.
    fn state_shape(&self) -> Option<String> {
        Some("alert 1".to_owned())
    }

    fn build(&self) -> Box<dyn Operator> {
        Box::new(Alert {
            source: self.settings.alert.as_str().into(),
            inputs: self.inputs.clone(),
            machine: Machine::new(self.settings.clone()),
        })
    }
}

struct Alert {
    source: Arc<str>,
    inputs: Arc<Vec<Watch>>,
    machine: Machine,
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
        let wanted = self.machine_rows(mode, &rows, &truth)?;
        let details = details(watch, &rows, &wanted)?;
        self.machine.describe(&wanted, details);
        self.emit(out)
    }

    fn tick(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        self.machine.tick(tick);
        self.emit(out)
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

impl Alert {
    /// Rows that can change anything.
    fn pick(&self, mode: Mode, batch: &Batch, mask: &BooleanArray) -> Vec<usize> {
        let all = self.machine.watches_rows();
        let matches = |i: usize| mask.is_valid(i) && mask.value(i);
        match (mode, batch.entities()) {
            (Mode::Steps, _) => (0..batch.num_rows()).collect(),
            _ if all => (0..batch.num_rows()).collect(),
            (Mode::Series, Some(entities)) if self.machine.has_series() => {
                let mut known = hashbrown::HashMap::new();
                let mut counts = |key: u32| {
                    *known.entry(key).or_insert_with(|| {
                        self.machine.knows_series(entities.table.get(key).fingerprint())
                    })
                };
                let keys = entities.keys.values();
                (0..batch.num_rows()).filter(|&i| matches(i) || counts(keys[i])).collect()
            }
            _ => (0..batch.num_rows()).filter(|&i| matches(i)).collect(),
        }
    }

    /// Runs rows through the machine; those whose texts are wanted, ascending.
    fn machine_rows(
        &mut self,
        mode: Mode,
        rows: &Batch,
        truth: &[Option<bool>],
    ) -> Result<Vec<usize>, OperatorError> {
        let by: Vec<Option<ArrayRef>> = self
            .machine
            .settings()
            .by
            .iter()
            .map(|name| rows.array(name).map(|a| cast(&a, &DataType::Utf8)).transpose())
            .collect::<Result<_, _>>()?;
        let times = times(rows, "timestamp");
        self.machine.note_window(
            match (times_at(rows, "window_start"), times_at(rows, "window_end")) {
                (Some(start), Some(end)) => Some(end.saturating_sub(start)),
                _ => None,
            },
        );
        let mut heads = rows.runs().iter().flat_map(|run| std::iter::repeat_n(run, run.rows));
        for (i, truth) in truth.iter().enumerate() {
            let Some(run) = heads.next() else { break };
            let key: Key = by
                .iter()
                .map(|a| {
                    let array = a.as_ref()?.as_string::<i32>();
                    array.is_valid(i).then(|| array.value(i).to_owned()).filter(|v| !v.is_empty())
                })
                .collect();
            let series = rows
                .entities()
                .filter(|_| mode == Mode::Series)
                .map(|e| e.table.get(e.keys.value(i)).fingerprint());
            let time = times
                .as_ref()
                .and_then(|t| t.is_valid(i).then(|| t.as_primitive::<Int64Type>().value(i)));
            self.machine.row(Row {
                index: i,
                mode,
                key,
                truth: *truth,
                series,
                time: time.unwrap_or(run.received),
                received: run.received,
                offset: run.offset,
            });
        }
        Ok(self.machine.wanted())
    }
}

fn times(batch: &Batch, name: &str) -> Option<ArrayRef> {
    let array = batch.array(name)?;
    let nanos = cast(&array, &weir_pipeline::signal::timestamp()).ok()?;
    cast(&nanos, &DataType::Int64).ok()
}

fn times_at(batch: &Batch, name: &str) -> Option<i64> {
    let array = times(batch, name).filter(|a| !a.is_empty() && a.is_valid(0))?;
    Some(array.as_primitive::<Int64Type>().value(0))
}

fn rows_mask(len: usize, rows: &[usize]) -> BooleanArray {
    let mut mask = vec![false; len];
    for &row in rows {
        mask[row] = true;
    }
    BooleanArray::from(mask)
}

/// Rendered texts and values of some rows, in their order.
fn details(watch: &Watch, rows: &Batch, wanted: &[usize]) -> Result<Vec<Details>, OperatorError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let rows = rows.filter(&rows_mask(rows.num_rows(), wanted))?;
    let mut details = vec![Details::default(); rows.num_rows()];
    for (name, template) in &watch.annotations {
        for (d, text) in details.iter_mut().zip(template.render(&rows)) {
            d.annotations.insert(name.clone(), text);
        }
    }
    let columns: Vec<(&String, Option<ArrayRef>)> =
        watch.when.columns().iter().map(|c| (c, rows.array(c))).collect();
    for (i, d) in details.iter_mut().enumerate() {
        let value: serde_json::Map<String, serde_json::Value> = columns
            .iter()
            .map(|(name, array)| {
                let value = array.as_ref().map(|a| json_value(a, i));
                ((*name).clone(), value.unwrap_or_default())
            })
            .collect();
        d.value = serde_json::Value::Object(value).to_string();
    }
    Ok(details)
}

#[cfg(test)]
mod tests;
