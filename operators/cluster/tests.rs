#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use proptest::prelude::*;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::Operator;
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::Signal;

use super::groups::{EXACT_MAX, Group, groups, numbers};
use super::{Method, Settings};
use crate::testing::{self, Row, batch_in, row, run, show, tick};

const S: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * S;

const MINUTES: &str = "step = \"1m\"\nover = \"40m\"\nevery = \"10m\"\n";

fn built(toml: &str) -> Box<dyn Operator> {
    testing::plan(&super::KIND, toml).unwrap_or_else(|e| panic!("{e}")).build()
}

/// Between -1 and 1, of a place and a kind.
fn noise(i: i64, kind: i64) -> f64 {
    let mixed = (i * 1_000 + kind).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb_u64 as i64);
    ((mixed >> 40) % 1_000) as f64 / 1_000.0
}

/// Four series of the shape 0, four of the shape 1, each with a level and size of its own, one like
/// no other and one that does not vary.
fn value(series: i64, i: i64) -> f64 {
    let size = 10f64.powi(series as i32 % 4);
    match series {
        0..8 => size * (100.0 + 5.0 * noise(i, series % 2) + 0.5 * noise(i, 10 + series)),
        8 => noise(i, 8),
        _ => 3.0,
    }
}

fn points(minutes: std::ops::Range<i64>, value: impl Fn(i64, i64) -> f64) -> Vec<Row> {
    let at = |i: i64| (0..10).map(move |s| (i, s));
    let each = minutes.flat_map(at);
    each.map(|(i, s)| row(i * MINUTE).set("value", value(s, i)).entity("s", s)).collect()
}

fn epoch(operator: &mut dyn Operator, rows: &[Row]) -> Vec<Batch> {
    let batch = batch_in(rows, &Arc::new(EntityTable::default()), Signal::Metrics);
    let end = rows.iter().filter_map(|r| r.time).max().unwrap_or_default();
    let out = run(operator, |o, out| {
        o.process(0, batch, out).unwrap();
        o.tick(tick(end), out).unwrap();
    });
    out.emitted.into_iter().map(|(_, batch)| batch).collect()
}

/// The group of each series.
fn ids(batches: &[Batch]) -> BTreeMap<i64, Option<i64>> {
    let mut all = BTreeMap::new();
    for batch in batches {
        let ints = |name: &str| -> Vec<Option<i64>> {
            let array = batch.array(name);
            array.map_or(vec![None; batch.num_rows()], |a| {
                a.as_primitive::<Int64Type>().iter().collect()
            })
        };
        let series = ints("s").into_iter().map(Option::unwrap);
        all.extend(series.zip(ints("cluster.id")));
    }
    all
}

#[test]
fn options_out_of_range() {
    for wrong in [
        "similarity = 2.0",
        "min_size = 1",
        "over = \"5m\"",
        "over = \"90d\"",
        "every = \"1m\"",
        "method = \"kmeans\"",
    ] {
        assert!(testing::plan(&super::KIND, wrong).is_err(), "{wrong}");
    }
}

#[test]
fn series_of_one_shape_are_a_group() {
    for method in ["shape", "dtw"] {
        let mut operator = built(&format!("{MINUTES}method = \"{method}\""));
        let found = ids(&epoch(&mut *operator, &points(0..61, value)));
        let (even, odd) = (found[&0].unwrap(), found[&1].unwrap());
        assert_ne!(even, odd);
        for series in 0..8 {
            let expect = if series % 2 == 0 { even } else { odd };
            assert_eq!(found[&series], Some(expect), "{series}");
        }
        assert_eq!(found[&9], None);
        // Noise that may be shifted is like any other.
        assert!(found[&8].is_none() || method == "dtw");
    }
}

#[test]
fn groups_keep_their_numbers_and_tell_who_left() {
    let mut operator = built(MINUTES);
    let before = ids(&epoch(&mut *operator, &points(0..61, value)));
    // Not at the same time again.
    assert!(epoch(&mut *operator, &points(61..62, value)).is_empty());
    // Then one of them goes its own way.
    let alone = |s: i64, i: i64| if s == 2 { noise(i, 99) } else { value(s, i) };
    let state = operator.snapshot().unwrap();
    let mut again = built(MINUTES);
    again.restore(&state).unwrap();
    for operator in [&mut operator, &mut again] {
        let out = epoch(&mut **operator, &points(62..121, alone));
        let after = ids(&out);
        for series in (0..10).filter(|s| *s != 2) {
            assert_eq!(before[&series], after[&series], "{series}");
        }
        assert_eq!(after[&2], None);
        let text = show(&[("", out[0].clone())], "");
        let left: Vec<&String> = text.iter().filter(|r| r.contains("cluster.left=true")).collect();
        assert_eq!(left.len(), 1, "{text:#?}");
        assert!(left[0].contains(" s=2") && left[0].contains("cluster.size_before=4"), "{left:?}");
    }
}

fn settings(similarity: f64, size_min: usize) -> Settings {
    Settings { step: 1, steps: 12, every: 1, similarity, size_min, method: Method::Shape }
}

#[test]
fn more_than_can_be_compared_join() {
    let unit =
        |values: [f64; 2]| values.map(|v| v / values.iter().map(|v| v * v).sum::<f64>().sqrt());
    let shapes: Vec<Vec<f64>> = (0..EXACT_MAX + 500)
        .map(|i| unit(if i % 3 == 0 { [1.0, 0.0] } else { [0.1, 1.0] }).to_vec())
        .collect();
    let found = groups(&shapes, &settings(0.9, 3));
    let sizes: Vec<usize> = found.iter().map(|g| g.members.len()).collect();
    assert_eq!(sizes, [667, 1_333]);
}

#[test]
fn numbers_go_to_who_has_most() {
    let group = |members: &[usize]| Group { representative: members[0], members: members.to_vec() };
    let check = |found: &[Group], before: &[Option<u64>], expect: &[u64]| {
        let mut next = 9;
        assert_eq!(numbers(found, before, &mut next), expect);
    };
    let before = [Some(1), Some(1), Some(1), Some(2), Some(2), None];
    check(&[group(&[0, 1, 2]), group(&[3, 4])], &before, &[1, 2]);
    check(&[group(&[3, 4, 5]), group(&[0, 1])], &before, &[2, 1]);
    // Split and joined ones: the larger part has the number.
    check(&[group(&[0]), group(&[1, 2])], &before, &[9, 1]);
    check(&[group(&[0, 1, 2, 3, 4])], &before, &[1]);
    check(&[group(&[5])], &before, &[9]);
}

/// What is said in epochs of ten minutes.
fn said(toml: &str, rows: &[Row], cut: usize, again: bool) -> Vec<String> {
    let table = Arc::new(EntityTable::default());
    let mut operator = built(toml);
    let mut all = Vec::new();
    for rows in rows.chunks(40) {
        let mut emitted = Vec::new();
        for rows in rows.chunks(cut) {
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
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn cuts_and_restarts_change_nothing(
        steps in proptest::collection::vec((0i64..3, 0i64..6, prop_oneof![0.0..9.0f64, Just(1.0), Just(f64::NAN)]), 1..400),
    ) {
        let mut now = 0;
        let rows: Vec<Row> = steps.iter().map(|(step, series, value)| {
            now += step * MINUTE;
            row(now).set("value", *value).entity("s", *series)
        }).collect();
        let toml = "step = \"4m\"\nover = \"48m\"\nevery = \"8m\"\nsimilarity = 0.3\nmin_size = 2\nmax_series = 5";
        let straight = said(toml, &rows, 40, false);
        prop_assert_eq!(&straight, &said(toml, &rows, 3, false));
        prop_assert_eq!(&straight, &said(toml, &rows, 40, true));
    }
}

#[test]
fn malformed_states() {
    let mut operator = built(MINUTES);
    epoch(&mut *operator, &points(0..3, value));
    let state = operator.snapshot().unwrap();
    for cut in 0..state.len() {
        assert!(built(MINUTES).restore(&state[..cut]).is_err(), "{cut}");
    }
    assert!(built(MINUTES).restore(&[&state[..], &[0]].concat()).is_err());
}
