//! Seasons by profile: the running mean of one period, what each slot of the period is usually away
//! from it, and how what is left over fades.
//!
//! It is the seasonal naive method with two corrections that decide on metrics: many periods are
//! averaged, newer ones more, and the level is the present one. All in O(n), so that it can be
//! tested from many origins.

use crate::series::robust::{median, slope};

/// Weight of a period against the one after it.
const FADE: f64 = 0.5;

/// Further from the median of its slot than this many median distances is far: about 4 deviations.
const FAR: f64 = 6.0;

/// Periods as many as this would weigh as much as the guess that a slot of the longer period is as
/// the shorter one says.
const DOUBT: f64 = 0.5;

/// Periods that the slope of the running mean is taken over.
const SLOPE_PERIODS: usize = 3;

/// What is left over fades by no less than this, so that it does fade.
const PERSISTENCE_MAX: f64 = 0.999;

/// Forecasts `steps` values behind `y` by its periods, one or two and the shorter one first, with
/// the slope of the running mean if `trend` says so. `None` without two of the longer
/// period.
pub(crate) fn forecast(
    y: &[f64],
    periods: &[usize],
    trend: bool,
    steps: usize,
) -> Option<Vec<f64>> {
    let (&short, &long) = (periods.first()?, periods.last()?);
    let n = y.len();
    if short < 2 || n < 2 * long {
        return None;
    }
    let means = running(y, long);
    // What each value is away from the mean of the period that it ends.
    let away: Vec<f64> = y[long - 1..].iter().zip(&means).map(|(y, m)| y - m).collect();
    let first = long - 1;
    let mut profile = Profile::of(&away, first, n, short, 0.0);
    let mut left: Vec<f64> = rest(&away, first, &profile);
    if long > short {
        let fine = Profile::of(&left, first, n, long, DOUBT);
        left = rest(&left, first, &fine);
        profile = fine.over(&profile);
    }
    let (fades, now) = persistence(&left);
    let back = (SLOPE_PERIODS * long).min(means.len());
    let rise = if trend { slope(&means[means.len() - back..]) } else { 0.0 };
    let level = *means.last()?;
    let mut left = now;
    let ahead = (1..=steps).map(|h| {
        left *= fades;
        level + rise * h as f64 + profile.at(n - 1 + h) + left
    });
    Some(ahead.collect())
}

/// Means of `length` values, the first of which ends at `length - 1`.
fn running(y: &[f64], length: usize) -> Vec<f64> {
    let mut sum: f64 = y[..length].iter().sum();
    let mut means = vec![sum / length as f64];
    for (leaves, comes) in y.iter().zip(&y[length..]) {
        sum += comes - leaves;
        means.push(sum / length as f64);
    }
    means
}

/// What each slot of a period is usually.
struct Profile(Vec<f64>);

impl Profile {
    /// Of values from place `first` to the end `n`, those of newer periods weighing more. One that
    /// is far from the median of its slot counts as less far: a shift of the level or an outage is
    /// away from the mean of its period, but no habit.
    fn of(values: &[f64], first: usize, n: usize, period: usize, doubt: f64) -> Self {
        let medians = Self::medians(values, first, period);
        let mut off: Vec<f64> = rest(values, first, &medians).iter().map(|r| r.abs()).collect();
        let far = FAR * median(&mut off);
        let (mut sums, mut weights) = (vec![0.0; period], vec![doubt; period]);
        let mut weight = 1.0;
        for age in 0..values.len() {
            if age > 0 && age % period == 0 {
                weight *= FADE;
            }
            let place = n - 1 - age;
            let (value, usual) = (values[place - first], medians.at(place));
            let value = if far > 0.0 { usual + (value - usual).clamp(-far, far) } else { value };
            sums[place % period] += weight * value;
            weights[place % period] += weight;
        }
        let slots = sums.iter().zip(&weights);
        Self(slots.map(|(s, w)| if *w > 0.0 { s / w } else { 0.0 }).collect())
    }

    /// The median of each slot.
    fn medians(values: &[f64], first: usize, period: usize) -> Self {
        let of = |slot: usize| {
            let skip = (slot + period - first % period) % period;
            median(&mut values.iter().copied().skip(skip).step_by(period).collect::<Vec<_>>())
        };
        let known = (0..period).map(of).map(|m| if m.is_nan() { 0.0 } else { m });
        Self(known.collect())
    }

    fn at(&self, place: usize) -> f64 {
        self.0[place % self.0.len()]
    }

    /// This one, of a longer period, on top of another.
    fn over(&self, other: &Self) -> Self {
        Self((0..self.0.len()).map(|slot| self.0[slot] + other.at(slot)).collect())
    }
}

fn rest(values: &[f64], first: usize, profile: &Profile) -> Vec<f64> {
    values.iter().enumerate().map(|(i, v)| v - profile.at(first + i)).collect()
}

/// How much of what is left over is still there a step later, and what it is now.
fn persistence(left: &[f64]) -> (f64, f64) {
    let squares: f64 = left.iter().map(|l| l * l).sum();
    let products: f64 = left.iter().zip(&left[1..]).map(|(a, b)| a * b).sum();
    let fades = if squares > 0.0 { products / squares } else { 0.0 };
    (fades.clamp(0.0, PERSISTENCE_MAX), left.last().copied().unwrap_or(0.0))
}
