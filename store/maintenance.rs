//! What goes on beside reading and writing: merges, retention, clearing away. Each step takes
//! effect by one change of a manifest, or not at all.

use std::sync::Arc;
use std::time::SystemTime;

use hashbrown::HashMap;
use hashbrown::HashSet;
use tokio_util::sync::CancellationToken;

use crate::disk::now;
use crate::error::Result;
use crate::merge::{Outcome, compact_log, pick, run};
use crate::store::Store;
use crate::table::{Change, Table};

const DAY_NS: i64 = 24 * 3_600_000_000_000;
/// Merges of one table in a row before the next table has its turn.
const MERGES_IN_A_ROW: usize = 8;

/// Files that a merge failed on; they are left alone until the next start. By table.
type Failed = HashMap<(Arc<str>, Arc<str>), HashSet<Arc<str>>>;

impl Store {
    /// Does the work of all tables, now and then, until `stop` is cancelled. Work runs on threads
    /// that may block; one merge at a time.
    pub async fn run_maintenance(self: Arc<Self>, stop: CancellationToken) {
        let mut failed = Failed::new();
        let mut tick = tokio::time::interval(self.options.maintenance_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            for table in self.all() {
                if stop.is_cancelled() {
                    return;
                }
                let (store, job_table) = (self.clone(), table.clone());
                let mut not = failed.remove(&key(&table)).unwrap_or_default();
                let stop = stop.clone();
                let work = tokio::task::spawn_blocking(move || {
                    if let Err(e) = store.maintain(&job_table, now(), &mut not, &stop) {
                        tracing::warn!(table = %job_table.name(), error = %e, "maintenance failed");
                    }
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

    /// One round for one table at `now` (UTC nanoseconds): retention, merges, clearing away.
    /// Files that cannot be merged are added to `failed`.
    pub(crate) fn maintain(
        &self,
        table: &Arc<Table>,
        now: i64,
        failed: &mut HashSet<Arc<str>>,
        stop: &CancellationToken,
    ) -> Result<()> {
        apply_retention(table, now)?;
        for _ in 0..MERGES_IN_A_ROW {
            if stop.is_cancelled() || !merge_once(table, now, failed)? {
                break;
            }
        }
        for (day, log) in table.all_logs() {
            compact_log(table, day, &log)?;
        }
        table.drop_logs(now.div_euclid(DAY_NS) as i32)?;
        table.snapshot_manifest()?;
        table.sweep_old(SystemTime::now())?;
        table.bury(self.options.grace);
        Ok(())
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

/// Does the next merge, if there is one; whether to look for another.
fn merge_once(table: &Arc<Table>, now: i64, failed: &mut HashSet<Arc<str>>) -> Result<bool> {
    let snapshot = table.snapshot();
    let Some(job) = pick(snapshot.files(), failed, now) else { return Ok(false) };
    let min_time = snapshot.min_time(now);
    drop(snapshot);
    let started = std::time::Instant::now();
    match run(table, &job, min_time) {
        Ok(outcome) => {
            tracing::debug!(table = %table.name(), inputs = job.inputs.len(), level = job.level,
                ?outcome, ms = started.elapsed().as_millis() as u64, "merge");
            Ok(outcome != Outcome::Overtaken)
        }
        Err(e) if e.is_transient() => Err(e),
        Err(e) => {
            tracing::error!(table = %table.name(), error = %e, "files cannot be merged");
            failed.extend(job.inputs.iter().map(|f| f.meta.name.clone()));
            Ok(true)
        }
    }
}
