//! Finds the entity of a series by the bytes that name it on the wire, so that a known series
//! costs a hash, and no entity is built.
//!
//! A name is known by 128 bits of hash under a secret that this process made up: two names that
//! agree in them do not occur, and nobody can make any. So the names themselves are not kept.
//!
//! Two halves of bounded size: what is used moves to the young one; when that is full it becomes
//! the old one, and what was not used since is forgotten.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use parking_lot::{RwLock, RwLockReadGuard};
use weir_pipeline::entity::{Entity, EntityTable};
use xxhash_rust::xxh3::xxh3_128_with_secret;

/// Series in one half.
const HALF_MAX: usize = 1 << 20;

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

/// What a name is known by.
type Print = [u64; 2];

#[derive(Clone, Copy, Debug)]
struct Slot {
    print: Print,
    key: u32,
    /// Length of the name.
    len: u32,
}

/// Series in the order in which they came: mostly they come in that order again, and the next one
/// is at hand without a search.
#[derive(Debug, Default)]
struct Half {
    slots: Vec<Slot>,
    /// Places in `slots`.
    index: HashTable<u32>,
}

impl Half {
    /// The place of a series that is likely at `guess`.
    #[inline]
    fn find(&self, print: Print, guess: usize) -> Option<usize> {
        if self.slots.get(guess).is_some_and(|s| s.print == print) {
            return Some(guess);
        }
        let same = |place: &u32| self.slots[*place as usize].print == print;
        self.index.find(print[0], same).map(|place| *place as usize)
    }

    fn insert(&mut self, slot: Slot) {
        let Self { slots, index } = self;
        index.insert_unique(slot.print[0], slots.len() as u32, |i| slots[*i as usize].print[0]);
        slots.push(slot);
    }
}

/// Memory of a series here, bytes: lists and tables are between half and all full.
const SLOT_BYTES: usize = (size_of::<Slot>() + size_of::<u32>() + 1) * 3 / 2;

#[derive(Debug, Default)]
struct Halves {
    /// The entity table that the keys belong to.
    table: u64,
    young: Half,
    old: Half,
}

/// Keys of known series by their bytes on the wire, for one entity table.
#[derive(Debug)]
pub(crate) struct SeriesCache {
    secret: [u8; 192],
    halves: RwLock<Halves>,
}

impl Default for SeriesCache {
    fn default() -> Self {
        let chance = RandomState::new();
        let mut secret = [0; 192];
        for (i, part) in secret.chunks_mut(8).enumerate() {
            part.copy_from_slice(&chance.hash_one(i).to_le_bytes());
        }
        Self { secret, halves: RwLock::default() }
    }
}

impl SeriesCache {
    /// Lookups of one journal entry, whose rows all have their entities in `table`.
    pub(crate) fn lookup(&self, table: Arc<EntityTable>) -> Lookup<'_> {
        let halves = self.halves.read();
        let known = halves.table == table.id();
        Lookup {
            cache: self,
            known: known.then_some(halves),
            table,
            fresh: Half::default(),
            next: 0,
        }
    }
}

/// See [`SeriesCache::lookup`]. What it learns is kept by [`Lookup::finish`].
pub(crate) struct Lookup<'a> {
    cache: &'a SeriesCache,
    known: Option<RwLockReadGuard<'a, Halves>>,
    table: Arc<EntityTable>,
    fresh: Half,
    /// Where the next series is in the young half, if all come in the order as before.
    next: usize,
}

impl Lookup<'_> {
    /// The key of the series of this `kind` that is `name` on the wire (any bytes that together
    /// decide its entity); `build` makes the entity of one that is not known.
    ///
    /// # Errors
    /// Those of `build`, and a collision of fingerprints.
    #[inline]
    pub(crate) fn key(
        &mut self,
        kind: u8,
        name: &[u8],
        build: impl FnOnce() -> Result<Entity, BadSeries>,
    ) -> Result<u32, BadSeries> {
        let print = self.print(kind, name);
        if let Some(halves) = &self.known
            && let Some(place) = halves.young.find(print, self.next)
        {
            self.next = place + 1;
            return Ok(halves.young.slots[place].key);
        }
        self.unused(print, name.len(), build)
    }

    /// The key of the series that comes after the one before, and the length of its name, if its name
    /// is what `message` begins with, so that nobody has to look where that ends.
    #[inline]
    pub(crate) fn next(&mut self, kind: u8, message: &[u8]) -> Option<(u32, usize)> {
        let Slot { print, key, len } = *self.known.as_ref()?.young.slots.get(self.next)?;
        let len = len as usize;
        if self.print(kind, message.get(..len)?) != print {
            return None;
        }
        self.next += 1;
        Some((key, len))
    }

    /// What stands for `bytes` as a part of names.
    pub(crate) fn digest(&self, bytes: &[u8]) -> [u8; 16] {
        xxh3_128_with_secret(bytes, &self.cache.secret).to_le_bytes()
    }

    /// The table of the entities.
    pub(crate) fn table(&self) -> &Arc<EntityTable> {
        &self.table
    }

    #[inline]
    fn print(&self, kind: u8, name: &[u8]) -> Print {
        let hash = xxh3_128_with_secret(name, &self.cache.secret);
        [hash as u64, (hash >> 64) as u64 ^ u64::from(kind)]
    }

    /// One that was not used for some time, or never.
    #[cold]
    fn unused(
        &mut self,
        print: Print,
        len: usize,
        build: impl FnOnce() -> Result<Entity, BadSeries>,
    ) -> Result<u32, BadSeries> {
        let key_in = |half: &Half| half.find(print, 0).map(|place| half.slots[place].key);
        if let Some(key) = key_in(&self.fresh) {
            return Ok(key);
        }
        let aged = self.known.as_ref().and_then(|h| key_in(&h.old));
        let key = match aged {
            Some(key) => key,
            None => self
                .table
                .intern(build()?)
                .map_err(|e| BadSeries::new("collision", e.to_string()))?,
        };
        // A name of over 4 GiB there is not.
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.fresh.insert(Slot { print, key, len });
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
            if halves.young.find(slot.print, 0).is_some() {
                continue; // another request was faster
            }
            if halves.young.slots.len() >= HALF_MAX {
                halves.old = std::mem::take(&mut halves.young);
            }
            learned += SLOT_BYTES;
            halves.young.insert(*slot);
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
        let a = first.key(0, b"a", || Ok(entity("a"))).unwrap();
        let b = first.key(0, b"b", || Ok(entity("b"))).unwrap();
        assert_eq!(first.key(0, b"a", || panic!("built twice")), Ok(a));
        first.finish();
        let mut second = cache.lookup(table);
        assert_eq!(second.key(0, b"a", || panic!("built twice")), Ok(a));
        assert_eq!(second.key(0, b"b", || panic!("built twice")), Ok(b));
        let bad = || Err(BadSeries::new("x", "y"));
        assert_eq!(second.key(0, b"c", bad).unwrap_err().reason, "x");
        second.finish();
        // Another table, other keys.
        let other = Arc::new(EntityTable::default());
        let mut third = cache.lookup(other);
        assert_eq!(third.key(0, b"b", || Ok(entity("b"))), Ok(0));
    }

    #[test]
    fn the_next_one_is_known_by_its_beginning() {
        let cache = SeriesCache::default();
        let table = Arc::new(EntityTable::default());
        let mut first = cache.lookup(table.clone());
        let keys = ["one", "two", "three"]
            .map(|name| first.key(0, name.as_bytes(), || Ok(entity(name))).unwrap());
        first.finish();
        let mut second = cache.lookup(table.clone());
        assert_eq!(second.next(0, b"one and more"), Some((keys[0], 3)));
        assert_eq!(second.next(0, b"three"), None, "it comes later");
        assert_eq!(second.next(1, b"two"), None, "of another kind");
        assert_eq!(second.next(0, b"tw"), None);
        assert_eq!(second.next(0, b"two"), Some((keys[1], 3)));
        assert_eq!(second.key(0, b"one", || panic!("built twice")), Ok(keys[0]));
        assert_eq!(second.next(0, b"two"), Some((keys[1], 3)), "after that one again");
        assert_eq!(cache.lookup(Arc::default()).next(0, b"one"), None, "another table");
    }

    #[test]
    fn kinds_are_told_apart() {
        let cache = SeriesCache::default();
        let mut lookup = cache.lookup(Arc::default());
        let keys =
            [0, 1].map(|kind| lookup.key(kind, b"a", || Ok(entity(&kind.to_string()))).unwrap());
        assert_ne!(keys[0], keys[1]);
    }

    #[test]
    fn what_is_not_used_is_forgotten() {
        let cache = SeriesCache::default();
        let table = Arc::new(EntityTable::default());
        let built = |names: &mut dyn Iterator<Item = usize>| {
            let mut lookup = cache.lookup(table.clone());
            let mut built = 0;
            for i in names {
                // Many names of one entity: what it is does not matter here.
                let name = (i as u64).to_le_bytes();
                let build = || {
                    built += 1;
                    Ok(entity("all"))
                };
                lookup.key(0, &name, build).unwrap();
            }
            lookup.finish();
            built
        };
        assert_eq!(built(&mut (0..HALF_MAX)), HALF_MAX);
        assert_eq!(built(&mut (HALF_MAX..HALF_MAX + 1)), 1);
        assert_eq!(built(&mut [0, HALF_MAX].into_iter()), 0, "the old half is known");
        assert_eq!(built(&mut (HALF_MAX + 1..2 * HALF_MAX)), HALF_MAX - 1);
        assert_eq!(built(&mut [0].into_iter()), 0, "it was used");
        assert_eq!(built(&mut [1].into_iter()), 1, "this was not");
    }
}
