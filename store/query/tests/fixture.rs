//! A store with tables of known rows.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
    UInt32Array,
};
use arrow::datatypes::{Field, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parking_lot::Mutex;
use weir_pipeline::batch::{Batch, Keys, Run, TENANT};
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin, Value};
use weir_pipeline::signal::{ATTRIBUTES, Signal};

use crate::manifest::WriterId;
use crate::query::{Queries, QueryError, QueryOptions};
use crate::store::{Store, StoreOptions};
use crate::writer::TableWriter;

/// 2026-01-01T00:00:00Z.
pub(super) const T0: i64 = 1_767_225_600_000_000_000;
/// After every row: what is far ahead of its receipt is late.
const RECEIVED: i64 = T0 + 24 * HOUR;
pub(super) const HOUR: i64 = 3_600_000_000_000;

/// A value of the column `http.code`, whose type differs from batch to batch.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Code {
    Int(i64),
    Double(f64),
    Text(String),
}

/// One log record.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) time: i64,
    pub(super) service: String,
    pub(super) host: Option<String>,
    pub(super) route: Option<String>,
    pub(super) score: Option<f64>,
    pub(super) code: Option<Code>,
    /// A key and value in `attributes`.
    pub(super) spilled: Option<(String, serde_json::Value)>,
}

pub(super) fn rows(n: i64) -> Vec<Row> {
    let services = ["cart", "shop", "mail"];
    (0..n)
        .map(|i| Row {
            id: i,
            time: T0 + i * 1_000_000_000,
            service: services[(i % 3) as usize].into(),
            host: (i % 4 != 0).then(|| format!("h{}", i % 5)),
            route: (i % 2 == 0).then(|| format!("/r{}", i % 7)),
            score: (i % 5 != 0).then_some(i as f64 / 2.0),
            code: None,
            spilled: None,
        })
        .collect()
}

pub(super) struct Fixture {
    pub(super) queries: Arc<Queries>,
    pub(super) store: Arc<Store>,
    entities: Arc<EntityTable>,
    /// Kept: their hot rows go with them.
    writers: Mutex<Vec<TableWriter>>,
    _folder: tempfile::TempDir,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut QueryOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store"), StoreOptions::default()).unwrap();
        let mut options = QueryOptions::new(256 << 20, folder.path().join("spill"));
        options.threads = 2;
        change(&mut options);
        let queries = Queries::new(store.clone(), options).unwrap();
        let entities = Arc::new(EntityTable::default());
        Self { queries, store, entities, writers: Mutex::default(), _folder: folder }
    }

    fn append(&self, table: &str, batch: &Batch, commit: bool) {
        let sink = format!("s{}", self.writers.lock().len());
        let id = WriterId { journal: 1, pipeline: "p".into(), sink: sink.as_str().into() };
        let mut writer = self.store.writer(TENANT, table, id).unwrap();
        writer.append(batch).unwrap();
        if commit {
            let staged = writer.stage(1, true).unwrap();
            writer.commit(1, &staged.work).unwrap();
        }
        self.writers.lock().push(writer);
    }

    fn key(&self, attributes: &[(&str, &str, Origin)]) -> u32 {
        let attribute = |(name, value, origin): &(&str, &str, Origin)| Attribute {
            name: (*name).into(),
            value: Value::Text((*value).into()),
            origin: *origin,
        };
        self.entities.intern(Entity::new(attributes.iter().map(attribute).collect())).unwrap()
    }

    /// Writes log records as one batch, to a file or as hot rows.
    pub(super) fn write(&self, table: &str, rows: &[Row], commit: bool) {
        self.write_as(Signal::Logs, table, rows, commit);
    }

    /// The same rows as another signal, for its layout.
    pub(super) fn write_as(&self, signal: Signal, table: &str, rows: &[Row], commit: bool) {
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            (
                "timestamp",
                Arc::new(
                    TimestampNanosecondArray::from_iter_values(rows.iter().map(|r| r.time))
                        .with_timezone("UTC"),
                ),
            ),
            (
                "body",
                Arc::new(StringArray::from_iter_values(rows.iter().map(|r| format!("b{}", r.id)))),
            ),
            ("id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.id)))),
            ("http.route", Arc::new(rows.iter().map(|r| r.route.clone()).collect::<StringArray>())),
            ("score", Arc::new(rows.iter().map(|r| r.score).collect::<Float64Array>())),
        ];
        let texts = rows.iter().any(|r| matches!(r.code, Some(Code::Text(_))));
        if texts {
            let codes = rows.iter().map(|r| match &r.code {
                Some(Code::Text(t)) => Some(t.clone()),
                Some(Code::Int(i)) => Some(i.to_string()),
                Some(Code::Double(d)) => Some(d.to_string()),
                None => None,
            });
            columns.push(("http.code", Arc::new(codes.collect::<StringArray>())));
        } else if rows.iter().any(|r| matches!(r.code, Some(Code::Double(_)))) {
            let codes = rows.iter().map(|r| match r.code {
                Some(Code::Double(d)) => Some(d),
                _ => None,
            });
            columns.push(("http.code", Arc::new(codes.collect::<Float64Array>())));
        } else if rows.iter().any(|r| r.code.is_some()) {
            let codes = rows.iter().map(|r| match &r.code {
                Some(Code::Int(i)) => Some(*i),
                _ => None,
            });
            columns.push(("http.code", Arc::new(codes.collect::<Int64Array>())));
        }
        if rows.iter().any(|r| r.spilled.is_some()) {
            let objects = rows.iter().map(|r| {
                r.spilled.as_ref().map(|(k, v)| serde_json::json!({ k.as_str(): v }).to_string())
            });
            columns.push((ATTRIBUTES, Arc::new(objects.collect::<StringArray>())));
        }
        let keys = rows.iter().map(|r| {
            let mut attributes = vec![("service.name", r.service.as_str(), Origin::Resource)];
            if let Some(host) = &r.host {
                attributes.push(("host.name", host, Origin::Resource));
            }
            self.key(&attributes)
        });
        let keys = UInt32Array::from_iter_values(keys.collect::<Vec<_>>());
        self.append(table, &self.batch(signal, columns, keys), commit);
    }

    /// Writes spans of these traces, a second apart, the first at `time`.
    pub(super) fn write_traces(&self, time: i64, traces: &[Option<String>], commit: bool) {
        let times = (0..traces.len() as i64).map(|i| time + i * 1_000_000_000);
        let times = TimestampNanosecondArray::from_iter_values(times).with_timezone("UTC");
        let ids: StringArray = traces.iter().cloned().collect();
        let columns: Vec<(&str, ArrayRef)> =
            vec![("timestamp", Arc::new(times)), ("trace_id", Arc::new(ids))];
        let key = self.key(&[("service.name", "cart", Origin::Resource)]);
        let keys = UInt32Array::from(vec![key; traces.len()]);
        self.append("spans", &self.batch(Signal::Spans, columns, keys), commit);
    }

    /// Writes log records with these bodies, a second apart, the first at `time`.
    pub(super) fn write_bodies(&self, time: i64, bodies: &[Option<String>], commit: bool) {
        let times = (0..bodies.len() as i64).map(|i| time + i * 1_000_000_000);
        let times = TimestampNanosecondArray::from_iter_values(times).with_timezone("UTC");
        let bodies: StringArray = bodies.iter().cloned().collect();
        let key = self.key(&[("service.name", "cart", Origin::Resource)]);
        let keys = UInt32Array::from(vec![key; bodies.len()]);
        let columns: Vec<(&str, ArrayRef)> =
            vec![("timestamp", Arc::new(times)), ("body", Arc::new(bodies))];
        self.append("logs", &self.batch(Signal::Logs, columns, keys), commit);
    }

    /// Writes a log record with an attribute of its own for each of `names`: its number.
    pub(super) fn write_names(&self, table: &str, names: &[String], commit: bool) {
        let n = names.len() as i64;
        let times = TimestampNanosecondArray::from_iter_values((0..n).map(|i| T0 + i));
        let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
        let mut columns = vec![("timestamp", times)];
        for (i, name) in names.iter().enumerate() {
            let values = (0..n).map(|row| (row == i as i64).then_some(row));
            columns.push((name, Arc::new(values.collect::<Int64Array>())));
        }
        let key = self.key(&[("service.name", "wide", Origin::Resource)]);
        let keys = UInt32Array::from_iter_values((0..n).map(|_| key));
        self.append(table, &self.batch(Signal::Logs, columns, keys), commit);
    }

    /// Writes one sample of the metric `name` with a label.
    pub(super) fn write_labelled(&self, name: &str, label: (&str, &str), commit: bool) {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("timestamp", Arc::new(TimestampNanosecondArray::from(vec![T0]).with_timezone("UTC"))),
            ("value", Arc::new(Float64Array::from(vec![1.0]))),
        ];
        let key =
            self.key(&[("metric.name", name, Origin::Metric), (label.0, label.1, Origin::Label)]);
        let batch = self.batch(Signal::Metrics, columns, UInt32Array::from(vec![key]));
        self.append("metrics", &batch, commit);
    }

    /// Writes samples: metric name and value.
    pub(super) fn write_metrics(&self, samples: &[(&str, f64)], commit: bool) {
        let time = |i: usize| T0 + i as i64 * 1_000_000_000;
        let times = (0..samples.len()).map(time);
        let columns: Vec<(&str, ArrayRef)> = vec![
            (
                "timestamp",
                Arc::new(TimestampNanosecondArray::from_iter_values(times).with_timezone("UTC")),
            ),
            ("value", Arc::new(Float64Array::from_iter_values(samples.iter().map(|s| s.1)))),
        ];
        let keys = samples.iter().map(|(name, _)| {
            self.key(&[
                ("metric.name", name, Origin::Metric),
                ("metric.type", "gauge", Origin::Metric),
                ("job", "test", Origin::Label),
            ])
        });
        let keys = UInt32Array::from_iter_values(keys.collect::<Vec<_>>());
        self.append("metrics", &self.batch(Signal::Metrics, columns, keys), commit);
    }

    fn batch(&self, signal: Signal, columns: Vec<(&str, ArrayRef)>, keys: UInt32Array) -> Batch {
        let fields: Vec<Field> =
            columns.iter().map(|(n, a)| Field::new(*n, a.data_type().clone(), true)).collect();
        let arrays = columns.into_iter().map(|(_, a)| a).collect();
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
        let run =
            Run { offset: 1, received: RECEIVED, source: "test".into(), rows: rows.num_rows() };
        let keys = Keys { keys, table: self.entities.clone() };
        Batch::new(signal, TENANT.into(), rows, Some(keys), vec![run].into()).unwrap()
    }

    /// The answer to `sql` as text.
    pub(super) async fn rows(&self, sql: &str) -> Result<Vec<String>, QueryError> {
        let mut answer = self.queries.query(TENANT, sql).await?;
        Ok(text(&answer.collect().await?))
    }
}

/// Rows as text: values parted by `|`, NULL empty.
pub(super) fn text(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default();
    let mut out = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap())
            .collect();
        for i in 0..batch.num_rows() {
            let cells: Vec<String> = columns
                .iter()
                .zip(batch.columns())
                .map(|(f, c)| if c.is_null(i) { String::new() } else { f.value(i).to_string() })
                .collect();
            out.push(cells.join("|"));
        }
    }
    out
}
