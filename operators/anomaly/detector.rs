//! One series: what it is expected to be, how far from that it has been, and whether a point is
//! news.

use super::level::{Extreme, Mean};
use super::season::{self, Mode, Season};
use super::shape::{Nearest, Point, Shapes};
use crate::codec::{get_f64, get_u64, put_f64, put_u64};

/// Points of the means of the running level: some, and four and sixteen times as many.
const FAST_POINTS: u64 = 4;
const MIDDLE_POINTS: u64 = 16;
const SLOW_POINTS: u64 = 64;

/// Points of the long-run mean, which a new level becomes within.
pub(super) const LONG_POINTS: f64 = 1_000.0;
const LONG: f64 = 1.0 / LONG_POINTS;

/// The memory of extremes loses `1 / (n + EARLY)` of its sum with point `n`, but no less than
/// `1 / LIFE`: a series is judged by about as much past as it has, a few weeks at 1 min to 5 min.
const EARLY: f64 = 1_000.0;
const LIFE: f64 = 20_000.0;

/// Evidence counts for `n / (n + WARM_UP)` of itself: with few points much is new. Half a day of
/// 5 minutes.
pub(super) const WARM_UP: f64 = 144.0;

/// Times its mean that a deviation is at least to be an extreme: 5.6 standard deviations of a
/// normal distribution, of which either side has 0.4 as its mean. News begins at 0.77 of it.
const USUAL: f64 = 14.0;

/// Points after news within which only what is larger is news again, clearly larger if the first
/// was news indeed.
const REST: u64 = 120;
const LARGER: f64 = 1.2;

/// Surprise from which on news is news indeed.
const TELLING: f64 = 0.8 * HALF;

/// Points after an alert within which there is none: what an event still stirs up is the same one.
const QUIET: u64 = 2 * REST;

/// Surprise at which the score is one half.
const HALF: f64 = 0.74;

/// Steps without points after which the short means start anew: what changed meanwhile is not a
/// sudden change. Twice the fastest mean; from 3 to 9 it makes little difference.
const GAP: f64 = 8.0;

/// A series that is this many times its mean distance from the long-run mean when an event is over
/// has a new level: the event goes on until the mean has come after.
const SHIFTED: f64 = 3.0;

/// Rate at which the step between points is followed.
const STEP_RATE: f64 = 0.05;

/// Ratio to the extreme beyond which it makes no difference.
const RATIO_MAX: f64 = 20.0;

const NANOS: f64 = 1e9;

/// What the operator was told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) season: Mode,
    pub(super) above: bool,
    pub(super) below: bool,
    /// Deviations below this, or below this share of the long-run mean, are none.
    pub(super) min_absolute: f64,
    pub(super) min_relative: f64,
    pub(super) threshold: f64,
}

/// Which part of a series deviated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The point, from the long-run mean.
    Value,
    /// The mean of 16 points, from that of 64.
    Level,
    /// The mean of 64 points, from the long-run mean.
    Trend,
    /// The mean of 4 points, from that of the 16 before.
    Change,
    /// The point, from what the hour of the day lets expect.
    Season,
    /// Level, change and point together are unlike anything seen.
    Shape,
}

impl Part {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Level => "level",
            Self::Trend => "trend",
            Self::Change => "change",
            Self::Season => "season",
            Self::Shape => "shape",
        }
    }
}

/// Deviations that are kept apart, up then down.
const KINDS: [(Part, bool); 11] = [
    (Part::Value, true),
    (Part::Value, false),
    (Part::Level, true),
    (Part::Level, false),
    (Part::Trend, true),
    (Part::Trend, false),
    (Part::Change, true),
    (Part::Change, false),
    (Part::Season, true),
    (Part::Season, false),
    (Part::Shape, true),
];

const VALUE: usize = 0;
const SEASON: usize = 8;
const SHAPE: usize = 10;

/// Points since a pause that the deviation of each kind takes to be one of a mean again: before,
/// it is as noisy as a point, and neither news nor a measure of what comes later.
const SETTLED: [u64; KINDS.len()] = {
    let mut points = [0; KINDS.len()];
    let mut kind = 0;
    while kind < KINDS.len() {
        points[kind] = match KINDS[kind].0 {
            Part::Value | Part::Season => 0,
            Part::Change => FAST_POINTS,
            Part::Level | Part::Shape => MIDDLE_POINTS,
            Part::Trend => SLOW_POINTS,
        };
        kind += 1;
    }
    points
};

/// What is said of one point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) score: f64,
    pub(super) expected: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) part: Option<Part>,
    /// The first point of an event.
    pub(super) alert: bool,
    /// Points seen with this one.
    pub(super) points: u64,
}

/// The state of one series.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Detector {
    points: u64,
    /// Of the newest point, in nanoseconds.
    time: i64,
    /// Points since the short means last started.
    running: u64,
    /// Seconds between points.
    step: f64,
    fast: Mean,
    middle: Mean,
    slow: Mean,
    long: Mean,
    /// Mean distance from the long-run mean.
    spread: Mean,
    extremes: [Extreme; KINDS.len()],
    /// Largest surprise of the last news and when it came, in points.
    surprise: f64,
    since: u64,
    /// Point at which the last news turned out to be a new level; 0: it did not.
    shifted: u64,
    /// Point of the last alert; 0: none.
    alerted: u64,
    season: Season,
    shapes: Shapes,
}

/// A point on its way in: what the state becomes if it is taken, and how far it deviates.
struct Incoming {
    n: f64,
    running: u64,
    step: f64,
    fast: Mean,
    middle: Mean,
    slow: Mean,
    long: Mean,
    spread: Mean,
    deviations: [f64; KINDS.len()],
    /// Which kinds are means of as many points as they should be, and which are to be believed.
    settled: [bool; KINDS.len()],
    counts: [bool; KINDS.len()],
    /// Expected distance to the long-run mean, and what the season's deviations are divided by.
    season: Option<(f64, f64)>,
    shape: Point,
    nearest: Option<Nearest>,
}

impl Detector {
    pub(super) fn new() -> Self {
        Self {
            points: 0,
            time: i64::MIN,
            running: 0,
            step: 0.0,
            fast: Mean::default(),
            middle: Mean::default(),
            slow: Mean::default(),
            long: Mean::default(),
            spread: Mean::default(),
            extremes: [Extreme::default(); KINDS.len()],
            surprise: 0.0,
            since: 0,
            shifted: 0,
            alerted: 0,
            season: Season::new(),
            shapes: Shapes::default(),
        }
    }

    /// Scores a finite value, and learns from it if it is to.
    pub(super) fn score(
        &mut self,
        time: i64,
        value: f64,
        learn: bool,
        settings: &Settings,
    ) -> Verdict {
        let incoming = self.incoming(time, value, settings);
        let (surprise, part) = self.surprise(&incoming, settings);
        let resting = self.since > 0 && self.points - self.since < REST;
        let held = self.surprise * if self.surprise < TELLING { 1.0 } else { LARGER };
        let news = surprise > if resting { held } else { 0.0 };
        let score = if news { score_of(surprise) } else { 0.0 };
        let mut verdict = self.verdict(&incoming, settings);
        verdict.score = score;
        verdict.part = part.filter(|_| score > 0.0);
        verdict.points = self.points + u64::from(learn);
        if learn {
            if news {
                (self.surprise, self.since) = (surprise, verdict.points);
            }
            let quiet = self.alerted == 0 || verdict.points - self.alerted >= QUIET;
            verdict.alert = score >= settings.threshold && quiet;
            if verdict.alert {
                self.alerted = verdict.points;
            }
            self.learn(time, incoming);
        }
        verdict
    }

    /// Looks at a point without taking it.
    fn incoming(&self, time: i64, value: f64, settings: &Settings) -> Incoming {
        let n = (self.points + 1) as f64;
        let elapsed = (time.saturating_sub(self.time)) as f64 / NANOS;
        let step = match self.points {
            0 => 0.0,
            1 => elapsed,
            _ => self.step + STEP_RATE * (elapsed.min(2.0 * self.step) - self.step),
        };
        let apart = self.points > 0 && elapsed > GAP * self.step.max(1e-9) && self.points > 1;
        let running = if apart { 1 } else { self.running + 1 };
        let after = |mean: Mean, points: u64| mean.with(value, 1.0 / points as f64, running as f64);
        let fast = after(self.fast, FAST_POINTS);
        let middle = after(self.middle, MIDDLE_POINTS);
        let slow = after(self.slow, SLOW_POINTS);
        let before = if apart || self.points == 0 { value } else { self.middle.0 };
        // Against the mean as it was: a point must not vouch for itself.
        let mean = if self.points == 0 { value } else { self.long.0 };
        let distance = value - mean;
        let spread = self.spread.with(distance.abs(), LONG, n);
        let mut deviations = [0.0; KINDS.len()];
        let anew = running <= self.points;
        let settled = SETTLED.map(|points| !anew || running > points);
        let mut counts = settled;
        let from = [distance, middle.0 - slow.0, slow.0 - mean, fast.0 - before];
        for (kind, from) in from.into_iter().enumerate() {
            (deviations[2 * kind], deviations[2 * kind + 1]) = (from.max(0.0), (-from).max(0.0));
        }
        let expected = self.season.expected(seconds(time), step, settings.season);
        let season = expected.map(|e| {
            let off = (distance - e.mean) / e.spread;
            (deviations[SEASON], deviations[SEASON + 1]) = (off.max(0.0), (-off).max(0.0));
            (e.mean, e.spread)
        });
        // Every hour must have been seen since the mean came after.
        let taken = LONG_POINTS + season::per_day(step);
        let moving = self.shifted > 0 && ((self.points - self.shifted) as f64) < taken;
        let counted = expected.is_some_and(|e| e.counts && e.seen) && !moving;
        (counts[SEASON], counts[SEASON + 1]) = (counted, counted);
        let unit = spread.0.max(f64::MIN_POSITIVE);
        let shape = [fast.0 - mean, fast.0 - middle.0, value - fast.0].map(|d| (d / unit) as f32);
        let nearest = self.shapes.nearest(&shape);
        deviations[SHAPE] = nearest.map_or(0.0, |near| f64::from(near.distance) * unit);
        let long = self.long.with(value, LONG, n);
        let season = season.filter(|_| counted);
        Incoming {
            n,
            running,
            step,
            fast,
            middle,
            slow,
            long,
            spread,
            deviations,
            settled,
            counts,
            season,
            shape,
            nearest,
        }
    }

    /// The least deviation that counts: also a share of the largest that the series had, so that
    /// what a mean of it still shows later is nothing.
    fn least(&self, settings: &Settings) -> f64 {
        let largest = self.extremes[VALUE].get(0.0).max(self.extremes[VALUE + 1].get(0.0));
        settings.min_absolute.max(settings.min_relative * self.long.0.abs().max(largest))
    }

    /// What a deviation of this kind is measured by.
    fn extreme(&self, kind: usize) -> f64 {
        self.extremes[kind].get(USUAL)
    }

    /// How much of a surprise a point is, and by which part of it: 1 is as far out as ever.
    fn surprise(&self, incoming: &Incoming, settings: &Settings) -> (f64, Option<Part>) {
        let least = self.least(settings);
        let above = incoming.fast.0 >= self.long.0;
        let (mut best, mut part) = (0.0, None);
        for (kind, &(of, up)) in KINDS.iter().enumerate() {
            let up = if of == Part::Shape { above } else { up };
            let wanted = if up { settings.above } else { settings.below };
            let deviation = incoming.deviations[kind];
            if !incoming.counts[kind] || !wanted || deviation <= least {
                continue;
            }
            let ratio = deviation / self.extreme(kind).max(least);
            if ratio > best {
                (best, part) = (ratio, Some(of));
            }
        }
        if self.points < 2 || best <= 0.0 {
            return (0.0, None);
        }
        let surprise = 1.0 + best.min(RATIO_MAX).ln();
        (surprise.max(0.0) * incoming.n / (incoming.n + WARM_UP), part)
    }

    /// What was expected, and within which bounds a point alone would not have been news.
    fn verdict(&self, incoming: &Incoming, settings: &Settings) -> Verdict {
        let mean = if self.points == 0 { incoming.fast.0 } else { self.long.0 };
        let least = self.least(settings);
        let warm = incoming.n / (incoming.n + WARM_UP);
        let ratio = (surprise_of(settings.threshold) / warm - 1.0).min(RATIO_MAX.ln()).exp();
        let bound = |kind: usize, unit: f64| {
            ratio * (self.extreme(kind).max(least / unit) * unit).max(least)
        };
        let mut low = mean - bound(VALUE + 1, 1.0);
        let mut high = mean + bound(VALUE, 1.0);
        let mut expected = mean;
        if let Some((season, unit)) = incoming.season {
            expected = mean + season;
            low = low.max(expected - bound(SEASON + 1, unit));
            high = high.min(expected + bound(SEASON, unit));
        }
        let (low, high) = (low.min(expected), high.max(expected));
        Verdict { score: 0.0, expected, low, high, part: None, alert: false, points: 0 }
    }

    fn learn(&mut self, time: i64, incoming: Incoming) {
        let Incoming { n, step, fast, middle, slow, long, spread, deviations, .. } = incoming;
        let loss = 1.0 / (n + EARLY).min(LIFE);
        for (kind, extreme) in self.extremes.iter_mut().enumerate() {
            if incoming.settled[kind] {
                extreme.learn(deviations[kind], loss);
            }
        }
        if self.points > 1 {
            let distance = deviations[VALUE] - deviations[VALUE + 1];
            self.season.learn(seconds(time), step, distance, n);
            self.shapes.learn(&incoming.shape, incoming.nearest, self.points as u32);
        }
        self.points += 1;
        (self.time, self.running, self.step) = (time, incoming.running, step);
        (self.fast, self.middle, self.slow) = (fast, middle, slow);
        (self.long, self.spread) = (long, spread);
        let over = self.since > 0 && self.points - self.since == REST;
        if over && (slow.0 - long.0).abs() > SHIFTED * spread.0 {
            self.shifted = self.points;
        }
    }

    /// Appends the state.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.points);
        put_u64(out, self.time as u64);
        put_u64(out, self.running);
        put_f64(out, self.step);
        let means = [self.fast, self.middle, self.slow, self.long, self.spread];
        means.iter().for_each(|m| put_f64(out, m.0));
        self.extremes.iter().for_each(|e| e.put(out));
        put_f64(out, self.surprise);
        put_u64(out, self.since);
        put_u64(out, self.alerted);
        put_u64(out, self.shifted);
        self.season.put(out);
        self.shapes.put(out);
    }

    /// The inverse of [`Self::put`].
    pub(super) fn get(bytes: &mut &[u8]) -> Option<Self> {
        let (points, time) = (get_u64(bytes)?, get_u64(bytes)? as i64);
        let (running, step) = (get_u64(bytes)?, get_f64(bytes)?);
        let mut restored = Self { points, time, running, step, ..Self::new() };
        let Self { fast, middle, slow, long, spread, .. } = &mut restored;
        for mean in [fast, middle, slow, long, spread] {
            mean.0 = get_f64(bytes)?;
        }
        for extreme in &mut restored.extremes {
            *extreme = Extreme::get_from(bytes)?;
        }
        restored.surprise = get_f64(bytes)?;
        (restored.since, restored.alerted) = (get_u64(bytes)?, get_u64(bytes)?);
        restored.shifted = get_u64(bytes)?;
        restored.season = Season::get(bytes)?;
        restored.shapes = Shapes::get(bytes)?;
        Some(restored)
    }
}

fn seconds(time: i64) -> i64 {
    time.div_euclid(1_000_000_000)
}

/// The score of a surprise, from 0 to 1: one half at [`HALF`].
fn score_of(surprise: f64) -> f64 {
    let [s, h] = [surprise, HALF].map(|x| (x * x) * (x * x));
    s / (s + h)
}

/// The inverse of [`score_of`].
fn surprise_of(score: f64) -> f64 {
    HALF * (score / (1.0 - score).max(f64::EPSILON)).sqrt().sqrt()
}
