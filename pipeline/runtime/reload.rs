//! The one way in which what runs changes: read everything, plan it (pure), test it, prepare what
//! may fail, and swap at one mark.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::pipeline::{Begin, Change, start};
use super::{MARK_DEADLINE, Runtime};
use crate::checkpoint::write_atomically;
use crate::config::{self, FileState, Loaded};
use crate::intake::now;
use crate::plan::{From, PipelinePlan};
use crate::testing;

/// File in the data folder with the last good text of every pipeline file.
const LAST_GOOD: &str = "last_good.json";

/// What a reload remembers for the next.
#[derive(Default)]
pub(super) struct Known {
    /// Last good text of each file.
    good: config::LastGood,
    /// Whether `good` was read from the data folder.
    read: bool,
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

impl Runtime {
    /// Brings what runs in line with the present files. Returns when the swap is done or refused;
    /// a pipeline that is far behind its mark swaps later, which the outcome says.
    pub async fn reload(&self) -> Outcome {
        let mut known = self.reloading.lock().await;
        if self.stop.is_cancelled() {
            return self.outcome();
        }
        let outcome = self.reload_locked(&mut known).await;
        for text in &outcome.diagnostics {
            if text.starts_with("error") {
                tracing::error!("{text}");
            } else {
                tracing::warn!("{text}");
            }
        }
        for text in &outcome.events {
            tracing::info!("{text}");
        }
        let ok = f64::from(u8::from(outcome.ok));
        self.shared.telemetry.gauge("weir_config_ok", "Whether every file is live", ok);
        self.shared.telemetry.count(
            "weir_config_reloads_total",
            "Reloads that changed something",
            1.0,
        );
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
        let loaded = self.load(&known.good);
        outcome.diagnostics = loaded.diagnostics.0.iter().map(ToString::to_string).collect();
        outcome.files = loaded
            .files
            .iter()
            .map(|f| FileOutcome {
                path: f.path.display().to_string(),
                state: match f.state {
                    FileState::Live => "live",
                    FileState::Kept => "kept",
                    FileState::LeftOut => "left_out",
                },
            })
            .collect();
        outcome.ok = outcome.files.iter().all(|f| f.state == "live");
        match self.sources.prepare(&loaded.plan.sources).await {
            Ok(refused) => outcome.events.extend(refused),
            Err(why) => {
                outcome.ok = false;
                outcome.events.push(format!("nothing was changed: {why}"));
                outcome.time = now();
                return outcome;
            }
        }
        crate::failpoint!("reload.prepared");
        self.swap(&loaded, &mut outcome).await;
        crate::failpoint!("reload.done");
        known.good = loaded.good;
        let good = serde_json::to_vec(&known.good).unwrap_or_default();
        if let Err(e) = write_atomically(&good_path, &good) {
            outcome.events.push(format!("`{}` could not be written: {e}", good_path.display()));
        }
        outcome.time = now();
        outcome
    }

    /// Reads and plans all files; those whose own tests fail count as broken.
    fn load(&self, good: &config::LastGood) -> Loaded {
        let o = &self.options;
        let read = |refused: &BTreeMap<PathBuf, _>| {
            config::load(&o.pipelines, &o.components, &o.environment, good, refused)
        };
        let mut refused = BTreeMap::new();
        let mut loaded = read(&refused);
        for pipeline in loaded.plan.pipelines.values() {
            let failures = testing::run(pipeline);
            if !failures.0.is_empty() {
                refused.insert(pipeline.path.clone(), failures);
            }
        }
        if !refused.is_empty() {
            loaded = read(&refused);
        }
        loaded
    }

    async fn swap(&self, loaded: &Loaded, outcome: &mut Outcome) {
        let wanted = &loaded.plan.pipelines;
        let running = self.pipelines.lock().clone();
        let mut changes = Vec::new();
        let mut verbs = BTreeMap::new();
        for (name, r) in &running {
            let present = r.plan.lock().hash.clone();
            match wanted.get(name) {
                Some(plan) if plan.hash == present => *r.plan.lock() = plan.clone(),
                Some(plan) => {
                    verbs.insert(name.clone(), "changed");
                    changes.push((r.clone(), Change::Swap(plan.clone())));
                }
                None => {
                    verbs.insert(name.clone(), "removed");
                    changes.push((r.clone(), Change::Remove));
                }
            }
        }
        let fresh: Vec<_> =
            wanted.values().filter(|p| !running.contains_key(&p.name)).cloned().collect();
        for plan in fresh {
            self.begin(plan, outcome).await;
        }
        for (name, result) in self.at_mark(changes, MARK_DEADLINE).await {
            let verb = verbs.get(&name).copied().unwrap_or_default();
            match result {
                Ok(notes) => {
                    outcome.events.push(format!("pipeline `{name}` {verb}"));
                    outcome.events.extend(notes.iter().map(|n| format!("pipeline `{name}`: {n}")));
                    if verb == "removed" {
                        self.forget(&name);
                    }
                }
                Err(why) => {
                    outcome.ok = false;
                    outcome.events.push(format!("pipeline `{name}` is not {verb}: {why}"));
                }
            }
        }
        // Sources last: whoever reads a new one is there before its first entry, and whoever
        // stops reading an old one has.
        self.sources.swap(&loaded.plan.sources).await;
    }

    /// Starts a pipeline that does not run: where it left off if it is known, else at the head.
    async fn begin(&self, plan: Arc<PipelinePlan>, outcome: &mut Outcome) {
        let name = plan.name.clone();
        let (begin, how) = self.beginning(&plan).await;
        match start(self.shared.clone(), plan, begin).await {
            Ok((running, notes)) => {
                self.insert(name.clone(), running);
                outcome.events.push(format!("pipeline `{name}` started {how}"));
                outcome.events.extend(notes.iter().map(|n| format!("pipeline `{name}`: {n}")));
            }
            Err(why) => {
                outcome.ok = false;
                outcome.events.push(format!("pipeline `{name}` did not start: {why}"));
            }
        }
    }

    async fn beginning(&self, plan: &PipelinePlan) -> (Begin, String) {
        let journal = &self.shared.journal;
        let saved = self.shared.checkpoints.load_all().map(|(all, _)| all).unwrap_or_default();
        let saved =
            saved.into_iter().find(|c| c.pipeline == *plan.name && c.journal == journal.id());
        if let Some(saved) = saved {
            let position = saved.position;
            if position + 1 >= journal.oldest() {
                let how = format!("where it left off, behind entry {position}");
                return (Begin::Checkpoint(Box::new(saved)), how);
            }
            let oldest = journal.oldest();
            let how = format!(
                "at entry {oldest}: it left off behind entry {position}, and the journal no longer \
                 has what lies between"
            );
            return (Begin::After(oldest - 1), how);
        }
        match plan.from {
            From::Now => (Begin::After(journal.head()), "at the head of the journal".to_owned()),
            From::Oldest => {
                let oldest = journal.oldest();
                (Begin::After(oldest - 1), format!("at the oldest entry, {oldest}"))
            }
            From::Time(time) => {
                let after = self.before(time).await;
                (Begin::After(after), format!("behind entry {after}"))
            }
        }
    }

    /// Offset of the last entry received before `time`, UTC nanoseconds.
    async fn before(&self, time: i64) -> u64 {
        let journal = &self.shared.journal;
        let head = journal.head();
        let mut after = journal.oldest() - 1;
        let mut reader = journal.reader(after);
        while after < head {
            let Ok(entries) = reader.next().await else { break };
            for entry in entries {
                if entry.head.received >= time {
                    return after;
                }
                after = entry.offset;
            }
        }
        after
    }

    fn forget(&self, name: &Arc<str>) {
        self.shared.holding.lock().retain(|n| n != name);
        self.pipelines.lock().remove(name);
        self.shared.telemetry.retain(|l| l.pipeline != *name);
    }
}
