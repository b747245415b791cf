//! What a series does at each hour of the day: of all days, and apart of working days and weekends.
//!
//! The profile is of the distance to the running mean, so that a shift of the level is not a
//! change of the season. It is used as long as it foretells the series clearly better than the
//! mean alone does, which decides by itself whether there is a season.

use super::level::Mean;
use crate::codec::{get_f32, get_f64, put_f32, put_f64};

const HOURS: usize = 24;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

/// 1970-01-01 was a Thursday: days since Monday.
const EPOCH_WEEKDAY: i64 = 3;
const SATURDAY: i64 = 5;

/// Share of an hour's profile that the same hour of the next day replaces.
const RENEWED_DAILY: f64 = 0.5;

/// Days that an hour must have been seen on before its profile says anything.
const DAYS_MIN: f64 = 3.0;

/// Rate of the errors by which profiles are compared, per point.
const ERROR_RATE: f64 = 0.005;

/// A point changes a profile by no more than this many mean errors: one outlier must not come back
/// as an expectation a day later.
const CLIP: f64 = 5.0;

/// The profile counts when its error is below this share of that of the mean alone.
const GAIN: f64 = 0.7;

/// Weekends apart count when their error is below this share of that of all days alike.
const WEEK_GAIN: f64 = 0.9;

/// Points of an hour from which on the clip holds.
const CLIP_FROM: u16 = 3;

/// Points of an hour that are counted.
const COUNT_MAX: u16 = 60_000;

/// Which season to reckon with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Auto,
    None,
    Day,
    Week,
}

/// Profiles: all days, working days, weekends.
const PROFILES: usize = 3;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Season {
    hours: Box<Hours>,
    error_all: Mean,
    error_week: Mean,
    error_mean: Mean,
}

/// Heap bytes of the season of one series.
#[cfg(test)]
pub(crate) const HELD: usize = size_of::<Hours>();

/// By hour. Short numbers: they are distances, and there are many.
#[derive(Clone, Debug, Default, PartialEq)]
struct Hours {
    means: [[f32; HOURS]; PROFILES],
    /// Points taken, as far as it matters.
    counts: [[u16; HOURS]; PROFILES],
    /// Mean error of the profile of all days.
    spreads: [f32; HOURS],
}

/// What the profile says of a moment.
#[derive(Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) mean: f64,
    /// Spread of the hour against that of all hours.
    pub(crate) spread: f64,
    /// Whether it is to be believed.
    pub(crate) counts: bool,
    /// Whether it was seen on such a day before: what weekends are like working days do not tell.
    pub(crate) seen: bool,
}

impl Season {
    pub(crate) fn new() -> Self {
        Self {
            hours: Box::default(),
            error_all: Mean::default(),
            error_week: Mean::default(),
            error_mean: Mean::default(),
        }
    }

    fn place(seconds: i64) -> (usize, usize) {
        let hour = (seconds.rem_euclid(DAY) / HOUR) as usize;
        let weekend = (seconds.div_euclid(DAY) + EPOCH_WEEKDAY).rem_euclid(7) >= SATURDAY;
        (hour, if weekend { 2 } else { 1 })
    }

    /// What is expected at a time of a series with this step between points.
    pub(crate) fn expected(&self, seconds: i64, step: f64, mode: Mode) -> Option<Expected> {
        let (hour, kind) = Self::place(seconds);
        let Hours { means, counts, spreads } = &*self.hours;
        if counts[0][hour] == 0 || mode == Mode::None {
            return None;
        }
        let week = match mode {
            Mode::Week => true,
            Mode::Day | Mode::None => false,
            Mode::Auto => self.error_week.0 < WEEK_GAIN * self.error_all.0,
        };
        let error = if week { self.error_week.0 } else { self.error_all.0 };
        let profile = if week && counts[kind][hour] > 0 { kind } else { 0 };
        let spread = f64::from(spreads[hour]) / error;
        let spread = if spread.is_finite() { 0.5 + 0.5 * spread } else { 1.0 };
        let whole = per_hour(step).min(f64::from(COUNT_MAX));
        let enough = (DAYS_MIN * per_hour(step)).min(f64::from(COUNT_MAX));
        let better = mode != Mode::Auto || error < GAIN * self.error_mean.0;
        Some(Expected {
            mean: f64::from(means[profile][hour]),
            spread,
            counts: f64::from(counts[0][hour]) >= enough && better,
            seen: mode == Mode::Day || f64::from(counts[kind][hour]) >= whole,
        })
    }

    /// Takes in the distance of point number `n` to the running mean.
    pub(crate) fn learn(&mut self, seconds: i64, step: f64, distance: f64, n: f64) {
        let (hour, kind) = Self::place(seconds);
        let Hours { means, counts, spreads } = &mut *self.hours;
        let all = (distance - f64::from(means[0][hour])).abs();
        if counts[0][hour] > 0 {
            let known = counts[kind][hour] > 0;
            let own = if known { (distance - f64::from(means[kind][hour])).abs() } else { all };
            self.error_all = self.error_all.with(all, ERROR_RATE, n);
            self.error_week = self.error_week.with(own, ERROR_RATE, n);
            self.error_mean = self.error_mean.with(distance.abs(), ERROR_RATE, n);
        }
        let clip = CLIP * self.error_all.0;
        let daily = 1.0 - (1.0 - RENEWED_DAILY).powf(1.0 / per_hour(step));
        for profile in [0, kind] {
            let (mean, count) = (&mut means[profile][hour], &mut counts[profile][hour]);
            *count = count.saturating_add(1).min(COUNT_MAX);
            let rate = daily.max(1.0 / f64::from(*count));
            let mut by = distance - f64::from(*mean);
            if *count > CLIP_FROM && clip > 0.0 {
                by = by.clamp(-clip, clip);
            }
            if profile == 0 && *count > 1 {
                let spread = &mut spreads[hour];
                *spread += (rate * (by.abs() - f64::from(*spread))) as f32;
            }
            *mean += (rate * by) as f32;
        }
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let Hours { means, counts, spreads } = &*self.hours;
        means.iter().flatten().chain(spreads).for_each(|x| put_f32(out, *x));
        counts.iter().flatten().for_each(|c| out.extend(c.to_le_bytes()));
        [self.error_all, self.error_week, self.error_mean].iter().for_each(|m| put_f64(out, m.0));
    }

    pub(crate) fn get(bytes: &mut &[u8]) -> Option<Self> {
        let mut season = Self::new();
        let Hours { means, counts, spreads } = &mut *season.hours;
        for number in means.iter_mut().flatten().chain(spreads) {
            *number = get_f32(bytes)?;
        }
        for count in counts.iter_mut().flatten() {
            let (first, rest) = bytes.split_first_chunk::<2>()?;
            *bytes = rest;
            *count = u16::from_le_bytes(*first);
        }
        for mean in [&mut season.error_all, &mut season.error_week, &mut season.error_mean] {
            mean.0 = get_f64(bytes)?;
        }
        Some(season)
    }
}

/// Points that a day has.
pub(crate) fn per_day(step: f64) -> f64 {
    per_hour(step) * HOURS as f64
}

/// Points that an hour has.
fn per_hour(step: f64) -> f64 {
    (HOUR as f64 / step.max(1e-3)).max(1.0)
}
