//! How far the source usually is behind: what windows above wait, and what the source takes.

use serde::{Deserialize, Serialize};
use weir_pipeline::component::Tick;

use super::SECOND;

/// How long the watermark must have moved at the same distance before that is usual: after an
/// edit that lets windows wait longer, the rule is held for twice this time at most.
const LEARN_AFTER: i64 = 900 * SECOND;

/// The least distances of the watermark from the clock. A watermark that stands teaches nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Lag {
    watermark: Option<i64>,
    /// Of all ticks before `since`.
    usual: Option<i64>,
    /// Of the ticks from then on.
    recent: Option<i64>,
    /// Elapsed time.
    since: i64,
}

impl Lag {
    /// Whether the watermark goes back with this tick: the clock was set back.
    pub(super) fn goes_back(&self, tick: Tick) -> bool {
        self.watermark.is_some_and(|last| tick.watermark != i64::MIN && tick.watermark < last)
    }

    /// How much further behind than usual the watermark is.
    pub(super) fn note(&mut self, tick: Tick) -> i64 {
        if tick.watermark == i64::MIN {
            return 0;
        }
        let behind = tick.time.saturating_sub(tick.watermark);
        if self.watermark.replace(tick.watermark).is_none_or(|last| tick.watermark > last) {
            self.recent = Some(self.recent.map_or(behind, |r| r.min(behind)));
            self.usual = Some(self.usual.map_or(behind, |u| u.min(behind)));
        }
        if tick.elapsed.saturating_sub(self.since) >= LEARN_AFTER {
            self.usual = self.recent.take().or(self.usual);
            self.since = tick.elapsed;
        }
        behind.saturating_sub(self.usual.unwrap_or(0))
    }
}
