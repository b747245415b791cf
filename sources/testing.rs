//! For tests: a source that runs, with a journal of its own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_pipeline::component::{
    Decoder, EntryHead, Listen, SourceContext, SourceKind, SourcePlan, SourceSettings,
};
use weir_pipeline::config::{Scope, Section};
use weir_pipeline::entity::EntitySpace;
use weir_pipeline::intake::{self, Intake};
use weir_pipeline::journal::{Entry, Envelope, Journal, JournalOptions};
use weir_pipeline::listen::Listeners;
use weir_pipeline::telemetry::ComponentMetrics;

/// Longest wait for what another task does.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn plan(kind: &SourceKind, toml: &str) -> Arc<dyn SourcePlan> {
    let section = Section::parse_for_tests("source", toml);
    match (kind.plan)(&section, &Scope::default()) {
        Ok(plan) => Arc::from(plan),
        Err(wrong) => panic!("{wrong}"),
    }
}

/// What planning says: `code: message (label)` of each mistake and warning, one per line.
pub(crate) fn planned(kind: &SourceKind, toml: &str) -> String {
    let section = Section::parse_for_tests("source", toml);
    let scope = Scope::default();
    let mut all = match (kind.plan)(&section, &scope) {
        Ok(_) => Vec::new(),
        Err(wrong) => wrong.0,
    };
    all.extend(scope.take_warnings());
    let show = |d: &weir_pipeline::diagnostic::Diagnostic| format!("{}: {}", d.code, d.message);
    all.iter().map(show).collect::<Vec<_>>().join("\n")
}

/// The rows of one entry as JSON objects without nulls, and what was rejected as `rows reason`.
pub(crate) fn decode(
    decoder: &dyn Decoder,
    received: i64,
    envelope: &Envelope,
    payload: &[u8],
) -> Result<(Vec<Value>, Vec<String>), String> {
    let head = EntryHead { received, envelope };
    let space = EntitySpace::default();
    let decoded = decoder
        .decode(&head, &payload.to_vec().into(), &space)
        .map_err(|e| format!("{}: {}", e.reason, e.message))?;
    let rejected = decoded.rejected.iter().map(|r| format!("{} {}", r.rows, r.reason)).collect();
    let batches = intake::batches(&"source".into(), received, decoded).unwrap();
    let rows = batches.iter().flat_map(|(_, batch)| weir_pipeline::testing::to_rows(batch));
    Ok((rows.map(Value::Object).collect(), rejected))
}

pub(crate) struct Running {
    pub(crate) journal: Journal,
    pub(crate) metrics: Arc<ComponentMetrics>,
    listeners: Arc<Listeners>,
    settings: watch::Sender<Arc<SourceSettings>>,
    kind: &'static SourceKind,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    dir: tempfile::TempDir,
}

impl Running {
    pub(crate) fn start(kind: &'static SourceKind, toml: &str) -> Self {
        Self::start_with(kind, toml, 1 << 30)
    }

    /// With a journal of at most `journal_bytes`.
    pub(crate) fn start_with(kind: &'static SourceKind, toml: &str, journal_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options =
            JournalOptions { max_bytes: journal_bytes, retain: PATIENCE, memory_bytes: 64 << 20 };
        let journal = Journal::open(&dir.path().join("journal"), options, |_| 0).unwrap();
        let metrics = Arc::new(ComponentMetrics::default());
        let listeners = Arc::new(Listeners::default());
        let plan = plan(kind, toml);
        let settings = SourceSettings { generation: 1, plan: plan.clone() };
        let (settings, watching) = watch::channel(Arc::new(settings));
        let stop = CancellationToken::new();
        let space = Arc::new(EntitySpace::default());
        let context = SourceContext {
            id: "source".into(),
            settings: watching,
            listeners: listeners.clone(),
            intake: Intake::new(
                "source".into(),
                journal.clone(),
                Arc::default(),
                space,
                metrics.clone(),
            ),
            stop: stop.clone(),
        };
        let task = tokio::spawn(plan.run(context));
        Self { journal, metrics, listeners, settings, kind, stop, task, dir }
    }

    /// A folder of its own.
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) fn swap(&self, toml: &str) {
        let generation = self.settings.borrow().generation + 1;
        let plan = plan(self.kind, toml);
        self.settings.send(Arc::new(SourceSettings { generation, plan })).unwrap();
    }

    /// Where it really listens, once it does.
    pub(crate) async fn address(&self) -> SocketAddr {
        let listen: Listen = self.settings.borrow().plan.listens()[0];
        until(|| self.listeners.bound(listen)).await
    }

    /// The entries so far, once there are at least `n`.
    pub(crate) async fn entries(&self, n: usize) -> Vec<Arc<Entry>> {
        let read = async {
            let mut reader = self.journal.reader(0);
            let mut entries = Vec::new();
            while entries.len() < n {
                entries.extend(reader.next().await.unwrap());
            }
            entries
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the entries did not come in time")
    }

    /// The rows so far, once there are at least `n`, decoded anew with the settings in force.
    pub(crate) async fn rows(&self, n: usize) -> Vec<Value> {
        let read = async {
            let mut reader = self.journal.reader(0);
            let mut rows = Vec::new();
            while rows.len() < n {
                for entry in reader.next().await.unwrap() {
                    let head = &entry.head;
                    let decoder = self.settings.borrow().plan.decoder();
                    let (new, _) =
                        decode(&*decoder, head.received, &head.envelope, &head.payload).unwrap();
                    rows.extend(new);
                }
            }
            rows
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the rows did not come in time")
    }

    /// How many of `reason` were rejected, once there are any.
    pub(crate) async fn rejected(&self, reason: &str) -> u64 {
        until(|| self.metrics.read().rejected.get(reason).copied()).await
    }

    /// Stops it, and gives all its rows.
    pub(crate) async fn stop(self) -> Vec<Value> {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it did not stop").unwrap();
        let mut rows = Vec::new();
        let mut reader = self.journal.reader(0);
        while reader.position() < self.journal.head() {
            for entry in reader.next().await.unwrap() {
                let head = &entry.head;
                let decoder = self.settings.borrow().plan.decoder();
                rows.extend(
                    decode(&*decoder, head.received, &head.envelope, &head.payload).unwrap().0,
                );
            }
        }
        rows
    }
}

/// Waits for what another task does.
pub(crate) async fn until<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(value) = ready() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it did not happen in time")
}
