//! Ids for the entities of hot rows: one log per table and day, which grows by a chunk whenever a
//! flush brings entities that it lacks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use hashbrown::HashMap;
use parking_lot::Mutex;
use weir_pipeline::entity::{Entity, EntityTable};
use xxhash_rust::xxh3::xxh3_64;

use super::chunk::{ChunkFile, ChunkMeta, EntitySet};
use super::chunk_file::write_keyed;
use super::codec::sort_key;
use super::ranking::Ranking;
use crate::cache::Cache;
use crate::disk::{file_name, sync_folder};
use crate::error::{Result, StoreError};

/// Process tables whose ids are kept at hand.
const TABLES_MAX: usize = 16;
/// Entities whose ids are at hand at least.
const KNOWN_MIN: usize = 16 << 10;
/// No id.
const NONE: u32 = u32::MAX;

/// The entity log of one table and day.
#[derive(Debug)]
pub(crate) struct EntityLog {
    folder: PathBuf,
    set: Arc<EntitySet>,
    intern: Mutex<Option<Intern>>,
    /// The order of those that the last flushes had.
    ranking: Mutex<Arc<Ranking>>,
    /// Entities that half of what is at hand has.
    known_max: usize,
    /// Ids below this stand in files, whatever the chunks say: a damaged manifest may have lost
    /// some, and an id must not come to mean another entity.
    taken: AtomicU32,
}

/// By [`print_of`]: id.
type Ids = HashMap<Print, u32>;

/// What tells an entity from all others: its fingerprint, and where two have the same, its attributes.
type Print = [u64; 2];

fn print_of(fingerprint: u128, sort_key: &[u8]) -> Print {
    let halves = [(fingerprint >> 64) as u64, fingerprint as u64];
    [halves[0], halves[1] ^ xxh3_64(sort_key)]
}

/// What is known of the ids in use; read from the chunks when the first flush needs it. An entity
/// that was not met for so long that it is forgotten gets another id when it comes again.
#[derive(Debug, Default)]
struct Intern {
    /// Those met last, and before: when the first are many, they take the place of the others.
    young: Ids,
    old: Ids,
    next: u32,
    /// Per process table: key to id, [`NONE`] where unknown. Newest use last.
    tables: Vec<(u64, Vec<u32>)>,
}

impl EntityLog {
    pub(crate) fn new(folder: &Path, chunks: Vec<ChunkMeta>, cache: Arc<Cache>) -> Self {
        let known_max = (cache.limit() / 2 / size_of::<(Print, u32)>()).max(KNOWN_MIN);
        let chunks = chunks.into_iter().map(|m| Arc::new(ChunkFile::new(m, folder))).collect();
        Self {
            folder: folder.to_owned(),
            set: Arc::new(EntitySet::new(chunks, cache)),
            intern: Mutex::default(),
            ranking: Mutex::default(),
            known_max,
            taken: AtomicU32::new(0),
        }
    }

    /// A file refers to the id `highest`: no new entity gets it.
    pub(crate) fn take(&self, highest: u32) {
        self.taken.fetch_max(highest.saturating_add(1), Relaxed);
    }

    /// The entities.
    pub(crate) fn set(&self) -> &Arc<EntitySet> {
        &self.set
    }

    /// The ids of `keys`. New entities are written and fsynced to a chunk, which `commit` adds to the
    /// manifest before anything can refer to it.
    pub(crate) fn ids(
        &self,
        table: &EntityTable,
        keys: &[&[u32]],
        commit: &mut dyn FnMut(&ChunkMeta) -> Result<()>,
    ) -> Result<Vec<Vec<u32>>> {
        let mut intern = self.intern.lock();
        let intern = match &mut *intern {
            Some(intern) => intern,
            empty => empty.insert(self.read_ids()?),
        };
        let mut map = match intern.tables.iter().position(|(id, _)| *id == table.id()) {
            Some(i) => intern.tables.remove(i).1,
            None => Vec::new(),
        };
        map.resize(table.len().max(map.len()), NONE);
        let new = intern.look_up(table, keys, &mut map, self.known_max);
        if !new.is_empty() {
            let first = intern.next;
            let full = StoreError::Full {
                table: self.folder.display().to_string(),
                why: "a day holds at most 2^32 - 1 entities",
            };
            let count = u32::try_from(new.len()).ok();
            let next =
                count.and_then(|n| first.checked_add(n)).filter(|n| *n < NONE).ok_or(full)?;
            let entities: Vec<Arc<Entity>> = new.iter().map(|n| n.entity.clone()).collect();
            let sort_key = |i: usize| &*new[i].sort_key;
            let meta = write_keyed(&self.folder, &file_name("e"), first, &entities, sort_key)?;
            sync_folder(&self.folder)?;
            commit(&meta)?;
            self.set.chunks.write().push(Arc::new(ChunkFile::new(meta, &self.folder)));
            intern.next = next;
            for (id, new) in (first..).zip(new) {
                map[new.key as usize] = id;
                intern.learn(new.print, id, self.known_max);
            }
        }
        let id = |key: &u32| map[*key as usize];
        let ids = keys.iter().map(|keys| keys.iter().map(id).collect()).collect();
        intern.tables.push((table.id(), map));
        if intern.tables.len() > TABLES_MAX {
            intern.tables.remove(0);
        }
        Ok(ids)
    }

    /// The order that was found last.
    pub(crate) fn ranking(&self) -> Arc<Ranking> {
        self.ranking.lock().clone()
    }

    pub(crate) fn set_ranking(&self, ranking: Ranking) -> Arc<Ranking> {
        let ranking = Arc::new(ranking);
        *self.ranking.lock() = ranking.clone();
        ranking
    }

    /// Holds off [`EntityLog::ids`] while `work` replaces chunks by equal ones.
    pub(crate) fn exclusive<T>(&self, work: impl FnOnce() -> T) -> T {
        let _intern = self.intern.lock();
        work()
    }

    /// The newest first: of more than can be kept at hand the older are left.
    fn read_ids(&self) -> Result<Intern> {
        let mut intern = Intern::default();
        let files = self.set.files();
        for file in files.iter().rev() {
            if intern.young.len() >= self.known_max {
                break;
            }
            let chunk = match self.set.load_chunk(file) {
                Ok(chunk) => chunk,
                Err(StoreError::Damaged { .. }) => continue,
                Err(e) => return Err(e),
            };
            for (i, fingerprint) in chunk.fingerprints().iter().enumerate() {
                let print = print_of(*fingerprint, &chunk.sort_keys()[i]);
                intern.young.entry(print).or_insert(chunk.first() + i as u32);
            }
        }
        // Also past chunks that are damaged: their ids stay taken.
        for file in files {
            intern.next = intern.next.max(file.meta.first + file.meta.entities);
        }
        intern.next = intern.next.max(self.taken.load(Relaxed));
        Ok(intern)
    }
}

/// An entity that the log lacks.
struct New {
    key: u32,
    entity: Arc<Entity>,
    sort_key: Box<[u8]>,
    print: Print,
}

impl Intern {
    /// Fills `map` for the keys whose entities are known; the others, sorted.
    fn look_up(
        &mut self,
        table: &EntityTable,
        keys: &[&[u32]],
        map: &mut [u32],
        known_max: usize,
    ) -> Vec<New> {
        let mut seen = Vec::new();
        let mut new = Vec::new();
        for &key in keys.iter().copied().flatten() {
            if map[key as usize] != NONE {
                continue;
            }
            // A new series may have many rows.
            seen.resize(map.len(), false);
            if std::mem::replace(&mut seen[key as usize], true) {
                continue;
            }
            let entity = table.get(key);
            let sort_key = sort_key(&entity);
            let print = print_of(entity.fingerprint(), &sort_key);
            match self.young.get(&print).or_else(|| self.old.get(&print)).copied() {
                Some(id) => {
                    map[key as usize] = id;
                    self.learn(print, id, known_max);
                }
                None => new.push(New { key, entity, sort_key, print }),
            }
        }
        new.sort_by(|a, b| a.sort_key.cmp(&b.sort_key));
        new
    }

    fn learn(&mut self, print: Print, id: u32, known_max: usize) {
        if self.young.len() >= known_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.entry(print).or_insert(id);
    }
}
