//! Against a naive model, straight and interrupted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type, TimestampNanosecondType};
use proptest::prelude::*;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::Operator;
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::Signal;

use super::KIND;
use crate::testing::{self, Row, row, run, show, tick};

const S: i64 = 1_000_000_000;
const MS: i64 = 1_000_000;

fn spans(rows: &[Row]) -> Batch {
    testing::batch_in(rows, &Arc::new(EntityTable::default()), Signal::Spans)
}

fn operator(toml: &str) -> Box<dyn Operator> {
    let plan = (KIND.plan)(
        &weir_pipeline::config::Section::parse_for_tests("t", toml),
        &testing::scope(Signal::Spans),
    );
    plan.unwrap_or_else(|e| panic!("{e}")).build()
}

#[test]
fn calls_and_durations() {
    let mut red = operator(
        "every = \"10s\"\nlateness = \"0s\"\nbuckets = [\"10ms\", \"1s\"]\ndimensions = [\"http.route\"]",
    );
    let span = |at: i64, took: i64, status: &'static str| {
        let row =
            row(at * S).set("duration_ns", took * MS).set("status", status).set("kind", "server");
        row.set("name", "GET /").entity("service.name", "cart").set("http.route", "/")
    };
    let rows = [
        span(1, 5, "ok").set("trace_id", "aa").set("span_id", "01"),
        span(2, 700, "ok").set("trace_id", "bb"),
        span(3, 2_000, "ok"),
        span(4, 10, "error").set("trace_id", "cc"),
        span(11, 1, "ok"),
    ];
    let out = run(&mut *red, |o, out| {
        o.process(0, spans(&rows), out).unwrap();
        o.tick(tick(10 * S), out).unwrap();
    });
    let of = "http.route=/ metric";
    let rest =
        "service.name=cart span.kind=server span.name=GET / start_timestamp=1970-01-01T00:00:00Z";
    let end = "timestamp=1970-01-01T00:00:10Z";
    let calls = "metric.temporality=delta metric.type=counter metric.unit={call}";
    let duration = "metric.temporality=delta metric.type=histogram metric.unit=s";
    let histogram = |count: &str, sum: &str, min: &str, max: &str, counts: &str| {
        format!(
            "histogram={{count: {count}, sum: {sum}, min: {min}, max: {max}, counts: {counts}, values: , \
             scale: , zero_count: , zero_threshold: , positive_offset: , positive_counts: , \
             negative_offset: , negative_counts: }}"
        )
    };
    let expect = [
        format!(
            "{of}.name=traces.span.metrics.calls {calls} {rest} status.code=error {end} value=1.0"
        ),
        format!(
            "exemplars=[{{\"timestamp\":4000000000,\"trace_id\":\"cc\",\"value\":0.01}}] {} \
             http.route=/ metric.bounds=[0.01,1.0] metric.name=traces.span.metrics.duration {duration} {rest} \
             status.code=error {end}",
            histogram("1", "0.01", "0.01", "0.01", "[1, 0, 0]")
        ),
        format!(
            "{of}.name=traces.span.metrics.calls {calls} {rest} status.code=ok {end} value=3.0"
        ),
        format!(
            "exemplars=[{{\"timestamp\":2000000000,\"trace_id\":\"bb\",\"value\":0.7}}] {} \
             http.route=/ metric.bounds=[0.01,1.0] metric.name=traces.span.metrics.duration {duration} {rest} \
             status.code=ok {end}",
            histogram("3", "2.705", "0.005", "2.0", "[1, 1, 1]")
        ),
    ];
    assert_eq!(show(&out.emitted, ""), expect);
    assert_eq!(*out.emitted[0].1.signal(), Signal::Metrics);
    // A span of a window that is closed passes as it is.
    let out = run(&mut *red, |o, out| o.process(0, spans(&[span(5, 1, "ok")]), out).unwrap());
    assert_eq!(out.emitted.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["late"]);
    let out = run(&mut *red, |o, out| o.flush(tick(12 * S), out).unwrap());
    assert_eq!(out.emitted[0].1.num_rows(), 2);
}

#[test]
fn limits_are_checked() {
    for toml in [
        "every = \"0s\"",
        "buckets = []",
        "buckets = [\"1s\", \"1s\"]",
        "max_groups = 0",
        "dimensions = [\"n + 1\"]",
    ] {
        let e = testing::plan(&KIND, toml).unwrap_err();
        assert!(e.to_string().contains("W310"), "{e}");
    }
    let e = testing::plan(&KIND, "dimensions = [\"status\"]").unwrap_err();
    assert!(e.to_string().contains("W311"), "{e}");
}

const BOUNDS_MS: [i64; 3] = [1, 5, 20];
const WINDOW: i64 = 10;

#[derive(Clone, Debug)]
struct Span {
    at: i64,
    service: Option<&'static str>,
    name: &'static str,
    status: &'static str,
    took: Option<i64>,
    trace: Option<&'static str>,
}

fn span() -> impl Strategy<Value = Span> {
    (
        0..40i64,
        proptest::option::weighted(0.9, proptest::sample::select(vec!["a", "b"])),
        proptest::sample::select(vec!["x", "y"]),
        proptest::sample::select(vec!["ok", "error", "unset"]),
        proptest::option::weighted(0.9, 0..30i64),
        proptest::option::weighted(0.8, proptest::sample::select(vec!["t1", "t2", "t3"])),
    )
        .prop_map(|(at, service, name, status, took, trace)| Span {
            at,
            service,
            name,
            status,
            took,
            trace,
        })
}

impl Span {
    fn row(&self) -> Row {
        let mut row = row(self.at * S).set("name", self.name).set("status", self.status);
        if let Some(took) = self.took {
            row = row.set("duration_ns", took * MS);
        }
        if let Some(trace) = self.trace {
            row = row.set("trace_id", trace).set("span_id", "s");
        }
        match self.service {
            Some(service) => row.entity("service.name", service),
            None => row,
        }
    }
}

/// End of the window, service, name, status.
type Group = (i64, Option<String>, String, String);

/// Calls; count, sum and counts of the histogram in milliseconds; time and trace of the exemplar.
type Made = (i64, Option<(i64, i64, Vec<i64>)>, Option<(i64, String)>);

fn model(spans: &[Span]) -> BTreeMap<Group, Made> {
    let mut groups: BTreeMap<Group, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        let end = (span.at / WINDOW + 1) * WINDOW;
        let service = span.service.map(str::to_owned);
        groups.entry((end, service, span.name.into(), span.status.into())).or_default().push(span);
    }
    let make = |spans: Vec<&Span>| {
        let took: Vec<i64> = spans.iter().filter_map(|s| s.took).collect();
        let mut counts = vec![0; BOUNDS_MS.len() + 1];
        took.iter().for_each(|t| counts[BOUNDS_MS.iter().filter(|b| t > b).count()] += 1);
        let histogram = (!took.is_empty()).then(|| (took.len() as i64, took.iter().sum(), counts));
        let slow = spans.iter().filter_map(|s| Some((s.took?, s.trace?, (s.at * S).to_string())));
        let slowest = slow.max().map(|(took, trace, _)| (took, trace.to_owned()));
        (spans.len() as i64, histogram, slowest)
    };
    groups.into_iter().map(|(group, spans)| (group, make(spans))).collect()
}

/// The same of what the operator emitted.
fn made(emitted: &[(&'static str, Batch)]) -> BTreeMap<Group, Made> {
    let mut all: BTreeMap<Group, Made> = BTreeMap::new();
    for (_, batch) in emitted.iter().filter(|(name, _)| name.is_empty()) {
        let text = |name: &str, row: usize| {
            let array = batch.array(name)?;
            array.is_valid(row).then(|| array.as_string::<i32>().value(row).to_owned())
        };
        for row in 0..batch.num_rows() {
            let end = batch.array("timestamp").unwrap();
            let end = end.as_primitive::<TimestampNanosecondType>().value(row) / S;
            let (name, status) = (text("span.name", row), text("status.code", row));
            let group = (end, text("service.name", row), name.unwrap(), status.unwrap());
            let made = all.entry(group).or_default();
            if text("metric.name", row).unwrap() == "traces.span.metrics.calls" {
                let value = batch.array("value").unwrap();
                made.0 += value.as_primitive::<Float64Type>().value(row) as i64;
                continue;
            }
            let histogram = batch.array("histogram").unwrap();
            let histogram = histogram.as_struct();
            let count = histogram.column(0).as_primitive::<Int64Type>().value(row);
            let sum = histogram.column(1).as_primitive::<Float64Type>().value(row);
            let counts = histogram.column(4).as_list::<i32>().value(row);
            let counts = counts.as_primitive::<Int64Type>().values().to_vec();
            assert!(made.1.is_none());
            made.1 = Some((count, (sum * 1e3).round() as i64, counts));
            made.2 = text("exemplars", row).map(|json| {
                let exemplar: serde_json::Value = serde_json::from_str(&json).unwrap();
                let took = exemplar[0]["value"].as_f64().unwrap() * 1e3;
                (took.round() as i64, exemplar[0]["trace_id"].as_str().unwrap().to_owned())
            });
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn as_the_model_says_however_it_is_cut(
        spans in proptest::collection::vec(span(), 0..60),
        cuts in proptest::collection::btree_map(0usize..60, any::<bool>(), 0..5),
    ) {
        let toml = "buckets = [\"1ms\", \"5ms\", \"20ms\"]\nlateness = \"100s\"";
        let rows: Vec<Row> = spans.iter().map(Span::row).collect();
        let mut red = operator(toml);
        let (mut emitted, mut at) = (Vec::new(), 0);
        for end in cuts.keys().copied().filter(|c| *c < rows.len()).chain([rows.len()]) {
            if at < end {
                let batch = self::spans(&rows[at..end]);
                let out = run(&mut *red, |o, out| o.process(0, batch, out).unwrap());
                prop_assert!(out.rejected.is_empty());
                emitted.extend(out.emitted);
                at = end;
            }
            if cuts.get(&end) == Some(&true) {
                let state = red.snapshot().unwrap();
                red = operator(toml);
                red.restore(&state).unwrap();
                prop_assert_eq!(red.snapshot().unwrap(), state);
            }
        }
        emitted.extend(run(&mut *red, |o, out| o.tick(tick(150 * S), out).unwrap()).emitted);
        prop_assert_eq!(made(&emitted), model(&spans));
    }
}
