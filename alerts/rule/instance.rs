//! One instance of a rule: what it is, and what it was last told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Values of the `by` columns; missing and empty are the same.
pub(super) type Key = Vec<Option<String>>;

/// What the row that made the condition true says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Details {
    pub(super) annotations: BTreeMap<String, String>,
    /// JSON object of the columns that the condition reads.
    pub(super) value: String,
}

impl Details {
    /// One line of our own, without a row.
    pub(super) fn summary(text: String) -> Self {
        Self { annotations: BTreeMap::from([("summary".to_owned(), text)]), value: String::new() }
    }
}

/// The newest sample of a series, by its own time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) time: i64,
    pub(super) matches: bool,
}

/// Where an instance stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    /// The condition does not hold.
    #[default]
    Inactive,
    /// It holds; `since` in elapsed time, from the first tick after it began.
    Pending { since: Option<i64> },
    /// It has held long enough. `recovering`: it holds no more, since then.
    Firing { starts_at: i64, recovering: Option<Moment> },
}

/// An elapsed time that is known from the next tick on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Moment(pub(super) Option<i64>);

/// When something was last seen, in event time and in elapsed time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) time: i64,
    pub(super) elapsed: Option<i64>,
}

impl Seen {
    /// Now, at this event time.
    pub(super) fn note(&mut self, time: i64) {
        self.time = self.time.max(time);
        self.elapsed = None;
    }

    /// Whether it lies `after` back: by the clock that counts while Weir runs, and by the
    /// watermark.
    pub(super) fn is_gone(&self, elapsed: i64, watermark: i64, after: i64) -> bool {
        self.elapsed.is_some_and(|e| elapsed - e >= after)
            && watermark >= self.time.saturating_add(after)
    }
}

/// What the rows of one time say together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) truth: Truth,
    pub(super) details: Details,
}

/// SQL's three values, in the order of OR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Truth {
    #[default]
    False,
    Unknown,
    True,
}

impl From<Option<bool>> for Truth {
    fn from(value: Option<bool>) -> Self {
        match value {
            None => Self::Unknown,
            Some(true) => Self::True,
            Some(false) => Self::False,
        }
    }
}

/// The state of one instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Instance {
    pub(super) status: Status,
    /// Whether absence is counted from any row (windows), or from a row that matched.
    pub(super) by_row: bool,
    /// The last row of any kind.
    pub(super) row: Seen,
    /// The last row that matched.
    pub(super) matched: Seen,
    /// Series (hex fingerprints) whose newest sample makes the condition true, or did just before.
    pub(super) series: BTreeMap<String, Sample>,
    /// How many of them match.
    pub(super) matching: usize,
    /// Rows of this epoch, by their time.
    pub(super) steps: BTreeMap<i64, Step>,
    /// Of the last row that matched.
    pub(super) details: Details,
    /// It has no rows, and `no_data` made something of that; for `alert`: since when that fires.
    pub(super) no_data: Option<i64>,
}

impl Instance {
    /// Where absence is counted from.
    pub(super) fn basis(&self) -> Seen {
        if self.by_row { self.row } else { self.matched }
    }

    /// The clock was set back to `now`: later times are those of the old clock, and would make
    /// all that comes now old.
    pub(super) fn set_back(&mut self, now: i64) {
        self.row.time = self.row.time.min(now);
        self.matched.time = self.matched.time.min(now);
        self.series.values_mut().for_each(|s| s.time = s.time.min(now));
    }

    pub(super) fn is_firing(&self) -> bool {
        matches!(self.status, Status::Firing { .. })
    }
}
