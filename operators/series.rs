//! What operators that look at one series after the other have in common: finding the series of
//! rows, the points in them, what counters rise by, bins of time, and rows that say something of a series.

pub(crate) mod bins;
pub(crate) mod counter;
pub(crate) mod known;
pub(crate) mod options;
pub(crate) mod points;
pub(crate) mod robust;
pub(crate) mod rows;
#[cfg(test)]
mod tests;

/// Column of the event time.
pub(crate) const TIMESTAMP: &str = "timestamp";

/// Columns of the value; whole numbers that a double cannot hold come in one of their own.
pub(crate) const VALUE: &str = "value";
const VALUE_INT: &str = "value_int";

/// Nanoseconds of a second.
pub(crate) const SECOND: i64 = 1_000_000_000;
