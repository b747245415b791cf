//! The store: tables of immutable Parquet files that a manifest lists, plus hot rows.
//!
//! Writers append batches, which readers see at once, stage them as fsynced files, and commit
//! them to the manifest. Readers take a [`TableSnapshot`]. Nothing here knows pipelines.

mod cache;
mod decimal;
mod disk;
mod entity_log;
mod error;
mod export;
mod file;
mod flush;
mod layout;
mod maintenance;
mod manifest;
mod merge;
mod normalise;
mod order;
pub mod query;
mod snapshot;
mod store;
mod table;
#[cfg(test)]
mod testing;
mod tokens;
mod turns;
mod types;
mod writer;

pub use cache::Cache;
pub use entity_log::{ChunkMeta, EntityChunk, EntityColumns, EntitySet};
pub use error::{Result, StoreError};
pub use export::{Exported, export};
pub use file::{ENTITY_COLUMN, EntityPlace, FileColumn, FileEntry, FileMeta, Overflow};
pub use layout::{EntityRun, Layout, Runs, SLICE_ROWS, Slice};
pub use maintenance::Merged;
pub use manifest::WriterId;
pub use snapshot::{HotRun, TableColumn, TableSchema, TableSnapshot};
pub use store::{Commit, DEFAULT_TENANT, NAME_BYTES_MAX, Store, StoreOptions, check_name};
pub use table::{LATE_SUFFIX, Table, TableStats};
pub use types::{ColumnType, hex_bytes, to_surface};
pub use writer::{AHEAD_MAX, Appended, CARRY_BYTES, Staged, TableWriter};
