//! What planning yields: sources, and pipelines as graphs in topological order. Pure data; the
//! runtime builds it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::backlog::{Backlog, Policy};
use crate::component::{OperatorPlan, Partitioned, SinkPlan, SourcePlan};
use crate::config::Bundle;
use crate::diagnostic::Span;
use crate::lookup::LookupPlan;

/// Everything that shall run.
#[derive(Debug, Default)]
pub struct Plan {
    /// By id.
    pub sources: BTreeMap<Arc<str>, Arc<SourceDefinition>>,
    /// By name.
    pub pipelines: BTreeMap<Arc<str>, Arc<PipelinePlan>>,
    /// Lookup tables of all files, each file's under its path.
    pub lookups: Vec<Arc<LookupDefinition>>,
}

/// A source as planned.
#[derive(Debug)]
pub struct SourceDefinition {
    /// Id, unique over all files.
    pub id: Arc<str>,
    /// `type`.
    pub kind: &'static str,
    /// What was proved.
    pub plan: Arc<dyn SourcePlan>,
    /// Canonical text of the resolved section with the content of the files that it names,
    /// secrets as references. Equal text is an equal source.
    pub resolved: String,
    /// What it takes to plan it again without the present files: goes into the journal with each
    /// generation, so that replay decodes as the receiver did.
    pub bundle: Bundle,
    /// Where it is defined.
    pub header: Span,
}

/// A lookup table as planned.
#[derive(Debug)]
pub struct LookupDefinition {
    /// Id, unique in its file.
    pub id: String,
    /// `type`.
    pub kind: &'static str,
    /// What was proved.
    pub plan: Arc<dyn LookupPlan>,
    /// Hash of what decides which rows it has, but for the rows: equal sections share a table.
    pub key: String,
    /// Where it is defined.
    pub header: Span,
}

/// A pipeline as planned.
#[derive(Clone, Debug)]
pub struct PipelinePlan {
    /// `name` in its file, else the file name without `.toml`.
    pub name: Arc<str>,
    /// The file.
    pub path: PathBuf,
    /// SHA-256, hex, of its name and everything that decides its behaviour.
    pub hash: String,
    /// The same without the name: equal under a new name is a rename.
    pub content: String,
    /// What it takes to plan it again without the present files; kept with checkpoints.
    pub bundle: Bundle,
    /// Where a new pipeline starts.
    pub from: From,
    /// How far it may lag behind.
    pub backlog: Backlog,
    /// In topological order: a node comes after everything it reads.
    pub nodes: Vec<NodePlan>,
    /// Those of the sources that it reads that have partitions.
    pub partitioned: BTreeMap<Arc<str>, Partitioned>,
    /// `[[tests]]`, run by `weir test` and by every reload.
    pub tests: Vec<TestPlan>,
    /// The nodes that tests run, if lookup tables have rows of their own for that.
    pub test_nodes: Option<Vec<NodePlan>>,
    /// Lookup tables that it looks into and whose rows nobody knows, by id.
    pub guessed: BTreeMap<String, Guess>,
}

/// What stands for the rows of a lookup table that were never read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    /// Those of its `sample`.
    Sample,
    /// Nothing: it may have any columns, and no row is found.
    Nothing,
}

impl PipelinePlan {
    /// How far it may lag behind, or its detached sink `sink`; `None` if there is no such sink.
    pub fn backlog_of(&self, sink: Option<&str>) -> Option<Backlog> {
        let Some(sink) = sink else { return Some(self.backlog) };
        self.nodes.iter().find(|n| *n.id == *sink).map(|n| n.backlog)
    }

    /// The part of it that the sink `id` needs: the sink, and all nodes above it. Name, hash and
    /// texts stay those of the whole. `None` if there is no such sink.
    pub fn only(&self, id: &str) -> Option<Self> {
        let sink = self.nodes.iter().position(|n| *n.id == *id)?;
        let mut needed = BTreeSet::from([sink]);
        // A node comes after everything it reads.
        for index in (0..=sink).rev() {
            if needed.contains(&index) {
                needed.extend(self.nodes[index].inputs.iter().filter_map(InputPlan::node));
            }
        }
        let place = |node: usize| needed.iter().position(|n| *n == node).unwrap_or_default();
        let nodes = needed.iter().map(|index| {
            let mut node = self.nodes[*index].clone();
            for input in &mut node.inputs {
                if let InputPlan::Node { node, .. } = input {
                    *node = place(*node);
                }
            }
            node
        });
        Some(Self {
            name: self.name.clone(),
            path: self.path.clone(),
            hash: self.hash.clone(),
            content: self.content.clone(),
            bundle: self.bundle.clone(),
            from: self.from,
            backlog: self.nodes[sink].backlog,
            nodes: nodes.collect(),
            partitioned: self.partitioned.clone(),
            tests: Vec::new(),
            test_nodes: None,
            guessed: self.guessed.clone(),
        })
    }
}

/// Where a new pipeline starts to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum From {
    /// At the mark of the reload that brought it.
    #[default]
    Now,
    /// At the oldest entry that the journal still has.
    Oldest,
    /// At the first entry received at or after this time, UTC nanoseconds.
    Time(i64),
}

/// One node of a pipeline.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Id, unique in its file over operators, sinks and alerts.
    pub id: Arc<str>,
    /// The id whose state it takes over.
    pub was: Option<Arc<str>>,
    /// `type`; `alert` for alerts.
    pub kind: &'static str,
    /// What it does.
    pub work: Work,
    /// What it reads.
    pub inputs: Vec<InputPlan>,
    /// What happens to rows that it cannot process.
    pub on_error: OnError,
    /// Of a sink: how far it may lag behind while it is detached.
    pub backlog: Backlog,
    /// Canonical text of the resolved section (type, inputs, own keys, content of named files,
    /// secrets as references). Equal text is an equal node.
    pub resolved: String,
    /// Where it is defined.
    pub header: Span,
}

/// Ids of the sources that nodes read.
pub(crate) fn sources_read(nodes: &[NodePlan]) -> BTreeSet<Arc<str>> {
    nodes.iter().flat_map(|n| &n.inputs).filter_map(InputPlan::source).cloned().collect()
}

/// What a node does.
#[derive(Clone, Debug)]
pub enum Work {
    /// An operator.
    Operator(Arc<dyn OperatorPlan>),
    /// An alert: an operator whose main output goes to the router.
    Alert(Arc<dyn OperatorPlan>),
    /// A sink.
    Sink(Arc<dyn SinkPlan>),
}

impl Work {
    /// What happens past its backlog unless it says otherwise.
    pub(crate) fn past_backlog(&self) -> Policy {
        match self {
            Self::Sink(plan) => plan.past_backlog(),
            Self::Operator(_) | Self::Alert(_) => Policy::Refuse,
        }
    }

    /// `operator`, `alert` or `sink`.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Operator(_) => "operator",
            Self::Alert(_) => "alert",
            Self::Sink(_) => "sink",
        }
    }
}

/// What happens to rows that an operator cannot process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// They leave the main output for `<id>.errors`.
    #[default]
    Reject,
    /// They go on unchanged on the main output.
    Keep,
}

/// One input of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputPlan {
    /// An output of a source.
    Source {
        /// Source id.
        source: Arc<str>,
        /// Output name, "" for the main one.
        output: Arc<str>,
    },
    /// An output of an earlier node.
    Node {
        /// Index in [`PipelinePlan::nodes`].
        node: usize,
        /// Output name, "" for the main one, `errors` for rejected rows.
        output: Arc<str>,
    },
}

impl InputPlan {
    /// Whether it is an output of the source `id`.
    pub fn is_source(&self, id: &str) -> bool {
        matches!(self, Self::Source { source, .. } if **source == *id)
    }

    /// The source that it is an output of.
    fn source(&self) -> Option<&Arc<str>> {
        match self {
            Self::Source { source, .. } => Some(source),
            Self::Node { .. } => None,
        }
    }

    /// The earlier node that it is an output of.
    fn node(&self) -> Option<usize> {
        match self {
            Self::Node { node, .. } => Some(*node),
            Self::Source { .. } => None,
        }
    }

    /// As people write it: `id` or `id.output`.
    pub fn to_text(&self, plan: &PipelinePlan) -> String {
        let (id, output) = match self {
            Self::Source { source, output } => (source, output),
            Self::Node { node, output } => (&plan.nodes[*node].id, output),
        };
        if output.is_empty() { id.to_string() } else { format!("{id}.{output}") }
    }
}

/// Rows of a test, as JSON objects.
pub type TestRows = Vec<serde_json::Map<String, serde_json::Value>>;

/// One `[[tests]]` entry, as read: input rows, ticks, expected rows.
#[derive(Clone, Debug)]
pub struct TestPlan {
    /// Its name.
    pub name: String,
    /// What happens, in order.
    pub steps: Vec<TestStep>,
    /// Output (`id` or `id.output`) and the rows expected there after all steps, as JSON objects:
    /// each must be contained in the row that came out, in order, and no further row may come.
    pub expect: Vec<(String, Span, TestRows)>,
    /// Where it stands.
    pub header: Span,
}

/// One step of a test.
#[derive(Clone, Debug)]
pub enum TestStep {
    /// Rows arrive on a source output (`otlp.logs`) or a node output at a time (UTC ns).
    Rows {
        /// What they stand for the output of.
        output: String,
        /// Receive time, UTC nanoseconds.
        at: i64,
        /// The rows.
        rows: TestRows,
    },
    /// A tick at this time, UTC nanoseconds.
    Tick(i64),
}
