//! What a query cost, and what it met on the way.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// Warnings that one query may collect; a table full of damage is told of once.
const WARNINGS_MAX: usize = 20;

/// Counters of a running query. Shared by its scans.
#[derive(Debug, Default)]
pub struct Costs {
    files: AtomicU64,
    files_read: AtomicU64,
    slices: AtomicU64,
    slices_read: AtomicU64,
    slices_known: AtomicU64,
    rows_read: AtomicU64,
    bytes_read: AtomicU64,
    hot_rows: AtomicU64,
    warnings: Mutex<Vec<String>>,
}

/// A reading of [`Costs`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Cost {
    /// Files of the tables that were named.
    pub files: u64,
    /// Files of which anything was read.
    pub files_read: u64,
    /// Slices (row groups) of those tables.
    pub slices: u64,
    /// Slices that were read.
    pub slices_read: u64,
    /// Slices that gave what they had given to the same question before, and were not read.
    pub slices_known: u64,
    /// Rows that were selected by entity and time, and read.
    pub rows_read: u64,
    /// Compressed bytes of the columns and slices that were read, and of token filters.
    pub bytes_read: u64,
    /// Hot rows that were looked at.
    pub hot_rows: u64,
}

impl Costs {
    pub(super) fn listed(&self, files: u64, slices: u64) {
        self.files.fetch_add(files, Relaxed);
        self.slices.fetch_add(slices, Relaxed);
    }

    pub(super) fn file_read(&self) {
        self.files_read.fetch_add(1, Relaxed);
    }

    pub(super) fn slice_read(&self, rows: u64, bytes: u64) {
        self.slices_read.fetch_add(1, Relaxed);
        self.rows_read.fetch_add(rows, Relaxed);
        self.bytes_read.fetch_add(bytes, Relaxed);
    }

    pub(super) fn slice_known(&self) {
        self.slices_known.fetch_add(1, Relaxed);
    }

    pub(super) fn filter_read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Relaxed);
    }

    pub(super) fn hot_read(&self, rows: u64) {
        self.hot_rows.fetch_add(rows, Relaxed);
    }

    pub(super) fn warn(&self, text: String) {
        let mut warnings = self.warnings.lock();
        if warnings.len() < WARNINGS_MAX && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// What went wrong without failing the query.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().clone()
    }

    /// Everything so far.
    pub fn read(&self) -> Cost {
        Cost {
            files: self.files.load(Relaxed),
            files_read: self.files_read.load(Relaxed),
            slices: self.slices.load(Relaxed),
            slices_read: self.slices_read.load(Relaxed),
            slices_known: self.slices_known.load(Relaxed),
            rows_read: self.rows_read.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            hot_rows: self.hot_rows.load(Relaxed),
        }
    }
}
