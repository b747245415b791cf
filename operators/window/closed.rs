//! Which windows take no more rows.

use std::collections::BTreeSet;

use super::Shape;
use crate::codec::get_u64;

/// Emitted windows that are remembered for a clock that is set back: nearly 3 hours of windows of
/// a second.
const EMITTED_MAX: usize = 10_000;

/// Windows that end at `until` or before, and of those that end later the ones that gave rows
/// before the watermark went back.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) until: i64,
    /// Starts of the latest windows that gave rows.
    emitted: BTreeSet<i64>,
    /// The last of them: later ones need not be looked up.
    newest: i64,
}

impl Default for Closed {
    fn default() -> Self {
        Self { until: i64::MIN, emitted: BTreeSet::new(), newest: i64::MIN }
    }
}

impl Closed {
    /// Starts of the windows that take a row whose last window starts at `last`, backwards.
    pub(super) fn takes(&self, shape: &Shape, last: i64) -> impl Iterator<Item = i64> {
        let (every, over) = (shape.every, shape.over);
        let starts = (0..over / every).map(move |i| last - i * every);
        starts.take_while(move |s| s + over > self.until).filter(|s| !self.has_emitted(*s))
    }

    /// Whether the window that starts here gave rows.
    pub(super) fn has_emitted(&self, start: i64) -> bool {
        start <= self.newest && self.emitted.contains(&start)
    }

    /// The window that starts here gives rows.
    pub(super) fn emit(&mut self, start: i64) {
        self.emitted.insert(start);
        self.newest = self.newest.max(start);
        if self.emitted.len() > EMITTED_MAX {
            self.emitted.pop_first();
        }
    }

    /// The watermark went back: the clock was set back, or `lateness` is longer than it was. What
    /// was emitted stays so; windows that never gave rows take some again.
    pub(super) fn reopen(&mut self, until: i64, over: i64) {
        // Of windows before the first that is remembered nothing is known.
        let known = match self.emitted.len() {
            EMITTED_MAX.. => self.emitted.first().map_or(i64::MIN, |s| s.saturating_add(over)),
            _ => i64::MIN,
        };
        self.until = self.until.min(until.max(known));
    }

    pub(super) fn save(&self, out: &mut Vec<u8>) {
        out.extend(self.until.to_le_bytes());
        out.extend((self.emitted.len() as u64).to_le_bytes());
        self.emitted.iter().for_each(|start| out.extend(start.to_le_bytes()));
    }

    /// The inverse of [`Closed::save`]; `None` if the bytes are cut.
    pub(super) fn load(bytes: &mut &[u8]) -> Option<Self> {
        let mut closed = Self { until: get_u64(bytes)? as i64, ..Self::default() };
        for _ in 0..get_u64(bytes)? {
            closed.emit(get_u64(bytes)? as i64);
        }
        Some(closed)
    }
}
