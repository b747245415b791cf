//! The loop of one pipeline: journal entries in, batches to sinks out, checkpoints at ticks,
//! changes at marks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::sink::{Gone, SinkHandle};
use crate::batch::Batch;
use crate::checkpoint::Checkpoint;
use crate::component::{SinkContext, Staged, Tick};
use crate::failpoint;
use crate::graph::{Graph, States, ToSink};
use crate::intake::now;
use crate::journal::{Entry, EntryKind, Reader};
use crate::plan::{NodePlan, PipelinePlan, Work};
use crate::tap::Taps;
use crate::telemetry::ComponentLabels;

/// A checkpoint is due after this much running time, nanoseconds.
const CHECKPOINT_EVERY_NS: i64 = 30_000_000_000;
/// ... or after this many bytes of payload.
const CHECKPOINT_BYTES: u64 = 256 << 20;
/// After a checkpoint that failed the next try waits this long, nanoseconds of running time.
const RETRY_AFTER_NS: i64 = 5_000_000_000;
/// Small entries are joined up to about this many rows before they are pushed.
const JOIN_ROWS: usize = 8_192;

/// What shall happen at a mark.
pub(super) enum Change {
    /// Save, rebuild as this plan, take over the state, go on.
    Swap(Arc<PipelinePlan>),
    /// Flush everything, save, end.
    Remove,
    /// Save, end.
    Stop,
}

/// A change that waits for its mark.
pub(super) struct AtMark {
    /// The id that the mark carries.
    pub(super) mark: u64,
    pub(super) change: Change,
    /// How it went: what people should know (state that was dropped), or why it failed.
    pub(super) reply: oneshot::Sender<Result<Vec<String>, String>>,
}

/// What others may see of a running pipeline.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Progress {
    /// Offset of the last entry taken in.
    pub position: u64,
    /// Receive time of that entry, UTC nanoseconds.
    pub received: i64,
    /// Times that the pipeline was rebuilt.
    pub generation: u32,
    /// Position of the last checkpoint whose work is committed.
    pub committed: u64,
    /// Why the last checkpoint failed, if it did.
    pub checkpoint_error: Option<String>,
    /// Why the pipeline does not run, if it does not.
    pub failed: Option<String>,
    /// Newest watermark of the sources, UTC nanoseconds.
    pub watermark: i64,
}

/// The handle to a running pipeline.
pub(super) struct Running {
    /// The plan in force; the loop changes it when it swaps.
    pub(super) plan: Arc<Mutex<Arc<PipelinePlan>>>,
    pub(super) changes: mpsc::Sender<AtMark>,
    pub(super) progress: Arc<Mutex<Progress>>,
    pub(super) taps: Arc<Taps>,
    pub(super) cancel: CancellationToken,
    pub(super) thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// Where a pipeline begins.
pub(super) enum Begin {
    /// Fresh, behind this offset.
    After(u64),
    /// From what a checkpoint saved.
    Checkpoint(Box<Checkpoint>),
}

/// Builds `plan` and starts its loop. With a checkpoint, first repeats its commits.
///
/// # Errors
/// If a sink cannot be built or does not take back what it carried.
pub(super) async fn start(
    shared: Arc<Shared>,
    plan: Arc<PipelinePlan>,
    begin: Begin,
) -> Result<(Running, Vec<String>), String> {
    let taps = Arc::new(Taps::default());
    let cancel = CancellationToken::new();
    let mut graph = Graph::build(&plan, &shared.telemetry, taps.clone());
    let (position, checkpoint) = match begin {
        Begin::After(offset) => (offset, None),
        Begin::Checkpoint(c) => (c.position, Some(*c)),
    };
    let mut sinks = HashMap::new();
    let mut notes = Vec::new();
    for node in &plan.nodes {
        let staged = checkpoint.as_ref().and_then(|c| c.sinks.get(&*node.id));
        if let Some(sink) = start_sink(&shared, &plan, node, position, staged, &cancel).await? {
            sinks.insert(node.id.clone(), sink);
        }
    }
    let mut source_watermark = i64::MIN;
    if let Some(checkpoint) = &checkpoint {
        notes = graph.restore(&plan, &checkpoint.states);
        failpoint!("recovery.restored");
        graph.set_now(checkpoint.now);
        source_watermark = checkpoint.watermark;
    } else {
        save_fresh(&shared, &plan, position).await?;
    }
    let progress = Arc::new(Mutex::new(Progress {
        position,
        committed: position,
        watermark: source_watermark,
        ..Progress::default()
    }));
    let shown = Arc::new(Mutex::new(plan.clone()));
    let name = format!("pipeline-{}", plan.name);
    let (changes, queue) = mpsc::channel(16);
    let looped = Loop {
        reader: shared.journal.reader(position),
        shared,
        plan,
        shown: shown.clone(),
        graph,
        sinks,
        position,
        tick: Tick {
            time: checkpoint.as_ref().map_or(0, |c| c.now),
            watermark: source_watermark,
            ..Tick::default()
        },
        changes: queue,
        waiting: BTreeMap::new(),
        checkpointing: None,
        bytes_since: 0,
        due_at: None,
        progress: progress.clone(),
        cancel: cancel.clone(),
        taps: taps.clone(),
    };
    let runtime = tokio::runtime::Handle::current();
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(move || runtime.block_on(looped.supervised()))
        .map_err(|e| format!("no thread for the pipeline: {e}"))?;
    let thread = Mutex::new(Some(thread));
    Ok((Running { plan: shown, changes, progress, taps, cancel, thread }, notes))
}

/// A pipeline that starts without a checkpoint saves one at once: a crash must not make it start
/// anywhere else.
async fn save_fresh(
    shared: &Arc<Shared>,
    plan: &Arc<PipelinePlan>,
    position: u64,
) -> Result<(), String> {
    let checkpoint = Checkpoint {
        pipeline: plan.name.to_string(),
        plan: plan.hash.clone(),
        journal: shared.journal.id(),
        position,
        watermark: i64::MIN,
        ..Checkpoint::default()
    };
    save(shared.clone(), plan.clone(), checkpoint).await
}

async fn save(
    shared: Arc<Shared>,
    plan: Arc<PipelinePlan>,
    checkpoint: Checkpoint,
) -> Result<(), String> {
    let write = move || {
        shared.checkpoints.save_plan(&plan.hash, &plan.bundle)?;
        shared.checkpoints.save(&checkpoint)
    };
    tokio::task::spawn_blocking(write)
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| format!("checkpoint could not be written: {e}"))
}

/// Starts the task of `node` if it is a sink.
async fn start_sink(
    shared: &Shared,
    plan: &PipelinePlan,
    node: &NodePlan,
    mark: u64,
    staged: Option<&Staged>,
    cancel: &CancellationToken,
) -> Result<Option<SinkHandle>, String> {
    let Work::Sink(sink_plan) = &node.work else { return Ok(None) };
    let metrics = shared.telemetry.component(ComponentLabels {
        pipeline: plan.name.clone(),
        component: node.id.clone(),
        class: "sink",
        kind: node.kind,
    });
    let context = SinkContext {
        journal: shared.journal.id(),
        pipeline: plan.name.clone(),
        sink: node.id.clone(),
        services: shared.services.clone(),
        metrics: metrics.clone(),
    };
    let failed = |e| format!("sink `{}` of pipeline `{}`: {e}", node.id, plan.name);
    let mut sink = sink_plan.build(context).map_err(failed)?;
    let work = staged.map_or(&[][..], |s| &s.work);
    let carry = staged.map_or(&[][..], |s| &s.carry);
    if !work.is_empty() {
        sink.commit(mark, work).await.map_err(failed)?;
        failpoint!("recovery.committed");
    }
    // Also without anything to carry: what an earlier run left staged and no checkpoint names is
    // the sink's to sweep.
    sink.restore(carry).await.map_err(failed)?;
    Ok(Some(SinkHandle::start(sink, metrics, cancel.clone())))
}

struct Loop {
    shared: Arc<Shared>,
    plan: Arc<PipelinePlan>,
    /// `plan`, as others see it.
    shown: Arc<Mutex<Arc<PipelinePlan>>>,
    graph: Graph,
    sinks: HashMap<Arc<str>, SinkHandle>,
    reader: Reader,
    position: u64,
    /// The last tick; its watermark is that of the sources.
    tick: Tick,
    changes: mpsc::Receiver<AtMark>,
    waiting: BTreeMap<u64, AtMark>,
    checkpointing: Option<JoinHandle<Result<u64, String>>>,
    bytes_since: u64,
    /// Running time at which the next checkpoint is due; set at the first tick.
    due_at: Option<i64>,
    progress: Arc<Mutex<Progress>>,
    cancel: CancellationToken,
    taps: Arc<Taps>,
}

/// Why the loop ends.
enum End {
    /// As asked.
    Done,
    /// The process is going down without waiting.
    Cancelled,
    Failed(String),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Cancelled
    }
}

/// Rows of consecutive entries of one source output, on their way to be joined.
#[derive(Default)]
struct Joining {
    source: Arc<str>,
    output: &'static str,
    batches: Vec<Batch>,
    rows: usize,
}

impl Loop {
    async fn supervised(mut self) {
        let cancel = self.cancel.clone();
        let end = cancel.run_until_cancelled(self.run()).await.unwrap_or(End::Cancelled);
        if let End::Failed(why) = end {
            tracing::error!(pipeline = %self.plan.name, error = why, "pipeline stopped");
            self.progress.lock().failed = Some(why);
        }
    }

    async fn run(&mut self) -> End {
        loop {
            let entries = match self.reader.next().await {
                Ok(entries) => entries,
                Err(e) => return End::Failed(format!("journal behind {}: {e}", self.position)),
            };
            if let Err(end) = self.take(&entries).await {
                return end;
            }
        }
    }

    async fn take(&mut self, entries: &[Arc<Entry>]) -> Result<(), End> {
        let mut joining = Joining::default();
        for entry in entries {
            match entry.head.kind {
                EntryKind::Data => self.data(entry, &mut joining).await?,
                EntryKind::Tick | EntryKind::Mark => {
                    self.push(&mut joining).await?;
                    self.position = entry.offset;
                    self.time(entry).await?;
                }
            }
            self.position = entry.offset;
        }
        self.push(&mut joining).await?;
        if let Some(last) = entries.last() {
            let mut progress = self.progress.lock();
            progress.position = last.offset;
            progress.received = last.head.received;
        }
        Ok(())
    }

    async fn data(&mut self, entry: &Entry, joining: &mut Joining) -> Result<(), End> {
        let source = &entry.head.source;
        if !self.graph.reads_source(source) {
            return Ok(());
        }
        self.bytes_since += entry.head.payload.len() as u64;
        let batches = match self.shared.decoders.batches(entry) {
            Ok(batches) => batches,
            Err(error) => {
                // It decoded when it came in: this is a defect of ours, and must be seen.
                tracing::error!(pipeline = %self.plan.name, error, "entry cannot be decoded again");
                self.shared.telemetry.count(
                    "weir_entries_undecodable_total",
                    "Journal entries that could not be decoded again",
                    1.0,
                );
                return Ok(());
            }
        };
        for (output, batch) in batches.iter() {
            if !self.graph.reads(source, output) {
                continue;
            }
            let other = joining.source != *source || joining.output != *output;
            if other || joining.rows >= JOIN_ROWS || !self.graph.joinable() {
                self.push(joining).await?;
                joining.source = source.clone();
                joining.output = output;
            }
            joining.rows += batch.num_rows();
            joining.batches.push(batch.clone());
        }
        Ok(())
    }

    async fn push(&mut self, joining: &mut Joining) -> Result<(), End> {
        let Joining { source, output, batches, .. } = std::mem::take(joining);
        if batches.is_empty() {
            return Ok(());
        }
        let mut to_sinks = Vec::new();
        match Batch::join(&batches) {
            Some(batch) => self.graph.push(&source, output, &batch, &mut to_sinks),
            None => {
                for batch in &batches {
                    self.graph.push(&source, output, batch, &mut to_sinks);
                }
            }
        }
        self.send(to_sinks).await
    }

    async fn send(&self, to_sinks: Vec<ToSink>) -> Result<(), End> {
        for ToSink { node, batch } in to_sinks {
            if let Some(sink) = self.sinks.get(&self.plan.nodes[node].id) {
                sink.write(batch).await?;
            }
        }
        Ok(())
    }

    async fn time(&mut self, entry: &Entry) -> Result<(), End> {
        let Some(stamp) = entry.stamp() else { return Ok(()) };
        self.tick = Tick {
            time: stamp.time,
            elapsed: stamp.elapsed,
            offset: entry.offset,
            watermark: self.tick.watermark.max(stamp.time),
        };
        let mut to_sinks = Vec::new();
        self.graph.tick(self.tick, &mut to_sinks);
        self.send(to_sinks).await?;
        {
            let mut progress = self.progress.lock();
            progress.watermark = self.tick.watermark;
        }
        let mark = entry.mark_reason().and_then(|reason| reason.parse().ok());
        let changed = match mark {
            Some(mark) => self.mark(mark).await?,
            None => false,
        };
        if !changed {
            self.checkpoint_if_due().await?;
        }
        Ok(())
    }

    /// Does what waits for this mark. Returns whether that saved a checkpoint.
    async fn mark(&mut self, mark: u64) -> Result<bool, End> {
        while let Ok(change) = self.changes.try_recv() {
            self.waiting.insert(change.mark, change);
        }
        // Those of earlier marks never came: their appending failed, and they were told so.
        self.waiting = self.waiting.split_off(&mark);
        let Some(AtMark { change, reply, .. }) = self.waiting.remove(&mark) else {
            return Ok(false);
        };
        self.finish_checkpoint().await?;
        let (result, end) = match change {
            // It ends even if its checkpoint failed: the journal has everything.
            Change::Stop => (self.checkpoint_now(&[], false).await.map(|_| vec![]), true),
            Change::Remove => {
                let result = self.remove().await;
                let end = result.is_ok();
                (result, end)
            }
            Change::Swap(plan) => (self.swap(plan).await, false),
        };
        let _ = reply.send(result);
        if end { Err(End::Done) } else { Ok(true) }
    }

    async fn remove(&mut self) -> Result<Vec<String>, String> {
        let mut to_sinks = Vec::new();
        self.graph.flush(self.tick, &|_| true, &mut to_sinks);
        self.send(to_sinks).await.map_err(|_| "a sink is gone".to_owned())?;
        let all: Vec<Arc<str>> = self.sinks.keys().cloned().collect();
        self.checkpoint_now(&all, true).await.map(|_| vec![])
    }

    async fn swap(&mut self, plan: Arc<PipelinePlan>) -> Result<Vec<String>, String> {
        // Sinks that are equal in both plans go on; the others stage everything they hold.
        let kept = |old: &NodePlan| {
            plan.nodes.iter().any(|new| new.id == old.id && new.resolved == old.resolved)
        };
        let leaving: Vec<Arc<str>> = self
            .plan
            .nodes
            .iter()
            .filter(|n| self.sinks.contains_key(&n.id) && !kept(n))
            .map(|n| n.id.clone())
            .collect();
        // Operators and alerts that are not in the new plan say what they still hold.
        let gone = |id: &str| {
            let stays = |new: &NodePlan| {
                let same_kind = self.plan.nodes.iter().any(|n| *n.id == *id && n.kind == new.kind);
                same_kind && (*new.id == *id || new.was.as_deref() == Some(id))
            };
            !plan.nodes.iter().any(stays)
        };
        let mut to_sinks = Vec::new();
        self.graph.flush(self.tick, &gone, &mut to_sinks);
        self.send(to_sinks).await.map_err(|_| "a sink is gone".to_owned())?;
        let (states, staged) = self.checkpoint_now(&leaving, false).await?;
        failpoint!("reload.saved");
        let mut sinks = HashMap::new();
        for node in &plan.nodes {
            let sink = match self.sinks.get(&node.id).filter(|_| !leaving.contains(&node.id)) {
                Some(sink) => Some(sink.clone()),
                None => start_sink(&self.shared, &plan, node, 0, None, &self.cancel).await?,
            };
            sinks.extend(sink.map(|s| (node.id.clone(), s)));
        }
        let mut graph = Graph::build(&plan, &self.shared.telemetry, self.taps.clone());
        graph.set_now(self.tick.time);
        let notes = graph.restore(&plan, &states);
        // From here on a crash starts with the new plan.
        let carried = staged.into_iter().filter(|(id, _)| sinks.contains_key(id.as_str()));
        let carried = carried.map(|(id, s)| (id, Staged { work: Vec::new(), carry: s.carry }));
        let states = graph.snapshot()?;
        let checkpoint = self.describe(&plan, states, carried.collect(), false);
        failpoint!("reload.built");
        save(self.shared.clone(), plan.clone(), checkpoint).await?;
        failpoint!("reload.swapped");
        self.graph = graph;
        self.sinks = sinks;
        *self.shown.lock() = plan.clone();
        self.plan = plan;
        self.progress.lock().generation += 1;
        Ok(notes)
    }

    fn describe(
        &self,
        plan: &PipelinePlan,
        states: States,
        sinks: BTreeMap<String, Staged>,
        removed: bool,
    ) -> Checkpoint {
        Checkpoint {
            pipeline: plan.name.to_string(),
            plan: plan.hash.clone(),
            journal: self.shared.journal.id(),
            position: self.position,
            now: self.tick.time,
            watermark: self.tick.watermark,
            removed,
            states,
            sinks,
        }
    }

    async fn checkpoint_if_due(&mut self) -> Result<(), End> {
        let elapsed = self.tick.elapsed;
        let due = *self.due_at.get_or_insert(elapsed + CHECKPOINT_EVERY_NS);
        if elapsed < due && self.bytes_since < CHECKPOINT_BYTES {
            return Ok(());
        }
        if self.checkpointing.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        self.finish_checkpoint().await?;
        if self.due_at.is_some_and(|due| elapsed < due) && self.bytes_since < CHECKPOINT_BYTES {
            return Ok(());
        }
        self.due_at = Some(elapsed + CHECKPOINT_EVERY_NS);
        self.bytes_since = 0;
        match self.begin_checkpoint(&[], false).await {
            Ok(task) => self.checkpointing = Some(task),
            Err(why) => self.note_failure(why),
        }
        Ok(())
    }

    /// Waits for the checkpoint in flight, if there is one.
    async fn finish_checkpoint(&mut self) -> Result<(), End> {
        let Some(task) = self.checkpointing.take() else { return Ok(()) };
        match task.await.unwrap_or_else(|e| Err(e.to_string())) {
            Ok(position) => self.note_success(position),
            Err(why) => self.note_failure(why),
        }
        Ok(())
    }

    fn note_success(&self, position: u64) {
        let mut progress = self.progress.lock();
        progress.committed = position;
        progress.checkpoint_error = None;
    }

    fn note_failure(&mut self, why: String) {
        tracing::warn!(pipeline = %self.plan.name, error = why, "checkpoint failed, trying again");
        self.due_at = Some(self.tick.elapsed + RETRY_AFTER_NS);
        self.progress.lock().checkpoint_error = Some(why);
    }

    /// Saves a checkpoint at the current position and waits until its work is committed.
    async fn checkpoint_now(
        &mut self,
        leaving: &[Arc<str>],
        removed: bool,
    ) -> Result<(States, BTreeMap<String, Staged>), String> {
        let (states, staged) = self.stage(leaving).await?;
        let staged = collect(staged).await?;
        let checkpoint = self.describe(&self.plan, states.clone(), staged.clone(), removed);
        let done =
            finish(self.shared.clone(), self.plan.clone(), checkpoint, self.sinks.clone()).await;
        match done {
            Ok(position) => {
                self.note_success(position);
                self.due_at = Some(self.tick.elapsed + CHECKPOINT_EVERY_NS);
                self.bytes_since = 0;
                Ok((states, staged))
            }
            Err(why) => {
                self.note_failure(why.clone());
                Err(why)
            }
        }
    }

    /// Takes the states and asks the sinks to stage; the rest runs beside the loop.
    async fn begin_checkpoint(
        &mut self,
        leaving: &[Arc<str>],
        removed: bool,
    ) -> Result<JoinHandle<Result<u64, String>>, String> {
        let (states, staged) = self.stage(leaving).await?;
        let mut checkpoint = self.describe(&self.plan, states, BTreeMap::new(), removed);
        let (shared, plan, sinks) = (self.shared.clone(), self.plan.clone(), self.sinks.clone());
        Ok(tokio::spawn(async move {
            checkpoint.sinks = collect(staged).await?;
            finish(shared, plan, checkpoint, sinks).await
        }))
    }

    async fn stage(&mut self, leaving: &[Arc<str>]) -> Result<(States, Vec<Staging>), String> {
        let states = self.graph.snapshot()?;
        let mut staged = Vec::new();
        for (id, sink) in &self.sinks {
            let answer = sink.stage(self.position, leaving.contains(id)).await;
            staged.push((id.clone(), answer.map_err(|Gone| format!("sink `{id}` is gone"))?));
        }
        Ok((states, staged))
    }
}

type Staging = (Arc<str>, oneshot::Receiver<Result<Staged, crate::component::SinkError>>);

async fn collect(staging: Vec<Staging>) -> Result<BTreeMap<String, Staged>, String> {
    let mut all = BTreeMap::new();
    let mut failed = Vec::new();
    // All answers are awaited, also after a failure: a sink that is still staging must not be
    // asked again meanwhile.
    for (id, answer) in staging {
        match answer.await {
            Ok(Ok(staged)) => {
                all.insert(id.to_string(), staged);
            }
            Ok(Err(e)) => failed.push(format!("sink `{id}` could not stage: {e}")),
            Err(_) => failed.push(format!("sink `{id}` is gone")),
        }
    }
    if failed.is_empty() { Ok(all) } else { Err(failed.join("; ")) }
}

/// Renames the checkpoint into place; only then commits what it names.
async fn finish(
    shared: Arc<Shared>,
    plan: Arc<PipelinePlan>,
    checkpoint: Checkpoint,
    sinks: HashMap<Arc<str>, SinkHandle>,
) -> Result<u64, String> {
    let mark = checkpoint.position;
    let work: Vec<_> =
        checkpoint.sinks.iter().map(|(id, s)| (id.clone(), s.work.clone())).collect();
    failpoint!("checkpoint.staged");
    save(shared.clone(), plan, checkpoint).await?;
    failpoint!("checkpoint.renamed");
    for (id, work) in work.into_iter().filter(|(_, work)| !work.is_empty()) {
        if let Some(sink) = sinks.get(id.as_str()) {
            sink.commit(mark, work).await.map_err(|Gone| format!("sink `{id}` is gone"))?;
            failpoint!("checkpoint.committed");
        }
    }
    tokio::task::spawn_blocking(move || shared.trim());
    Ok(mark)
}

/// Receive time that the pipeline is behind `head`, nanoseconds.
pub(super) fn lag(progress: &Progress, head: u64) -> i64 {
    if progress.position >= head { 0 } else { (now() - progress.received).max(0) }
}
