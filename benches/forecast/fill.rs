//! Disks that fill, in the ways that they do: when are they full, and how well was that foretold?

use crate::{forecast, mean, median};

/// Steps of 5 minutes: what is known, and how far ahead is asked.
const STEP: i64 = 300;
const KNOWN: usize = 2_016;
const AHEAD: usize = 576;
const SECTION: &str = "history = \"7d\"\nhorizon = \"2d\"\nlimit = 1";
const DAY: f64 = 288.0;

/// Disks of each kind.
const DISKS: u64 = 30;

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A steady rise with noise.
    Steady,
    /// It rises by day.
    Daily,
    /// A rise, and a wave of each day on top.
    Wave,
    /// It rises by jumps of random size, a few each day.
    Jumps,
    /// Random steps with a drift.
    Walk,
    /// It rises ever faster.
    Faster,
    /// A day ago it began to rise at another rate.
    Changed,
}

const KINDS: [Kind; 7] =
    [Kind::Steady, Kind::Daily, Kind::Wave, Kind::Jumps, Kind::Walk, Kind::Faster, Kind::Changed];

/// Values of a disk that is full `full` steps after what is known, about.
fn disk(kind: Kind, full: f64, random: &mut Random) -> Vec<f64> {
    let n = KNOWN as f64 + full;
    let rate = random.between(0.2, 0.7) / n;
    let phase = random.unit() * DAY;
    let noise = random.between(0.0, 0.01);
    let mut risen = 0.0;
    let mut values = Vec::new();
    for i in 0..KNOWN + 2 * AHEAD {
        let at = i as f64;
        let wave = (std::f64::consts::TAU * (at + phase) / DAY).sin();
        risen += match kind {
            Kind::Steady | Kind::Wave => rate,
            Kind::Daily => rate * (1.0 + wave),
            Kind::Jumps => {
                let jumps = random.unit() < 12.0 / DAY;
                if jumps { rate * DAY / 12.0 * random.between(0.0, 2.0) } else { 0.0 }
            }
            Kind::Walk => rate + 4.0 * rate * random.normal(),
            Kind::Faster => rate * 2.0 * at / n,
            Kind::Changed => {
                if i + 288 < KNOWN {
                    rate * 0.3
                } else {
                    rate * (1.0 + 0.7 * 1.0)
                }
            }
        };
        let wave = if matches!(kind, Kind::Wave) { 0.05 * wave } else { 0.0 };
        values.push(risen + wave + noise * random.normal() * 0.3);
    }
    // Moved so that it is full at about that time.
    let at = values[KNOWN + full as usize];
    values.iter().map(|v| v + 1.0 - at).collect()
}

pub(super) fn print() {
    println!("| disk | found | median error | in 90 % interval | median width | time |");
    println!("|---|---|---|---|---|---|");
    let mut all = (Vec::new(), Vec::new());
    for kind in KINDS {
        let (mut errors, mut held, mut widths, mut times) = (vec![], vec![], vec![], vec![]);
        let mut asked = 0;
        for seed in 0..DISKS {
            let mut random = Random(seed << 8 | kind as u64);
            let full = random.between(24.0, 400.0);
            let values = disk(kind, full, &mut random);
            // The first step, in the mean of which it is full.
            let Some(truth) = values[KNOWN..].iter().position(|v| *v >= 1.0) else { continue };
            if !(12..AHEAD).contains(&truth) || values[..KNOWN].iter().any(|v| *v >= 1.0) {
                continue;
            }
            asked += 1;
            let truth = truth as f64 + 0.5;
            let said = forecast(SECTION, STEP, &values[..KNOWN]);
            let [at, low, high] = ["", "_low", "_high"].map(|bound| {
                let seconds = said.column(&format!("forecast.crosses_in{bound}"));
                seconds.first().copied().unwrap_or(f64::NAN) / STEP as f64
            });
            times.push(said.time.as_secs_f64() * 1e3);
            // A bound beyond the horizon holds what comes after.
            let latest = if high.is_nan() { f64::INFINITY } else { high };
            held.push(f64::from(low <= truth + 0.5 && truth - 0.5 <= latest));
            if !at.is_nan() {
                errors.push((at - truth).abs() / truth);
                widths.push((latest.min(AHEAD as f64) - low) / truth);
            }
        }
        all.0.extend(errors.iter().copied());
        all.1.extend(held.iter().copied());
        println!(
            "| {kind:?} | {} of {asked} | {:.1} % | {:.0} % | {:.0} % | {:.0} ms |",
            errors.len(),
            100.0 * median(errors),
            100.0 * mean(held.into_iter()),
            100.0 * median(widths),
            median(times)
        );
    }
    let (errors, held) = all;
    println!(
        "| all | {} | {:.1} % | {:.1} % | | |",
        errors.len(),
        100.0 * median(errors),
        100.0 * mean(held.into_iter())
    );
}
