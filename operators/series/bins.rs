//! The recent past of a series as means over steps of time.
//!
//! Bins are aligned to the UTC epoch. A late point counts in its bin as long as that is kept; the
//! newest bin is open until a point of a later one comes. Counters come as their increase per
//! second, and late points of theirs are left out: what they rose by is in the point after.

use std::collections::VecDeque;

use super::SECOND;
use super::known::Identity;
use crate::codec::{get_f32, get_f64, get_u8, get_u64, put_f32, put_f64, put_u64};

/// Means are kept short; values beyond this are none.
const VALUE_MAX: f64 = 1e37;

/// Bytes of a bin in a state.
const SAVED: usize = size_of::<f32>() + size_of::<u16>();

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bin {
    /// 0 without points.
    mean: f32,
    /// As far as it is counted: later points of a bin of so many move its mean by no less.
    count: u16,
}

/// The last point of a counter.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Last {
    time: i64,
    value: f64,
}

/// Bins of one series, without a gap from the first to the newest.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Bins {
    /// Number of the newest one: its start divided by the step.
    newest: i64,
    bins: VecDeque<Bin>,
    counter: bool,
    last: Option<Last>,
}

impl Bins {
    pub(crate) fn new(identity: &Identity<'_>) -> Self {
        Self { counter: identity.is_counter(), ..Self::default() }
    }

    /// Takes in a point; at most `max` bins of `step` nanoseconds are kept.
    pub(crate) fn add(&mut self, step: i64, max: usize, time: i64, value: f64) {
        let value = match self.counter {
            true => self.increase(time, value),
            false => Some(value),
        };
        let Some(value) = value.filter(|v| v.abs() <= VALUE_MAX) else { return };
        let number = time.div_euclid(step);
        let Some(bin) = self.bin(number, max) else { return };
        bin.count = bin.count.saturating_add(1);
        let by = (value - f64::from(bin.mean)) / f64::from(bin.count);
        bin.mean = (f64::from(bin.mean) + by) as f32;
    }

    /// By how much a counter rose per second since the point before.
    fn increase(&mut self, time: i64, value: f64) -> Option<f64> {
        let last = self.last;
        if last.is_some_and(|last| time <= last.time) {
            return None;
        }
        self.last = Some(Last { time, value });
        let last = last?;
        let elapsed = time.saturating_sub(last.time) as f64 / SECOND as f64;
        // What it had reached before a reset is not known.
        (value >= last.value).then(|| (value - last.value) / elapsed)
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
        let means = closed.map(|b| if b.count == 0 { f64::NAN } else { f64::from(b.mean) });
        means.skip_while(|m| m.is_nan()).collect()
    }

    /// The mean of the bin of this number, if it has points.
    pub(crate) fn mean(&self, number: i64) -> Option<f64> {
        let behind = usize::try_from(self.newest.checked_sub(number)?).ok()?;
        let bin = self.bins.get(self.bins.len().checked_sub(behind + 1)?)?;
        (bin.count > 0).then(|| f64::from(bin.mean))
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.counter));
        out.push(u8::from(self.last.is_some()));
        if let Some(last) = self.last {
            put_u64(out, last.time as u64);
            put_f64(out, last.value);
        }
        put_u64(out, self.newest as u64);
        put_u64(out, self.bins.len() as u64);
        for bin in &self.bins {
            put_f32(out, bin.mean);
            out.extend(bin.count.to_le_bytes());
        }
    }

    /// The inverse of [`Bins::put`]; of more bins than `max` the newest.
    pub(crate) fn get(bytes: &mut &[u8]) -> Option<Self> {
        let counter = get_u8(bytes)? == 1;
        let last = match get_u8(bytes)? {
            0 => None,
            _ => Some(Last { time: get_u64(bytes)? as i64, value: get_f64(bytes)? }),
        };
        let newest = get_u64(bytes)? as i64;
        let count = usize::try_from(get_u64(bytes)?).ok()?;
        let mut bins = VecDeque::with_capacity(count.min(bytes.len() / SAVED));
        for _ in 0..count {
            let mean = get_f32(bytes)?;
            let (count, rest) = bytes.split_first_chunk::<2>()?;
            *bytes = rest;
            bins.push_back(Bin { mean, count: u16::from_le_bytes(*count) });
        }
        Some(Self { newest, bins, counter, last })
    }
}
