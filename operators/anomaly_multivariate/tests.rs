#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use proptest::prelude::*;
use weir_pipeline::component::Operator;
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::Signal;

use super::LATENESS;
use super::model::Model;
use crate::testing::{self, Row, batch_in, row, run, show, tick};

const S: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * S;

fn built(toml: &str) -> Box<dyn Operator> {
    testing::plan(&super::KIND, toml).unwrap_or_else(|e| panic!("{e}")).build()
}

/// Between -1 and 1, of a place and a kind.
fn noise(i: i64, kind: i64) -> f64 {
    let mixed = (i * 1_000 + kind).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb_u64 as i64);
    ((mixed >> 40) % 1_000) as f64 / 1_000.0
}

const NAMES: [&str; 4] = ["requests", "cpu", "bytes", "threads"];

/// Load of two services; at minute 500 `a` has CPU without requests, at a value that it has daily.
fn rows(minutes: std::ops::Range<i64>) -> Vec<Row> {
    let mut rows = Vec::new();
    for i in minutes {
        for (service, name) in ["a", "b"].into_iter().flat_map(|s| NAMES.map(|n| (s, n))) {
            let load = 50.0 + 40.0 * (i as f64 / 60.0).sin() + 5.0 * noise(i, service.len() as i64);
            let kind = NAMES.iter().position(|n| *n == name).unwrap() as i64;
            let mut value = load * 3f64.powi(kind as i32) + noise(i, 10 + kind);
            if service == "a" && name == "cpu" && (500..505).contains(&i) {
                value = 3.0 * (100.0 - load);
            }
            let row = row(i * MINUTE).set("value", value).entity("metric.name", name);
            rows.push(row.entity("service.name", service).entity("host", "h"));
        }
    }
    rows
}

/// What is said of rows in epochs of `size` rows, in batches of `cut`, by an operator that is saved
/// and built anew behind each tick if `again`.
fn said(toml: &str, rows: &[Row], size: usize, cut: usize, again: bool) -> Vec<String> {
    let table = Arc::new(EntityTable::default());
    let mut operator = built(toml);
    let mut all = Vec::new();
    for rows in rows.chunks(size) {
        let mut emitted = Vec::new();
        for rows in rows.chunks(cut) {
            let batch = batch_in(rows, &table, Signal::Metrics);
            emitted.extend(run(&mut *operator, |o, out| o.process(0, batch, out).unwrap()).emitted);
        }
        let end = rows.last().map_or(0, |r| r.received);
        let end = tick(end + LATENESS);
        emitted.extend(run(&mut *operator, |o, out| o.tick(end, out).unwrap()).emitted);
        all.extend(show(&emitted, ""));
        if again {
            let state = operator.snapshot().unwrap();
            operator = built(toml);
            operator.restore(&state).unwrap();
            assert_eq!(operator.snapshot().unwrap(), state);
        }
    }
    all
}

#[test]
fn options_out_of_range() {
    for wrong in [
        "threshold = 1.5",
        "history = \"5m\"",
        "history = \"90d\"",
        "step = \"0s\"",
        "step = \"1us\"",
        "threshold = 0.0",
        "by = [\"host\"]\namong = [\"service.name\"]",
    ] {
        assert!(testing::plan(&super::KIND, wrong).is_err(), "{wrong}");
    }
    let right = "by = [\"host\", \"service.name\"]\namong = [\"service.name\"]";
    assert!(testing::plan(&super::KIND, right).is_ok());
}

#[test]
fn what_does_not_fit_the_others() {
    let out = said("among = [\"service.name\"]", &rows(0..600), 80, 80, false);
    // From 64 steps on, of both services, up to the last one that is over.
    assert_eq!(out.len(), 2 * (599 - 64), "{:?}", out.first());
    let alerts: Vec<&String> = out.iter().filter(|r| r.contains("anomaly.alert=true")).collect();
    assert_eq!(alerts.len(), 1, "{alerts:#?}");
    let alert = alerts[0];
    assert!(alert.contains("anomaly.series=cpu{host=h}"), "{alert}");
    assert!(alert.contains("service.name=a") && alert.contains("anomaly.members=4"), "{alert}");
    assert!(alert.contains("timestamp=1970-01-01T08:21:00Z"), "{alert}");
}

/// What fits in no way, of a host that is minutes ahead, ends no step for the others.
#[test]
fn a_clock_that_is_ahead() {
    let mut rows = rows(0..600);
    let ahead = (0..600).map(|i| {
        let time = row((i + 5) * MINUTE).set("value", 1.0).entity("service.name", "a");
        Row { received: i * MINUTE, ..time.entity("host", "ahead") }
    });
    rows.extend(ahead);
    rows.sort_by_key(|r| r.received);
    let out = said("among = [\"service.name\"]", &rows, 90, 90, false);
    let alerts: Vec<&String> = out.iter().filter(|r| r.contains("anomaly.alert=true")).collect();
    assert!(matches!(alerts[..], [alert] if alert.contains("T08:21:00Z")), "{alerts:#?}");
}

#[test]
fn cuts_and_restarts_change_nothing_of_an_alert() {
    let (rows, toml) = (rows(400..510), "among = [\"service.name\"]\nhistory = \"90m\"");
    let straight = said(toml, &rows, 40, 40, false);
    assert!(straight.iter().any(|r| r.contains("anomaly.alert=true")));
    assert_eq!(straight, said(toml, &rows, 40, 7, false));
    assert_eq!(straight, said(toml, &rows, 40, 40, true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn cuts_and_restarts_change_nothing(
        steps in proptest::collection::vec((0i64..3, 0i64..4, prop_oneof![0.0..9.0f64, Just(1.0), Just(f64::NAN)]), 1..400),
    ) {
        let mut now = 0;
        let rows: Vec<Row> = steps.iter().map(|(step, series, value)| {
            now += step * MINUTE;
            row(now).set("value", *value).entity("s", *series).entity("g", series % 2)
        }).collect();
        let toml = "step = \"2m\"\nhistory = \"130m\"\nmax_series = 3\namong = [\"g\"]";
        let straight = said(toml, &rows, 50, 50, false);
        prop_assert_eq!(&straight, &said(toml, &rows, 50, 3, false));
        prop_assert_eq!(&straight, &said(toml, &rows, 50, 50, true));
    }

    #[test]
    fn any_values_fit(rows in proptest::collection::vec(proptest::collection::vec(
        prop_oneof![-1e37..1e37f64, 0.0..1.0f64, Just(0.0), Just(f64::NAN)], 80), 2..6)) {
        if let Some(model) = Model::fit(&rows) {
            let values: Vec<f64> = rows.iter().map(|r| r[0]).collect();
            let fit = model.judge(&values);
            prop_assert!((0.0..=1.0).contains(&fit.score), "{:?}", fit);
            let mut saved = Vec::new();
            model.put(&mut saved);
            prop_assert_eq!(Model::get(&mut &saved[..]), Some(model));
        }
    }
}

#[test]
fn malformed_states() {
    let mut operator = built("");
    let batch = batch_in(&rows(0..3), &Arc::default(), Signal::Metrics);
    run(&mut *operator, |o, out| o.process(0, batch, out).unwrap());
    run(&mut *operator, |o, out| o.tick(tick(3 * MINUTE), out).unwrap());
    let state = operator.snapshot().unwrap();
    for cut in 0..state.len() {
        assert!(built("").restore(&state[..cut]).is_err(), "{cut}");
    }
    assert!(built("").restore(&[&state[..], &[0]].concat()).is_err());
}
