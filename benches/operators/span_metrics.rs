//! The `span_metrics` operator, by how many series there are.

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray, UInt32Array,
};
use arrow::datatypes::{Field, Schema};
use weir_pipeline::batch::{Batch, Keys, Run};
use weir_pipeline::component::{Output, Tick};
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin, Value};
use weir_pipeline::signal::{Signal, timestamp};

use crate::{built, short, timed};

/// About what a source hands on at once.
const ROWS: usize = 8192;
/// Batches of one window.
const BATCHES: usize = 25;
const SERVICES: usize = 20;
const SECOND_NS: i64 = 1_000_000_000;

/// The part of the page about it.
pub(super) fn page() -> String {
    let mut page = format!(
        "## span_metrics\n\n{} spans of {SERVICES} services in a window of 10 s: what takes them and what \
         gives the metrics, together. Spans per second of a core.\n\n\
         | operations | spans/s | spans/s without trace ids |\n|---|---|---|\n",
        ROWS * BATCHES
    );
    for operations in [100, 10_000] {
        let [with, without] = [true, false].map(|traced| short(rate(operations, traced)));
        let _ = writeln!(page, "| {operations} | {with} | {without} |");
    }
    page
}

fn rate(operations: usize, traced: bool) -> f64 {
    let batches: Vec<Batch> = (0..BATCHES).map(|at| batch(at * ROWS, operations, traced)).collect();
    timed(ROWS * BATCHES, || {
        let mut running = built("span_metrics", Signal::Spans, "");
        let mut out = Output::default();
        for batch in &batches {
            running.process(0, batch.clone(), &mut out).unwrap();
        }
        let time = 30 * SECOND_NS;
        let tick = Tick { time, elapsed: time, offset: 1, watermark: time, step: 0 };
        running.tick(tick, &mut out).unwrap();
        assert!(out.rejected.is_empty() && !out.emitted.is_empty());
        black_box(out);
    })
}

fn batch(first: usize, operations: usize, traced: bool) -> Batch {
    let table = Arc::new(EntityTable::default());
    for service in 0..SERVICES {
        let value = Value::Text(format!("service-{service}").into());
        let name = "service.name".into();
        table
            .intern(Entity::new(vec![Attribute { name, value, origin: Origin::Resource }]))
            .unwrap();
    }
    let rows = first..first + ROWS;
    // One operation belongs to one service.
    let operation = |row: usize| row.wrapping_mul(2_654_435_761) % operations;
    let texts = |of: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.clone().map(of)))
    };
    let times = rows.clone().map(|row| row as i64 * 40_000);
    let times = TimestampNanosecondArray::from_iter_values(times).with_timezone("UTC");
    let took = rows.clone().map(|row| (row.wrapping_mul(7_919) % 900_000_000) as i64);
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("timestamp", Arc::new(times)),
        ("duration_ns", Arc::new(Int64Array::from_iter_values(took))),
        ("name", texts(&|row| format!("GET /resource/{}", operation(row)))),
        ("kind", texts(&|_| "server".into())),
        ("status", texts(&|row| ["unset", "ok", "ok", "error"][row % 4].into())),
    ];
    if traced {
        columns.push(("trace_id", texts(&|row| format!("{row:032x}"))));
        columns.push(("span_id", texts(&|row| format!("{row:016x}"))));
    }
    let field = |(name, array): &(&str, ArrayRef)| {
        let kind = if *name == "timestamp" { timestamp() } else { array.data_type().clone() };
        Field::new(*name, kind, true)
    };
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let record = RecordBatch::try_new(Arc::new(schema), arrays).unwrap();
    let keys = UInt32Array::from_iter_values(rows.map(|row| (operation(row) % SERVICES) as u32));
    let run = Run { offset: 1, received: 20 * SECOND_NS, source: "otlp".into(), rows: ROWS };
    let keys = Keys { keys, table };
    Batch::new(Signal::Spans, "default".into(), record, Some(keys), [run].into()).unwrap()
}
