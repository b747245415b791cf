//! Finds the entity of a series by the bytes that name it on the wire, so that a known series
//! costs a hash and a comparison, and no entity is built.
//!
//! Two halves of bounded size: what is used moves to the young one; when that is full it becomes
//! the old one, and what was not used since is forgotten. A hit compares the bytes themselves.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};
use parking_lot::{RwLock, RwLockReadGuard};
use weir_pipeline::entity::{Entity, EntityTable};

/// Bytes of names in one half: some 250,000 series of 250 bytes, beside 64 MB of slots at most.
const HALF_BYTES_MAX: usize = 64 << 20;

/// Wire names longer than this are not kept: one such series must not push out thousands.
const NAME_BYTES_MAX: usize = 64 << 10;

/// Why a series has no entity.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadSeries {
    /// For the metric label.
    pub(crate) reason: &'static str,
    /// What is wrong.
    pub(crate) message: String,
}

impl BadSeries {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

#[derive(Debug)]
struct Slot {
    hash: u64,
    start: u32,
    len: u32,
    key: u32,
}

#[derive(Debug, Default)]
struct Half {
    names: Vec<u8>,
    slots: HashTable<Slot>,
}

impl Half {
    fn get(&self, hash: u64, name: &[u8]) -> Option<u32> {
        let same = |s: &Slot| s.hash == hash && self.name(s) == name;
        self.slots.find(hash, same).map(|s| s.key)
    }

    fn name(&self, slot: &Slot) -> &[u8] {
        let start = slot.start as usize;
        self.names.get(start..start + slot.len as usize).unwrap_or_default()
    }

    /// Memory that `name` takes here, bytes: a table is half full on average.
    fn takes(name: &[u8]) -> usize {
        name.len() + 2 * size_of::<Slot>()
    }

    /// Whether there is room: the bounds keep every position within 32 bits.
    fn has_room(&self, name: &[u8]) -> bool {
        self.names.len() + name.len() <= HALF_BYTES_MAX
    }

    fn insert(&mut self, hash: u64, name: &[u8], key: u32) {
        let slot = Slot { hash, start: self.names.len() as u32, len: name.len() as u32, key };
        self.names.extend_from_slice(name);
        self.slots.insert_unique(hash, slot, |s| s.hash);
    }
}

#[derive(Debug, Default)]
struct Halves {
    /// The entity table that the keys belong to.
    table: u64,
    young: Half,
    old: Half,
}

/// Keys of known series by their bytes on the wire, for one entity table.
#[derive(Debug, Default)]
pub(crate) struct SeriesCache {
    hasher: DefaultHashBuilder,
    halves: RwLock<Halves>,
}

impl SeriesCache {
    /// Lookups of one journal entry, whose rows all have their entities in `table`.
    pub(crate) fn lookup(&self, table: Arc<EntityTable>) -> Lookup<'_> {
        let halves = self.halves.read();
        let known = halves.table == table.id();
        Lookup { cache: self, known: known.then_some(halves), table, fresh: Half::default() }
    }
}

/// See [`SeriesCache::lookup`]. What it learns is kept by [`Lookup::finish`].
pub(crate) struct Lookup<'a> {
    cache: &'a SeriesCache,
    known: Option<RwLockReadGuard<'a, Halves>>,
    table: Arc<EntityTable>,
    fresh: Half,
}

impl Lookup<'_> {
    /// The key of the series that is `name` on the wire (any bytes that decide its entity);
    /// `build` makes the entity of one that is not known.
    ///
    /// # Errors
    /// Those of `build`, and a collision of fingerprints.
    pub(crate) fn key(
        &mut self,
        name: &[u8],
        build: impl FnOnce() -> Result<Entity, BadSeries>,
    ) -> Result<u32, BadSeries> {
        let hash = self.cache.hasher.hash_one(name);
        if let Some(halves) = &self.known
            && let Some(key) = halves.young.get(hash, name)
        {
            return Ok(key);
        }
        if let Some(key) = self.fresh.get(hash, name) {
            return Ok(key);
        }
        let aged = self.known.as_ref().and_then(|h| h.old.get(hash, name));
        let key = match aged {
            Some(key) => key,
            None => self
                .table
                .intern(build()?)
                .map_err(|e| BadSeries::new("collision", e.to_string()))?,
        };
        if name.len() <= NAME_BYTES_MAX && self.fresh.has_room(name) {
            self.fresh.insert(hash, name, key);
        }
        Ok(key)
    }

    /// Keeps what was learned, and gives back the table.
    pub(crate) fn finish(mut self) -> Arc<EntityTable> {
        drop(self.known.take());
        if self.fresh.slots.is_empty() {
            return self.table;
        }
        let mut learned = 0;
        let mut halves = self.cache.halves.write();
        if halves.table != self.table.id() {
            *halves = Halves { table: self.table.id(), ..Halves::default() };
        }
        for slot in &self.fresh.slots {
            let name = self.fresh.name(slot);
            if halves.young.get(slot.hash, name).is_some() {
                continue; // another request was faster
            }
            if !halves.young.has_room(name) {
                halves.old = std::mem::take(&mut halves.young);
            }
            learned += Half::takes(name);
            halves.young.insert(slot.hash, name, slot.key);
        }
        drop(halves);
        // What is forgotten meanwhile is still counted: better too early a new table than too late.
        self.table.note(learned);
        self.table
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use weir_pipeline::entity::{Attribute, Origin, Value};

    use super::*;

    fn entity(name: &str) -> Entity {
        let value = Value::Text(name.into());
        Entity::new(vec![Attribute { name: "metric.name".into(), value, origin: Origin::Metric }])
    }

    #[test]
    fn known_series_are_not_built_again() {
        let cache = SeriesCache::default();
        let table = Arc::new(EntityTable::default());
        let mut first = cache.lookup(table.clone());
        let a = first.key(b"a", || Ok(entity("a"))).unwrap();
        let b = first.key(b"b", || Ok(entity("b"))).unwrap();
        assert_eq!(first.key(b"a", || panic!("built twice")), Ok(a));
        first.finish();
        let mut second = cache.lookup(table);
        assert_eq!(second.key(b"a", || panic!("built twice")), Ok(a));
        assert_eq!(second.key(b"b", || panic!("built twice")), Ok(b));
        let bad = || Err(BadSeries::new("x", "y"));
        assert_eq!(second.key(b"c", bad).unwrap_err().reason, "x");
        second.finish();
        // Another table, other keys.
        let other = Arc::new(EntityTable::default());
        let mut third = cache.lookup(other);
        assert_eq!(third.key(b"b", || Ok(entity("b"))), Ok(0));
    }

    #[test]
    fn what_is_not_used_is_forgotten() {
        let cache = SeriesCache::default();
        let table = Arc::new(EntityTable::default());
        let long = NAME_BYTES_MAX - 4;
        let name = |i: usize| {
            let mut name = vec![b'x'; long];
            name.extend((i as u32).to_le_bytes());
            name
        };
        let per_half = HALF_BYTES_MAX / name(0).len();
        let mut built = Vec::new();
        for i in 0..2 * per_half + 1 {
            let mut lookup = cache.lookup(table.clone());
            for i in [0, i] {
                lookup
                    .key(&name(i), || {
                        built.push(i);
                        Ok(entity(&i.to_string()))
                    })
                    .unwrap();
            }
            lookup.finish();
        }
        assert_eq!(built, (0..2 * per_half + 1).collect::<Vec<_>>());
        let mut lookup = cache.lookup(table);
        let mut again = false;
        lookup
            .key(&name(1), || {
                again = true;
                Ok(entity("1"))
            })
            .unwrap();
        assert!(again);
    }
}
