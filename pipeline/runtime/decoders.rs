//! Journal entries to batches, for entries that were not decoded by their receiver in this
//! process: recovery and laggards. Entries are decoded with the settings that received them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::batch::Batch;
use crate::component::{Components, Decoder, EntryHead};
use crate::config;
use crate::entity::EntitySpace;
use crate::intake::{batches, decode_guarded};
use crate::journal::{Entry, Journal};
use crate::memory::Entities;

/// The rows of one entry by output name.
pub(super) type Batches = Arc<Vec<(&'static str, Batch)>>;

/// (source id, generation of its settings).
type Settings = (Arc<str>, u32);

/// Decoders by source and generation, and the entities of each source.
pub(super) struct Decoders {
    journal: Journal,
    components: Components,
    budget: Arc<Entities>,
    spaces: Mutex<HashMap<Arc<str>, Arc<EntitySpace>>>,
    cache: Mutex<HashMap<Settings, Arc<dyn Decoder>>>,
}

impl Decoders {
    pub(super) fn new(journal: Journal, components: Components, budget: Arc<Entities>) -> Self {
        let (spaces, cache) = (Mutex::default(), Mutex::default());
        Self { journal, components, budget, spaces, cache }
    }

    /// What counts the entities of all sources.
    pub(super) fn budget(&self) -> &Arc<Entities> {
        &self.budget
    }

    /// The entities of a source; live intake and replay share them.
    pub(super) fn entities(&self, source: &Arc<str>) -> Arc<EntitySpace> {
        let mut spaces = self.spaces.lock();
        let new = || Arc::new(EntitySpace::new(self.budget.clone()));
        spaces.entry(source.clone()).or_insert_with(new).clone()
    }

    /// Remembers the decoder of a generation that was just registered.
    pub(super) fn remember(&self, source: &Arc<str>, generation: u32, decoder: Arc<dyn Decoder>) {
        self.cache.lock().insert((source.clone(), generation), decoder);
    }

    /// The rows of `entry`, decoded at most once however many pipelines ask.
    ///
    /// # Errors
    /// If its decoder cannot be made again or refuses what it once took; says which.
    pub(super) fn batches(&self, entry: &Entry) -> Result<Batches, String> {
        let rows = self.rows(entry)?;
        Ok(entry.batches.get_or_init(|| rows).clone())
    }

    /// As [`Decoders::batches`], but leaves no trace in `entry`, which others may read too.
    ///
    /// # Errors
    /// As [`Decoders::batches`].
    pub(super) fn rows(&self, entry: &Entry) -> Result<Batches, String> {
        if let Some(batches) = entry.batches.get() {
            return Ok(batches.clone());
        }
        let head = &entry.head;
        let decoder = self.decoder(&head.source, head.generation)?;
        let entities = self.entities(&head.source);
        let about = EntryHead { received: head.received, envelope: &head.envelope };
        let rows = decode_guarded(&*decoder, &about, &head.payload, &entities)
            .and_then(|decoded| batches(&head.source, head.received, decoded))
            .map_err(|e| format!("entry {} of source `{}`: {e}", entry.offset, head.source))?;
        let rows = rows.into_iter().map(|(o, b)| (o, b.with_offset(entry.offset)));
        Ok(Arc::new(rows.collect()))
    }

    fn decoder(&self, source: &Arc<str>, generation: u32) -> Result<Arc<dyn Decoder>, String> {
        let key = (source.clone(), generation);
        if let Some(decoder) = self.cache.lock().get(&key) {
            return Ok(decoder.clone());
        }
        let text = self.journal.generation(source, generation).ok_or_else(|| {
            format!("settings {generation} of source `{source}` are not in the journal")
        })?;
        let bundle = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let definition = config::source_from_bundle(&bundle, source, &self.components)
            .map_err(|e| format!("settings {generation} of source `{source}`: {e}"))?;
        let decoder = definition.plan.decoder();
        self.cache.lock().insert(key, decoder.clone());
        Ok(decoder)
    }
}
