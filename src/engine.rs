//! What runs, as the HTTP API sees it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use weir_alerts::{Router, RouterConfig, RouterError};
use weir_pipeline::config::{Environment, Flags, ServerConfig};
use weir_pipeline::intake::now;
use weir_pipeline::journal::{Journal, JournalOptions};
use weir_pipeline::runtime::{DetachedStatus, Outcome, PipelineStatus, Runtime};
use weir_pipeline::telemetry::Telemetry;
use weir_store::Store;
use weir_web::{
    ComponentReport, DetachedReport, Engine, EngineError, FileReport, NodeReport, PipelineReport,
    ReloadReport, SourceReport, Status, Tap,
};

/// The parts of a running server.
pub(crate) struct Server {
    pub(crate) runtime: OnceLock<Arc<Runtime>>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) journal: Journal,
    pub(crate) store: Arc<Store>,
    pub(crate) router: Arc<Router>,
    pub(crate) started: i64,
    pub(crate) file: PathBuf,
    pub(crate) flags: Flags,
    pub(crate) config: Mutex<ServerConfig>,
}

impl Server {
    /// Reads the server file again and applies what can change while running. Gives what people
    /// should know.
    pub(crate) async fn apply(&self) -> (bool, Vec<String>) {
        let loaded = ServerConfig::load(&self.file, false, &Environment::Process, &self.flags);
        let (next, warnings) = match loaded {
            Ok(loaded) => loaded,
            Err(wrong) => return (false, vec![format!("{wrong}the server file stays as it was")]),
        };
        let mut notes: Vec<String> = warnings.0.iter().map(ToString::to_string).collect();
        let router = match RouterConfig::plan(&next.receivers, next.route.as_ref()) {
            Ok(router) => router,
            Err(wrong) => {
                notes.push(format!("{wrong}the server file stays as it was"));
                return (false, notes);
            }
        };
        let before = self.config.lock().clone();
        for (key, same) in [
            ("server.listen", before.listen == next.listen),
            ("server.data", before.data == next.data),
            ("server.memory", before.memory == next.memory),
            ("server.hosts", before.hosts == next.hosts),
            ("server.tls", before.tls == next.tls),
            ("server.auth.tokens", before.tokens == next.tokens),
        ] {
            if !same {
                notes.push(format!("`{key}` needs a restart; the old value stays"));
            }
        }
        if let Err(error) = self.router.reconfigure(router).await {
            notes.push(format!("receivers and routes stay as they were: {error}"));
            return (false, notes);
        }
        self.journal.set_options(journal_options(&next));
        self.store.set_retention(retention(&next));
        // What needs a restart keeps its old value, so that it is said again until then.
        let mut next = next;
        next.listen = before.listen;
        next.data = before.data;
        next.memory = before.memory;
        next.hosts = before.hosts;
        next.tls = before.tls;
        next.tokens = before.tokens;
        *self.config.lock() = next;
        (true, notes)
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
            for address in source.listens.iter().filter(|a| a.contains("not open")) {
                problems.push(format!("source `{}` does not listen: {address}", source.id));
            }
        }
        problems.extend(outcome.files.iter().filter(|f| f.state != "live").map(|f| {
            let what = if f.state == "kept" { "its last good version runs" } else { "left out" };
            format!("file `{}` has a mistake: {what}", f.path)
        }));
        for p in &pipelines {
            let errors = [&p.progress.failed, &p.progress.checkpoint_error];
            let errors = errors.into_iter().flatten();
            problems.extend(errors.map(|e| format!("pipeline `{}`: {e}", p.name)));
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
            reload: reload_report(outcome),
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
            components: self
                .telemetry
                .read()
                .into_iter()
                .map(|(l, reading)| ComponentReport {
                    pipeline: l.pipeline.to_string(),
                    component: l.component.to_string(),
                    class: l.class.to_owned(),
                    kind: l.kind.to_owned(),
                    reading,
                })
                .collect(),
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

/// The journal's part of the server file.
pub(crate) fn journal_options(config: &ServerConfig) -> JournalOptions {
    JournalOptions { max_bytes: config.journal_max_bytes.0, retain: config.journal_retain.0 }
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

fn detached_report(d: DetachedStatus) -> DetachedReport {
    DetachedReport {
        sink: d.sink,
        position: d.progress.position,
        lag_ns: d.lag_ns,
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
            let (ok, notes) = self.apply().await;
            let mut report = reload_report(runtime.reload().await);
            report.ok &= ok;
            report.diagnostics.extend(notes);
            Ok(report)
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

    fn metrics(&self) -> String {
        if let Some(runtime) = self.runtime.get() {
            runtime.observe();
        }
        self.telemetry.render()
    }
}
