//! Running sources: started, swapped to new settings behind their open sockets, stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::decide::{SourceFate, source};
use super::decoders::Decoders;
use crate::admission::Gate;
use crate::component::{Listen, SourceContext, SourceSettings};
use crate::intake::Intake;
use crate::journal::Journal;
use crate::listen::Listeners;
use crate::plan::SourceDefinition;
use crate::telemetry::{ComponentLabels, Telemetry};

/// How long a source may take to finish what it has accepted.
const STOP_DEADLINE: Duration = Duration::from_secs(6);

struct Running {
    definition: Arc<SourceDefinition>,
    generation: u32,
    settings: watch::Sender<Arc<SourceSettings>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What runs, by source id.
pub(super) struct Sources {
    journal: Journal,
    gate: Arc<Gate>,
    telemetry: Arc<Telemetry>,
    decoders: Arc<Decoders>,
    listeners: Arc<Listeners>,
    running: Mutex<BTreeMap<Arc<str>, Running>>,
}

/// A source as the status shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SourceStatus {
    /// Id.
    pub id: String,
    /// `type`.
    pub kind: &'static str,
    /// Generation of its settings.
    pub generation: u32,
    /// Addresses it listens on, as bound; an address that could not be bound says why.
    pub listens: Vec<String>,
    /// Whether its task runs.
    pub running: bool,
    /// File and line of its definition.
    pub place: String,
}

/// What becomes of a source at a reload.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SourceChange {
    /// Id.
    pub id: String,
    /// `type`.
    pub kind: &'static str,
    /// The type it had, if that changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<&'static str>,
    /// What happens to it.
    pub change: SourceFate,
    /// Addresses whose sockets are open and stay so.
    pub keeps: Vec<String>,
    /// Addresses that are opened.
    pub opens: Vec<String>,
    /// Addresses that could not be opened so far, and why; they are tried again.
    pub refused: Vec<String>,
    /// Addresses that are closed, since nobody needs them any more.
    pub closes: Vec<String>,
    /// File and line of its definition.
    pub place: String,
}

impl Sources {
    pub(super) fn new(
        journal: Journal,
        gate: Arc<Gate>,
        telemetry: Arc<Telemetry>,
        decoders: Arc<Decoders>,
    ) -> Self {
        let listeners = Arc::new(Listeners::default());
        Self { journal, gate, telemetry, decoders, listeners, running: Mutex::default() }
    }

    /// Makes the settings of every new and changed source durable and opens the sockets that are
    /// not open. Nothing that runs is touched. Returns addresses that could not be bound: their
    /// sources are down there and go on trying.
    ///
    /// # Errors
    /// If the journal cannot take the settings.
    pub(super) async fn prepare(
        &self,
        wanted: &BTreeMap<Arc<str>, Arc<SourceDefinition>>,
    ) -> Result<Vec<String>, String> {
        let mut refused = Vec::new();
        for (id, definition) in wanted {
            let generation = self.register(definition).await?;
            self.decoders.remember(id, generation, definition.plan.decoder());
            for listen in definition.plan.listens() {
                if let Err(e) = self.listeners.open(listen) {
                    refused.push(format!(
                        "source `{id}` ({}): {} cannot be opened: {e}",
                        place(definition),
                        address(listen)
                    ));
                }
            }
        }
        Ok(refused)
    }

    async fn register(&self, definition: &SourceDefinition) -> Result<u32, String> {
        let text = serde_json::to_string(&definition.bundle).map_err(|e| e.to_string())?;
        self.journal.register_generation(&definition.id, &text).await.map_err(|e| e.to_string())
    }

    /// Stops the sources that are not in `wanted` or are of another type there, and waits until
    /// what they accepted is in the journal. Their sockets stay open: whoever connects meanwhile
    /// waits for the source that takes over the address.
    pub(super) async fn stop_others(&self, wanted: &BTreeMap<Arc<str>, Arc<SourceDefinition>>) {
        let gone: Vec<_> = {
            let mut running = self.running.lock();
            let gone: Vec<_> = running
                .iter()
                .filter(|(id, r)| source(Some(&r.definition), wanted.get(*id)).stops())
                .map(|(id, _)| id.clone())
                .collect();
            gone.into_iter().filter_map(|id| running.remove(&id)).collect()
        };
        stop_all(gone).await;
    }

    /// Starts what is new in `wanted` and swaps the settings of the others, those that are equal
    /// untouched; closes sockets that nobody needs. After [`Sources::stop_others`] exactly
    /// `wanted` runs.
    pub(super) async fn start(&self, wanted: &BTreeMap<Arc<str>, Arc<SourceDefinition>>) {
        for (id, definition) in wanted {
            // `prepare` registered this text, so this is a look-up.
            match self.register(definition).await {
                Ok(generation) => self.apply(id, definition, generation),
                Err(error) => tracing::error!(source = %id, %error, "source keeps its settings"),
            }
        }
        let keep: Vec<Listen> = wanted.values().flat_map(|d| d.plan.listens()).collect();
        self.listeners.retain(&keep);
        self.telemetry.retain(|l| l.class != "source" || wanted.contains_key(&l.component));
    }

    fn apply(&self, id: &Arc<str>, definition: &Arc<SourceDefinition>, generation: u32) {
        let mut running = self.running.lock();
        let settings = Arc::new(SourceSettings { generation, plan: definition.plan.clone() });
        if let Some(r) = running.get_mut(id) {
            let changed = source(Some(&r.definition), Some(definition)) != SourceFate::Kept;
            if changed || r.generation != generation {
                r.settings.send_replace(settings);
                r.generation = generation;
            }
            r.definition = definition.clone();
            return;
        }
        let metrics = self.telemetry.component(ComponentLabels {
            pipeline: "".into(),
            component: id.clone(),
            class: "source",
            kind: definition.kind,
        });
        let (sender, receiver) = watch::channel(settings);
        let stop = CancellationToken::new();
        let context = SourceContext {
            id: id.clone(),
            settings: receiver,
            listeners: self.listeners.clone(),
            intake: Intake::new(
                id.clone(),
                self.journal.clone(),
                self.gate.clone(),
                self.decoders.entities(id),
                metrics,
            ),
            stop: stop.clone(),
        };
        let task = tokio::spawn(definition.plan.run(context));
        let definition = definition.clone();
        running
            .insert(id.clone(), Running { definition, generation, settings: sender, stop, task });
    }

    /// What becomes of each source when `wanted` shall run. Opens and closes nothing.
    pub(super) fn plan(
        &self,
        wanted: &BTreeMap<Arc<str>, Arc<SourceDefinition>>,
    ) -> Vec<SourceChange> {
        let running = self.running.lock();
        let needed: Vec<Listen> = wanted.values().flat_map(|d| d.plan.listens()).collect();
        let ids: BTreeSet<&Arc<str>> = running.keys().chain(wanted.keys()).collect();
        let change = |id: &Arc<str>| {
            let (before, after) = (running.get(id).map(|r| &r.definition), wanted.get(id));
            let shown = after.or(before)?;
            let mut change = SourceChange {
                id: id.to_string(),
                kind: shown.kind,
                was: before.map(|b| b.kind).filter(|kind| *kind != shown.kind),
                change: source(before, after),
                keeps: Vec::new(),
                opens: Vec::new(),
                refused: Vec::new(),
                closes: Vec::new(),
                place: place(shown),
            };
            for listen in after.into_iter().flat_map(|d| d.plan.listens()) {
                match (self.listeners.bound(listen), self.listeners.refused(listen)) {
                    (Some(bound), _) => change.keeps.push(address_of(listen, bound)),
                    (None, None) => change.opens.push(address(listen)),
                    (None, Some(why)) => {
                        change.refused.push(format!("{}: {why}", address(listen)));
                    }
                }
            }
            for listen in before.into_iter().flat_map(|d| d.plan.listens()) {
                if !needed.contains(&listen)
                    && let Some(bound) = self.listeners.bound(listen)
                {
                    change.closes.push(address_of(listen, bound));
                }
            }
            Some(change)
        };
        ids.into_iter().filter_map(change).collect()
    }

    /// Stops all sources and waits until what they accepted is in the journal.
    pub(super) async fn stop(&self) {
        let all = std::mem::take(&mut *self.running.lock());
        stop_all(all.into_values().collect()).await;
    }

    /// What runs.
    pub(super) fn status(&self) -> Vec<SourceStatus> {
        let running = self.running.lock();
        running
            .iter()
            .map(|(id, r)| SourceStatus {
                id: id.to_string(),
                kind: r.definition.kind,
                generation: r.generation,
                listens: r
                    .definition
                    .plan
                    .listens()
                    .into_iter()
                    .map(|l| match self.listeners.bound(l) {
                        Some(bound) => address_of(l, bound),
                        None => {
                            let why = self.listeners.refused(l).unwrap_or_default();
                            format!("{} cannot be opened: {why}", address(l))
                        }
                    })
                    .collect(),
                running: !r.task.is_finished(),
                place: place(&r.definition),
            })
            .collect()
    }
}

async fn stop_all(sources: Vec<Running>) {
    for source in &sources {
        source.stop.cancel();
    }
    futures::future::join_all(sources.into_iter().map(finish)).await;
}

async fn finish(source: Running) {
    let abort = source.task.abort_handle();
    if tokio::time::timeout(STOP_DEADLINE, source.task).await.is_err() {
        tracing::warn!(source = %source.definition.id, "source did not finish in time");
        abort.abort();
    }
}

fn place(definition: &SourceDefinition) -> String {
    let (line, _) = definition.header.line_column();
    format!("{}:{line}", definition.header.file.path.display())
}

fn address(listen: Listen) -> String {
    match listen {
        Listen::Tcp(a) | Listen::Udp(a) => address_of(listen, a),
    }
}

fn address_of(listen: Listen, bound: std::net::SocketAddr) -> String {
    match listen {
        Listen::Tcp(_) => format!("{bound}/tcp"),
        Listen::Udp(_) => format!("{bound}/udp"),
    }
}
