//! The one way in which what runs changes: read everything, plan it (pure), test it, prepare what
//! may fail, and swap at one mark (see `runtime/swap.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Runtime;
use super::lookups::{Definitions, Versions, changed_files, versions};
use crate::checkpoint::write_atomically;
use crate::config::{self, FileState, FileStatus, Loaded, Present};
use crate::diagnostic::Diagnostics;
use crate::intake::now;
use crate::lookup::Tables;
use crate::plan::{PipelinePlan, SourceDefinition};
use crate::testing;

/// File in the data folder with the last good text of every pipeline file.
const LAST_GOOD: &str = "last_good.json";
/// Files of the pipelines folder that are watched at most, those in folders below included.
const FILES_MAX: usize = 10_000;

/// What a reload goes by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// The files as they are now.
    Files,
    /// What the last reload read, with the newest lookup tables.
    Held,
}

/// Files whose present text must not run, and why.
pub(super) type Refused = BTreeMap<PathBuf, Diagnostics>;

/// What is known of the last reload.
#[derive(Default)]
pub(super) struct Known {
    /// Last good text of each file.
    pub(super) good: config::LastGood,
    /// Whether `good` was read from the data folder.
    read: bool,
    /// The files as the last reload read them.
    present: Present,
    /// What was read, by path; `None` where there was no file.
    content: BTreeMap<PathBuf, Option<Vec<u8>>>,
    /// What shall run.
    pub(super) plans: BTreeMap<Arc<str>, Arc<PipelinePlan>>,
    pub(super) sources: BTreeMap<Arc<str>, Arc<SourceDefinition>>,
    /// The newest versions of lookup tables when it was planned.
    versions: Versions,
    /// The journal took no mark: it is all to be done again.
    pub(super) unfinished: bool,
}

/// How a reload went.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Outcome {
    /// Counts reloads since the start.
    pub number: u64,
    /// When it ended, UTC nanoseconds.
    pub time: i64,
    /// Whether every file is live as it stands.
    pub ok: bool,
    /// File by file.
    pub files: Vec<FileOutcome>,
    /// What is wrong, as people read it; warnings too.
    pub diagnostics: Vec<String>,
    /// What happened, pipeline by pipeline: started, changed, removed, state that was dropped,
    /// addresses that could not be opened.
    pub events: Vec<String>,
}

/// What became of one file.
#[derive(Clone, Debug, serde::Serialize)]
pub struct FileOutcome {
    /// Path.
    pub path: String,
    /// `live`, `kept` (its last good version runs) or `left_out`.
    pub state: &'static str,
}

impl FileOutcome {
    pub(super) fn of(file: &FileStatus) -> Self {
        let state = match file.state {
            FileState::Live => "live",
            FileState::Kept => "kept",
            FileState::LeftOut => "left_out",
        };
        Self { path: file.path.display().to_string(), state }
    }
}

impl Runtime {
    /// Brings what runs in line with the present files. Returns when the swap is done or refused;
    /// a pipeline that is far behind its mark swaps later, which the outcome says.
    pub async fn reload(&self) -> Outcome {
        let mut known = self.reloading.lock().await;
        self.reload_by(&mut known, By::Files).await
    }

    /// [`Runtime::reload`], if any file changed since the last one.
    pub(super) async fn reload_if_changed(&self) {
        let mut known = self.reloading.lock().await;
        if self.content(&known) != known.content {
            self.reload_by(&mut known, By::Files).await;
        }
    }

    /// Brings new rows of lookup tables to what is live. Edits of the files wait for their own reload.
    pub(super) async fn reload_tables(&self) {
        let mut known = self.reloading.lock().await;
        if versions(&self.options.tables, &self.definitions.lock()) != known.versions {
            self.reload_again(&mut known).await;
        }
    }

    /// What the last reload did not get done.
    pub(super) async fn reload_again(&self, known: &mut Known) -> Outcome {
        // There is one only behind the first reload.
        let by = if known.read { By::Held } else { By::Files };
        self.reload_by(known, by).await
    }

    async fn reload_by(&self, known: &mut Known, by: By) -> Outcome {
        let before = self.outcome();
        if self.stop.is_cancelled() {
            return before;
        }
        let outcome = self.reload_locked(known, by).await;
        // The same mistakes are not said again and again.
        if outcome.diagnostics != before.diagnostics {
            for text in &outcome.diagnostics {
                if text.starts_with("error") {
                    tracing::error!("{text}");
                } else {
                    tracing::warn!("{text}");
                }
            }
        }
        for text in &outcome.events {
            match text.contains("cannot be opened") {
                true => tracing::error!("{text}"),
                false => tracing::info!("{text}"),
            }
        }
        let ok = f64::from(u8::from(outcome.ok));
        self.shared.telemetry.gauge("weir_config_ok", "Whether every file is live", ok);
        self.shared.telemetry.count("weir_config_reloads_total", "Reloads", 1.0);
        self.outcome.send_replace(outcome.clone());
        outcome
    }

    async fn reload_locked(&self, known: &mut Known, by: By) -> Outcome {
        let mut outcome =
            Outcome { number: self.outcome.borrow().number + 1, ok: true, ..Outcome::default() };
        let good_path = self.options.data.join(LAST_GOOD);
        if !known.read {
            known.good = std::fs::read(&good_path)
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or_default();
            known.read = true;
        }
        let loaded = match by {
            By::Files => self.load_files(known).await,
            By::Held => {
                known.versions = versions(&self.options.tables, &self.definitions.lock());
                self.load_held(known)
            }
        };
        known.plans = loaded.plan.pipelines.clone();
        outcome.diagnostics = loaded.diagnostics.0.iter().map(ToString::to_string).collect();
        outcome.files = loaded.files.iter().map(FileOutcome::of).collect();
        outcome.ok = outcome.files.iter().all(|f| f.state == "live");
        match self.sources.prepare(&loaded.plan.sources).await {
            Ok(refused) => {
                outcome.ok &= refused.is_empty();
                outcome.events.extend(refused);
                crate::failpoint!("reload.prepared");
                self.swap(known, &loaded.plan.sources, &mut outcome).await;
                crate::failpoint!("reload.done");
            }
            Err(why) => {
                known.unfinished = true;
                outcome.ok = false;
                outcome.events.push(format!("nothing was changed, trying again: {why}"));
            }
        }
        known.good = loaded.good;
        let good = serde_json::to_vec(&known.good).unwrap_or_default();
        if let Err(e) = write_atomically(&good_path, &good) {
            outcome.events.push(format!("`{}` could not be written: {e}", good_path.display()));
        }
        outcome.time = now();
        outcome
    }

    /// Reads and plans all files, with lookup tables that are read before that if need be.
    async fn load_files(&self, known: &mut Known) -> Loaded {
        // Before reading: what is edited meanwhile differs from this and is read again.
        let content = self.content(known);
        let tables = &self.options.tables;
        let before = versions(tables, &self.definitions.lock());
        let read = || {
            let mut present = self.read();
            let loaded = self.plan_held(&present, &known.good, tables, &Refused::new());
            present.hold(&loaded);
            (present, loaded)
        };
        let (present, mut loaded) = tokio::task::block_in_place(read);
        let lookups = loaded.plan.lookups.clone();
        let changed = changed_files(&known.content, &content);
        self.read_first(&lookups, changed).await;
        // Those that are read while it is planned are for the next one.
        known.versions = versions(tables, &lookups);
        let planned_with = |(key, version)| before.get(key).unwrap_or(&None) == version;
        let other = !known.versions.iter().all(planned_with);
        let (wanting, planned) = (self.wanting(&lookups, tables), loaded.plan.pipelines.clone());
        loaded = tokio::task::block_in_place(|| {
            if other || !wanting.is_empty() {
                loaded = self.plan_held(&present, &known.good, tables, &wanting);
            }
            self.tested(&present, &known.good, tables, wanting.clone(), loaded)
        });
        self.wait_for_tables(&wanting, &planned, &loaded);
        self.define(lookups, &loaded);
        known.present = present;
        known.plans = loaded.plan.pipelines.clone();
        known.content = self.content(known);
        known.content.extend(content);
        loaded
    }

    /// Plans again what the last reload read.
    fn load_held(&self, known: &Known) -> Loaded {
        let tables = &self.options.tables;
        let load = || {
            let first = self.plan_held(&known.present, &known.good, tables, &Refused::new());
            let (lookups, planned) = (first.plan.lookups.clone(), first.plan.pipelines.clone());
            let wanting = self.wanting(&lookups, tables);
            let loaded = match wanting.is_empty() {
                true => first,
                false => self.plan_held(&known.present, &known.good, tables, &wanting),
            };
            let loaded = self.tested(&known.present, &known.good, tables, wanting.clone(), loaded);
            self.wait_for_tables(&wanting, &planned, &loaded);
            self.define(lookups, &loaded);
            loaded
        };
        tokio::task::block_in_place(load)
    }

    /// What a reload would load, with its lookup tables: files of tables as they are now, and what
    /// was read from peers. Requests that came to this thread go on on another one meanwhile.
    pub(super) fn look_ahead(&self, good: &config::LastGood) -> (Loaded, Tables, Definitions) {
        tokio::task::block_in_place(|| {
            let mut present = self.read();
            let tables = &self.options.tables;
            let first = self.plan_held(&present, good, tables, &Refused::new());
            present.hold(&first);
            let lookups = first.plan.lookups.clone();
            let ahead = tables.ahead(&lookups);
            let wanting = self.wanting(&lookups, &ahead);
            let loaded = match lookups.is_empty() {
                true => first,
                false => self.plan_held(&present, good, &ahead, &wanting),
            };
            (self.tested(&present, good, &ahead, wanting, loaded), ahead, lookups)
        })
    }

    fn read(&self) -> Present {
        Present::read(&self.options.pipelines, &self.options.environment)
    }

    fn plan_held(
        &self,
        present: &Present,
        good: &config::LastGood,
        tables: &Tables,
        refused: &Refused,
    ) -> Loaded {
        present.plan(&self.options.components, tables, good, refused)
    }

    /// What is loaded if files whose own tests fail count as broken.
    fn tested(
        &self,
        present: &Present,
        good: &config::LastGood,
        tables: &Tables,
        mut refused: Refused,
        loaded: Loaded,
    ) -> Loaded {
        let before = refused.len();
        for pipeline in loaded.plan.pipelines.values() {
            let failures = testing::run(pipeline);
            if !failures.0.is_empty() {
                refused.insert(pipeline.path.clone(), failures);
            }
        }
        match refused.len() > before {
            true => self.plan_held(present, good, tables, &refused),
            false => loaded,
        }
    }

    /// All that a reload would read: the files in and below the folder, and those that plans name
    /// elsewhere. As hashes, since some may be large; what is larger than any file that a plan
    /// holds changes with its time.
    fn content(&self, known: &Known) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut paths = BTreeSet::new();
        files_below(&self.options.pipelines, &mut paths);
        for plan in known.plans.values() {
            paths.extend(plan.bundle.files.keys().map(PathBuf::from));
        }
        let hash = |path: &Path| {
            use sha2::Digest;
            let stat = std::fs::metadata(path).ok()?;
            Some(match stat.len() > config::FILE_BYTES_MAX {
                true => format!("{} {:?}", stat.len(), stat.modified()).into_bytes(),
                false => sha2::Sha256::digest(std::fs::read(path).ok()?).to_vec(),
            })
        };
        let read = |path: PathBuf| {
            let hash = hash(&path);
            (path, hash)
        };
        tokio::task::block_in_place(|| paths.into_iter().map(read).collect())
    }
}

/// Files of the folder and of folders below it, without dotfiles (editors keep theirs there).
fn files_below(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if found.len() >= FILES_MAX || entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path(), found),
            Ok(_) => {
                found.insert(entry.path());
            }
            Err(_) => {}
        }
    }
}
