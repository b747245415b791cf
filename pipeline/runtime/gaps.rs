//! Stretches of the journal that nobody will read any more though somebody needed them: given up past
//! a backlog, or trimmed while their reader was away. Kept for people, in `data/gaps.json`: over
//! restarts, and when a detached sink is back.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Consumer, read_or_anew, write_atomically};

/// What is known.
const FILE: &str = "gaps.json";
/// Most that are kept; the oldest go first. Each is in the log, too.
const GAPS_MAX: usize = 100;
/// How long they are kept, nanoseconds: a week.
const KEPT_NS: i64 = 7 * 24 * 3_600_000_000_000;

/// One stretch: the entries behind `after` and up to `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Whose it was.
    pub pipeline: Arc<str>,
    /// The sink, if it was detached then.
    pub sink: Option<Arc<str>>,
    /// The last entry that it had.
    pub after: u64,
    /// The last one that it lacks.
    pub to: u64,
    /// When that was found, UTC nanoseconds.
    pub time: i64,
}

pub(super) struct Gaps {
    path: PathBuf,
    known: Mutex<Vec<Gap>>,
}

impl Gaps {
    /// Reads what is known, at `now`.
    ///
    /// # Errors
    /// If the file cannot be read. A damaged one is named and begun anew.
    pub(super) fn open(data: &Path, now: i64) -> io::Result<Self> {
        let path = data.join(FILE);
        let mut known: Vec<Gap> = read_or_anew(&path)?;
        known.retain(|gap| gap.time > now.saturating_sub(KEPT_NS));
        Ok(Self { path, known: Mutex::new(known) })
    }

    /// Notes that `who` lacks the entries behind `after` and up to `to`.
    pub(super) fn add(&self, who: &Consumer, after: u64, to: u64, time: i64) {
        let (pipeline, sink) = (who.pipeline.clone(), who.sink.clone());
        let mut known = self.known.lock();
        // Found again, after a death before the next checkpoint.
        known.retain(|g| (&g.pipeline, &g.sink, g.after) != (&pipeline, &sink, after));
        known.push(Gap { pipeline, sink, after, to, time });
        let more = known.len().saturating_sub(GAPS_MAX);
        known.drain(..more);
        let text = serde_json::to_vec(&*known).unwrap_or_default();
        if let Err(error) = write_atomically(&self.path, &text) {
            tracing::warn!(%error, "a gap will not be known after a restart");
        }
    }

    /// All that are known, oldest first.
    pub(super) fn all(&self) -> Vec<Gap> {
        self.known.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn gaps_are_known_after_a_restart_and_once() {
        let data = tempfile::tempdir().unwrap();
        let who = Consumer::detached("p", "s");
        let gaps = Gaps::open(data.path(), 0).unwrap();
        gaps.add(&who, 5, 9, 1);
        gaps.add(&who, 5, 12, 2);
        gaps.add(&Consumer::pipeline("p"), 1, 3, 3);
        let gaps = Gaps::open(data.path(), 10).unwrap();
        let all: Vec<_> = gaps.all().iter().map(|g| (g.sink.is_some(), g.after, g.to)).collect();
        assert_eq!(all, [(true, 5, 12), (false, 1, 3)]);
        assert_eq!(Gaps::open(data.path(), KEPT_NS + 2).unwrap().all().len(), 1, "for a week");
        std::fs::write(data.path().join(FILE), "[{").unwrap();
        assert!(Gaps::open(data.path(), 10).unwrap().all().is_empty());
    }
}
