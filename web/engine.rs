//! What the API asks of whatever runs. The program implements it; this crate knows no runtime.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use weir_pipeline::lookup::LookupStatus;
use weir_pipeline::replay::{Progress, Report, Request};
use weir_pipeline::telemetry::ComponentReading;

/// What runs, as the API sees it.
pub trait Engine: Send + Sync {
    /// Everything that `weir status` shows.
    fn status(&self) -> BoxFuture<'_, Status>;
    /// Running pipelines, by name.
    fn pipelines(&self) -> BoxFuture<'_, Vec<PipelineReport>>;
    /// Rows of an edge as they flow: `node` is an operator, alert or source id, `output` the name
    /// of its output, "" for the main one.
    fn tap(
        &self,
        pipeline: &str,
        node: &str,
        output: &str,
    ) -> BoxFuture<'_, Result<Tap, EngineError>>;
    /// Brings what runs in line with the files. A file with a mistake is no error: the report
    /// says so.
    fn reload(&self) -> BoxFuture<'_, Result<ReloadReport, EngineError>>;
    /// Runs retained journal through other plans beside those that are live.
    fn replay(&self, request: Request) -> BoxFuture<'_, Result<Replay, EngineError>>;
    /// What a reload would do now, as JSON; changes nothing.
    fn plan(&self) -> BoxFuture<'_, Result<serde_json::Value, EngineError>>;
    /// Pipelines whose newest rows are not in their tables yet, as queries are told.
    fn behind(&self) -> Vec<String>;
    /// `Err` says what is not up yet.
    fn ready(&self) -> Result<(), String>;
    /// Alert instances and the newest notifications, as JSON: `{"alerts": [..],
    /// "notifications": [..]}`.
    fn alerts(&self) -> BoxFuture<'_, serde_json::Value>;
    /// Sends a test page; gives what came of it, target by target.
    fn notify(&self, receiver: &str) -> BoxFuture<'_, Result<serde_json::Value, EngineError>>;
    /// Prometheus text format.
    fn metrics(&self) -> String;
}

/// Why something that was asked for could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// There is nothing of that name; says which names there are.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be asked for like this.
    #[error("{0}")]
    Invalid(String),
    /// Too much of it is under way.
    #[error("{0}")]
    Busy(String),
    /// As many of it as may are under way: one of them has to end.
    #[error("{0}")]
    TooMany(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

/// The reading end of a tap.
pub struct Tap {
    /// Wide batches in order; closing it closes the tap.
    pub batches: mpsc::Receiver<RecordBatch>,
    /// Rows left out so far because the reader was slow.
    pub missed: Arc<AtomicU64>,
}

/// A replay under way. It ends when `report` is dropped.
pub struct Replay {
    /// How far it has come.
    pub progress: watch::Receiver<Progress>,
    /// What comes of it.
    pub report: BoxFuture<'static, Result<Report, EngineError>>,
}

/// Everything that `weir status` shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// Of Weir.
    pub version: String,
    /// When it started, UTC nanoseconds.
    pub started: i64,
    /// Now, UTC nanoseconds.
    pub time: i64,
    /// Whether start-up is over.
    pub ready: bool,
    /// How the last reload went.
    pub reload: ReloadReport,
    /// Running sources.
    pub sources: Vec<SourceReport>,
    /// Running pipelines.
    pub pipelines: Vec<PipelineReport>,
    /// Counters of every component.
    pub components: Vec<ComponentReport>,
    /// Lookup tables.
    pub lookups: Vec<LookupStatus>,
    /// As [`Engine::alerts`].
    pub alerts: serde_json::Value,
    /// The journal.
    pub journal: JournalReport,
    /// What needs somebody's attention, one line each.
    pub problems: Vec<String>,
}

/// The journal in numbers.
#[derive(Clone, Debug, Default, Serialize)]
pub struct JournalReport {
    /// Newest offset on disk.
    pub head: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// A running source.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SourceReport {
    /// Id.
    pub id: String,
    /// `type`.
    pub kind: String,
    /// Generation of its settings.
    pub generation: u32,
    /// Addresses it listens on, as bound; an address that could not be bound says why.
    pub listens: Vec<String>,
    /// Whether its task runs.
    pub running: bool,
    /// File and line of its definition.
    pub place: String,
}

/// A running pipeline.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PipelineReport {
    /// Name.
    pub name: String,
    /// File.
    pub file: String,
    /// `running`, `behind` or `down`.
    pub state: String,
    /// Times that it was rebuilt.
    pub generation: u32,
    /// Hash of the running plan.
    pub hash: String,
    /// Offset of the last journal entry taken in.
    pub position: u64,
    /// Position of the last checkpoint whose work is committed.
    pub committed: u64,
    /// Receive time behind the head of the journal, nanoseconds.
    pub lag_ns: i64,
    /// Event time up to which it is complete, UTC nanoseconds.
    pub watermark: i64,
    /// Bytes of journal that it is behind by.
    pub behind_bytes: u64,
    /// How many those may be.
    pub backlog_bytes: u64,
    /// Stretches of the journal that it skipped past its backlog: behind the first and up to the
    /// second offset.
    pub skipped: Vec<(u64, u64)>,
    /// Why it does not run, or why its last checkpoint failed.
    pub errors: Vec<String>,
    /// The graph, in topological order.
    pub nodes: Vec<NodeReport>,
    /// Sinks that did not get on and read for themselves until they have caught up.
    pub detached: Vec<DetachedReport>,
}

/// A sink that is detached from its pipeline.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DetachedReport {
    /// Its id.
    pub sink: String,
    /// Offset of the last journal entry that it took in.
    pub position: u64,
    /// Receive time behind the head of the journal, nanoseconds.
    pub lag_ns: i64,
    /// Bytes of journal that it is behind by.
    pub behind_bytes: u64,
    /// How many those may be.
    pub backlog_bytes: u64,
    /// Stretches of the journal that it skipped past its backlog: behind the first and up to the
    /// second offset.
    pub skipped: Vec<(u64, u64)>,
    /// Why it does not run, or why its last checkpoint failed.
    pub errors: Vec<String>,
}

/// A node of a pipeline.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NodeReport {
    /// Id.
    pub id: String,
    /// `type`.
    pub kind: String,
    /// `operator`, `alert`, `sink`.
    pub class: String,
    /// `id.output` of what it reads.
    pub inputs: Vec<String>,
    /// File and line of its definition.
    pub place: String,
}

/// A component and its counters.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ComponentReport {
    /// Pipeline; empty for sources.
    pub pipeline: String,
    /// Component id.
    pub component: String,
    /// `source`, `operator`, `alert`, `sink`.
    pub class: String,
    /// `type`.
    pub kind: String,
    /// Its counters.
    pub reading: ComponentReading,
}

/// How a reload went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReloadReport {
    /// Counts reloads since the start.
    pub number: u64,
    /// When it ended, UTC nanoseconds.
    pub time: i64,
    /// Whether every file is live as it stands.
    pub ok: bool,
    /// File by file.
    pub files: Vec<FileReport>,
    /// What is wrong, as people read it; warnings too.
    pub diagnostics: Vec<String>,
    /// What happened, pipeline by pipeline.
    pub events: Vec<String>,
}

/// What became of one file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FileReport {
    /// Path.
    pub path: String,
    /// `live`, `kept` (its last good version runs) or `left_out`.
    pub state: String,
}
