//! What came in one way into a source (an endpoint, a scrape target), and the newest minutes of a
//! component.

use std::collections::BTreeMap;

use super::{LastError, sample};

/// Ways of one source that are told apart; paths of listeners are few, scrape targets may not be.
pub(super) const WAYS_MAX: usize = 1_000;
/// What counts as recent: this minute and the one before, nanoseconds.
const MINUTE: i64 = 60_000_000_000;

/// A way into a source.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Way {
    /// When its newest entry came, UTC nanoseconds; 0 if none did.
    pub last_entry: i64,
    /// Rows accepted.
    pub rows: u64,
    /// What was refused, by reason, with the newest as a sample.
    pub rejected: BTreeMap<&'static str, Rejections>,
    /// Why it gives nothing at present, for sources that ask.
    pub error: Option<LastError>,
    /// Records that wait there to be read, for sources that read a log of messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
}

/// What was refused for one reason.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Rejections {
    /// Requests or other entries that lost something.
    pub entries: u64,
    /// Rows; an entry that does not decode counts as one.
    pub rows: u64,
    /// The newest message.
    pub sample: String,
}

impl Way {
    pub(crate) fn reject(&mut self, rows: u64, reason: &'static str, message: &str) {
        let rejections = self.rejected.entry(reason).or_default();
        rejections.entries += 1;
        rejections.rows += rows;
        rejections.sample = sample(message);
    }
}

/// Rows and failures of this minute and the one before.
#[derive(Debug, Default)]
pub(super) struct Recent {
    minute: i64,
    /// (rows, failures): before, now.
    counts: [(u64, u64); 2],
}

impl Recent {
    pub(super) fn add(&mut self, rows: u64, failures: u64, now: i64) {
        self.turn(now);
        self.counts[1].0 += rows;
        self.counts[1].1 += failures;
    }

    pub(super) fn read(&mut self, now: i64) -> (u64, u64) {
        self.turn(now);
        let [before, present] = self.counts;
        (before.0 + present.0, before.1 + present.1)
    }

    fn turn(&mut self, now: i64) {
        let minute = now / MINUTE;
        if minute > self.minute {
            let before = if minute == self.minute + 1 { self.counts[1] } else { (0, 0) };
            self.counts = [before, (0, 0)];
            self.minute = minute;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_minutes_are_recent() {
        let mut recent = Recent::default();
        recent.add(5, 0, MINUTE);
        recent.add(0, 2, MINUTE + 1);
        assert_eq!(recent.read(MINUTE * 2), (5, 2));
        recent.add(1, 1, MINUTE * 2);
        assert_eq!(recent.read(MINUTE * 3), (1, 1));
        assert_eq!(recent.read(MINUTE * 5), (0, 0));
    }
}
