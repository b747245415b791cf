//! Answers SQL over the tables.
//!
//! A statement goes through five steps: [`guard`] admits one read-only statement, [`names`]
//! resolves bare dotted names, the session plans it over the snapshots of the tables that it
//! names, the scan reads them, and the answer streams out with what it cost.

mod answer;
mod bounds;
mod catalog;
mod coerce;
mod cost;
mod foreign;
pub mod guard;
pub mod names;
mod run;
mod scan;
mod session;
mod stop;
#[cfg(test)]
mod tests;

pub use answer::Answer;
pub use catalog::{ColumnInfo, TableInfo};
pub use cost::{Cost, Costs};
pub use session::{Queries, QueryOptions};

/// Longest statement that is taken, in bytes. Planning time and memory grow with it.
pub const SQL_BYTES_MAX: usize = 256 << 10;

/// A place in the SQL text, both counted from one, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

/// Why a query has no (full) answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The text is not SQL.
    #[error("{message}")]
    Syntax {
        /// What was expected.
        message: String,
        /// Where, if known.
        position: Option<Position>,
    },
    /// It is SQL, but not of the kind that is answered here.
    #[error("{0}")]
    Refused(String),
    /// A name means nothing, or two things.
    #[error("{message}")]
    Name {
        /// Which name, and what it could have meant.
        message: String,
        /// Where it stands, if known.
        position: Option<Position>,
    },
    /// It does not plan: wrong types, wrong number of arguments.
    #[error("{0}")]
    Plan(String),
    /// It planned, but failed on the data.
    #[error("{0}")]
    Failed(String),
    /// Too many queries run and wait already.
    #[error("too many queries: {running} run and {waiting} wait")]
    Busy {
        /// Queries that run.
        running: usize,
        /// Queries that wait.
        waiting: usize,
    },
    /// It ran longer than allowed.
    #[error("query ran longer than the limit of {} s", limit.as_secs_f64())]
    Timeout {
        /// The limit.
        limit: std::time::Duration,
    },
    /// It needs more memory than queries have.
    #[error("query needs more memory than its limit: {0}")]
    Memory(String),
    /// The answer is larger than allowed; what was sent before is right but not all.
    #[error("answer is larger than the limit of {limit} {unit}")]
    TooLarge {
        /// The limit.
        limit: u64,
        /// `rows` or `bytes`.
        unit: &'static str,
    },
}

impl QueryError {
    /// A short word for clients and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "syntax",
            Self::Refused(_) => "refused",
            Self::Name { .. } => "name",
            Self::Plan(_) => "plan",
            Self::Failed(_) => "failed",
            Self::Busy { .. } => "busy",
            Self::Timeout { .. } => "timeout",
            Self::Memory(_) => "memory",
            Self::TooLarge { .. } => "too_large",
        }
    }

    /// Where in the text, if known.
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Syntax { position, .. } | Self::Name { position, .. } => *position,
            _ => None,
        }
    }
}
