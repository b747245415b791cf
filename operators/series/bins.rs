//! The recent past of a series as means over steps of time.
//!
//! Bins are aligned to the UTC epoch. A late point counts in its bin as long as that is kept; the
//! newest bin is open until a point of a later one comes. Counters come as their increase per
//! second, and late points of theirs are left out: what they rose by is in the point after.

use std::collections::VecDeque;

use super::counter::Counter;
use super::known::Identity;
use crate::codec::{get_u8, get_u64, put_u64};

/// Bytes of a bin, and of its mean: a double without the 16 lowest bits, which is 11 digits.
const SAVED: usize = MEAN + size_of::<u16>();
const MEAN: usize = 6;
/// What those bits are together.
const LOW: u64 = 1 << 16;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bin {
    /// 0 without points.
    mean: [u8; MEAN],
    /// As far as it is counted: later points of a bin of so many move its mean by no less.
    count: u16,
}

impl Bin {
    fn mean(&self) -> f64 {
        let [a, b, c, d, e, f] = self.mean;
        f64::from_le_bytes([0, 0, a, b, c, d, e, f])
    }

    fn add(&mut self, value: f64) {
        self.count = self.count.saturating_add(1);
        let mean = self.mean();
        let mean = mean + (value - mean) / f64::from(self.count);
        // To the nearest; the largest values are far from where that would not be finite.
        let [_, _, kept @ ..] = (mean.to_bits() + LOW / 2).to_le_bytes();
        self.mean = kept;
    }
}

/// Bins of one series, without a gap from the first to the newest.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Bins {
    /// Number of the newest one: its start divided by the step.
    newest: i64,
    bins: VecDeque<Bin>,
    counter: Option<Counter>,
}

impl Bins {
    pub(crate) fn new(identity: &Identity<'_>) -> Self {
        Self { counter: identity.is_counter().then(Counter::default), ..Self::default() }
    }

    /// Takes in a point; at most `max` bins of `step` nanoseconds are kept.
    pub(crate) fn add(&mut self, step: i64, max: usize, time: i64, value: f64) {
        let value = match &mut self.counter {
            Some(counter) => counter.rate(time, value),
            None => Some(value),
        };
        if let (Some(value), Some(bin)) = (value, self.bin(time.div_euclid(step), max)) {
            bin.add(value);
        }
    }

    /// The bin of this number, if it is kept.
    fn bin(&mut self, number: i64, max: usize) -> Option<&mut Bin> {
        if self.bins.is_empty() {
            self.newest = number;
            self.bins.push_back(Bin::default());
        }
        let ahead = number.saturating_sub(self.newest);
        if ahead > 0 {
            if ahead >= max as i64 {
                self.bins.clear();
            }
            let new = if self.bins.is_empty() { 1 } else { ahead as usize };
            self.bins.extend(std::iter::repeat_n(Bin::default(), new));
            let over = self.bins.len().saturating_sub(max);
            self.bins.drain(..over);
            self.newest = number;
        }
        let behind = usize::try_from(self.newest - number).ok().filter(|b| *b < max)?;
        while self.bins.len() <= behind {
            self.bins.push_front(Bin::default());
        }
        let index = self.bins.len() - 1 - behind;
        self.bins.get_mut(index)
    }

    /// Number of the newest bin; `None` before the first point.
    pub(crate) fn newest(&self) -> Option<i64> {
        (!self.bins.is_empty()).then_some(self.newest)
    }

    /// Number of the oldest one.
    pub(crate) fn oldest(&self) -> Option<i64> {
        Some(self.newest()? + 1 - self.bins.len() as i64)
    }

    /// Bins that are closed, from the first that has points.
    pub(crate) fn closed(&self) -> usize {
        self.bins.len().saturating_sub(1)
    }

    /// Means of the bins that are closed, the newest last; NaN without points. It starts with one
    /// that has some.
    pub(crate) fn means(&self) -> Vec<f64> {
        let closed = self.bins.iter().take(self.closed());
        let means = closed.map(|b| if b.count == 0 { f64::NAN } else { b.mean() });
        means.skip_while(|m| m.is_nan()).collect()
    }

    /// The mean of the bin of this number, if it has points.
    pub(crate) fn mean(&self, number: i64) -> Option<f64> {
        let behind = usize::try_from(self.newest.checked_sub(number)?).ok()?;
        let bin = self.bins.get(self.bins.len().checked_sub(behind + 1)?)?;
        (bin.count > 0).then(|| bin.mean())
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.counter.is_some()));
        if let Some(counter) = &self.counter {
            counter.put(out);
        }
        put_u64(out, self.newest as u64);
        put_u64(out, self.bins.len() as u64);
        for bin in &self.bins {
            out.extend(bin.mean);
            out.extend(bin.count.to_le_bytes());
        }
    }

    /// The inverse of [`Bins::put`]; of more bins than `max` the newest.
    pub(crate) fn get(bytes: &mut &[u8]) -> Option<Self> {
        let counter = match get_u8(bytes)? {
            0 => None,
            _ => Some(Counter::get(bytes)?),
        };
        let newest = get_u64(bytes)? as i64;
        let count = usize::try_from(get_u64(bytes)?).ok()?;
        let mut bins = VecDeque::with_capacity(count.min(bytes.len() / SAVED));
        for _ in 0..count {
            let (mean, rest) = bytes.split_first_chunk::<MEAN>()?;
            let (count, rest) = rest.split_first_chunk::<2>()?;
            *bytes = rest;
            bins.push_back(Bin { mean: *mean, count: u16::from_le_bytes(*count) });
        }
        Some(Self { newest, bins, counter })
    }
}
