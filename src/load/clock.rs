//! What time rows have: that at which they are sent, or one in the past over which all are spread.

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
    /// Nanoseconds from one row to the next, of all connections together.
    step: f64,
    connections: f64,
}

impl Clock {
    pub(super) fn new(pace: &Pace) -> Result<Self> {
        let (Some(over), Some(count)) = (&pace.over, pace.count) else { return Ok(Self(None)) };
        let over = duration("--over", over)?.as_nanos() as u64;
        let from = now_ns().saturating_sub(over);
        let step = over as f64 / count as f64;
        Ok(Self(Some(Past { from, step, connections: pace.connections as f64 })))
    }

    /// Time of the row that a connection sends after `before` others.
    pub(super) fn row(&self, before: u64) -> u64 {
        self.at(|past| before as f64 * past.step * past.connections)
    }

    /// Nanoseconds from one row of a connection to the next.
    pub(super) fn between_rows(&self) -> u64 {
        self.0.as_ref().map_or(1, |past| (past.step * past.connections) as u64)
    }

    /// Time of the round `nth` in which all connections together send `rows`.
    pub(super) fn round(&self, nth: u64, rows: usize) -> u64 {
        self.at(|past| nth as f64 * past.step * rows as f64)
    }

    fn at(&self, later: impl Fn(&Past) -> f64) -> u64 {
        let now = now_ns();
        // Nothing is of the future, also where one connection was faster than the others.
        self.0.as_ref().map_or(now, |past| (past.from + later(past) as u64).min(now))
    }
}
