//! `window` operator: aggregates over stretches of event time.
//!
//! ```toml
//! [operators.errors]
//! type = "window"
//! inputs = ["otlp.logs"]
//! every = "10s"
//! over = "1m"
//! lateness = "5s"
//! group_by = ["service.name"]
//! [operators.errors.aggregate]
//! errors = "count(*) FILTER (WHERE severity = 'ERROR')"
//! share = "1.0 * count(*) FILTER (WHERE severity = 'ERROR') / count(*)"
//! p99 = "quantile(duration_ns, 0.99)"
//! ```
//!
//! `every` is the step, `over` the length (default: `every`, windows side by side); windows are
//! aligned to the UTC epoch and hold `[start, end)`. A window is emitted at the first tick whose
//! watermark is at least its end plus `lateness` (default 10 s): one row per group, in the order of
//! the groups' values, windows in order of time, with the columns `window_start`, `window_end`,
//! `timestamp` (the end), those of `group_by`, and the aggregates. A row that belongs to windows
//! which are all emitted already goes to `<id>.late` as it is. When the clock is set back, windows
//! that were emitted stay so; the others take rows again.
//!
//! `group_by` lists columns or SQL expressions. Aggregates are `count`, `sum`, `avg`, `min`, `max`,
//! `quantile(x, q)` (within 1 %), `bool_and`, `bool_or`, `bit_and`, `bit_or`, `bit_xor`, each with
//! `FILTER (WHERE ...)` and, but for `quantile`, `DISTINCT`; a value may compute with several of
//! them. Their results do not depend on how the stream was cut or where it was interrupted.
//!
//! `emit_empty = true` gives a row (with `count` 0) for each group without rows that had some
//! within `idle` (default 1 h) before the end of the window. After a pause these come at about a
//! million a tick. Windows that reach into a time in which Weir was down, or by which the clock was
//! set ahead, have none: nobody looked.
//!
//! Limits: `max_groups` (default 100,000) groups per window, 10,000 open windows, `over` at most
//! 1,000 times `every`. Rows beyond, which then count in no window at all, and rows without
//! `timestamp` go to `<id>.errors`. Rows stamped more than 10 minutes after they were received are
//! in no window; they are counted as dropped.

mod closed;
pub(crate) mod keys;
mod operator;
mod places;
mod state;
#[cfg(test)]
mod tests;
mod unseen;

use std::sync::Arc;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::{Operator, OperatorKind, OperatorPlan, OutputPlan};
use weir_pipeline::config::{Duration, Scope, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics, Span};
use weir_pipeline::edge::Edge;
use weir_pipeline::expression::{Aggregate, Expression};
use weir_pipeline::signal::{Signal, timestamp};

use crate::inputs;

pub(crate) use self::operator::Window;

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "window",
    about: "aggregate over tumbling or hopping windows of event time",
    source: include_str!("window.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Windows that one row is in at most: each costs as much as a window of its own.
const WINDOWS_PER_ROW_MAX: i64 = 1_000;

/// Steps that `idle` spans at most: after a gap that many windows are emitted.
const IDLE_STEPS_MAX: i64 = 100_000;

/// Default of `max_groups`.
const GROUPS_MAX: usize = 100_000;

pub(crate) const START: &str = "window_start";
pub(crate) const END: &str = "window_end";
const TIMESTAMP: &str = "timestamp";

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Step from one window to the next, aligned to the UTC epoch.
    every: Spanned<Duration>,
    /// Length of a window; default: `every`.
    over: Option<Spanned<Duration>>,
    /// How long after its end a window still takes rows; default 10 s.
    lateness: Option<Spanned<Duration>>,
    /// Columns or SQL expressions.
    #[serde(default)]
    #[schemars(extend("x-weir-verbatim" = true))]
    group_by: Vec<Spanned<String>>,
    /// Column name to SQL aggregate.
    aggregate: IndexMap<String, Spanned<String>>,
    /// Whether groups without rows give a row too.
    #[serde(default)]
    emit_empty: bool,
    /// How long a group without rows is remembered for `emit_empty`; default 1 h.
    idle: Option<Spanned<Duration>>,
    /// Most groups of one window; default 100,000.
    max_groups: Option<Spanned<usize>>,
}

/// A window operator as proved. Times are nanoseconds.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) every: i64,
    pub(crate) over: i64,
    pub(crate) lateness: i64,
    /// `None` without `emit_empty`.
    pub(crate) idle: Option<i64>,
    pub(crate) groups_max: usize,
    pub(crate) group_by: Vec<(String, Expression)>,
    pub(crate) aggregates: Vec<(String, Aggregate)>,
    pub(crate) output: Edge,
    pub(crate) input: Edge,
}

impl Shape {
    /// What must be equal for the state of one to be taken over by another.
    pub(crate) fn state(&self) -> String {
        let Self { every, over, group_by, aggregates, .. } = self;
        let groups: Vec<&str> = group_by.iter().map(|(_, e)| e.text()).collect();
        let values: Vec<(&str, &str)> =
            aggregates.iter().map(|(n, a)| (n.as_str(), a.text())).collect();
        format!("window 1: every {every} over {over} by {groups:?} of {values:?}")
    }

    /// The columns that it reads.
    pub(crate) fn reads(&self) -> Vec<String> {
        let groups = self.group_by.iter().flat_map(|(_, e)| e.columns().to_vec());
        groups.chain(self.aggregates.iter().flat_map(|(_, a)| a.columns())).collect()
    }
}

#[derive(Debug)]
struct WindowPlan(Arc<Shape>);

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let input = inputs::merged(scope);
    let mut wrong = Diagnostics::default();
    let every = config.every.value.nanos();
    let over = config.over.as_ref().map_or(every, |o| o.value.nanos());
    let lateness = config.lateness.as_ref().map_or(10_000_000_000, |l| l.value.nanos());
    let idle = config.idle.as_ref().map_or(3_600_000_000_000, |i| i.value.nanos());
    if every <= 0 {
        let d = Diagnostic::error("W310", "window of no length");
        wrong.push(d.at(&section.span(&config.every)).label("expected more than 0s"));
        return Err(wrong);
    }
    if let Some(written) = &config.over {
        let message = match over {
            _ if over < every => Some("`over` is shorter than `every`: rows between are lost"),
            _ if over % every != 0 => Some("`over` is no multiple of `every`"),
            _ if over / every > WINDOWS_PER_ROW_MAX => Some("`over` is over 1,000 times `every`"),
            _ => None,
        };
        if let Some(message) = message {
            let label = format!("`every` is {}", config.every.value);
            wrong.push(Diagnostic::error("W310", message).at(&section.span(written)).label(label));
        }
    }
    if let Some(written) = &config.idle {
        if !config.emit_empty {
            let d = Diagnostic::error("W310", "`idle` without `emit_empty = true`");
            wrong.push(d.at(&section.span(written)).label("it would have no effect"));
        } else if idle / every > IDLE_STEPS_MAX {
            let d = Diagnostic::error("W310", "`idle` is over 100,000 times `every`");
            wrong.push(d.at(&section.span(written)).label("expected less"));
        }
    }
    let groups_max = config.max_groups.as_ref().map_or(GROUPS_MAX, |g| g.value);
    if let Some(written) = &config.max_groups
        && groups_max == 0
    {
        let d = Diagnostic::error("W310", "no group is allowed");
        wrong.push(d.at(&section.span(written)).label("expected at least 1"));
    }
    let mut names = vec![START.to_owned(), END.to_owned(), TIMESTAMP.to_owned()];
    let mut taken = |name: &str, wrong: &mut Diagnostics, at: &Span| {
        if names.iter().any(|n| n == name) {
            let d = Diagnostic::error("W311", format!("two columns of one name: `{name}`"));
            wrong.push(d.at(at).label("the window has this column already"));
        }
        names.push(name.to_owned());
    };
    let mut group_by = Vec::new();
    for written in &config.group_by {
        let text = section.text(written);
        if let Some(expression) = wrong.ok(Expression::parse(&text, &input, scope)) {
            let name = expression.as_column().unwrap_or(written.value.trim()).to_owned();
            taken(&name, &mut wrong, &text.span);
            group_by.push((name, expression));
        }
    }
    let mut aggregates = Vec::new();
    for (name, written) in &config.aggregate {
        let text = section.text(written);
        taken(name, &mut wrong, &text.span);
        if let Some(aggregate) = wrong.ok(Aggregate::parse(&text, &input, scope)) {
            aggregates.push((name.clone(), aggregate));
        }
    }
    if wrong.has_errors() {
        return Err(wrong);
    }
    let times = [START, END, TIMESTAMP].map(|n| (n.to_owned(), Some(timestamp())));
    let groups = group_by.iter().map(|(n, e)| (n.clone(), operator::group_type(e)));
    let values = aggregates.iter().map(|(n, a)| (n.clone(), a.data_type()));
    let columns = times.into_iter().chain(groups).chain(values).collect();
    let output = Edge { signal: Signal::named("window"), columns, open: false };
    let idle = config.emit_empty.then_some(idle);
    Ok(Box::new(WindowPlan(Arc::new(Shape {
        every,
        over,
        lateness,
        idle,
        groups_max,
        group_by,
        aggregates,
        output,
        input,
    }))))
}

impl OperatorPlan for WindowPlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![
            OutputPlan { name: "", edge: self.0.output.clone() },
            OutputPlan { name: "late", edge: self.0.input.clone() },
        ]
    }

    fn columns(&self) -> Vec<String> {
        self.0.reads()
    }

    fn state_shape(&self) -> Option<String> {
        Some(self.0.state())
    }

    fn reach(&self) -> i64 {
        let Shape { over, lateness, idle, .. } = &*self.0;
        over.saturating_add(*lateness).saturating_add(idle.unwrap_or(0))
    }

    fn build(&self) -> Box<dyn Operator> {
        Box::new(operator::Window::new(self.0.clone()))
    }
}
