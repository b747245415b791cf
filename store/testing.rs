//! Batches, stores and readings for tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, RecordBatch, StringArray, TimestampNanosecondArray, UInt32Array,
};
use arrow::datatypes::Schema;
use weir_pipeline::batch::{Batch, Keys, Run, TENANT};
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin, Value};
use weir_pipeline::signal::Signal;

use crate::export::{wide_run, wide_slice};
use crate::manifest::WriterId;
use crate::snapshot::TableSnapshot;
use crate::store::{Store, StoreOptions};
use crate::table::Table;
use crate::writer::TableWriter;

pub(crate) const HOUR: i64 = 3_600_000_000_000;
pub(crate) const SECOND: i64 = 1_000_000_000;
/// A round hour of November 2023.
pub(crate) const START: i64 = 1_699_999_200_000_000_000;

pub(crate) fn open(dir: &std::path::Path) -> Arc<Store> {
    let options = StoreOptions { grace: std::time::Duration::ZERO, ..StoreOptions::default() };
    Store::open(dir, options).unwrap()
}

pub(crate) fn writer_id(sink: &str) -> WriterId {
    WriterId { journal: 7, pipeline: "p".into(), sink: sink.into() }
}

pub(crate) fn writer(store: &Arc<Store>, table: &str) -> TableWriter {
    store.writer(TENANT, table, writer_id("s")).unwrap()
}

pub(crate) fn entity(attributes: &[(&str, Value, Origin)]) -> Entity {
    let attribute = |(name, value, origin): &(&str, Value, Origin)| Attribute {
        name: (*name).into(),
        value: value.clone(),
        origin: *origin,
    };
    Entity::new(attributes.iter().map(attribute).collect())
}

/// A batch of these row columns, received when its first row is stamped.
pub(crate) fn batch(
    signal: Signal,
    columns: Vec<(&str, ArrayRef)>,
    entities: Option<(Vec<u32>, Arc<EntityTable>)>,
    received: i64,
) -> Batch {
    let rows =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true)))
            .unwrap();
    let run = Run { offset: 1, received, source: "test".into(), rows: rows.num_rows() };
    let keys = entities.map(|(keys, table)| Keys { keys: UInt32Array::from(keys), table });
    Batch::new(signal, TENANT.into(), rows, keys, Arc::new([run])).unwrap()
}

/// `batch` as if it came from the journal entry `offset`.
pub(crate) fn from_entry(batch: Batch, offset: u64) -> Batch {
    let runs = batch.runs().iter().map(|run| Run { offset, ..run.clone() }).collect();
    let (signal, tenant) = (batch.signal().clone(), batch.tenant().clone());
    Batch::new(signal, tenant, batch.rows().clone(), batch.entities().cloned(), runs).unwrap()
}

pub(crate) fn times(times: impl IntoIterator<Item = i64>) -> ArrayRef {
    let times: Vec<i64> = times.into_iter().collect();
    Arc::new(TimestampNanosecondArray::from(times).with_timezone("UTC"))
}

pub(crate) fn text(values: impl IntoIterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

pub(crate) fn id_text(n: u64, width: usize) -> String {
    format!("{n:0width$x}")
}

/// `rows` log records of `services`, one each `step` nanoseconds from `start`, in no good order.
pub(crate) fn logs(rows: usize, start: i64, step: i64, services: usize) -> Batch {
    let table = Arc::new(EntityTable::default());
    let key = |i: usize| {
        let name = format!("service-{}", i % services);
        let service = ("service.name", Value::Text(name.as_str().into()), Origin::Resource);
        let shard = ("shard", Value::Int((i % services) as i64), Origin::Resource);
        table.intern(entity(&[service, shard])).unwrap()
    };
    let keys: Vec<u32> = (0..rows).map(key).collect();
    let time = |i: usize| start + ((i * 7) % rows.max(1)) as i64 * step;
    let body = |i: usize| format!("request {i} took {} ms and some words more", i * 31 % 977);
    let columns = vec![
        ("timestamp", times((0..rows).map(time))),
        ("body", text((0..rows).map(body))),
        ("trace_id", text((0..rows).map(|i| id_text(i as u64 + 1, 32)))),
        ("severity", text((0..rows).map(|i| ["INFO", "ERROR"][i % 2].to_owned()))),
    ];
    batch(Signal::Logs, columns, Some((keys, table)), start)
}

/// `samples` of each of `series`, 10 s apart from `start`.
pub(crate) fn metrics(series: usize, samples: usize, start: i64) -> Batch {
    let table = Arc::new(EntityTable::default());
    let mut keys = Vec::new();
    let mut stamps = Vec::new();
    let mut values = Vec::new();
    for sample in 0..samples {
        for s in 0..series {
            let name = ["cpu_seconds_total", "memory_bytes"][s % 2];
            let e = entity(&[
                ("metric.name", Value::Text(name.into()), Origin::Metric),
                ("host", Value::Text(format!("host-{s:04}").as_str().into()), Origin::Label),
            ]);
            keys.push(table.intern(e).unwrap());
            stamps.push(start + sample as i64 * 10 * SECOND);
            values.push((s * 1_000 + sample) as f64 / if s % 2 == 0 { 1.0 } else { 3.0 });
        }
    }
    let values: ArrayRef = Arc::new(Float64Array::from(values));
    let columns = vec![("timestamp", times(stamps)), ("value", values)];
    let received = start + samples as i64 * 10 * SECOND;
    batch(Signal::Metrics, columns, Some((keys, table)), received)
}

/// Rows as JSON, sorted. NULL and missing are the same.
fn json(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
        writer.write(batch).unwrap();
        writer.finish().unwrap();
        let text = String::from_utf8(writer.into_inner()).unwrap();
        lines.extend(text.lines().map(str::to_owned));
    }
    lines.sort();
    lines
}

/// What batches say, as [`rows_of`] gives it.
pub(crate) fn rows_in(batches: &[Batch]) -> Vec<String> {
    json(&batches.iter().map(|b| b.wide().unwrap()).collect::<Vec<_>>())
}

/// Every row of a version, as JSON, sorted.
pub(crate) fn rows_at(snapshot: &TableSnapshot) -> Vec<String> {
    let fields: Vec<_> = snapshot.schema().columns().iter().map(|c| c.field()).collect();
    let schema = Arc::new(Schema::new(fields));
    let mut batches = Vec::new();
    for file in snapshot.files() {
        for slice in 0..file.meta.slices.len() {
            batches.push(wide_slice(file, slice, snapshot, &schema).unwrap());
        }
    }
    for run in snapshot.hot() {
        batches.push(wide_run(run, &schema).unwrap());
    }
    json(&batches)
}

/// Every row of a table, as JSON, sorted.
pub(crate) fn rows_of(table: &Arc<Table>) -> Vec<String> {
    rows_at(&table.snapshot())
}
