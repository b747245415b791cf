//! Changes of what a table lists: durable first, then visible.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use super::Table;
use super::folder::staged_name;
use crate::disk::verify;
use crate::entity_log::{ChunkFile, ChunkMeta, EntitySet};
use crate::error::{Result, StoreError};
use crate::file::{FileEntry, FileMeta};
use crate::manifest::{Manifest, Record, WriterId};

/// A file that a writer staged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StagedFile {
    /// The mark at which it was staged.
    pub(crate) mark: u64,
    /// What the manifest will say of it.
    pub(crate) meta: FileMeta,
}

/// A change that a merge or retention prepared aside.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Files that shall be listed no more; all of them must still be listed.
    pub(crate) remove: Vec<Arc<FileEntry>>,
    /// Files that take their place.
    pub(crate) add: Vec<FileMeta>,
}

impl Table {
    /// Lists what `writer` staged up to `mark`, and lets go of the hot rows that it covers, in
    /// one step. What is in already changes nothing.
    ///
    /// Recorded is not `mark` but the mark of the newest file: a flush takes all rows that the
    /// writer has for this table, so every row from entries up to there is in, while rows of
    /// entries after it may still be carried.
    pub(crate) fn commit(
        self: &Arc<Self>,
        writer: &WriterId,
        mark: u64,
        files: &[StagedFile],
        lane: u64,
    ) -> Result<()> {
        let mut manifest = self.manifest.lock();
        let listing = manifest.listing();
        let newest = listing.commits.get(writer).copied();
        let mut records = Vec::new();
        let mut added = Vec::new();
        for file in files.iter().filter(|f| newest.is_none_or(|newest| f.mark > newest)) {
            let path = self.folders.files.join(&*file.meta.name);
            let found = path.metadata().map(|m| m.len());
            if found.as_ref().is_ok_and(|len| *len == file.meta.bytes) {
                listing.add(&file.meta, &mut records);
                added.push(Arc::new(file.meta.clone()));
                continue;
            }
            match found {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::io("cannot read", &path)(e));
                }
                // No way brings it back; the rest goes on.
                _ => {
                    let why = "a staged file is gone or cut: its rows are lost";
                    tracing::error!(table = %self.name, file = %file.meta.name, "{why}");
                    self.note_damage(&file.meta.name, why);
                }
            }
        }
        if let Some(mark) = files.iter().map(|f| f.mark).max()
            && newest.is_none_or(|newest| mark > newest)
        {
            records.push(Record::Commit { writer: writer.clone(), mark });
        }
        let signal = self.state.lock().signal.clone();
        if let Some(signal) = signal
            && listing.signal.is_none()
        {
            records.push(Record::Signal { name: signal.as_str().into() });
        }
        if !records.is_empty() {
            manifest.append(&records)?;
        }
        // The shared columns of the listing, not a copy of each commit's own.
        let listed = |name: &Arc<str>| manifest.listing().files.get(name).cloned();
        let entries: Vec<Arc<FileEntry>> =
            added.iter().filter_map(|m| listed(&m.name)).map(|m| self.entry(m)).collect();
        let mut state = self.state.lock();
        for entry in entries {
            self.counters.bytes_flushed.fetch_add(entry.meta.bytes, Relaxed);
            state.files.insert(entry.meta.name.clone(), entry);
        }
        state.hot.retain(|s| s.lane != lane || s.staged.is_none_or(|staged| staged > mark));
        state.files_changed();
        state.hot_changed();
        Ok(())
    }

    /// The entry up to which every row that `writer` has for this table is in files.
    pub(crate) fn committed(&self, writer: &WriterId) -> Option<u64> {
        self.manifest.lock().listing().commits.get(writer).copied()
    }

    /// The newest commit of any writer that reads `journal`.
    pub(crate) fn newest_commit(&self, journal: u128) -> Option<(WriterId, u64)> {
        let manifest = self.manifest.lock();
        let commits = manifest.listing().commits.iter().filter(|(w, _)| w.journal == journal);
        commits.max_by_key(|(_, mark)| **mark).map(|(writer, mark)| (writer.clone(), *mark))
    }

    /// Applies a prepared change if all its inputs are still listed; whether it was.
    pub(crate) fn change(self: &Arc<Self>, change: &Change) -> Result<bool> {
        let mut manifest = self.manifest.lock();
        let listing = manifest.listing();
        if change.remove.iter().any(|f| !listing.files.contains_key(&f.meta.name)) {
            return Ok(false);
        }
        let mut records: Vec<Record> =
            change.remove.iter().map(|f| Record::Remove { name: f.meta.name.clone() }).collect();
        for file in &change.add {
            listing.add(file, &mut records);
        }
        if records.is_empty() {
            return Ok(true);
        }
        manifest.append(&records)?;
        let listed = |name: &Arc<str>| manifest.listing().files.get(name).cloned();
        let entries: Vec<Arc<FileEntry>> =
            change.add.iter().filter_map(|m| listed(&m.name)).map(|m| self.entry(m)).collect();
        let mut state = self.state.lock();
        for file in &change.remove {
            // Under the lock: a sweep never finds it neither listed nor waiting here.
            if let Some(file) = state.files.remove(&file.meta.name) {
                self.graves.file(file);
            }
        }
        for entry in entries {
            self.counters.bytes_merged.fetch_add(entry.meta.bytes, Relaxed);
            state.files.insert(entry.meta.name.clone(), entry);
        }
        state.files_changed();
        Ok(true)
    }

    /// A reader could not read `file`. If the file is gone or does not hold what it should, it is
    /// set aside with its own entities, named in the log and in [`Table::damaged`], and left out
    /// of later versions. Telling it twice is no harm.
    ///
    /// # Errors
    /// If the file is whole, or the disk cannot say: then the fault is the reader's or passes,
    /// and the file stays.
    pub fn report_damage(&self, file: &FileEntry, why: &str) -> Result<()> {
        let meta = &file.meta;
        match verify(&file.path, meta.bytes, meta.crc) {
            Ok(()) => {
                let path = file.path.clone();
                return Err(StoreError::Unreadable { path, why: why.to_owned() });
            }
            Err(StoreError::Damaged { .. }) => {}
            Err(e) => return Err(e),
        }
        let name = &meta.name;
        let mut manifest = self.manifest.lock();
        if !manifest.listing().files.contains_key(name) {
            return Ok(());
        }
        tracing::error!(table = %self.name, file = %name, rows = meta.rows, why,
            "a damaged file is set aside");
        self.note_damage(name, why);
        // Moved first: a file that is listed and gone is found again, one that is neither listed
        // nor moved would be swept at the next start.
        let own = file.own_chunk();
        for path in std::iter::once(&file.path).chain(&own) {
            if let Err(e) = self.move_aside(path) {
                tracing::error!(table = %self.name, error = %e, "cannot set a damaged file aside");
            }
        }
        let record = Record::SetAside { name: name.clone(), why: why.to_owned() };
        if let Err(e) = manifest.append(&[record]) {
            tracing::error!(table = %self.name, error = %e, "cannot note a damaged file");
            return Ok(());
        }
        let mut state = self.state.lock();
        state.files.remove(name);
        state.files_changed();
        Ok(())
    }

    /// The log of `day` has a further chunk.
    pub(crate) fn commit_chunk(&self, day: i32, chunk: &ChunkMeta) -> Result<()> {
        self.manifest.lock().append(&[Record::Chunk { day, chunk: chunk.clone() }])
    }

    /// Puts one chunk in the place of those in `range` of a day's log. Nothing else changes the
    /// log meanwhile: the caller holds [`crate::entity_log::EntityLog::exclusive`].
    pub(crate) fn replace_chunks(
        &self,
        day: i32,
        set: &EntitySet,
        range: Range<usize>,
        chunk: ChunkMeta,
    ) -> Result<()> {
        let file = Arc::new(ChunkFile::new(chunk, &self.folders.entities));
        let mut files = set.files();
        let old: Vec<Arc<ChunkFile>> = files.splice(range, [file]).collect();
        let chunks = files.iter().map(|f| f.meta.clone()).collect();
        self.manifest.lock().append(&[Record::Chunks { day, chunks }])?;
        *set.chunks.write() = files;
        for chunk in old {
            self.graves.chunk(chunk);
        }
        Ok(())
    }

    /// Drops the entity logs of days that are `old` and that nothing refers to.
    pub(crate) fn drop_logs(&self, old: impl Fn(i32) -> bool) -> Result<()> {
        let mut manifest = self.manifest.lock();
        let listing = manifest.listing();
        let used = |day: i32| {
            listing
                .files
                .values()
                .any(|f| matches!(&f.entities, Some(crate::file::EntityPlace::Log(d)) if *d == day))
        };
        let mut logs = self.logs.lock();
        let mut free: Vec<i32> = logs
            .iter()
            .filter(|(day, log)| old(**day) && Arc::strong_count(log) == 1 && !used(**day))
            .map(|(day, _)| *day)
            .collect();
        // Only now, with `logs` held: a flush that let go of its log has its file on disk.
        let named = self.named_days()?;
        free.retain(|day| !named.contains(day));
        if free.is_empty() {
            return Ok(());
        }
        let records: Vec<Record> = free.iter().map(|day| Record::DropLog { day: *day }).collect();
        manifest.append(&records)?;
        for log in free.iter().filter_map(|day| logs.remove(day)) {
            for chunk in log.set().files() {
                self.graves.chunk(chunk);
            }
        }
        Ok(())
    }

    /// Writes a snapshot of the manifest if one is due. Commits go on meanwhile.
    pub(crate) fn snapshot_manifest(&self) -> Result<()> {
        let (folder, listing, next) = {
            let mut manifest = self.manifest.lock();
            if !manifest.wants_snapshot() {
                return Ok(());
            }
            let (listing, next) = manifest.begin_snapshot()?;
            (manifest.folder().to_owned(), listing, next)
        };
        Manifest::write_snapshot_file(&folder, &listing, next)?;
        self.manifest.lock().finish_snapshot(next);
        Ok(())
    }

    /// Deletes files that nobody reads any more; how many.
    pub(crate) fn bury(&self, grace: std::time::Duration) -> usize {
        self.graves.bury(grace)
    }

    /// The start of the names of files that `writer` stages at `mark`.
    pub(crate) fn staged_name(writer: &WriterId, mark: u64, day: i32) -> String {
        staged_name(writer, mark, day)
    }
}
