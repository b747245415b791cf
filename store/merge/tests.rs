#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::Float64Type;
use tokio_util::sync::CancellationToken;
use weir_pipeline::batch::{Batch, TENANT};

use super::*;
use crate::store::Store;
use crate::table::{Change, Table};
use crate::testing::{
    HOUR, SECOND, START, logs, metrics, open, rows_in, rows_of, text, times, writer,
};
use crate::types::ColumnType;

/// A table with one file per batch.
fn table_of(store: &Arc<Store>, batches: &[Batch]) -> Arc<Table> {
    let mut w = writer(store, "t");
    for (i, batch) in batches.iter().enumerate() {
        w.append(batch).unwrap();
        let mark = i as u64 + 1;
        let staged = w.stage(mark, true).unwrap();
        w.commit(mark, &staged.work).unwrap();
    }
    w.table().clone()
}

fn maintain(store: &Store, table: &Arc<Table>, now: i64) {
    let mut failed = crate::maintenance::Failed::default();
    store.maintain(table, now, &mut failed, &CancellationToken::new());
    assert!(failed.is_empty(), "{failed:?}");
}

fn levels(table: &Arc<Table>) -> Vec<u8> {
    let mut levels: Vec<u8> = table.snapshot().files().iter().map(|f| f.meta.level).collect();
    levels.sort_unstable();
    levels
}

fn files_on_disk(table: &Table) -> usize {
    std::fs::read_dir(&table.folders().files).unwrap().count()
}

#[test]
fn rows_stay_the_same_through_all_levels() {
    for kind in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        // Sixteen flushes over two hours; the eighth spans them.
        let flushes: Vec<Batch> = (0..16)
            .map(|i| match kind {
                0 => logs(500, START + i * 7 * 60 * SECOND, SECOND, 3 + i as usize),
                _ => metrics(10 + i as usize, 50, START + i * 7 * 60 * SECOND),
            })
            .collect();
        let expected = rows_in(&flushes);
        let table = table_of(&store, &flushes[..8]);
        assert_eq!(levels(&table), [0; 8]);
        maintain(&store, &table, START + HOUR);
        assert_eq!(levels(&table), [1]);
        let mut w = store.writer(TENANT, "t", crate::testing::writer_id("later")).unwrap();
        for (mark, batch) in flushes[8..].iter().enumerate() {
            w.append(batch).unwrap();
            let staged = w.stage(mark as u64, true).unwrap();
            w.commit(mark as u64, &staged.work).unwrap();
        }
        drop(w);
        let flushed = table.stats().bytes_flushed;
        let pinned = table.snapshot();
        assert_eq!(crate::testing::rows_at(&pinned), expected);
        maintain(&store, &table, START + HOUR);
        // The first merge splits by hour.
        assert_eq!(levels(&table), [1, 1, 1]);
        assert!(
            table
                .snapshot()
                .files()
                .iter()
                .all(|f| { f.meta.min_time.div_euclid(HOUR) == f.meta.max_time.div_euclid(HOUR) })
        );
        assert_eq!(rows_of(&table), expected);
        // What a reader has pinned is there until it lets go.
        assert_eq!(crate::testing::rows_at(&pinned), expected);
        drop(pinned);
        // The hours are over: the first has two files, the second only one.
        maintain(&store, &table, START + 2 * HOUR + HOUR / 3);
        assert_eq!(levels(&table), [1, 2]);
        assert_eq!(rows_of(&table), expected);
        maintain(&store, &table, START + 72 * HOUR);
        assert_eq!(levels(&table), [3]);
        assert_eq!(rows_of(&table), expected);
        assert_eq!(files_on_disk(&table), 1);
        let stats = table.stats();
        assert!(stats.bytes_flushed == flushed && stats.bytes_merged <= 3 * flushed, "{stats:?}");
        // Nothing refers to the entity log any more.
        assert!(table.all_logs().is_empty());
        drop((table, store));
        let table = open(dir.path()).table(TENANT, "t").unwrap();
        assert_eq!(rows_of(&table), expected);
        assert_eq!(std::fs::read_dir(&table.folders().entities).unwrap().count(), 1);
    }
}

#[test]
fn files_of_the_first_level_share_the_log_while_its_day_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // Each flush brings entities that those before lack, some of them before others in order.
    let flushes: Vec<Batch> =
        (0..16).map(|i| metrics(40 - 2 * i as usize, 50, START + i * 60 * SECOND)).collect();
    let expected = rows_in(&flushes);
    let table = table_of(&store, &flushes);
    let entities = || std::fs::read_dir(&table.folders().entities).unwrap().count();
    let chunks = entities();
    let log = table.snapshot().files()[0].meta.entities.clone();
    assert!(matches!(log, Some(crate::file::EntityPlace::Log(_))), "{log:?}");
    maintain(&store, &table, START + HOUR / 2);
    assert_eq!(levels(&table), [1]);
    assert_eq!((table.snapshot().files()[0].meta.entities.clone(), entities()), (log, chunks));
    assert_eq!(rows_of(&table), expected);
    // Over a start, and with entities that come later: no id means another entity.
    drop((table, store));
    let store = open(dir.path());
    let mut w = store.writer(TENANT, "t", crate::testing::writer_id("later")).unwrap();
    let later = metrics(60, 50, START + 30 * 60 * SECOND);
    w.append(&later).unwrap();
    let staged = w.stage(1, true).unwrap();
    w.commit(1, &staged.work).unwrap();
    let table = w.table().clone();
    drop(w);
    let expected = rows_in(&[flushes, vec![later]].concat());
    assert_eq!(rows_of(&table), expected);
    // The last merge of the day takes all entities along, and the log goes.
    store.merge_all(START + HOUR).unwrap();
    assert_eq!(rows_of(&table), expected);
    assert!(table.all_logs().is_empty());
    assert_eq!(std::fs::read_dir(&table.folders().entities).unwrap().count(), 1);
}

#[test]
fn a_merge_that_was_overtaken_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let table = table_of(&store, &[logs(10, START, 1, 1), logs(20, START, 1, 1)]);
    let inputs = table.snapshot().files().to_vec();
    let job = Job { inputs: inputs.clone(), level: 1, keeps_log: false };
    // Two merges of the same files: the second finds its inputs gone.
    assert_eq!(run(&table, &job, i64::MIN).unwrap(), Outcome::Done);
    assert_eq!(run(&table, &job, i64::MIN).unwrap(), Outcome::Overtaken);
    assert_eq!(rows_of(&table).len(), 30);
    drop((job, inputs));
    table.bury(Duration::ZERO);
    assert_eq!(files_on_disk(&table), 1);
    // Retention wins over a merge of what it dropped.
    let table = table_of(&store, &[]);
    let inputs = table.snapshot().files().to_vec();
    assert!(table.change(&Change { remove: inputs.clone(), add: Vec::new() }).unwrap());
    assert!(!table.change(&Change { remove: inputs, add: Vec::new() }).unwrap());
    assert_eq!(rows_of(&table).len(), 0);
}

#[test]
fn a_damaged_input_is_set_aside_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let flushes: Vec<Batch> = (0..9).map(|i| logs(100, START + i, 1, 1)).collect();
    let table = table_of(&store, &flushes);
    let victim = table.snapshot().files()[3].clone();
    let mut bytes = std::fs::read(victim.path()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(victim.path(), bytes).unwrap();
    maintain(&store, &table, START + 48 * HOUR);
    assert_eq!(rows_of(&table).len(), 800);
    let damaged = table.damaged();
    assert_eq!(damaged.len(), 1);
    assert_eq!(damaged[0].0, victim.meta.name);
    assert!(table.folders().damaged.join(&*victim.meta.name).exists());
    drop((table, store));
    let table = open(dir.path()).table(TENANT, "t").unwrap();
    assert_eq!((rows_of(&table).len(), table.damaged().len()), (800, 1));
}

#[test]
fn columns_of_different_files_are_brought_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let row = |columns: Vec<(&str, arrow::array::ArrayRef)>| {
        crate::testing::batch(weir_pipeline::signal::Signal::Logs, columns, None, START)
    };
    let int = |v: i64| Arc::new(arrow::array::Int64Array::from(vec![v])) as arrow::array::ArrayRef;
    let id = crate::testing::id_text;
    let batches = [
        row(vec![("timestamp", times([START])), ("x", int(5)), ("trace_id", text([id(1, 32)]))]),
        row(vec![("timestamp", times([START + 1])), ("x", text(["five".into()]))]),
        row(vec![("timestamp", times([START + 2])), ("trace_id", text(["odd".into()]))]),
        row(vec![("timestamp", times([START + 3])), ("attributes", text([r#"{"k":1}"#.into()]))]),
    ];
    let table = table_of(&store, &batches);
    let before = rows_of(&table);
    let inputs = table.snapshot().files().to_vec();
    assert_eq!(
        run(&table, &Job { inputs, level: 1, keeps_log: false }, i64::MIN).unwrap(),
        Outcome::Done
    );
    assert_eq!(rows_of(&table), before);
    let snapshot = table.snapshot();
    let file = &snapshot.files()[0];
    assert_eq!(file.column("x").unwrap().kind, ColumnType::Text);
    assert_eq!(file.column("trace_id").unwrap().kind, ColumnType::Text);
    assert!(file.meta.overflow.may_have("k"));
}

#[test]
fn an_entity_column_fills_the_row_column_of_another_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let row = crate::testing::batch(
        weir_pipeline::signal::Signal::Logs,
        vec![("timestamp", times([START])), ("service.name", text(["from the row".into()]))],
        Some({
            let table = weir_pipeline::entity::EntityTable::default();
            let key = table.intern(crate::testing::entity(&[])).unwrap();
            (vec![key], Arc::new(table))
        }),
        START,
    );
    let table = table_of(&store, &[logs(5, START, 1, 2), row]);
    let before = rows_of(&table);
    let inputs = table.snapshot().files().to_vec();
    assert_eq!(
        run(&table, &Job { inputs, level: 1, keeps_log: false }, i64::MIN).unwrap(),
        Outcome::Done
    );
    assert_eq!(rows_of(&table), before);
    assert!(table.snapshot().files()[0].column("service.name").is_some());
}

#[test]
fn retention_drops_files_and_bounds_readers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.set_retention(BTreeMap::from([("t".to_owned(), Duration::from_secs(7_200))]));
    let flushes: Vec<Batch> = (0..10).map(|i| logs(60, START + i * HOUR / 2, SECOND, 1)).collect();
    let table = table_of(&store, &flushes);
    let now = START + 5 * HOUR;
    assert_eq!(table.snapshot().min_time(now), START + 3 * HOUR);
    maintain(&store, &table, now);
    let rows = rows_of(&table).len();
    assert_eq!(rows, 4 * 60);
    assert!(table.snapshot().files().iter().all(|f| f.meta.max_time >= START + 3 * HOUR));
}

#[test]
fn chunks_of_an_entity_log_are_made_into_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // Seven flushes are no reason for a merge; each brings new entities.
    let flushes: Vec<Batch> = (1..=7).map(|i| metrics(i * 3, 4, START)).collect();
    let table = table_of(&store, &flushes);
    let expected = rows_in(&flushes);
    let (day, log) = table.all_logs().remove(0);
    assert_eq!(log.set().files().len(), 7);
    assert!(!compact_log(&table, day, &log, store.limits()).unwrap());
    for i in 8..=20 {
        let mut w = store.writer(TENANT, "t", crate::testing::writer_id(&format!("s{i}"))).unwrap();
        w.append(&metrics(i * 3, 4, START)).unwrap();
        let staged = w.stage(i as u64, true).unwrap();
        w.commit(i as u64, &staged.work).unwrap();
    }
    assert!(compact_log(&table, day, &log, store.limits()).unwrap());
    assert_eq!(log.set().files().len(), 1);
    assert_eq!(log.set().load().unwrap()[0].len(), 60);
    let mut expected = expected;
    expected.extend(rows_in(&(8..=20).map(|i| metrics(i * 3, 4, START)).collect::<Vec<_>>()));
    expected.sort();
    assert_eq!(rows_of(&table), expected);
    drop((table, log, store));
    let table = open(dir.path()).table(TENANT, "t").unwrap();
    assert_eq!(rows_of(&table), expected);
}

/// Breaks the file and tells the table.
fn break_file(table: &Arc<Table>, file: &Arc<crate::FileEntry>) {
    let mut bytes = std::fs::read(file.path()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file.path(), bytes).unwrap();
    table.report_damage(file, "it is broken").unwrap();
}

#[test]
fn entities_go_where_their_rows_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let flushes: Vec<Batch> = (0..9).map(|i| logs(100, START + i, 1, 2)).collect();
    let table = table_of(&store, &flushes);
    let damaged = || std::fs::read_dir(&table.folders().damaged).unwrap().count();
    // A level-0 file refers to the log of its day, which stays.
    break_file(&table, &table.snapshot().files()[0].clone());
    assert_eq!(damaged(), 1);
    maintain(&store, &table, START + 72 * HOUR);
    assert_eq!(levels(&table), [1]);
    assert_eq!(table.all_logs().len(), 1);
    // A merged one takes its own chunk along.
    break_file(&table, &table.snapshot().files()[0].clone());
    assert_eq!((damaged(), rows_of(&table).len()), (3, 0));
    drop((table, store));
    let store = open(dir.path());
    let table = store.table(TENANT, "t").unwrap();
    assert_eq!(std::fs::read_dir(&table.folders().damaged).unwrap().count(), 3);
    assert_eq!(table.all_logs()[0].1.set().load().unwrap()[0].len(), 2);
}

#[test]
fn a_whole_file_is_not_set_aside_whatever_a_reader_says() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let table = table_of(&store, &[logs(10, START, 1, 1)]);
    let file = table.snapshot().files()[0].clone();
    let refused = table.report_damage(&file, "a reader fell over").unwrap_err().to_string();
    assert!(refused.contains("whole") && refused.contains("fell over"), "{refused}");
    assert!(table.damaged().is_empty());
    std::fs::remove_file(file.path()).unwrap();
    table.report_damage(&file, "gone").unwrap();
    assert_eq!((table.damaged().len(), table.snapshot().files().len()), (1, 0));
}

#[test]
fn a_file_that_cannot_be_read_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let flushes: Vec<Batch> = (0..9).map(|i| logs(100, START + i, 1, 1)).collect();
    let table = table_of(&store, &flushes);
    // The disk refuses to read it: no damage, but no merge either.
    let victim = table.snapshot().files()[3].clone();
    let aside = dir.path().join("aside");
    std::fs::rename(victim.path(), &aside).unwrap();
    std::fs::create_dir(victim.path()).unwrap();
    let mut failed = crate::maintenance::Failed::default();
    store.maintain(&table, START + HOUR, &mut failed, &CancellationToken::new());
    assert!(!failed.is_empty());
    assert_eq!(levels(&table), [0, 1]);
    assert!(table.damaged().is_empty());
    std::fs::remove_dir(victim.path()).unwrap();
    std::fs::rename(&aside, victim.path()).unwrap();
    assert_eq!(rows_of(&table).len(), 900);
}

#[test]
fn no_file_stays_at_level_0_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let table = table_of(&store, &[logs(10, START, 1, 1)]);
    let like = table.snapshot().files()[0].clone();
    let file = |i: usize, change: &dyn Fn(&mut crate::FileMeta)| {
        let mut meta = like.meta().clone();
        meta.name = format!("f{i}").into();
        change(&mut meta);
        let (path, cache) = (like.path.clone(), like.cache.clone());
        let id = crate::cache::next_id();
        Arc::new(crate::FileEntry {
            meta: Arc::new(meta),
            path,
            set: like.set.clone(),
            cache,
            id,
            verified: false.into(),
        })
    };
    let none = hashbrown::HashSet::new();
    let limits = Limits::of(256 << 20);
    let pick =
        |files: &[Arc<crate::FileEntry>]| pick(files, &none, limits, START, Patience::Worthwhile);
    // One that is too large for company goes up alone, and then stays.
    let large = file(0, &|meta| meta.rows = ROWS_MAX);
    let job = pick(&[large]).unwrap();
    assert_eq!((job.inputs.len(), job.level), (1, 1));
    assert!(pick(&[file(0, &|meta| (meta.level, meta.rows) = (1, ROWS_MAX))]).is_none());
    // What is merged again refers to the log; what is too large for that, or comes past the day of
    // the log, has its own entities.
    let keeps_log = |rows: u64, now: i64| {
        let files: Vec<_> = (0..FAN_IN).map(|i| file(i, &|meta| meta.rows = rows)).collect();
        let job = super::pick(&files, &none, limits, now, Patience::Worthwhile).unwrap();
        (job.level, job.keeps_log)
    };
    assert_eq!(keeps_log(10, START), (1, true));
    assert_eq!(keeps_log(10, START + 24 * HOUR), (1, false));
    assert_eq!(keeps_log(ROWS_MAX / 10, START), (1, false));
    // The oldest has too many columns for any other; the others are merged, then it goes up.
    let wide = |i: usize, columns: usize| {
        file(i, &move |meta| {
            let column = |c: usize| crate::FileColumn {
                name: format!("c{i}.{c}").into(),
                kind: ColumnType::Int,
                json: false,
                origin: None,
            };
            meta.columns = (0..columns).map(column).collect();
        })
    };
    let mut files: Vec<_> = (1..FAN_IN).map(|i| wide(i, 10)).collect();
    files.insert(0, wide(0, 1_060));
    let job = pick(&files).unwrap();
    assert_eq!(job.inputs.len(), FAN_IN - 1);
    assert!(job.inputs.iter().all(|f| &*f.meta.name != "f0"));
    let files: Vec<_> = (0..FAN_IN).map(|i| wide(i, 600)).collect();
    let job = pick(&files).unwrap();
    assert_eq!((job.inputs.len(), job.level), (1, 1));
}

#[test]
fn a_store_that_nobody_writes_to_is_merged_as_far_as_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // Three files of today, in two hours: no round would touch them.
    let batches: Vec<Batch> = (0..3).map(|i| metrics(5, 100, START + i * HOUR / 2)).collect();
    let table = table_of(&store, &batches);
    maintain(&store, &table, START + 2 * HOUR);
    assert_eq!(levels(&table), [0, 0, 0]);
    let merged = store.merge_all(START + 2 * HOUR).unwrap();
    assert_eq!((merged[0].files_before, merged[0].files, merged[0].rows), (3, 1, 1_500));
    assert_eq!(levels(&table), [3]);
    assert_eq!(rows_of(&table), rows_in(&batches));
    assert_eq!(files_on_disk(&table), 1);
    assert_eq!(std::fs::read_dir(&table.folders().entities).unwrap().count(), 1);
    assert_eq!(store.merge_all(START + 2 * HOUR).unwrap()[0].files_before, 1);
}

#[test]
fn doubles_come_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let odd = [f64::NAN, -0.0, 1.0 / 3.0, f64::INFINITY, 5e-324, 1e300];
    let value = |n: usize| match n % 50 {
        0 => odd[n / 50 % odd.len()],
        _ => (n * 7_919 % 1_000_003) as f64 / 10.0,
    };
    let batch = |file: usize| {
        let batch = metrics(4, 500, START + file as i64 * 100 * SECOND);
        let values = (0..batch.num_rows()).map(|n| (n % 70 != 0).then(|| value(n + file * 2_000)));
        let values: ArrayRef = Arc::new(values.collect::<arrow::array::Float64Array>());
        let stamps = batch.array("timestamp").unwrap().clone();
        let columns = vec![("timestamp", stamps), ("value", values)];
        let entities = batch.entities().unwrap();
        let entities = (entities.keys.values().to_vec(), entities.table.clone());
        let received = batch.runs()[0].received;
        crate::testing::batch(batch.signal().clone(), columns, Some(entities), received)
    };
    let batches: Vec<Batch> = (0..8).map(batch).collect();
    let bits = |table: &Arc<Table>| {
        let mut all = Vec::new();
        for file in table.snapshot().files() {
            assert_eq!(file.column("value").unwrap().kind, ColumnType::Decimal);
            let reader = crate::file::FileReader::open(file).unwrap();
            let values = reader.column("value", ColumnType::Decimal).unwrap();
            all.extend(values.as_primitive::<Float64Type>().iter().map(|v| v.map(f64::to_bits)));
        }
        all.sort_unstable();
        all
    };
    let table = table_of(&store, &batches);
    let mut expected: Vec<Option<u64>> = Vec::new();
    for batch in &batches {
        let values = batch.array("value").unwrap();
        expected.extend(values.as_primitive::<Float64Type>().iter().map(|v| v.map(f64::to_bits)));
    }
    expected.sort_unstable();
    assert!(bits(&table) == expected);
    store.merge_all(START).unwrap();
    assert_eq!(levels(&table), [3]);
    assert!(bits(&table) == expected);
}
