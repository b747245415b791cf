//! What runs, as the HTTP API sees it.

use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use weir_alerts::{Router, RouterError};
use weir_pipeline::config::{ServerConfig, emptied};
use weir_pipeline::diagnostic::Diagnostics;
use weir_pipeline::intake::now;
use weir_pipeline::journal::{Journal, JournalOptions};
use weir_pipeline::memory::{Parts, resident};
use weir_pipeline::replay::Request;
use weir_pipeline::runtime::{
    DetachedStatus, FileOutcome, Gap, Outcome, PipelineStatus, Progress, ReplayError, Runtime,
};
use weir_pipeline::telemetry::{ComponentLabels, ComponentReading, Telemetry, Way};
use weir_store::Store;
use weir_store::query::Queries;
use weir_web::{
    ComponentReport, DetachedReport, Engine, EngineError, FileReport, NodeReport, PipelineReport,
    ReloadReport, Replay, SourceReport, Status, Tap,
};

use crate::server_file::{ServerFile, Settings};

/// The parts of a running server.
pub(crate) struct Server {
    pub(crate) runtime: OnceLock<Arc<Runtime>>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) journal: Journal,
    pub(crate) store: Arc<Store>,
    pub(crate) queries: Arc<Queries>,
    pub(crate) router: Arc<Router>,
    pub(crate) started: i64,
    pub(crate) file: ServerFile,
    pub(crate) config: Mutex<ServerConfig>,
    /// What there is to say of the server file as it stands.
    pub(crate) state: Mutex<FileState>,
}

/// What is wrong with the server file, until it is mended, and what people should know of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileState {
    errors: Vec<String>,
    notes: Vec<String>,
}

impl Server {
    /// Reads the server file again and applies what can change while running; whether it could.
    /// What people should know is logged, and stands in the status until it is mended.
    pub(crate) async fn apply(&self) -> bool {
        let settings = match self.read_file() {
            Ok(settings) => settings,
            Err(wrong) => {
                self.refuse_file(&wrong);
                return false;
            }
        };
        let before = self.config.lock().clone();
        let mut next = settings.config.clone();
        let notes = notes(&settings, &before);
        let applied = self.router.reconfigure(settings.router.clone()).await;
        let error = applied.err().map(|e| format!("receivers and routes stay as they were: {e}"));
        let error = error.or_else(|| {
            let stores = self.queries.set_stores(&next.stores).err();
            stores.map(|e| format!("stores stay as they were: {e}"))
        });
        for note in &notes {
            tracing::warn!("{note}");
        }
        if let Some(error) = &error {
            tracing::error!("{error}");
        } else {
            settings.keep(&before.data);
            self.journal.set_options(journal_options(&next));
            self.store.set_retention(retention(&next));
            // What needs a restart keeps its old value, so that it is said again until then.
            next.listen = before.listen;
            next.data = before.data;
            next.memory = before.memory;
            next.hosts = before.hosts;
            next.watch = before.watch;
            next.tls = before.tls;
            next.tokens = before.tokens;
            *self.config.lock() = next;
        }
        let ok = error.is_none();
        *self.state.lock() = FileState { errors: error.into_iter().collect(), notes };
        ok
    }

    /// Reads the server file. One that has just been emptied is being saved.
    fn read_file(&self) -> Result<Settings, Diagnostics> {
        let settings = self.file.read()?;
        let said_something = !self.config.lock().text.text.trim().is_empty();
        let is_empty = settings.config.text.text.trim().is_empty() && self.file.path.exists();
        if is_empty && said_something {
            return Err(emptied(&self.file.path.display().to_string()).into());
        }
        Ok(settings)
    }

    /// The server file is broken: what it said last goes on.
    pub(crate) fn refuse_file(&self, wrong: &Diagnostics) {
        let errors: Vec<String> = wrong.0.iter().map(ToString::to_string).collect();
        for error in &errors {
            tracing::error!("{error}");
        }
        *self.state.lock() = FileState { errors, notes: Vec::new() };
    }

    /// How the last reload went, with what is wrong with the server file.
    fn reloaded(&self, outcome: Outcome) -> ReloadReport {
        let mut report = reload_report(outcome);
        let state = self.state.lock().clone();
        let broken = !state.errors.is_empty();
        report.ok &= !broken;
        let path = self.file.path.display().to_string();
        if broken || !self.config.lock().text.text.is_empty() {
            let state = if broken { "kept" } else { "live" };
            report.files.push(FileReport { path, state: state.to_owned() });
        }
        report.diagnostics.extend(state.errors);
        report.diagnostics.extend(state.notes);
        report
    }

    /// What a reload would make of the server file.
    fn foresee(&self) -> FileState {
        match self.read_file() {
            Ok(settings) => {
                let notes = notes(&settings, &self.config.lock());
                FileState { errors: Vec::new(), notes }
            }
            Err(wrong) => {
                let errors = wrong.0.iter().map(ToString::to_string).collect();
                FileState { errors, notes: Vec::new() }
            }
        }
    }

    fn runtime(&self) -> Result<&Arc<Runtime>, EngineError> {
        self.runtime.get().ok_or_else(|| EngineError::Busy("Weir is still starting".to_owned()))
    }

    fn report(&self) -> Status {
        let pipelines = self.runtime.get().map(|r| r.pipelines()).unwrap_or_default();
        let outcome = self.runtime.get().map(|r| r.outcome()).unwrap_or_default();
        let sources = self.runtime.get().map(|r| r.sources()).unwrap_or_default();
        let mut problems = Vec::new();
        for source in &sources {
            if !source.running {
                problems.push(format!("source `{}` ended", source.id));
            }
            for address in source.listens.iter().filter(|a| is_closed(a)) {
                problems.push(format!("source `{}`: {address}", source.id));
            }
        }
        let readings = self.telemetry.read();
        for (labels, reading) in &readings {
            problems.extend(component_problems(labels, reading));
        }
        let reload = self.reloaded(outcome);
        problems.extend(reload.files.iter().filter(|f| f.state != "live").map(|f| {
            let what = if f.state == "kept" { "its last good version runs" } else { "left out" };
            format!("file `{}` has a mistake: {what}", f.path)
        }));
        for p in &pipelines {
            let errors = [&p.progress.failed, &p.progress.checkpoint_error];
            let errors = errors.into_iter().flatten();
            problems.extend(errors.map(|e| format!("pipeline `{}`: {e}", p.name)));
            problems.extend(backlog_problem(&format!("pipeline `{}`", p.name), &p.progress));
            problems.extend(p.detached.iter().flat_map(|d| {
                let who = format!("sink `{}` of pipeline `{}`", d.sink, p.name);
                backlog_problem(&who, &d.progress)
            }));
            problems.extend(p.detached.iter().map(|d| {
                let seconds = d.lag_ns / 1_000_000_000;
                format!(
                    "sink `{}` of pipeline `{}` does not get on; it is detached and {seconds} s \
                     behind",
                    d.sink, p.name
                )
            }));
            if p.state == "behind" {
                let seconds = p.lag_ns / 1_000_000_000;
                problems.push(format!("pipeline `{}` is {seconds} s behind", p.name));
            }
        }
        let lookups = self.runtime.get().map(|r| r.lookups()).unwrap_or_default();
        let held = self.runtime.get().map(|r| r.refusing()).unwrap_or_default();
        problems.extend(held.into_iter().map(|(source, why)| {
            let answers = if why.overload { 429 } else { 503 };
            format!("source `{source}` refuses data (answers {answers}): {}", why.why)
        }));
        problems.extend(
            self.journal
                .trouble()
                .map(|why| format!("the journal cannot be written, data is refused: {why}")),
        );
        if let Some(runtime) = self.runtime.get() {
            problems.extend(lookups.iter().filter_map(|l| {
                let why = l.error.as_ref()?;
                let now =
                    if l.version.is_empty() { "it has no rows" } else { "the rows before stay" };
                Some(format!("lookup `{}` ({}) cannot be read, {now}: {why}", l.id, l.file))
            }));
            problems.extend(runtime.gaps().iter().map(gap_problem));
            problems.extend(runtime.skipped().into_iter().map(|(pipeline, offset)| {
                format!(
                    "pipeline `{pipeline}` skips entry {offset}, at which it died again and again: \
                     the entry is raw in `<source>.errors`, by default in table `weir_errors`"
                )
            }));
        }
        problems.extend(self.journal.damage());
        for table in self.store.tables(weir_pipeline::batch::TENANT) {
            let damaged = table.damaged().into_iter();
            problems.extend(damaged.map(|(f, why)| format!("table file `{f}` set aside: {why}")));
        }
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            time: now(),
            ready: self.ready().is_ok(),
            reload,
            sources: sources
                .into_iter()
                .map(|s| SourceReport {
                    id: s.id,
                    kind: s.kind.to_owned(),
                    generation: s.generation,
                    listens: s.listens,
                    running: s.running,
                    place: s.place,
                })
                .collect(),
            pipelines: pipelines.into_iter().map(pipeline_report).collect(),
            components: readings
                .into_iter()
                .map(|(l, reading)| ComponentReport {
                    pipeline: l.pipeline.to_string(),
                    component: l.component.to_string(),
                    class: l.class.to_owned(),
                    kind: l.kind.to_owned(),
                    reading,
                })
                .collect(),
            lookups,
            alerts: self.alert_report(),
            journal: weir_web::JournalReport {
                head: self.journal.head(),
                bytes: self.journal.bytes(),
            },
            problems,
        }
    }

    fn alert_report(&self) -> serde_json::Value {
        serde_json::json!({
            "alerts": self.router.alerts(),
            "notifications": self.router.targets(),
        })
    }
}

/// What people should know of a server file that comes after `before`.
fn notes(settings: &Settings, before: &ServerConfig) -> Vec<String> {
    let next = &settings.config;
    let keys = [
        ("server.listen", before.listen == next.listen),
        ("server.data", before.data == next.data),
        ("server.memory", before.memory == next.memory),
        ("server.hosts", before.hosts == next.hosts),
        ("server.watch", before.watch == next.watch),
        ("server.tls", before.tls == next.tls),
        ("server.auth.tokens", before.tokens == next.tokens),
    ];
    let changed = keys.into_iter().filter(|(_, same)| !same);
    let restart = changed.map(|(key, _)| format!("`{key}` needs a restart; the old value stays"));
    settings.warnings.0.iter().map(ToString::to_string).chain(restart).collect()
}

/// Whether an address of [`SourceStatus::listens`] says why it is not open.
///
/// [`SourceStatus::listens`]: weir_pipeline::runtime::SourceStatus
fn is_closed(address: &str) -> bool {
    address.contains("cannot be opened")
}

/// What somebody should look at: a target that does not answer, a component most of whose rows
/// fail.
fn component_problems(labels: &ComponentLabels, reading: &ComponentReading) -> Vec<String> {
    let failing = |(target, way): (&String, &Way)| {
        let error = way.error.as_ref()?;
        Some(format!("source `{}`: target `{target}`: {}", labels.component, error.message))
    };
    let mut problems: Vec<String> = reading.ways.iter().filter_map(failing).collect();
    let ComponentReading { recent_rows: rows, recent_errors: errors, .. } = *reading;
    if labels.class != "source" && errors > 0 && errors * 2 > rows {
        let (pipeline, id) = (&labels.pipeline, &labels.component);
        let last = reading.last_error.as_ref().map_or("", |e| e.message.as_str());
        let class = labels.class;
        problems.push(format!(
            "pipeline `{pipeline}`: {errors} of the last {rows} rows failed in {class} `{id}`: {last}"
        ));
    }
    problems
}

/// The journal's part of the server file.
pub(crate) fn journal_options(config: &ServerConfig) -> JournalOptions {
    JournalOptions {
        max_bytes: config.journal_max_bytes.0,
        retain: config.journal_retain.0,
        memory_bytes: Parts::of(config.memory.0).journal,
    }
}

/// Retention by table name.
pub(crate) fn retention(
    config: &ServerConfig,
) -> std::collections::BTreeMap<String, std::time::Duration> {
    let of = |(name, table): (&String, &weir_pipeline::config::TableConfig)| {
        table.retention.map(|r| (name.clone(), r.0))
    };
    config.tables.iter().filter_map(of).collect()
}

fn reload_report(outcome: Outcome) -> ReloadReport {
    ReloadReport {
        number: outcome.number,
        time: outcome.time,
        ok: outcome.ok,
        files: outcome
            .files
            .into_iter()
            .map(|f| FileReport { path: f.path, state: f.state.to_owned() })
            .collect(),
        diagnostics: outcome.diagnostics,
        events: outcome.events,
    }
}

fn replay_error(error: ReplayError) -> EngineError {
    match error {
        ReplayError::Invalid(why) => EngineError::Invalid(why),
        ReplayError::NotFound(why) => EngineError::NotFound(why),
        ReplayError::Busy(why) => EngineError::TooMany(why),
        ReplayError::Failed(why) => EngineError::Failed(why),
    }
}

/// What it holds of the journal, if that is much.
fn backlog_problem(who: &str, progress: &Progress) -> Option<String> {
    let (behind, limit) = (progress.behind_bytes, progress.backlog_bytes);
    (limit > 0 && behind > limit / 2)
        .then(|| format!("{who} is {behind} bytes of journal behind; its backlog is {limit}"))
}

/// What somebody lacks of the journal.
fn gap_problem(gap: &Gap) -> String {
    let Gap { pipeline, sink, after, to, .. } = gap;
    let who = match sink {
        Some(sink) => format!("sink `{sink}` of pipeline `{pipeline}`"),
        None => format!("pipeline `{pipeline}`"),
    };
    format!("{who} skipped entries {} to {to}, which were past its backlog or trimmed", after + 1)
}

fn detached_report(d: DetachedStatus) -> DetachedReport {
    DetachedReport {
        sink: d.sink,
        position: d.progress.position,
        lag_ns: d.lag_ns,
        behind_bytes: d.progress.behind_bytes,
        backlog_bytes: d.progress.backlog_bytes,
        skipped: d.progress.skipped,
        errors: [d.progress.failed, d.progress.checkpoint_error].into_iter().flatten().collect(),
    }
}

fn pipeline_report(p: PipelineStatus) -> PipelineReport {
    PipelineReport {
        name: p.name,
        file: p.file,
        state: p.state.to_owned(),
        generation: p.progress.generation,
        hash: p.hash,
        position: p.progress.position,
        committed: p.progress.committed,
        lag_ns: p.lag_ns,
        watermark: p.progress.watermark,
        behind_bytes: p.progress.behind_bytes,
        backlog_bytes: p.progress.backlog_bytes,
        skipped: p.progress.skipped,
        errors: [p.progress.failed, p.progress.checkpoint_error].into_iter().flatten().collect(),
        detached: p.detached.into_iter().map(detached_report).collect(),
        nodes: p
            .nodes
            .into_iter()
            .map(|n| NodeReport {
                id: n.id,
                kind: n.kind.to_owned(),
                class: n.class.to_owned(),
                inputs: n.inputs,
                place: n.place,
            })
            .collect(),
    }
}

impl Engine for Server {
    fn status(&self) -> BoxFuture<'_, Status> {
        Box::pin(async { self.report() })
    }

    fn pipelines(&self) -> BoxFuture<'_, Vec<PipelineReport>> {
        Box::pin(async { self.report().pipelines })
    }

    fn tap(
        &self,
        pipeline: &str,
        node: &str,
        output: &str,
    ) -> BoxFuture<'_, Result<Tap, EngineError>> {
        let (pipeline, node, output) = (pipeline.to_owned(), node.to_owned(), output.to_owned());
        Box::pin(async move {
            let reader = self.runtime()?.tap(&pipeline, &node, &output).map_err(|e| {
                if e.starts_with("too many") {
                    EngineError::Busy(e)
                } else {
                    EngineError::NotFound(e)
                }
            })?;
            Ok(Tap { batches: reader.batches, missed: reader.missed })
        })
    }

    fn reload(&self) -> BoxFuture<'_, Result<ReloadReport, EngineError>> {
        Box::pin(async {
            let runtime = self.runtime()?.clone();
            self.apply().await;
            let mut report = self.reloaded(runtime.reload().await);
            let sources = runtime.sources();
            report.ok &= !sources.iter().flat_map(|s| &s.listens).any(|a| is_closed(a));
            Ok(report)
        })
    }

    fn replay(&self, request: Request) -> BoxFuture<'_, Result<Replay, EngineError>> {
        Box::pin(async move {
            let replaying = self.runtime()?.replay(request).await.map_err(replay_error)?;
            let progress = replaying.progress.clone();
            let report = async move {
                let mut replaying = replaying;
                match (&mut replaying.report).await {
                    Ok(report) => report.map_err(replay_error),
                    Err(_) => Err(EngineError::Failed("the replay met a bug".to_owned())),
                }
            };
            Ok(Replay { progress, report: Box::pin(report) })
        })
    }

    fn plan(&self) -> BoxFuture<'_, Result<serde_json::Value, EngineError>> {
        Box::pin(async {
            let mut planned = self.runtime()?.plan().await;
            let FileState { errors, notes } = self.foresee();
            let broken = !errors.is_empty();
            planned.ok &= !broken;
            if broken || self.file.path.exists() {
                let path = self.file.path.display().to_string();
                let state = if broken { "kept" } else { "live" };
                planned.files.push(FileOutcome { path, state });
            }
            planned.diagnostics.extend(errors);
            planned.diagnostics.extend(notes);
            serde_json::to_value(planned).map_err(|e| EngineError::Failed(e.to_string()))
        })
    }

    fn ready(&self) -> Result<(), String> {
        match self.runtime.get() {
            Some(runtime) if runtime.ready() => Ok(()),
            _ => Err("starting: pipelines are being recovered".to_owned()),
        }
    }

    fn alerts(&self) -> BoxFuture<'_, serde_json::Value> {
        Box::pin(async { self.alert_report() })
    }

    fn notify(&self, receiver: &str) -> BoxFuture<'_, Result<serde_json::Value, EngineError>> {
        let receiver = receiver.to_owned();
        Box::pin(async move {
            match self.router.test_page(&receiver).await {
                Ok(outcomes) => Ok(serde_json::json!({ "outcomes": outcomes })),
                Err(e @ RouterError::NoReceiver { .. }) => {
                    Err(EngineError::NotFound(e.to_string()))
                }
                Err(e) => Err(EngineError::Failed(e.to_string())),
            }
        })
    }

    fn behind(&self) -> Vec<String> {
        let behind = self.runtime.get().map(|r| r.behind()).unwrap_or_default().into_iter();
        let warn = |(name, lag): (Arc<str>, i64)| {
            let seconds = lag / 1_000_000_000;
            format!("pipeline `{name}` is {seconds} s behind: its newest rows are not in yet")
        };
        behind.map(warn).collect()
    }

    fn metrics(&self) -> String {
        if let Some(runtime) = self.runtime.get() {
            runtime.observe();
            let ok = f64::from(u8::from(self.reloaded(runtime.outcome()).ok));
            self.telemetry.gauge("weir_config_ok", "Whether every file is live", ok);
        }
        if let Some(bytes) = resident() {
            let about = "Resident memory of the process";
            self.telemetry.gauge("process_resident_memory_bytes", about, bytes as f64);
        }
        self.telemetry.render()
    }
}
