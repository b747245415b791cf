//! Entity chunks that a scan holds, counted against the memory of queries.

use std::sync::{Arc, Weak};

use datafusion::common::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::entity_log::EntityColumns;

/// What the entity chunks of one scan take from the pool. Files of a day share chunks: each is
/// counted once, for as long as any of them is being read.
#[derive(Debug)]
pub(super) struct Ledger {
    pool: Arc<dyn MemoryPool>,
    chunks: Mutex<HashMap<u64, Weak<MemoryReservation>>>,
}

impl Ledger {
    pub(super) fn new(pool: Arc<dyn MemoryPool>) -> Self {
        Self { pool, chunks: Mutex::default() }
    }

    /// Counts `chunks` until what this gives is dropped.
    ///
    /// # Errors
    /// If queries have no memory left.
    pub(super) fn hold(&self, chunks: &[EntityColumns]) -> Result<Vec<Arc<MemoryReservation>>> {
        let mut known = self.chunks.lock();
        let mut held = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            if let Some(counted) = known.get(&chunk.id()).and_then(Weak::upgrade) {
                held.push(counted);
                continue;
            }
            let counted = MemoryConsumer::new("entities").register(&self.pool);
            counted.try_grow(chunk.memory())?;
            let counted = Arc::new(counted);
            known.insert(chunk.id(), Arc::downgrade(&counted));
            held.push(counted);
        }
        Ok(held)
    }
}
