//! The series that are known, by identity, and where in the memory they are.

use std::sync::Arc;

use arrow::array::UInt32Array;
use hashbrown::HashMap;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::OperatorError;
use weir_pipeline::entity::{Entity, EntityTable, Value};
use weir_pipeline::expression::Expression;
use xxhash_rust::xxh3::xxh3_128;

use super::counter::Counters;
use super::points::Point;
use crate::codec::{get, get_u64, put, put_u64};
use crate::window::keys::{self, Grouper};

/// Version of the state.
const VERSION: u8 = 1;

/// When there is no room, this part of all series goes at once: the search for the oldest costs
/// little per series then.
const ROOM_PART: usize = 16;

/// Entity tables whose series' places are remembered.
const TABLES_MAX: usize = 8;

/// No place yet.
const NONE: u32 = u32::MAX;

/// Identity of a series outside this process: the fingerprint of its entity, or a hash of what it
/// is grouped by.
pub(crate) type Key = u128;

/// What is kept of one series.
pub(crate) trait Series: Sized {
    /// Least bytes of a saved one, so that a damaged count reserves nothing.
    const SAVED_MIN: usize;
    /// Before its first point.
    fn new(identity: &Identity<'_>) -> Self;
    /// Time of its newest point; `i64::MIN` before the first.
    fn time(&self) -> i64;
    /// Appends the state.
    fn put(&self, out: &mut Vec<u8>);
    /// The inverse of [`Series::put`].
    fn get(bytes: &mut &[u8]) -> Option<Self>;
}

/// What a series is.
pub(crate) enum Identity<'a> {
    /// One entity.
    Entity(&'a Arc<Entity>),
    /// All rows whose expressions, of these names, have the values of the group key.
    Group(&'a [(String, Expression)], &'a keys::Key),
}

impl Identity<'_> {
    /// Whether a metric says that it is a counter that goes on from its last value.
    pub(crate) fn is_counter(&self) -> bool {
        let Self::Entity(entity) = self else { return false };
        let is = |name: &str, text: &str| matches!(entity.get(name), Some(Value::Text(v)) if **v == *text);
        is("metric.type", "counter") && is("metric.temporality", "cumulative")
    }

    /// Its attributes: those of the entity, or what it is grouped by.
    pub(crate) fn entity(&self) -> Arc<Entity> {
        match self {
            Self::Entity(entity) => Arc::clone(entity),
            Self::Group(by, key) => {
                Arc::new(keys::entity(key, by.iter().map(|(name, _)| name.as_str())))
            }
        }
    }
}

/// What happens to a series for which there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// It takes the place of those whose newest point is oldest.
    Replaces,
    /// Nothing is known of it, until others have been silent for so long, nanoseconds, at a tick.
    Waits(i64),
}

pub(crate) struct Known<S> {
    series_max: usize,
    full: Full,
    by: Arc<[(String, Expression)]>,
    expressions: Vec<Expression>,
    grouper: Grouper,
    places: HashMap<Key, u32>,
    series: Vec<(Key, S)>,
    /// Places by entity, per table: a cache.
    tables: Vec<(u64, Vec<u32>)>,
    /// Where series are told apart by expressions: the counters that are in them.
    counters: Option<Box<Counters>>,
    /// Series that were forgotten, or rows of those that wait.
    dropped: u64,
}

/// Where the series of the rows of one batch are.
struct Places {
    /// Index into `found` of each row; without, there is one series.
    rows: Option<Vec<u32>>,
    found: Vec<u32>,
    of: Of,
}

enum Of {
    Entities(Arc<EntityTable>),
    Keys(Vec<keys::Key>),
}

impl Places {
    /// The place of the series of a row, which is new if need be; `None` if there is no room.
    fn of<S: Series>(&mut self, known: &mut Known<S>, row: usize) -> Option<u32> {
        let index = self.rows.as_ref().map_or(0, |rows| rows[row] as usize);
        if self.found.len() <= index {
            self.found.resize(index + 1, NONE);
        }
        if self.found[index] != NONE {
            return Some(self.found[index]);
        }
        let place = match &self.of {
            Of::Entities(table) => {
                let entity = table.get(index as u32);
                known.place(entity.fingerprint(), |_| S::new(&Identity::Entity(&entity)))
            }
            Of::Keys(keys) => {
                let key = &keys[index];
                known.place(xxh3_128(key), |by| S::new(&Identity::Group(by, key)))
            }
        }?;
        self.found[index] = place;
        Some(place)
    }
}

impl<S: Series> Known<S> {
    /// Series by expressions; without any, by entities.
    pub(crate) fn new(series_max: usize, full: Full, by: Vec<(String, Expression)>) -> Self {
        let counters = (!by.is_empty()).then(Box::default);
        Self { counters, ..Self::with(series_max, full, by) }
    }

    /// Series by entities.
    pub(super) fn of_entities(series_max: usize, full: Full) -> Self {
        Self::with(series_max, full, Vec::new())
    }

    fn with(series_max: usize, full: Full, by: Vec<(String, Expression)>) -> Self {
        Self {
            series_max,
            full,
            expressions: by.iter().map(|(_, e)| e.clone()).collect(),
            by: by.into(),
            grouper: Grouper::default(),
            places: HashMap::new(),
            series: Vec::new(),
            tables: Vec::new(),
            counters: None,
            dropped: 0,
        }
    }

    /// Gives each point to its series, series by series so that each is in the cache once, those
    /// of one in the order in which they came. Of series by expressions counters are their increase
    /// per second already.
    pub(crate) fn feed(
        &mut self,
        batch: &Batch,
        points: &[Option<Point>],
        mut take: impl FnMut(&mut S, usize, Point),
    ) -> Result<(), OperatorError> {
        let points = match &mut self.counters {
            Some(counters) => counters.rates(batch, points)?,
            None => points.into(),
        };
        let mut places = self.places(batch)?;
        let mut order: Vec<(u32, u32)> = Vec::with_capacity(points.len());
        let mut next = 0;
        while next < points.len() {
            order.clear();
            while next < points.len() {
                if points[next].is_some() {
                    match places.of(self, next) {
                        Some(place) => order.push((place, next as u32)),
                        None if self.full == Full::Replaces => break,
                        None => self.dropped += 1,
                    }
                }
                next += 1;
            }
            order.sort_unstable();
            for (place, row) in &order {
                if let Some(point) = points[*row as usize] {
                    take(&mut self.series[*place as usize].1, *row as usize, point);
                }
            }
            if next < points.len() {
                self.make_room();
                places.found.fill(NONE);
            }
        }
        self.keep(places);
        Ok(())
    }

    fn places(&mut self, batch: &Batch) -> Result<Places, OperatorError> {
        if !self.expressions.is_empty() {
            let (groups, _) = self.grouper.groups(&self.expressions, batch)?;
            let mut local = vec![NONE; groups.keys.len()];
            let mut keys = Vec::new();
            let mut rows = groups.rows;
            for group in &mut rows {
                let index = &mut local[*group as usize];
                if *index == NONE {
                    *index = keys.len() as u32;
                    keys.push(groups.keys[*group as usize].clone());
                }
                *group = *index;
            }
            let found = vec![NONE; keys.len()];
            return Ok(Places { rows: Some(rows), found, of: Of::Keys(keys) });
        }
        let Some(entities) = batch.entities() else {
            let key: keys::Key = Arc::from([]);
            return Ok(Places { rows: None, found: vec![NONE], of: Of::Keys(vec![key]) });
        };
        let id = entities.table.id();
        let cached = self.tables.iter().position(|(table, _)| *table == id);
        let found = cached.map(|at| self.tables.remove(at).1).unwrap_or_default();
        let rows = UInt32Array::values(&entities.keys).to_vec();
        Ok(Places { rows: Some(rows), found, of: Of::Entities(entities.table.clone()) })
    }

    /// Remembers the places of the entities of a table.
    fn keep(&mut self, places: Places) {
        if let Of::Entities(table) = places.of {
            self.tables.insert(0, (table.id(), places.found));
            self.tables.truncate(TABLES_MAX);
        }
    }

    fn place(&mut self, key: Key, new: impl FnOnce(&[(String, Expression)]) -> S) -> Option<u32> {
        if let Some(place) = self.places.get(&key) {
            return Some(*place);
        }
        if self.series.len() >= self.series_max {
            return None;
        }
        let place = self.series.len() as u32;
        self.series.push((key, new(&self.by)));
        self.places.insert(key, place);
        Some(place)
    }

    /// All of them.
    pub(crate) fn all(&mut self) -> &mut [(Key, S)] {
        &mut self.series
    }

    /// The one with this key.
    pub(crate) fn by_key(&mut self, key: Key) -> Option<&mut S> {
        let place = *self.places.get(&key)?;
        Some(&mut self.series[place as usize].1)
    }

    /// Forgets the series whose newest points are oldest.
    fn make_room(&mut self) {
        let going = (self.series.len() / ROOM_PART).max(1);
        let mut ages: Vec<(i64, Key)> = self.series.iter().map(|(k, s)| (s.time(), *k)).collect();
        let (_, last, _) = ages.select_nth_unstable(going - 1);
        let last = *last;
        self.retain(|key, series| (series.time(), key) > last);
        self.dropped += going as u64;
    }

    fn retain(&mut self, stays: impl Fn(Key, &S) -> bool) {
        self.series.retain(|(key, series)| stays(*key, series));
        self.places.clear();
        self.places.extend(self.series.iter().zip(0..).map(|((key, _), place)| (*key, place)));
        self.tables.clear();
    }

    /// At a tick: what found no room since the last one. Makes some for those that wait.
    pub(crate) fn dropped(&mut self) -> Option<u64> {
        let dropped = std::mem::take(&mut self.dropped);
        if let (Full::Waits(silence), 1..) = (self.full, dropped) {
            let newest = self.series.iter().map(|(_, s)| s.time()).max().unwrap_or(i64::MIN);
            let oldest = newest.saturating_sub(silence);
            if self.series.iter().any(|(_, s)| s.time() < oldest) {
                self.retain(|_, series| series.time() >= oldest);
            }
        }
        Some(dropped).filter(|n| *n > 0)
    }

    /// The state: series in the order of their keys.
    pub(crate) fn put(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_u64(&mut out, self.series.len() as u64);
        let mut order: Vec<&(Key, S)> = self.series.iter().collect();
        order.sort_unstable_by_key(|(key, _)| *key);
        for (key, series) in order {
            out.extend(key.to_le_bytes());
            series.put(&mut out);
        }
        // What waits for room goes on waiting.
        if self.full != Full::Replaces {
            put_u64(&mut out, self.dropped);
        }
        if let Some(counters) = &self.counters {
            put(&mut out, &counters.put());
        }
        out
    }

    /// Takes over a state; one with more series than there may be is cut at the next new one.
    pub(crate) fn get(&mut self, state: &[u8]) -> Option<()> {
        let (version, mut bytes) = state.split_first()?;
        if *version != VERSION {
            return None;
        }
        let count = usize::try_from(get_u64(&mut bytes)?).ok()?;
        let mut restored = Self::new(self.series_max, self.full, self.by.to_vec());
        restored.series.reserve_exact(count.min(bytes.len() / S::SAVED_MIN));
        for place in 0..count {
            let (key, rest) = bytes.split_first_chunk::<16>()?;
            bytes = rest;
            let key = Key::from_le_bytes(*key);
            restored.series.push((key, S::get(&mut bytes)?));
            restored.places.insert(key, u32::try_from(place).ok()?);
        }
        if self.full != Full::Replaces {
            restored.dropped = get_u64(&mut bytes)?;
        }
        if let Some(counters) = &mut restored.counters {
            counters.get(get(&mut bytes)?)?;
        }
        if !bytes.is_empty() || restored.places.len() != count {
            return None;
        }
        *self = restored;
        Some(())
    }
}
