//! What runs: sources, pipelines, ticks, and the one way in which any of it changes.
//!
//! [`Runtime::start`] recovers every pipeline from its checkpoint with the plan that the
//! checkpoint names, then moves to the present files by the same reload that later edits take.

mod bring_up;
mod decide;
mod decoders;
mod detached;
mod gaps;
mod holds;
mod lookups;
mod pipeline;
mod plan;
mod poison;
mod pressure;
mod recovery;
mod reload;
mod replay;
mod sink;
mod sources;
mod supervise;
mod swap;
mod ticker;
mod waiting;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::decide::Present;
pub use self::decide::{NodeChange, NodeState, Shapes, SourceFate, Turn};
use self::decoders::Decoders;
pub use self::gaps::Gap;
use self::gaps::Gaps;
use self::holds::Holds;
use self::lookups::Readings;
pub use self::pipeline::Progress;
use self::pipeline::{Asked, Change, Running};
pub use self::plan::{Change as PlannedChange, LookupChange, PipelineChange, Planned};
use self::poison::Poison;
pub use self::reload::{FileOutcome, Outcome};
pub use self::replay::{ReplayError, Replaying};
use self::sources::Sources;
pub use self::sources::{SourceChange, SourceStatus};
use self::supervise::Down;
use self::ticker::Ticker;
use self::waiting::Waiting;
use crate::admission::{Gate, Held};
use crate::checkpoint::{Checkpoints, Consumer};
use crate::component::{Components, Services};
use crate::config::Environment;
use crate::journal::Journal;
use crate::lookup::Tables;
use crate::memory::{Entities, Parts, Rows};
use crate::plan::{LookupDefinition, PipelinePlan};
use crate::tap::TapReader;
use crate::telemetry::Telemetry;

/// What a runtime works with.
pub struct Options {
    /// The data folder.
    pub data: PathBuf,
    /// The folder of pipeline files.
    pub pipelines: PathBuf,
    /// Whether a change of the files is a reload.
    pub watch: bool,
    /// What pipeline files can name.
    pub components: Components,
    /// What sinks can ask for.
    pub services: Services,
    /// Environment variables.
    pub environment: Environment,
    /// Where everything counts.
    pub telemetry: Arc<Telemetry>,
    /// The journal, opened above [`Checkpoints::highest_position`].
    pub journal: Journal,
    /// The checkpoints.
    pub checkpoints: Checkpoints,
    /// What the process may take.
    pub memory: Parts,
    /// Where rows in memory are counted.
    pub rows: Arc<Rows>,
}

/// What every pipeline shares.
pub(crate) struct Shared {
    pub(crate) journal: Journal,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) services: Services,
    decoders: Arc<Decoders>,
    holds: Holds,
    poison: Poison,
    gaps: Gaps,
    gate: Arc<Gate>,
    rows: Arc<Rows>,
    /// Told when the loop of a pipeline ended.
    ended: Notify,
}

impl Shared {
    /// Where the operators of a consumer count: those above a detached sink do what their
    /// pipeline has counted already.
    fn graph_telemetry(&self, who: &Consumer) -> Arc<Telemetry> {
        match who.sink {
            None => self.telemetry.clone(),
            Some(_) => Arc::default(),
        }
    }
}

/// Everything that runs.
pub struct Runtime {
    options: RuntimeOptions,
    shared: Arc<Shared>,
    sources: Sources,
    ticker: Ticker,
    /// Pipelines, and sinks that are detached from theirs.
    running: Mutex<BTreeMap<Consumer, Arc<Running>>>,
    down: Mutex<BTreeMap<Consumer, Down>>,
    /// One reload at a time; holds what the last one knew.
    reloading: tokio::sync::Mutex<reload::Known>,
    outcome: tokio::sync::watch::Sender<Outcome>,
    next_mark: AtomicU64,
    /// A place for each replay.
    replays: Arc<tokio::sync::Semaphore>,
    /// Whether the sources have been started.
    taking: tokio::sync::watch::Sender<bool>,
    ready: AtomicBool,
    stop: CancellationToken,
    /// Lookup tables of all files, those that are left out for want of them too.
    definitions: Mutex<Vec<Arc<LookupDefinition>>>,
    readings: Arc<Readings>,
    /// Pipelines that wait for a lookup table.
    waiting: Waiting,
}

struct RuntimeOptions {
    data: PathBuf,
    pipelines: PathBuf,
    components: Components,
    environment: Environment,
    tables: Tables,
    memory: Parts,
}

/// A pipeline as the status shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PipelineStatus {
    /// Name.
    pub name: String,
    /// File.
    pub file: String,
    /// `running`, `behind` or `down` (tried again by itself).
    pub state: &'static str,
    /// Receive time behind the head of the journal, nanoseconds.
    pub lag_ns: i64,
    /// Hash of the running plan.
    pub hash: String,
    /// Positions, errors.
    #[serde(flatten)]
    pub progress: Progress,
    /// The graph: node ids with type, class and inputs, in topological order.
    pub nodes: Vec<NodeStatus>,
    /// Sinks that did not get on and read for themselves until they have caught up.
    pub detached: Vec<DetachedStatus>,
}

/// A detached sink as the status shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DetachedStatus {
    /// Its id.
    pub sink: String,
    /// Receive time behind the head of the journal, nanoseconds.
    pub lag_ns: i64,
    /// Positions, errors, what it skipped.
    #[serde(flatten)]
    pub progress: Progress,
}

/// A node as the status shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct NodeStatus {
    /// Id.
    pub id: String,
    /// `type`.
    pub kind: &'static str,
    /// `operator`, `alert`, `sink`.
    pub class: &'static str,
    /// `id.output` of what it reads.
    pub inputs: Vec<String>,
    /// File and line of its definition.
    pub place: String,
}

/// Of the time for a stop, the part that a reload under way may take to end.
const RELOAD_SHARE: u32 = 8;
/// How long a start waits, once data is taken, for pipelines that change.
const FIRST_RELOAD: Duration = Duration::from_millis(500);
/// How long the journal may take to close.
const CLOSE: Duration = Duration::from_secs(1);
/// Behind by more than this a pipeline counts as behind, nanoseconds.
const BEHIND_NS: i64 = 5_000_000_000;

impl Runtime {
    /// Recovers, starts, and moves to the present files. Also with broken files it starts: what
    /// they said last goes on, see [`Runtime::outcome`].
    ///
    /// # Errors
    /// Only if the data folder cannot be read or written.
    pub async fn start(options: Options) -> std::io::Result<Arc<Self>> {
        let Options {
            data,
            pipelines,
            watch,
            components,
            services,
            environment,
            telemetry,
            journal,
            checkpoints,
            memory,
            rows,
        } = options;
        let tables = Tables::open(&data)?;
        let entities = Entities::new(memory.entities);
        let decoders = Arc::new(Decoders::new(journal.clone(), components, entities));
        let gate = Arc::new(Gate::new(memory.requests));
        let shared = Arc::new(Shared {
            journal: journal.clone(),
            checkpoints,
            telemetry: telemetry.clone(),
            services,
            decoders: decoders.clone(),
            holds: Holds::new(journal.clone()),
            gate: gate.clone(),
            rows,
            poison: Poison::open(&data, journal.oldest())?,
            gaps: Gaps::open(&data, crate::intake::now())?,
            ended: Notify::new(),
        });
        let waiting = Waiting::open(&data, &shared)?;
        let runtime = Arc::new(Self {
            readings: Readings::new(tables.clone(), shared.clone()),
            waiting,
            sources: Sources::new(journal.clone(), gate, telemetry, decoders),
            ticker: Ticker::new(journal),
            options: RuntimeOptions { data, pipelines, components, environment, tables, memory },
            shared,
            running: Mutex::default(),
            down: Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
            outcome: tokio::sync::watch::Sender::default(),
            // Marks of earlier runs are still in the journal: an id must never match one of them.
            next_mark: AtomicU64::new(crate::intake::now().unsigned_abs()),
            replays: replay::places(),
            taking: tokio::sync::watch::Sender::default(),
            ready: AtomicBool::new(false),
            stop: CancellationToken::new(),
            definitions: Mutex::default(),
        });
        runtime.recover().await?;
        let ticking = runtime.clone();
        tokio::spawn(async move { ticking.ticker.run(ticking.stop.clone()).await });
        runtime.first_reload().await;
        runtime.ready.store(true, Relaxed);
        if watch {
            tokio::spawn(watch::run(runtime.clone()));
        }
        tokio::spawn(lookups::read(runtime.clone()));
        tokio::spawn(lookups::apply(runtime.clone()));
        tokio::spawn(supervise::run(runtime.clone()));
        tokio::spawn(pressure::run(runtime.clone()));
        Ok(runtime)
    }

    /// Whether start-up is over: sources take data, and the present files are live but for
    /// pipelines that have much to replay.
    pub fn ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// Moves to the present files. Whoever has far to go to the mark does that later: data is taken
    /// and questions are answered meanwhile.
    async fn first_reload(self: &Arc<Self>) {
        let mut taking = self.taking.subscribe();
        let runtime = self.clone();
        let mut reload = tokio::spawn(async move { runtime.reload().await });
        let enough = async {
            let _ = taking.wait_for(|taking| *taking).await;
            tokio::time::sleep(FIRST_RELOAD).await;
        };
        tokio::select! {
            _ = &mut reload => {}
            () = enough => tracing::info!("a pipeline replays the journal, and changes to its present file later"),
        }
    }

    /// Pipelines that are behind by what people would notice, and by how much, nanoseconds.
    pub fn behind(&self) -> Vec<(Arc<str>, i64)> {
        let head = self.shared.journal.head();
        let running = self.running.lock();
        let whole = running.iter().filter(|(who, _)| who.sink.is_none());
        let behind = whole.filter_map(|(who, r)| {
            let progress = r.progress.lock();
            let lag = pipeline::lag(&progress, head);
            let behind = progress.failed.is_none() && lag > BEHIND_NS;
            behind.then(|| (who.pipeline.clone(), lag))
        });
        behind.collect()
    }

    /// Stretches of the journal that were needed and are gone, of the last week.
    pub fn gaps(&self) -> Vec<Gap> {
        self.shared.gaps.all()
    }

    /// Entries that pipelines skip because they died at them, as long as the journal has them.
    pub fn skipped(&self) -> Vec<(Arc<str>, u64)> {
        let oldest = self.shared.journal.oldest();
        let all = self.shared.poison.all_skipped().into_iter();
        all.filter(|(_, offset)| *offset >= oldest).collect()
    }

    /// The counters of everything.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.shared.telemetry
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.shared.journal
    }

    /// How the last reload went.
    pub fn outcome(&self) -> Outcome {
        self.outcome.borrow().clone()
    }

    /// Changes after every reload.
    pub fn outcomes(&self) -> tokio::sync::watch::Receiver<Outcome> {
        self.outcome.subscribe()
    }

    /// Sources that take nothing now, and why.
    pub fn refusing(&self) -> Vec<(Arc<str>, Held)> {
        self.shared.gate.held()
    }

    /// Running sources.
    pub fn sources(&self) -> Vec<SourceStatus> {
        self.sources.status()
    }

    /// Pipelines that run or should.
    pub fn pipelines(&self) -> Vec<PipelineStatus> {
        let head = self.shared.journal.head();
        let running = self.running.lock().clone();
        let mut all: BTreeMap<Consumer, PipelineStatus> =
            running.iter().map(|(who, r)| (who.clone(), r.status(head))).collect();
        for (who, down) in &*self.down.lock() {
            all.entry(who.clone()).or_insert_with(|| down.status(&who.pipeline));
        }
        for gap in self.shared.gaps.all() {
            let who = Consumer { pipeline: gap.pipeline, sink: gap.sink };
            if let Some(status) = all.get_mut(&who) {
                status.progress.skipped.push((gap.after, gap.to));
            }
        }
        let (detached, mut whole): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.into_iter().partition(|(who, _)| who.sink.is_some());
        for (Consumer { pipeline, sink }, status) in detached {
            let whole = whole.get_mut(&Consumer { pipeline, sink: None });
            if let (Some(whole), Some(sink)) = (whole, sink) {
                whole.detached.push(DetachedStatus {
                    sink: sink.to_string(),
                    lag_ns: status.lag_ns,
                    progress: status.progress,
                });
            }
        }
        whole.into_values().collect()
    }

    /// Opens a tap on an edge: `node` is an operator, alert or source id, `output` its output.
    ///
    /// # Errors
    /// If there is no such pipeline or node, or too many taps are open.
    pub fn tap(&self, pipeline: &str, node: &str, output: &str) -> Result<TapReader, String> {
        let running = self.running.lock().get(&Consumer::pipeline(pipeline)).cloned();
        let running = running.ok_or_else(|| format!("no pipeline: `{pipeline}`"))?;
        let plan = running.plan.lock().clone();
        let known = plan.nodes.iter().any(|n| *n.id == *node)
            || plan.nodes.iter().flat_map(|n| &n.inputs).any(|i| i.is_source(node));
        if !known {
            return Err(format!("pipeline `{pipeline}` has no node `{node}`"));
        }
        running.taps.open(node, output).ok_or_else(|| "too many taps are open".to_owned())
    }

    /// Updates the gauges that are read, not counted.
    pub fn observe(&self) {
        let telemetry = &self.shared.telemetry;
        let head = self.shared.journal.head();
        telemetry.gauge("weir_journal_head", "Offset of the newest durable entry", head as f64);
        let bytes = self.shared.journal.bytes() as f64;
        telemetry.gauge("weir_journal_bytes", "Size of the journal on disk", bytes);
        let forgotten = self.shared.journal.repeats_forgotten() as f64;
        let help = "Requests forgotten before five minutes: a repetition would be taken twice";
        telemetry.gauge("weir_journal_repeats_forgotten", help, forgotten);
        for p in self.pipelines() {
            let name = |metric: &str| format!("{metric}{{pipeline=\"{}\"}}", escape(&p.name));
            let lag = p.lag_ns as f64 / 1e9;
            telemetry.gauge(&name("weir_pipeline_lag_seconds"), "Behind the journal's head", lag);
            let up = f64::from(u8::from(p.progress.failed.is_none()));
            telemetry.gauge(&name("weir_pipeline_up"), "Whether the pipeline runs", up);
            let generation = f64::from(p.progress.generation);
            telemetry.gauge(&name("weir_pipeline_generation"), "Times rebuilt", generation);
        }
    }

    /// Stops: no more data is taken in, every pipeline saves a checkpoint, the journal closes.
    /// What is not done by `deadline` is left to the next start's recovery.
    pub async fn stop(&self, deadline: Duration) {
        let stopping = async {
            // A reload ends within seconds; what it began the next start completes.
            let _reload =
                tokio::time::timeout(deadline / RELOAD_SHARE, self.reloading.lock()).await;
            self.sources.stop().await;
            self.stop.cancel();
            // A detached sink has its checkpoint; nobody waits for it.
            let all = self.running.lock().clone().into_iter();
            let whole = all.filter(|(who, _)| who.sink.is_none());
            let stops = whole.map(|(who, r)| (who, r, Change::Stop)).collect();
            match self.mark(stops).await {
                Err(why) => tracing::warn!(error = why, "stopped without checkpoints"),
                Ok(mark) => {
                    for (who, result) in self.answers(mark, deadline).await {
                        if let Err(why) = result {
                            tracing::warn!(pipeline = %who.pipeline, error = why, "stopped without a checkpoint");
                        }
                    }
                }
            }
        };
        if tokio::time::timeout(deadline, stopping).await.is_err() {
            tracing::warn!("not everything stopped in time; the next start recovers the rest");
        }
        self.stop.cancel();
        let all = std::mem::take(&mut *self.running.lock());
        for running in all.values() {
            running.cancel.cancel();
        }
        let threads: Vec<_> = all.values().filter_map(|r| r.thread.lock().take()).collect();
        let join = tokio::task::spawn_blocking(|| threads.into_iter().for_each(|t| drop(t.join())));
        if tokio::time::timeout(CLOSE, join).await.is_err() {
            tracing::warn!("a pipeline is still busy");
        }
        self.shared.poison.stopped();
        if tokio::time::timeout(CLOSE, self.shared.journal.close()).await.is_err() {
            tracing::warn!("the journal is still busy; the next start skips some offsets");
        }
    }

    fn insert(&self, who: Consumer, running: Running) {
        self.running.lock().insert(who, Arc::new(running));
    }

    fn next_mark(&self) -> u64 {
        self.next_mark.fetch_add(1, Relaxed)
    }
}

impl Down {
    fn status(&self, name: &str) -> PipelineStatus {
        let progress = Progress { failed: Some(self.why.clone()), ..Progress::default() };
        let plan = self.plan.as_deref();
        PipelineStatus {
            name: name.to_owned(),
            file: plan.map(|p| p.path.display().to_string()).unwrap_or_default(),
            state: "down",
            lag_ns: 0,
            hash: plan.map(|p| p.hash.clone()).unwrap_or_default(),
            progress,
            nodes: plan.map(nodes).unwrap_or_default(),
            detached: Vec::new(),
        }
    }
}

impl Running {
    /// Whether it is what it was last asked to become.
    fn is_as_asked(&self) -> bool {
        *self.asked.lock() == Asked::Plan(self.plan.lock().hash.clone())
    }

    fn present(&self) -> Present {
        Present { plan: self.plan.lock().clone(), asked: self.asked.lock().clone() }
    }

    fn status(&self, head: u64) -> PipelineStatus {
        let plan = self.plan.lock().clone();
        let progress = self.progress.lock().clone();
        let lag_ns = pipeline::lag(&progress, head);
        let state = match (&progress.failed, lag_ns > BEHIND_NS) {
            (Some(_), _) => "down",
            (None, true) => "behind",
            (None, false) => "running",
        };
        PipelineStatus {
            name: plan.name.to_string(),
            file: plan.path.display().to_string(),
            state,
            lag_ns,
            hash: plan.hash.clone(),
            progress,
            nodes: nodes(&plan),
            detached: Vec::new(),
        }
    }
}

fn nodes(plan: &PipelinePlan) -> Vec<NodeStatus> {
    let input = |i: &crate::plan::InputPlan| i.to_text(plan);
    plan.nodes
        .iter()
        .map(|n| NodeStatus {
            id: n.id.to_string(),
            kind: n.kind,
            class: n.work.class(),
            inputs: n.inputs.iter().map(input).collect(),
            place: {
                let (line, _) = n.header.line_column();
                format!("{}:{line}", n.header.file.path.display())
            },
        })
        .collect()
}

/// A label value in the Prometheus text format.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
