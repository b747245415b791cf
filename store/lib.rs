//! The store: tables of immutable Parquet files that a manifest lists, plus hot rows.
//!
//! Writers append batches, which readers see at once, stage them as fsynced files, and commit
//! them to the manifest. Readers take a [`TableSnapshot`]. Nothing here knows pipelines.

mod cache;
mod entity_log;
mod error;
mod file;
mod layout;
pub mod query;
mod snapshot;
mod store;
mod table;
mod types;

pub use cache::Cache;
pub use entity_log::{EntityChunk, EntitySet};
pub use error::{Result, StoreError};
pub use file::{ENTITY_COLUMN, EntityPlace, FileColumn, FileEntry, FileMeta, Overflow};
pub use layout::{EntityRun, Layout, Runs, SLICE_ROWS, Slice};
pub use snapshot::{HotRun, TableColumn, TableSchema, TableSnapshot};
pub use store::{Store, StoreOptions};
pub use table::Table;
pub use types::ColumnType;
