#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use arrow::array::{RecordBatch, TimestampNanosecondArray};
use weir_pipeline::batch::Run;
use weir_pipeline::component::Services;
use weir_pipeline::signal::Signal;
use weir_store::StoreOptions;

use super::*;

fn scope() -> Scope {
    Scope::new(Vec::new(), ".".into())
}

fn context(store: &Arc<Store>) -> SinkContext {
    SinkContext {
        journal: 1,
        pipeline: "p".into(),
        sink: "s".into(),
        services: Services::default().with(store.clone()),
        metrics: Arc::default(),
    }
}

fn batch(rows: i64) -> Batch {
    let times = TimestampNanosecondArray::from_iter_values(0..rows).with_timezone("UTC");
    let rows = RecordBatch::try_from_iter([("timestamp", Arc::new(times) as _)]).unwrap();
    let run = Run { offset: 1, received: 5, source: "test".into(), rows: rows.num_rows() };
    Batch::new(Signal::Logs, TENANT.into(), rows, None, Arc::new([run])).unwrap()
}

#[test]
fn names_are_checked() {
    for (name, good) in [
        ("logs", true),
        ("http.errors_5xx", true),
        ("Logs", false),
        ("../logs", false),
        ("1st", false),
        ("a..b", false),
        ("a.", false),
        ("", false),
    ] {
        let section = Section::parse_for_tests("s", &format!("table = \"{name}\""));
        assert_eq!(plan(&section, &scope()).is_ok(), good, "{name}");
    }
    for (bytes, suffix, good) in
        [(95, "", true), (96, "", false), (100, ".late", true), (101, ".late", false)]
    {
        let name = format!("{}{suffix}", "n".repeat(bytes - suffix.len()));
        let section = Section::parse_for_tests("s", &format!("table = \"{name}\""));
        let planned = plan(&section, &scope());
        assert_eq!(planned.is_ok(), good, "{bytes} bytes with `{suffix}`");
        if let Err(wrong) = planned {
            let limit = if suffix.is_empty() { "at most 95 bytes" } else { "at most 100 bytes" };
            assert!(wrong.to_string().contains(limit), "{wrong}");
        }
    }
    let section = Section::parse_for_tests("s", "tabel = \"logs\"");
    assert!(plan(&section, &scope()).unwrap_err().to_string().contains("table"));
}

#[tokio::test]
async fn rows_go_through_stage_commit_and_restore() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let section = Section::parse_for_tests("s", "table = \"logs\"");
    let plan = plan(&section, &scope()).unwrap();
    let mut sink = plan.build(context(&store)).unwrap();
    sink.write(batch(10)).await.unwrap();
    let table = store.table(TENANT, "logs").unwrap();
    assert_eq!(table.snapshot().rows(), 10);
    let carried = sink.stage(1, false).await.unwrap();
    assert!(carried.work.is_empty());
    drop(sink);
    assert_eq!(table.snapshot().rows(), 0);
    let mut sink = plan.build(context(&store)).unwrap();
    sink.restore(&carried.carry).await.unwrap();
    assert_eq!(table.snapshot().rows(), 10);
    let last = sink.stage(2, true).await.unwrap();
    sink.commit(2, &last.work).await.unwrap();
    sink.commit(2, &last.work).await.unwrap();
    drop(sink);
    assert_eq!((table.snapshot().rows(), table.snapshot().files().len()), (10, 1));
    let foreign = plan.build(context(&store)).unwrap().commit(3, b"{}").await.unwrap_err();
    assert!(!foreign.retry, "{foreign}");
}

#[test]
fn without_a_store_there_is_no_sink() {
    let plan = StorePlan { table: "logs".into() };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let context = SinkContext { services: Services::default(), ..context(&store) };
    assert!(plan.build(context).is_err());
}
