//! What is read in place is what `prost` reads: over made-up messages, some of them broken.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Histogram, HistogramDataPoint, Metric, ResourceMetrics, ScopeMetrics,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::prelude::*;
use weir_pipeline::signal::Signal;

use super::super::wire::{self, Record, Request};
use super::super::{logs, metrics, spans};
use super::*;
use crate::series::SeriesCache;

/// What a field holds.
#[derive(Clone, Copy)]
enum Kind {
    Varint,
    Fixed32,
    Fixed64,
    /// Nanoseconds, some of them too many.
    Time,
    Text,
    Bytes,
    /// Bytes of this length, mostly.
    Id(usize),
    One(&'static Schema),
    /// Now and then one.
    Rare(&'static Schema),
    /// Any number of them.
    Many(&'static Schema),
}

/// Fields by number.
struct Schema(&'static [(u32, Kind)]);

use Kind::{Bytes as Blob, Fixed32, Fixed64, Id, Many, One, Rare, Text, Time, Varint};

#[rustfmt::skip]
static ANY: Schema = Schema(&[
    (1, Text), (2, Varint), (3, Varint), (4, Fixed64), (5, One(&ARRAY)), (6, One(&MAP)), (7, Blob),
    (8, Varint),
]);
static ARRAY: Schema = Schema(&[(1, Many(&ANY))]);
static MAP: Schema = Schema(&[(1, Many(&ATTRIBUTE))]);
static ATTRIBUTE: Schema = Schema(&[(1, Text), (2, One(&ANY))]);
#[rustfmt::skip]
static LOG: Schema = Schema(&[
    (1, Time), (2, Varint), (3, Text), (5, One(&ANY)), (6, Many(&ATTRIBUTE)), (7, Varint),
    (8, Fixed32), (9, Id(16)), (10, Id(8)), (11, Time), (12, Text),
]);
#[rustfmt::skip]
static SPAN: Schema = Schema(&[
    (1, Id(16)), (2, Id(8)), (3, Text), (4, Id(8)), (5, Text), (6, Varint), (7, Time), (8, Time),
    (9, Many(&ATTRIBUTE)), (10, Varint), (11, Many(&EVENT)), (12, Varint), (13, Many(&LINK)),
    (14, Varint), (15, One(&STATUS)), (16, Fixed32),
]);
static EVENT: Schema = Schema(&[(1, Fixed64), (2, Text), (3, Many(&ATTRIBUTE)), (4, Varint)]);
#[rustfmt::skip]
static LINK: Schema = Schema(&[
    (1, Id(16)), (2, Id(8)), (3, Text), (4, Many(&ATTRIBUTE)), (5, Varint), (6, Fixed32),
]);
static STATUS: Schema = Schema(&[(2, Text), (3, Varint)]);
#[rustfmt::skip]
static METRIC: Schema = Schema(&[
    (1, Text), (2, Text), (3, Text), (5, Rare(&GAUGE)), (7, One(&SUM)), (9, Rare(&HISTOGRAM)),
    (10, Rare(&EXPONENTIAL)), (11, Rare(&SUMMARY)), (12, Many(&ATTRIBUTE)),
]);
static GAUGE: Schema = Schema(&[(1, Many(&POINT))]);
static SUM: Schema = Schema(&[(1, Many(&POINT)), (2, Varint), (3, Varint)]);
static HISTOGRAM: Schema = Schema(&[(1, Many(&BUCKETS)), (2, Varint)]);
#[rustfmt::skip]
static POINT: Schema = Schema(&[
    (2, Time), (3, Time), (4, Fixed64), (5, Many(&EXEMPLAR)), (6, Fixed64), (7, Many(&ATTRIBUTE)),
    (8, Varint),
]);
static EXEMPLAR: Schema = Schema(&[(2, Time), (3, Fixed64), (4, Id(8)), (7, Many(&ATTRIBUTE))]);
static BUCKETS: Schema =
    Schema(&[(3, Time), (4, Fixed64), (5, Fixed64), (7, Fixed64), (9, Many(&ATTRIBUTE))]);
static EXPONENTIAL: Schema = Schema(&[(1, Many(&SCALED)), (2, Varint)]);
static SCALED: Schema = Schema(&[(1, Many(&ATTRIBUTE)), (3, Time), (6, Varint)]);
static SUMMARY: Schema = Schema(&[(1, Many(&QUANTILES))]);
static QUANTILES: Schema = Schema(&[(3, Time), (6, Many(&QUANTILE)), (7, Many(&ATTRIBUTE))]);
static QUANTILE: Schema = Schema(&[(1, Fixed64), (2, Fixed64)]);

/// Decides by bytes that the test made up; when they are used up, for what is ordinary.
struct Chance<'a>(&'a [u8]);

impl Chance<'_> {
    /// A number below `n`.
    fn below(&mut self, n: u8) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first % n
    }

    /// Once in `n` times.
    fn rare(&mut self, n: u8) -> bool {
        self.below(n) == n - 1
    }

    fn message(&mut self, schema: &Schema, depth: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, kind) in schema.0 {
            let times = match kind {
                Many(_) if depth == 0 => 0,
                Rare(_) => u8::from(self.rare(8)),
                Many(_) => self.below(4),
                // Of these mostly one.
                _ if std::ptr::eq(schema, &ANY) => u8::from(self.rare(8)),
                _ if std::ptr::eq(schema, &ATTRIBUTE) => 1,
                _ => self.below(2),
            };
            for _ in 0..times + u8::from(self.rare(60)) {
                self.field(*number, *kind, depth, &mut out);
            }
            if self.rare(120) {
                // A group that nobody knows.
                self.varint(50 << 3 | 3, &mut out);
                self.varint(50 << 3 | 4, &mut out);
            }
            if self.rare(80) {
                let number = u32::from(self.below(40)) + 1;
                let kind = [Varint, Fixed32, Fixed64, Text][usize::from(self.below(4))];
                self.field(number, kind, depth, &mut out);
            }
        }
        if std::ptr::eq(schema, &ANY) && out.is_empty() {
            self.field(1, Text, depth, &mut out);
        }
        if self.rare(200) {
            let at = usize::from(self.below(100)).min(out.len());
            match self.below(3) {
                0 => out.truncate(at),
                1 => out.insert(at, self.below(255)),
                // The end of a group.
                _ => out.push(0x0c),
            }
        }
        out
    }

    fn field(&mut self, number: u32, kind: Kind, depth: usize, out: &mut Vec<u8>) {
        let tag = |wire: u64| u64::from(number) << 3 | wire;
        match kind {
            Varint => {
                self.varint(tag(0), out);
                let value = [0, 1, 2, 3, 9, u64::from(u32::MAX), u64::MAX, 1 << 40];
                let value = value[usize::from(self.below(8))];
                self.varint(value, out);
            }
            Fixed32 => {
                self.varint(tag(5), out);
                out.extend([self.below(3), 0, 0, 0]);
            }
            Fixed64 => {
                self.varint(tag(1), out);
                let value = [0.0, 1.0, -0.0, f64::NAN, 1e300, 0.1];
                out.extend(value[usize::from(self.below(6))].to_le_bytes());
            }
            Time => {
                self.varint(tag(1), out);
                let value = [1_700_000_000_000_000_000, 1_800_000_000_000_000_000, 0, 5, u64::MAX];
                let rare = if self.rare(10) { 5 } else { 2 };
                out.extend(value[usize::from(self.below(rare))].to_le_bytes());
            }
            Text => {
                let text: [&[u8]; 12] = [
                    b"a",
                    b"b",
                    b"",
                    b"user.id",
                    b"http.response.status_code",
                    b"200",
                    b"info",
                    "h\u{e4}".as_bytes(),
                    b"body",
                    b"resource.a",
                    b"\xff",
                    b"\"{}\\\n",
                ];
                let text = text[usize::from(self.below(12))];
                let text = if text == b"\xff" && !self.rare(10) { b"c" } else { text };
                self.bytes(tag(2), text, out);
            }
            Blob => self.bytes(tag(2), b"\x00\xff", out),
            Id(length) => {
                let length = if self.rare(20) { length - 1 } else { length };
                let id = vec![self.below(3); length];
                self.bytes(tag(2), &id, out);
            }
            One(_) | Rare(_) | Many(_) if depth == 0 => {}
            One(schema) | Rare(schema) | Many(schema) => {
                let message = self.message(schema, depth - 1);
                self.bytes(tag(2), &message, out);
            }
        }
    }

    fn bytes(&mut self, tag: u64, bytes: &[u8], out: &mut Vec<u8>) {
        self.varint(tag, out);
        self.varint(bytes.len() as u64, out);
        out.extend(bytes);
    }

    /// Now and then longer than it needs to be.
    fn varint(&mut self, value: u64, out: &mut Vec<u8>) {
        prost::encoding::encode_varint(value, out);
        if self.rare(250)
            && let Some(last) = out.last_mut()
        {
            *last |= 0x80;
            out.push(self.below(3));
        }
    }

    /// A request of such records: two scopes of one resource.
    fn request(&mut self, record: &Schema) -> Vec<u8> {
        let mut group = Vec::new();
        let attributes = self.message(&MAP, 4);
        self.bytes(0x0a, &attributes, &mut group);
        for _ in 0..2 {
            let mut scope = Vec::new();
            for _ in 0..self.below(5) {
                let record = self.message(record, 6);
                self.bytes(0x12, &record, &mut scope);
            }
            self.bytes(0x12, &scope, &mut group);
        }
        let mut out = Vec::new();
        self.bytes(0x0a, &group, &mut out);
        out
    }
}

/// The request with all its records decoded by `prost`, after a look at each.
fn owned<T: Message + Default>(
    request: Request<'_, T>,
    look: fn(&[u8]) -> Result<usize, DecodeError>,
) -> Result<Request<'_, T>, DecodeError> {
    let owned = |(entity, record): (u32, Record<'_, T>)| {
        record.wire().map_or(Ok(0), look)?;
        Ok((entity, Record::Owned(Box::new(record.decode()?))))
    };
    let records = request.records.into_iter().map(owned).collect::<Result<_, DecodeError>>()?;
    Ok(Request { records, ..request })
}

fn by_prost(path: &str, body: &[u8]) -> Result<Decoded, DecodeError> {
    let table = EntitySpace::default().table();
    match path {
        "/v1/logs" => {
            let request: Request<'_, LogRecord> = Request::parse(&Signal::Logs, body)?;
            logs::decode(owned(request, |_| Ok(0))?, RECEIVED, &table)
        }
        "/v1/metrics" => {
            let request: Request<'_, Metric> = Request::parse(&Signal::Metrics, body)?;
            let cache = SeriesCache::default();
            metrics::decode(owned(request, wire::points)?, RECEIVED, cache.lookup(table))
        }
        _ => {
            let request: Request<'_, Span> = Request::parse(&Signal::Spans, body)?;
            spans::decode(owned(request, |_| Ok(0))?, RECEIVED, &table)
        }
    }
}

/// All there is to see of what was decoded.
fn seen(decoded: &Result<Decoded, DecodeError>) -> String {
    let decoded = match decoded {
        Ok(decoded) => decoded,
        Err(e) => return format!("{}: {}", e.reason, e.message),
    };
    let mut out = format!("{:?} {}\n", decoded.rejected, decoded.idempotent);
    for batch in &decoded.batches {
        out += &format!("{} {:?}\n", batch.output, batch.signal);
        for field in batch.rows.schema().fields() {
            let metadata: BTreeMap<_, _> = field.metadata().iter().collect();
            out += &format!("{} {} {metadata:?}\n", field.name(), field.data_type());
        }
        // Not `==`: a NaN is the same as itself.
        out += &format!("{:?}\n", batch.rows.columns());
        let keys = batch.entities.as_ref().unwrap();
        for key in keys.keys.values() {
            out += &format!("{:?}\n", keys.table.get(*key));
        }
    }
    out
}

/// Whether both say the same of `body`, also the second time, when series are known.
fn check(path: &str, body: &[u8]) -> Result<Decoded, DecodeError> {
    let decoder = OtlpDecoder::new(1 << 20);
    let space = EntitySpace::default();
    let envelope = Envelope {
        content_type: "application/x-protobuf".to_owned(),
        path: path.to_owned(),
        ..Envelope::default()
    };
    let head = EntryHead { received: RECEIVED, envelope: &envelope };
    let payload = Bytes::copy_from_slice(body);
    let expect = seen(&by_prost(path, body));
    let first = decoder.decode(&head, &payload, &space);
    assert_eq!(seen(&first), expect);
    assert_eq!(seen(&decoder.decode(&head, &payload, &space)), expect);
    first
}

#[test]
fn bounds_tell_histograms_apart() {
    let point = |bound: f64| HistogramDataPoint {
        time_unix_nano: 1,
        bucket_counts: vec![1, 2],
        explicit_bounds: vec![bound],
        ..HistogramDataPoint::default()
    };
    let histogram = Histogram { data_points: vec![point(1.0), point(2.0)], ..Default::default() };
    let metric = Metric { data: Some(Data::Histogram(histogram)), ..Metric::default() };
    let scope = ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() };
    let resource = ResourceMetrics { scope_metrics: vec![scope], ..ResourceMetrics::default() };
    let request = ExportMetricsServiceRequest { resource_metrics: vec![resource] };
    let decoded = check("/v1/metrics", &request.encode_to_vec()).unwrap();
    let keys = decoded.batches[0].entities.as_ref().unwrap();
    assert_ne!(keys.keys.value(0), keys.keys.value(1));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn logs_are_as_prost_has_them(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = check("/v1/logs", &Chance(&bytes).request(&LOG));
    }

    #[test]
    fn spans_are_as_prost_has_them(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = check("/v1/traces", &Chance(&bytes).request(&SPAN));
    }

    #[test]
    fn metrics_are_as_prost_has_them(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = check("/v1/metrics", &Chance(&bytes).request(&METRIC));
    }
}
