#![allow(clippy::unwrap_used, clippy::expect_used)]

mod behaviour;

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Float64Type;
use proptest::prelude::*;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::Operator;
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::Signal;

use crate::testing::{self, Row, batch_in, row, run};

const S: i64 = 1_000_000_000;

fn built(toml: &str) -> Box<dyn Operator> {
    testing::plan(&super::KIND, toml).unwrap_or_else(|e| panic!("{e}")).build()
}

fn batch(rows: &[Row]) -> Batch {
    batch_in(rows, &Arc::new(EntityTable::default()), Signal::Metrics)
}

fn passed(operator: &mut dyn Operator, batch: Batch) -> Batch {
    let out = run(operator, |o, out| o.process(0, batch, out).unwrap());
    out.emitted.into_iter().next().unwrap().1
}

fn numbers(batch: &Batch, name: &str) -> Vec<Option<f64>> {
    batch.array(name).unwrap().as_primitive::<Float64Type>().iter().collect()
}

/// All added columns of all rows, to the bit.
fn said(batch: &Batch) -> Vec<String> {
    let rows = batch.rows();
    (0..rows.num_rows())
        .map(|row| {
            let cells = super::ADDED.iter().map(|(name, _)| {
                let array = batch.array(name).unwrap();
                match array.as_primitive_opt::<Float64Type>() {
                    Some(a) if a.is_valid(row) => format!("{:016x}", a.value(row).to_bits()),
                    Some(_) => "NULL".into(),
                    None => arrow::util::display::array_value_to_string(&array, row).unwrap(),
                }
            });
            cells.collect::<Vec<_>>().join(" ")
        })
        .collect()
}

#[test]
fn rows_pass_through() {
    let mut operator = built("");
    let rows = [
        row(S).set("value", 1.5).entity("a", 1),
        row(2 * S).set("value", f64::NAN).entity("a", 1),
        row(3 * S).set("other", "x").entity("a", 1),
        Row { time: None, ..row(0) }.set("value", 1.0).entity("a", 1),
        row(5 * S).set("value", -f64::MAX).entity("a", 1),
    ];
    let out = passed(&mut *operator, batch(&rows));
    assert_eq!(out.num_rows(), 5);
    assert_eq!(numbers(&out, "value")[0], Some(1.5));
    let scored: Vec<bool> = numbers(&out, "anomaly.score").iter().map(Option::is_some).collect();
    assert_eq!(scored, [true, false, false, false, false]);
}

#[test]
fn options_out_of_range() {
    for wrong in [
        "threshold = 1.0",
        "min_deviation = -1.0",
        "min_deviation_ratio = nan",
        "max_series = 0",
        "direction = \"up\"",
        "season = \"year\"",
        "value = \"1 +\"",
    ] {
        assert!(testing::plan(&super::KIND, wrong).is_err(), "{wrong}");
    }
}

#[test]
fn whole_numbers_in_their_own_column() {
    let mut operator = built("");
    let out = passed(&mut *operator, batch(&[row(S).set("value_int", 5)]));
    assert_eq!(numbers(&out, "anomaly.expected"), [Some(5.0)]);
}

#[test]
fn grouped_by_columns() {
    let mut operator = built("by = [\"host\"]\nvalue = \"x * 2\"");
    let rows: Vec<Row> = (0..40)
        .map(|i| row(i * S).set("x", if i % 2 == 0 { 1.0 } else { 50.0 }).set("host", i % 2))
        .collect();
    let out = passed(&mut *operator, batch(&rows));
    let expected = numbers(&out, "anomaly.expected");
    assert_eq!(expected[38..], [Some(2.0), Some(100.0)]);
}

#[test]
fn oldest_series_go() {
    let mut operator = built("max_series = 2");
    let at = |time: i64, series: i64| row(time * S).set("value", 7.0).entity("s", series);
    passed(&mut *operator, batch(&[at(1, 1), at(2, 2), at(3, 1), at(4, 3), at(5, 1)]));
    // 2 was the oldest when 3 came: 1 is still known, 2 is new again.
    let known = operator.snapshot().unwrap();
    assert_eq!(u64::from_le_bytes(known[1..9].try_into().unwrap()), 2);
    // A known series that is late stays as it is; one that is new does not.
    passed(&mut *operator, batch(&[at(4, 3), at(1, 1)]));
    assert_eq!(operator.snapshot().unwrap(), known);
    passed(&mut *operator, batch(&[at(1, 2)]));
    assert_ne!(operator.snapshot().unwrap(), known);
}

#[test]
fn state_takes_a_kibibyte() {
    let mut operator = built("");
    let rows: Vec<Row> = (0..3_000)
        .map(|i| row(i * 60 * S).set("value", (i * 7919 % 101) as f64).entity("s", 1))
        .collect();
    passed(&mut *operator, batch(&rows));
    assert!(operator.snapshot().unwrap().len() <= 1024);
    let held = size_of::<super::series::Series>() + super::season::HELD + super::shape::HELD;
    assert!(held <= 1024, "{held}");
}

#[test]
fn malformed_states() {
    let mut operator = built("");
    passed(&mut *operator, batch(&[row(S).set("value", 1.0).entity("s", 1)]));
    let state = operator.snapshot().unwrap();
    for cut in 0..state.len() {
        assert!(built("").restore(&state[..cut]).is_err(), "{cut}");
    }
    assert!(built("").restore(&[&state[..], &[0]].concat()).is_err());
    // Layouts before this one had the number of the kind, 0 to 2, behind the key of a series.
    const KIND: usize = 1 + 8 + 16;
    for kind in 0..3 {
        let mut old = state.clone();
        old[KIND] = kind;
        assert!(built("").restore(&old).is_err());
    }
}

/// Values of a few kinds, so that all parts of a detector have something to do.
fn value() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        8 => (0.0..10.0f64).prop_map(Some),
        2 => Just(Some(5.0)),
        1 => (-1e155..1e155f64).prop_map(Some),
        1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(0.0), Just(-0.0)].prop_map(Some),
        1 => prop_oneof![Just(f64::MIN_POSITIVE), Just(-5e-324), Just(1e150)].prop_map(Some),
        1 => Just(None),
    ]
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    // Late ones, duplicates, and now and then a pause.
    let step = prop_oneof![20 => -3i64..40, 1 => 400i64..100_000];
    let one = (step, value(), 0i64..6, prop::bool::weighted(0.1));
    prop::collection::vec(one, 1..120).prop_map(|all| {
        let mut time = 1_400_000_000;
        let made = all.into_iter().map(|(step, value, series, counter)| {
            time += step * 100;
            let r = Row { received: time * S, ..row(time * S) }.entity("s", series);
            let r = match counter {
                true => {
                    r.entity("metric.type", "counter").entity("metric.temporality", "cumulative")
                }
                false => r,
            };
            value.map_or(r.clone(), |v| r.set("value", v))
        });
        made.collect()
    })
}

proptest! {
    #[test]
    fn cuts_and_restarts_change_nothing(
        all in rows(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..5),
        max in 1usize..8,
        by in any::<bool>(),
    ) {
        let by = if by { "\nby = [\"s\"]" } else { "" };
        let toml = format!("max_series = {max}{by}");
        let mut whole = built(&toml);
        let expected = said(&passed(&mut *whole, batch(&all)));
        let mut cuts: Vec<(usize, bool)> =
            cuts.into_iter().map(|(at, restart)| (at.index(all.len()), restart)).collect();
        cuts.push((all.len(), false));
        cuts.sort_unstable();
        let mut parts = built(&toml);
        let (mut got, mut start) = (Vec::new(), 0);
        for (end, restart) in cuts {
            if end > start {
                got.extend(said(&passed(&mut *parts, batch(&all[start..end]))));
            }
            start = end;
            if restart {
                let state = parts.snapshot().unwrap();
                parts = built(&toml);
                parts.restore(&state).unwrap();
                prop_assert_eq!(parts.snapshot().unwrap(), state);
            }
        }
        prop_assert_eq!(got, expected);
        prop_assert_eq!(parts.snapshot().unwrap(), whole.snapshot().unwrap());
    }

    #[test]
    fn scores_and_bounds_make_sense(all in rows()) {
        let mut operator = built("");
        let out = passed(&mut *operator, batch(&all));
        let [score, expected, low, high] =
            ["score", "expected", "low", "high"].map(|n| numbers(&out, &format!("anomaly.{n}")));
        for row in 0..all.len() {
            let (Some(s), Some(e)) = (score[row], expected[row]) else { continue };
            prop_assert!((0.0..=1.0).contains(&s), "{s}");
            prop_assert!(!e.is_nan());
            prop_assert!(low[row].unwrap() <= e && e <= high[row].unwrap());
        }
    }
}
