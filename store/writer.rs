//! The way into a table for one sink of one pipeline: append, stage, commit, restore.
//!
//! What is appended is visible at once. `stage` writes what has gathered to files that no
//! manifest names yet, unless it is too little: then it is carried in the checkpoint. `commit`
//! lists the files and lets go of the hot rows that they hold, in one step.
//!
//! Rows come in the order of the journal: those that are appended after `stage(mark)` are from
//! entries after `mark`. So the newest commit of a table says which rows of a replay it holds
//! already. A start from an older checkpoint than the newest brings such rows: `restore` notes
//! up to where they reach, and they are dropped.

mod carry;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::BooleanArray;
use serde::{Deserialize, Serialize};
use weir_pipeline::batch::Batch;
use weir_pipeline::memory::Account;

use crate::cache::next_id;
use crate::error::{Result, StoreError};
use crate::file::FileMeta;
use crate::flush::{Place, flush, layout_of, raw_bytes};
use crate::manifest::WriterId;
use crate::normalise::{Normal, normalise, split_late};
use crate::store::Store;
use crate::table::{LATE_SUFFIX, StagedFile, Table};

/// Rows of less than this stay in the checkpoint instead of becoming a file.
pub const CARRY_BYTES: usize = 1 << 20;

/// Rows stamped further ahead of their receipt go to the table of late rows.
pub const AHEAD_MAX: Duration = Duration::from_secs(3600);

const DAY_NS: i64 = 24 * 3_600_000_000_000;

/// What a writer staged at a mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Staged {
    /// What `commit` needs; empty if nothing is to commit.
    pub work: Vec<u8>,
    /// Rows that go on into the next epoch, for `restore`.
    pub carry: Vec<u8>,
}

/// What became of an appended batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Rows in the table.
    pub rows: u64,
    /// Rows that went to its `.late`: past retention, or over an hour ahead of their receipt.
    pub late: u64,
}

#[derive(Serialize, Deserialize)]
struct Work {
    version: u32,
    tables: Vec<TableWork>,
}

#[derive(Serialize, Deserialize)]
struct TableWork {
    table: Arc<str>,
    files: Vec<StagedFile>,
}

/// One table that a writer writes to.
#[derive(Debug)]
struct Lane {
    table: Arc<Table>,
    /// Where rows in memory are counted.
    account: Arc<Account>,
    /// Tells the hot rows of this instance from those of others.
    id: u64,
    /// Staged and not committed.
    staged: Vec<StagedFile>,
    /// Flushed, and covered by no mark yet.
    flushed: Vec<FileMeta>,
    /// Size in memory of the rows that are in no file.
    unstaged: usize,
    /// Rows of entries up to here are in the table already.
    replayed: Option<u64>,
}

impl Lane {
    fn new(table: Arc<Table>, account: Arc<Account>) -> Self {
        let (staged, flushed) = (Vec::new(), Vec::new());
        Self { table, account, id: next_id(), staged, flushed, unstaged: 0, replayed: None }
    }

    /// Shows the rows that the table does not hold; how many.
    fn append(&mut self, mut normal: Normal) -> Result<u64> {
        if let Some(mark) = self.replayed
            && normal.batch.runs().iter().any(|run| run.offset <= mark)
        {
            let runs = normal.batch.runs().iter();
            let new = runs.flat_map(|run| std::iter::repeat_n(run.offset > mark, run.rows));
            let new = BooleanArray::from(new.collect::<Vec<bool>>());
            match normalise(&normal.batch.filter(&new)?)? {
                Some(left) => normal = left,
                None => return Ok(0),
            }
        }
        let rows = normal.batch.num_rows() as u64;
        self.unstaged += raw_bytes(normal.batch.rows());
        let Normal { batch, min_time, max_time } = normal;
        self.table.append_hot(self.id, &self.account, batch, min_time, max_time);
        Ok(rows)
    }

    /// Writes hot rows that are in no file to files, named after `mark`.
    fn flush(
        &mut self,
        store: &Store,
        writer: &WriterId,
        mark: u64,
        runs: Vec<(u64, Batch)>,
    ) -> Result<()> {
        let (ids, batches): (Vec<u64>, Vec<Batch>) = runs.into_iter().unzip();
        if !batches.is_empty() {
            self.flushed.extend(flush_all(store, writer, &self.table, mark, &batches)?);
            self.table.mark_flushed(self.id, &ids);
        }
        self.unstaged = 0;
        Ok(())
    }

    /// `mark` covers what was flushed.
    fn cover(&mut self, mark: u64) {
        let files = std::mem::take(&mut self.flushed).into_iter();
        self.staged.extend(files.map(|meta| StagedFile { mark, meta }));
        self.table.mark_staged(self.id, mark);
    }

    /// Notes which rows a replay brings in vain.
    fn note_replayed(&mut self, writer: &WriterId) {
        self.replayed = self.table.committed(writer);
    }
}

/// Writes to a table and to its `.late`. Not shared: each sink has its own.
#[derive(Debug)]
pub struct TableWriter {
    store: Arc<Store>,
    tenant: Arc<str>,
    id: WriterId,
    main: Lane,
    late: Option<Lane>,
    /// `restore` was called: what is appended may be a replay.
    restored: bool,
}

impl Drop for TableWriter {
    fn drop(&mut self) {
        for lane in [Some(&self.main), self.late.as_ref()].into_iter().flatten() {
            lane.table.drop_lane(lane.id);
        }
    }
}

impl TableWriter {
    pub(crate) fn new(store: Arc<Store>, table: Arc<Table>, id: WriterId) -> Self {
        let tenant = table.tenant().clone();
        let main = Lane::new(table, store.options.rows.account(&id.pipeline, &id.sink));
        Self { store, tenant, id, main, late: None, restored: false }
    }

    /// The table.
    pub fn table(&self) -> &Arc<Table> {
        &self.main.table
    }

    /// Shows rows to readers.
    ///
    /// # Errors
    /// If Arrow cannot bring a column to a type that tables have, or the table for late rows
    /// cannot be made.
    pub fn append(&mut self, batch: &Batch) -> Result<Appended> {
        let Some(normal) = normalise(batch)? else { return Ok(Appended::default()) };
        if self.main.table.has_any_time() {
            return Ok(Appended { rows: self.main.append(normal)?, late: 0 });
        }
        let (stay, late) = split_late(normal, self.main.table.retention(), AHEAD_MAX)?;
        let mut appended = Appended::default();
        if let Some(late) = late {
            appended.late = self.late_lane()?.append(late)?;
        }
        if let Some(stay) = stay {
            appended.rows = self.main.append(stay)?;
        }
        Ok(appended)
    }

    /// Whether so many rows are in no file that [`TableWriter::relieve`] comes before the next:
    /// marks are long overdue.
    pub fn is_full(&self) -> bool {
        self.unstaged() >= self.main.account.limit()
    }

    fn unstaged(&self) -> usize {
        self.main.unstaged + self.late.as_ref().map_or(0, |late| late.unstaged)
    }

    /// Writes what has gathered to files before its mark comes. Blocks on the disk.
    ///
    /// # Errors
    /// As [`TableWriter::stage`].
    pub fn relieve(&mut self) -> Result<()> {
        for lane in [Some(&mut self.main), self.late.as_mut()].into_iter().flatten() {
            let runs = lane.table.unstaged(lane.id);
            // A name like that of the mark to come: after every mark so far.
            let entries = runs.iter().flat_map(|(_, b)| b.runs().iter().map(|r| r.offset));
            let newest = entries.max().unwrap_or_default();
            lane.flush(&self.store, &self.id, newest, runs)?;
        }
        Ok(())
    }

    fn late_lane(&mut self) -> Result<&mut Lane> {
        let lane = match self.late.take() {
            Some(lane) => lane,
            None => {
                let name = format!("{}{LATE_SUFFIX}", self.main.table.name());
                let table = self.store.open_table(&self.tenant, &name)?;
                let mut lane = Lane::new(table, self.main.account.clone());
                if self.restored {
                    lane.note_replayed(&self.id);
                }
                lane
            }
        };
        Ok(self.late.insert(lane))
    }

    /// Writes what has gathered to files, fsynced, outside the manifest. Blocks on the disk.
    ///
    /// Work that was staged before and not committed is part of it again: a checkpoint may have
    /// failed in between. `last`: nothing may be carried on.
    ///
    /// # Errors
    /// If the disk refuses. Nothing is lost then: the rows stay, and a later `stage` takes them.
    pub fn stage(&mut self, mark: u64, last: bool) -> Result<Staged> {
        let mut carried = Vec::new();
        let mut tables = Vec::new();
        for lane in [Some(&mut self.main), self.late.as_mut()].into_iter().flatten() {
            let runs = lane.table.unstaged(lane.id);
            let bytes: usize = runs.iter().map(|(_, b)| raw_bytes(b.rows())).sum();
            // Rows may not be carried beside a file of the same mark, which holds all up to it.
            if last || bytes >= CARRY_BYTES || !lane.flushed.is_empty() {
                lane.flush(&self.store, &self.id, mark, runs)?;
                weir_pipeline::failpoint!("stage.flushed");
                lane.cover(mark);
            } else if !runs.is_empty() {
                lane.table.part_hot(lane.id)?;
                let batches = runs.into_iter().map(|(_, b)| b).collect();
                carried.push((lane.table.name().clone(), batches));
            }
            if !lane.staged.is_empty() {
                let (table, files) = (lane.table.name().clone(), lane.staged.clone());
                tables.push(TableWork { table, files });
            }
        }
        let mut staged = Staged::default();
        if !tables.is_empty() {
            staged.work = serde_json::to_vec(&Work { version: 1, tables })
                .map_err(|e| StoreError::Foreign { what: "work", why: e.to_string() })?;
        }
        if !carried.is_empty() {
            staged.carry = carry::encode(&carried)?;
        }
        Ok(staged)
    }

    /// Lists what was staged at `mark`. Idempotent: a mark that is in already changes nothing.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// If the disk refuses, or `work` is not what `stage` gave.
    pub fn commit(&mut self, mark: u64, work: &[u8]) -> Result<()> {
        if work.is_empty() {
            return Ok(());
        }
        let foreign = |why: String| StoreError::Foreign { what: "staged work", why };
        let work: Work = serde_json::from_slice(work).map_err(|e| foreign(e.to_string()))?;
        if work.version != 1 {
            return Err(foreign(format!("it has version {}", work.version)));
        }
        for part in work.tables {
            if part.table == *self.main.table.name() {
                commit_lane(&mut self.main, &self.id, mark, &part.files)?;
            } else if part.table.strip_suffix(LATE_SUFFIX) == Some(self.main.table.name()) {
                let id = self.id.clone();
                commit_lane(self.late_lane()?, &id, mark, &part.files)?;
            } else {
                // The sink wrote to another table when it staged this.
                let table = self.store.open_table(&self.tenant, &part.table)?;
                table.commit(&self.id, mark, &part.files, 0)?;
            }
        }
        Ok(())
    }

    /// Takes back what an earlier instance carried in its checkpoint, and deletes what it staged
    /// and no checkpoint named. After `commit` of what the checkpoint names, before `append`.
    ///
    /// # Errors
    /// If `carry` is not what `stage` gave.
    pub fn restore(&mut self, carry: &[u8]) -> Result<()> {
        self.main.table.sweep_staged(&self.id)?;
        let late = format!("{}{LATE_SUFFIX}", self.main.table.name());
        if let Some(table) = self.store.table(&self.tenant, &late) {
            table.sweep_staged(&self.id)?;
        }
        self.restored = true;
        self.main.note_replayed(&self.id);
        if let Some(late) = &mut self.late {
            late.note_replayed(&self.id);
        }
        for (table, batches) in carry::decode(carry)? {
            let is_late = table.ends_with(LATE_SUFFIX) && !self.main.table.is_late();
            let lane = if is_late { self.late_lane()? } else { &mut self.main };
            for batch in batches {
                if let Some(normal) = normalise(&batch)? {
                    lane.append(normal)?;
                }
            }
        }
        Ok(())
    }
}

fn commit_lane(lane: &mut Lane, id: &WriterId, mark: u64, files: &[StagedFile]) -> Result<()> {
    lane.table.commit(id, mark, files, lane.id)?;
    lane.staged.retain(|f| f.mark > mark);
    Ok(())
}

/// Writes batches to files; those of one layout together.
fn flush_all(
    store: &Store,
    writer: &WriterId,
    table: &Arc<Table>,
    mark: u64,
    batches: &[Batch],
) -> Result<Vec<FileMeta>> {
    let received = batches.iter().flat_map(|b| b.runs().iter().map(|r| r.received)).max();
    let day = received.unwrap_or_default().div_euclid(DAY_NS) as i32;
    let log = table.log(day);
    let prefix = Table::staged_name(writer, mark, day);
    let mut place = Place {
        files: &table.folders().files,
        prefix: &prefix,
        limits: store.limits().file(),
        turns: &store.flushing,
        log: (day, &log),
        commit_chunk: &mut |chunk| table.commit_chunk(day, chunk),
    };
    let mut out = Vec::new();
    let mut rest: Vec<&Batch> = batches.iter().collect();
    while let Some(first) = rest.first() {
        let layout = layout_of(first.signal());
        let (same, other): (Vec<&Batch>, Vec<&Batch>) =
            rest.iter().partition(|b| layout_of(b.signal()) == layout);
        let same: Vec<Batch> = same.into_iter().cloned().collect();
        if let Err(e) = flush(&same, &mut place, &mut out) {
            // The next try writes all of them again; a full disk must not fill with the last.
            for file in &out {
                std::fs::remove_file(table.folders().files.join(&*file.name)).ok();
            }
            return Err(e);
        }
        rest = other;
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
