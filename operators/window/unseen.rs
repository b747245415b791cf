//! Time in which nobody looked: Weir was down, or the clock was set ahead. That a group had no rows
//! then says nothing of it.

use weir_pipeline::component::Tick;
use weir_pipeline::journal::STEP_MIN_NS;

use crate::codec::get_u64;

/// The last such stretch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unseen {
    /// Wall time and running time of the last tick; zero before the first.
    last: (i64, i64),
    from: i64,
    to: i64,
}

impl Unseen {
    /// Time moves on; windows up to `closed` have been emitted.
    pub(super) fn tick(&mut self, tick: Tick, closed: i64) {
        let (time, elapsed) = std::mem::replace(&mut self.last, (tick.time, tick.elapsed));
        let ran = tick.elapsed.saturating_sub(elapsed);
        let passed = tick.time.saturating_sub(time);
        if tick.step < 0 {
            // The clock was ahead and is mended: what it had skipped is looked at after all.
            self.from = self.from.min(tick.time);
            self.to = self.to.min(tick.time);
            return;
        }
        if (time, elapsed) == (0, 0) || passed.saturating_sub(ran) <= STEP_MIN_NS {
            return;
        }
        // One that still matters becomes part of it.
        self.from = if self.to > closed { self.from.min(time) } else { time };
        self.to = tick.time;
    }

    /// Whether a window has part of it.
    pub(super) fn overlaps(&self, start: i64, end: i64) -> bool {
        start < self.to && end > self.from
    }

    pub(super) fn save(&self, out: &mut Vec<u8>) {
        let Self { last, from, to } = self;
        [last.0, last.1, *from, *to].iter().for_each(|n| out.extend(n.to_le_bytes()));
    }

    /// The inverse of [`Unseen::save`]; `None` if the bytes are cut.
    pub(super) fn load(bytes: &mut &[u8]) -> Option<Self> {
        let mut next = || Some(get_u64(bytes)? as i64);
        Some(Self { last: (next()?, next()?), from: next()?, to: next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_a_mended_clock_had_skipped_is_looked_at() {
        const MINUTE: i64 = 60_000_000_000;
        let mut unseen = Unseen::default();
        let mut tick = |time, elapsed, step| {
            let (time, elapsed, step) = (time * MINUTE, elapsed * MINUTE, step * MINUTE);
            unseen.tick(Tick { time, elapsed, step, ..Tick::default() }, 0);
            let at = |minute| unseen.overlaps(minute * MINUTE, (minute + 1) * MINUTE);
            [at(99), at(102), at(130)]
        };
        assert_eq!(tick(100, 1, 0), [false; 3]);
        assert_eq!(tick(160, 1, 60), [false, true, true], "set ahead by an hour");
        assert_eq!(tick(165, 6, 0), [false, true, true]);
        assert_eq!(tick(106, 7, -60), [false, true, false], "and mended");
        assert_eq!(tick(107, 8, 0), [false, true, false]);
    }
}
