//! A pipeline's nodes, built and wired: takes entries and ticks in journal order, gives what goes
//! to sinks. Synchronous and deterministic; the same code runs live, in recovery and in tests.

mod partitions;
mod takeover;
mod unseen;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};

pub(crate) use self::partitions::STATE as PARTITIONS;
use self::partitions::{Partitions, SHAPE, STATE};
pub(crate) use self::takeover::{Dropped, Takeover, shape, takeover};
use self::unseen::Unseen;
use crate::batch::Batch;
use crate::component::{Operator, OperatorError, Output, Tick};
use crate::edge::{ERROR_COLUMNS, ERRORS};
use crate::plan::{InputPlan, NodePlan, OnError, PipelinePlan, Work};
use crate::tap::Taps;
use crate::telemetry::{ComponentLabels, ComponentMetrics, Telemetry};

/// State of every operator of a graph, by node id.
pub type States = BTreeMap<String, NodeState>;

/// Saved state of one operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// [`crate::component::OperatorPlan::state_shape`] of the operator that saved it.
    pub shape: String,
    /// What it saved.
    pub bytes: Vec<u8>,
}

/// A batch on its way to the sink with this id.
#[derive(Debug)]
pub struct ToSink {
    /// Index of the node in the plan.
    pub node: usize,
    /// The rows.
    pub batch: Batch,
}

/// A batch that was seen on an edge.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Source or node id.
    pub id: String,
    /// Output name, "" for the main one.
    pub output: String,
    /// The rows.
    pub batch: Batch,
}

struct Node {
    id: Arc<str>,
    unseen: Unseen,
    /// `None` for sinks.
    operator: Option<Box<dyn Operator>>,
    shape: Option<String>,
    on_error: OnError,
    /// Who reads which output: (output, node, input index).
    readers: Vec<(Arc<str>, usize, usize)>,
    inputs: Vec<InputPlan>,
    pending: VecDeque<(usize, Batch)>,
    metrics: Arc<ComponentMetrics>,
    watermark: i64,
}

/// (source id, output name).
type SourceOutput = (Arc<str>, Arc<str>);

/// A built pipeline.
pub struct Graph {
    pipeline: Arc<str>,
    nodes: Vec<Node>,
    /// Who reads which source output: (node, input index).
    readers: HashMap<SourceOutput, Vec<(usize, usize)>>,
    taps: Arc<Taps>,
    captured: Option<Vec<Captured>>,
    partitions: Partitions,
    now: i64,
    joinable: bool,
}

impl Graph {
    /// Builds every operator of `plan`, without state.
    pub fn build(plan: &PipelinePlan, telemetry: &Telemetry, taps: Arc<Taps>) -> Self {
        let mut nodes: Vec<Node> =
            plan.nodes.iter().map(|n| build_node(&plan.name, n, telemetry)).collect();
        let mut readers: HashMap<_, Vec<(usize, usize)>> = HashMap::new();
        for (index, node) in plan.nodes.iter().enumerate() {
            for (input, from) in node.inputs.iter().enumerate() {
                match from {
                    InputPlan::Source { source, output } => {
                        let key = (source.clone(), output.clone());
                        readers.entry(key).or_default().push((index, input));
                    }
                    InputPlan::Node { node, output } => {
                        nodes[*node].readers.push((output.clone(), index, input));
                    }
                }
            }
        }
        let joinable = is_joinable(plan);
        let pipeline = plan.name.clone();
        let partitions = Partitions::new(&plan.partitioned);
        Self { pipeline, nodes, readers, taps, captured: None, partitions, now: 0, joinable }
    }

    /// Whether anything reads this output of a source.
    pub fn reads(&self, source: &str, output: &str) -> bool {
        self.readers.keys().any(|(s, o)| &**s == source && &**o == output)
    }

    /// Whether anything reads any output of a source.
    pub fn reads_source(&self, source: &str) -> bool {
        self.readers.keys().any(|(s, _)| &**s == source)
    }

    /// Whether entries may be joined before they are pushed: not where two paths of different
    /// length meet, since the order in which rows reach the meeting point would depend on it.
    pub fn joinable(&self) -> bool {
        self.joinable
    }

    /// Takes the rows of a source output, in journal order. What reaches sinks is appended to
    /// `sinks`.
    pub fn push(&mut self, source: &str, output: &str, batch: &Batch, sinks: &mut Vec<ToSink>) {
        self.show(source, output, batch);
        self.partitions.see(source, batch);
        let key = (Arc::from(source), Arc::from(output));
        for &(node, input) in self.readers.get(&key).map_or(&[][..], Vec::as_slice) {
            self.nodes[node].pending.push_back((input, batch.clone()));
        }
        self.run(None, None, sinks);
    }

    /// Time moves on to `tick` (its watermark is that of push sources).
    pub fn tick(&mut self, tick: Tick, sinks: &mut Vec<ToSink>) {
        self.now = tick.time;
        self.partitions.tick(tick);
        self.run(Some(tick), None, sinks);
    }

    /// Emits all that the nodes for which `leaving` is true hold, because they go away.
    pub fn flush(&mut self, tick: Tick, leaving: &dyn Fn(&str) -> bool, sinks: &mut Vec<ToSink>) {
        self.now = tick.time;
        self.run(Some(tick), Some(leaving), sinks);
    }

    /// Feeds rows into the output of a node, as if it had emitted them. For `[[tests]]`.
    pub fn inject(&mut self, node: usize, output: &str, batch: &Batch, sinks: &mut Vec<ToSink>) {
        self.deliver(node, output, batch.clone());
        self.run(None, None, sinks);
    }

    /// Sets what `now` means until the next tick; part of what a checkpoint restores.
    pub fn set_now(&mut self, now: i64) {
        self.now = now;
    }

    fn run(
        &mut self,
        tick: Option<Tick>,
        leaving: Option<&dyn Fn(&str) -> bool>,
        sinks: &mut Vec<ToSink>,
    ) {
        for index in 0..self.nodes.len() {
            while let Some((input, batch)) = self.nodes[index].pending.pop_front() {
                if self.nodes[index].operator.is_none() {
                    sinks.push(ToSink { node: index, batch });
                    continue;
                }
                self.step(index, Some(batch), |op, batch, out| match batch {
                    Some(batch) => op.process(input, batch, out),
                    None => Ok(()),
                });
            }
            let Some(tick) = tick else { continue };
            let watermark = self.input_watermark(index, tick);
            let tick = Tick { watermark, ..tick };
            let node = &mut self.nodes[index];
            node.watermark = node.operator.as_ref().map_or(watermark, |o| o.watermark(watermark));
            node.metrics.watermark(node.watermark.max(0));
            self.step(index, None, |op, _, out| op.tick(tick, out));
            if leaving.is_some_and(|leaving| leaving(&self.nodes[index].id)) {
                self.step(index, None, |op, _, out| op.flush(tick, out));
            }
        }
    }

    fn input_watermark(&self, index: usize, tick: Tick) -> i64 {
        let of = |input: &InputPlan| match input {
            InputPlan::Source { source, .. } => self.partitions.watermark(source, tick),
            InputPlan::Node { node, .. } => self.nodes[*node].watermark,
        };
        self.nodes[index].inputs.iter().map(of).min().unwrap_or(tick.watermark)
    }

    /// Runs one call of an operator with its mistakes contained, and hands on what it emitted.
    fn step(
        &mut self,
        index: usize,
        batch: Option<Batch>,
        call: impl FnOnce(&mut dyn Operator, Option<Batch>, &mut Output) -> Result<(), OperatorError>,
    ) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let Some(operator) = node.operator.as_mut() else { return };
        let mut out = Output { now, ..Output::default() };
        let whole = batch.clone();
        if let Some(batch) = &batch {
            node.metrics.input(batch.num_rows() as u64, batch.bytes() as u64, now);
        }
        if let Some(batch) = &batch {
            node.unseen.look(batch, &node.metrics);
        }
        let start = batch.is_some().then(Instant::now);
        let result = catch_unwind(AssertUnwindSafe(|| call(operator.as_mut(), batch, &mut out)))
            .unwrap_or_else(|_| Err(OperatorError::new("the operator failed on this batch")));
        if let Some(start) = start {
            node.metrics.batch_time(start.elapsed());
        }
        node.metrics.dropped(out.dropped);
        if let Err(error) = result {
            match whole {
                // Nothing of a failed batch went out: it leaves as a whole.
                Some(batch) => {
                    out.emitted.clear();
                    out.rejected = vec![(batch, vec![error])];
                }
                None => node.metrics.error(1, "tick", &error.to_string(), now),
            }
        }
        for (output, batch) in out.emitted {
            let node = &self.nodes[index];
            node.metrics.output(batch.num_rows() as u64, batch.bytes() as u64);
            if output == "late" {
                node.metrics.late(batch.num_rows() as u64);
            }
            self.deliver(index, output, batch);
        }
        for (batch, errors) in out.rejected {
            self.reject(index, batch, &errors);
        }
    }

    fn reject(&mut self, index: usize, batch: Batch, errors: &[OperatorError]) {
        let node = &self.nodes[index];
        if let Some(first) = errors.first() {
            let message = match &first.place {
                Some(place) => format!("{first} ({place})"),
                None => first.to_string(),
            };
            node.metrics.error(batch.num_rows() as u64, "row", &message, self.now);
        }
        if node.on_error == OnError::Keep {
            self.deliver(index, "", batch);
        } else if let Some(batch) = with_errors(&self.pipeline, &node.id, &batch, errors) {
            self.deliver(index, ERRORS, batch);
        }
    }

    fn deliver(&mut self, from: usize, output: &str, batch: Batch) {
        let id = self.nodes[from].id.clone();
        self.show(&id, output, &batch);
        for i in 0..self.nodes[from].readers.len() {
            let (name, to, input) = self.nodes[from].readers[i].clone();
            if &*name == output {
                self.nodes[to].pending.push_back((input, batch.clone()));
            }
        }
    }

    fn show(&mut self, id: &str, output: &str, batch: &Batch) {
        self.taps.offer(id, output, batch);
        if let Some(captured) = &mut self.captured {
            let (id, output) = (id.to_owned(), output.to_owned());
            captured.push(Captured { id, output, batch: batch.clone() });
        }
    }

    /// From now on keeps every batch of every edge, for [`Graph::captured`]. For `[[tests]]`.
    pub fn capture(&mut self) {
        self.captured = Some(Vec::new());
    }

    /// What has been captured since the last call, in order.
    pub fn captured(&mut self) -> Vec<Captured> {
        self.captured.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The state of every operator that has some.
    ///
    /// # Errors
    /// If an operator cannot say its state; names it.
    pub fn snapshot(&mut self) -> Result<States, String> {
        let mut states = States::new();
        for node in &mut self.nodes {
            if let (Some(operator), Some(shape)) = (&mut node.operator, &node.shape) {
                let bytes = operator.snapshot().map_err(|e| format!("`{}`: {e}", node.id))?;
                states.insert(node.id.to_string(), NodeState { shape: shape.clone(), bytes });
            }
        }
        if let Some(bytes) = self.partitions.snapshot() {
            states.insert(STATE.to_owned(), NodeState { shape: SHAPE.to_owned(), bytes });
        }
        Ok(states)
    }

    /// Gives each operator the state saved under its id (or the id that it `was`), if shape and
    /// kind are unchanged. Returns what could not be taken over, for people to read.
    pub fn restore(&mut self, plan: &PipelinePlan, states: &States) -> Vec<String> {
        if let Some(state) = states.get(STATE).filter(|s| s.shape == SHAPE) {
            self.partitions.restore(&state.bytes);
        }
        let mut dropped = Vec::new();
        for (node, planned) in self.nodes.iter_mut().zip(&plan.nodes) {
            let Some(operator) = &mut node.operator else { continue };
            let why = match takeover(planned, |id| Some(states.get(id)?.shape.as_str())) {
                Takeover::Stateless | Takeover::Nothing => continue,
                Takeover::Dropped(why) => why.to_string(),
                Takeover::Of(id) => {
                    let Some(state) = states.get(id) else { continue };
                    let Err(e) = operator.restore(&state.bytes) else { continue };
                    // A half restored operator is worse than an empty one.
                    if let Work::Operator(p) | Work::Alert(p) = &planned.work {
                        *operator = p.build();
                    }
                    e.to_string()
                }
            };
            dropped.push(format!("`{}` starts without state: {why}", node.id));
        }
        dropped
    }
}

fn build_node(pipeline: &Arc<str>, node: &NodePlan, telemetry: &Telemetry) -> Node {
    let operator = match &node.work {
        Work::Operator(p) | Work::Alert(p) => Some(p.build()),
        Work::Sink(_) => None,
    };
    let metrics = telemetry.component(ComponentLabels {
        pipeline: pipeline.clone(),
        component: node.id.clone(),
        class: node.work.class(),
        kind: node.kind,
    });
    let columns = match &node.work {
        Work::Operator(p) | Work::Alert(p) => p.columns(),
        Work::Sink(_) => Vec::new(),
    };
    Node {
        id: node.id.clone(),
        unseen: Unseen::new(columns),
        operator,
        shape: shape(node),
        on_error: node.on_error,
        readers: Vec::new(),
        inputs: node.inputs.clone(),
        pending: VecDeque::new(),
        metrics,
        watermark: i64::MIN,
    }
}

/// Whether every operator has one input, so that no two paths meet again before the sinks (whose
/// inputs keep their order each).
fn is_joinable(plan: &PipelinePlan) -> bool {
    plan.nodes.iter().all(|n| matches!(n.work, Work::Sink(_)) || n.inputs.len() <= 1)
}

/// The rows with the reason, the place and the component beside them.
fn with_errors(
    pipeline: &str,
    node: &str,
    batch: &Batch,
    errors: &[OperatorError],
) -> Option<Batch> {
    let rows = batch.num_rows();
    let error = |i: usize| errors.get(i).or(errors.last());
    let component = format!("{pipeline}/{node}");
    let reasons = StringArray::from_iter((0..rows).map(|i| error(i).map(|e| e.reason.clone())));
    let places = StringArray::from_iter((0..rows).map(|i| error(i).and_then(|e| e.place.clone())));
    let components = StringArray::from_iter_values((0..rows).map(|_| component.as_str()));
    let added: [ArrayRef; 3] = [Arc::new(reasons), Arc::new(places), Arc::new(components)];
    let schema = batch.rows().schema();
    let keep = |f: &&Arc<Field>| !ERROR_COLUMNS.contains(&f.name().as_str());
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().filter(keep).cloned().collect();
    let mut arrays: Vec<ArrayRef> =
        fields.iter().filter_map(|f| batch.rows().column_by_name(f.name()).cloned()).collect();
    for (name, array) in ERROR_COLUMNS.iter().zip(added) {
        fields.push(Arc::new(Field::new(*name, DataType::Utf8, true)));
        arrays.push(array);
    }
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).ok()?;
    batch.with_rows(rows).ok()
}
