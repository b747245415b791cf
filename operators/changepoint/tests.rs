#![allow(clippy::unwrap_used, clippy::expect_used)]

mod power;

use std::sync::Arc;

use proptest::prelude::*;
use weir_pipeline::component::Operator;
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::Signal;

use super::ranks::{Ranks, rises};
use crate::testing::{self, Row, batch_in, row, run, show, tick};

const S: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * S;

fn built(toml: &str) -> Box<dyn Operator> {
    testing::plan(&super::KIND, toml).unwrap_or_else(|e| panic!("{e}")).build()
}

/// What is said of rows that come in batches of `cut`, by an operator that is saved and built anew
/// behind each tick if `again`.
fn said(toml: &str, rows: &[Row], cut: usize, again: bool) -> Vec<String> {
    let table = Arc::new(EntityTable::default());
    let mut operator = built(toml);
    let mut all = Vec::new();
    for epoch in rows.chunks(50) {
        let mut emitted = Vec::new();
        for rows in epoch.chunks(cut) {
            let batch = batch_in(rows, &table, Signal::Metrics);
            emitted.extend(run(&mut *operator, |o, out| o.process(0, batch, out).unwrap()).emitted);
        }
        let end = epoch.last().map_or(0, |r| r.received);
        emitted.extend(run(&mut *operator, |o, out| o.tick(tick(end), out).unwrap()).emitted);
        for (_, batch) in &emitted {
            let places = batch.runs().iter().flat_map(|r| vec![r.received; r.rows]);
            let rows = show(&[("", batch.clone())], "");
            all.extend(places.zip(rows).map(|(place, row)| format!("{place} {row}")));
        }
        if again {
            let state = operator.snapshot().unwrap();
            operator = built(toml);
            operator.restore(&state).unwrap();
            assert_eq!(operator.snapshot().unwrap(), state);
        }
    }
    all
}

fn points(values: impl IntoIterator<Item = f64>) -> Vec<Row> {
    let each = values.into_iter().zip(0..);
    each.map(|(v, i)| row(i * MINUTE).set("value", v).entity("host", "a")).collect()
}

#[test]
fn options_out_of_range() {
    for wrong in [
        "sensitivity = 1.1",
        "min_points = 3",
        "min_points = 200",
        "min_change = -1.0",
        "kinds = [\"shape\"]",
        "kinds = []",
        "value = \"'a'\"",
        "by = [\"changepoint.at\"]",
        "by = [\"timestamp\"]",
        "by = [\"s\", \"s\"]",
        "season = \"year\"",
        "max_series = 0",
    ] {
        assert!(testing::plan(&super::KIND, wrong).is_err(), "{wrong}");
    }
}

#[test]
fn one_row_for_a_shift() {
    let noise = |i: i64| (i * 7_919 % 101) as f64 / 50.0;
    let rows = points((0..400).map(|i| noise(i) + if i < 200 { 10.0 } else { 20.0 }));
    let out = said("", &rows, 50, false);
    assert_eq!(out.len(), 1, "{out:#?}");
    let at = "changepoint.at=1970-01-01T03:20:00Z";
    assert!(out[0].contains(at) && out[0].contains("changepoint.kind=level"), "{out:?}");
    assert!(out[0].contains("host=a"), "{out:?}");
    // Proved within 12 points.
    assert!(out[0].starts_with(&format!("{} ", 211 * MINUTE)), "{out:?}");
    // Small against the level, or told not to.
    assert!(said("min_change_ratio = 1.5", &rows, 50, false).is_empty());
    assert!(said("kinds = [\"trend\"]", &rows, 50, false).is_empty());
}

#[test]
fn spikes_gaps_duplicates_and_late_points_are_no_change() {
    let noise = |i: i64| 10.0 + (i * 7_919 % 101) as f64 / 50.0;
    let mut rows = points((0..600).map(|i| if i % 50 < 3 { 500.0 } else { noise(i) }));
    rows.retain(|r| !(200 * MINUTE..300 * MINUTE).contains(&r.time.unwrap()));
    let late: Vec<Row> =
        (0..40).map(|i| row(i * MINUTE).set("value", 900.0).entity("host", "a")).collect();
    let twice: Vec<Row> = rows.iter().flat_map(|r| [r.clone(), r.clone()]).collect();
    assert_eq!(said("", &[twice, late].concat(), 50, false), Vec::<String>::new());
}

#[test]
fn counters_by_their_increase() {
    let mut total = 0.0;
    let rows: Vec<Row> = (0..400)
        .map(|i: i64| {
            total = if i % 90 == 0 {
                0.0
            } else {
                total + (i * 7_919 % 101) as f64 + if i < 200 { 600.0 } else { 1_200.0 }
            };
            let row = row(i * MINUTE).set("value", total);
            row.entity("metric.type", "counter").entity("metric.temporality", "cumulative")
        })
        .collect();
    let out = said("", &rows, 50, false);
    assert_eq!(out.len(), 1, "{out:#?}");
}

/// Two counters far apart are one group: each counts by its own rise.
#[test]
fn counters_of_a_group_by_the_increase_of_each() {
    let mut totals = [1e9, 0.0];
    let rows: Vec<Row> = (0..800)
        .map(|i: i64| {
            let host = (i % 2) as usize;
            let each = (i * 7_919 % 101) as f64 + if i < 400 { 600.0 } else { 1_200.0 };
            totals[host] = if i == 300 { 0.0 } else { totals[host] + each };
            let row = row(i * MINUTE).set("value", totals[host]).entity("host", host as i64);
            let row = row.entity("metric.name", "requests").entity("metric.type", "counter");
            row.entity("metric.temporality", "cumulative")
        })
        .collect();
    let toml = "by = [\"metric.name\"]";
    let out = said(toml, &rows, 50, false);
    assert_eq!(out.len(), 1, "{out:#?}");
    assert!(out[0].contains("metric.name=requests"), "{out:?}");
    assert_eq!(said(toml, &rows, 7, true), out);
}

/// A few points that are far off are no change, also where all others are the same.
#[test]
fn bursts_on_a_constant_are_no_change() {
    for length in 1..8 {
        for from in 100..108 {
            let burst = from..from + length;
            let rows = points((0..200).map(|i| if burst.contains(&i) { 9.0 } else { 3.0 }));
            for toml in ["", "kinds = [\"variance\"]"] {
                let out = said(toml, &rows, 50, false);
                assert_eq!(out, Vec::<String>::new(), "{length} from {from} {toml}");
            }
        }
    }
}

/// A step between two constants is told where it is, and from what to what.
#[test]
fn steps_between_constants_are_exact() {
    for from in 100..108 {
        let rows = points((0..200).map(|i| if i < from { 3.0 } else { 9.0 }));
        let out = said("", &rows, 50, false);
        let [said] = &out[..] else { panic!("{from}: {out:?}") };
        for part in [
            format!("changepoint.at=1970-01-01T01:{:02}:00Z", from - 60),
            "changepoint.before=3".to_owned(),
            "changepoint.after=9".to_owned(),
            "changepoint.kind=level".to_owned(),
        ] {
            assert!(said.contains(&part), "{part} in {said}");
        }
    }
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => 0.0..10.0f64,
        4 => Just(5.0),
        1 => -1e149..1e149f64,
        1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(-0.0)],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn cuts_and_restarts_change_nothing(
        steps in proptest::collection::vec((0i64..3, 0i64..3, value(), 0..40i32), 1..500),
    ) {
        let (mut now, mut level) = (0, 0.0);
        let rows: Vec<Row> = steps.iter().map(|(step, series, value, turn)| {
            now += step * MINUTE;
            level += if *turn == 0 { 50.0 } else { 0.0 };
            row(now).set("value", value + level).entity("s", *series)
        }).collect();
        for toml in ["max_series = 2\nsensitivity = 1.0", "season = \"day\"", "by = [\"s\"]"] {
            let straight = said(toml, &rows, 50, false);
            prop_assert_eq!(&straight, &said(toml, &rows, 7, false));
            prop_assert_eq!(&straight, &said(toml, &rows, 50, true));
        }
    }

    #[test]
    fn ranks_as_counted(values in proptest::collection::vec(0..9i32, 4..40), before in 1usize..3, after in 1usize..3) {
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        let n = values.len();
        let deviation = |at: usize| {
            // Pairs in which the later is larger, less those in which it is smaller.
            let (first, last) = values.split_at(at);
            let signs = first.iter().flat_map(|a| last.iter().map(move |b| (b - a).signum() * f64::from(a != b)));
            (signs.sum::<f64>() / 2.0).abs()
        };
        let found = Ranks::default().split(&values, before, after, 0.0);
        if let Some(found) = found.filter(|s| s.at > 0) {
            prop_assert!(found.at >= before && n - found.at >= after);
            let size = |at: usize| (at as f64 * (n - at) as f64).sqrt();
            let best = (before..=n - after).map(|at| deviation(at) / size(at)).fold(0.0, f64::max);
            prop_assert!((deviation(found.at) / size(found.at) - best).abs() < 1e-9);
            prop_assert!(found.z <= found.z_most);
        }
    }
}

#[test]
fn rises_are_told() {
    assert!(rises(&(0..12).map(f64::from).collect::<Vec<_>>()) > 4.0);
    assert!(rises(&(0..12).map(|i| f64::from(-i)).collect::<Vec<_>>()) < -4.0);
    assert!(rises(&[1.0; 12]).abs() < 1e-9);
}

#[test]
fn malformed_states() {
    let mut operator = built("");
    let batch = batch_in(&points([1.0, 2.0, 3.0]), &Arc::default(), Signal::Metrics);
    run(&mut *operator, |o, out| o.process(0, batch, out).unwrap());
    let state = operator.snapshot().unwrap();
    for cut in 0..state.len() {
        assert!(built("").restore(&state[..cut]).is_err(), "{cut}");
    }
    assert!(built("").restore(&[&state[..], &[0]].concat()).is_err());
}
