//! Merges: few large files in the place of many small ones.
//!
//! A merge reads pinned inputs, writes its output aside and takes effect only if all inputs are
//! still listed; flush never waits for it. Rows are written at most four times: by the flush, by
//! the first merge (which splits by hour), once their hour is over, once their day is over. What
//! comes later waits in files of its own until there are enough of them.
//!
//! Entities are beside what stays: what the first merge writes refers to the entity log of the day,
//! as flushes do, unless nothing will merge it again while the log is there anyway.

mod entities;
mod pick;
mod run;

pub(crate) use entities::{compact_log, entity_bytes, expand};
#[cfg(test)]
pub(crate) use pick::Job;
pub(crate) use pick::{Patience, pick};
pub(crate) use run::{MergeError, Outcome, run};

/// Files that make a merge worth its while before their window is over.
const FAN_IN: usize = 8;
/// Files that one merge takes at most.
const INPUTS_MAX: usize = 32;
/// Rows that one merge takes at most, whatever the memory.
const ROWS_MAX: u64 = 4 << 20;
/// Memory that keys, order, times and ids of a row take while it is merged, bytes.
const ROW_BYTES: u64 = 48;
/// Windows that one merge splits into; rows of further ones share a file.
const WINDOWS_MAX: usize = 8;

/// What one merge takes at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Rows.
    pub(crate) rows: u64,
    /// Decoded bytes, entities with them. One column of the rows is in memory at a time, all of the
    /// entities, and the compressed output.
    pub(crate) raw_bytes: u64,
}

impl Limits {
    /// For `memory` bytes.
    pub(crate) fn of(memory: usize) -> Self {
        let memory = memory as u64;
        Self { rows: (memory / ROW_BYTES).clamp(2, ROWS_MAX), raw_bytes: memory }
    }

    /// Rows and decoded bytes of a file past which it is not merged with others: any two files
    /// below can be.
    pub(crate) fn file(self) -> Self {
        Self { rows: self.rows / 2, raw_bytes: self.raw_bytes / 2 }
    }

    /// Whether a file of so many rows and decoded bytes keeps to them.
    pub(crate) fn admit(self, rows: u64, raw_bytes: u64) -> bool {
        rows <= self.rows && raw_bytes <= self.raw_bytes
    }
}

pub(crate) const HOUR_NS: i64 = 3_600_000_000_000;
const DAY_NS: i64 = 24 * HOUR_NS;

#[cfg(test)]
mod tests;
