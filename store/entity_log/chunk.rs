//! Chunks of entities in memory, and the sets that they make up.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type};
use hashbrown::HashMap;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use weir_pipeline::entity::{Attribute, Entity, Origin, Value, build_column};
use weir_pipeline::signal::{META_JSON, META_ORIGIN};

use super::chunk_file::read_chunk;
use crate::cache::{Cache, next_id};
use crate::error::{Result, StoreError};
use crate::file::{FileColumn, first_version, is_first_version};

/// Entities `first..first + len()` of a set, as columns.
#[derive(Debug)]
pub struct EntityChunk {
    pub(crate) id: u64,
    pub(crate) first: u32,
    pub(crate) fingerprints: Vec<u128>,
    pub(crate) sort_keys: Vec<Box<[u8]>>,
    pub(crate) columns: Vec<(Arc<Field>, ArrayRef)>,
    /// Entities that the columns alone do not tell exactly: a value of another type or origin
    /// than its column, or a name without a column.
    pub(crate) exact: HashMap<u32, Arc<Entity>>,
}

impl EntityChunk {
    /// A number that no other chunk of this process has; caches key on it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Id of its first entity.
    pub fn first(&self) -> u32 {
        self.first
    }

    /// Number of entities.
    pub fn len(&self) -> usize {
        self.fingerprints.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.fingerprints.is_empty()
    }

    /// The attribute `name`, one value per entity in order of id, NULL where an entity lacks it;
    /// of the narrowest of bool, int, double, text that holds all values of this chunk. `None` if
    /// no entity has it.
    pub fn column(&self, name: &str) -> Option<ArrayRef> {
        if let Ok(i) = self.columns.binary_search_by(|(f, _)| f.name().as_str().cmp(name)) {
            return Some(self.columns[i].1.clone());
        }
        if !self.exact.values().any(|e| e.get(name).is_some()) {
            return None;
        }
        let all = (0..self.len() as u32).map(|i| self.exact.get(&i).and_then(|e| e.get(name)));
        Some(build_column(all).values)
    }

    /// The attributes that have a column, sorted by name; those of a chunk with very many names
    /// are not all here.
    pub fn columns(&self) -> &[(Arc<Field>, ArrayRef)] {
        &self.columns
    }

    /// Every attribute name, sorted.
    pub fn names(&self) -> BTreeSet<&str> {
        let exact = self.exact.values().flat_map(|e| e.attributes().iter().map(|a| &*a.name));
        self.columns.iter().map(|(f, _)| f.name().as_str()).chain(exact).collect()
    }

    /// The entity at `index` (its id less [`EntityChunk::first`]), exactly as it was written.
    pub fn entity(&self, index: usize) -> Arc<Entity> {
        if let Some(exact) = self.exact.get(&(index as u32)) {
            return exact.clone();
        }
        let attributes = self.columns.iter().filter(|(_, a)| a.is_valid(index)).map(|(f, a)| {
            let meta = f.metadata();
            let json = meta.get(META_JSON).is_some_and(|v| v == "true");
            let origin = meta.get(META_ORIGIN).and_then(|o| Origin::from_name(o));
            Attribute {
                name: f.name().as_str().into(),
                value: value_at(a, index, json),
                origin: origin.unwrap_or(Origin::Resource),
            }
        });
        Arc::new(Entity::new(attributes.collect()))
    }

    /// The 128-bit fingerprints, in order of id.
    pub fn fingerprints(&self) -> &[u128] {
        &self.fingerprints
    }

    /// Bytes whose order is the order of entities in files, in order of id.
    pub fn sort_keys(&self) -> &[Box<[u8]>] {
        &self.sort_keys
    }

    /// Approximate size in memory, in bytes.
    pub fn memory(&self) -> usize {
        let columns: usize = self.columns.iter().map(|(_, a)| a.get_array_memory_size()).sum();
        let exact: usize = self.exact.values().map(|e| 64 + e.attributes().len() * 96).sum();
        let keys: usize = self.sort_keys.iter().map(|k| k.len() + 16).sum();
        columns + exact + keys + self.fingerprints.len() * 16
    }
}

fn value_at(array: &ArrayRef, i: usize, json: bool) -> Value {
    match array.data_type() {
        DataType::Boolean => Value::Bool(array.as_boolean().value(i)),
        DataType::Int64 => Value::Int(array.as_primitive::<Int64Type>().value(i)),
        DataType::Float64 => Value::Double(array.as_primitive::<Float64Type>().value(i)),
        _ => {
            let text: Arc<str> = array.as_string::<i32>().value(i).into();
            if json { Value::Json(text) } else { Value::Text(text) }
        }
    }
}

/// What this binary writes, and the newest that it reads.
pub(crate) const CHUNK_VERSION: u32 = 1;

/// What the manifest says of a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkMeta {
    /// File name in the table's `entities` folder; never used twice.
    pub file: Arc<str>,
    /// Id of its first entity.
    pub first: u32,
    /// Number of entities.
    pub entities: u32,
    /// Size in bytes.
    pub bytes: u64,
    /// CRC32C of the whole file.
    pub crc: u32,
    /// Attributes, sorted by name, with the narrowest type that holds all values.
    pub columns: Arc<[FileColumn]>,
    /// There are attributes besides `columns`: too many names, or reserved ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// Version of what the file holds and how, [`CHUNK_VERSION`] when it was written.
    #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
    pub version: u32,
}

impl ChunkMeta {
    /// Whether some of `ids` (sorted) are in it.
    fn has_any(&self, ids: &[u32]) -> bool {
        let first = ids.partition_point(|id| *id < self.first);
        ids.get(first).is_some_and(|id| id - self.first < self.entities)
    }
}

/// A chunk on disk.
#[derive(Debug)]
pub(crate) struct ChunkFile {
    pub(crate) meta: ChunkMeta,
    pub(crate) path: PathBuf,
    pub(crate) id: u64,
    pub(crate) damaged: AtomicBool,
    /// Whether it was what it should be when this process read it first.
    pub(crate) verified: AtomicBool,
}

impl ChunkFile {
    /// The chunk `meta` in `folder`.
    pub(crate) fn new(meta: ChunkMeta, folder: &Path) -> Self {
        Self {
            path: folder.join(&*meta.file),
            meta,
            id: next_id(),
            damaged: AtomicBool::new(false),
            verified: AtomicBool::new(false),
        }
    }

    /// Remembers, and says once, that it is damaged, if that is what `e` says.
    pub(super) fn note(&self, e: Option<&StoreError>) {
        if let Some(e @ StoreError::Damaged { .. }) = e
            && !self.damaged.swap(true, Relaxed)
        {
            tracing::error!(error = %e, "entities are damaged and left out");
        }
    }
}

/// Entities that ids of one or more files point into.
#[derive(Debug)]
pub struct EntitySet {
    pub(crate) chunks: RwLock<Vec<Arc<ChunkFile>>>,
    pub(crate) cache: Arc<Cache>,
}

impl EntitySet {
    pub(crate) fn new(chunks: Vec<Arc<ChunkFile>>, cache: Arc<Cache>) -> Self {
        Self { chunks: RwLock::new(chunks), cache }
    }

    /// All chunks, in order of id, read from disk where the cache has them not. A chunk never
    /// changes; further ones may come. One that is damaged is named in the log and left out: rows
    /// whose id is in no chunk keep their row columns, and read NULL for entity columns.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn load(&self) -> Result<Vec<Arc<EntityChunk>>> {
        let mut out = Vec::new();
        for file in self.files() {
            match self.load_chunk(&file) {
                Ok(chunk) => out.push(chunk),
                Err(StoreError::Damaged { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(out)
    }

    /// Chunks that [`EntitySet::load`] left out because they are damaged or gone.
    pub(crate) fn lost(&self) -> Vec<Arc<ChunkFile>> {
        self.files().into_iter().filter(|file| file.damaged.load(Relaxed)).collect()
    }

    /// The chunks that some of `ids` (sorted) are in, those that are not among `loaded` added to it.
    ///
    /// # Errors
    /// If one of them is damaged, or the disk refuses.
    pub(crate) fn load_of(
        &self,
        ids: &[u32],
        loaded: &mut HashMap<u64, Arc<EntityChunk>>,
    ) -> Result<Vec<Arc<EntityChunk>>> {
        let files = self.files().into_iter().filter(|file| file.meta.has_any(ids));
        let chunk = |file: Arc<ChunkFile>| {
            if let Some(chunk) = loaded.get(&file.id) {
                return Ok(chunk.clone());
            }
            let chunk = self.load_chunk(&file)?;
            loaded.insert(file.id, chunk.clone());
            Ok(chunk)
        };
        files.map(chunk).collect()
    }

    pub(crate) fn files(&self) -> Vec<Arc<ChunkFile>> {
        self.chunks.read().clone()
    }

    pub(crate) fn load_chunk(&self, file: &ChunkFile) -> Result<Arc<EntityChunk>> {
        if let Some(chunk) = self.cache.get::<EntityChunk>(file.id) {
            return Ok(chunk);
        }
        let read = read_chunk(file);
        file.note(read.as_ref().err());
        let chunk = Arc::new(read?);
        self.cache.insert(file.id, chunk.clone(), chunk.memory());
        Ok(chunk)
    }
}
