//! What time rows have: that at which they are sent, or one in the past over which all are spread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Result;

use super::{duration, now_ns};
use crate::cli::Pace;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock(Option<Past>);

#[derive(Clone, Debug)]
struct Past {
    /// Time of the first row, nanoseconds.
    from: u64,
    /// Nanoseconds from one row to the next.
    step: f64,
    /// Rows so far, of all connections.
    sent: Arc<AtomicU64>,
}

impl Clock {
    pub(super) fn new(pace: &Pace) -> Result<Self> {
        let (Some(over), Some(count)) = (&pace.over, pace.count) else { return Ok(Self(None)) };
        let over = duration("--over", over)?.as_nanos() as u64;
        let from = now_ns().saturating_sub(over);
        let step = over as f64 / count as f64;
        Ok(Self(Some(Past { from, step, sent: Arc::default() })))
    }

    /// Time of the first of the next `rows`.
    pub(super) fn rows(&self, rows: u64) -> u64 {
        self.at(|past| past.sent.fetch_add(rows, Relaxed) as f64 * past.step)
    }

    /// Nanoseconds from one row of a request to the next.
    pub(super) fn between_rows(&self) -> u64 {
        self.0.as_ref().map_or(1, |past| past.step as u64)
    }

    /// Time of the round `nth` in which all connections together send `rows`.
    pub(super) fn round(&self, nth: u64, rows: usize) -> u64 {
        self.at(|past| nth as f64 * past.step * rows as f64)
    }

    /// The latest time that history has: whole requests may be more rows than were asked for, and
    /// nothing is of the future.
    pub(super) fn latest(&self) -> u64 {
        self.0.as_ref().map_or(u64::MAX, |_| now_ns())
    }

    fn at(&self, later: impl Fn(&Past) -> f64) -> u64 {
        let now = now_ns();
        self.0.as_ref().map_or(now, |past| (past.from + later(past) as u64).min(now))
    }
}
