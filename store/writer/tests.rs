#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;
use weir_pipeline::batch::TENANT;

use super::*;
use crate::testing::{
    HOUR, SECOND, START, logs, metrics, open, rows_at, rows_in, rows_of, writer, writer_id,
};

/// Enough rows for a file.
fn large(start: i64) -> Batch {
    logs(12_000, start, 1_000_000, 5)
}

fn staged_files(table: &Table) -> usize {
    std::fs::read_dir(&table.folders().files).unwrap().count()
}

#[test]
fn rows_are_seen_at_once_and_once_at_every_step() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut w = writer(&store, "logs");
    let batch = large(START);
    let expected = rows_in(std::slice::from_ref(&batch));
    w.append(&batch).unwrap();
    let table = w.table().clone();
    let before = table.snapshot();
    assert_eq!(rows_at(&before), expected);
    let staged = w.stage(5, false).unwrap();
    assert!(!staged.work.is_empty() && staged.carry.is_empty());
    assert_eq!(rows_of(&table), expected);
    w.commit(5, &staged.work).unwrap();
    let after = table.snapshot();
    assert_eq!((after.files().len(), after.hot().len()), (1, 0));
    assert_eq!(rows_at(&after), expected);
    // The version pinned before is what it was.
    assert_eq!((before.files().len(), rows_at(&before)), (0, expected));
}

#[test]
fn a_kill_before_the_checkpoint_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut w = writer(&store, "logs");
    w.append(&large(START)).unwrap();
    w.stage(5, false).unwrap();
    drop((w, store));
    let store = open(dir.path());
    let table = store.table(TENANT, "logs").unwrap();
    // The checkpoint may still name it, so opening does not delete it; restoring does.
    assert_eq!((staged_files(&table), rows_of(&table).len()), (1, 0));
    let mut w = writer(&store, "logs");
    w.restore(&[]).unwrap();
    assert_eq!(staged_files(&table), 0);
    // Replay brings the rows again, under the same mark.
    w.append(&large(START)).unwrap();
    let staged = w.stage(5, false).unwrap();
    w.commit(5, &staged.work).unwrap();
    assert_eq!(rows_of(&table), rows_in(&[large(START)]));
}

#[test]
fn a_kill_after_the_checkpoint_is_made_up_for_by_committing_again() {
    let dir = tempfile::tempdir().unwrap();
    let expected = rows_in(&[large(START)]);
    let store = open(dir.path());
    let mut w = writer(&store, "logs");
    w.append(&large(START)).unwrap();
    let work = w.stage(5, false).unwrap().work;
    drop((w, store));
    // Each round is a start after a kill: before the commit, after it, and after a merge of it.
    for round in 0..3 {
        let store = open(dir.path());
        let mut w = writer(&store, "logs");
        w.commit(5, &work).unwrap();
        w.commit(5, &work).unwrap();
        w.restore(&[]).unwrap();
        assert_eq!(rows_of(w.table()), expected, "round {round}");
        if round == 1 {
            w.append(&logs(10, START, 1, 1)).unwrap();
            let more = w.stage(6, true).unwrap();
            w.commit(6, &more.work).unwrap();
            let files = w.table().snapshot().files().to_vec();
            let job = crate::merge::Job { inputs: files, level: 1 };
            assert_eq!(
                crate::merge::run(w.table(), &job, i64::MIN).unwrap(),
                crate::merge::Outcome::Done
            );
            assert_eq!(rows_of(w.table()).len(), expected.len() + 10);
            w.commit(5, &work).unwrap();
            w.commit(6, &more.work).unwrap();
            assert_eq!(rows_of(w.table()).len(), expected.len() + 10);
            break;
        }
    }
    let store = open(dir.path());
    let mut w = writer(&store, "logs");
    w.commit(5, &work).unwrap();
    assert_eq!(rows_of(w.table()).len(), expected.len() + 10);
}

#[test]
fn a_failed_checkpoint_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut w = writer(&store, "logs");
    w.append(&large(START)).unwrap();
    let first = w.stage(1, false).unwrap();
    // The checkpoint could not be written; the next one covers both.
    w.append(&large(START + HOUR)).unwrap();
    let second = w.stage(2, false).unwrap();
    let expected = rows_in(&[large(START), large(START + HOUR)]);
    assert_eq!(rows_of(w.table()), expected);
    w.commit(2, &second.work).unwrap();
    assert_eq!(rows_of(w.table()), expected);
    w.commit(1, &first.work).unwrap();
    assert_eq!(rows_of(w.table()), expected);
    assert_eq!(w.table().snapshot().hot().len(), 0);
    // And the other way: both are committed in turn.
    w.append(&large(START)).unwrap();
    let third = w.stage(3, false).unwrap();
    let fourth = w.stage(4, false).unwrap();
    assert_eq!(third.work, fourth.work);
    w.commit(3, &third.work).unwrap();
    w.commit(4, &fourth.work).unwrap();
    assert_eq!(rows_of(w.table()).len(), expected.len() + 12_000);
}

#[test]
fn few_rows_are_carried_and_come_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut w = writer(&store, "logs");
    let (a, b) = (logs(50, START, 1_000, 3), metrics(4, 5, START));
    w.append(&a).unwrap();
    w.append(&b).unwrap();
    let staged = w.stage(5, false).unwrap();
    assert!(staged.work.is_empty() && !staged.carry.is_empty());
    let before: Vec<Batch> = w.table().snapshot().hot().iter().map(|h| h.batch().clone()).collect();
    drop((w, store));
    let store = open(dir.path());
    let mut w = writer(&store, "logs");
    w.restore(&staged.carry).unwrap();
    let snapshot = w.table().snapshot();
    assert_eq!(rows_at(&snapshot), rows_in(&[a, b]));
    for (old, new) in before.iter().zip(snapshot.hot()) {
        let new = new.batch();
        assert_eq!((old.rows(), old.runs(), old.signal()), (new.rows(), new.runs(), new.signal()));
        let (old, new) = (old.entities().unwrap(), new.entities().unwrap());
        for (k, l) in old.keys.values().iter().zip(new.keys.values()) {
            assert_eq!(old.table.get(*k), new.table.get(*l));
        }
    }
    // Carried again, the same; and at the end it becomes a file.
    let again = w.stage(6, false).unwrap();
    assert_eq!(again.carry, staged.carry);
    let last = w.stage(7, true).unwrap();
    assert!(last.carry.is_empty());
    w.commit(7, &last.work).unwrap();
    drop((w, store));
    let table = open(dir.path()).table(TENANT, "logs").unwrap();
    assert_eq!(rows_of(&table).len(), 70);
    for cut in 0..staged.carry.len() {
        assert!(cut == 0 || carry::decode(&staged.carry[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_writer_that_is_dropped_takes_its_hot_rows_along() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut one = writer(&store, "logs");
    let mut two = store.writer(TENANT, "logs", writer_id("other")).unwrap();
    one.append(&logs(10, START, 1, 1)).unwrap();
    two.append(&logs(20, START, 1, 1)).unwrap();
    let table = one.table().clone();
    assert_eq!(table.snapshot().rows(), 30);
    drop(one);
    assert_eq!(table.snapshot().rows(), 20);
}

#[test]
fn rows_out_of_range_go_to_the_late_table() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.set_retention(BTreeMap::from([("logs".to_owned(), Duration::from_secs(86_400))]));
    let mut w = writer(&store, "logs");
    let batch = logs(10, START, 20 * 60 * SECOND, 2);
    // Received at START: three of ten are within the hour ahead, 0, 20, 40 and 60 minutes.
    let appended = w.append(&batch).unwrap();
    assert_eq!(appended, Appended { rows: 4, late: 6 });
    let old = crate::testing::batch(
        weir_pipeline::signal::Signal::Logs,
        vec![("timestamp", crate::testing::times([START - 25 * HOUR, START - 23 * HOUR]))],
        None,
        START,
    );
    assert_eq!(w.append(&old).unwrap(), Appended { rows: 1, late: 1 });
    let staged = w.stage(1, false).unwrap();
    drop(w);
    let mut w = writer(&store, "logs");
    w.restore(&staged.carry).unwrap();
    let late = store.table(TENANT, "logs.late").unwrap();
    assert_eq!((w.table().snapshot().rows(), late.snapshot().rows()), (5, 7));
    let staged = w.stage(2, true).unwrap();
    w.commit(2, &staged.work).unwrap();
    assert_eq!((w.table().snapshot().rows(), late.snapshot().rows()), (5, 7));
    assert_eq!(late.snapshot().files().len(), 1);
    assert_eq!(late.snapshot().min_time(i64::MAX), i64::MIN);
}

#[test]
fn errors_may_have_any_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.set_retention([("weir_errors".to_owned(), Duration::from_secs(3_600))].into());
    let mut w = writer(&store, "weir_errors");
    let years = 5 * 365 * 24 * HOUR;
    let old = w.append(&logs(10, START - years, SECOND, 1)).unwrap();
    let ahead = w.append(&logs(10, START + years, SECOND, 1)).unwrap();
    assert_eq!((old.late, ahead.late, rows_of(w.table()).len()), (0, 0, 20));
    assert_eq!(w.table().snapshot().min_time(START), i64::MIN);
}

#[test]
fn readers_find_every_row_once_while_writers_and_merges_work() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let table = store.open_table(TENANT, "logs").unwrap();
    let stop = AtomicBool::new(false);
    let appended = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        let merging = scope.spawn(|| {
            let mut failed = hashbrown::HashSet::new();
            let token = CancellationToken::new();
            while !stop.load(Ordering::Acquire) {
                store.maintain(&table, START + 48 * HOUR, &mut failed, &token).unwrap();
            }
            assert!(failed.is_empty());
        });
        let reading = scope.spawn(|| {
            let mut seen = 0;
            let mut reads = 0_u64;
            while !stop.load(Ordering::Acquire) || reads == 0 {
                let low = appended.load(Ordering::Acquire);
                let snapshot = table.snapshot();
                let rows = snapshot.rows();
                assert!(rows >= low && rows >= seen, "{rows} rows, before {seen}, appended {low}");
                seen = rows;
                for file in snapshot.files() {
                    assert!(file.path().exists(), "a pinned file is gone");
                    assert_eq!(
                        file.runs()
                            .unwrap()
                            .unwrap()
                            .iter()
                            .map(|r| u64::from(r.rows))
                            .sum::<u64>(),
                        file.meta().rows
                    );
                }
                reads += 1;
            }
        });
        let writing: Vec<_> = ["a", "b"]
            .into_iter()
            .map(|sink| {
                let (store, appended) = (&store, &appended);
                scope.spawn(move || {
                    let mut w = store.writer(TENANT, "logs", writer_id(sink)).unwrap();
                    for mark in 1..=20_u64 {
                        w.append(&logs(100, START + mark as i64 * SECOND, 1_000, 3)).unwrap();
                        appended.fetch_add(100, Ordering::AcqRel);
                        let staged = w.stage(mark, true).unwrap();
                        w.append(&logs(10, START, 1_000, 3)).unwrap();
                        appended.fetch_add(10, Ordering::AcqRel);
                        w.commit(mark, &staged.work).unwrap();
                    }
                    let staged = w.stage(21, true).unwrap();
                    w.commit(21, &staged.work).unwrap();
                })
            })
            .collect();
        for w in writing {
            w.join().unwrap();
        }
        stop.store(true, Ordering::Release);
        reading.join().unwrap();
        merging.join().unwrap();
    });
    assert_eq!(rows_of(&table).len(), 2 * 20 * 110);
    let files = table.snapshot().files().len();
    assert!(files < 42, "{files} files");
}
