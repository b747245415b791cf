#![allow(clippy::unwrap_used, clippy::expect_used)]

mod accuracy;

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, TimestampNanosecondType};
use proptest::prelude::*;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::Operator;
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::Signal;

use super::methods::METHODS;
use crate::series::robust::{median, slope};
use crate::testing::{self, Row, batch_in, row, run, show, tick};

const S: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * S;

fn built(toml: &str) -> Box<dyn Operator> {
    testing::plan(&super::KIND, toml).unwrap_or_else(|e| panic!("{e}")).build()
}

/// What comes of rows in one epoch that ends at the time of the last of them.
fn epoch(operator: &mut dyn Operator, rows: &[Row]) -> Vec<Batch> {
    let batch = batch_in(rows, &Arc::new(EntityTable::default()), Signal::Metrics);
    let end = rows.iter().filter_map(|r| r.time).max().unwrap_or_default();
    let out = run(operator, |o, out| {
        o.process(0, batch, out).unwrap();
        o.tick(tick(end), out).unwrap();
    });
    out.emitted.into_iter().map(|(_, batch)| batch).collect()
}

fn numbers(batches: &[Batch], name: &str) -> Vec<Option<f64>> {
    let arrays = batches.iter().filter_map(|b| b.array(name));
    arrays.flat_map(|a| a.as_primitive::<Float64Type>().iter().collect::<Vec<_>>()).collect()
}

fn times(batches: &[Batch], name: &str) -> Vec<Option<i64>> {
    let arrays = batches.iter().filter_map(|b| b.array(name));
    let times = arrays.map(|a| a.as_primitive::<TimestampNanosecondType>().clone());
    times.flat_map(|a| a.iter().collect::<Vec<_>>()).collect()
}

/// One point each minute.
fn points(count: i64, value: impl Fn(i64) -> f64) -> Vec<Row> {
    (0..count).map(|i| row(i * MINUTE).set("value", value(i)).entity("s", 1)).collect()
}

const MINUTES: &str = "step = \"1m\"\nhistory = \"8h\"\nhorizon = \"2h\"\nevery = \"1m\"\n";

#[test]
fn options_out_of_range() {
    for wrong in [
        "level = 1.0",
        "step = \"0s\"",
        "history = \"1h\"",
        "horizon = \"1m\"",
        "horizon = \"90d\"",
        "every = \"1m\"",
        "points = 0",
        "seasons = [\"7d\", \"1d\"]",
        "seasons = [\"7m\"]",
        "direction = \"up\"",
        "limit = \"1 +\"",
        "limit = true",
        "limit = nan",
        "limit = inf",
        "limit = \"'a'\"",
        "by = [\"forecast.value\"]",
        "by = [\"value\"]",
        "step = \"1ns\"",
        "min = nan",
        "min = 1.0\nmax = 1.0",
    ] {
        assert!(testing::plan(&super::KIND, wrong).is_err(), "{wrong}");
    }
    for right in ["limit = 1", "limit = 0.5", "limit = \"size * 0.9\"", "seasons = []"] {
        assert!(testing::plan(&super::KIND, right).is_ok(), "{right}");
    }
}

#[test]
fn a_line_reaches_its_limit() {
    let mut operator = built(&format!("{MINUTES}limit = 100"));
    // 0.5 more each minute: 30 after the step that ends at 60 minutes, 100 at 201 minutes.
    let out = epoch(&mut *operator, &points(61, |i| i as f64 / 2.0));
    assert_eq!(times(&out, "timestamp"), [Some(60 * MINUTE)]);
    assert_eq!(numbers(&out, "value"), [Some(29.5)]);
    let crosses = numbers(&out, "forecast.crosses_in");
    assert_eq!(crosses.len(), 0, "{:?}", show(&[("", out[0].clone())], ""));
    let out = epoch(&mut *operator, &points(102, |i| i as f64 / 2.0));
    let text = show(&[("", out[0].clone())], "");
    let near = |name: &str, expect: f64| {
        let found = numbers(&out, name)[0].unwrap();
        assert!((found - expect).abs() < 1e-3, "{name}: {found}, {text:?}");
    };
    near("forecast.crosses_in", 99.0 * 60.0 + 60.0);
    near("forecast.value", 50.0 + 60.0);
    assert_eq!(times(&out, "forecast.for"), [Some(221 * MINUTE)]);
}

#[test]
fn falling_below_a_limit() {
    let mut operator = built(&format!("{MINUTES}limit = \"least\"\ndirection = \"below\""));
    let rows: Vec<Row> = points(102, |i| 200.0 - i as f64);
    let rows: Vec<Row> = rows.into_iter().map(|r| r.set("least", 80)).collect();
    let out = epoch(&mut *operator, &rows);
    assert_eq!(numbers(&out, "forecast.limit"), [Some(80.0)]);
    // The step that ends at 101 minutes has 100.
    let crosses = numbers(&out, "forecast.crosses_in")[0].unwrap();
    assert!((crosses - 20.0 * 60.0).abs() < 1.0, "{crosses}");
    // Beyond already.
    let rows: Vec<Row> = points(140, |i| 200.0 - i as f64);
    let out = epoch(&mut *operator, &rows);
    assert_eq!(numbers(&out, "forecast.crosses_in"), [Some(0.0)]);
}

#[test]
fn what_cannot_be_is_not_forecast() {
    let falling = points(102, |i| 102.0 - i as f64 + (i % 3) as f64);
    let out = epoch(
        &mut *built(&format!("{MINUTES}min = 0.0\nlimit = 0.0\ndirection = \"below\"")),
        &falling,
    );
    assert_eq!(numbers(&out, "forecast.value"), [Some(0.0)]);
    assert_eq!(numbers(&out, "forecast.low"), [Some(0.0)]);
    let crosses = numbers(&out, "forecast.crosses_in")[0].unwrap();
    assert!((crosses / 60.0 - 2.0).abs() < 3.0, "{crosses}");
    let free = epoch(&mut *built(MINUTES), &falling);
    assert!(numbers(&free, "forecast.value")[0].unwrap() < -50.0);
}

/// The time of a slow clock: what it loses is small against what it shows.
#[test]
fn small_change_of_a_large_value() {
    let rows = points(102, |i| 1.7e9 + i as f64 * 0.5);
    let out = epoch(&mut *built(MINUTES), &rows);
    let expect = 1.7e9 + 100.0 * 0.5 + 60.0;
    let value = numbers(&out, "forecast.value")[0].unwrap();
    assert!((value - expect).abs() < 1.0, "{}", value - expect);
}

#[test]
fn rows_of_a_path() {
    let mut operator = built(&format!("{MINUTES}points = 4"));
    let out = epoch(&mut *operator, &points(60, |i| (i % 7) as f64));
    let end = 59 * MINUTE;
    let expect = [30, 60, 90, 120].map(|m| Some(end + m * MINUTE));
    assert_eq!(times(&out, "forecast.for"), expect);
    assert_eq!(times(&out, "timestamp"), [Some(end); 4]);
}

#[test]
fn once_each_time_and_only_with_new_steps() {
    let mut operator = built(&MINUTES.replace("every = \"1m\"", "every = \"30m\""));
    let rows = points(200, |i| i as f64);
    let mut made = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        if !epoch(&mut *operator, std::slice::from_ref(row)).is_empty() {
            made.push(i);
        }
    }
    // Of twelve steps the first is told, of the thirty minutes that are open when there are so many.
    assert_eq!(made, [12, 30, 60, 90, 120, 150, 180]);
    // Late ones and those of the future make none.
    assert!(epoch(&mut *operator, &rows[..10]).is_empty());
    let ahead = Row { received: 0, ..rows[199].clone() };
    let ahead = Row { time: Some(900 * MINUTE), ..ahead };
    assert!(epoch(&mut *operator, &[ahead]).is_empty());
}

#[test]
fn gaps_and_groups() {
    let mut operator = built(&format!("{MINUTES}by = [\"host\"]\nvalue = \"x * 2\""));
    let rows: Vec<Row> = (0..200)
        .filter(|i| i % 50 < 30)
        .flat_map(|i| ["a", "b"].map(|host| row(i * MINUTE).set("x", i as f64).set("host", host)))
        .collect();
    let out = epoch(&mut *operator, &rows);
    assert_eq!(out.iter().map(Batch::num_rows).sum::<usize>(), 2);
    let said = show(&[("", out[0].clone())], "");
    assert!(said.iter().any(|r| r.contains("host=a")) && said.iter().any(|r| r.contains("host=b")));
    for value in numbers(&out, "forecast.value") {
        // The last step is that of 178 minutes, the horizon 120 further.
        assert!((value.unwrap() - 2.0 * 298.0).abs() < 1.0, "{value:?}");
    }
}

#[test]
fn counters_by_their_increase() {
    let mut operator = built(MINUTES);
    let counter = |i: i64| {
        let row = row(i * MINUTE).set("value", (i % 70) as f64 * 120.0);
        row.entity("metric.type", "counter").entity("metric.temporality", "cumulative")
    };
    let out = epoch(&mut *operator, &(0..200).map(counter).collect::<Vec<_>>());
    let value = numbers(&out, "forecast.value")[0].unwrap();
    assert!((value - 2.0).abs() < 1e-6, "{value}");
}

#[test]
fn more_series_than_may_be_known_wait() {
    let mut operator = built(&format!("{MINUTES}max_series = 1"));
    let of = |host: &'static str, from: i64| -> Vec<Row> {
        (from..from + 30).map(|i| row(i * MINUTE).set("value", 1.0).entity("h", host)).collect()
    };
    assert_eq!(epoch(&mut *operator, &[of("a", 0), of("b", 0)].concat()).len(), 1);
    // When the first has been silent for its history, others have its place.
    epoch(&mut *operator, &of("b", 1_000));
    assert_eq!(epoch(&mut *operator, &of("b", 1_100)).len(), 0);
    let out = epoch(&mut *operator, &of("a", 1_200));
    assert_eq!(out.len(), 1);
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => 0.0..10.0f64,
        2 => Just(5.0),
        1 => -1e36..1e36f64,
        1 => prop_oneof![Just(f64::NAN), Just(1e300), Just(f64::MIN_POSITIVE), Just(-0.0)],
    ]
}

/// What is said over `cuts` epochs, by an operator that is saved and built anew at each end.
fn said(toml: &str, rows: &[Row], epochs: usize, joined: bool, again: bool) -> Vec<String> {
    let table = Arc::new(EntityTable::default());
    let mut operator = built(toml);
    let mut all = Vec::new();
    for rows in rows.chunks(rows.len().div_ceil(epochs).max(1)) {
        let mut emitted = Vec::new();
        let cut = if joined { rows.len() } else { 3 };
        for rows in rows.chunks(cut.max(1)) {
            let batch = batch_in(rows, &table, Signal::Metrics);
            emitted.extend(run(&mut *operator, |o, out| o.process(0, batch, out).unwrap()).emitted);
        }
        let end = rows.last().map_or(0, |r| r.received);
        emitted.extend(run(&mut *operator, |o, out| o.tick(tick(end), out).unwrap()).emitted);
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]
    #[test]
    fn cuts_and_restarts_change_nothing(
        points in proptest::collection::vec((0i64..300, 0i64..3, value()), 0..300),
        epochs in 1usize..6,
    ) {
        let rows: Vec<Row> = points.iter().map(|(time, series, value)| {
            row(time * MINUTE).set("value", *value).entity("s", *series)
        }).collect();
        let toml = format!("{MINUTES}limit = 9\nmax_series = 2\nseasons = [\"10m\", \"30m\"]\npoints = 3");
        let straight = said(&toml, &rows, epochs, true, false);
        prop_assert_eq!(&straight, &said(&toml, &rows, epochs, false, false));
        prop_assert_eq!(&straight, &said(&toml, &rows, epochs, true, true));
    }

    #[test]
    fn any_values_and_methods(y in proptest::collection::vec(-1e30..1e30f64, 1..60), steps in 1usize..50) {
        for method in METHODS {
            for periods in [&[][..], &[2], &[3, 9], &[40]] {
                let ahead = method.forecast(&y, periods, steps);
                let fine = ahead.is_none_or(|a| a.len() == steps && a.iter().all(|v| v.is_finite()));
                prop_assert!(fine, "{:?}", method);
            }
        }
    }

    #[test]
    fn slope_of_a_line(n in 2usize..200, by in -9.0..9.0f64) {
        let y: Vec<f64> = (0..n).map(|i| by * i as f64).collect();
        prop_assert!((slope(&y) - by).abs() < 1e-9);
        let mut wild = y.clone();
        wild[n / 3] += 1e9;
        prop_assert!(n < 12 || (slope(&wild) - by).abs() < 1e-6);
    }

    #[test]
    fn medians(mut values in proptest::collection::vec(-9.0..9.0f64, 1..30)) {
        let found = median(&mut values);
        values.sort_by(f64::total_cmp);
        let n = values.len();
        let expect = if n % 2 == 1 { values[n / 2] } else { values[n / 2 - 1] / 2.0 + values[n / 2] / 2.0 };
        prop_assert_eq!(found, expect);
    }
}

#[test]
fn malformed_states() {
    let mut operator = built(&MINUTES.replace("8h", "30m"));
    epoch(&mut *operator, &points(40, |i| (i * 7 % 5) as f64));
    let state = operator.snapshot().unwrap();
    for cut in 0..state.len() {
        assert!(built(MINUTES).restore(&state[..cut]).is_err(), "{cut}");
    }
    assert!(built(MINUTES).restore(&[&state[..], &[0]].concat()).is_err());
    // Another horizon keeps what is remembered, and tries the methods anew.
    let mut other = built(&MINUTES.replace("8h", "30m").replace("2h", "1h"));
    other.restore(&state).unwrap();
    let out = epoch(&mut *other, &points(42, |i| (i * 7 % 5) as f64)[40..]);
    assert_eq!(times(&out, "forecast.for"), [Some(101 * MINUTE)]);
}
