#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray, TimestampNanosecondArray, UInt32Array};
use weir_pipeline::batch::{Keys, Run, TENANT};
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin, Value};
use weir_pipeline::signal::Signal;

use super::*;

#[tokio::test]
async fn rows_of_both_levels_are_written_as_json_lines() {
    let table = EntityTable::default();
    let service = Attribute {
        name: "service.name".into(),
        value: Value::Text("cart".into()),
        origin: Origin::Resource,
    };
    let key = table.intern(Entity::new(vec![service])).unwrap();
    let times = TimestampNanosecondArray::from(vec![0, 1_500_000_000]).with_timezone("UTC");
    let bodies = StringArray::from(vec![Some("a \"quoted\"\nline"), None]);
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("timestamp", Arc::new(times) as _, false),
        ("body", Arc::new(bodies) as _, true),
    ])
    .unwrap();
    let keys = Keys { keys: UInt32Array::from(vec![key, key]), table: Arc::new(table) };
    let run = Run { offset: 1, received: 0, source: "test".into(), rows: 2 };
    let batch = Batch::new(Signal::Logs, TENANT.into(), rows, Some(keys), Arc::new([run])).unwrap();
    let memory = Arc::default();
    let mut sink = Console { out: Out::Memory(Arc::clone(&memory)) };
    sink.write(batch).await.unwrap();
    assert_eq!(sink.stage(1, true).await.unwrap(), Staged::default());
    let text = String::from_utf8(memory.lock().clone()).unwrap();
    assert_eq!(
        text,
        concat!(
            r#"{"body":"a \"quoted\"\nline","service.name":"cart","timestamp":"1970-01-01T00:00:00Z"}"#,
            "\n",
            r#"{"service.name":"cart","timestamp":"1970-01-01T00:00:01.500Z"}"#,
            "\n"
        )
    );
}

#[test]
fn it_takes_no_keys() {
    let scope = Scope::new(Vec::new(), ".".into());
    assert!(plan(&Section::parse_for_tests("c", ""), &scope).is_ok());
    assert!(plan(&Section::parse_for_tests("c", "format = \"json\""), &scope).is_err());
}
