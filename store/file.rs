//! Data files: what the manifest says of one, and what a reader may ask it.

mod encoding;
mod read;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arrow::datatypes::{Field, Schema};
use serde::{Deserialize, Serialize};
use weir_pipeline::signal::{META_JSON, META_ORIGIN};

use crate::cache::Cache;
use crate::disk::verify;
use crate::entity_log::{ChunkMeta, EntitySet};
use crate::error::Result;
use crate::layout::{Layout, Runs, Slice};
use crate::tokens::TokenFilters;
use crate::types::ColumnType;

pub(crate) use read::{FileReader, staged_entity_max};
pub(crate) use write::{FileSpec, rest_kind, write_file};

/// The column of files that holds the entity id of each row. Never shown to queries.
pub const ENTITY_COLUMN: &str = "weir.entity";

/// Overflow keys that the manifest lists for one file; with more it says only that there are many.
pub(crate) const OVERFLOW_KEYS_MAX: usize = 1_024;

/// Version of data files that this binary writes, and the newest that it reads. 2: doubles may be
/// decimals ([`ColumnType::Decimal`]).
pub(crate) const FILE_VERSION: u32 = 2;

pub(crate) fn first_version() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(crate) fn is_first_version(version: &u32) -> bool {
    *version == 1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// One row column of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileColumn {
    /// Name.
    pub name: Arc<str>,
    /// Type at rest; what queries see is [`ColumnType::surface`] of it, or wider.
    #[serde(rename = "type")]
    pub kind: ColumnType,
    /// Text that holds JSON (field metadata `weir.json`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub json: bool,
    /// Where the attribute came from (field metadata `weir.origin`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Arc<str>>,
}

impl FileColumn {
    /// The Arrow field in the file.
    pub fn field(&self) -> Field {
        let mut metadata = std::collections::HashMap::new();
        if self.json {
            metadata.insert(META_JSON.to_owned(), "true".to_owned());
        }
        if let Some(origin) = &self.origin {
            metadata.insert(META_ORIGIN.to_owned(), origin.to_string());
        }
        Field::new(&*self.name, self.kind.at_rest(), true).with_metadata(metadata)
    }
}

/// The keys in the JSON column `attributes` of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// The file has no column `attributes`.
    #[default]
    None,
    /// Exactly these, sorted.
    Keys(Vec<Arc<str>>),
    /// More than [`OVERFLOW_KEYS_MAX`]: any name may be there.
    Many,
}

impl Overflow {
    /// Whether `name` may stand in `attributes`.
    pub fn may_have(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::Keys(keys) => keys.binary_search_by(|k| (**k).cmp(name)).is_ok(),
            Self::Many => true,
        }
    }
}

/// Where the entities of a file are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntityPlace {
    /// In the entity log of this day (days since the epoch).
    Log(i32),
    /// In a chunk of its own beside the data, with ids from 0.
    Own(ChunkMeta),
}

/// What the manifest says of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    /// File name in the table's `files` folder; never used twice.
    pub name: Arc<str>,
    /// 0: written by a flush; 1: merged by hour; 2: a whole hour; 3: a whole day.
    pub level: u8,
    /// Version of what the file holds and how, [`FILE_VERSION`] when it was written.
    #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
    pub version: u32,
    /// How rows are ordered.
    pub layout: Layout,
    /// Number of rows.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Approximate size in memory, in bytes.
    pub raw_bytes: u64,
    /// Memory that its entities take in a merge, about, in bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub entity_bytes: u64,
    /// CRC32C of the whole file.
    pub crc: u32,
    /// Latest time of receipt of any row, UTC nanoseconds.
    pub received: i64,
    /// Earliest `timestamp`, UTC nanoseconds.
    pub min_time: i64,
    /// Latest `timestamp`, UTC nanoseconds.
    pub max_time: i64,
    /// Row columns, sorted by name, without [`ENTITY_COLUMN`].
    pub columns: Arc<[FileColumn]>,
    /// Names in the JSON column `attributes`.
    #[serde(default)]
    pub overflow: Overflow,
    /// One per row group, in order.
    pub slices: Vec<Slice>,
    /// Where the entities are; `None` for streams without.
    pub entities: Option<EntityPlace>,
    /// Bytes from the start of the file, and length, of the encoded [`Runs`].
    pub runs: Option<(u64, u64)>,
    /// Highest entity id of any row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity_max: Option<u32>,
    /// Which tokens its texts may have, for each column that has such filters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tokens: Vec<TokenFilters>,
}

/// A file of a pinned version. Its bytes stay as long as anybody holds this.
#[derive(Debug)]
pub struct FileEntry {
    pub(crate) meta: Arc<FileMeta>,
    pub(crate) path: PathBuf,
    pub(crate) set: Option<Arc<EntitySet>>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) id: u64,
    /// Whether it was what it should be when this process read it first.
    pub(crate) verified: AtomicBool,
}

impl FileEntry {
    /// What the manifest says of it.
    pub fn meta(&self) -> &FileMeta {
        &self.meta
    }

    /// A number that no other file of this process has; caches key on it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Compares the whole file with its checksum, once.
    ///
    /// # Errors
    /// As [`verify`].
    pub(crate) fn verify(&self) -> Result<()> {
        if !self.verified.load(Relaxed) {
            verify(&self.path, self.meta.bytes, self.meta.crc)?;
            self.verified.store(true, Relaxed);
        }
        Ok(())
    }

    /// The row column `name`.
    pub fn column(&self, name: &str) -> Option<&FileColumn> {
        let columns = &self.meta.columns;
        columns.binary_search_by(|c| (*c.name).cmp(name)).ok().map(|i| &columns[i])
    }

    /// The entities that the ids of this file point into; `None` for streams without.
    pub fn entities(&self) -> Option<&Arc<EntitySet>> {
        self.set.as_ref()
    }

    /// The file of its own entities, if it has one.
    pub(crate) fn own_chunk(&self) -> Option<PathBuf> {
        match (&self.meta.entities, &self.set) {
            (Some(EntityPlace::Own(_)), Some(set)) => set.files().first().map(|c| c.path.clone()),
            _ => None,
        }
    }

    /// Whether an entity that the file may refer to has the attribute `name`. Read off the
    /// manifest, so it may say yes where no row of the file has a value.
    pub fn may_have_entity_column(&self, name: &str) -> bool {
        let chunks = self.set.iter().flat_map(|set| set.files());
        chunks.into_iter().any(|chunk| {
            let columns = &chunk.meta.columns;
            chunk.meta.more || columns.binary_search_by(|c| (*c.name).cmp(name)).is_ok()
        })
    }

    /// The Arrow schema in the file: the row columns in order, then [`ENTITY_COLUMN`] if it has
    /// entities.
    pub fn arrow_schema(&self) -> Schema {
        file_schema(&self.meta.columns, self.meta.entities.is_some())
    }

    /// Which rows belong to which entity, read once and cached. `None` for streams without
    /// entities. Runs cover all rows, in row order, and none crosses a slice.
    ///
    /// # Errors
    /// If the file is damaged or gone.
    pub fn runs(&self) -> Result<Option<Arc<Runs>>> {
        let Some((start, len)) = self.meta.runs else { return Ok(None) };
        if let Some(runs) = self.cache.get::<Runs>(self.id) {
            return Ok(Some(runs));
        }
        let runs = Runs::read(&self.path, start, len, self.meta.rows)?;
        let runs = Arc::new(runs);
        self.cache.insert(self.id, runs.clone(), runs.memory());
        Ok(Some(runs))
    }
}

/// The Arrow schema of a file with these columns.
pub(crate) fn file_schema(columns: &[FileColumn], entities: bool) -> Schema {
    let mut fields: Vec<Field> = columns.iter().map(FileColumn::field).collect();
    if entities {
        fields.push(Field::new(ENTITY_COLUMN, ColumnType::EntityId.at_rest(), false));
    }
    Schema::new(fields)
}
