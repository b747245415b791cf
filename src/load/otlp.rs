//! OTLP: logs, spans and points of some services.

use anyhow::{Context, Result};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;

use super::clock::Clock;
use super::{Feed, mix};
use crate::cli::OtlpLoad;

/// Services that share a request.
const SERVICES: [&str; 5] = ["cart", "checkout", "frontend", "payment", "search"];
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
const ROUTES: [&str; 6] =
    ["/", "/cart", "/cart/{id}", "/api/v1/checkout", "/api/v1/search", "/health"];
const WORDS: [&str; 16] = [
    "request",
    "accepted",
    "from",
    "upstream",
    "cache",
    "miss",
    "user",
    "session",
    "retrying",
    "timeout",
    "connection",
    "pool",
    "latency",
    "payload",
    "order",
    "completed",
];

/// Numbers, ids counted too, from one log record that has the word `unusual` to the next.
const RARE: u64 = 1 << 18;

/// A message with places that are changed for each request.
pub(super) struct Template {
    body: Vec<u8>,
    rows: u64,
    /// Where times stand (eight bytes, nanoseconds), and how much later than that of the first row.
    times: Vec<(usize, u64)>,
    /// Where 16 digits of a number stand that no other row has.
    numbers: Vec<usize>,
    /// Where ids of 16 bytes and of 8 stand, and how long they are.
    ids: Vec<(usize, usize)>,
    /// Where an id stands again, which one, and how long it is.
    copies: Vec<(usize, usize, usize)>,
    next: u64,
    clock: Clock,
}

impl Feed for Template {
    fn next(&mut self) -> (Bytes, u64) {
        let (first, latest) = (self.clock.rows(self.rows), self.clock.latest());
        let body = &mut self.body;
        for (at, later) in &self.times {
            body[*at..at + 8].copy_from_slice(&(first + later).min(latest).to_le_bytes());
        }
        for at in &self.numbers {
            self.next += 1;
            let number = match self.next.is_multiple_of(RARE) {
                true => format!("unusual {:08}", self.next % 100_000_000),
                false => format!("{:016}", self.next),
            };
            body[*at..at + 16].copy_from_slice(number.as_bytes());
        }
        for (at, len) in &self.ids {
            self.next += 1;
            let id = (u128::from(mix(self.next)) << 64 | u128::from(mix(!self.next))).to_be_bytes();
            body[*at..at + len].copy_from_slice(&id[..*len]);
        }
        for (at, of, len) in &self.copies {
            body.copy_within(*of..of + len, *at);
        }
        (Bytes::copy_from_slice(body), self.rows)
    }
}

/// Numbers that stand where something is to be changed, and the places where they do.
struct Marks {
    seed: u64,
    times: Vec<([u8; 8], u64)>,
    numbers: Vec<String>,
    ids: Vec<Vec<u8>>,
    /// A mark, and the index of the id that shall stand there again.
    copies: Vec<(Vec<u8>, usize)>,
    clock: Clock,
}

impl Marks {
    /// For the connection `nth`: no two have the same numbers and ids.
    fn new(nth: usize, clock: &Clock) -> Self {
        let (times, numbers, ids, copies) = Default::default();
        let clock = clock.clone();
        Self { seed: (nth as u64 + 1) << 40, times, numbers, ids, copies, clock }
    }

    fn mark(&mut self) -> u64 {
        self.seed += 1;
        mix(self.seed)
    }

    /// The time of the row `n` of the request, and `later` nanoseconds.
    fn time(&mut self, n: usize, later: u64) -> u64 {
        let mark = self.mark();
        self.times.push((mark.to_le_bytes(), n as u64 * self.clock.between_rows() + later));
        mark
    }

    fn number(&mut self) -> String {
        let mark = format!("{:016x}", self.mark());
        self.numbers.push(mark.clone());
        mark
    }

    fn id(&mut self, len: usize) -> Vec<u8> {
        let id = self.bytes(len);
        self.ids.push(id.clone());
        id
    }

    /// The id with the index `of` again.
    fn again(&mut self, of: usize) -> Vec<u8> {
        let mark = self.bytes(self.ids[of].len());
        self.copies.push((mark.clone(), of));
        mark
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let id = (u128::from(self.mark()) << 64 | u128::from(self.mark())).to_be_bytes();
        id[..len].to_vec()
    }

    fn template(self, message: &impl Message, rows: usize) -> Result<Template> {
        let body = message.encode_to_vec();
        let times = Finder::of(&body).all(self.times.iter().map(|(mark, _)| &mark[..]))?;
        let times = times.into_iter().zip(&self.times).map(|(at, (_, later))| (at, *later));
        let numbers = Finder::of(&body).all(self.numbers.iter().map(|mark| mark.as_bytes()))?;
        let ids = Finder::of(&body).all(self.ids.iter().map(Vec::as_slice))?;
        let copies = Finder::of(&body).all(self.copies.iter().map(|(mark, _)| &mark[..]))?;
        let copies = copies.into_iter().zip(&self.copies);
        let copies = copies.map(|(at, (mark, of))| (at, ids[*of], mark.len()));
        let (times, copies) = (times.collect(), copies.collect());
        let ids = ids.into_iter().zip(&self.ids).map(|(at, mark)| (at, mark.len())).collect();
        let (rows, next, clock) = (rows as u64, self.seed, self.clock);
        Ok(Template { body, rows, times, numbers, ids, copies, next, clock })
    }
}

/// Finds marks of one kind, which stand in the order in which they were made.
struct Finder<'a> {
    body: &'a [u8],
    from: usize,
}

impl<'a> Finder<'a> {
    fn of(body: &'a [u8]) -> Self {
        Self { body, from: 0 }
    }

    fn all<'m>(mut self, marks: impl Iterator<Item = &'m [u8]>) -> Result<Vec<usize>> {
        let mut found = Vec::new();
        for mark in marks {
            let at = self.body[self.from..].windows(mark.len()).position(|w| w == mark);
            self.from += at.context("what was written is not there")?;
            found.push(self.from);
        }
        Ok(found)
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn int(key: &str, value: usize) -> KeyValue {
    attribute(key, Value::IntValue(value as i64))
}

fn resource(run: &str, service: &str) -> Option<Resource> {
    let attributes = vec![
        text("service.name", service),
        text("service.namespace", run),
        text("service.version", "1.14.2"),
        text("service.instance.id", format!("{service}-7d9f8b6c5-x2x4z")),
        text("host.name", format!("node-{}", service.len())),
        text("deployment.environment.name", "production"),
    ];
    Some(Resource { attributes, ..Resource::default() })
}

fn scope() -> Option<InstrumentationScope> {
    let (name, version) = ("io.weir.load".to_owned(), "1.0".to_owned());
    Some(InstrumentationScope { name, version, ..Default::default() })
}

/// The rows of each service: some in a row.
fn shares(rows: usize) -> impl Iterator<Item = (&'static str, std::ops::Range<usize>)> {
    let share = move |n: usize| rows * n / SERVICES.len();
    SERVICES.iter().enumerate().map(move |(i, service)| (*service, share(i)..share(i + 1)))
}

/// A line of `len` letters that begins with what happened.
fn line(begin: String, n: usize, len: usize) -> String {
    let mut line = begin;
    let mut word = n as u64;
    while line.len() < len {
        word = mix(word + 1);
        line.push(' ');
        line.push_str(WORDS[word as usize % WORDS.len()]);
        if word.is_multiple_of(5) {
            line += &format!("={}", word % 10_000);
        }
    }
    line.truncate(len);
    line
}

/// Requests of log records for the connection `nth`.
pub(super) fn logs(args: &OtlpLoad, run: &str, nth: usize, clock: &Clock) -> Result<Template> {
    let mut marks = Marks::new(nth, clock);
    let mut record = |n: usize| {
        let (trace, span) = (marks.id(16), marks.id(8));
        let begin = format!("{} {} {}", METHODS[n % 4], ROUTES[n % 6], marks.number());
        LogRecord {
            time_unix_nano: marks.time(n, 0),
            observed_time_unix_nano: marks.time(n, 1_000_000),
            severity_number: [9, 9, 9, 9, 9, 9, 13, 17][n % 8],
            severity_text: ["INFO", "INFO", "INFO", "INFO", "INFO", "INFO", "WARN", "ERROR"][n % 8]
                .to_owned(),
            body: Some(AnyValue { value: Some(Value::StringValue(line(begin, n, args.bytes))) }),
            attributes: vec![
                text("http.request.method", METHODS[n % 4]),
                text("http.route", ROUTES[n % 6]),
                int("http.response.status_code", [200, 200, 200, 404, 500][n % 5]),
                text("user.id", format!("user-{}", mix(n as u64) % 5_000)),
                int("thread.id", n % 16),
            ],
            trace_id: trace,
            span_id: span,
            ..LogRecord::default()
        }
    };
    let resource_logs = shares(args.rows).map(|(service, rows)| ResourceLogs {
        resource: resource(run, service),
        scope_logs: vec![ScopeLogs {
            scope: scope(),
            log_records: rows.map(&mut record).collect(),
            ..ScopeLogs::default()
        }],
        ..ResourceLogs::default()
    });
    let message = ExportLogsServiceRequest { resource_logs: resource_logs.collect() };
    marks.template(&message, args.rows)
}

/// Requests of spans for the connection `nth`: traces of eight, each span but the first with a
/// parent.
pub(super) fn spans(args: &OtlpLoad, run: &str, nth: usize, clock: &Clock) -> Result<Template> {
    const TRACE: usize = 8;
    let mut marks = Marks::new(nth, clock);
    // Index of the id of the trace: those of its spans follow.
    let mut trace = 0;
    let mut span = |n: usize| {
        let first = n.is_multiple_of(TRACE);
        let trace_id = match first {
            true => {
                trace = marks.ids.len();
                marks.id(16)
            }
            false => marks.again(trace),
        };
        let id = marks.id(8);
        let parent = if first { Vec::new() } else { marks.again(trace + 1) };
        Span {
            trace_id,
            span_id: id,
            parent_span_id: parent,
            name: format!("{} {}", METHODS[n % 4], ROUTES[n % 6]),
            kind: [2, 3, 1][n % 3],
            start_time_unix_nano: marks.time(n, 0),
            end_time_unix_nano: marks.time(n, 1_000 + mix(n as u64) % 50_000_000),
            attributes: vec![
                text("http.request.method", METHODS[n % 4]),
                text("http.route", ROUTES[n % 6]),
                int("http.response.status_code", [200, 200, 200, 404, 500][n % 5]),
                text("server.address", format!("10.0.0.{}", n % 32)),
                text("url.path", format!("/cart/{}", mix(n as u64) % 1_000)),
            ],
            status: (n % 5 == 4).then(|| Status { code: 2, message: "failed".to_owned() }),
            ..Span::default()
        }
    };
    let resource_spans = shares(args.rows).map(|(service, rows)| ResourceSpans {
        resource: resource(run, service),
        scope_spans: vec![ScopeSpans {
            scope: scope(),
            spans: rows.map(&mut span).collect(),
            ..ScopeSpans::default()
        }],
        ..ResourceSpans::default()
    });
    let message = ExportTraceServiceRequest { resource_spans: resource_spans.collect() };
    marks.template(&message, args.rows)
}

/// Requests of points for the connection `nth`, each of a series of its own.
pub(super) fn points(args: &OtlpLoad, run: &str, nth: usize, clock: &Clock) -> Result<Template> {
    let mut marks = Marks::new(nth, clock);
    let mut point = |n: usize| NumberDataPoint {
        attributes: vec![
            text("cpu", format!("cpu{}", n % 64)),
            text("mode", ["user", "system", "idle", "iowait"][n % 4]),
            text("device", format!("dev-{nth}-{n}")),
        ],
        time_unix_nano: marks.time(n, 0),
        value: Some(number_data_point::Value::AsDouble(n as f64 * 0.25)),
        ..NumberDataPoint::default()
    };
    let resource_metrics = shares(args.rows).map(|(service, rows)| {
        let gauge = Gauge { data_points: rows.map(&mut point).collect() };
        let metric = Metric {
            name: "load.gauge".to_owned(),
            unit: "1".to_owned(),
            data: Some(metric::Data::Gauge(gauge)),
            ..Metric::default()
        };
        ResourceMetrics {
            resource: resource(run, service),
            scope_metrics: vec![ScopeMetrics {
                scope: scope(),
                metrics: vec![metric],
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }
    });
    let message = ExportMetricsServiceRequest { resource_metrics: resource_metrics.collect() };
    marks.template(&message, args.rows)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    fn args(rows: usize) -> OtlpLoad {
        OtlpLoad { rows, bytes: 300, ..OtlpLoad::default() }
    }

    #[test]
    fn no_two_records_are_alike() {
        let mut bodies = BTreeSet::new();
        let mut feeds =
            [0, 1].map(|nth| logs(&args(50), "load-1", nth, &Clock::default()).unwrap());
        for _ in 0..3 {
            for feed in &mut feeds {
                let (body, rows) = feed.next();
                assert_eq!(rows, 50);
                let request = ExportLogsServiceRequest::decode(body).unwrap();
                let records =
                    request.resource_logs.iter().flat_map(|r| &r.scope_logs[0].log_records);
                for record in records {
                    let Some(Value::StringValue(body)) = record.body.clone().unwrap().value else {
                        panic!("{record:?}")
                    };
                    assert_eq!(body.len(), 300);
                    bodies.insert(body);
                }
            }
        }
        assert_eq!(bodies.len(), 300);
    }

    #[test]
    fn spans_have_parents_in_their_trace() {
        let mut feed = spans(&args(40), "load-1", 0, &Clock::default()).unwrap();
        feed.next();
        let request = ExportTraceServiceRequest::decode(feed.next().0).unwrap();
        let spans: Vec<&Span> =
            request.resource_spans.iter().flat_map(|r| &r.scope_spans[0].spans).collect();
        assert_eq!(spans.len(), 40);
        for trace in spans.chunks(8) {
            assert!(trace.iter().all(|s| s.end_time_unix_nano > s.start_time_unix_nano));
            assert!(trace[1..].iter().all(|s| s.parent_span_id == trace[0].span_id));
            assert!(trace[0].parent_span_id.is_empty());
            assert!(trace.iter().all(|s| s.trace_id == trace[0].trace_id));
        }
        let ids: BTreeSet<_> = spans.iter().map(|s| &s.span_id).collect();
        let traces: BTreeSet<_> = spans.iter().map(|s| &s.trace_id).collect();
        assert_eq!((ids.len(), traces.len()), (40, 5));
    }

    #[test]
    fn points_are_of_now() {
        let mut feed = points(&args(10), "load-1", 0, &Clock::default()).unwrap();
        let before = super::super::now_ns();
        let request = ExportMetricsServiceRequest::decode(feed.next().0).unwrap();
        let metric = &request.resource_metrics[4].scope_metrics[0].metrics[0];
        let Some(metric::Data::Gauge(gauge)) = &metric.data else { panic!("{metric:?}") };
        assert!(gauge.data_points[1].time_unix_nano >= before);
    }
}
