//! Merges: few large files in the place of many small ones.
//!
//! A merge reads pinned inputs, writes its output aside and takes effect only if all inputs are
//! still listed; flush never waits for it. Rows are written at most four times: by the flush, by
//! the first merge (which splits by hour), once their hour is over, once their day is over. What
//! comes later waits in files of its own until there are enough of them.

mod entities;
mod pick;
mod run;

pub(crate) use entities::{compact_log, expand};
#[cfg(test)]
pub(crate) use pick::Job;
pub(crate) use pick::pick;
pub(crate) use run::{MergeError, Outcome, run};

/// Files that make a merge worth its while before their window is over.
const FAN_IN: usize = 8;
/// Files that one merge takes at most.
const INPUTS_MAX: usize = 32;
/// Rows that one merge takes at most: with it, keys and order take some 160 MiB.
const ROWS_MAX: u64 = 4 << 20;
/// Decoded bytes that one merge takes at most. One column of them is in memory at a time, and
/// the compressed output.
const RAW_BYTES_MAX: u64 = 256 << 20;
/// Rows and decoded bytes of a file past which it is not merged with others: any two files below
/// can be.
pub(crate) const FILE_ROWS_MAX: u64 = ROWS_MAX / 2;
pub(crate) const FILE_RAW_BYTES_MAX: u64 = RAW_BYTES_MAX / 2;
/// Windows that one merge splits into; rows of further ones share a file.
const WINDOWS_MAX: usize = 8;

const HOUR_NS: i64 = 3_600_000_000_000;
const DAY_NS: i64 = 24 * HOUR_NS;

#[cfg(test)]
mod tests;
