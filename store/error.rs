//! What can go wrong in the store.

use std::path::{Path, PathBuf};

use crate::store::NAME_BYTES_MAX;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused.
    #[error("{action} `{path}`: {source}")]
    Io {
        /// What was tried, as "cannot write".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should: set aside, or to be.
    #[error("`{path}` is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file could not be read, although it holds what it should.
    #[error("cannot read `{path}`, though it is whole: {why}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// Written by a newer Weir.
    #[error(
        "`{path}` has format version {found}, this binary reads up to {known}: use the binary that \
         wrote it, or a newer one"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest known here.
        known: u32,
    },
    /// Arrow could not compute something.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    /// Parquet could not be written or read.
    #[error(transparent)]
    Parquet(#[from] parquet::errors::ParquetError),
    /// An entity that cannot be stored.
    #[error(transparent)]
    Entity(#[from] weir_pipeline::entity::EntityError),
    /// A table holds rows of journal entries that the journal does not have.
    #[error(
        "table `{}` holds rows of pipeline `{}`, sink `{}` up to entry {}, but journal {:032x} \
         ends at entry {head}",
        commit.table, commit.writer.pipeline, commit.writer.sink, commit.mark,
        commit.writer.journal
    )]
    Ahead {
        /// The newest commit.
        commit: Box<crate::store::Commit>,
        /// The newest entry of the journal.
        head: u64,
    },
    /// Staged work or a carry that this store did not write.
    #[error("cannot take back {what}: {why}")]
    Foreign {
        /// "staged work", "carried rows".
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The name of a table or tenant is not allowed.
    #[error(
        "`{0}` is no table name: lower-case letters, digits, `_` and `.`, a letter first, at most \
         {NAME_BYTES_MAX} bytes"
    )]
    Name(String),
    /// More than the format can hold.
    #[error("table `{table}` is full: {why}")]
    Full {
        /// The table.
        table: String,
        /// Which bound was met.
        why: &'static str,
    },
}

impl StoreError {
    /// An error of the disk.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// A file that does not hold what it should.
    pub(crate) fn damaged(path: &Path, why: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), why: why.into() }
    }

    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Io { .. })
    }
}

/// A result of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
