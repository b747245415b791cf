//! Pipelines that would run but for a lookup table that was never read. Where each would have begun
//! is marked, and the journal stays from there on, so that it misses nothing that came meanwhile;
//! but no more of it than its `backlog` may be.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::reload::Refused;
use super::{Runtime, Shared};
use crate::backlog::{Backlog, Policy};
use crate::checkpoint::{Consumer, read_or_anew, write_atomically};
use crate::config::Loaded;
use crate::plan::{From, PipelinePlan};

/// File in the data folder.
const FILE: &str = "waiting.json";

/// Pipelines by name.
type Plans = BTreeMap<Arc<str>, Arc<PipelinePlan>>;

/// The pipelines that wait.
pub(super) struct Waiting {
    path: PathBuf,
    /// What each would be, as far as that is known.
    plans: Mutex<Plans>,
    noted: Mutex<Noted>,
}

/// What is kept of them over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    /// The journal's id, hex.
    journal: String,
    /// Pipelines by name with the entry behind which each begins.
    pipelines: BTreeMap<String, u64>,
}

impl Waiting {
    /// Reads who waits, and holds the journal for them.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn open(data: &Path, shared: &Shared) -> io::Result<Self> {
        let path = data.join(FILE);
        let journal = format!("{:032x}", shared.journal.id());
        let mut noted: Noted = read_or_anew(&path)?;
        if noted.journal != journal {
            noted = Noted { journal, ..Noted::default() };
        }
        for (name, position) in &noted.pipelines {
            shared.holds.take(&Consumer::pipeline(name), || *position);
        }
        Ok(Self { path, plans: Mutex::default(), noted: Mutex::new(noted) })
    }

    /// What `who` would be, if it waits.
    pub(super) fn plan(&self, who: &Consumer) -> Option<Arc<PipelinePlan>> {
        self.plans.lock().get(&who.pipeline).filter(|_| who.sink.is_none()).cloned()
    }
}

impl Runtime {
    /// Marks where those of `planned` begin whose files are refused `for_tables` and that therefore
    /// are not among what is `loaded`. Those that were marked and begin now keep their place until they
    /// do; what is gone lets go of it.
    pub(super) fn wait_for_tables(&self, for_tables: &Refused, planned: &Plans, loaded: &Loaded) {
        let begun = |who: &Consumer| {
            self.running.lock().contains_key(who) || self.down.lock().contains_key(who)
        };
        let waits = |(name, plan): &(&Arc<str>, &Arc<PipelinePlan>)| {
            for_tables.contains_key(&plan.path)
                && plan.from == From::Now
                && !loaded.plan.pipelines.contains_key(*name)
                && !begun(&Consumer::pipeline(name))
        };
        // What is older it gives up: nobody is refused for one that does not run.
        let bounded = |plan: &PipelinePlan| {
            let backlog = Backlog { policy: Policy::Skip, ..plan.backlog };
            Arc::new(PipelinePlan { backlog, ..plan.clone() })
        };
        let waiting: Plans = planned
            .iter()
            .filter(waits)
            .map(|(name, plan)| (name.clone(), bounded(plan)))
            .collect();
        let holds = &self.shared.holds;
        let mut noted = self.waiting.noted.lock();
        let mut next = Noted { pipelines: BTreeMap::new(), ..noted.clone() };
        for name in waiting.keys() {
            let who = Consumer::pipeline(name);
            let held = holds.position(&who);
            let position = held.unwrap_or_else(|| {
                tracing::info!(pipeline = %name, "waits for a lookup table");
                holds.take(&who, || self.shared.journal.head())
            });
            next.pipelines.insert(name.to_string(), position);
        }
        for (name, position) in &noted.pipelines {
            let who = Consumer::pipeline(name);
            if next.pipelines.contains_key(name) || begun(&who) {
                continue;
            }
            if loaded.plan.pipelines.contains_key(&**name) {
                // Until its first checkpoint a crash would begin it anew.
                next.pipelines.insert(name.clone(), *position);
            } else {
                holds.release(&who);
            }
        }
        if next != *noted {
            let text = serde_json::to_vec_pretty(&next).unwrap_or_default();
            if let Err(error) = write_atomically(&self.waiting.path, &text) {
                tracing::error!(%error, "`{}` cannot be written", self.waiting.path.display());
            }
            *noted = next;
        }
        *self.waiting.plans.lock() = waiting;
    }
}
