//! Cumulative series: their latest samples in order of time, and what each adds to the one before.

use std::collections::VecDeque;

use hashbrown::HashMap;

use weir_pipeline::expression::histogram::{Counts, Histogram};

use super::groups::{NONE, Target};

/// Weight of the samples of all series, of 32 bytes each: 320 MB.
const WEIGHT_MAX: usize = 10_000_000;

/// A value of a series.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A double, and what a whole number is more than it.
    Number(f64, i16),
    Histogram(Box<Histogram>),
}

impl Value {
    /// A whole number, exactly.
    pub(super) fn whole(int: i64) -> Self {
        let double = int as f64;
        // At most half the distance of neighbouring doubles below 2^63, which is 512.
        Self::Number(double, (i128::from(int) - double as i128) as i16)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) time: i64,
    /// Since when the sender counts; `i64::MIN` if it does not say.
    pub(super) start: i64,
    pub(super) value: Value,
}

/// What is added to a group.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Number(f64),
    Histogram(Box<Histogram>),
}

impl Sample {
    /// Memory that it takes, in units of 32 bytes: a bucket in a tree takes about one.
    fn weight(&self) -> usize {
        match &self.value {
            Value::Number(..) => 1,
            Value::Histogram(h) => match &h.counts {
                Counts::Explicit(counts) => 5 + counts.len() / 4,
                Counts::Exponential { positive, negative, .. } => {
                    5 + positive.len() + negative.len()
                }
            },
        }
    }

    /// What it counts more than `before`; nothing without one, or after `idle` without samples.
    fn increase(&self, before: Option<&Self>, idle: i64) -> Option<Change> {
        let before = before.filter(|b| self.time.saturating_sub(b.time) <= idle)?;
        // A start at the sample itself is how senders say that they do not know it.
        let anew = self.start > before.time && self.start < self.time;
        Some(match (&self.value, &before.value) {
            (Value::Number(own, rest), Value::Number(last, last_rest)) => {
                let fell = (own, rest) < (last, last_rest);
                Change::Number(match anew || fell {
                    true => own + f64::from(*rest),
                    false => (own - last) + f64::from(rest - last_rest),
                })
            }
            (Value::Histogram(own), Value::Histogram(last)) => {
                let since = if anew { None } else { own.since(last) };
                Change::Histogram(since.map_or_else(
                    || Box::new(Histogram { range: None, ..(**own).clone() }),
                    Box::new,
                ))
            }
            // A series that has become another begins.
            _ => return None,
        })
    }
}

/// What `after` adds to `before`, if anything.
fn difference(after: Option<Change>, before: Option<Change>) -> Option<Change> {
    let number = |change: &Option<Change>| match change {
        Some(Change::Number(n)) => *n,
        _ => 0.0,
    };
    match (after, before) {
        (Some(Change::Histogram(mut after)), Some(Change::Histogram(before))) => {
            after.add(&before, -1);
            (!after.is_nothing()).then_some(Change::Histogram(after))
        }
        (None, Some(Change::Histogram(before))) => Some(Change::Histogram(before.negated().into())),
        (Some(Change::Histogram(after)), _) => Some(Change::Histogram(after)),
        (after, before) => {
            let change = number(&after) - number(&before);
            (change != 0.0).then_some(Change::Number(change))
        }
    }
}

/// The samples of one series.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) fingerprint: u128,
    pub(super) group: u32,
    /// Before this its samples are not known any more.
    pub(super) floor: i64,
    pub(super) samples: VecDeque<Sample>,
}

/// What a sample that comes changes.
pub(super) enum Effect {
    /// The series has one of this time.
    Known,
    /// What was there at the time is not known any more.
    Late,
    /// To be put in at this index.
    New { at: usize, own: Option<Change>, next: Option<(i64, Change)> },
}

impl Series {
    /// What a sample would change: its own step, and that of the next sample, of this time.
    pub(super) fn effect(&self, sample: &Sample, idle: i64) -> Effect {
        if sample.time < self.floor {
            return Effect::Late;
        }
        let at = match self.samples.back() {
            Some(last) if last.time >= sample.time => {
                self.samples.partition_point(|s| s.time <= sample.time)
            }
            _ => self.samples.len(),
        };
        let before = at.checked_sub(1).and_then(|i| self.samples.get(i));
        if before.is_some_and(|b| b.time == sample.time) {
            return Effect::Known;
        }
        let next = self.samples.get(at).and_then(|next| {
            let change =
                difference(next.increase(Some(sample), idle), next.increase(before, idle))?;
            Some((next.time, change))
        });
        Effect::New { at, own: sample.increase(before, idle), next }
    }

    /// Lets go of the oldest sample. Gives its weight.
    fn shorten(&mut self) -> usize {
        self.samples.pop_front().map_or(0, |s| s.weight())
    }

    fn weight(&self) -> usize {
        self.samples.iter().map(Sample::weight).sum()
    }

    fn newest(&self) -> i64 {
        self.samples.back().map_or(i64::MIN, |s| s.time)
    }
}

/// All cumulative series.
#[derive(Debug, Default)]
pub(super) struct AllSeries {
    pub(super) all: Vec<Series>,
    numbers: HashMap<u128, u32>,
    /// Weight of the samples of all.
    weight: usize,
    /// Horizon at which silent ones were let go.
    pub(super) swept: Option<i64>,
}

impl AllSeries {
    /// The number of the series of a target, which is new if need be.
    ///
    /// # Errors
    /// If there are `limit` others.
    pub(super) fn find(
        &mut self,
        target: &mut Target,
        horizon: i64,
        idle: i64,
        limit: usize,
    ) -> Result<usize, &'static str> {
        let is = |s: &Series| s.fingerprint == target.fingerprint;
        if self.all.get(target.series as usize).is_some_and(is) {
            return Ok(target.series as usize);
        }
        if let Some(number) = self.numbers.get(&target.fingerprint) {
            target.series = *number;
            return Ok(*number as usize);
        }
        if self.all.len() >= limit && self.swept != Some(horizon) {
            self.sweep(horizon, idle);
        }
        if self.all.len() >= limit {
            return Err("there are `max_series` other cumulative series");
        }
        let number = self.all.len();
        self.add(Series {
            fingerprint: target.fingerprint,
            group: target.group,
            floor: i64::MIN,
            samples: VecDeque::new(),
        });
        target.series = number as u32;
        Ok(number)
    }

    /// Takes a series over.
    pub(super) fn add(&mut self, series: Series) {
        self.weight += series.weight();
        self.numbers.insert(series.fingerprint, self.all.len() as u32);
        self.all.push(series);
    }

    /// Puts a sample in, and lets go of those that nothing before `horizon` needs.
    pub(super) fn insert(&mut self, number: usize, at: usize, sample: Sample, horizon: i64) {
        let Some(series) = self.all.get_mut(number) else { return };
        self.weight += sample.weight();
        series.samples.insert(at, sample);
        // The last before the horizon is what the first after it is compared with.
        while series.samples.get(1).is_some_and(|s| s.time < horizon) {
            self.weight -= series.shorten();
        }
        while self.weight > WEIGHT_MAX && series.samples.len() > 1 {
            self.weight -= series.shorten();
            series.floor = series.samples.front().map_or(i64::MIN, |s| s.time);
        }
    }

    /// Lets go of series whose next sample would be a first one anyway.
    pub(super) fn sweep(&mut self, horizon: i64, idle: i64) {
        self.swept = Some(horizon);
        let oldest = horizon.saturating_sub(idle);
        let before = self.all.len();
        self.all.retain(|s| s.newest() >= oldest);
        if self.all.len() == before {
            return;
        }
        self.weight = self.all.iter().map(Series::weight).sum();
        self.numbers.clear();
        self.numbers.extend(self.all.iter().map(|s| s.fingerprint).zip(0..NONE));
    }
}
