//! Cumulative counters: by how much they rise.

use std::borrow::Cow;

use arrow::array::UInt32Array;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::OperatorError;

use super::SECOND;
use super::known::{self, Full, Identity, Known};
use super::points::Point;
use crate::codec::{get_f64, get_u64, put_f64, put_u64};

/// Counters that are known where a series is made of several; the oldest make room for others, and
/// begin anew.
const COUNTERS_MAX: usize = 1_000_000;

/// The newest sample of a counter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Counter {
    /// `i64::MIN` before the first.
    time: i64,
    value: f64,
}

impl Default for Counter {
    fn default() -> Self {
        Self { time: i64::MIN, value: 0.0 }
    }
}

impl Counter {
    /// By how much it rose per second since the sample before; `None` of the first, of one that is
    /// not newer, and at a reset: what it had reached before that is not known.
    pub(crate) fn rate(&mut self, time: i64, value: f64) -> Option<f64> {
        if time <= self.time {
            return None;
        }
        let last = std::mem::replace(self, Self { time, value });
        let elapsed = time.saturating_sub(last.time) as f64 / SECOND as f64;
        (last.time != i64::MIN && value >= last.value).then(|| (value - last.value) / elapsed)
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.time as u64);
        put_f64(out, self.value);
    }

    /// The inverse of [`Counter::put`].
    pub(crate) fn get(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self { time: get_u64(bytes)? as i64, value: get_f64(bytes)? })
    }
}

impl known::Series for Counter {
    const SAVED_MIN: usize = 16;

    fn new(_: &Identity<'_>) -> Self {
        Self::default()
    }

    fn time(&self) -> i64 {
        self.time
    }

    fn put(&self, out: &mut Vec<u8>) {
        Self::put(self, out);
    }

    fn get(bytes: &mut &[u8]) -> Option<Self> {
        Self::get(bytes)
    }
}

/// The counters among the entities that series are made of: values of several cannot be compared,
/// what each rises by can.
pub(crate) struct Counters {
    known: Known<Counter>,
    /// Which entities of the newest table are counters, as far as they were asked for.
    are: (u64, Vec<Option<bool>>),
}

impl Default for Counters {
    fn default() -> Self {
        let known = Known::of_entities(COUNTERS_MAX, Full::Replaces);
        Self { known, are: Default::default() }
    }
}

impl Counters {
    /// The points of rows, those of cumulative counters as their increase per second.
    pub(crate) fn rates<'a>(
        &mut self,
        batch: &Batch,
        points: &'a [Option<Point>],
    ) -> Result<Cow<'a, [Option<Point>]>, OperatorError> {
        let Some(entities) = batch.entities() else { return Ok(points.into()) };
        let (table, are) = &mut self.are;
        if *table != entities.table.id() {
            *table = entities.table.id();
            are.clear();
        }
        let mut is = |key: u32| {
            let index = key as usize;
            if are.len() <= index {
                are.resize(index + 1, None);
            }
            *are[index]
                .get_or_insert_with(|| Identity::Entity(&entities.table.get(key)).is_counter())
        };
        let keys = UInt32Array::values(&entities.keys);
        let counters = points.iter().zip(keys).map(|(p, key)| p.filter(|_| is(*key)));
        let counters: Vec<Option<Point>> = counters.collect();
        if counters.iter().all(Option::is_none) {
            return Ok(points.into());
        }
        let mut rates = points.to_vec();
        self.known.feed(batch, &counters, |counter, row, point| {
            // Whether a sample of the future is a reset is not known either.
            let rate = if point.learn { counter.rate(point.time, point.value) } else { None };
            rates[row] = rate.map(|value| Point { value, ..point });
        })?;
        Ok(rates.into())
    }

    pub(crate) fn put(&self) -> Vec<u8> {
        self.known.put()
    }

    pub(crate) fn get(&mut self, state: &[u8]) -> Option<()> {
        self.known.get(state)
    }
}
