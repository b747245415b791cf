#![allow(clippy::unwrap_used, clippy::expect_used)]

use arrow::array::{BooleanArray, Float64Array, Int64Array, StringArray, UInt64Array};
use serde_json::{Value as Json, json};
use weir_pipeline::batch::TENANT;
use weir_pipeline::entity::{Origin, Value};

use super::*;
use crate::file::Overflow;
use crate::testing::{
    HOUR, SECOND, START, batch, entity, logs, metrics, open, rows_in, rows_of, text, times, writer,
};
use crate::types::ColumnType;

/// Writes `batches` to a file each `commits` is true for, and gives the rows as they come back.
fn through_files(batches: &[Vec<Batch>]) -> (tempfile::TempDir, Arc<crate::Table>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut w = writer(&store, "t");
    for (mark, batches) in batches.iter().enumerate() {
        for b in batches {
            w.append(b).unwrap();
        }
        let staged = w.stage(mark as u64 + 1, true).unwrap();
        w.commit(mark as u64 + 1, &staged.work).unwrap();
    }
    drop((w, store));
    let table = open(dir.path()).table(TENANT, "t").unwrap();
    (dir, table)
}

fn objects(table: &Arc<crate::Table>) -> Vec<Json> {
    rows_of(table).iter().map(|r| serde_json::from_str(r).unwrap()).collect()
}

fn plain(columns: Vec<(&str, ArrayRef)>) -> Batch {
    batch(Signal::Logs, columns, None, START)
}

#[test]
fn logs_and_metrics_come_back_as_they_went_in() {
    let sets = [logs(5_000, START, SECOND / 2, 17), metrics(40, 100, START)];
    for set in sets {
        let expected = rows_in(std::slice::from_ref(&set));
        let (_dir, table) = through_files(&[vec![set]]);
        assert_eq!(rows_of(&table), expected);
    }
}

#[test]
fn files_are_laid_out_by_signal() {
    let (_dir, table) = through_files(&[vec![metrics(30, 500, START)]]);
    let snapshot = table.snapshot();
    let file = &snapshot.files()[0];
    let meta = file.meta();
    assert_eq!(meta.layout, crate::Layout::Series);
    // 5,000 s from a round hour: two hour sections, each with one run of each series.
    let hours: Vec<i64> = meta.slices.iter().map(|s| s.min_time.div_euclid(HOUR)).collect();
    assert_eq!(hours.len(), 2);
    assert!(meta.slices.iter().all(|s| s.max_time.div_euclid(HOUR) == s.min_time.div_euclid(HOUR)));
    let runs = file.runs().unwrap().unwrap();
    assert_eq!(runs.len(), 60);
    // Whole milliseconds and whole numbers are kept as such.
    assert_eq!(file.column("timestamp").unwrap().kind, ColumnType::TimeMs);
    let chunks = file.entities().unwrap().load().unwrap();
    let name = |id: u32| {
        let chunk = &chunks[0];
        let names = chunk.column("metric.name").unwrap();
        names.as_string::<i32>().value((id - chunk.first()) as usize).to_owned()
    };
    let names: Vec<String> = runs.iter().map(|r| name(r.entity)).collect();
    assert!(names[..15].iter().all(|n| n == "cpu_seconds_total"));
    assert!(names[15..30].iter().all(|n| n == "memory_bytes"));

    let (_dir, table) = through_files(&[vec![logs(150_000, START, SECOND / 100, 4)]]);
    let snapshot = table.snapshot();
    let meta = snapshot.files()[0].meta();
    let rows: Vec<u32> = meta.slices.iter().map(|s| s.rows).collect();
    assert_eq!(rows, [65_536, 65_536, 18_928]);
    assert!(meta.slices.windows(2).all(|s| s[0].max_time <= s[1].min_time));
    assert_eq!(snapshot.files()[0].column("trace_id").unwrap().kind, ColumnType::Id16);
    assert_eq!(snapshot.files()[0].runs().unwrap().unwrap().len(), 12);
}

#[test]
fn entities_are_written_once_a_day() {
    let dir = tempfile::tempdir().unwrap();
    for mark in 1..=3 {
        let store = open(dir.path());
        let mut w = writer(&store, "t");
        // A start of its own each time: process keys differ, ids stay.
        w.append(&metrics(20 + mark as usize, 5, START)).unwrap();
        let staged = w.stage(mark, true).unwrap();
        w.commit(mark, &staged.work).unwrap();
    }
    let table = open(dir.path()).table(TENANT, "t").unwrap();
    let snapshot = table.snapshot();
    let chunks = snapshot.files()[0].entities().unwrap().load().unwrap();
    let sizes: Vec<(u32, usize)> = chunks.iter().map(|c| (c.first(), c.len())).collect();
    assert_eq!(sizes, [(0, 21), (21, 1), (22, 1)]);
    assert_eq!(snapshot.rows(), 5 * (21 + 22 + 23));
}

#[test]
fn a_column_takes_the_type_that_holds_all() {
    let ints: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let doubles: ArrayRef = Arc::new(Float64Array::from(vec![0.5, f64::NAN]));
    let wide: ArrayRef = Arc::new(Int64Array::from(vec![(1 << 53) + 1]));
    let words = text(["x".to_owned(), "y".to_owned()]);
    let bools: ArrayRef = Arc::new(BooleanArray::from(vec![true, false]));
    let two = || times([START, START + 1]);
    let one = || times([START]);
    let with =
        |stamps: ArrayRef, a: &ArrayRef| plain(vec![("timestamp", stamps), ("x", a.clone())]);
    // In one file: the values decide.
    let check = |batches: Vec<Batch>, kind: ColumnType, values: &[Json]| {
        let (_dir, table) = through_files(&[batches]);
        let snapshot = table.snapshot();
        assert_eq!(snapshot.schema().column("x").unwrap().kind, kind);
        let mut found: Vec<String> = objects(&table).iter().map(|o| o["x"].to_string()).collect();
        found.sort();
        let mut values: Vec<String> = values.iter().map(Json::to_string).collect();
        values.sort();
        assert_eq!(found, values);
    };
    check(
        vec![with(two(), &ints), with(two(), &doubles)],
        ColumnType::Double,
        &[json!(1.0), json!(2.0), json!(0.5), Json::Null],
    );
    check(
        vec![with(one(), &wide), with(two(), &doubles)],
        ColumnType::Text,
        &[json!("9007199254740993"), json!("0.5"), json!("NaN")],
    );
    check(
        vec![with(two(), &ints), with(two(), &words), with(two(), &bools)],
        ColumnType::Text,
        &[json!("1"), json!("2"), json!("x"), json!("y"), json!("true"), json!("false")],
    );
    // In files of their own: each keeps its type, the table widens.
    let (_dir, table) = through_files(&[vec![with(two(), &ints)], vec![with(two(), &words)]]);
    let snapshot = table.snapshot();
    let kinds: Vec<ColumnType> =
        snapshot.files().iter().map(|f| f.column("x").unwrap().kind).collect();
    assert!(kinds.contains(&ColumnType::Int) && kinds.contains(&ColumnType::Text), "{kinds:?}");
    assert_eq!(snapshot.schema().column("x").unwrap().kind, ColumnType::Text);
    assert_eq!(objects(&table).iter().filter(|o| o["x"] == "1").count(), 1);
}

#[test]
fn odd_types_and_times_are_taken_too() {
    let big: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX, 1]));
    let list: ArrayRef = Arc::new(arrow::array::ListArray::from_iter_primitive::<
        arrow::datatypes::Int64Type,
        _,
        _,
    >(vec![Some(vec![Some(1), None]), None]));
    let stamps: ArrayRef = Arc::new(Int64Array::from(vec![Some(START), None]));
    let nan: ArrayRef = Arc::new(Float64Array::from(vec![f64::INFINITY, -0.0]));
    let set = plain(vec![("timestamp", stamps), ("big", big), ("list", list), ("value", nan)]);
    let (_dir, table) = through_files(&[vec![set]]);
    let rows = objects(&table);
    assert!(rows.iter().any(|r| r["big"] == "18446744073709551615" && r["list"] == "[1,null]"));
    // The row without a time has that of its receipt, which is START as well.
    assert!(rows.iter().all(|r| r["timestamp"] == rows[0]["timestamp"]), "{rows:?}");
    let snapshot = table.snapshot();
    assert!(snapshot.schema().column("list").unwrap().json);
    assert_eq!(snapshot.files()[0].column("value").unwrap().kind, ColumnType::Double);
    // Wild times do not make a row group each.
    let wild = metrics_at((0..5_000).map(|i| i * 24 * HOUR));
    let (_dir, table) = through_files(&[vec![wild]]);
    let snapshot = table.snapshot();
    assert!(snapshot.files()[0].meta().slices.len() <= 2);
    assert_eq!(rows_of(&table).len(), 5_000);
}

fn metrics_at(stamps: impl Iterator<Item = i64>) -> Batch {
    let table = Arc::new(EntityTable::default());
    let stamps: Vec<i64> = stamps.collect();
    let e = entity(&[("metric.name", Value::Text("m".into()), Origin::Metric)]);
    let key = table.intern(e).unwrap();
    let received = i64::MAX / 2;
    let keys = vec![key; stamps.len()];
    batch(Signal::Metrics, vec![("timestamp", times(stamps))], Some((keys, table)), received)
}

#[test]
fn rare_and_surplus_names_go_to_attributes() {
    let n = 2_500;
    let stamps = times((0..n).map(|i| START + i));
    let rare: ArrayRef =
        Arc::new(StringArray::from_iter((0..n).map(|i| (i == 7).then_some("needle"))));
    let common: ArrayRef = Arc::new(Int64Array::from_iter_values(0..n));
    let json: ArrayRef = Arc::new(StringArray::from_iter(
        (0..n).map(|i| (i == 8).then_some(r#"{"from.batch":[1,2]}"#)),
    ));
    let set = plain(vec![
        ("timestamp", stamps),
        ("rare", rare),
        ("common", common),
        ("attributes", json),
    ]);
    let (_dir, table) = through_files(&[vec![set]]);
    let snapshot = table.snapshot();
    let file = &snapshot.files()[0];
    assert!(file.column("rare").is_none() && file.column("common").is_some());
    let keys = Overflow::Keys(vec!["from.batch".into(), "rare".into()]);
    assert_eq!(file.meta().overflow, keys);
    let held: Vec<Json> = objects(&table)
        .iter()
        .filter_map(|o| Some(serde_json::from_str(o.get("attributes")?.as_str()?).unwrap()))
        .collect();
    assert!(held.contains(&json!({"rare": "needle"})), "{held:?}");
    assert!(held.contains(&json!({"from.batch": [1, 2]})), "{held:?}");
}

#[test]
fn a_hundred_thousand_attributes_fit() {
    let mut columns = vec![("timestamp".to_owned(), times([START, START + 1]))];
    for i in 0..3_000 {
        columns.push((format!("c{i}"), Arc::new(Int64Array::from(vec![i, i])) as ArrayRef));
    }
    let object: serde_json::Map<String, Json> =
        (0..97_000).map(|i| (format!("k{i}"), json!(i))).collect();
    let object = Json::Object(object).to_string();
    columns.push(("attributes".to_owned(), text([object.clone(), object])));
    let set = plain(columns.iter().map(|(n, a)| (n.as_str(), a.clone())).collect());
    let (_dir, table) = through_files(&[vec![set]]);
    let snapshot = table.snapshot();
    let file = &snapshot.files()[0];
    assert_eq!(file.meta().overflow, Overflow::Many);
    assert!(snapshot.schema().overflow_is_open());
    // A thousand attributes, the time and `attributes`.
    assert_eq!(file.meta().columns.len(), 1_002);
    let rows = objects(&table);
    let held: Json = serde_json::from_str(rows[0]["attributes"].as_str().unwrap()).unwrap();
    let columns = rows[0].as_object().unwrap().len() - 2;
    assert_eq!(held.as_object().unwrap().len() + columns, 100_000);
}

#[test]
fn a_name_at_both_levels_is_a_row_column() {
    let table = Arc::new(EntityTable::default());
    let e = entity(&[("region", Value::Text("eu".into()), Origin::Resource)]);
    let key = table.intern(e).unwrap();
    let with_entity =
        batch(Signal::Logs, vec![("timestamp", times([START]))], Some((vec![key], table)), START);
    let with_row = plain(vec![("timestamp", times([START + 1])), ("region", text(["us".into()]))]);
    let (_dir, table) = through_files(&[vec![with_entity, with_row]]);
    let snapshot = table.snapshot();
    assert!(snapshot.files()[0].column("region").is_some());
    let mut regions: Vec<Json> = objects(&table).iter().map(|o| o["region"].clone()).collect();
    regions.sort_by_key(Json::to_string);
    assert_eq!(regions, [json!("eu"), json!("us")]);
}

#[test]
fn entities_keep_types_and_origins() {
    let table = Arc::new(EntityTable::default());
    let sets = [
        entity(&[("a", Value::Int(1), Origin::Resource), ("b", Value::Bool(true), Origin::Scope)]),
        entity(&[("a", Value::Text("1".into()), Origin::Resource)]),
        entity(&[("a", Value::Int(1), Origin::Label), ("weir.id", Value::Int(5), Origin::Label)]),
        entity(&[("c", Value::Double(f64::NAN), Origin::Label)]),
        entity(&[("c", Value::Json("[1]".into()), Origin::Label)]),
        entity(&[]),
    ];
    let keys: Vec<u32> = sets.iter().map(|e| table.intern(e.clone()).unwrap()).collect();
    let stamps = times((0..keys.len() as i64).map(|i| START + i));
    let set = batch(Signal::Logs, vec![("timestamp", stamps)], Some((keys, table)), START);
    let (_dir, table) = through_files(&[vec![set]]);
    let snapshot = table.snapshot();
    let chunks = snapshot.files()[0].entities().unwrap().load().unwrap();
    let mut found: Vec<u128> = Vec::new();
    for chunk in &chunks {
        for i in 0..chunk.len() {
            let e = chunk.entity(i);
            assert_eq!(e.fingerprint(), chunk.fingerprints()[i]);
            found.push(e.fingerprint());
        }
    }
    found.sort_unstable();
    let mut expected: Vec<u128> = sets.iter().map(Entity::fingerprint).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
}
