//! The state of a rollup as bytes: groups by their attributes, in the order of their fingerprints,
//! and what refers to them by their number in it.

use std::collections::{BTreeMap, VecDeque};

use weir_pipeline::expression::histogram::{Buckets, Counts, Histogram};
use weir_pipeline::expression::sketch::Sketch;

use super::groups::Groups;
use super::operator::Rollup;
use super::series::{AllSeries, Sample, Series, Value};
use super::windows::{Held, MADE, Step, Windows};
use crate::codec::{get, get_entity, get_u8, get_u64, put, put_entity, put_u64};

const VERSION: u8 = 1;

fn put_f64(out: &mut Vec<u8>, value: f64) {
    put_u64(out, value.to_bits());
}

fn get_f64(bytes: &mut &[u8]) -> Option<f64> {
    get_u64(bytes).map(f64::from_bits)
}

fn get_i64(bytes: &mut &[u8]) -> Option<i64> {
    get_u64(bytes).map(|n| n as i64)
}

fn put_option(out: &mut Vec<u8>, value: Option<i64>) {
    out.push(u8::from(value.is_some()));
    put_u64(out, value.unwrap_or_default() as u64);
}

fn get_option(bytes: &mut &[u8]) -> Option<Option<i64>> {
    let some = get_u8(bytes)? == 1;
    let value = get_i64(bytes)?;
    Some(some.then_some(value))
}

fn put_buckets(out: &mut Vec<u8>, buckets: &Buckets) {
    put_u64(out, buckets.len() as u64);
    for (at, count) in buckets {
        put_u64(out, *at as u64);
        put_u64(out, *count as u64);
    }
}

fn get_buckets(bytes: &mut &[u8]) -> Option<Buckets> {
    let mut buckets = Buckets::new();
    for _ in 0..get_u64(bytes)? {
        buckets.insert(get_i64(bytes)?, get_i64(bytes)?);
    }
    Some(buckets)
}

fn put_histogram(out: &mut Vec<u8>, histogram: &Histogram) {
    put_u64(out, histogram.count as u64);
    put_f64(out, histogram.sum);
    out.push(u8::from(histogram.range.is_some()));
    let (low, high) = histogram.range.unwrap_or_default();
    put_f64(out, low);
    put_f64(out, high);
    match &histogram.counts {
        Counts::Explicit(counts) => {
            out.push(0);
            put_u64(out, counts.len() as u64);
            counts.iter().for_each(|count| put_u64(out, *count as u64));
        }
        Counts::Exponential { scale, zero, threshold, positive, negative } => {
            out.push(1);
            put_u64(out, *scale as u64);
            put_u64(out, *zero as u64);
            put_f64(out, *threshold);
            put_buckets(out, positive);
            put_buckets(out, negative);
        }
    }
}

fn get_histogram(bytes: &mut &[u8]) -> Option<Histogram> {
    let (count, sum) = (get_i64(bytes)?, get_f64(bytes)?);
    let some = get_u8(bytes)? == 1;
    let range = (get_f64(bytes)?, get_f64(bytes)?);
    let counts = match get_u8(bytes)? {
        0 => {
            let mut counts = Vec::new();
            for _ in 0..get_u64(bytes)? {
                counts.push(get_i64(bytes)?);
            }
            Counts::Explicit(counts)
        }
        _ => Counts::Exponential {
            scale: get_i64(bytes)?,
            zero: get_i64(bytes)?,
            threshold: get_f64(bytes)?,
            positive: get_buckets(bytes)?,
            negative: get_buckets(bytes)?,
        },
    };
    Some(Histogram { count, sum, range: some.then_some(range), counts })
}

fn put_sample(out: &mut Vec<u8>, sample: &Sample) {
    put_u64(out, sample.time as u64);
    put_u64(out, sample.start as u64);
    match &sample.value {
        Value::Number(value, rest) => {
            out.push(0);
            put_f64(out, *value);
            out.extend(rest.to_le_bytes());
        }
        Value::Histogram(histogram) => {
            out.push(1);
            put_histogram(out, histogram);
        }
    }
}

fn get_sample(bytes: &mut &[u8]) -> Option<Sample> {
    let (time, start) = (get_i64(bytes)?, get_i64(bytes)?);
    let value = match get_u8(bytes)? {
        0 => {
            let value = get_f64(bytes)?;
            let (rest, tail) = bytes.split_first_chunk::<2>()?;
            *bytes = tail;
            Value::Number(value, i16::from_le_bytes(*rest))
        }
        _ => Value::Histogram(Box::new(get_histogram(bytes)?)),
    };
    Some(Sample { time, start, value })
}

fn put_held(out: &mut Vec<u8>, held: &Held) {
    out.push(MADE.iter().position(|m| *m == held.made).unwrap_or_default() as u8);
    put_u64(out, held.count as u64);
    [held.sum, held.min, held.max, held.last].iter().for_each(|v| put_f64(out, *v));
    put_u64(out, held.last_time as u64);
    put_option(out, held.increase.map(|v| v.to_bits() as i64));
    out.push(u8::from(held.histogram.is_some()));
    held.histogram.iter().for_each(|h| put_histogram(out, h));
    out.push(u8::from(held.sketch.is_some()));
    held.sketch.iter().for_each(|s| put(out, &s.to_bytes()));
}

fn get_held(bytes: &mut &[u8]) -> Option<Held> {
    let made = *MADE.get(usize::from(get_u8(bytes)?))?;
    let mut held = Held { count: get_i64(bytes)?, ..Held::new(made) };
    for value in [&mut held.sum, &mut held.min, &mut held.max, &mut held.last] {
        *value = get_f64(bytes)?;
    }
    held.last_time = get_i64(bytes)?;
    held.increase = get_option(bytes)?.map(|bits| f64::from_bits(bits as u64));
    if get_u8(bytes)? == 1 {
        held.histogram = Some(Box::new(get_histogram(bytes)?));
    }
    if get_u8(bytes)? == 1 {
        held.sketch = Some(Box::new(Sketch::from_bytes(get(bytes)?).ok()?));
    }
    Some(held)
}

/// Steps, whose groups have these numbers.
fn put_steps(out: &mut Vec<u8>, steps: &BTreeMap<i64, Step>, numbers: &[u32]) {
    put_u64(out, steps.len() as u64);
    for (start, step) in steps {
        put_u64(out, *start as u64);
        let all = step.groups.iter().map(|group| numbers[*group as usize]).zip(&step.held);
        let mut all: Vec<(u32, &Held)> = all.collect();
        all.sort_unstable_by_key(|(group, _)| *group);
        put_u64(out, all.len() as u64);
        for (group, held) in all {
            put_u64(out, u64::from(group));
            put_held(out, held);
        }
    }
}

fn get_steps(bytes: &mut &[u8], groups: usize) -> Option<BTreeMap<i64, Step>> {
    let mut steps = BTreeMap::new();
    for _ in 0..get_u64(bytes)? {
        let start = get_i64(bytes)?;
        let mut step = Step::default();
        for _ in 0..get_u64(bytes)? {
            let group = get_u64(bytes).filter(|group| *group < groups as u64)? as u32;
            step.add(group, get_held(bytes)?, groups);
        }
        steps.insert(start, step);
    }
    Some(steps)
}

impl Rollup {
    /// The state as bytes. Groups that nothing refers to are not in it.
    pub(super) fn save(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        let steps = self.windows.open.values().chain(self.windows.corrections.values());
        let used = steps.flat_map(|step| step.groups.iter().copied());
        let mut used: Vec<u32> = used.chain(self.series.all.iter().map(|s| s.group)).collect();
        used.sort_unstable();
        used.dedup();
        used.sort_unstable_by_key(|group| self.groups.entity(*group).fingerprint());
        let mut numbers = vec![0; self.groups.len()];
        put_u64(&mut out, used.len() as u64);
        for (group, number) in used.iter().zip(0..) {
            numbers[*group as usize] = number;
            put_entity(&mut out, self.groups.entity(*group));
        }
        put_option(&mut out, self.windows.until);
        put_option(&mut out, self.due);
        put_option(&mut out, self.series.swept);
        put_steps(&mut out, &self.windows.open, &numbers);
        put_steps(&mut out, &self.windows.corrections, &numbers);
        let mut series: Vec<&Series> = self.series.all.iter().collect();
        series.sort_unstable_by_key(|s| s.fingerprint);
        put_u64(&mut out, series.len() as u64);
        for series in series {
            out.extend(series.fingerprint.to_le_bytes());
            put_u64(&mut out, u64::from(numbers[series.group as usize]));
            put_u64(&mut out, series.floor as u64);
            put_u64(&mut out, series.samples.len() as u64);
            series.samples.iter().for_each(|sample| put_sample(&mut out, sample));
        }
        out
    }

    /// The inverse of [`Rollup::save`]; `None` if the bytes are something else.
    pub(super) fn load(&mut self, state: &[u8]) -> Option<()> {
        let (version, mut bytes) = state.split_first()?;
        let bytes = &mut bytes;
        if *version != VERSION {
            return None;
        }
        let mut groups = Groups::default();
        for number in 0..get_u64(bytes)? {
            if u64::from(groups.number(get_entity(bytes)?)) != number {
                return None;
            }
        }
        let until = get_option(bytes)?;
        let due = get_option(bytes)?;
        let mut series = AllSeries::default();
        series.swept = get_option(bytes)?;
        let open = get_steps(bytes, groups.len())?;
        let corrections = get_steps(bytes, groups.len())?;
        for _ in 0..get_u64(bytes)? {
            let (fingerprint, rest) = bytes.split_first_chunk::<16>()?;
            let fingerprint = u128::from_le_bytes(*fingerprint);
            *bytes = rest;
            let group = get_u64(bytes).filter(|group| *group < groups.len() as u64)? as u32;
            let floor = get_i64(bytes)?;
            let mut samples = VecDeque::new();
            for _ in 0..get_u64(bytes)? {
                samples.push_back(get_sample(bytes)?);
            }
            series.add(Series { fingerprint, group, floor, samples });
        }
        if !bytes.is_empty() {
            return None;
        }
        (self.groups, self.series, self.due) = (groups, series, due);
        self.windows = Windows { open, corrections, until };
        Some(())
    }
}
