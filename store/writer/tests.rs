#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;
use weir_pipeline::batch::{Run, TENANT};

use super::*;
use crate::testing::{
    HOUR, SECOND, START, from_entry, logs, metrics, open, rows_at, rows_in, rows_of, writer,
    writer_id,
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
            w.append(&from_entry(logs(10, START, 1, 1), 6)).unwrap();
            let more = w.stage(6, true).unwrap();
            w.commit(6, &more.work).unwrap();
            let files = w.table().snapshot().files().to_vec();
            let job = crate::merge::Job { inputs: files, level: 1, keeps_log: false };
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
fn an_older_checkpoint_brings_no_row_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut w = writer(&store, "logs");
    let first = from_entry(large(START), 50);
    let second = from_entry(large(START + HOUR), 150);
    // A batch across the lost mark.
    let mixed = logs(20, START, 1, 1);
    let run = |offset| Run { offset, rows: 10, ..mixed.runs()[0].clone() };
    let mixed = Batch::new(
        mixed.signal().clone(),
        mixed.tenant().clone(),
        mixed.rows().clone(),
        mixed.entities().cloned(),
        Arc::new([run(200), run(250)]),
    )
    .unwrap();
    let half = |late| BooleanArray::from((0..20).map(|i| (i >= 10) == late).collect::<Vec<_>>());
    let [lost_half, third] = [false, true].map(|late| mixed.filter(&half(late)).unwrap());
    let expected = rows_in(&[first.clone(), second.clone(), mixed.clone()]);
    w.append(&first).unwrap();
    let old = w.stage(100, false).unwrap();
    w.commit(100, &old.work).unwrap();
    w.append(&second).unwrap();
    w.append(&lost_half).unwrap();
    let lost = w.stage(200, false).unwrap();
    w.commit(200, &lost.work).unwrap();
    w.append(&third).unwrap();
    // Too few for a file: only the checkpoints that are lost have them.
    assert!(!w.stage(300, false).unwrap().carry.is_empty());
    drop((w, store));
    let store = open(dir.path());
    let mut w = writer(&store, "logs");
    w.commit(100, &old.work).unwrap();
    w.restore(&old.carry).unwrap();
    // The replay, in other batches than the first time, one of which is new in part.
    assert_eq!(w.append(&second).unwrap().rows, 0);
    assert_eq!(w.append(&mixed).unwrap().rows, 10);
    assert_eq!(rows_of(w.table()), expected);
    let staged = w.stage(300, true).unwrap();
    w.commit(300, &staged.work).unwrap();
    assert_eq!((rows_of(w.table()), w.table().snapshot().hot().len()), (expected, 0));
}

#[test]
fn what_was_carried_past_the_newest_file_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut w = writer(&store, "logs");
    let (first, second) = (from_entry(large(START), 50), from_entry(logs(10, START, 1, 1), 150));
    let expected = rows_in(&[first.clone(), second.clone()]);
    w.append(&first).unwrap();
    // This checkpoint fails; the next carries rows beside the files of both.
    w.stage(100, false).unwrap();
    w.append(&second).unwrap();
    let staged = w.stage(200, false).unwrap();
    assert!(!staged.work.is_empty() && !staged.carry.is_empty());
    w.commit(200, &staged.work).unwrap();
    drop((w, store));
    // It is lost, and the replay starts from nothing.
    let store = open(dir.path());
    let mut w = writer(&store, "logs");
    w.restore(&[]).unwrap();
    assert_eq!(w.append(&first).unwrap().rows, 0);
    assert_eq!(w.append(&second).unwrap().rows, 10);
    let staged = w.stage(180, true).unwrap();
    w.commit(180, &staged.work).unwrap();
    drop((w, store));
    let table = open(dir.path()).table(TENANT, "logs").unwrap();
    assert_eq!(rows_of(&table), expected);
}

#[test]
fn rows_written_before_their_mark_belong_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut w = writer(&store, "logs");
    let batches = [11, 12, 23].map(|entry| from_entry(logs(10, START, 1, 1), entry));
    w.append(&batches[0]).unwrap();
    w.relieve().unwrap();
    assert_eq!((w.unstaged(), staged_files(w.table())), (0, 1));
    w.append(&batches[1]).unwrap();
    assert!(w.unstaged() > 0);
    let staged = w.stage(20, false).unwrap();
    assert!(staged.carry.is_empty(), "a mark with a file has all rows in files");
    assert_eq!(rows_of(w.table()), rows_in(&batches[..2]));
    // A kill before the commit: the checkpoint names both files.
    drop((w, store));
    let store = open(dir.path());
    let mut w = writer(&store, "logs");
    w.commit(20, &staged.work).unwrap();
    w.restore(&staged.carry).unwrap();
    w.append(&batches[2]).unwrap();
    assert_eq!(rows_of(w.table()), rows_in(&batches));
    w.relieve().unwrap();
    // And one before the mark: the replay brings the rows again.
    drop((w, store));
    let store = open(dir.path());
    let mut w = writer(&store, "logs");
    w.commit(20, &staged.work).unwrap();
    w.restore(&staged.carry).unwrap();
    assert_eq!(rows_of(w.table()), rows_in(&batches[..2]));
    w.append(&batches[2]).unwrap();
    assert_eq!(rows_of(w.table()), rows_in(&batches));
}

#[test]
fn a_commit_ahead_of_the_journal_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(store.newest_commit(7).is_none());
    for (table, mark) in [("logs", 41), ("metrics", 17)] {
        let mut w = writer(&store, table);
        w.append(&from_entry(logs(10, START, 1, 1), mark)).unwrap();
        let staged = w.stage(mark, true).unwrap();
        w.commit(mark, &staged.work).unwrap();
    }
    drop(store);
    let store = open(dir.path());
    let newest = store.newest_commit(7).unwrap();
    assert_eq!((&*newest.table, newest.mark), ("logs", 41));
    assert!(store.newest_commit(8).is_none());
    store.check_head(7, 41).unwrap();
    let ahead = store.check_head(7, 40).unwrap_err().to_string();
    assert!(ahead.contains("up to entry 41") && ahead.contains("ends at entry 40"), "{ahead}");
}

#[test]
fn an_entity_id_never_comes_to_mean_another_entity() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut w = writer(&store, "logs");
    w.append(&logs(10, START, 1, 3)).unwrap();
    let staged = w.stage(1, true).unwrap();
    drop((w, store));
    // The manifest is lost, and with it what the ids in the staged file mean.
    std::fs::remove_dir_all(dir.path().join(TENANT).join("logs").join("manifest")).unwrap();
    let store = open(dir.path());
    let mut other = store.writer(TENANT, "logs", writer_id("other")).unwrap();
    let metrics = metrics(4, 2, START);
    other.append(&metrics).unwrap();
    let more = other.stage(1, true).unwrap();
    other.commit(1, &more.work).unwrap();
    let mut w = writer(&store, "logs");
    w.commit(1, &staged.work).unwrap();
    let rows = rows_of(w.table());
    assert_eq!(rows.len(), 18);
    let bodies: Vec<&String> = rows.iter().filter(|r| r.contains("body")).collect();
    assert_eq!(bodies.len(), 10);
    assert!(bodies.iter().all(|r| !r.contains("host") && !r.contains("service")), "{bodies:?}");
    assert!(rows_in(&[metrics]).iter().all(|row| rows.contains(row)));
}

#[test]
fn carried_rows_do_not_hold_the_entities_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut w = writer(&store, "t");
    let all = metrics(3_000, 1, START);
    let few = all.filter(&(0..all.num_rows()).map(|row| Some(row < 3)).collect()).unwrap();
    let expected = rows_in(std::slice::from_ref(&few));
    w.append(&few).unwrap();
    let entities = |w: &TableWriter| {
        let snapshot = w.table().snapshot();
        let keys = snapshot.hot()[0].batch().entities().unwrap().clone();
        assert_eq!(snapshot.hot().len(), 1);
        keys.table.len()
    };
    assert!(entities(&w) >= 3_000);
    assert!(!w.stage(5, false).unwrap().carry.is_empty());
    assert_eq!(entities(&w), 3);
    assert_eq!(rows_of(w.table()), expected);
    let staged = w.stage(6, true).unwrap();
    w.commit(6, &staged.work).unwrap();
    assert_eq!(rows_of(w.table()), expected);
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
            let mut failed = crate::maintenance::Failed::default();
            let token = CancellationToken::new();
            while !stop.load(Ordering::Acquire) {
                store.maintain(&table, START + 48 * HOUR, &mut failed, &token);
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
