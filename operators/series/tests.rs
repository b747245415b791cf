#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::bins::Bins;

const STEP: i64 = 10;
const MAX: usize = 6;

fn bins(points: &[(i64, f64)]) -> Bins {
    let mut bins = Bins::default();
    points.iter().for_each(|(time, value)| bins.add(STEP, MAX, *time, *value));
    bins
}

#[track_caller]
fn check(points: &[(i64, f64)], expect: &[f64]) {
    let means = bins(points).means();
    assert_eq!(format!("{means:?}"), format!("{expect:?}"));
}

#[test]
fn means_of_closed_bins() {
    check(&[], &[]);
    check(&[(5, 1.0), (6, 3.0)], &[]);
    check(&[(5, 1.0), (6, 3.0), (12, 9.0)], &[2.0]);
    check(&[(5, 1.0), (35, 7.0)], &[1.0, f64::NAN, f64::NAN]);
    // A late point counts as long as its bin is kept, also before the first one.
    check(&[(25, 4.0), (31, 7.0), (26, 6.0), (5, 1.0)], &[1.0, f64::NAN, 5.0]);
    check(&[(65, 1.0), (75, 1.0), (5, 9.0)], &[1.0]);
    // Only so many are kept, and none from before a pause that long.
    let ramp: Vec<(i64, f64)> = (0..10).map(|i| (i * STEP, i as f64)).collect();
    check(&ramp, &[4.0, 5.0, 6.0, 7.0, 8.0]);
    check(&[(5, 1.0), (500, 2.0), (510, 3.0)], &[2.0]);
    check(&[(-5, 1.0), (5, 2.0)], &[1.0]);
}

/// Seconds since 1970 that pass ten times slower than they should, and what is huge.
#[test]
fn means_are_exact_enough() {
    let times: Vec<(i64, f64)> = (0..6).map(|i| (i * STEP, 1.7e9 + i as f64 * 0.1)).collect();
    let means = bins(&times).means();
    assert!(means.iter().zip(&times).all(|(m, (_, v))| (m - v).abs() < 0.02), "{means:?}");
    let [huge] = bins(&[(5, -1e150), (15, 0.0)]).means()[..] else { panic!("no step") };
    assert!((huge / -1e150 - 1.0).abs() < 1e-10, "{huge}");
}

proptest! {
    #[test]
    fn as_a_map_of_all_points(points in proptest::collection::vec((-100i64..200, -9..9i32), 0..60)) {
        let mut all: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
        let mut newest = i64::MIN;
        let points: Vec<(i64, f64)> = points.iter().map(|(t, v)| (*t, f64::from(*v))).collect();
        for (time, value) in &points {
            let bin = time.div_euclid(STEP);
            newest = newest.max(bin);
            if bin > newest - MAX as i64 {
                all.entry(bin).or_default().push(*value);
            }
            all = all.split_off(&(newest - MAX as i64 + 1));
        }
        let made = bins(&points);
        for bin in newest.saturating_sub(20)..=newest {
            let expect = all.get(&bin).map(|v| v.iter().sum::<f64>() / v.len() as f64);
            let found = made.mean(bin);
            prop_assert_eq!(found.is_some(), expect.is_some(), "{}", bin);
            let near = found.zip(expect).is_none_or(|(a, b)| (a - b).abs() < 1e-5);
            prop_assert!(near, "{:?} {:?}", found, expect);
        }
        let mut saved = Vec::new();
        made.put(&mut saved);
        let mut rest = &saved[..];
        prop_assert_eq!(Bins::get(&mut rest), Some(made));
        prop_assert!(rest.is_empty());
        for cut in 0..saved.len() {
            prop_assert_eq!(Bins::get(&mut &saved[..cut]), None);
        }
    }
}
