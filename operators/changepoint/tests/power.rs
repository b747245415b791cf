//! How many changes are found, where, and how many there are not.

use std::sync::Arc;

use weir_pipeline::entity::{Entity, EntityTable};

use super::super::ranks::Ranks;
use super::super::series::{Change, Kind, Series};
use super::super::{DEVIATIONS, Kinds, Settings};
use crate::anomaly::season::Mode;
use crate::series::known::{Identity, Series as _};

const S: i64 = 1_000_000_000;

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

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    /// Of an autoregressive process with this memory and deviation 1.
    fn alike(&mut self, before: f64, memory: f64) -> f64 {
        memory * before + (1.0 - memory * memory).sqrt() * self.normal()
    }
}

fn settings() -> Settings {
    Settings {
        kinds: Kinds { level: true, variance: true, trend: true },
        least: (DEVIATIONS.0 + DEVIATIONS.1) / 2.0,
        min_points: super::super::POINTS_MIN,
        min_change: 0.0,
        min_ratio: 0.0,
        season: Mode::Auto,
    }
}

/// The changes of a series of one point each `step` seconds, with the number of the point that
/// proved each.
fn changes(step: i64, values: impl Iterator<Item = f64>) -> Vec<(usize, Change)> {
    let table = EntityTable::default();
    let entity: Arc<Entity> = table.get(table.intern(Entity::new(Vec::new())).unwrap());
    let mut series = Series::new(&Identity::Entity(&entity));
    let (settings, mut ranks) = (settings(), Ranks::default());
    let mut found = Vec::new();
    for (i, value) in values.enumerate() {
        let time = i as i64 * step * S;
        found.extend(series.add(&settings, &mut ranks, time, value).map(|change| (i, change)));
    }
    found
}

/// False changes in `count` points of series made by `value`.
fn false_changes(count: usize, step: i64, memory: f64, value: impl Fn(usize, f64) -> f64) -> usize {
    let mut found = 0;
    for seed in 0..4 {
        let mut random = Random(seed);
        let mut noise = random.normal();
        let values = (0..count / 4).map(|i| {
            noise = random.alike(noise, memory);
            value(i, noise)
        });
        let changes = changes(step, values.collect::<Vec<_>>().into_iter());
        found += changes.len();
    }
    found
}

#[test]
fn noise_is_no_change() {
    for (memory, most) in [(0.0, 2), (0.6, 6), (0.9, 40)] {
        let found = false_changes(100_000, 60, memory, |_, noise| noise);
        eprintln!("memory {memory}: {found} of 100,000");
        assert!(found <= most, "{memory}: {found}");
    }
    assert!(false_changes(40_000, 60, 0.0, |_, noise| noise.exp()) <= 2);
}

#[test]
fn a_day_is_no_change() {
    let wave =
        |i: usize, noise: f64| 5.0 * (std::f64::consts::TAU * i as f64 / 288.0).sin() + noise;
    // The first days teach the season.
    let found = false_changes(40_000, 300, 0.0, wave);
    eprintln!("{found} changes of a wave of 4 times 35 days");
    assert!(found <= 110, "{found}");
}

#[test]
fn a_shift_has_no_echo_a_day_later() {
    let mut random = Random(5);
    let values: Vec<f64> = (0..288 * 14)
        .map(|i| random.normal() + if i < 288 * 8 + 70 { 0.0 } else { 20.0 })
        .collect();
    let found = changes(300, values.into_iter());
    assert_eq!(found.len(), 1, "{found:?}");
}

/// Share of shifts of `size` deviations that are told once, the mean delay and the mean distance of
/// the place.
fn shifts(size: f64, memory: f64) -> (f64, f64, f64) {
    let (mut told, mut delay, mut off, mut count) = (0.0, 0.0, 0.0, 0.0);
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut noise = random.normal();
        let values: Vec<f64> = (0..600)
            .map(|i| {
                noise = random.alike(noise, memory);
                noise + if i < 400 { 0.0 } else { size }
            })
            .collect();
        let found = changes(60, values.into_iter());
        let own: Vec<_> = found
            .iter()
            .filter(|(i, c)| (400..530).contains(i) && c.kind != Kind::Variance)
            .collect();
        count += 1.0;
        if let [(proved, change)] = own[..] {
            told += 1.0;
            delay += *proved as f64 - 400.0;
            off += (change.at as f64 / (60 * S) as f64 - 400.0).abs();
        }
    }
    (told / count, delay / told, off / told)
}

#[test]
fn shifts_are_told_once() {
    for (memory, size, least) in
        [(0.0, 5.0, 0.95), (0.0, 2.0, 0.9), (0.0, 1.0, 0.5), (0.6, 4.0, 0.7)]
    {
        let (told, delay, off) = shifts(size, memory);
        eprintln!("memory {memory} size {size}: told {told:.2}, after {delay:.1}, off by {off:.2}");
        assert!(told >= least, "{told} of shifts of {size} with memory {memory}");
    }
}

#[test]
fn spread_and_trend_are_told() {
    let (mut spread, mut trend) = (0, 0);
    for seed in 0..30 {
        let mut random = Random(seed);
        let wider = (0..600).map(|i| random.normal() * if i < 300 { 1.0 } else { 4.0 });
        let found = changes(60, wider.collect::<Vec<_>>().into_iter());
        let own = |kind| found.iter().filter(|(i, c)| *i >= 300 && c.kind == kind).count();
        spread += usize::from(own(Kind::Variance) == 1 && found.len() == 1);
        let rising = (0..900).map(|i| {
            let on = (i.clamp(300, 600) - 300) as f64 * 0.5;
            on + random.normal()
        });
        let found = changes(60, rising.collect::<Vec<_>>().into_iter());
        let own: Vec<_> = found.iter().map(|(i, c)| (*i, c.kind)).collect();
        let [a, b] = own[..] else {
            eprintln!("{own:?}");
            continue;
        };
        trend += usize::from(a.1 == Kind::Trend && a.0 < 340 && b.0 > 600);
    }
    eprintln!("spread {spread} trend {trend} of 30");
    assert!(spread >= 24 && trend >= 15, "{spread} {trend}");
}
