//! The journal: one durable, totally ordered log of everything that entered.

mod entry;

pub use entry::{Entry, EntryKind, Envelope, NewEntry};

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Limits of a journal.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// Size on disk past which appends are refused, in bytes.
    pub max_bytes: u64,
    /// How long entries stay though every pipeline is past them.
    pub retain: Duration,
}

/// Why an entry was not appended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// The journal has reached `max_bytes` (answered 503).
    #[error("journal is full; retry after {} s", retry_after.as_secs())]
    Full {
        /// When to try again.
        retry_after: Duration,
    },
    /// More is waiting to be written than memory allows (answered 429).
    #[error("too much is waiting to be written; retry after {} s", retry_after.as_secs())]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// The disk refused; nothing of the entry may be assumed written (answered 503).
    #[error("journal could not be written: {0}")]
    Io(String),
    /// Weir is stopping (answered 503).
    #[error("stopping")]
    Stopped,
}

/// A handle to the journal; clones share it.
#[derive(Clone)]
pub struct Journal {}

impl Journal {
    /// Opens or creates the journal in `dir`. Offsets go on above `floor` and above everything
    /// found on disk.
    pub fn open(_dir: &Path, _options: JournalOptions, _floor: u64) -> std::io::Result<Self> {
        unimplemented!()
    }
    /// The random id given at creation; with an offset it makes a position.
    pub fn id(&self) -> u128 {
        unimplemented!()
    }
    /// Waits until `entry` is on disk and gives its offset.
    pub async fn append(&self, _entry: NewEntry) -> Result<u64, AppendError> {
        unimplemented!()
    }
    /// Offset of the newest durable entry; 0 if there is none yet (offsets start at 1).
    pub fn head(&self) -> u64 {
        unimplemented!()
    }
    /// A reader whose first entry is the first one with an offset above `after`.
    pub fn reader(&self, _after: u64) -> Reader {
        unimplemented!()
    }
}

/// Reads durable entries in order: from memory near the head, else from disk.
pub struct Reader {}

impl Reader {
    /// The next entries, in order, at least one: waits for them at the head. Cancel safe.
    pub async fn next(&mut self) -> std::io::Result<Vec<Arc<Entry>>> {
        unimplemented!()
    }
}
