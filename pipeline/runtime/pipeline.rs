//! One pipeline: the handle to its loop, and how it begins.

mod change;
mod detach;
pub(super) mod raw;
mod run;
mod save;

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) use self::change::{is_gone, keeps_sink, rename_part};
pub(super) use self::detach::{Handed, detached};
use self::run::{End, Loop};
use super::Shared;
use super::sink::SinkHandle;
use crate::checkpoint::{Checkpoint, Consumer};
use crate::component::{Sink, SinkContext, Staged, Tick};
use crate::failpoint;
use crate::graph::{Graph, PARTITIONS};
use crate::intake::now;
use crate::plan::{NodePlan, PipelinePlan, Work};
use crate::tap::Taps;
use crate::telemetry::{ComponentLabels, ComponentMetrics};

/// How long what a loop began may take to end after it: longer, and it is looked after later.
const END: Duration = Duration::from_secs(5);

/// What shall happen at a mark.
pub(super) enum Change {
    /// Save, rebuild, take over the state, go on.
    Swap(Swap),
    /// Flush everything, save, end.
    Remove,
    /// Save, end.
    Stop,
    /// Of a detached sink: save, hand it back to its pipeline, end.
    Hand(oneshot::Sender<Handed>),
    /// Of its pipeline: take it back and save.
    Adopt(Arc<str>, oneshot::Receiver<Handed>),
}

/// What a pipeline becomes.
pub(super) struct Swap {
    pub(super) plan: Arc<PipelinePlan>,
    /// Built before the mark, since building may fail: the sinks that are new or changed.
    pub(super) sinks: HashMap<Arc<str>, BuiltSink>,
}

/// A change that waits for its mark.
pub(super) struct AtMark {
    pub(super) change: Change,
    /// How it went: what people should know (state that was dropped), or why it failed.
    pub(super) reply: oneshot::Sender<Result<Vec<String>, String>>,
}

/// What is said of a change once it is made.
pub(super) struct Answer {
    reply: oneshot::Sender<Result<Vec<String>, String>>,
    result: Result<Vec<String>, String>,
}

impl Answer {
    fn give(self) {
        // Who asked may have stopped waiting.
        let _ = self.reply.send(self.result);
    }
}

/// Changes that wait for their marks, by the ids that these carry. Whoever hands one in takes it
/// back if the mark does not come; `None` once the loop has ended.
pub(super) struct Changes(Mutex<Option<HashMap<u64, AtMark>>>);

impl Changes {
    fn new() -> Self {
        Self(Mutex::new(Some(HashMap::new())))
    }

    /// Hands a change in; whether somebody is there to make it.
    pub(super) fn insert(&self, mark: u64, change: AtMark) -> bool {
        let mut all = self.0.lock();
        all.as_mut().map(|all| all.insert(mark, change)).is_some()
    }

    /// The mark at which it shall stop.
    pub(super) fn stop(&self) -> Option<u64> {
        let all = self.0.lock();
        let mut stops = all.as_ref()?.iter().filter(|(_, c)| matches!(c.change, Change::Stop));
        stops.next().map(|(mark, _)| *mark)
    }

    pub(super) fn take(&self, mark: u64) -> Option<AtMark> {
        self.0.lock().as_mut()?.remove(&mark)
    }

    /// Takes no more; those who wait for answers learn it.
    fn close(&self) {
        drop(self.0.lock().take());
    }
}

/// Sinks of a pipeline that are detached, as its loop knows them: the truth, which checkpoints
/// and what runs follow.
pub(super) type Away = Arc<Mutex<BTreeSet<Arc<str>>>>;

/// Detached sinks that a loop has dropped with its plan, for others to abandon.
pub(super) type Dropped = Arc<Mutex<Vec<Consumer>>>;

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
    /// When that was, UTC nanoseconds.
    pub committed_at: i64,
    /// Why the last checkpoint failed, if it did.
    pub checkpoint_error: Option<String>,
    /// Why the pipeline does not run, if it does not.
    pub failed: Option<String>,
    /// Newest watermark of the sources, UTC nanoseconds.
    pub watermark: i64,
    /// Bytes of journal that cannot be trimmed before it saves.
    pub held_bytes: u64,
    /// Bytes of journal that it is behind by.
    pub behind_bytes: u64,
    /// How many those may be.
    pub backlog_bytes: u64,
    /// Stretches of the journal that were trimmed before they were read: behind the first and up
    /// to the second entry.
    pub skipped: Vec<(u64, u64)>,
}

/// What a pipeline was last asked to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The plan with this hash.
    Plan(String),
    Removal,
}

/// How the loop of a pipeline ended.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    Removed,
    Stopped,
    Failed(String),
}

/// The handle to a running pipeline.
pub(super) struct Running {
    /// The plan in force; the loop changes it when it swaps.
    pub(super) plan: Arc<Mutex<Arc<PipelinePlan>>>,
    pub(super) asked: Mutex<Asked>,
    pub(super) changes: Arc<Changes>,
    pub(super) away: Away,
    pub(super) dropped: Dropped,
    pub(super) progress: Arc<Mutex<Progress>>,
    pub(super) taps: Arc<Taps>,
    pub(super) cancel: CancellationToken,
    pub(super) thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// When its loop began.
    pub(super) began: std::time::Instant,
    ended: Arc<OnceLock<Ended>>,
    /// Its sinks and checkpoints.
    tasks: TaskTracker,
}

impl Running {
    /// How it ended, if it has.
    pub(super) fn ended(&self) -> Option<Ended> {
        self.ended.get().cloned()
    }

    /// Ends it, and waits until its sinks and checkpoints are done too: two of one name would work
    /// on the same files. Whether they are.
    pub(super) async fn gone(&self) -> bool {
        self.cancel.cancel();
        self.tasks.close();
        let done = tokio::time::timeout(END, self.tasks.wait()).await.is_ok();
        if !done {
            tracing::warn!(pipeline = %self.plan.lock().name, "a sink or a checkpoint is still busy");
        }
        done
    }
}

/// Where a pipeline begins. Its hold on the journal is taken.
pub(super) enum Begin {
    /// Fresh, behind this offset.
    After(u64),
    /// From what a checkpoint saved, going on behind `after`: its position, or a later one if the
    /// journal no longer reaches that far back. `careful`: entry by entry up to the head as it is.
    Checkpoint { checkpoint: Box<Checkpoint>, after: u64, careful: bool },
}

/// Builds `plan` and starts its loop. With a checkpoint, first repeats its commits.
///
/// # Errors
/// If a sink cannot be built or does not take back what it carried.
pub(super) async fn start(
    shared: Arc<Shared>,
    consumer: Consumer,
    plan: Arc<PipelinePlan>,
    begin: Begin,
) -> Result<(Running, Vec<String>), String> {
    let taps = Arc::new(Taps::default());
    let cancel = CancellationToken::new();
    let tasks = TaskTracker::new();
    let mut graph = Graph::build(&plan, &shared.graph_telemetry(&consumer), taps.clone());
    let (position, checkpoint, careful) = match begin {
        Begin::After(offset) => (offset, None, false),
        Begin::Checkpoint { checkpoint, after, careful } => (after, Some(*checkpoint), careful),
    };
    let mut notes = Vec::new();
    let mut sinks = HashMap::new();
    // A detached sink reads for itself.
    let away = match &consumer.sink {
        None => shared.checkpoints.detached(&plan.name, checkpoint.as_ref()),
        Some(_) => Ok(BTreeSet::new()),
    };
    let away = away.map_err(|e| e.to_string())?;
    for node in plan.nodes.iter().filter(|n| !away.contains(&n.id)) {
        let Some(sink) = build_sink(&shared, &plan, node)? else { continue };
        let staged = checkpoint.as_ref().and_then(|c| Some((c.position, c.sinks.get(&*node.id)?)));
        let sink = sink.begin(staged, &tasks).await?;
        sinks.insert(node.id.clone(), sink);
    }
    let restored = checkpoint.is_some();
    let mut source_watermark = i64::MIN;
    if let Some(checkpoint) = &checkpoint {
        let left = |id: &str| !sinks.contains_key(id) && !away.contains(id);
        notes.extend(left_behind(checkpoint, left));
        notes.extend(unclaimed(checkpoint, &plan));
        notes.extend(graph.restore(&plan, &checkpoint.states));
        failpoint!("recovery.restored");
        graph.set_now(checkpoint.now);
        source_watermark = checkpoint.watermark;
    } else {
        save_fresh(&shared, &plan, position, sinks.keys()).await?;
    }
    let progress = Arc::new(Mutex::new(Progress {
        position,
        // A checkpoint that was saved before the first tick knows no time.
        received: checkpoint.as_ref().map(|c| c.now).filter(|t| *t > 0).unwrap_or_else(now),
        committed: position,
        watermark: source_watermark,
        ..Progress::default()
    }));
    let shown = Arc::new(Mutex::new(plan.clone()));
    let asked = Mutex::new(Asked::Plan(plan.hash.clone()));
    let name = format!("pipeline-{}", plan.name);
    let changes = Arc::new(Changes::new());
    let away = Arc::new(Mutex::new(away));
    let dropped = Dropped::default();
    let looped = Loop {
        reader: shared.journal.reader(position),
        skipped: shared.poison.skipped(&consumer),
        careful_to: if careful { shared.journal.head() } else { 0 },
        shared: shared.clone(),
        consumer,
        plan,
        shown: shown.clone(),
        graph,
        sinks,
        away: away.clone(),
        dropped: dropped.clone(),
        adopted: None,
        tasks: tasks.clone(),
        position,
        tick: Tick {
            time: checkpoint.as_ref().map_or(0, |c| c.now),
            watermark: source_watermark,
            ..Tick::default()
        },
        changes: changes.clone(),
        checkpointing: None,
        bytes_since: 0,
        due_at: None,
        replays_to: if restored { shared.journal.head() } else { 0 },
        saved: tokio::time::Instant::now(),
        stops_since: None,
        not_before: 0,
        in_vain: 0,
        progress: progress.clone(),
        cancel: cancel.clone(),
        taps: taps.clone(),
    };
    let ended = Arc::new(OnceLock::new());
    let thread = spawn(name, looped, shared, ended.clone())?;
    let thread = Mutex::new(Some(thread));
    let running = Running {
        plan: shown,
        asked,
        changes,
        away,
        dropped,
        progress,
        taps,
        cancel,
        thread,
        began: std::time::Instant::now(),
        ended,
        tasks,
    };
    Ok((running, notes))
}

/// Runs the loop on a thread of its own; however it ends, that is said.
fn spawn(
    name: String,
    looped: Loop,
    shared: Arc<Shared>,
    ended: Arc<OnceLock<Ended>>,
) -> Result<std::thread::JoinHandle<()>, String> {
    let runtime = tokio::runtime::Handle::current();
    let (progress, cancel) = (looped.progress.clone(), looped.cancel.clone());
    let changes = looped.changes.clone();
    let run = move || {
        let run = AssertUnwindSafe(looped.supervised()).catch_unwind();
        let end = runtime.block_on(run).unwrap_or_else(|_| {
            End::Failed("its loop failed, which is a defect of Weir; the log has more".to_owned())
        });
        let mut answer = None;
        let end = match end {
            End::Asked(ended, last) => {
                answer = Some(last);
                ended
            }
            End::Stopped | End::Cancelled => Ended::Stopped,
            End::Failed(why) => {
                cancel.cancel();
                progress.lock().failed = Some(why.clone());
                Ended::Failed(why)
            }
        };
        // Set once, here.
        let _ = ended.set(end);
        changes.close();
        // Whoever hears it finds the pipeline ended.
        if let Some(answer) = answer {
            answer.give();
        }
        shared.ended.notify_one();
    };
    std::thread::Builder::new()
        .name(name)
        .spawn(run)
        .map_err(|e| format!("no thread for the pipeline: {e}"))
}

/// Staged work and carried rows of sinks that the plan does not have: only the plan of the
/// checkpoint could commit them.
pub(super) fn left_behind(checkpoint: &Checkpoint, missing: impl Fn(&str) -> bool) -> Vec<String> {
    let holds = |s: &Staged| !s.work.is_empty() || !s.carry.is_empty();
    let left = checkpoint.sinks.iter().filter(|(id, s)| missing(id) && holds(s));
    left.map(|(id, s)| {
        format!(
            "what sink `{id}` had staged ({} bytes) and carried ({} bytes) at entry {} is dropped: \
             the plan that can be built has no such sink",
            s.work.len(),
            s.carry.len(),
            checkpoint.position
        )
    })
    .collect()
}

/// States that no node of the plan takes over, though nobody has said what they hold: the plan is not
/// that of the checkpoint.
pub(super) fn unclaimed(checkpoint: &Checkpoint, plan: &PipelinePlan) -> Vec<String> {
    let claims = |id: &str| {
        id == PARTITIONS || plan.nodes.iter().any(|n| *n.id == *id || n.was.as_deref() == Some(id))
    };
    // A removed one has said all; a detached sink carries what is above other sinks.
    let whole = !checkpoint.removed && checkpoint.detached.is_none();
    let states = checkpoint.states.iter().filter(|(id, _)| whole && !claims(id));
    states
        .map(|(id, state)| {
            format!(
                "the state of `{id}` is dropped ({} bytes): the plan that can be built has no such \
                 operator",
                state.bytes.len()
            )
        })
        .collect()
}

/// A pipeline that starts without a checkpoint saves one at once: a crash must not make it start
/// anywhere else.
async fn save_fresh(
    shared: &Arc<Shared>,
    plan: &Arc<PipelinePlan>,
    position: u64,
    sinks: impl Iterator<Item = &Arc<str>>,
) -> Result<(), String> {
    let checkpoint = Checkpoint {
        pipeline: plan.name.to_string(),
        plan: plan.hash.clone(),
        journal: shared.journal.id(),
        position,
        watermark: i64::MIN,
        sinks: sinks.map(|id| (id.to_string(), Staged::default())).collect(),
        ..Checkpoint::default()
    };
    save::save(shared.clone(), plan.clone(), checkpoint).await.map(drop)
}

/// A sink that is built and does not work yet.
pub(super) struct BuiltSink {
    sink: Box<dyn Sink>,
    metrics: Arc<ComponentMetrics>,
    /// For errors.
    name: String,
}

/// Builds `node` if it is a sink.
pub(super) fn build_sink(
    shared: &Shared,
    plan: &PipelinePlan,
    node: &NodePlan,
) -> Result<Option<BuiltSink>, String> {
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
    let name = format!("sink `{}` of pipeline `{}`", node.id, plan.name);
    let sink = sink_plan.build(context).map_err(|e| format!("{name}: {e}"))?;
    Ok(Some(BuiltSink { sink, metrics, name }))
}

impl BuiltSink {
    /// Commits the work staged at a position, takes back what was carried, starts its task.
    pub(super) async fn begin(
        mut self,
        staged: Option<(u64, &Staged)>,
        tasks: &TaskTracker,
    ) -> Result<SinkHandle, String> {
        self.restore(staged).await?;
        Ok(SinkHandle::start(self.sink, self.metrics, tasks))
    }

    /// Commits the work staged at `position` and what was carried, for a sink that nobody goes on
    /// with.
    pub(super) async fn settle(mut self, position: u64, staged: &Staged) -> Result<(), String> {
        self.restore(Some((position, staged))).await?;
        // Above the commit that may have been made at `position`.
        let mark = position + 1;
        let failed = |e| format!("{}: {e}", self.name);
        let last = self.sink.stage(mark, true).await.map_err(failed)?;
        if !last.work.is_empty() {
            self.sink.commit(mark, &last.work).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Commits the work staged at a position and takes back what was carried.
    pub(super) async fn restore(&mut self, staged: Option<(u64, &Staged)>) -> Result<(), String> {
        if let Some((mark, staged)) = staged.filter(|(_, s)| !s.work.is_empty()) {
            let done = self.sink.commit(mark, &staged.work).await;
            done.map_err(|e| format!("{}: {e}", self.name))?;
            failpoint!("recovery.committed");
        }
        // Also without anything to carry: what an earlier run left staged and no checkpoint names
        // is the sink's to sweep.
        let carry = staged.map_or(&[][..], |(_, s)| &s.carry);
        self.sink.restore(carry).await.map_err(|e| format!("{}: {e}", self.name))
    }
}

/// Receive time that the pipeline is behind `head`, nanoseconds.
pub(super) fn lag(progress: &Progress, head: u64) -> i64 {
    if progress.position >= head { 0 } else { (now() - progress.received).max(0) }
}
