//! One table: its manifest, its files, its hot rows.
//!
//! Changes of the manifest are serial, under one lock; readers and appends take another, briefly.
//! Both are held together only to switch to a new version, so that a reader always finds hot rows
//! and files that belong together.

mod commit;
mod folder;
mod graves;
mod state;
mod width;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use weir_pipeline::batch::Batch;
use weir_pipeline::memory::Account;

use crate::cache::{Cache, next_id};
use crate::entity_log::{ChunkFile, EntityLog, EntitySet};
use crate::file::{EntityPlace, FileEntry, FileMeta};
use crate::manifest::Manifest;
use crate::snapshot::TableSnapshot;

pub(crate) use commit::{Change, StagedFile};
pub(crate) use folder::Folders;
use graves::Graves;
use state::State;
use width::within_limit;

/// What the name of a table ends with that takes the rows which came too late or too early for
/// the table before the dot.
pub const LATE_SUFFIX: &str = ".late";
/// The table of rows that an operator could not process, and what the names of others like it
/// end with.
const ERRORS: (&str, &str) = ("weir_errors", ".errors");

/// Level-0 files past which writers are slowed down, so that merges catch up: a query of the newest
/// rows opens each of them.
const LEVEL0_SLOW: u64 = 256;
/// How long a writer then waits before each batch. Batches have some thousand rows: a stream goes
/// on, and its backlog shows in the journal.
const PAUSE: Duration = Duration::from_millis(100);

/// A table of a tenant.
#[derive(Debug)]
pub struct Table {
    tenant: Arc<str>,
    name: Arc<str>,
    folders: Folders,
    cache: Arc<Cache>,
    manifest: Mutex<Manifest>,
    logs: Mutex<BTreeMap<i32, Arc<EntityLog>>>,
    state: Mutex<State>,
    graves: Graves,
    retention: RwLock<Option<Duration>>,
    damaged: Mutex<Vec<(Arc<str>, String)>>,
    /// Whether its manifest was whole: what that does not name may be deleted.
    whole: bool,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    rows: AtomicU64,
    bytes_flushed: AtomicU64,
    bytes_merged: AtomicU64,
    pauses: AtomicU64,
}

/// A table in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TableStats {
    /// Listed files.
    pub files: u64,
    /// Of them, level-0 files.
    pub files_level0: u64,
    /// Rows in files.
    pub rows: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Rows that no committed file holds yet.
    pub rows_hot: u64,
    /// Earliest time in files and hot rows, UTC nanoseconds.
    pub min_time: Option<i64>,
    /// Latest time in files and hot rows, UTC nanoseconds.
    pub max_time: Option<i64>,
    /// Rows appended since start.
    pub rows_appended: u64,
    /// Bytes that flushes wrote since start.
    pub bytes_flushed: u64,
    /// Bytes that merges wrote since start.
    pub bytes_merged: u64,
    /// Bytes appended to the manifest since start.
    pub bytes_manifest: u64,
    /// Batches that waited since start because merges did not keep up.
    pub pauses: u64,
}

impl Table {
    /// The tenant that it belongs to.
    pub fn tenant(&self) -> &Arc<str> {
        &self.tenant
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The present version, pinned.
    pub fn snapshot(self: &Arc<Self>) -> Arc<TableSnapshot> {
        let retention = if self.has_any_time() { None } else { *self.retention.read() };
        let mut state = self.state.lock();
        let schema = state.schema();
        let mut files: Vec<Arc<FileEntry>> = state.files.values().cloned().collect();
        let hot = state.hot.iter().map(|slot| slot.run.clone()).collect();
        let (version, signal) = (state.version, state.signal.clone());
        drop(state);
        files.sort_by(|a, b| (a.meta.min_time, &a.meta.name).cmp(&(b.meta.min_time, &b.meta.name)));
        Arc::new(TableSnapshot {
            table: self.clone(),
            version,
            signal,
            schema,
            files,
            hot,
            retention,
        })
    }

    /// The table in numbers.
    pub fn stats(&self) -> TableStats {
        let bytes_manifest = self.manifest.lock().appended();
        let state = self.state.lock();
        let files = || state.files.values().map(|f| &f.meta);
        let hot = || state.hot.iter().map(|h| &h.run);
        let min = files().map(|f| f.min_time).chain(hot().map(|h| h.min_time)).min();
        let max = files().map(|f| f.max_time).chain(hot().map(|h| h.max_time)).max();
        TableStats {
            files: state.files.len() as u64,
            files_level0: state.level0,
            rows: files().map(|f| f.rows).sum(),
            bytes: files().map(|f| f.bytes).sum(),
            rows_hot: hot().map(|h| h.batch.num_rows() as u64).sum(),
            min_time: min,
            max_time: max,
            rows_appended: self.counters.rows.load(Relaxed),
            bytes_flushed: self.counters.bytes_flushed.load(Relaxed),
            bytes_merged: self.counters.bytes_merged.load(Relaxed),
            bytes_manifest,
            pauses: self.counters.pauses.load(Relaxed),
        }
    }

    /// Listed level-0 files.
    pub fn files_level0(&self) -> u64 {
        self.state.lock().level0
    }

    /// How long a writer waits before its next batch, because merges do not keep up; counted, and
    /// told once.
    pub fn pause(&self) -> Option<Duration> {
        let files = self.files_level0();
        if files <= LEVEL0_SLOW {
            return None;
        }
        if self.counters.pauses.fetch_add(1, Relaxed) == 0 {
            tracing::warn!(table = %self.name, files,
                "more than {LEVEL0_SLOW} files wait to be merged: writes are slowed down");
        }
        Some(PAUSE)
    }

    /// How long rows are kept; `None`: for ever.
    pub fn retention(&self) -> Option<Duration> {
        *self.retention.read()
    }

    pub(crate) fn set_retention(&self, keep: Option<Duration>) {
        *self.retention.write() = keep;
        self.state.lock().version += 1;
    }

    /// Whether this is the table of late rows of another.
    pub fn is_late(&self) -> bool {
        self.name.ends_with(LATE_SUFFIX)
    }

    /// Whether its rows may have any time, being late or errors: they are kept by their receipt.
    pub fn has_any_time(&self) -> bool {
        let (errors, suffix) = ERRORS;
        self.is_late() || &*self.name == errors || self.name.ends_with(suffix)
    }

    /// Files that could not be read and were set aside, with what was wrong.
    pub fn damaged(&self) -> Vec<(Arc<str>, String)> {
        self.damaged.lock().clone()
    }

    pub(crate) fn note_damage(&self, file: &str, why: &str) {
        let mut damaged = self.damaged.lock();
        if damaged.len() < 1_000 && damaged.iter().all(|(known, _)| **known != *file) {
            damaged.push((file.into(), why.to_owned()));
        }
    }

    /// The rows of a writer become visible. `lane` tells instances of writers apart.
    pub(crate) fn append_hot(
        &self,
        lane: u64,
        account: &Arc<Account>,
        batch: Batch,
        min_time: i64,
        max_time: i64,
    ) {
        self.counters.rows.fetch_add(batch.num_rows() as u64, Relaxed);
        let past_limit = self.state.lock().past_limit(&batch);
        let batch = within_limit(batch, &past_limit);
        self.state.lock().append(lane, account, batch, min_time, max_time);
    }

    /// What a writer has appended and not staged.
    pub(crate) fn unstaged(&self, lane: u64) -> Vec<(u64, Batch)> {
        let state = self.state.lock();
        let slots = state.hot.iter().filter(|s| s.lane == lane && s.staged.is_none());
        slots.map(|s| (s.run.id, s.run.batch.clone())).collect()
    }

    /// Gives hot rows that stay entities of their own where they are few of many: else they would hold
    /// in memory all that came with them.
    ///
    /// # Errors
    /// If the rows cannot be put together again.
    pub(crate) fn part_hot(&self, lane: u64) -> crate::error::Result<()> {
        let mut state = self.state.lock();
        let slots = state.hot.iter_mut().filter(|s| s.lane == lane && s.staged.is_none());
        for slot in slots {
            if let Some(run) = slot.run.parted()? {
                slot.run = Arc::new(run);
            }
        }
        Ok(())
    }

    /// Files hold these hot rows; which mark they belong to is not known yet.
    pub(crate) fn mark_flushed(&self, lane: u64, runs: &[u64]) {
        let mut state = self.state.lock();
        for slot in state.hot.iter_mut().filter(|s| s.lane == lane && runs.contains(&s.run.id)) {
            slot.staged = Some(u64::MAX);
        }
    }

    /// The hot rows that were flushed belong to `mark`.
    pub(crate) fn mark_staged(&self, lane: u64, mark: u64) {
        let mut state = self.state.lock();
        let flushed = |s: &&mut state::HotSlot| s.lane == lane && s.staged == Some(u64::MAX);
        for slot in state.hot.iter_mut().filter(flushed) {
            slot.staged = Some(mark);
        }
    }

    /// A writer is gone: what it has not committed will be appended again by its successor.
    pub(crate) fn drop_lane(&self, lane: u64) {
        let mut state = self.state.lock();
        state.hot.retain(|s| s.lane != lane);
        state.hot_changed();
    }

    /// The entity log of a day.
    pub(crate) fn log(&self, day: i32) -> Arc<EntityLog> {
        let mut logs = self.logs.lock();
        let new =
            || Arc::new(EntityLog::new(&self.folders.entities, Vec::new(), self.cache.clone()));
        logs.entry(day).or_insert_with(new).clone()
    }

    pub(crate) fn all_logs(&self) -> Vec<(i32, Arc<EntityLog>)> {
        self.logs.lock().iter().map(|(day, log)| (*day, log.clone())).collect()
    }

    pub(crate) fn folders(&self) -> &Folders {
        &self.folders
    }

    /// A file as readers see it.
    pub(crate) fn entry(&self, meta: Arc<FileMeta>) -> Arc<FileEntry> {
        let set = meta.entities.as_ref().map(|place| match place {
            EntityPlace::Log(day) => {
                let log = self.log(*day);
                meta.entity_max.into_iter().for_each(|id| log.take(id));
                log.set().clone()
            }
            EntityPlace::Own(chunk) => {
                let file = Arc::new(ChunkFile::new(chunk.clone(), &self.folders.entities));
                Arc::new(EntitySet::new(vec![file], self.cache.clone()))
            }
        });
        let path = self.folders.files.join(&*meta.name);
        let verified = AtomicBool::new(false);
        Arc::new(FileEntry { meta, path, set, cache: self.cache.clone(), id: next_id(), verified })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::{open, writer};

    #[test]
    fn writers_wait_where_merges_do_not_keep_up() {
        let dir = tempfile::tempdir().unwrap();
        let table = writer(&open(dir.path()), "t").table().clone();
        table.state.lock().level0 = LEVEL0_SLOW;
        assert_eq!((table.pause(), table.stats().pauses), (None, 0));
        table.state.lock().level0 += 1;
        assert_eq!((table.pause(), table.stats().pauses), (Some(PAUSE), 1));
    }
}
