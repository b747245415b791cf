//! What detectors make of series as they are met.

use super::super::detector::{Detector, Part, Settings, Verdict};
use super::super::season::Mode;
use super::super::series::Series;

const S: i64 = 1_000_000_000;
const STEP: i64 = 300;

const SETTINGS: Settings = Settings {
    season: Mode::Auto,
    above: true,
    below: true,
    min_absolute: 0.0,
    min_relative: 0.01,
    threshold: 0.5,
};

/// A number from 0 to 1 that looks random.
fn noise(i: i64) -> f64 {
    let mut x = (i as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// About normal, of deviation 1.
fn normal(i: i64) -> f64 {
    (0..12).map(|k| noise(i * 12 + k)).sum::<f64>() - 6.0
}

/// A day's wave.
fn wave(i: i64) -> f64 {
    ((i * STEP) as f64 / 86_400.0 * std::f64::consts::TAU).sin()
}

fn all(points: impl Iterator<Item = (i64, f64)>, settings: &Settings) -> Vec<Option<Verdict>> {
    let mut series = Series::of(false);
    points.map(|(i, v)| series.score(i * STEP * S, v, true, settings)).collect()
}

/// At which points there are alerts.
fn alerts(n: i64, value: impl Fn(i64) -> f64) -> Vec<i64> {
    let said = all((0..n).map(|i| (i, value(i))), &SETTINGS);
    let alerts = said.iter().zip(0..).filter(|(v, _)| v.is_some_and(|v| v.alert));
    alerts.map(|(_, i)| i).collect()
}

#[test]
fn noise_alone_is_quiet() {
    let found: usize = (0..20).map(|s| alerts(4_000, |i| 50.0 + normal(i + s * 9_999)).len()).sum();
    assert!(found <= 6, "{found} alerts in 80,000 points");
}

#[test]
fn a_spike_is_one_alert_at_its_first_point() {
    let value = |i| 50.0 + normal(i) + if (2_500..2_503).contains(&i) { 30.0 } else { 0.0 };
    let found = alerts(3_500, value);
    assert_eq!(found.iter().filter(|i| **i > 2_200).collect::<Vec<_>>(), [&2_500]);
}

#[test]
fn a_level_shift_is_one_alert() {
    for shift in [-40.0, -15.0, 10.0, 30.0, 1_000.0] {
        for season in [0.0, 5.0] {
            let base = |i| 100.0 + normal(i) + season * wave(i);
            let before = alerts(8_000, base);
            let value = |i| base(i) + if i >= 4_000 { shift } else { 0.0 };
            let found = alerts(8_000, value);
            let new: Vec<&i64> = found
                .iter()
                .filter(|i| (4_000..6_000).contains(*i) && !before.contains(i))
                .collect();
            assert!(matches!(new[..], [4_000..=4_020]), "{shift} {season}: {found:?} {before:?}");
        }
    }
}

#[test]
fn a_day_that_is_left_out_is_found() {
    let value = |i: i64| {
        let day = i * STEP / 86_400;
        10.0 + 0.2 * normal(i) + if day == 14 { 0.0 } else { 8.0 * wave(i) }
    };
    let found = alerts(18 * 288, value);
    assert!(found.iter().any(|i| (14 * 288..15 * 288).contains(i)), "{found:?}");
    let said = all((0..14 * 288).map(|i| (i, value(i))), &SETTINGS);
    let errors = said
        .iter()
        .enumerate()
        .skip(10 * 288)
        .map(|(i, v)| (v.unwrap().expected - (10.0 + 8.0 * wave(i as i64))).abs());
    assert!(errors.sum::<f64>() / (4.0 * 288.0) < 1.5);
}

#[test]
fn a_flat_line_with_tiny_noise_is_quiet() {
    assert_eq!(alerts(4_000, |i| 100.0 + 1e-9 * normal(i)), [0i64; 0]);
    assert_eq!(alerts(4_000, |i| 100.0 + if i % 997 == 0 { 0.5 } else { 0.0 }), [0i64; 0]);
    assert_eq!(alerts(1_000, |i| if i == 700 { 3.0 } else { 0.0 }), [700]);
}

#[test]
fn counters_that_reset() {
    let value = |i: i64| (i % 1_500) as f64 * 100.0 + noise(i) * 90.0;
    assert_eq!(alerts(10_000, value), [0i64; 0]);
    let mut series = Series::of(true);
    let mut total = 0.0;
    let found = (0..5_000i64).filter(|&i| {
        total = if i % 1_100 == 0 { 0.0 } else { total + 50.0 + normal(i) };
        let burst = if i == 4_000 { 5_000.0 } else { 0.0 };
        total += burst;
        series.score(i * STEP * S, total, true, &SETTINGS).is_some_and(|v| v.alert)
    });
    let late: Vec<i64> = found.filter(|i| *i > 2_200).collect();
    assert_eq!(late, [4_000]);
}

#[test]
fn a_ramp_is_quiet() {
    assert_eq!(alerts(6_000, |i| i as f64 * 0.5 + normal(i)), [0i64; 0]);
}

#[test]
fn directions() {
    let value = |i| 50.0 + normal(i) + if i == 2_500 { 30.0 } else { 0.0 };
    let at = |s: &Settings| all((0..2_501).map(|i| (i, value(i))), s)[2_500].unwrap().alert;
    assert!(at(&Settings { below: false, ..SETTINGS }));
    assert!(!at(&Settings { above: false, ..SETTINGS }));
    assert!(!at(&Settings { min_absolute: 40.0, ..SETTINGS }));
    assert!(!at(&Settings { min_relative: 0.8, ..SETTINGS }));
}

#[test]
fn the_band_is_where_alerts_begin() {
    let mut detector = Detector::new();
    // Calm at the end, so that no event is on.
    for i in 0..3_150 {
        let noise = if i < 3_000 { normal(i) } else { 0.0 };
        detector.score(i * STEP * S, 50.0 + noise, true, &SETTINGS);
    }
    let time = 3_150 * STEP * S;
    let Verdict { low, high, .. } = detector.score(time, 50.0, false, &SETTINGS);
    for (value, news) in
        [(low - 0.01, true), (low + 0.5, false), (high - 0.5, false), (high + 0.01, true)]
    {
        let said = detector.clone().score(time, value, true, &SETTINGS);
        assert_eq!(said.alert, news, "{value} in {low}..{high}: {said:?}");
        if news {
            assert!(matches!(said.part, Some(Part::Value | Part::Change | Part::Shape)));
        }
    }
}

#[test]
fn late_points_and_duplicates_change_nothing() {
    let mut series = Series::of(false);
    for i in 0..500 {
        series.score(i * STEP * S, 50.0 + normal(i), true, &SETTINGS);
    }
    let before = series.clone();
    for time in [499 * STEP * S, 3 * STEP * S, -5] {
        let said = series.score(time, 1e9, true, &SETTINGS).unwrap();
        assert!(said.score > 0.9 && !said.alert);
    }
    series.score(9_999 * STEP * S, 1e9, false, &SETTINGS);
    assert_eq!(series, before);
}

/// Also one after which a mean of a few points is taken for one of many.
#[test]
fn a_gap_is_no_event() {
    for (gap, season) in
        [(12, 0.0), (20, 0.0), (150, 0.0), (150, 20.0), (1_000, 0.0), (1_000, 20.0)]
    {
        for seed in 0..8 {
            let value = |i: i64| 100.0 + normal(i + seed * 9_999) + season * wave(i);
            let first = 4_000 + seed * 37;
            let end = first + gap;
            let points = (0..end + 120).filter(|i| !(first..end).contains(i));
            let said = all(points.map(|i| (i, value(i))), &SETTINGS);
            let after = &said[first as usize..];
            assert_eq!(after.len(), 120);
            assert!(after.iter().all(|v| !v.unwrap().alert), "{gap} {season} {seed}");
        }
    }
}

#[test]
fn the_first_weekend_is_no_event() {
    // 1970-01-05 was a Monday.
    let start = 4 * 288;
    for seed in 0..8 {
        let value = |i: i64| {
            let weekend = (i - start) / 288 % 7 >= 5;
            let dip = if i == start + 19 * 288 + 60 { 12.0 } else { 0.0 };
            let height = if weekend { 2.0 } else { 8.0 };
            10.0 + 0.3 * normal(i + seed * 9_999) + height * wave(i) - dip
        };
        let said = all((start..=start + 19 * 288 + 60).map(|i| (i, value(i))), &SETTINGS);
        assert!(said[5 * 288..19 * 288].iter().all(|v| !v.unwrap().alert), "{seed}");
        let last = said[19 * 288 + 60].unwrap();
        assert!(last.alert && last.part == Some(Part::Season), "{last:?}");
    }
}
