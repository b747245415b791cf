//! One series: its window, and when it has changed.

use std::collections::VecDeque;
use std::sync::Arc;

use weir_pipeline::entity::Entity;

use super::ranks::{Ranks, chance, rises};
use super::{Kinds, Settings};
use crate::anomaly::season::{Mode, Season};
use crate::codec::{get_entity, get_f64, get_u8, get_u64, put_entity, put_f64, put_u64};
use crate::series::SECOND;
use crate::series::counter::Counter;
use crate::series::known::{self, Identity};
use crate::series::robust::{median, slope};

/// Points that are looked at: as many as a shift of one deviation takes a quarter of to be told
/// from noise.
pub(super) const WINDOW: usize = 128;

/// The window is looked at each time so many points have come.
const LOOK_EVERY: u64 = 4;

/// Points that must be before a change, so that there is something that changes.
pub(super) const BEFORE: usize = 16;

/// Deviations that what comes after a change must rise or fall by for the change to be one of trend.
const RISES: f64 = 2.5;

/// A slope is corrected by this part of what is left of it, at each look.
const CORRECTED: f64 = 0.1;

/// Points from which on a slope counts as found: until then it is the one of all points.
const SLOPE_POINTS: usize = 48;

/// A place is moved by at most so many points to where the medians of both sides fit best.
const MOVED: usize = 12;

/// Deviations by which a level must change for the season to be one of the new level at once.
const SURE: f64 = 4.5;
/// The size of a change of what did not vary at all before.
const SIZE_MAX: f64 = 1e6;

/// The same for a change to be told of a series with a season, which is not known better than that.
const SEASONAL: f64 = 1.5;

/// Points behind the newest that may be of a new level.
const SETTLED: usize = 32;

/// Half an hour, in seconds.
const HALF: i64 = 1_800;

/// Rate at which the step between points is followed.
const STEP_RATE: f64 = 0.05;

/// What makes the median absolute deviation of normal values their standard deviation.
const DEVIATION: f64 = 1.482_602_218_505_602;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Level,
    Variance,
    Trend,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Level => "level",
            Self::Variance => "variance",
            Self::Trend => "trend",
        }
    }
}

/// One side of a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Side {
    /// Median; what the season adds is not in it.
    pub(super) level: f64,
    /// Standard deviation, robust.
    pub(super) spread: f64,
    /// Per second.
    pub(super) slope: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) kind: Kind,
    /// Time of the first point after it, and of the one that proved it.
    pub(super) at: i64,
    pub(super) proved: i64,
    pub(super) before: Side,
    pub(super) after: Side,
    /// Difference of the levels in deviations of what was before.
    pub(super) size: f64,
    pub(super) confidence: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    pub(super) entity: Arc<Entity>,
    points: VecDeque<(i64, f64)>,
    /// How many of the points, from the oldest on, the season was learned from.
    learned: usize,
    count: u64,
    /// Seconds between points.
    step: f64,
    /// Per second, of what came since the last change.
    slope: f64,
    /// Mean of a day, from which the season is the distance.
    level: f64,
    /// Points that it is of.
    taken: u64,
    season: Season,
    counter: Option<Counter>,
    /// Time of the newest point.
    time: i64,
}

impl Series {
    /// Takes in a point. One that is not newer than the newest changes nothing.
    pub(super) fn add(
        &mut self,
        settings: &Settings,
        ranks: &mut Ranks,
        time: i64,
        value: f64,
    ) -> Option<Change> {
        if time <= self.time {
            return None;
        }
        let before = std::mem::replace(&mut self.time, time);
        let value = match &mut self.counter {
            Some(counter) => counter.rate(time, value)?,
            None => value,
        };
        if before != i64::MIN {
            let elapsed = time.saturating_sub(before) as f64 / SECOND as f64;
            let rate = STEP_RATE.max(1.0 / (self.count + 1) as f64);
            // A pause is no step.
            let seen = if self.count > 2 { elapsed.min(4.0 * self.step) } else { elapsed };
            self.step += rate * (seen - self.step);
        }
        self.count += 1;
        if self.points.len() == WINDOW {
            self.points.pop_front();
            self.learned = self.learned.saturating_sub(1);
        }
        self.points.push_back((time, value));
        self.learn(self.points.len().saturating_sub(SETTLED));
        if !self.count.is_multiple_of(LOOK_EVERY)
            || self.points.len() < BEFORE + settings.min_points
        {
            return None;
        }
        self.look(settings, ranks)
    }

    /// Learns mean and season from the points before `until`: later ones may be of a new level, which
    /// is not known yet.
    fn learn(&mut self, until: usize) {
        let day = (86_400.0 / self.step.max(1e-3)).max(1.0);
        for (time, value) in self.points.range(self.learned.min(until)..until) {
            self.taken += 1;
            let n = self.taken as f64;
            self.level += (value - self.level) * (1.0 / n).max(1.0 / day);
            self.season.learn(time.div_euclid(SECOND), self.step, value - self.level, n);
        }
        self.learned = self.learned.max(until);
    }

    /// Points without their season and slope.
    fn rest(&self, settings: &Settings) -> Vec<f64> {
        let newest = self.time;
        let each = self.points.iter().map(|(time, value)| {
            let season = self.season(settings, time.div_euclid(SECOND)).unwrap_or_default();
            let back = (newest - time) as f64 / SECOND as f64;
            value - season + self.slope * back
        });
        each.collect()
    }

    /// What the season adds at a time, between the middles of hours in proportion; `None` if there
    /// is none to be believed.
    fn season(&self, settings: &Settings, seconds: i64) -> Option<f64> {
        let hour = |seconds: i64| match settings.season {
            Mode::None => None,
            mode => self.season.expected(seconds, self.step, mode).filter(|e| e.counts),
        };
        let (before, after) = (hour(seconds - HALF)?.mean, hour(seconds + HALF)?.mean);
        let part = (seconds - HALF).rem_euclid(2 * HALF) as f64 / (2 * HALF) as f64;
        Some(before + part * (after - before))
    }

    fn look(&mut self, settings: &Settings, ranks: &mut Ranks) -> Option<Change> {
        let rest = self.rest(settings);
        let n = rest.len();
        let after = settings.min_points;
        let Kinds { level, variance, trend } = settings.kinds;
        if let Some(split) = ranks.split(&rest, BEFORE, after, settings.least) {
            let at = moved(&rest, split.at, after);
            if !lasts(&rest, at, after) {
                // A burst, or the first points of another level: no other spread either.
                return None;
            }
            let turns = rises(&rest[at..]).abs() >= RISES;
            let kind = if turns { Kind::Trend } else { Kind::Level };
            let change = self.change(kind, &rest, at, split.z);
            let asked = if turns { trend } else { level };
            let seasonal = self.season(settings, self.time.div_euclid(SECOND)).is_some();
            let large = turns || settings.large(&change);
            let large = large && (!seasonal || change.size.abs() >= SEASONAL);
            self.cut(at, &change);
            return (asked && large).then_some(change);
        }
        if variance {
            let middle = median(&mut rest.clone());
            let mut away: Vec<f64> = rest.iter().map(|r| (r - middle).abs()).collect();
            if let Some(split) = ranks.split(&away, BEFORE, after, settings.least) {
                // Another level is far from the middle, too: from its own it is not.
                for side in [0..split.at, split.at..n] {
                    let middle = median(&mut rest[side.clone()].to_vec());
                    side.for_each(|i| away[i] = (rest[i] - middle).abs());
                }
                let split = ranks.split(&away, BEFORE, after, settings.least)?;
                if !lasts(&away, split.at, after) {
                    return None;
                }
                let change = self.change(Kind::Variance, &rest, split.at, split.z);
                self.cut(split.at, &change);
                return Some(change);
            }
        }
        if self.slope != 0.0 && self.step > 0.0 {
            let left = slope(&rest) / self.step;
            let all = n < SLOPE_POINTS;
            self.slope += if all { left } else { CORRECTED * left };
        }
        None
    }

    fn change(&self, kind: Kind, rest: &[f64], at: usize, z: f64) -> Change {
        let side = |values: &[f64], turned: bool| {
            let level = median(&mut values.to_vec());
            let mut away: Vec<f64> = values.iter().map(|v| (v - level).abs()).collect();
            let turn = if turned && self.step > 0.0 { slope(values) / self.step } else { 0.0 };
            Side { level, spread: DEVIATION * median(&mut away), slope: self.slope + turn }
        };
        let (before, after) = (side(&rest[..at], false), side(&rest[at..], kind == Kind::Trend));
        Change {
            kind,
            at: self.points.get(at).map_or(self.time, |(time, _)| *time),
            proved: self.time,
            before,
            after,
            size: size(&before, &after),
            confidence: 1.0 - chance(z, rest.len()),
        }
    }

    /// Goes on with what came after a change.
    fn cut(&mut self, at: usize, change: &Change) {
        self.learn(at);
        self.points.drain(..at);
        self.learned -= at;
        if change.kind == Kind::Trend {
            // A trend that ends is none.
            let values: Vec<f64> = self.points.iter().map(|(_, value)| *value).collect();
            self.slope = if rises(&values).abs() < RISES { 0.0 } else { change.after.slope };
        }
        // A small one may be the season's own: then the mean of a day comes after by itself.
        if change.kind == Kind::Level && change.size.abs() >= SURE {
            self.level += change.after.level - change.before.level;
        }
    }
}

/// By how many deviations two sides differ, at most [`SIZE_MAX`].
fn size(before: &Side, after: &Side) -> f64 {
    let moved = after.level - before.level;
    if moved == 0.0 { 0.0 } else { (moved / before.spread).clamp(-SIZE_MAX, SIZE_MAX) }
}

/// The place near `at` from which on values are nearer to the median after it than to the one
/// before: ranks see whether a value is above the middle of all, not of the two.
fn moved(values: &[f64], at: usize, after: usize) -> usize {
    let before = median(&mut values[..at].to_vec());
    let later = median(&mut values[at..].to_vec());
    let range = at.saturating_sub(MOVED).max(BEFORE)..=(at + MOVED).min(values.len() - after);
    // What is lost if the change is there, against the first place.
    let (mut loss, mut best) = (0.0, (0.0, *range.start()));
    for place in range.clone().skip(1) {
        let value = values[place - 1];
        loss += (value - before).abs() - (value - later).abs();
        if loss < best.0 {
            best = (loss, place);
        }
    }
    best.1
}

/// Whether so many of the values from `at` on are nearer to their median than to the one before:
/// a few that are far off among many that are the same are a burst, however sure ranks are of it.
fn lasts(values: &[f64], at: usize, points: usize) -> bool {
    let before = median(&mut values[..at].to_vec());
    let after = median(&mut values[at..].to_vec());
    let new = values[at..].iter().filter(|v| (**v - after).abs() < (**v - before).abs());
    new.count() >= points
}

impl known::Series for Series {
    const SAVED_MIN: usize = 600;

    fn new(identity: &Identity<'_>) -> Self {
        Self {
            entity: identity.entity(),
            points: VecDeque::new(),
            learned: 0,
            count: 0,
            step: 0.0,
            slope: 0.0,
            level: 0.0,
            taken: 0,
            season: Season::new(),
            counter: identity.is_counter().then(Counter::default),
            time: i64::MIN,
        }
    }

    fn time(&self) -> i64 {
        self.time
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_entity(out, &self.entity);
        put_u64(out, self.points.len() as u64);
        for (time, value) in &self.points {
            put_u64(out, *time as u64);
            put_f64(out, *value);
        }
        put_u64(out, self.learned as u64);
        put_u64(out, self.count);
        [self.step, self.slope, self.level].iter().for_each(|n| put_f64(out, *n));
        put_u64(out, self.taken);
        self.season.put(out);
        put_u64(out, self.time as u64);
        out.push(u8::from(self.counter.is_some()));
        if let Some(counter) = &self.counter {
            counter.put(out);
        }
    }

    fn get(bytes: &mut &[u8]) -> Option<Self> {
        let entity = Arc::new(get_entity(bytes)?);
        let count = usize::try_from(get_u64(bytes)?).ok().filter(|n| *n <= WINDOW)?;
        let mut points = VecDeque::with_capacity(count);
        for _ in 0..count {
            points.push_back((get_u64(bytes)? as i64, get_f64(bytes)?));
        }
        Some(Self {
            entity,
            learned: usize::try_from(get_u64(bytes)?).ok().filter(|n| *n <= points.len())?,
            points,
            count: get_u64(bytes)?,
            step: get_f64(bytes)?,
            slope: get_f64(bytes)?,
            level: get_f64(bytes)?,
            taken: get_u64(bytes)?,
            season: Season::get(bytes)?,
            time: get_u64(bytes)? as i64,
            counter: match get_u8(bytes)? {
                0 => None,
                _ => Some(Counter::get(bytes)?),
            },
        })
    }
}
