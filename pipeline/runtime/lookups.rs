//! Keeps lookup tables fresh: a table that has another version is a reload of what is live with the
//! new rows, and so goes live at a mark.
//!
//! Each table is read by a task of its own, which its time limit ends: one whose peer hangs holds up
//! no other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

use super::reload::Refused;
use super::{Runtime, Shared};
use crate::config::Loaded;
use crate::diagnostic::Diagnostic;
use crate::intake::now;
use crate::lookup::{LookupStatus, Place, Tables};
use crate::plan::LookupDefinition;

/// Between looks at whether a table is due.
const LOOK: Duration = Duration::from_secs(1);
/// A table that could not be read is tried again after this, nanoseconds.
const RETRY_NS: i64 = 10_000_000_000;
/// Files that are read at a time: as parsed they take a multiple of their bytes for a moment.
const FILES_AT_ONCE: usize = 4;
/// A reload waits for files no longer than this; they are read on, and another reload follows.
const FILES: Duration = Duration::from_secs(10);
/// ... and for peers that were never asked not longer than this, since one may hang. What comes
/// meanwhile its pipeline reads when it begins, see `waiting.rs`.
const PEERS: Duration = Duration::from_secs(2);
/// Versions and plans that nothing needs any more go this often, if there are new ones.
const TIDY: Duration = Duration::from_secs(600);
/// Those that came into use this lately stay: what goes back and forth is not written each time.
const UNUSED: Duration = Duration::from_secs(3600);
/// ... but for what is more than this, bytes: the largest table that there may be, once.
const SPARE_MAX: u64 = crate::lookup::BYTES_MAX as u64;
/// Bytes of new versions behind which it is looked for those that can go at once.
const WRITTEN: u64 = SPARE_MAX / 4;

/// Lookup tables of files.
pub(super) type Definitions = Vec<Arc<LookupDefinition>>;

/// Versions of tables by [`LookupDefinition::key`].
pub(super) type Versions = BTreeMap<String, Option<Arc<str>>>;

/// The tables that are being read.
pub(super) struct Readings {
    tables: Tables,
    shared: Arc<Shared>,
    /// By [`LookupDefinition::key`]; closed when it has been read.
    under_way: Mutex<BTreeMap<String, watch::Receiver<()>>>,
    /// Told when a table has another version.
    changed: Notify,
    files: Semaphore,
}

impl Readings {
    pub(super) fn new(tables: Tables, shared: Arc<Shared>) -> Arc<Self> {
        let (under_way, changed) = (Mutex::default(), Notify::new());
        let files = Semaphore::new(FILES_AT_ONCE);
        Arc::new(Self { tables, shared, under_way, changed, files })
    }

    /// Begins to read those of the tables that are due.
    fn begin(self: &Arc<Self>, definitions: &[Arc<LookupDefinition>]) {
        let time = now();
        for definition in definitions {
            let mut under_way = self.under_way.lock();
            let is_read = under_way.contains_key(&definition.key);
            if is_read || !self.tables.is_due(definition, time, RETRY_NS) {
                continue;
            }
            let (end, ended) = watch::channel(());
            under_way.insert(definition.key.clone(), ended);
            let (readings, definition) = (self.clone(), definition.clone());
            tokio::spawn(async move {
                readings.read(&definition, time).await;
                readings.under_way.lock().remove(&definition.key);
                drop(end);
            });
        }
    }

    async fn read(&self, definition: &Arc<LookupDefinition>, time: i64) {
        let _place = match definition.plan.place() {
            Place::File(_) => self.files.acquire().await.ok(),
            Place::Peer(_) => None,
        };
        match self.tables.refresh(definition, &self.shared.services, time).await {
            Ok(false) => {}
            Ok(true) => self.changed.notify_one(),
            Err(why) => {
                tracing::warn!(lookup = definition.id, error = why, "a table cannot be read");
                let help = "Times that a lookup table could not be read";
                self.shared.telemetry.count("weir_lookup_errors_total", help, 1.0);
            }
        }
    }

    /// Waits until none of the tables is being read.
    async fn ended(&self, definitions: &[Arc<LookupDefinition>]) {
        for definition in definitions {
            let ended = self.under_way.lock().get(&definition.key).cloned();
            if let Some(mut ended) = ended {
                while ended.changed().await.is_ok() {}
            }
        }
    }
}

/// Reads tables when they are due, until the runtime stops.
pub(super) async fn read(runtime: Arc<Runtime>) {
    let (mut tidied, mut number) = (tokio::time::Instant::now(), 0);
    while runtime.stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        let definitions = runtime.definitions.lock().clone();
        runtime.readings.begin(&definitions);
        let written = runtime.options.tables.written();
        let reloads = runtime.outcome.borrow().number;
        if written > WRITTEN || reloads > number && tidied.elapsed() >= TIDY {
            runtime.tidy().await;
            (tidied, number) = (tokio::time::Instant::now(), reloads);
        }
    }
}

/// Brings new versions of tables live, until the runtime stops.
pub(super) async fn apply(runtime: Arc<Runtime>) {
    let changed = || runtime.readings.changed.notified();
    while runtime.stop.run_until_cancelled(changed()).await.is_some() {
        runtime.reload_tables().await;
    }
}

impl Runtime {
    /// Before a reload: reads files that changed, and waits a little for what nobody has read yet
    /// and files that changed need.
    pub(super) async fn read_first(
        &self,
        definitions: &[Arc<LookupDefinition>],
        changed: impl Fn(&Path) -> bool,
    ) {
        let is_file = |d: &LookupDefinition| matches!(d.plan.place(), Place::File(_));
        let known = |d: &LookupDefinition| matches!(self.options.tables.newest(d), Ok(Some(_)));
        let (files, peers): (Definitions, Definitions) =
            definitions.iter().cloned().partition(|d| is_file(d));
        let needed = |d: &Arc<LookupDefinition>| !known(d) && changed(&d.header.file.path);
        let peers: Definitions = peers.into_iter().filter(needed).collect();
        self.readings.begin(&files);
        self.readings.begin(&peers);
        // What takes longer is read on.
        let files = tokio::time::timeout(FILES, self.readings.ended(&files));
        let peers = tokio::time::timeout(PEERS, self.readings.ended(&peers));
        let _ = tokio::join!(files, peers);
    }

    /// The pipeline files that cannot run for want of a table.
    pub(super) fn wanting(
        &self,
        definitions: &[Arc<LookupDefinition>],
        tables: &Tables,
    ) -> Refused {
        let mut refused = Refused::new();
        for definition in definitions {
            if matches!(tables.newest(definition), Ok(Some(_))) {
                continue;
            }
            let why = tables.error(definition);
            let message = format!("lookup `{}` cannot be read: {why}", definition.id);
            let wrong = Diagnostic::error("W047", message)
                .at(&definition.header)
                .hint("it is tried again every ten seconds");
            refused.entry(definition.header.file.path.clone()).or_default().push(wrong);
        }
        refused
    }

    /// From now on these tables are kept fresh: those of `files`, and those of what runs in their
    /// stead.
    pub(super) fn define(&self, files: Definitions, running: &Loaded) {
        let all = all_of(files, running);
        self.options.tables.forget_others(&all);
        *self.definitions.lock() = all;
    }

    /// What is known of each lookup table.
    pub fn lookups(&self) -> Vec<LookupStatus> {
        self.options.tables.status(&self.definitions.lock())
    }

    /// Forgets versions and plans that nothing needs any more.
    async fn tidy(&self) {
        // No plan comes into being meanwhile. What is in use first: a checkpoint that is saved later
        // names a plan that is in memory now.
        let known = self.reloading.lock().await;
        tokio::task::block_in_place(|| {
            let mut needed = self.options.tables.in_use();
            needed.extend(known.good.values().flat_map(|b| b.lookups.values().cloned()));
            let checkpoints = &self.shared.checkpoints;
            let Ok(mut plans) = checkpoints.plans_named() else { return };
            for running in self.running.lock().values() {
                plans.insert(running.plan.lock().hash.clone());
            }
            for plan in &plans {
                let bundle = checkpoints.load_plan(plan);
                needed.extend(bundle.into_iter().flat_map(|b| b.lookups.into_values()));
            }
            checkpoints.retain_plans(&plans, UNUSED);
            self.options.tables.tidy(&needed, UNUSED, SPARE_MAX);
        });
    }
}

/// The tables of `files`, and those of what is `loaded` in their stead.
pub(super) fn all_of(files: Definitions, loaded: &Loaded) -> Definitions {
    let mut all = files;
    for definition in &loaded.plan.lookups {
        let same = |d: &Arc<LookupDefinition>| {
            d.key == definition.key && d.header.file.path == definition.header.file.path
        };
        if !all.iter().any(same) {
            all.push(definition.clone());
        }
    }
    all
}

/// The newest versions by key, as far as they are known.
pub(super) fn versions(tables: &Tables, of: &[Arc<LookupDefinition>]) -> Versions {
    let version = |d: &Arc<LookupDefinition>| {
        let newest = tables.newest(d).ok().flatten();
        (d.key.clone(), newest.map(|lookup| lookup.version().clone()))
    };
    of.iter().map(version).collect()
}

/// Files that changed between two looks at them.
pub(super) fn changed_files<'a>(
    before: &'a BTreeMap<PathBuf, Option<Vec<u8>>>,
    after: &'a BTreeMap<PathBuf, Option<Vec<u8>>>,
) -> impl Fn(&Path) -> bool + 'a {
    move |path| before.get(path) != after.get(path)
}
