//! Sides of calls out of rows of spans, and rows of calls for the windows.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray,
    TimestampNanosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampNanosecondType};
use weir_pipeline::batch::{Batch, Run, TENANT};
use weir_pipeline::component::OperatorError;
use weir_pipeline::signal::{Signal, timestamp};
use xxhash_rust::xxh3::xxh3_128;

/// Columns of spans that are read, besides [`PEERS`].
pub(super) const READS: [&str; 8] = [
    "timestamp",
    "duration_ns",
    "trace_id",
    "span_id",
    "parent_span_id",
    "kind",
    "status",
    "service.name",
];

/// Attributes that name what a client calls, the best first, and the connection that they tell.
pub(super) const PEERS: [(&str, &str); 6] = [
    ("peer.service", "peer"),
    ("db.namespace", "database"),
    ("db.system.name", "database"),
    ("db.system", "database"),
    ("messaging.destination.name", "peer"),
    ("server.address", "peer"),
];

/// Columns of calls.
pub(super) const COLUMNS: [(&str, Type); 9] = [
    ("timestamp", Type::Time),
    ("client", Type::Text),
    ("server", Type::Text),
    ("connection", Type::Text),
    ("failed", Type::Bool),
    ("client_ns", Type::Int),
    ("server_ns", Type::Int),
    ("trace_id", Type::Text),
    ("span_id", Type::Text),
];

/// Types of columns of calls.
#[derive(Clone, Copy)]
pub(super) enum Type {
    Time,
    Text,
    Bool,
    Int,
}

impl Type {
    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Time => timestamp(),
            Self::Text => DataType::Utf8,
            Self::Bool => DataType::Boolean,
            Self::Int => DataType::Int64,
        }
    }
}

/// Which side of a call a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// One side of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Half {
    pub(super) side: Side,
    /// Between producer and consumer.
    pub(super) messaging: bool,
    pub(super) failed: bool,
    pub(super) time: Option<i64>,
    pub(super) received: i64,
    pub(super) duration: Option<i64>,
    pub(super) service: Arc<str>,
    pub(super) trace: Arc<str>,
    pub(super) span: Arc<str>,
    /// What a client called, if it says so, and the connection that this tells.
    pub(super) peer: Option<(Arc<str>, u8)>,
}

/// A span that is a side of a call: the call that it is of, none for a server that nobody called.
pub(super) struct Taken {
    pub(super) key: Option<u128>,
    pub(super) half: Half,
}

/// Columns of a batch of spans.
pub(super) struct Spans {
    time: Option<TimestampNanosecondArray>,
    duration: Option<Int64Array>,
    trace: Option<StringArray>,
    span: Option<StringArray>,
    parent: Option<StringArray>,
    kind: Option<StringArray>,
    status: Option<StringArray>,
    service: Option<StringArray>,
    peers: [Option<StringArray>; PEERS.len()],
    received: Vec<i64>,
}

fn at(array: &Option<StringArray>, row: usize) -> Option<&str> {
    let array = array.as_ref()?;
    (array.is_valid(row) && !array.value(row).is_empty()).then(|| array.value(row))
}

impl Spans {
    pub(super) fn of(batch: &Batch) -> Result<Self, OperatorError> {
        let text = |name: &str| {
            let array = cast(&batch.array(name)?, &DataType::Utf8).ok()?;
            array.as_string_opt::<i32>().cloned()
        };
        let time = batch.array("timestamp").map(|a| cast(&a, &timestamp())).transpose()?;
        let duration = batch.array("duration_ns").and_then(|a| cast(&a, &DataType::Int64).ok());
        let received = batch.runs().iter().flat_map(|r| std::iter::repeat_n(r.received, r.rows));
        Ok(Self {
            time: time.map(|a| a.as_primitive::<TimestampNanosecondType>().clone()),
            duration: duration.map(|a| a.as_primitive::<Int64Type>().clone()),
            trace: text("trace_id"),
            span: text("span_id"),
            parent: text("parent_span_id"),
            kind: text("kind"),
            status: text("status"),
            service: text("service.name"),
            peers: PEERS.map(|(name, _)| text(name)),
            received: received.collect(),
        })
    }

    /// The side of a call that the span at `row` is, if it is one.
    pub(super) fn take(&self, row: usize) -> Option<Taken> {
        let (side, messaging) = match at(&self.kind, row)? {
            "client" => (Side::Client, false),
            "producer" => (Side::Client, true),
            "server" => (Side::Server, false),
            "consumer" => (Side::Server, true),
            _ => return None,
        };
        let trace = at(&self.trace, row)?;
        let call = match side {
            Side::Client => Some(at(&self.span, row)?),
            Side::Server => at(&self.parent, row),
        };
        let peer = || {
            let named = self.peers.iter().zip(0u8..);
            named.filter_map(|(array, peer)| Some((at(array, row)?.into(), peer))).next()
        };
        let half = Half {
            side,
            messaging,
            failed: at(&self.status, row) == Some("error"),
            time: self.time.as_ref().filter(|t| t.is_valid(row)).map(|t| t.value(row)),
            received: self.received.get(row).copied()?,
            duration: self.duration.as_ref().filter(|d| d.is_valid(row)).map(|d| d.value(row)),
            service: at(&self.service, row).unwrap_or("unknown").into(),
            trace: trace.into(),
            span: at(&self.span, row).unwrap_or_default().into(),
            peer: if side == Side::Client { peer() } else { None },
        };
        Some(Taken { key: call.map(|call| key(trace, call)), half })
    }
}

/// What tells calls apart.
fn key(trace: &str, span: &str) -> u128 {
    let mut bytes = Vec::with_capacity(trace.len() + span.len() + 1);
    bytes.extend(trace.as_bytes());
    bytes.push(0);
    bytes.extend(span.as_bytes());
    xxh3_128(&bytes)
}

/// A call, of which one side may be missing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) client: Option<Half>,
    pub(super) server: Option<Half>,
    /// When the side that completed it was received.
    pub(super) received: i64,
    /// Whether nobody within sight made it.
    pub(super) outside: bool,
}

impl Call {
    fn connection(&self) -> &'static str {
        match (&self.client, &self.server) {
            (Some(client), Some(server)) if client.messaging || server.messaging => "messaging",
            (Some(_), Some(_)) => "direct",
            (None, _) if self.outside => "user",
            (Some(Half { peer: Some((_, peer)), .. }), None) => {
                PEERS.get(usize::from(*peer)).map_or("peer", |(_, connection)| connection)
            }
            _ => "unpaired",
        }
    }

    fn client_name(&self) -> Option<&str> {
        match &self.client {
            Some(client) => Some(&client.service),
            None => self.outside.then_some("user"),
        }
    }

    fn server_name(&self) -> Option<&str> {
        match (&self.server, &self.client) {
            (Some(server), _) => Some(&server.service),
            (None, Some(Half { peer: Some((peer, _)), .. })) => Some(peer),
            _ => None,
        }
    }
}

/// Calls as rows, in the order of [`COLUMNS`].
pub(super) fn rows(calls: &[Call]) -> Result<Batch, OperatorError> {
    let halves = |call: &Call| [call.client.clone(), call.server.clone()].into_iter().flatten();
    let text = |of: &dyn Fn(&Call) -> Option<String>| -> ArrayRef {
        Arc::new(calls.iter().map(of).collect::<StringArray>())
    };
    let duration = |of: fn(&Call) -> &Option<Half>| -> ArrayRef {
        let took = calls.iter().map(|call| of(call).as_ref()?.duration);
        Arc::new(took.collect::<Int64Array>())
    };
    let times: TimestampNanosecondArray =
        calls.iter().map(|call| halves(call).find_map(|half| half.time)).collect();
    let failed = calls.iter().map(|call| Some(halves(call).any(|half| half.failed)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(times.with_timezone("UTC")),
        text(&|call| call.client_name().map(str::to_owned)),
        text(&|call| call.server_name().map(str::to_owned)),
        text(&|call| Some(call.connection().to_owned())),
        Arc::new(failed.collect::<BooleanArray>()),
        duration(|call| &call.client),
        duration(|call| &call.server),
        text(&|call| halves(call).next().map(|half| half.trace.to_string())),
        text(&|call| halves(call).next().map(|half| half.span.to_string())),
    ];
    let fields: Vec<Field> =
        COLUMNS.iter().map(|(name, t)| Field::new(*name, t.data_type(), true)).collect();
    let record = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    let runs = calls.iter().map(|call| Run {
        offset: 0,
        received: call.received,
        source: "".into(),
        rows: 1,
    });
    let signal = Signal::named("service_graph");
    Ok(Batch::new(signal, TENANT.into(), record, None, runs.collect())?)
}
