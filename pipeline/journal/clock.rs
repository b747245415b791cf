//! The time that ticks carry.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::entry::{Entry, EntryKind, Envelope, NewEntry};

/// Steps of the wall clock beyond this, nanoseconds, are marked in the tick: enough to leave the
/// slewing of a time service and a busy machine alone. Whoever else looks for steps uses it too.
pub const STEP_MIN_NS: i64 = 5_000_000_000;

/// What a tick or a mark carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Wall time, UTC nanoseconds; follows the clock of the machine, also backwards.
    pub time: i64,
    /// Nanoseconds that Weir has been running in all, over restarts; never goes back.
    pub elapsed: i64,
    /// By how much the wall clock was set since the tick before, nanoseconds; 0 if it just ran.
    pub step: i64,
}

/// Payload of ticks and marks; also stands in segment headers.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StampRecord {
    #[prost(int64, tag = "1")]
    pub(super) elapsed: i64,
    #[prost(sint64, tag = "2")]
    pub(super) step: i64,
    /// Of a mark: why it was made.
    #[prost(string, tag = "3")]
    pub(super) reason: String,
    /// Only in segment headers; ticks have it as `received`.
    #[prost(sfixed64, tag = "4")]
    pub(super) time: i64,
}

impl Stamp {
    fn entry(self, kind: EntryKind, reason: &str) -> NewEntry {
        let record =
            StampRecord { elapsed: self.elapsed, step: self.step, reason: reason.into(), time: 0 };
        NewEntry {
            kind,
            source: "".into(),
            generation: 0,
            tenant: "".into(),
            received: self.time,
            cursor: Bytes::new(),
            envelope: Envelope::default(),
            payload: record.encode_to_vec().into(),
            idempotent: false,
            decoded: None,
        }
    }

    pub(super) fn read(entry: &NewEntry) -> Option<(Self, String)> {
        if entry.kind == EntryKind::Data {
            return None;
        }
        let r = StampRecord::decode(entry.payload.clone()).unwrap_or_default();
        Some((Self { time: entry.received, elapsed: r.elapsed, step: r.step }, r.reason))
    }
}

impl NewEntry {
    /// A tick.
    pub fn tick(stamp: Stamp) -> Self {
        stamp.entry(EntryKind::Tick, "")
    }

    /// A mark, with the reason for it (`checkpoint`, `reload`, `stop`).
    pub fn mark(stamp: Stamp, reason: &str) -> Self {
        stamp.entry(EntryKind::Mark, reason)
    }
}

impl Entry {
    /// The time that this tick or mark carries; `None` for data.
    pub fn stamp(&self) -> Option<Stamp> {
        Stamp::read(&self.head).map(|(stamp, _)| stamp)
    }

    /// Why this mark was made; `None` if it is not a mark.
    pub fn mark_reason(&self) -> Option<String> {
        let is_mark = self.head.kind == EntryKind::Mark;
        Stamp::read(&self.head).filter(|_| is_mark).map(|(_, reason)| reason)
    }
}

/// Makes [`Stamp`]s from a wall clock and a monotonic one. Pure: both are handed in.
#[derive(Clone, Debug)]
pub struct TickClock {
    last: Option<Stamp>,
    /// Monotonic time of the last stamp, `None` before the first of this run.
    monotonic: Option<Duration>,
}

impl TickClock {
    /// Goes on after `last`, the newest stamp in the journal
    /// ([`Journal::last_stamp`](super::Journal::last_stamp)). The time in which Weir was not
    /// running does not count as elapsed.
    pub fn new(last: Option<Stamp>) -> Self {
        Self { last, monotonic: None }
    }

    /// Whether the wall clock was set since the last stamp.
    pub fn was_set(&self, wall: i64, monotonic: Duration) -> bool {
        let (Some(last), Some(_)) = (self.last, self.monotonic) else { return false };
        is_step(wall.saturating_sub(last.time).saturating_sub(self.ran(monotonic)))
    }

    /// Running time since the last stamp, nanoseconds; 0 before the first of this run.
    fn ran(&self, monotonic: Duration) -> i64 {
        let ran = self.monotonic.map_or(Duration::ZERO, |m| monotonic.saturating_sub(m));
        i64::try_from(ran.as_nanos()).unwrap_or(i64::MAX)
    }

    /// The stamp of a tick made now: `wall` in UTC nanoseconds, `monotonic` since any fixed
    /// point of this run. Warns once per step of the wall clock.
    pub fn next(&mut self, wall: i64, monotonic: Duration) -> Stamp {
        let ran = self.ran(monotonic);
        let step = match (self.last, self.monotonic) {
            (None, _) => 0,
            // The first tick after a start: Weir may have been down for long, but not for less
            // than no time.
            (Some(last), None) => wall.saturating_sub(last.time).min(0),
            (Some(last), Some(_)) => wall.saturating_sub(last.time).saturating_sub(ran),
        };
        let step = if is_step(step) { step } else { 0 };
        if step != 0 {
            tracing::warn!(
                seconds = step / 1_000_000_000,
                "the clock of this machine was set; windows go by it, timers do not"
            );
        }
        let elapsed = self.last.map_or(0, |s| s.elapsed).saturating_add(ran);
        let stamp = Stamp { time: wall, elapsed, step };
        self.last = Some(stamp);
        self.monotonic = Some(self.monotonic.map_or(monotonic, |m| m.max(monotonic)));
        stamp
    }
}

fn is_step(nanoseconds: i64) -> bool {
    nanoseconds.unsigned_abs() > STEP_MIN_NS.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    /// Ticks as (wall s, monotonic s), stamps as (time s, elapsed s, step s).
    fn check(last: Option<(i64, i64)>, ticks: &[(i64, u64)], expect: &[(i64, i64, i64)]) {
        let last = last.map(|(t, e)| Stamp { time: t * S, elapsed: e * S, step: 0 });
        let mut clock = TickClock::new(last);
        let got: Vec<_> = ticks
            .iter()
            .map(|&(wall, mono)| clock.next(wall * S, Duration::from_secs(mono)))
            .map(|s| (s.time / S, s.elapsed / S, s.step / S))
            .collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn elapsed_only_counts_while_running() {
        check(
            None,
            &[(1000, 7), (1001, 8), (1003, 10)],
            &[(1000, 0, 0), (1001, 1, 0), (1003, 3, 0)],
        );
        check(Some((1000, 50)), &[(9000, 2), (9001, 3)], &[(9000, 50, 0), (9001, 51, 0)]);
    }

    #[test]
    fn steps_of_the_wall_clock_are_marked_and_leave_elapsed_alone() {
        check(
            None,
            &[(1000, 0), (400, 1), (401, 2), (4000, 3)],
            &[(1000, 0, 0), (400, 1, -601), (401, 2, 0), (4000, 3, 3598)],
        );
        // A step below the threshold is not worth a word.
        check(None, &[(1000, 0), (998, 1)], &[(1000, 0, 0), (998, 1, 0)]);
        // Set back while Weir was down.
        check(Some((1000, 5)), &[(900, 0)], &[(900, 5, -100)]);
    }

    #[test]
    fn a_monotonic_clock_that_goes_back_moves_nothing() {
        check(
            None,
            &[(1000, 10), (1001, 9), (1002, 12)],
            &[(1000, 0, 0), (1001, 0, 0), (1002, 2, 0)],
        );
    }

    #[test]
    fn stamps_survive_their_entry() {
        let stamp = Stamp { time: -5, elapsed: i64::MAX, step: i64::MIN };
        for (entry, reason) in
            [(NewEntry::tick(stamp), ""), (NewEntry::mark(stamp, "stop"), "stop")]
        {
            assert_eq!(Stamp::read(&entry), Some((stamp, reason.to_owned())));
        }
    }
}
