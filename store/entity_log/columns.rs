//! Entities as queries read them: of a chunk only the columns that are asked for, each cached by
//! itself. A question about two labels neither reads nor keeps the others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arrow::array::{Array, ArrayRef};
use arrow::compute::concat;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::chunk::{ChunkFile, EntitySet};
use crate::disk::verify;
use crate::error::{Result, StoreError};

/// Some columns of the entities `first..first + len()` of a set.
#[derive(Clone, Debug)]
pub struct EntityColumns {
    id: u64,
    first: u32,
    len: usize,
    /// Those that were asked for and that some entity has.
    columns: Vec<(Arc<str>, ArrayRef)>,
}

impl EntityColumns {
    /// A number that no other chunk of this process has; caches key on it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Id of the first entity.
    pub fn first(&self) -> u32 {
        self.first
    }

    /// Number of entities.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// As [`super::EntityChunk::column`], for a name that was asked for.
    pub fn column(&self, name: &str) -> Option<&ArrayRef> {
        self.columns.iter().find(|(n, _)| &**n == name).map(|(_, array)| array)
    }

    /// Approximate size in memory, in bytes.
    pub fn memory(&self) -> usize {
        self.columns.iter().map(|(_, a)| a.get_array_memory_size()).sum()
    }
}

/// A column in the cache. What it is of stands beside it, so that a chance hit is noticed.
struct Cached {
    chunk: u64,
    name: Arc<str>,
    array: ArrayRef,
}

impl EntitySet {
    /// The columns `names` of the entities of `file`.
    ///
    /// # Errors
    /// If it is damaged or gone (the log says so, once), or the disk refuses.
    pub(crate) fn columns(&self, file: &ChunkFile, names: &[&str]) -> Result<EntityColumns> {
        let read = catch_unwind(AssertUnwindSafe(|| self.read_columns(file, names)));
        let read = match read {
            Ok(read) => read.map_err(|e| spoilt(&file.path, e)),
            Err(_) => Err(StoreError::damaged(&file.path, "decoding it failed")),
        };
        file.note(read.as_ref().err());
        let columns = read?;
        let (first, len) = (file.meta.first, file.meta.entities as usize);
        Ok(EntityColumns { id: file.id, first, len, columns })
    }

    fn read_columns(&self, file: &ChunkFile, names: &[&str]) -> Result<Vec<(Arc<str>, ArrayRef)>> {
        if file.meta.entities == 0 {
            return Ok(Vec::new());
        }
        let stored = &file.meta.columns;
        let mut found = Vec::with_capacity(names.len());
        let mut missing: Vec<Arc<str>> = Vec::new();
        for &name in names {
            if let Ok(i) = stored.binary_search_by(|c| (*c.name).cmp(name)) {
                match self.cached(file, name) {
                    Some(array) => found.push((stored[i].name.clone(), array)),
                    None => missing.push(stored[i].name.clone()),
                }
            } else if file.meta.more {
                // A name without a column of its own: it takes the whole chunk to know.
                let array = self.load_chunk(file)?.column(name);
                found.extend(array.map(|array| (name.into(), array)));
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        for (name, array) in missing.iter().zip(read(file, &missing)?) {
            let bytes = array.get_array_memory_size() + name.len() + size_of::<Cached>();
            let cached = Cached { chunk: file.id, name: name.clone(), array: array.clone() };
            self.cache.insert(key(file, name), Arc::new(cached), bytes);
            found.push((name.clone(), array));
        }
        Ok(found)
    }

    fn cached(&self, file: &ChunkFile, name: &str) -> Option<ArrayRef> {
        let cached = self.cache.get::<Cached>(key(file, name))?;
        (cached.chunk == file.id && &*cached.name == name).then(|| cached.array.clone())
    }
}

/// What does not decode, or is gone, was damaged after it was verified.
fn spoilt(path: &Path, e: StoreError) -> StoreError {
    let why = match &e {
        StoreError::Io { source, .. } if source.kind() != std::io::ErrorKind::NotFound => return e,
        StoreError::Io { .. } => "it is gone".to_owned(),
        StoreError::Arrow(e) => e.to_string(),
        StoreError::Parquet(e) => e.to_string(),
        _ => return e,
    };
    StoreError::damaged(path, why)
}

fn key(file: &ChunkFile, name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), file.id)
}

/// The stored columns `names`, in their order. The file is compared with its checksum before this
/// process reads it first.
fn read(file: &ChunkFile, names: &[Arc<str>]) -> Result<Vec<ArrayRef>> {
    let path = &file.path;
    if !file.verified.load(Relaxed) {
        verify(path, file.meta.bytes, file.meta.crc)?;
        file.verified.store(true, Relaxed);
    }
    let damaged = |why: &str| StoreError::damaged(path, why);
    let open = std::fs::File::open(path).map_err(StoreError::io("cannot open", path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(open)?;
    // By whole names: parquet's own selection by name splits at dots.
    let roots = builder.schema().fields().iter().enumerate();
    let roots = roots.filter(|(_, f)| names.iter().any(|n| &**n == f.name())).map(|(i, _)| i);
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots.collect::<Vec<_>>());
    let entities = file.meta.entities as usize;
    let reader = builder.with_projection(mask).with_batch_size(entities.max(1)).build()?;
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    let column = |name: &Arc<str>| -> Result<ArrayRef> {
        let parts: Option<Vec<&ArrayRef>> =
            batches.iter().map(|b| b.column_by_name(name)).collect();
        let parts =
            parts.filter(|p| !p.is_empty()).ok_or_else(|| damaged("a column is missing"))?;
        let array = match parts.as_slice() {
            [one] => (*one).clone(),
            many => concat(&many.iter().map(|a| a.as_ref()).collect::<Vec<_>>())?,
        };
        if array.len() != entities {
            return Err(damaged("it holds another number of entities than the manifest says"));
        }
        Ok(array)
    };
    names.iter().map(column).collect()
}
