//! What is forecast of made-up series: how near it is, and what the interval holds.

use super::super::select::Model;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Between -1 and 1, most near 0.
    fn noise(&mut self) -> f64 {
        (0..4).map(|_| self.unit() - 0.5).sum::<f64>() / 2.0
    }
}

/// Of each kind of series: fits take long without optimization.
const SEEDS: u64 = 3;

const DAY: usize = 24;
const AHEAD: usize = 24;

/// Mean error of forecasts of series, and which share of values their intervals of 90 % hold.
fn tried(length: usize, value: impl Fn(usize, &mut Random) -> f64) -> (f64, f64) {
    let (mut error, mut held, mut count) = (0.0, 0.0, 0.0);
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let y: Vec<f64> = (0..length + AHEAD).map(|i| value(i, &mut random)).collect();
        let (past, future) = y.split_at(length);
        let periods: &[usize] = if length >= 2 * DAY { &[DAY] } else { &[] };
        let model = Model::select(past, periods, AHEAD, 0.9).unwrap();
        let ahead = model.forecast(past, periods, AHEAD).unwrap();
        for (h, (a, v)) in (1..).zip(ahead.iter().zip(future)) {
            error += (a - v).abs();
            held += f64::from((a - v).abs() <= model.width(h));
            count += 1.0;
        }
    }
    (error / count, held / count)
}

#[track_caller]
fn check(length: usize, error_max: f64, value: impl Fn(usize, &mut Random) -> f64) {
    let (error, held) = tried(length, value);
    assert!(error < error_max, "error {error}");
    assert!(held > 0.75, "held {held}");
}

#[test]
fn noise_is_not_followed() {
    check(200, 0.3, |_, random| 5.0 + random.noise());
}

#[test]
fn a_trend_goes_on() {
    check(40, 0.4, |i, random| i as f64 * 0.5 + random.noise());
    check(300, 0.4, |i, random| i as f64 * -0.5 + random.noise());
}

#[test]
fn a_day_comes_again() {
    let wave = |i: usize| 10.0 * (std::f64::consts::TAU * i as f64 / DAY as f64).sin();
    check(8 * DAY, 0.5, |i, random| wave(i) + random.noise());
    // On a level that has shifted, and rising.
    check(8 * DAY, 0.5, |i, random| {
        wave(i) + random.noise() + if i > 5 * DAY { 30.0 } else { 0.0 }
    });
    check(8 * DAY, 0.6, |i, random| wave(i) + random.noise() + i as f64 * 0.2);
}

#[test]
fn spikes_do_not_turn_a_trend() {
    check(200, 0.6, |i, random| {
        let spike = if random.unit() < 0.02 { 40.0 } else { 0.0 };
        let future = i >= 200;
        i as f64 * 0.5 + random.noise() + if future { 0.0 } else { spike }
    });
}

#[test]
fn any_length_has_an_answer_or_none() {
    for length in 0..60 {
        let y: Vec<f64> = (0..length).map(|i| f64::from(i * 7 % 5)).collect();
        let model = Model::select(&y, &[2, 4], 7, 0.9);
        assert_eq!(model.is_some(), length >= super::super::select::VALUES_MIN as i32);
        if let Some(model) = model {
            let ahead = model.forecast(&y, &[2, 4], 200).unwrap();
            assert!((1..=200).all(|h| model.width(h).is_finite()));
            assert!((1..200).all(|h| model.width(h) <= model.width(h + 1)));
            assert_eq!(ahead.len(), 200);
        }
    }
}
