#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use proptest::prelude::*;
use weir_pipeline::batch::{Batch, Run, TENANT};
use weir_pipeline::component::{Operator, OperatorPlan, Tick};
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::Signal;

use crate::testing::{self, Row, row, run, show, tick};

const S: i64 = 1_000_000_000;

/// One scrape of one target: names of its series.
#[derive(Clone, Debug)]
struct Scrape {
    at: i64,
    instance: &'static str,
    names: Vec<&'static str>,
}

fn scrape(at: i64, instance: &'static str, names: &[&'static str]) -> Scrape {
    Scrape { at, instance, names: names.to_vec() }
}

fn rows(s: &Scrape) -> Vec<Row> {
    let make = |name: &&'static str| {
        row(s.at * S)
            .set("value", 1.0)
            .entity("metric.name", *name)
            .entity("job", "j")
            .entity("instance", s.instance)
    };
    s.names.iter().map(make).collect()
}

/// Scrapes as one batch, one run each.
fn batch(scrapes: &[Scrape], table: &Arc<EntityTable>) -> Batch {
    let all: Vec<Row> = scrapes.iter().flat_map(rows).collect();
    let b = testing::batch_in(&all, table, Signal::Metrics);
    let runs: Vec<Run> = scrapes
        .iter()
        .filter(|s| !s.names.is_empty())
        .map(|s| Run {
            offset: s.at as u64,
            received: s.at * S,
            source: "p".into(),
            rows: s.names.len(),
        })
        .collect();
    let keys = b.entities().cloned();
    Batch::new(Signal::Metrics, TENANT.into(), b.rows().clone(), keys, runs.into()).unwrap()
}

fn plan(toml: &str) -> Box<dyn OperatorPlan> {
    testing::plan(&super::KIND, toml).unwrap_or_else(|e| panic!("{e}"))
}

/// `name@instance:second` of all rows, those that end a series with `!`.
fn brief(rows: Vec<String>) -> Vec<String> {
    let part = |r: &str, name: &str| {
        r.split(' ').find_map(|c| c.strip_prefix(name)).unwrap_or_default().to_owned()
    };
    rows.iter()
        .map(|r| {
            let time = part(r, "timestamp=1970-01-01T00:0");
            let end = if r.contains("stale=true") { "!" } else { "" };
            assert!(end.is_empty() || !r.contains(" value="), "{r}");
            format!("{}@{}:{time}{end}", part(r, "metric.name="), part(r, "instance="))
        })
        .collect()
}

fn drive(o: &mut dyn Operator, scrapes: &[Scrape]) -> Vec<String> {
    let table = Arc::new(EntityTable::default());
    let out = run(o, |o, out| o.process(0, batch(scrapes, &table), out).unwrap());
    brief(show(&out.emitted, ""))
}

#[test]
fn a_series_that_the_next_scrape_lacks_ends() {
    let mut o = plan("").build();
    assert_eq!(
        drive(&mut *o, &[scrape(1, "a", &["up", "x", "y"]), scrape(2, "b", &["up", "x"])]),
        ["up@a:0:01Z", "x@a:0:01Z", "y@a:0:01Z", "up@b:0:02Z", "x@b:0:02Z"]
    );
    assert_eq!(
        drive(&mut *o, &[scrape(3, "a", &["up", "x"]), scrape(4, "a", &["up", "x", "y"])]),
        ["up@a:0:03Z", "x@a:0:03Z", "y@a:0:03Z!", "up@a:0:04Z", "x@a:0:04Z", "y@a:0:04Z"]
    );
    // A failed scrape has only `up`: everything else ends.
    let mut ended = drive(&mut *o, &[scrape(5, "a", &["up"])]);
    ended.sort();
    assert_eq!(ended, ["up@a:0:05Z", "x@a:0:05Z!", "y@a:0:05Z!"]);
    assert_eq!(drive(&mut *o, &[scrape(6, "a", &["up"])]), ["up@a:0:06Z"]);
}

#[test]
fn a_silent_target_ends() {
    let mut o = plan("after = \"10s\"").build();
    drive(&mut *o, &[scrape(1, "a", &["up", "x"]), scrape(1, "b", &["up"])]);
    let at = |o: &mut Box<dyn Operator>, seconds: i64| {
        let out = run(&mut **o, |o, out| o.tick(tick(seconds * S + 5), out).unwrap());
        let mut rows = brief(show(&out.emitted, ""));
        rows.sort();
        rows
    };
    assert!(at(&mut o, 2).is_empty());
    drive(&mut *o, &[scrape(8, "b", &["up"])]);
    assert!(at(&mut o, 9).is_empty());
    assert_eq!(at(&mut o, 12), ["up@a:0:12Z!", "x@a:0:12Z!"]);
    assert!(at(&mut o, 13).is_empty());
    // A wall clock that steps does not end anything: elapsed time counts.
    let jumped = Tick { time: 40 * S, elapsed: 14 * S, offset: 9, watermark: 0, step: 0 };
    let out = run(&mut *o, |o, out| o.tick(jumped, out).unwrap());
    assert!(out.emitted.is_empty());
}

#[test]
fn what_is_not_watched() {
    let mut o = plan("max_series = 2").build();
    drive(&mut *o, &[scrape(1, "a", &["up", "x", "y"])]);
    // Only `up` and `x` found room.
    assert_eq!(drive(&mut *o, &[scrape(2, "a", &["up"])]), ["up@a:0:02Z", "x@a:0:02Z!"]);
    // No target, no staleness.
    let table = Arc::new(EntityTable::default());
    for name in ["m", "n"] {
        let rows = [row(S).entity("metric.name", name)];
        let b = testing::batch_in(&rows, &table, Signal::Metrics);
        let out = run(&mut *o, |o, out| o.process(0, b, out).unwrap());
        assert_eq!(show(&out.emitted, "").len(), 1);
    }
    // A series with a time of its own.
    let mut o = plan("").build();
    let mut rows = rows(&scrape(5, "a", &["up", "x"]));
    rows[1].time = Some(S);
    let b = testing::batch_in(&rows, &table, Signal::Metrics);
    let run_of = Run { offset: 1, received: 0, source: "p".into(), rows: 2 };
    let keys = b.entities().cloned();
    let b = Batch::new(Signal::Metrics, TENANT.into(), b.rows().clone(), keys, [run_of].into());
    run(&mut *o, |o, out| o.process(0, b.unwrap(), out).unwrap());
    assert_eq!(drive(&mut *o, &[scrape(6, "a", &["up"])]), ["up@a:0:06Z"]);
}

proptest! {
    #[test]
    fn cuts_and_snapshots_do_not_matter(
        scrapes in proptest::collection::vec(
            (proptest::sample::select(vec!["a", "b"]),
             proptest::sample::subsequence(vec!["up", "v", "w", "x", "y"], 1..=5)),
            1..20,
        ),
        cuts in proptest::collection::vec((any::<bool>(), any::<bool>()), 20),
    ) {
        let scrapes: Vec<Scrape> = scrapes.into_iter().enumerate()
            .map(|(i, (instance, names))| Scrape { at: i as i64, instance, names }).collect();
        let plan = plan("");
        let mut one = plan.build();
        let whole = drive(&mut *one, &scrapes);
        let mut many = plan.build();
        let mut parts = Vec::new();
        let mut held = Vec::new();
        for (i, s) in scrapes.into_iter().enumerate() {
            held.push(s);
            if cuts[i].0 {
                parts.extend(drive(&mut *many, &std::mem::take(&mut held)));
            }
            if cuts[i].1 {
                let state = many.snapshot().unwrap();
                many = plan.build();
                many.restore(&state).unwrap();
                prop_assert_eq!(many.snapshot().unwrap(), state);
            }
        }
        if !held.is_empty() {
            parts.extend(drive(&mut *many, &held));
        }
        prop_assert_eq!(whole, parts);
        prop_assert_eq!(one.snapshot().unwrap(), many.snapshot().unwrap());
    }

    #[test]
    fn any_state(bytes in proptest::collection::vec(0u8..4, 0..60)) {
        let _ = plan("").build().restore(&bytes);
    }
}
