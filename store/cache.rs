//! What was read from files and may be read again, bounded by bytes.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hashbrown::HashMap;
use parking_lot::Mutex;

/// Bytes that a cache holds unless told otherwise: runs and entities of some hundred files.
pub(crate) const CACHE_BYTES: usize = 256 << 20;

/// A number that nothing else of this process has.
pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

struct Slot {
    value: Arc<dyn Any + Send + Sync>,
    bytes: usize,
    used: u64,
}

#[derive(Default)]
struct Slots {
    map: HashMap<u64, Slot>,
    bytes: usize,
    clock: u64,
}

/// Values by id, the longest unused going first when there are too many bytes.
pub struct Cache {
    slots: Mutex<Slots>,
    bytes_max: usize,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slots = self.slots.lock();
        write!(f, "Cache({} values, {} bytes)", slots.map.len(), slots.bytes)
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new(CACHE_BYTES)
    }
}

impl Cache {
    /// An empty one that holds up to `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            slots: Mutex::default(),
            bytes_max,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// What it holds at most, bytes.
    pub fn limit(&self) -> usize {
        self.bytes_max
    }

    /// The value under `id`, if it is there and a `T`.
    pub fn get<T: Any + Send + Sync>(&self, id: u64) -> Option<Arc<T>> {
        let mut slots = self.slots.lock();
        slots.clock += 1;
        let clock = slots.clock;
        let found = slots.map.get_mut(&id).map(|slot| {
            slot.used = clock;
            slot.value.clone()
        });
        drop(slots);
        let found = found.and_then(|v| v.downcast().ok());
        if found.is_some() { &self.hits } else { &self.misses }.fetch_add(1, Relaxed);
        found
    }

    /// Keeps `value`. One that alone is past the limit is not kept.
    pub fn insert<T: Any + Send + Sync>(&self, id: u64, value: Arc<T>, bytes: usize) {
        if bytes > self.bytes_max {
            return;
        }
        let mut slots = self.slots.lock();
        slots.clock += 1;
        let used = slots.clock;
        if let Some(old) = slots.map.insert(id, Slot { value, bytes, used }) {
            slots.bytes -= old.bytes;
        }
        slots.bytes += bytes;
        if slots.bytes <= self.bytes_max {
            return;
        }
        // Down to three quarters at once, so that the sort is rare.
        let mut by_age: Vec<(u64, u64)> = slots.map.iter().map(|(id, s)| (s.used, *id)).collect();
        by_age.sort_unstable();
        for (_, id) in by_age {
            if slots.bytes <= self.bytes_max / 4 * 3 {
                break;
            }
            if let Some(old) = slots.map.remove(&id) {
                slots.bytes -= old.bytes;
            }
        }
    }

    /// Forgets what is under `id`.
    pub fn remove(&self, id: u64) {
        let mut slots = self.slots.lock();
        if let Some(old) = slots.map.remove(&id) {
            slots.bytes -= old.bytes;
        }
    }

    /// Hits and misses so far.
    pub fn statistics(&self) -> (u64, u64) {
        (self.hits.load(Relaxed), self.misses.load(Relaxed))
    }
}
