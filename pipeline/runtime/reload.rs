//! The one way in which what runs changes: read everything, plan it (pure), test it, prepare what
//! may fail, and swap at one mark (see `runtime/swap.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Runtime;
use crate::checkpoint::write_atomically;
use crate::config::{self, FileState, FileStatus, Loaded};
use crate::diagnostic::Diagnostics;
use crate::intake::now;
use crate::plan::{PipelinePlan, SourceDefinition};
use crate::testing;

/// File in the data folder with the last good text of every pipeline file.
const LAST_GOOD: &str = "last_good.json";
/// Files of the pipelines folder that are watched at most, those in folders below included.
const FILES_MAX: usize = 10_000;

/// Files whose present text must not run, and why.
pub(super) type Refused = BTreeMap<PathBuf, Diagnostics>;

/// What is known of the last reload.
#[derive(Default)]
pub(super) struct Known {
    /// Last good text of each file.
    pub(super) good: config::LastGood,
    /// Whether `good` was read from the data folder.
    read: bool,
    /// What was read, by path; `None` where there was no file.
    content: BTreeMap<PathBuf, Option<Vec<u8>>>,
    /// What shall run.
    pub(super) plans: BTreeMap<Arc<str>, Arc<PipelinePlan>>,
    pub(super) sources: BTreeMap<Arc<str>, Arc<SourceDefinition>>,
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
        self.reload_known(&mut known).await
    }

    /// [`Runtime::reload`], if any file changed since the last one.
    pub(super) async fn reload_if_changed(&self) {
        let mut known = self.reloading.lock().await;
        if self.content(&known) != known.content {
            self.reload_known(&mut known).await;
        }
    }

    pub(super) async fn reload_known(&self, known: &mut Known) -> Outcome {
        let before = self.outcome();
        if self.stop.is_cancelled() {
            return before;
        }
        let outcome = self.reload_locked(known).await;
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

    async fn reload_locked(&self, known: &mut Known) -> Outcome {
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
        // Before reading: what is edited meanwhile differs from this and is read again.
        let content = self.content(known);
        let lookups = self.planned(&known.good).plan.lookups;
        let refused = self.refresh_first(&lookups).await;
        let loaded = self.load(&known.good, refused);
        self.options.tables.forget_others(&lookups);
        *self.definitions.lock() = lookups;
        known.plans = loaded.plan.pipelines.clone();
        known.content = self.content(known);
        known.content.extend(content);
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

    /// Reads and plans all files: which lookup tables there are shows, before one of them was read.
    fn planned(&self, good: &config::LastGood) -> Loaded {
        let o = &self.options;
        let outside = (&o.environment, &o.tables);
        tokio::task::block_in_place(|| {
            config::load(&o.pipelines, &o.components, outside, good, &Refused::new())
        })
    }

    /// Reads and plans all files; those whose own tests fail count as broken. Requests that came
    /// to this thread go on on another one meanwhile.
    pub(super) fn load(&self, good: &config::LastGood, refused: Refused) -> Loaded {
        tokio::task::block_in_place(|| self.load_here(good, refused))
    }

    fn load_here(&self, good: &config::LastGood, mut refused: Refused) -> Loaded {
        let o = &self.options;
        let read = |refused: &Refused| {
            let outside = (&o.environment, &o.tables);
            config::load(&o.pipelines, &o.components, outside, good, refused)
        };
        let mut loaded = read(&refused);
        let before = refused.len();
        for pipeline in loaded.plan.pipelines.values() {
            let failures = testing::run(pipeline);
            if !failures.0.is_empty() {
                refused.insert(pipeline.path.clone(), failures);
            }
        }
        if refused.len() > before {
            loaded = read(&refused);
        }
        loaded
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
