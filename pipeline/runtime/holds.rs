//! Who still needs which part of the journal. Whoever starts to read takes its hold in the same
//! step as it picks its position, so that nothing can be trimmed in between.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::checkpoint::Consumer;
use crate::journal::Journal;

/// The positions behind which the journal must stay.
pub(super) struct Holds {
    journal: Journal,
    positions: Mutex<HashMap<Consumer, u64>>,
    /// Bytes that those hold at most who skip what is older.
    limits: Mutex<HashMap<Consumer, u64>>,
}

impl Holds {
    pub(super) fn new(journal: Journal) -> Self {
        Self { journal, positions: Mutex::default(), limits: Mutex::default() }
    }

    /// Holds all entries behind the position that `choose` picks, or behind the oldest one left
    /// where that is later. Gives the position held.
    pub(super) fn take(&self, who: &Consumer, choose: impl FnOnce() -> u64) -> u64 {
        let mut positions = self.positions.lock();
        let position = choose().max(self.journal.oldest() - 1);
        positions.insert(who.clone(), position);
        position
    }

    /// All that is held.
    pub(super) fn all(&self) -> HashMap<Consumer, u64> {
        self.positions.lock().clone()
    }

    /// From now on exactly these hold at most so many bytes; what is older they skip.
    pub(super) fn limit(&self, limits: HashMap<Consumer, u64>) {
        *self.limits.lock() = limits;
    }

    /// The position held for `who`.
    pub(super) fn position(&self, who: &Consumer) -> Option<u64> {
        self.positions.lock().get(who).copied()
    }

    /// Lets go of the entries up to `position`.
    pub(super) fn advance(&self, who: &Consumer, position: u64) {
        if let Some(held) = self.positions.lock().get_mut(who) {
            *held = position.max(*held);
        }
    }

    /// Holds nothing for `who` any more.
    pub(super) fn release(&self, who: &Consumer) {
        self.positions.lock().remove(who);
    }

    /// Trims the journal up to the earliest position held; all of it if none is. Deletes files.
    pub(super) fn trim(&self) {
        let positions = self.positions.lock();
        let limits = self.limits.lock().clone();
        let keep = positions.iter().map(|(who, position)| {
            let skipped = limits.get(who).map_or(0, |bytes| self.journal.offset_within(*bytes));
            skipped.max(*position)
        });
        let keep = keep.min().unwrap_or_else(|| self.journal.head());
        self.journal.trim(keep + 1);
    }
}
