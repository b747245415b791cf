//! What goes on beside reading and writing: merges, retention, clearing away. Each step takes
//! effect by one change of a manifest, or not at all.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use hashbrown::HashMap;
use hashbrown::HashSet;
use tokio_util::sync::CancellationToken;
use weir_pipeline::intake::now;

use crate::error::{Result, StoreError};
use crate::merge::{Limits, MergeError, Outcome, Patience, compact_log, pick, run};
use crate::store::Store;
use crate::table::{Change, Table};

const DAY_NS: i64 = 24 * 3_600_000_000_000;
/// Merges of one table in a row before the next table has its turn.
const MERGES_IN_A_ROW: usize = 8;
/// Level-0 files of a table past which its merges go on until there are fewer: every query of the
/// newest rows opens each of them.
const LEVEL0_MANY: u64 = 64;

/// Bytes of files that a round compares with their checksums, of each table: some 50 MB/s, until all
/// files that were there at the start are known to be what they should be.
const VERIFIED_BYTES: u64 = 512 << 20;

/// Merges that may fail on reading a file before it is left out.
const TRIES: u32 = 3;

/// Files that merges failed on, and how often. After [`TRIES`] they are left alone until the next
/// start: what cannot be read now and then may be the disk, what never can stops its table.
#[derive(Debug, Default)]
pub(crate) struct Failed {
    tries: HashMap<Arc<str>, u32>,
    left_out: HashSet<Arc<str>>,
}

impl Failed {
    /// Whether no file is left out.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.left_out.is_empty()
    }

    fn note(&mut self, file: &Arc<str>) {
        let tries = self.tries.entry(file.clone()).or_default();
        *tries += 1;
        if *tries >= TRIES {
            self.left_out.insert(file.clone());
        }
    }
}

impl Store {
    /// Does the work of all tables, now and then, until `stop` is cancelled. Work runs on threads
    /// that may block; one merge at a time, tables with the most files to merge first.
    pub async fn run_maintenance(self: Arc<Self>, stop: CancellationToken) {
        let mut failed: HashMap<(Arc<str>, Arc<str>), Failed> = HashMap::new();
        let mut tick = tokio::time::interval(self.options.maintenance_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let mut tables = self.all();
            tables.sort_by_cached_key(|table| std::cmp::Reverse(table.files_level0()));
            for table in tables {
                if stop.is_cancelled() {
                    return;
                }
                let (store, job_table) = (self.clone(), table.clone());
                let mut not = failed.remove(&key(&table)).unwrap_or_default();
                let stop = stop.clone();
                let work = tokio::task::spawn_blocking(move || {
                    store.maintain(&job_table, now(), &mut not, &stop);
                    not
                });
                match work.await {
                    Ok(not) => {
                        failed.insert(key(&table), not);
                    }
                    Err(e) => {
                        tracing::error!(table = %table.name(), error = %e, "maintenance died")
                    }
                }
            }
        }
    }

    /// One round for one table at `now` (UTC nanoseconds): retention, merges, clearing away. A
    /// step that fails is named in the log, and the others go on. Files that cannot be merged are
    /// noted in `failed`.
    pub(crate) fn maintain(
        &self,
        table: &Arc<Table>,
        now: i64,
        failed: &mut Failed,
        stop: &CancellationToken,
    ) {
        let step = |what: &str, done: Result<()>| {
            if let Err(e) = done {
                tracing::warn!(table = %table.name(), error = %e, "maintenance: cannot {what}");
            }
        };
        step("drop rows past retention", apply_retention(table, now));
        let mut merges = 0;
        while merges < MERGES_IN_A_ROW || table.files_level0() > LEVEL0_MANY {
            merges += 1;
            match merge_once(table, self.limits(), now, Patience::Worthwhile, failed) {
                Ok(true) if !stop.is_cancelled() => {}
                Ok(_) => break,
                Err(e) => {
                    step("merge", Err(e));
                    break;
                }
            }
        }
        for (day, log) in table.all_logs() {
            step("compact an entity log", compact_log(table, day, &log, self.limits()).map(drop));
        }
        let today = now.div_euclid(DAY_NS) as i32;
        step("drop entity logs", table.drop_logs(|day| day.abs_diff(today) > 1));
        step("write a snapshot of the manifest", table.snapshot_manifest());
        step("verify files", verify_files(table, stop));
        step("sweep old files", table.sweep_old(SystemTime::now()));
        table.bury(self.options.grace);
    }
}

/// What [`Store::merge_all`] made of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Name.
    pub table: Arc<str>,
    /// Files before.
    pub files_before: u64,
    /// Files now.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Their size in bytes, that of their entities not counted.
    pub bytes: u64,
    /// Files that could not be merged.
    pub failed: u64,
}

impl Store {
    /// One round of maintenance for every table as of `now` (UTC nanoseconds), on this thread: what
    /// [`Store::run_maintenance`] does with time.
    pub fn maintain_all(&self, now: i64) {
        for table in self.all() {
            self.maintain(&table, now, &mut Failed::default(), &CancellationToken::new());
        }
    }

    /// Merges the files of all tables as far as they go, at `now` (UTC nanoseconds), as if every
    /// hour and day were over, and deletes what they replace: for a store that nobody writes to or
    /// reads. Files of a day that go past what one merge takes stay several.
    ///
    /// # Errors
    /// If the disk refuses. What was merged until then stays merged.
    pub fn merge_all(&self, now: i64) -> Result<Vec<Merged>> {
        let mut out = Vec::new();
        for table in self.all() {
            let files_before = table.snapshot().files().len() as u64;
            let mut failed = Failed::default();
            while merge_once(&table, self.limits(), now, Patience::Nothing, &mut failed)? {}
            table.bury(Duration::ZERO);
            // The day's log too: nobody adds to it, and entities stand beside merged files.
            table.drop_logs(|_| true)?;
            table.bury(Duration::ZERO);
            let snapshot = table.snapshot();
            out.push(Merged {
                table: table.name().clone(),
                files_before,
                files: snapshot.files().len() as u64,
                rows: snapshot.files().iter().map(|f| f.meta.rows).sum(),
                bytes: snapshot.files().iter().map(|f| f.meta.bytes).sum(),
                failed: failed.left_out.len() as u64,
            });
        }
        Ok(out)
    }
}

fn key(table: &Table) -> (Arc<str>, Arc<str>) {
    (table.tenant().clone(), table.name().clone())
}

/// Drops files all of whose rows are past retention. Rows that may have any time are kept
/// by their receipt.
fn apply_retention(table: &Arc<Table>, now: i64) -> Result<()> {
    let Some(keep) = table.retention() else { return Ok(()) };
    let bound = now.saturating_sub(i64::try_from(keep.as_nanos()).unwrap_or(i64::MAX));
    let snapshot = table.snapshot();
    let newest =
        |f: &crate::file::FileMeta| if table.has_any_time() { f.received } else { f.max_time };
    let old = snapshot.files().iter().filter(|f| newest(&f.meta) < bound);
    let remove: Vec<_> = old.cloned().collect();
    if !remove.is_empty() {
        let rows: u64 = remove.iter().map(|f| f.meta.rows).sum();
        let files = remove.len();
        weir_pipeline::failpoint!("retention.chosen");
        if table.change(&Change { remove, add: Vec::new() })? {
            weir_pipeline::failpoint!("retention.listed");
            tracing::info!(table = %table.name(), files, rows, "rows past retention dropped");
        }
    }
    Ok(())
}

/// Verifies files that nobody has read yet; those that are damaged are set aside.
fn verify_files(table: &Arc<Table>, stop: &CancellationToken) -> Result<()> {
    let mut left = VERIFIED_BYTES;
    for file in table.snapshot().files() {
        if left == 0 || stop.is_cancelled() {
            break;
        }
        if file.verified.load(Relaxed) {
            continue;
        }
        left = left.saturating_sub(file.meta.bytes);
        match file.verify() {
            Err(StoreError::Damaged { why, .. }) => table.report_damage(file, &why)?,
            verified => verified?,
        }
    }
    Ok(())
}

/// Does the next merge, if there is one; whether to look for another.
fn merge_once(
    table: &Arc<Table>,
    limits: Limits,
    now: i64,
    patience: Patience,
    failed: &mut Failed,
) -> Result<bool> {
    let snapshot = table.snapshot();
    let picked = pick(snapshot.files(), &failed.left_out, limits, now, patience);
    let Some(job) = picked else { return Ok(false) };
    let min_time = snapshot.min_time(now);
    drop(snapshot);
    let started = std::time::Instant::now();
    match run(table, &job, min_time) {
        Ok(outcome) => {
            tracing::debug!(table = %table.name(), inputs = job.inputs.len(), level = job.level,
                ?outcome, ms = started.elapsed().as_millis() as u64, "merge");
            Ok(outcome != Outcome::Overtaken)
        }
        // The output could not be written: no fault of the inputs.
        Err(MergeError::Output(e)) if e.is_transient() => Err(e),
        Err(MergeError::Output(e)) => {
            tracing::error!(table = %table.name(), error = %e, "files cannot be merged");
            failed.left_out.extend(job.inputs.iter().map(|f| f.meta.name.clone()));
            Ok(true)
        }
        Err(MergeError::Input(file, e)) => {
            failed.note(&file.meta.name);
            tracing::error!(table = %table.name(), file = %file.meta.name, error = %e,
                "a file cannot be merged");
            Ok(true)
        }
    }
}
