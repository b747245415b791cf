//! One plan at work in a replay: its graph, with counters of its own, and where each of its sinks
//! stands in the comparison.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Counts;
use crate::backlog::{Backlog, Policy};
use crate::batch::Batch;
use crate::component::{Sink, SinkContext, SinkError, SinkPlan, Tick};
use crate::graph::{Graph, ToSink};
use crate::plan::{InputPlan, NodePlan, OnError, PipelinePlan, Work, sources_read};
use crate::tap::Taps;
use crate::telemetry::Telemetry;

/// The output of late rows; nobody has to read it.
const LATE: &str = "late";

/// What is compared: a class and a name of it. `alert` stands for the transitions of a rule, the
/// others are those of [`super::OutputReport`].
pub(super) type Key = (&'static str, String);

/// A plan at work.
pub(super) struct Side {
    pub(super) plan: PipelinePlan,
    pub(super) graph: Graph,
    telemetry: Telemetry,
    /// What the rows of a node are compared under; none for what is no sink.
    pub(super) keys: Vec<Option<Key>>,
    /// Counters when it began to count.
    before: BTreeMap<Arc<str>, Counts>,
    to_sinks: Vec<ToSink>,
}

impl Side {
    /// `name` is that of both sides, since it stands in rows of errors; `router` is the type of the
    /// sink that takes transitions.
    pub(super) fn new(plan: &PipelinePlan, name: &Arc<str>, router: &str) -> Self {
        let (mut plan, keys) = watched(plan, router);
        plan.name = name.clone();
        let telemetry = Telemetry::default();
        let graph = Graph::build(&plan, &telemetry, Arc::new(Taps::default()));
        Self { plan, graph, telemetry, keys, before: BTreeMap::new(), to_sinks: Vec::new() }
    }

    /// Takes rows of a source; what reaches sinks.
    pub(super) fn push(&mut self, source: &str, output: &str, batch: &Batch) -> Vec<ToSink> {
        if self.graph.reads(source, output) {
            self.graph.push(source, output, batch, &mut self.to_sinks);
        }
        std::mem::take(&mut self.to_sinks)
    }

    /// Time moves on; what reaches sinks.
    pub(super) fn tick(&mut self, tick: Tick) -> Vec<ToSink> {
        self.graph.tick(tick, &mut self.to_sinks);
        std::mem::take(&mut self.to_sinks)
    }

    /// Counters start from here.
    pub(super) fn begin(&mut self) {
        self.before = self.read();
    }

    /// What each operator and alert did since [`Side::begin`].
    pub(super) fn counts(&self) -> BTreeMap<Arc<str>, Counts> {
        let mut counts = self.read();
        for (id, now) in &mut counts {
            let before = self.before.get(id).copied().unwrap_or_default();
            *now = Counts {
                rows_in: now.rows_in - before.rows_in,
                rows_out: now.rows_out - before.rows_out,
                errors: now.errors - before.errors,
                dropped: now.dropped - before.dropped,
                late: now.late - before.late,
            };
        }
        counts
    }

    fn read(&self) -> BTreeMap<Arc<str>, Counts> {
        let readings = self.telemetry.read().into_iter().filter(|(l, _)| l.class != "sink");
        let counts = readings.map(|(labels, r)| {
            let (rows_in, rows_out, errors) = (r.rows_in, r.rows_out, r.errors);
            let counts = Counts { rows_in, rows_out, errors, dropped: r.dropped, late: r.late };
            (labels.component, counts)
        });
        counts.collect()
    }
}

/// `plan` with a place for everything that is compared: its sinks, and such as no file has for the
/// transitions of each rule and for late rows that nobody reads.
fn watched(plan: &PipelinePlan, router: &str) -> (PipelinePlan, Vec<Option<Key>>) {
    let mut nodes = plan.nodes.clone();
    let mut keys: Vec<Option<Key>> = Vec::new();
    for node in &plan.nodes {
        keys.push(match &node.work {
            Work::Sink(_) if node.kind == router => None,
            Work::Sink(sink) => Some(match sink.table() {
                Some(table) => ("table", table.to_owned()),
                None => ("sink", node.id.to_string()),
            }),
            Work::Operator(_) | Work::Alert(_) => None,
        });
    }
    for (index, node) in plan.nodes.iter().enumerate() {
        let (output, class) = match &node.work {
            Work::Alert(_) => ("", "alert"),
            Work::Operator(p) if p.outputs().iter().any(|o| o.name == LATE) => (LATE, "late"),
            Work::Operator(_) | Work::Sink(_) => continue,
        };
        let input = InputPlan::Node { node: index, output: output.into() };
        let read = class == "late" && plan.nodes.iter().any(|n| n.inputs.contains(&input));
        if read {
            continue;
        }
        keys.push(Some((class, node.id.to_string())));
        nodes.push(NodePlan {
            // A dot keeps it apart from the ids of files.
            id: format!("{}.{class}", node.id).into(),
            was: None,
            kind: "replay",
            work: Work::Sink(Arc::new(NoSink)),
            inputs: vec![input],
            on_error: OnError::Reject,
            backlog: Backlog::with(Policy::Skip),
            resolved: String::new(),
            header: node.header.clone(),
        });
    }
    let plan = PipelinePlan { nodes, tests: Vec::new(), ..plan.clone() };
    (plan, keys)
}

/// The sources that a plan reads.
pub(super) fn sources(plan: &PipelinePlan) -> Vec<Arc<str>> {
    sources_read(&plan.nodes).into_iter().collect()
}

/// How far back lies what decides what a plan gives, nanoseconds: along its longest path.
pub(crate) fn reach(plan: &PipelinePlan) -> i64 {
    let mut reaches: Vec<i64> = Vec::new();
    for node in &plan.nodes {
        let above = node.inputs.iter().map(|input| match input {
            InputPlan::Source { .. } => 0,
            InputPlan::Node { node, .. } => reaches.get(*node).copied().unwrap_or_default(),
        });
        let own = match &node.work {
            Work::Operator(p) | Work::Alert(p) => p.reach(),
            Work::Sink(_) => 0,
        };
        reaches.push(above.max().unwrap_or_default().saturating_add(own));
    }
    reaches.into_iter().max().unwrap_or_default()
}

/// Stands for a sink that is never built.
#[derive(Debug)]
struct NoSink;

impl SinkPlan for NoSink {
    fn build(&self, _: SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        Err(SinkError::permanent("a replay builds no sinks"))
    }
}
