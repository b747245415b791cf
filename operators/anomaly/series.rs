//! One series on its way to its detector: late points, counters and their resets.

use super::detector::{Detector, Settings, Verdict};
use crate::codec::{get_f64, get_u8, get_u64, put_f64, put_u64};
use crate::series::known::{self, Identity};

/// Rises without any fall after which a fall to less than half is the reset of a counter.
const RISES_MIN: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Values are scored as they are.
    Gauge,
    /// Seen to rise only and then to start anew: increases per second are scored.
    SeenCounter,
    /// Said to be one by the type of the metric.
    ToldCounter,
}

const KINDS: [Kind; 3] = [Kind::Gauge, Kind::SeenCounter, Kind::ToldCounter];

/// What the number of the kind is saved with: smaller ones are of states that were laid out
/// otherwise, which must not be read as if they were of this one.
const FORMAT: u8 = 3;

const NANOS: f64 = 1e9;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    kind: Kind,
    /// Of the newest point; `i64::MIN` before the first.
    time: i64,
    last: f64,
    rises: u32,
    fell: bool,
    detector: Detector,
}

impl Series {
    pub(super) fn of(counter: bool) -> Self {
        Self {
            kind: if counter { Kind::ToldCounter } else { Kind::Gauge },
            time: i64::MIN,
            last: 0.0,
            rises: 0,
            fell: false,
            detector: Detector::new(),
        }
    }

    /// Scores a finite value. One that is not newer than the newest, or that `learn` says no to,
    /// changes nothing; such points of counters have no score, nor have the first and
    /// those at a reset.
    pub(super) fn score(
        &mut self,
        time: i64,
        value: f64,
        learn: bool,
        settings: &Settings,
    ) -> Option<Verdict> {
        let first = self.time == i64::MIN;
        let newer = learn && (first || time > self.time);
        if !newer {
            let gauge = self.kind == Kind::Gauge;
            return gauge.then(|| self.detector.score(time, value, false, settings));
        }
        let (before, last) = (self.time, self.last);
        (self.time, self.last) = (time, value);
        if self.kind == Kind::Gauge {
            if !first && self.resets(last, value) {
                (self.kind, self.detector) = (Kind::SeenCounter, Detector::new());
                return None;
            }
            return Some(self.detector.score(time, value, true, settings));
        }
        if first {
            return None;
        }
        if self.kind == Kind::SeenCounter && value < last && value * 2.0 > last {
            (self.kind, self.fell, self.detector) = (Kind::Gauge, true, Detector::new());
            return Some(self.detector.score(time, value, true, settings));
        }
        if value < last {
            // What it had reached before the reset is not known.
            return None;
        }
        let elapsed = time.saturating_sub(before) as f64 / NANOS;
        Some(self.detector.score(time, (value - last) / elapsed, true, settings))
    }

    /// Whether what only rose so far has started anew.
    fn resets(&mut self, last: f64, value: f64) -> bool {
        if value > last {
            self.rises = self.rises.saturating_add(1);
        }
        if value >= last {
            return false;
        }
        let rose = !self.fell && self.rises >= RISES_MIN;
        self.fell = true;
        rose && value >= 0.0 && value * 2.0 < last
    }
}

impl known::Series for Series {
    const SAVED_MIN: usize = 600;

    fn new(identity: &Identity<'_>) -> Self {
        Self::of(identity.is_counter())
    }

    fn time(&self) -> i64 {
        self.time
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(FORMAT + KINDS.iter().position(|k| *k == self.kind).unwrap_or_default() as u8);
        put_u64(out, self.time as u64);
        put_f64(out, self.last);
        put_u64(out, u64::from(self.rises));
        out.push(u8::from(self.fell));
        self.detector.put(out);
    }

    fn get(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self {
            kind: *KINDS.get(usize::from(get_u8(bytes)?.checked_sub(FORMAT)?))?,
            time: get_u64(bytes)? as i64,
            last: get_f64(bytes)?,
            rises: u32::try_from(get_u64(bytes)?).ok()?,
            fell: get_u8(bytes)? == 1,
            detector: Detector::get(bytes)?,
        })
    }
}
