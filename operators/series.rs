//! What operators that look at one series after the other have in common: finding the series of
//! rows, and the points in them.

pub(crate) mod known;
pub(crate) mod points;

/// Column of the event time.
pub(crate) const TIMESTAMP: &str = "timestamp";

/// Columns of the value; whole numbers that a double cannot hold come in one of their own.
pub(crate) const VALUE: &str = "value";
const VALUE_INT: &str = "value_int";
