//! Entries that kill: the process, or the loop of a pipeline. After two deaths without progress a
//! consumer goes entry by entry and notes each before it touches it; the one at which it dies again
//! and again is skipped from then on, in every replay.
//!
//! `data/poison.json` holds what is known, `data/poison.note` the entry under way: one of all
//! consumers, so that there is no doubt whose it was. The note needs no fsync: it is to outlive the
//! process, not the machine.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Consumer, read_or_anew, write_atomically};

/// What is known.
const FILE: &str = "poison.json";
/// The entry under way.
const NOTE: &str = "poison.note";
/// Longest note: the names of a pipeline and a sink, and an offset.
const NOTE_BYTES: usize = 1024;
/// Starts from one position after which it goes entry by entry.
const STARTS: u32 = 2;
/// Deaths at one entry after which that is skipped: whoever kills the process may hit one by chance,
/// twice hardly, three times never.
const DEATHS: u32 = 3;

/// What kills, as far as it is known.
pub(super) struct Poison {
    path: PathBuf,
    note: File,
    known: Mutex<Known>,
    /// One entry at a time, whatever the consumer.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default, Serialize, Deserialize)]
struct Known {
    starts: Vec<Start>,
    suspects: Vec<Suspect>,
    skipped: Vec<At>,
}

/// How often a consumer has started from one position.
#[derive(Serialize, Deserialize)]
struct Start {
    pipeline: Arc<str>,
    sink: Option<Arc<str>>,
    position: u64,
    count: u32,
}

#[derive(Serialize, Deserialize)]
struct Suspect {
    at: At,
    deaths: u32,
}

/// An entry, for a pipeline and its detached sinks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct At {
    pipeline: Arc<str>,
    offset: u64,
}

impl Poison {
    /// Reads what is known, and blames the entry at which the process before died, if it did so at
    /// one. What lies before `oldest` is forgotten.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub(super) fn open(data: &Path, oldest: u64) -> io::Result<Self> {
        let path = data.join(FILE);
        let mut known: Known = read_or_anew(&path)?;
        known.suspects.retain(|s| s.at.offset >= oldest);
        known.skipped.retain(|at| at.offset >= oldest);
        let mut options = File::options();
        let note = options.read(true).write(true).create(true).truncate(false);
        let note = note.open(data.join(NOTE))?;
        let poison = Self { path, note, known: Mutex::new(known), turn: Default::default() };
        poison.blame(|_| true);
        Ok(poison)
    }

    /// `who` starts from `position`. Whether it has to go entry by entry.
    pub(super) fn starts(&self, who: &Consumer, position: u64) -> bool {
        let mut known = self.known.lock();
        let same = |s: &Start| s.pipeline == who.pipeline && s.sink == who.sink;
        let before = known.starts.iter().find(|s| same(s) && s.position == position);
        let count = before.map_or(0, |s| s.count).saturating_add(1);
        known.starts.retain(|s| !same(s));
        let (pipeline, sink) = (who.pipeline.clone(), who.sink.clone());
        known.starts.push(Start { pipeline, sink, position, count });
        self.save(&known);
        count >= STARTS
    }

    /// Everything ended in good order: what was started did not die.
    pub(super) fn stopped(&self) {
        self.clear();
        let mut known = self.known.lock();
        known.starts.clear();
        self.save(&known);
    }

    /// The loop of `who` failed. If that was at an entry that it had noted, that is to blame.
    pub(super) fn failed(&self, who: &Consumer) {
        self.blame(|at| at.pipeline == who.pipeline);
    }

    /// What is skipped: pipeline and entry.
    pub(super) fn all_skipped(&self) -> Vec<(Arc<str>, u64)> {
        self.known.lock().skipped.iter().map(|at| (at.pipeline.clone(), at.offset)).collect()
    }

    /// The entries that `who` skips.
    pub(super) fn skipped(&self, who: &Consumer) -> HashSet<u64> {
        let known = self.known.lock();
        let of = known.skipped.iter().filter(|at| at.pipeline == who.pipeline);
        of.map(|at| at.offset).collect()
    }

    /// Notes the entry that is touched next; nobody else touches one before [`Turn::done`].
    pub(super) async fn turn(&self, who: &Consumer, offset: u64) -> Turn<'_> {
        let one = self.turn.lock().await;
        self.write(
            &serde_json::to_vec(&At { pipeline: who.pipeline.clone(), offset }).unwrap_or_default(),
        );
        Turn { poison: self, _one: one }
    }

    fn blame(&self, mine: impl Fn(&At) -> bool) {
        let Some(at) = self.noted().filter(mine) else { return };
        self.clear();
        let mut known = self.known.lock();
        let before = known.suspects.iter().find(|s| s.at == at).map_or(0, |s| s.deaths);
        let deaths = before + 1;
        known.suspects.retain(|s| s.at != at);
        let (pipeline, offset) = (&at.pipeline, at.offset);
        if deaths < DEATHS {
            tracing::error!(%pipeline, offset, deaths, "it died at this entry");
            known.suspects.push(Suspect { at, deaths });
        } else {
            tracing::error!(
                %pipeline,
                offset,
                "it died at this entry too often: skipped from now on, raw in `<source>.errors`"
            );
            known.skipped.push(at);
        }
        self.save(&known);
    }

    fn noted(&self) -> Option<At> {
        let mut text = vec![0; NOTE_BYTES];
        let read = self.note.read_at(&mut text, 0).ok()?;
        let end = text[..read].iter().position(|b| *b == 0).unwrap_or(read);
        serde_json::from_slice(&text[..end]).ok()
    }

    fn clear(&self) {
        self.write(b"");
    }

    fn write(&self, text: &[u8]) {
        let mut note = [0; NOTE_BYTES];
        if let Some(place) = note.get_mut(..text.len()) {
            place.copy_from_slice(text);
        }
        if let Err(error) = self.note.write_all_at(&note, 0) {
            tracing::warn!(%error, "the entry under way cannot be noted");
        }
    }

    fn save(&self, known: &Known) {
        let text = serde_json::to_vec_pretty(known).unwrap_or_default();
        if let Err(error) = write_atomically(&self.path, &text) {
            tracing::warn!(path = %self.path.display(), %error, "cannot be written");
        }
    }
}

/// An entry under way.
pub(super) struct Turn<'a> {
    poison: &'a Poison,
    _one: tokio::sync::MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// It was survived.
    pub(super) fn done(self) {
        self.poison.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn an_entry_that_kills_often_is_skipped() {
        let data = tempfile::tempdir().unwrap();
        let shop = Consumer::pipeline("shop");
        let sink = Consumer::detached("shop", "out");
        let open = || Poison::open(data.path(), 1).unwrap();
        let poison = open();
        assert!(!poison.starts(&shop, 3), "it died once at most");
        drop(poison);
        let poison = open();
        assert!(poison.starts(&shop, 3));
        assert!(!poison.starts(&Consumer::pipeline("other"), 3));
        poison.turn(&shop, 7).await.done();
        for _ in 1..DEATHS {
            drop(open().turn(&shop, 8).await);
        }
        let poison = open();
        assert!(poison.skipped(&shop).is_empty(), "may be chance");
        poison.turn(&Consumer::pipeline("other"), 8).await.done();
        drop(poison.turn(&shop, 8).await);
        poison.failed(&Consumer::pipeline("other"));
        assert!(poison.skipped(&shop).is_empty(), "another one failed");
        poison.failed(&shop);
        assert_eq!(poison.skipped(&shop), [8].into());
        let poison = open();
        assert_eq!(poison.skipped(&sink), [8].into(), "for good, and for its sinks too");
        assert!(poison.starts(&shop, 3));
        assert!(!poison.starts(&shop, 9), "it got further");
        poison.stopped();
        assert!(!open().starts(&shop, 9));
        assert!(Poison::open(data.path(), 9).unwrap().skipped(&shop).is_empty(), "trimmed");
    }
}
