//! What runs: sources, pipelines, ticks, and the one way in which any of it changes.
//!
//! [`Runtime::start`] recovers every pipeline from its checkpoint with the plan that the
//! checkpoint names, then moves to the present files by the same reload that later edits take.

mod decoders;
mod pipeline;
mod recovery;
mod reload;
mod sink;
mod sources;
mod ticker;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use self::decoders::Decoders;
pub use self::pipeline::Progress;
use self::pipeline::{AtMark, Change, Running};
pub use self::reload::{FileOutcome, Outcome};
pub use self::sources::SourceStatus;
use self::sources::Sources;
use self::ticker::Ticker;
use crate::checkpoint::Checkpoints;
use crate::component::{Components, Services};
use crate::config::Environment;
use crate::journal::Journal;
use crate::plan::PipelinePlan;
use crate::tap::TapReader;
use crate::telemetry::Telemetry;

/// What a runtime works with.
pub struct Options {
    /// The data folder.
    pub data: PathBuf,
    /// The folder of pipeline files.
    pub pipelines: PathBuf,
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
}

/// What every pipeline shares.
pub(crate) struct Shared {
    pub(crate) journal: Journal,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) services: Services,
    decoders: Arc<Decoders>,
    /// Names of the pipelines that hold the journal.
    holding: Mutex<Vec<Arc<str>>>,
}

impl Shared {
    /// Lets the journal go up to the older checkpoint of the slowest pipeline.
    fn trim(&self) {
        let holding = self.holding.lock().clone();
        let mut keep = self.journal.head();
        for name in holding {
            match self.checkpoints.oldest_position(&name) {
                Ok(Some(position)) => keep = keep.min(position),
                // Nothing is known of it yet: nothing may go.
                Ok(None) | Err(_) => return,
            }
        }
        self.journal.trim(keep + 1);
    }
}

/// Everything that runs.
pub struct Runtime {
    options: RuntimeOptions,
    shared: Arc<Shared>,
    sources: Sources,
    ticker: Ticker,
    pipelines: Mutex<BTreeMap<Arc<str>, Arc<Running>>>,
    /// One reload at a time; holds what the last one knew.
    reloading: tokio::sync::Mutex<reload::Known>,
    outcome: tokio::sync::watch::Sender<Outcome>,
    next_mark: AtomicU64,
    ready: AtomicBool,
    stop: CancellationToken,
}

struct RuntimeOptions {
    data: PathBuf,
    pipelines: PathBuf,
    components: Components,
    environment: Environment,
}

/// A pipeline as the status shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PipelineStatus {
    /// Name.
    pub name: String,
    /// File.
    pub file: String,
    /// `running`, `behind` or `failed`.
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

/// How long a pipeline may take to reach a mark and save.
const MARK_DEADLINE: Duration = Duration::from_secs(8);
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
            data, pipelines, components, services, environment, telemetry, journal, ..
        } = options;
        let checkpoints = options.checkpoints;
        let decoders = Arc::new(Decoders::new(journal.clone(), components));
        let shared = Arc::new(Shared {
            journal: journal.clone(),
            checkpoints,
            telemetry: telemetry.clone(),
            services,
            decoders: decoders.clone(),
            holding: Mutex::default(),
        });
        let runtime = Arc::new(Self {
            sources: Sources::new(journal.clone(), telemetry, decoders),
            ticker: Ticker::new(journal),
            options: RuntimeOptions { data, pipelines, components, environment },
            shared,
            pipelines: Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
            outcome: tokio::sync::watch::Sender::default(),
            // Marks of earlier runs are still in the journal: an id must never match one of them.
            next_mark: AtomicU64::new(crate::intake::now().unsigned_abs()),
            ready: AtomicBool::new(false),
            stop: CancellationToken::new(),
        });
        runtime.recover().await?;
        let ticking = runtime.clone();
        tokio::spawn(async move { ticking.ticker.run(ticking.stop.clone()).await });
        runtime.reload().await;
        runtime.ready.store(true, Relaxed);
        tokio::spawn(watch::run(runtime.clone()));
        Ok(runtime)
    }

    /// Whether start-up is over: recovered, present files live.
    pub fn ready(&self) -> bool {
        self.ready.load(Relaxed)
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

    /// Running sources.
    pub fn sources(&self) -> Vec<SourceStatus> {
        self.sources.status()
    }

    /// Running pipelines.
    pub fn pipelines(&self) -> Vec<PipelineStatus> {
        let head = self.shared.journal.head();
        let running = self.pipelines.lock().clone();
        running.values().map(|r| r.status(head)).collect()
    }

    /// Opens a tap on an edge: `node` is an operator, alert or source id, `output` its output.
    ///
    /// # Errors
    /// If there is no such pipeline or node, or too many taps are open.
    pub fn tap(&self, pipeline: &str, node: &str, output: &str) -> Result<TapReader, String> {
        let running = self.pipelines.lock().get(pipeline).cloned();
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
            let _reload = self.reloading.lock().await;
            self.sources.stop().await;
            self.stop.cancel();
            let all: Vec<_> = self.pipelines.lock().values().cloned().collect();
            let stops = all.iter().map(|p| (p.clone(), Change::Stop)).collect();
            for (name, result) in self.at_mark(stops, deadline).await {
                if let Err(why) = result {
                    tracing::warn!(pipeline = %name, error = why, "stopped without a checkpoint");
                }
            }
        };
        if tokio::time::timeout(deadline, stopping).await.is_err() {
            tracing::warn!("not everything stopped in time; the next start recovers the rest");
        }
        self.stop.cancel();
        let all = std::mem::take(&mut *self.pipelines.lock());
        for running in all.values() {
            running.cancel.cancel();
        }
        let threads: Vec<_> = all.values().filter_map(|r| r.thread.lock().take()).collect();
        let join = tokio::task::spawn_blocking(|| threads.into_iter().for_each(|t| drop(t.join())));
        if tokio::time::timeout(Duration::from_secs(1), join).await.is_err() {
            tracing::warn!("a pipeline is still busy");
        }
        self.shared.journal.close().await;
    }

    /// Appends one mark at which `changes` happen, and waits for their outcome.
    async fn at_mark(
        &self,
        changes: Vec<(Arc<Running>, Change)>,
        deadline: Duration,
    ) -> Vec<(Arc<str>, Result<Vec<String>, String>)> {
        if changes.is_empty() {
            return Vec::new();
        }
        let mark = self.next_mark.fetch_add(1, Relaxed);
        let mut answers = Vec::new();
        for (running, change) in changes {
            let name = running.plan.lock().name.clone();
            let (reply, answer) = tokio::sync::oneshot::channel();
            let sent = running.changes.try_send(AtMark { mark, change, reply });
            answers.push((name, sent.is_ok().then_some(answer)));
        }
        let appended = self.ticker.mark(mark).await;
        let limit = tokio::time::Instant::now() + deadline;
        let mut results = Vec::new();
        for (name, answer) in answers {
            let result = match (&appended, answer) {
                (Err(e), _) => Err(format!("no mark could be appended: {e}")),
                (_, None) => Err("the pipeline does not run".to_owned()),
                (Ok(_), Some(answer)) => match tokio::time::timeout_at(limit, answer).await {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) => Err("the pipeline ended".to_owned()),
                    Err(_) => Err(format!(
                        "the pipeline did not reach the mark within {} s; it goes on with what it \
                         had until it does",
                        deadline.as_secs()
                    )),
                },
            };
            results.push((name, result));
        }
        results
    }
}

impl Running {
    fn status(&self, head: u64) -> PipelineStatus {
        let plan = self.plan.lock().clone();
        let progress = self.progress.lock().clone();
        let lag_ns = pipeline::lag(&progress, head);
        let state = match (&progress.failed, lag_ns > BEHIND_NS) {
            (Some(_), _) => "failed",
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
