//! The series that are known, by identity, and where in the memory they are.

use arrow::array::UInt32Array;
use hashbrown::HashMap;
use std::sync::Arc;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::OperatorError;
use weir_pipeline::entity::{Entity, EntityTable, Value};
use weir_pipeline::expression::Expression;
use xxhash_rust::xxh3::xxh3_128;

use super::series::Series;
use crate::codec::{get_u64, put_u64};
use crate::window::keys::Grouper;

/// Version of the state.
const VERSION: u8 = 1;

/// When there is no room, this part of all series goes at once: the search for the oldest costs
/// little per series then.
const ROOM_PART: usize = 16;

/// Entity tables whose series' places are remembered.
const TABLES_MAX: usize = 8;

/// No place yet.
const NONE: u32 = u32::MAX;

/// Least bytes of a saved series, so that a damaged count reserves nothing.
const SAVED_MIN: usize = 600;

/// Identity of a series outside this process: the fingerprint of its entity, or a hash of what it
/// is grouped by.
type Key = u128;

pub(super) struct Known {
    series_max: usize,
    by: Vec<Expression>,
    grouper: Grouper,
    places: HashMap<Key, u32>,
    series: Vec<(Key, Series)>,
    /// Places by entity, per table: a cache.
    tables: Vec<(u64, Vec<u32>)>,
    dropped: u64,
}

pub(super) enum Place {
    At(u32),
    Full,
}

/// Where the series of the rows of one batch are.
pub(super) struct Places {
    /// Index into `found` of each row; without, there is one series.
    rows: Option<Vec<u32>>,
    found: Vec<u32>,
    of: Of,
}

enum Of {
    Entities(Arc<EntityTable>),
    Keys(Vec<Key>),
}

impl Places {
    /// The place of the series of a row, which is new if need be.
    pub(super) fn of(&mut self, known: &mut Known, row: usize) -> Place {
        let index = self.rows.as_ref().map_or(0, |rows| rows[row] as usize);
        if self.found.len() <= index {
            self.found.resize(index + 1, NONE);
        }
        if self.found[index] != NONE {
            return Place::At(self.found[index]);
        }
        let place = match &self.of {
            Of::Entities(table) => {
                let entity = table.get(index as u32);
                known.place(entity.fingerprint(), || is_counter(&entity))
            }
            Of::Keys(keys) => known.place(keys[index], || false),
        };
        if let Place::At(place) = place {
            self.found[index] = place;
        }
        place
    }

    /// Series have moved.
    pub(super) fn forget(&mut self) {
        self.found.fill(NONE);
    }
}

/// Whether a metric says that it is a counter that goes on from its last value.
fn is_counter(entity: &Entity) -> bool {
    let is =
        |name: &str, text: &str| matches!(entity.get(name), Some(Value::Text(v)) if **v == *text);
    is("metric.type", "counter") && is("metric.temporality", "cumulative")
}

impl Known {
    pub(super) fn new(series_max: usize, by: Vec<Expression>) -> Self {
        Self {
            series_max,
            by,
            grouper: Grouper::default(),
            places: HashMap::new(),
            series: Vec::new(),
            tables: Vec::new(),
            dropped: 0,
        }
    }

    /// For the rows of a batch; to be given back with [`Self::keep`].
    pub(super) fn places(&mut self, batch: &Batch) -> Result<Places, OperatorError> {
        if !self.by.is_empty() {
            let (groups, _) = self.grouper.groups(&self.by, batch)?;
            let mut local = vec![NONE; groups.keys.len()];
            let mut keys: Vec<Key> = Vec::new();
            let mut rows = groups.rows;
            for group in &mut rows {
                let index = &mut local[*group as usize];
                if *index == NONE {
                    *index = keys.len() as u32;
                    keys.push(xxh3_128(&groups.keys[*group as usize]));
                }
                *group = *index;
            }
            let found = vec![NONE; keys.len()];
            return Ok(Places { rows: Some(rows), found, of: Of::Keys(keys) });
        }
        let Some(entities) = batch.entities() else {
            return Ok(Places { rows: None, found: vec![NONE], of: Of::Keys(vec![xxh3_128(&[])]) });
        };
        let id = entities.table.id();
        let cached = self.tables.iter().position(|(table, _)| *table == id);
        let found = cached.map(|at| self.tables.remove(at).1).unwrap_or_default();
        let rows = UInt32Array::values(&entities.keys).to_vec();
        Ok(Places { rows: Some(rows), found, of: Of::Entities(entities.table.clone()) })
    }

    /// Remembers the places of the entities of a table.
    pub(super) fn keep(&mut self, places: Places) {
        if let Of::Entities(table) = places.of {
            self.tables.insert(0, (table.id(), places.found));
            self.tables.truncate(TABLES_MAX);
        }
    }

    fn place(&mut self, key: Key, counter: impl FnOnce() -> bool) -> Place {
        if let Some(place) = self.places.get(&key) {
            return Place::At(*place);
        }
        if self.series.len() >= self.series_max {
            return Place::Full;
        }
        let place = self.series.len() as u32;
        self.series.push((key, Series::new(counter())));
        self.places.insert(key, place);
        Place::At(place)
    }

    pub(super) fn series(&mut self, place: u32) -> &mut Series {
        &mut self.series[place as usize].1
    }

    /// Forgets the series whose newest points are oldest.
    pub(super) fn make_room(&mut self) {
        let going = (self.series.len() / ROOM_PART).max(1);
        let mut ages: Vec<(i64, Key)> = self.series.iter().map(|(k, s)| (s.time(), *k)).collect();
        let (_, last, _) = ages.select_nth_unstable(going - 1);
        let last = *last;
        self.series.retain(|(key, series)| (series.time(), *key) > last);
        self.dropped += going as u64;
        self.places.clear();
        self.places.extend(self.series.iter().zip(0..).map(|((key, _), place)| (*key, place)));
        self.tables.clear();
    }

    /// Series forgotten since this was last asked.
    pub(super) fn dropped(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.dropped)).filter(|n| *n > 0)
    }

    /// The state: series in the order of their keys.
    pub(super) fn put(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_u64(&mut out, self.series.len() as u64);
        let mut order: Vec<&(Key, Series)> = self.series.iter().collect();
        order.sort_unstable_by_key(|(key, _)| *key);
        for (key, series) in order {
            out.extend(key.to_le_bytes());
            series.put(&mut out);
        }
        out
    }

    /// Takes over a state; one with more series than there may be is cut at the next new one.
    pub(super) fn get(&mut self, state: &[u8]) -> Option<()> {
        let (version, mut bytes) = state.split_first()?;
        if *version != VERSION {
            return None;
        }
        let count = usize::try_from(get_u64(&mut bytes)?).ok()?;
        let mut restored = Self::new(self.series_max, self.by.clone());
        restored.series.reserve_exact(count.min(bytes.len() / SAVED_MIN));
        for place in 0..count {
            let (key, rest) = bytes.split_first_chunk::<16>()?;
            bytes = rest;
            let key = Key::from_le_bytes(*key);
            restored.series.push((key, Series::get(&mut bytes)?));
            restored.places.insert(key, u32::try_from(place).ok()?);
        }
        if !bytes.is_empty() || restored.places.len() != count {
            return None;
        }
        *self = restored;
        Some(())
    }
}
