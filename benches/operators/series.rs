//! Samples as scrapes have them: series that follow each other, round after round.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, TimestampNanosecondArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use weir_pipeline::batch::{Batch, Keys, Run};
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin, Value};
use weir_pipeline::signal::{Signal, timestamp};

/// About what a source hands on at once.
const BATCH_ROWS: usize = 8192;
/// Between two rounds.
const ROUND_NS: i64 = 15_000_000_000;

/// `rounds` samples of each of `series`, which have `labels` labels each: `instance`, of which each
/// has its own, `mode`, of which there are four, and others.
pub(super) fn batches(series: usize, labels: usize, rounds: usize) -> Vec<Batch> {
    let table = Arc::new(EntityTable::default());
    for s in 0..series {
        let attribute = |name: String, value: String| Attribute {
            name: name.into(),
            value: Value::Text(value.into()),
            origin: Origin::Label,
        };
        let mut all = vec![
            attribute(
                "instance".into(),
                format!("10.{}.{}.{}:9100", s / 65536, s / 256 % 256, s % 256),
            ),
            attribute("mode".into(), ["user", "system", "idle", "iowait"][s % 4].into()),
        ];
        all.extend(
            (2..labels).map(|l| attribute(format!("label_{l}"), format!("v{}", s % (l + 3)))),
        );
        table.intern(Entity::new(all)).unwrap();
    }
    let field = |name: &str, kind: DataType| Field::new(name, kind, true);
    let schema =
        Schema::new(vec![field("timestamp", timestamp()), field("value", DataType::Float64)]);
    let schema = Arc::new(schema);
    let mut batches = Vec::new();
    for first in (0..series * rounds).step_by(BATCH_ROWS) {
        let rows = first..(first + BATCH_ROWS).min(series * rounds);
        let times = rows.clone().map(|row| (row / series) as i64 * ROUND_NS);
        let times = TimestampNanosecondArray::from_iter_values(times).with_timezone("UTC");
        let values =
            rows.clone().map(|row| (row.wrapping_mul(2_654_435_761) % 10_007) as f64 / 8.0);
        let columns: Vec<ArrayRef> =
            vec![Arc::new(times), Arc::new(Float64Array::from_iter_values(values))];
        let keys = UInt32Array::from_iter_values(rows.clone().map(|row| (row % series) as u32));
        let keys = Keys { keys, table: table.clone() };
        let received = rounds as i64 * ROUND_NS;
        let run = Run { offset: 1, received, source: "prometheus".into(), rows: rows.len() };
        let samples = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let batch =
            Batch::new(Signal::Metrics, "default".into(), samples, Some(keys), [run].into());
        batches.push(batch.unwrap());
    }
    batches
}
