//! Against a naive model, straight and interrupted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use proptest::prelude::*;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{OperatorPlan, Output, Tick};
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::Signal;

use super::KIND;
use crate::testing::{self, Row, row, run};

const S: i64 = 1_000_000_000;
const MS: i64 = 1_000_000;

fn plan(toml: &str) -> Box<dyn OperatorPlan> {
    testing::plan(&KIND, toml).unwrap_or_else(|e| panic!("{e}"))
}

fn spans(rows: &[Row]) -> Batch {
    testing::batch_in(rows, &Arc::new(EntityTable::default()), Signal::Spans)
}

fn tick(seconds: i64) -> Tick {
    let time = seconds * S;
    Tick { time, elapsed: time, offset: 7, watermark: time, step: 0 }
}

fn span(trace: &'static str, i: i64) -> Row {
    let row = row(S).set("trace_id", trace).set("i", i).set("name", "op").set("duration_ns", MS);
    row.set("status", "ok").entity("service.name", "shop")
}

/// Rows that left, and why.
fn left(out: &Output) -> Vec<(i64, String)> {
    let mut all = Vec::new();
    for (_, batch) in &out.emitted {
        let (i, reason) = (batch.array("i").unwrap(), batch.array("sample.reason").unwrap());
        let (i, reason) = (i.as_primitive::<Int64Type>(), reason.as_string::<i32>());
        all.extend((0..i.len()).map(|row| {
            let why = if reason.is_valid(row) { reason.value(row) } else { "-" };
            (i.value(row), why.to_owned())
        }));
    }
    all
}

#[track_caller]
fn check(out: &Output, expect: &[(i64, &str)], dropped: u64) {
    let expect: Vec<(i64, String)> = expect.iter().map(|(i, r)| (*i, (*r).to_owned())).collect();
    assert_eq!(left(out), expect);
    assert_eq!(out.dropped, dropped);
}

#[test]
fn whole_traces_pass_or_none() {
    let mut sample = plan("wait = \"10s\"\nslow = \"1s\"").build();
    let rows = [
        span("a", 0),
        span("b", 1),
        span("a", 2).set("status", "error"),
        span("c", 3).set("duration_ns", 1_000 * MS),
        row(S).set("i", 4),
    ];
    let out = run(&mut *sample, |o, out| {
        o.process(0, spans(&rows), out).unwrap();
        o.tick(tick(2), out).unwrap();
        o.process(0, spans(&[span("c", 5), span("b", 6)]), out).unwrap();
        o.tick(tick(11), out).unwrap();
    });
    // Without a trace a span is nothing to wait for.
    check(&out, &[(4, "-")], 0);
    let out = run(&mut *sample, |o, out| o.tick(tick(12), out).unwrap());
    check(&out, &[(0, "error"), (2, "error"), (3, "slow"), (5, "slow")], 2);
    // What comes later follows.
    let late = [span("a", 7), span("b", 8).set("status", "error")];
    let out = run(&mut *sample, |o, out| o.process(0, spans(&late), out).unwrap());
    check(&out, &[(7, "error")], 1);
    assert_eq!(sample.watermark(100 * S), 88 * S);
}

#[test]
fn rare_rate_and_share() {
    let traces = ["a", "b", "c", "d"];
    let once = |toml: &str| {
        let mut sample = plan(toml).build();
        let rows: Vec<Row> = traces.iter().zip(0..).map(|(t, i)| span(t, i)).collect();
        run(&mut *sample, |o, out| {
            o.process(0, spans(&rows), out).unwrap();
            o.flush(tick(100), out).unwrap();
        })
    };
    check(&once("rare = 3"), &[(0, "rare"), (1, "rare"), (2, "rare")], 1);
    check(&once("rate = 2"), &[(0, "rate"), (1, "rate")], 2);
    check(&once("rare = 1\nrate = 1"), &[(0, "rare"), (1, "rate")], 2);
    check(&once(""), &[], 4);
    let all = [(0, "share"), (1, "share"), (2, "share"), (3, "share")];
    check(&once("share = 1.0"), &all, 0);
    // Half of many traces, alike each time.
    let half = |ids: std::ops::Range<u32>| {
        let mut sample = plan("share = 0.5").build();
        let rows: Vec<Row> = ids
            .map(|id| row(S).set("i", 0).set("trace_id", format!("{id:032x}").as_str()))
            .collect();
        let out = run(&mut *sample, |o, out| {
            o.process(0, spans(&rows), out).unwrap();
            o.flush(tick(100), out).unwrap();
        });
        left(&out).len()
    };
    assert!((430..570).contains(&half(0..1_000)));
    assert_eq!(half(0..1_000), half(0..500) + half(500..1_000));
}

#[test]
fn limits() {
    let mut sample = plan("max_spans = 2").build();
    let rows = [
        span("a", 0),
        span("b", 1),
        // No room: decided by what it says itself, and what follows it.
        span("c", 2).set("status", "error"),
        span("c", 3),
        span("d", 4),
        span("d", 5).set("status", "error"),
        span("a", 6).set("status", "error"),
    ];
    let out = run(&mut *sample, |o, out| o.process(0, spans(&rows), out).unwrap());
    check(&out, &[(2, "error"), (3, "error")], 3);
    for toml in ["wait = \"0s\"", "rate = 0.0", "share = 1.5", "share = -0.1", "max_spans = 0"] {
        let e = testing::plan(&KIND, toml).unwrap_err();
        assert!(e.to_string().contains("W310"), "{e}");
    }
}

#[test]
fn a_damaged_state_is_refused() {
    let mut sample = plan("wait = \"3s\"\nrare = 1\nrate = 1").build();
    run(&mut *sample, |o, out| {
        o.process(0, spans(&[span("a", 0)]), out).unwrap();
        [1, 5].into_iter().for_each(|t| o.tick(tick(t), out).unwrap());
        o.process(0, spans(&[span("b", 1)]), out).unwrap();
        o.tick(tick(6), out).unwrap();
        o.process(0, spans(&[span("c", 2)]), out).unwrap();
    });
    let state = sample.snapshot().unwrap();
    for cut in 0..state.len() {
        assert!(sample.restore(&state[..cut]).is_err(), "{cut}");
    }
    sample.restore(&state).unwrap();
    assert_eq!(sample.snapshot().unwrap(), state);
}

#[derive(Clone, Debug)]
struct Sent {
    trace: Option<&'static str>,
    root: bool,
    error: bool,
    took: i64,
    service: &'static str,
    name: &'static str,
}

fn sent() -> impl Strategy<Value = Sent> {
    (
        proptest::option::weighted(
            0.95,
            proptest::sample::select(vec!["a", "b", "c", "d", "e", "f"]),
        ),
        any::<bool>(),
        proptest::bool::weighted(0.1),
        0..11i64,
        proptest::sample::select(vec!["s", "t"]),
        proptest::sample::select(vec!["x", "y"]),
    )
        .prop_map(|(trace, root, error, took, service, name)| Sent {
            trace,
            root,
            error,
            took,
            service,
            name,
        })
}

impl Sent {
    fn row(&self, i: i64) -> Row {
        let mut row = row(S).set("i", i).set("name", self.name).set("duration_ns", self.took * MS);
        if let Some(trace) = self.trace {
            row = row.set("trace_id", trace);
        }
        if !self.root {
            row = row.set("parent_span_id", "p");
        }
        row.set("status", if self.error { "error" } else { "ok" })
            .entity("service.name", self.service)
    }
}

const TOML: &str = "wait = \"100s\"\nslow = \"10ms\"\nrare = 1\nrate = 1";

/// Reason of each trace that is kept.
fn model(sent: &[Sent]) -> BTreeMap<&'static str, &'static str> {
    let mut order: Vec<&'static str> = Vec::new();
    for trace in sent.iter().filter_map(|s| s.trace) {
        if !order.contains(&trace) {
            order.push(trace);
        }
    }
    let (mut seen, mut rated) = (Vec::new(), Vec::new());
    let mut kept = BTreeMap::new();
    for trace in order {
        let of: Vec<&Sent> = sent.iter().filter(|s| s.trace == Some(trace)).collect();
        let lead = of.iter().find(|s| s.root).unwrap_or(&of[0]);
        let operation = (lead.service, lead.name);
        let rare = !seen.contains(&operation);
        seen.push(operation);
        if of.iter().any(|s| s.error) {
            kept.insert(trace, "error");
        } else if of.iter().any(|s| s.took >= 10) {
            kept.insert(trace, "slow");
        } else if rare {
            kept.insert(trace, "rare");
        } else if !rated.contains(&lead.service) {
            rated.push(lead.service);
            kept.insert(trace, "rate");
        }
    }
    kept
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn as_the_model_says_however_it_is_cut(
        sent in proptest::collection::vec(sent(), 0..40),
        cuts in proptest::collection::btree_map(0usize..40, any::<bool>(), 0..6),
    ) {
        let rows: Vec<Row> = sent.iter().zip(0..).map(|(s, i)| s.row(i)).collect();
        let plan = plan(TOML);
        let through = |cuts: &BTreeMap<usize, bool>| {
            let mut sample = plan.build();
            let (mut all, mut at) = (Output::default(), 0);
            for end in cuts.keys().copied().filter(|c| *c < rows.len()).chain([rows.len()]) {
                if at < end {
                    sample.process(0, spans(&rows[at..end]), &mut all).unwrap();
                    at = end;
                }
                if cuts.get(&end) == Some(&true) {
                    let state = sample.snapshot().unwrap();
                    sample = plan.build();
                    sample.restore(&state).unwrap();
                }
            }
            let state = sample.snapshot().unwrap();
            [1, 50].into_iter().for_each(|t| sample.tick(tick(t), &mut all).unwrap());
            let early = left(&all).len();
            sample.tick(tick(101), &mut all).unwrap();
            (state, early, left(&all), all.dropped)
        };
        let straight = through(&BTreeMap::new());
        let cut = through(&cuts);
        // Bytes too: a state tells nothing of how its rows were joined.
        prop_assert_eq!(&cut, &straight);
        let kept = model(&sent);
        let mut expect: Vec<(i64, String)> = Vec::new();
        let at_once = sent.iter().zip(0..).filter(|(s, _)| s.trace.is_none());
        expect.extend(at_once.map(|(_, i)| (i, "-".to_owned())));
        prop_assert_eq!(straight.1, expect.len());
        let traced = sent.iter().zip(0..).filter_map(|(s, i)| Some((i, kept.get(s.trace?)?)));
        expect.extend(traced.map(|(i, reason)| (i, (*reason).to_owned())));
        prop_assert_eq!(straight.3 as usize, sent.len() - expect.len());
        prop_assert_eq!(straight.2, expect);
    }
}
