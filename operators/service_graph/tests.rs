//! Against a naive model, straight and interrupted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type};
use proptest::prelude::*;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{Operator, OperatorPlan, Output, Tick};
use weir_pipeline::config::Section;
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::Signal;

use super::KIND;
use crate::testing::{self, Row, row, run};

const S: i64 = 1_000_000_000;
const MS: i64 = 1_000_000;

fn spans(rows: &[Row]) -> Batch {
    testing::batch_in(rows, &Arc::new(EntityTable::default()), Signal::Spans)
}

fn plan(toml: &str) -> Box<dyn OperatorPlan> {
    let section = Section::parse_for_tests("t", toml);
    let plan = (KIND.plan)(&section, &testing::scope(Signal::Spans));
    plan.unwrap_or_else(|e| panic!("{e}"))
}

fn operator(toml: &str) -> Box<dyn Operator> {
    plan(toml).build()
}

fn tick(seconds: i64) -> Tick {
    let time = seconds * S;
    Tick { time, elapsed: time, offset: 7, watermark: time, step: 0 }
}

fn span(kind: &'static str, service: &'static str, took: i64) -> Row {
    let row = row(S).set("kind", kind).set("trace_id", "t").set("duration_ns", took * MS);
    row.set("status", "unset").entity("service.name", service)
}

/// Requests, failures, and count and sum in milliseconds of either side, by pair.
type Made = BTreeMap<(String, String, String), [i64; 6]>;

fn made(out: &Output) -> Made {
    let mut all = Made::new();
    for (_, batch) in &out.emitted {
        let text = |name: &str, row: usize| match batch.array(name) {
            Some(array) if array.is_valid(row) => array.as_string::<i32>().value(row).to_owned(),
            _ => "-".to_owned(),
        };
        for row in 0..batch.num_rows() {
            let pair = (text("client", row), text("server", row), text("connection", row));
            let made = all.entry(pair).or_default();
            let value = batch.array("value").unwrap();
            let value = value.as_primitive::<Float64Type>().value(row) as i64;
            let histogram = batch.array("histogram").unwrap();
            let histogram = histogram.as_struct();
            let count = histogram.column(0).as_primitive::<Int64Type>().value(row);
            let sum = histogram.column(1).as_primitive::<Float64Type>().value(row);
            let sum = (sum * 1e3).round() as i64;
            match text("metric.name", row).strip_prefix("traces.service.graph.").unwrap() {
                "requests" => made[0] += value,
                "failures" => made[1] += value,
                "client.duration" => (made[2], made[3]) = (made[2] + count, made[3] + sum),
                "server.duration" => (made[4], made[5]) = (made[4] + count, made[5] + sum),
                other => panic!("{other}"),
            }
        }
    }
    all
}

#[track_caller]
fn check(rows: &[Row], expect: &[(&str, &str, &str, [i64; 6])]) {
    let mut graph = operator("");
    let out = run(&mut *graph, |o, out| {
        o.process(0, spans(rows), out).unwrap();
        [2, 12, 60].into_iter().for_each(|t| o.tick(tick(t), out).unwrap());
    });
    let name = |n: &str| n.to_owned();
    let expect: Made =
        expect.iter().map(|(c, s, of, made)| ((name(c), name(s), name(of)), *made)).collect();
    assert_eq!(made(&out), expect);
    assert_eq!(out.dropped, 0);
}

#[test]
fn both_sides_in_any_order() {
    let client = || span("client", "shop", 9).set("span_id", "c1");
    let server = || span("server", "cart", 7).set("span_id", "s1").set("parent_span_id", "c1");
    let expect = [("shop", "cart", "direct", [1, 0, 1, 9, 1, 7])];
    check(&[client(), server()], &expect);
    check(&[server(), client()], &expect);
    // A side that failed is enough.
    let failed = || server().set("status", "error");
    check(&[client(), failed()], &[("shop", "cart", "direct", [1, 1, 1, 9, 1, 7])]);
    // Of another trace.
    let other = server().set("trace_id", "u");
    let apart = [
        ("shop", "-", "unpaired", [1, 0, 1, 9, 0, 0]),
        ("-", "cart", "unpaired", [1, 0, 0, 0, 1, 7]),
    ];
    check(&[client(), other], &apart);
}

#[test]
fn what_has_one_side_only() {
    let client = || span("client", "shop", 9).set("span_id", "c1");
    let database = client().set("db.system", "postgresql").set("server.address", "10.0.0.1");
    check(&[database], &[("shop", "postgresql", "database", [1, 0, 1, 9, 0, 0])]);
    let peer = client().set("server.address", "pay.example");
    check(&[peer], &[("shop", "pay.example", "peer", [1, 0, 1, 9, 0, 0])]);
    check(&[client()], &[("shop", "-", "unpaired", [1, 0, 1, 9, 0, 0])]);
    let root = span("server", "web", 3).set("span_id", "s");
    check(&[root], &[("user", "web", "user", [1, 0, 0, 0, 1, 3])]);
    check(&[span("internal", "web", 3).set("span_id", "s")], &[]);
}

#[test]
fn one_message_has_many_consumers() {
    let producer = span("producer", "shop", 2).set("span_id", "p");
    let consumer = |name| span("consumer", name, 5).set("span_id", "x").set("parent_span_id", "p");
    let expect = [
        ("shop", "mail", "messaging", [1, 0, 1, 2, 1, 5]),
        ("shop", "bill", "messaging", [1, 0, 1, 2, 1, 5]),
    ];
    check(&[consumer("mail"), producer, consumer("bill")], &expect);
}

#[test]
fn limits() {
    let mut graph = operator("max_waiting = 2\nwait = \"5s\"");
    let client = |id: &'static str| span("client", "shop", 9).set("span_id", id);
    let rows = [client("a"), client("b"), client("c")];
    let out = run(&mut *graph, |o, out| o.process(0, spans(&rows), out).unwrap());
    assert_eq!(out.dropped, 1);
    // Room again once they are given up.
    let out = run(&mut *graph, |o, out| {
        o.tick(tick(2), out).unwrap();
        o.tick(tick(7), out).unwrap();
        o.process(0, spans(&rows[2..]), out).unwrap();
        o.flush(tick(8), out).unwrap();
    });
    assert_eq!(out.dropped, 0);
    let requests: i64 = made(&out).values().map(|made| made[0]).sum();
    assert_eq!(requests, 3);
    for toml in ["every = \"0s\"", "wait = \"0s\"", "max_waiting = 0", "max_groups = 0"] {
        let e = testing::plan(&KIND, toml).unwrap_err();
        assert!(e.to_string().contains("W310"), "{e}");
    }
}

#[test]
fn a_damaged_state_is_refused() {
    let mut graph = operator("");
    let rows = [
        span("client", "shop", 9).set("span_id", "c").set("peer.service", "p"),
        span("server", "cart", 7).set("span_id", "s").set("parent_span_id", "x"),
    ];
    run(&mut *graph, |o, out| {
        o.process(0, spans(&rows[..1]), out).unwrap();
        o.tick(tick(2), out).unwrap();
        o.process(0, spans(&rows[1..]), out).unwrap();
    });
    let state = graph.snapshot().unwrap();
    for cut in 0..state.len() {
        assert!(graph.restore(&state[..cut]).is_err());
    }
    graph.restore(&state).unwrap();
    assert_eq!(graph.snapshot().unwrap(), state);
}

#[derive(Clone, Debug)]
struct Sent {
    client: Option<(&'static str, i64, bool, bool)>,
    servers: Vec<(&'static str, i64, bool)>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let service = || proptest::sample::select(vec!["a", "b", "c"]);
    let client = (service(), 0..50i64, any::<bool>(), any::<bool>());
    let server = (service(), 0..50i64, any::<bool>());
    (proptest::option::weighted(0.8, client), proptest::collection::vec(server, 0..3))
        .prop_map(|(client, servers)| Sent { client, servers })
}

const IDS: [&str; 20] = [
    "00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12", "13", "14", "15",
    "16", "17", "18", "19",
];

/// The spans of calls, and what the graph should say of them.
fn model(calls: &[Sent]) -> (Vec<Row>, Made) {
    let (mut rows, mut made) = (Vec::new(), Made::new());
    let status = |failed: bool| if failed { "error" } else { "ok" };
    for (call, id) in calls.iter().zip(IDS) {
        let mut add =
            |client: &str, server: &str, of: &str, failed: bool, took: [Option<i64>; 2]| {
                let made = made.entry((client.into(), server.into(), of.into())).or_default();
                made[0] += 1;
                made[1] += i64::from(failed);
                for (at, took) in took.into_iter().enumerate() {
                    made[2 + 2 * at] += i64::from(took.is_some());
                    made[3 + 2 * at] += took.unwrap_or_default();
                }
            };
        if let Some((service, took, failed, named)) = call.client {
            let row =
                span("client", service, took).set("span_id", id).set("status", status(failed));
            rows.push(if named { row.set("peer.service", "p") } else { row });
            match (call.servers.is_empty(), named) {
                (true, true) => add(service, "p", "peer", failed, [Some(took), None]),
                (true, false) => add(service, "-", "unpaired", failed, [Some(took), None]),
                _ => {}
            }
        }
        for (service, took, failed) in &call.servers {
            let row = span("server", service, *took).set("span_id", "s").set("parent_span_id", id);
            rows.push(row.set("status", status(*failed)));
            match call.client {
                Some((client, client_took, client_failed, _)) => {
                    let took = [Some(client_took), Some(*took)];
                    add(client, service, "direct", *failed || client_failed, took);
                }
                None => add("-", service, "unpaired", *failed, [None, Some(*took)]),
            }
        }
    }
    (rows, made)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn as_the_model_says_however_it_is_cut(
        calls in proptest::collection::vec(sent(), 0..20),
        order in proptest::collection::vec(any::<u32>(), 80),
        cuts in proptest::collection::btree_map(0usize..80, any::<bool>(), 0..6),
    ) {
        let (rows, expect) = model(&calls);
        let mut rows: Vec<(u32, Row)> = order.into_iter().zip(rows).collect();
        rows.sort_by_key(|(place, _)| *place);
        let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
        let plan = plan("wait = \"20s\"");
        let mut graph = plan.build();
        let mut all = Output::default();
        let (mut at, mut time) = (0, 2);
        for end in cuts.keys().copied().filter(|c| *c < rows.len()).chain([rows.len()]) {
            if at < end {
                graph.process(0, spans(&rows[at..end]), &mut all).unwrap();
                at = end;
            }
            if cuts.get(&end) == Some(&true) {
                graph.tick(tick(time), &mut all).unwrap();
                time += 1;
            }
            let state = graph.snapshot().unwrap();
            graph = plan.build();
            graph.restore(&state).unwrap();
            prop_assert_eq!(&graph.snapshot().unwrap(), &state);
        }
        for time in [10, 30, 90] {
            graph.tick(tick(time), &mut all).unwrap();
        }
        prop_assert_eq!(made(&all), expect);
        prop_assert_eq!(all.dropped, 0);
    }
}
