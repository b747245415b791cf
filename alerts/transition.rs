//! A change of one alert instance: what rules emit as rows and the router takes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};
use weir_pipeline::batch::{Batch, Run, TENANT};
use weir_pipeline::signal::{META_JSON, Signal, timestamp};

/// Name of the stream of transitions.
pub(crate) const STREAM: &str = "alerts";
/// Name of the stream of what rules hold open.
pub(crate) const HELD: &str = "alerts_held";

/// Name and type of each column of both streams, in order.
pub(crate) fn columns() -> Vec<(&'static str, DataType)> {
    vec![
        ("timestamp", timestamp()),
        ("alert", DataType::Utf8),
        ("fingerprint", DataType::Utf8),
        ("state", DataType::Utf8),
        ("labels", DataType::Utf8),
        ("annotations", DataType::Utf8),
        ("value", DataType::Utf8),
        ("starts_at", timestamp()),
        ("ends_at", timestamp()),
        ("reason", DataType::Utf8),
        ("sequence", DataType::Int64),
    ]
}

/// What an instance has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its condition has held long enough.
    Firing,
    /// It fired, and holds no more.
    Resolved,
}

impl State {
    /// As it reads in rows, logs and payloads.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// One change of one alert instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// When, UTC nanoseconds.
    pub time: i64,
    /// Id of the rule.
    pub alert: String,
    /// [`fingerprint`] of the labels.
    pub fingerprint: String,
    /// What it became.
    pub state: State,
    /// `by` values, `labels` of the rule, `alertname`: the identity of the instance.
    pub labels: BTreeMap<String, String>,
    /// Rendered summary and other annotations.
    pub annotations: BTreeMap<String, String>,
    /// JSON object of the columns that the condition reads.
    pub value: String,
    /// When it began to fire, UTC nanoseconds.
    pub starts_at: i64,
    /// When it ceased to, UTC nanoseconds; `None` while firing.
    pub ends_at: Option<i64>,
    /// Why, where it is not the condition: `absent`, `no_data`, `removed`, `changed`,
    /// `source_late`, `limit`, `forgotten`, `state_lost`.
    pub reason: String,
    /// Journal offset that caused it.
    pub offset: u64,
    /// Counts the transitions of one rule; with `offset` it is the position of the transition.
    pub sequence: u64,
}

/// All that one rule holds open at one place of its input: what the router should know as firing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Id of the rule.
    pub(crate) alert: String,
    /// Wall time of the tick, UTC nanoseconds.
    pub(crate) time: i64,
    /// Journal offset of the tick.
    pub(crate) offset: u64,
    /// Of the last transition before it.
    pub(crate) sequence: u64,
    /// One firing transition per alert, placed here.
    pub(crate) open: Vec<Transition>,
}

impl Held {
    /// As rows: one for the rule itself, which has no fingerprint, so that nothing held is said
    /// too; then one per alert.
    pub(crate) fn to_batch(&self, source: &Arc<str>) -> Result<Batch, ArrowError> {
        let rule = Transition {
            time: self.time,
            alert: self.alert.clone(),
            fingerprint: String::new(),
            state: State::Resolved,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            value: "{}".to_owned(),
            starts_at: self.time,
            ends_at: None,
            reason: String::new(),
            offset: self.offset,
            sequence: self.sequence,
        };
        let rows: Vec<Transition> =
            std::iter::once(rule).chain(self.open.iter().cloned()).collect();
        Ok(to_batch(&rows, source)?.with_signal(Signal::named(HELD)))
    }

    /// What a batch holds, if it is of this stream.
    ///
    /// # Errors
    /// If a column is missing or has another type.
    pub(crate) fn from_batch(batch: &Batch) -> Result<Option<Self>, ArrowError> {
        if *batch.signal() != Signal::named(HELD) {
            return Ok(None);
        }
        let mut rows = from_batch(batch)?.into_iter();
        Ok(rows.next().map(|rule| Self {
            alert: rule.alert,
            time: rule.time,
            offset: rule.offset,
            sequence: rule.sequence,
            open: rows.collect(),
        }))
    }
}

/// Alertmanager's fingerprint of a label set: FNV-1a 64 over `name 0xff value 0xff` in name
/// order, as 16 hex digits (prometheus/common `model/signature.go`).
pub fn fingerprint(labels: &BTreeMap<String, String>) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    for (name, value) in labels {
        name.bytes().for_each(&mut add);
        add(0xff);
        value.bytes().for_each(&mut add);
        add(0xff);
    }
    format!("{hash:016x}")
}

/// Transitions as rows. `received` of a row's run is its time.
pub(crate) fn to_batch(transitions: &[Transition], source: &Arc<str>) -> Result<Batch, ArrowError> {
    let text = |f: &dyn Fn(&Transition) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(transitions.iter().map(f)))
    };
    let time = |f: &dyn Fn(&Transition) -> Option<i64>| -> ArrayRef {
        let values: TimestampNanosecondArray = transitions.iter().map(f).collect();
        Arc::new(values.with_timezone("UTC"))
    };
    let json = |map: &BTreeMap<String, String>| serde_json::to_string(map).unwrap_or_default();
    let sequence = transitions.iter().map(|t| t.sequence.cast_signed());
    let arrays: Vec<ArrayRef> = vec![
        time(&|t| Some(t.time)),
        text(&|t| t.alert.clone()),
        text(&|t| t.fingerprint.clone()),
        text(&|t| t.state.as_str().to_owned()),
        text(&|t| json(&t.labels)),
        text(&|t| json(&t.annotations)),
        text(&|t| t.value.clone()),
        time(&|t| Some(t.starts_at)),
        time(&|t| t.ends_at),
        text(&|t| t.reason.clone()),
        Arc::new(Int64Array::from_iter_values(sequence)),
    ];
    let fields = columns().into_iter().map(|(name, data_type)| {
        let field = Field::new(name, data_type, true);
        match name {
            "labels" | "annotations" | "value" => {
                field.with_metadata([(META_JSON.to_owned(), "true".to_owned())].into())
            }
            _ => field,
        }
    });
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), arrays)?;
    let mut runs: Vec<Run> = Vec::new();
    for t in transitions {
        match runs.last_mut() {
            Some(run) if run.offset == t.offset && run.received == t.time => run.rows += 1,
            _ => runs.push(Run {
                offset: t.offset,
                received: t.time,
                source: source.clone(),
                rows: 1,
            }),
        }
    }
    Batch::new(Signal::named(STREAM), TENANT.into(), rows, None, runs.into())
}

/// The inverse of [`to_batch`].
///
/// # Errors
/// If a column is missing or has another type.
pub(crate) fn from_batch(batch: &Batch) -> Result<Vec<Transition>, ArrowError> {
    let column = |name: &str, data_type: &DataType| {
        let array = batch.array(name).ok_or_else(|| {
            ArrowError::SchemaError(format!("stream of transitions has no column `{name}`"))
        })?;
        cast(&array, data_type)
    };
    let text = |name: &str| column(name, &DataType::Utf8).map(Text);
    let int = |name: &str| column(name, &DataType::Int64).map(Int);
    let (alert, print, state) = (text("alert")?, text("fingerprint")?, text("state")?);
    let (labels, annotations) = (text("labels")?, text("annotations")?);
    let (value, reason) = (text("value")?, text("reason")?);
    let (time, starts, ends) = (int("timestamp")?, int("starts_at")?, int("ends_at")?);
    let sequence = int("sequence")?;
    let map =
        |json: &str| serde_json::from_str(json).map_err(|e| ArrowError::JsonError(e.to_string()));
    let offsets = batch.runs().iter().flat_map(|r| std::iter::repeat_n(r.offset, r.rows));
    offsets
        .enumerate()
        .map(|(i, offset)| {
            let firing = state.get(i) == State::Firing.as_str();
            Ok(Transition {
                time: time.get(i).unwrap_or_default(),
                alert: alert.get(i).to_owned(),
                fingerprint: print.get(i).to_owned(),
                state: if firing { State::Firing } else { State::Resolved },
                labels: map(labels.get(i))?,
                annotations: map(annotations.get(i))?,
                value: value.get(i).to_owned(),
                starts_at: starts.get(i).unwrap_or_default(),
                ends_at: ends.get(i),
                reason: reason.get(i).to_owned(),
                offset,
                sequence: sequence.get(i).unwrap_or_default().cast_unsigned(),
            })
        })
        .collect()
}

struct Text(ArrayRef);

impl Text {
    fn get(&self, row: usize) -> &str {
        let array = self.0.as_any().downcast_ref::<StringArray>();
        array.filter(|a| a.is_valid(row)).map_or("", |a| a.value(row))
    }
}

struct Int(ArrayRef);

impl Int {
    fn get(&self, row: usize) -> Option<i64> {
        let array = self.0.as_any().downcast_ref::<Int64Array>()?;
        array.is_valid(row).then(|| array.value(row))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn sample(sequence: u64) -> Transition {
        let labels = BTreeMap::from([
            ("alertname".to_owned(), "error_burst".to_owned()),
            ("service.name".to_owned(), "cart \"x\"".to_owned()),
        ]);
        Transition {
            time: 5_000_000_000,
            alert: "error_burst".into(),
            fingerprint: fingerprint(&labels),
            state: State::Firing,
            labels,
            annotations: BTreeMap::from([("summary".to_owned(), "12 errors".to_owned())]),
            value: "{\"errors\":12}".into(),
            starts_at: 4_000_000_000,
            ends_at: None,
            reason: String::new(),
            offset: 7,
            sequence,
        }
    }

    #[test]
    fn rows_round_trip() {
        let mut all = vec![sample(1), sample(2), sample(3)];
        all[1].offset = 8;
        all[2].offset = 8;
        all[2].state = State::Resolved;
        all[2].ends_at = Some(6);
        let batch = to_batch(&all, &"alert".into()).unwrap();
        assert_eq!(batch.runs().len(), 2);
        assert_eq!(from_batch(&batch).unwrap(), all);
        assert_eq!(Held::from_batch(&batch).unwrap(), None);
        for open in [vec![sample(3)], vec![]] {
            let alert = "error_burst".to_owned();
            let held = Held { alert, time: 5, offset: 7, sequence: 3, open };
            let batch = held.to_batch(&"alert".into()).unwrap();
            assert_eq!(Held::from_batch(&batch).unwrap(), Some(held));
        }
    }

    #[test]
    fn fingerprints_are_those_of_alertmanager() {
        // prometheus/common model/signature_test.go: empty set, and one with two labels.
        assert_eq!(
            fingerprint(&BTreeMap::new()),
            format!("{:016x}", 14_695_981_039_346_656_037u64)
        );
        let labels = BTreeMap::from([
            ("first-label".to_owned(), "first-label-value".to_owned()),
            ("instance".to_owned(), "localhost".to_owned()),
        ]);
        assert_eq!(fingerprint(&labels).len(), 16);
        let labels = BTreeMap::from([
            ("name".to_owned(), "garland, briggs".to_owned()),
            ("fear".to_owned(), "love is not enough".to_owned()),
        ]);
        assert_eq!(fingerprint(&labels), format!("{:016x}", 5_799_056_148_416_392_346u64));
    }
}
