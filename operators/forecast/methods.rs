//! The methods among which a series finds its own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use augurs::ets::AutoETS;
use augurs::mstl::stlrs::{MstlParams, StlParams};
use augurs::{Fit, Predict};

use super::seasonal;
use crate::series::robust::{median, slope};

/// Values that exponential smoothing is fitted to: older ones have next to no weight in it, and a
/// fit takes time for each.
const SMOOTHED_MAX: usize = 200;

/// Values without which exponential smoothing says nothing that the others do not.
pub(crate) const SMOOTHED_MIN: usize = 20;

/// A forecast further from all values seen than this many of their ranges is no forecast.
const RANGES_MAX: f64 = 10.0;

/// The level of a trend is that of this share of its values, at least and at most so many.
const LEVEL_SHARE: usize = 8;
const LEVEL_MIN: usize = 3;
const LEVEL_MAX: usize = 24;

/// Rate of the mean that a level without trend is.
const LEVEL_RATE: f64 = 0.2;

/// How to forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// The last value.
    Last,
    /// An exponentially weighted mean.
    Level,
    /// A robust slope of all values, or of the last quarter or sixteenth of them, from the median of
    /// the newest, or from the last value.
    Trend { part: usize, from_last: bool },
    /// Profiles of one period or both.
    Season { periods: usize, trend: bool },
    /// Exponential smoothing without season: augurs' AutoETS.
    Smoothing,
    /// Seasons by repeated LOESS (MSTL), what is left by exponential smoothing: augurs.
    Mstl { periods: usize },
}

/// All of them, in the order in which states name them.
pub(crate) const METHODS: [Method; 15] = [
    Method::Last,
    Method::Level,
    Method::Trend { part: 1, from_last: false },
    Method::Trend { part: 1, from_last: true },
    Method::Trend { part: 4, from_last: false },
    Method::Trend { part: 4, from_last: true },
    Method::Trend { part: 16, from_last: false },
    Method::Trend { part: 16, from_last: true },
    Method::Season { periods: 1, trend: false },
    Method::Season { periods: 1, trend: true },
    Method::Season { periods: 2, trend: false },
    Method::Season { periods: 2, trend: true },
    Method::Smoothing,
    Method::Mstl { periods: 1 },
    Method::Mstl { periods: 2 },
];

impl Method {
    /// As users read it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Level => "level",
            Self::Trend { .. } => "trend",
            Self::Season { .. } => "season",
            Self::Smoothing => "ets",
            Self::Mstl { .. } => "mstl",
        }
    }

    /// Whether it goes on rising or falling.
    pub(crate) const fn trends(self) -> bool {
        matches!(self, Self::Trend { .. } | Self::Season { trend: true, .. })
    }

    /// Whether a fit takes milliseconds, not microseconds.
    pub(crate) const fn costly(self) -> bool {
        matches!(self, Self::Smoothing | Self::Mstl { .. })
    }

    /// The next `steps` values of `y`, which has seasons of these periods, shorter ones first.
    /// `None` if it has no answer for such a series.
    pub(crate) fn forecast(self, y: &[f64], periods: &[usize], steps: usize) -> Option<Vec<f64>> {
        let last = *y.last()?;
        let of = |count: usize| -> Option<&[usize]> {
            // One of two is the longer one: with a week there is a day in it.
            match (count, periods.len()) {
                (1, 1..) => Some(&periods[..1]),
                (2, 2) => Some(periods),
                _ => None,
            }
        };
        let ahead = match self {
            Self::Last => vec![last; steps],
            Self::Level => vec![level(y); steps],
            Self::Trend { part, from_last } => trend(y, part, from_last, steps)?,
            Self::Season { periods, trend } => seasonal::forecast(y, of(periods)?, trend, steps)?,
            Self::Smoothing => smoothing(y, steps)?,
            Self::Mstl { periods } => mstl(y, of(periods)?, steps)?,
        };
        let (low, high) = range(y);
        let room = RANGES_MAX * (high - low).max(f64::MIN_POSITIVE) * (1 + steps / y.len()) as f64;
        let sane = |v: &f64| v.is_finite() && *v >= low - room && *v <= high + room;
        ahead.iter().all(sane).then_some(ahead)
    }
}

fn range(y: &[f64]) -> (f64, f64) {
    let low = y.iter().copied().fold(f64::INFINITY, f64::min);
    (low, y.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

fn level(y: &[f64]) -> f64 {
    let newest = &y[y.len().saturating_sub(SMOOTHED_MAX)..];
    let first = newest.first().copied().unwrap_or_default();
    newest.iter().fold(first, |mean, v| mean + LEVEL_RATE * (v - mean))
}

fn trend(y: &[f64], part: usize, from_last: bool, steps: usize) -> Option<Vec<f64>> {
    let count = y.len() / part;
    if count < 2 * LEVEL_MIN {
        return None;
    }
    let y = &y[y.len() - count..];
    let slope = slope(y);
    let newest = if from_last { 1 } else { (count / LEVEL_SHARE).clamp(LEVEL_MIN, LEVEL_MAX) };
    // Where each of the newest would be now.
    let ages = (0..newest).rev();
    let mut now: Vec<f64> =
        y[count - newest..].iter().zip(ages).map(|(v, age)| v + slope * age as f64).collect();
    let level = median(&mut now);
    Some((1..=steps).map(|h| level + slope * h as f64).collect())
}

/// Values as a mean of 0 and a standard deviation of 1: augurs works in single precision, and its
/// optimizer from fixed first guesses.
struct Scaled {
    values: Vec<f64>,
    mean: f64,
    deviation: f64,
}

impl Scaled {
    fn of(y: &[f64]) -> Option<Self> {
        let n = y.len() as f64;
        let mean = y.iter().map(|v| v / n).sum::<f64>();
        let deviation = (y.iter().map(|v| (v - mean) * (v - mean) / n).sum::<f64>()).sqrt();
        // What does not vary needs no model.
        if !(deviation.is_finite() && deviation > mean.abs() * 1e-9) {
            return None;
        }
        let values = y.iter().map(|v| (v - mean) / deviation).collect();
        Some(Self { values, mean, deviation })
    }

    fn back(&self, ahead: Vec<f64>) -> Vec<f64> {
        ahead.into_iter().map(|v| v * self.deviation + self.mean).collect()
    }
}

fn smoothing(y: &[f64], steps: usize) -> Option<Vec<f64>> {
    let scaled = Scaled::of(&y[y.len().saturating_sub(SMOOTHED_MAX)..])?;
    Some(scaled.back(smooth(&scaled.values, steps)?))
}

/// By exponential smoothing, the error additive. Its intervals are not used: they draw random
/// numbers for some models.
fn smooth(y: &[f64], steps: usize) -> Option<Vec<f64>> {
    if y.len() < SMOOTHED_MIN {
        return None;
    }
    let newest = &y[y.len().saturating_sub(SMOOTHED_MAX)..];
    guarded(|| {
        let model = AutoETS::new(1, "AZN").ok()?;
        let forecast = model.fit(newest).ok()?.predict(steps, None).ok()?;
        Some(forecast.point).filter(|point| point.len() == steps)
    })
}

fn mstl(y: &[f64], periods: &[usize], steps: usize) -> Option<Vec<f64>> {
    let longest = *periods.last()?;
    if y.len() < 2 * longest + 1 || periods[0] < 2 {
        return None;
    }
    let scaled = Scaled::of(y)?;
    let short: Vec<f32> = scaled.values.iter().map(|v| *v as f32).collect();
    let fit = guarded(|| {
        let mut params = MstlParams::new();
        params.stl_params(StlParams::new());
        params.fit(&short, periods).ok()
    })?;
    let plain: Vec<f64> = fit
        .trend()
        .iter()
        .zip(fit.remainder())
        .map(|(trend, rest)| f64::from(*trend) + f64::from(*rest))
        .collect();
    let mut ahead = smooth(&plain, steps)?;
    for (season, period) in fit.seasonal().iter().zip(periods) {
        let last = season.get(season.len().checked_sub(*period)?..)?;
        let again = last.iter().cycle();
        ahead.iter_mut().zip(again).for_each(|(v, s)| *v += f64::from(*s));
    }
    Some(scaled.back(ahead))
}

/// What `work` gives, nothing if it panics: the library has branches that do.
fn guarded<T>(work: impl FnOnce() -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok().flatten()
}
