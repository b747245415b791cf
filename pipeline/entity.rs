//! Entities: what rows have in common, said once.
//!
//! For metrics an entity is a series (name, unit, type, labels, resource, scope), for logs, spans
//! and profiles a resource with its scope. A row refers to its entity by a `UInt32` key into an
//! append-only [`EntityTable`]. Keys are local to the process: they never reach a checkpoint, a
//! file, a hash or the order of output. State and files know an entity by [`Entity::fingerprint`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, Ordering::Relaxed};

use arc_swap::ArcSwap;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use hashbrown::{HashMap, HashSet, HashTable};
use parking_lot::{Mutex, RwLock};
use xxhash_rust::xxh3::xxh3_128;

use crate::memory::Entities;

/// Entities of one table generation. A batch that brings new ones may go past it by its own
/// number of rows; the next batch starts a new generation.
pub const ENTITIES_MAX: usize = 2_000_000;
/// Memory that an entity takes besides its attributes, and a text besides its letters, bytes: what
/// points to it, counts and finds it.
const ENTITY_BYTES: usize = 96;
const TEXT_BYTES: usize = 56;

/// One attribute value. Doubles are the same if their bits are: a NaN is itself, as it is in a
/// fingerprint.
#[derive(Clone, Debug)]
pub enum Value {
    /// A boolean.
    Bool(bool),
    /// A 64-bit integer.
    Int(i64),
    /// A double.
    Double(f64),
    /// Text.
    Text(Arc<str>),
    /// An array or another structure, as JSON text.
    Json(Arc<str>),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Double(a), Self::Double(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) | (Self::Json(a), Self::Json(b)) => a == b,
            _ => false,
        }
    }
}

impl Value {
    /// What JSON says; `None` for null.
    pub fn of_json(value: &serde_json::Value) -> Option<Self> {
        Some(match value {
            serde_json::Value::Null => return None,
            serde_json::Value::Bool(v) => Self::Bool(*v),
            serde_json::Value::Number(n) => match n.as_i64() {
                Some(i) => Self::Int(i),
                // No double has all of its digits.
                None if n.is_u64() => Self::Text(n.to_string().into()),
                None => Self::Double(n.as_f64()?),
            },
            serde_json::Value::String(s) => Self::Text(s.as_str().into()),
            other => Self::Json(other.to_string().into()),
        })
    }

    /// The value in a row of a column; `None` where there is none. What is neither a number nor a
    /// boolean is its text.
    pub fn of_array(column: &ArrayRef, row: usize) -> Option<Self> {
        if column.is_null(row) {
            return None;
        }
        Some(match column.data_type() {
            DataType::Boolean => Self::Bool(column.as_boolean().value(row)),
            DataType::Int64 => Self::Int(column.as_primitive::<Int64Type>().value(row)),
            DataType::Float64 => Self::Double(column.as_primitive::<Float64Type>().value(row)),
            DataType::Utf8 => Self::Text(column.as_string::<i32>().value(row).into()),
            _ => Self::Text(arrow::util::display::array_value_to_string(column, row).ok()?.into()),
        })
    }

    /// The column type that holds this value alone.
    pub fn data_type(&self) -> DataType {
        match self {
            Self::Bool(_) => DataType::Boolean,
            Self::Int(_) => DataType::Int64,
            Self::Double(_) => DataType::Float64,
            Self::Text(_) | Self::Json(_) => DataType::Utf8,
        }
    }

    /// The value as text, as it reads in a text column.
    pub fn to_text(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Self::Bool(v) => v.to_string().into(),
            Self::Int(v) => v.to_string().into(),
            Self::Double(v) => double_text(*v).into(),
            Self::Text(v) | Self::Json(v) => (&**v).into(),
        }
    }

    fn hash_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool(v) => out.extend([b'b', u8::from(*v)]),
            Self::Int(v) => {
                out.push(b'i');
                out.extend(v.to_le_bytes());
            }
            Self::Double(v) => {
                out.push(b'd');
                out.extend(v.to_bits().to_le_bytes());
            }
            Self::Text(v) => {
                out.push(b't');
                out.extend((v.len() as u64).to_le_bytes());
                out.extend(v.as_bytes());
            }
            Self::Json(v) => {
                out.push(b'j');
                out.extend((v.len() as u64).to_le_bytes());
                out.extend(v.as_bytes());
            }
        }
    }
}

/// A double as text: the shortest form that reads back to the same bits.
pub fn double_text(v: f64) -> String {
    if v.is_nan() {
        "NaN".into()
    } else if v.is_infinite() {
        if v > 0.0 { "Inf".into() } else { "-Inf".into() }
    } else {
        format!("{v}")
    }
}

/// Where an attribute of an entity came from, so that OTLP goes out as it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The identity of a metric itself (`metric.name`, `metric.unit`, ...).
    Metric,
    /// A data point attribute or Prometheus label.
    Label,
    /// The OpenTelemetry resource.
    Resource,
    /// The OpenTelemetry instrumentation scope.
    Scope,
}

impl Origin {
    /// The value of the field metadata [`crate::signal::META_ORIGIN`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Metric => "metric",
            Self::Label => "label",
            Self::Resource => "resource",
            Self::Scope => "scope",
        }
    }

    /// The inverse of [`Origin::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Metric, Self::Label, Self::Resource, Self::Scope]
            .into_iter()
            .find(|o| o.as_str() == name)
    }
}

/// One attribute of an entity, under its column name.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    /// Column name.
    pub name: Arc<str>,
    /// Value; never null: an attribute without a value is left out.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

/// A canonical set of attributes: sorted by name, no name twice.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    attributes: Box<[Attribute]>,
    fingerprint: u128,
}

impl Entity {
    /// Sorts `attributes` by name; of a name that occurs twice the first wins.
    pub fn new(mut attributes: Vec<Attribute>) -> Self {
        attributes.sort_by(|a, b| a.name.cmp(&b.name));
        attributes.dedup_by(|later, first| later.name == first.name);
        let mut bytes = Vec::with_capacity(attributes.len() * 32);
        for a in &attributes {
            bytes.extend((a.name.len() as u64).to_le_bytes());
            bytes.extend(a.name.as_bytes());
            bytes.push(a.origin as u8);
            a.value.hash_into(&mut bytes);
        }
        Self { attributes: attributes.into(), fingerprint: xxh3_128(&bytes) }
    }

    /// The attributes, sorted by name.
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// The value of the attribute `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.attribute(name).map(|a| &a.value)
    }

    /// The attribute `name`.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.binary_search_by(|a| (*a.name).cmp(name)).ok().map(|i| &self.attributes[i])
    }

    /// A hash: the fingerprint is one already.
    #[allow(clippy::cast_possible_truncation)]
    fn hash(&self) -> u64 {
        self.fingerprint as u64
    }

    /// XXH3-128 of the canonical attributes: the identity of the entity outside this process.
    pub fn fingerprint(&self) -> u128 {
        self.fingerprint
    }
}

/// Why an entity was not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EntityError {
    /// Two different attribute sets have one fingerprint; the later one is refused.
    #[error("fingerprint {0:032x} already belongs to another entity")]
    Collision(u128),
}

/// The values of one name over the first `len` entities of a table.
#[derive(Clone, Debug)]
pub struct EntityColumn {
    /// One value per entity, in key order; NULL where an entity lacks the name.
    pub values: ArrayRef,
    /// Whether all entities that have the name agree on its type. If not, `values` is text, and
    /// a batch decides the type from the entities that it refers to.
    pub uniform: bool,
}

/// Append-only table of entities; the index of an entity is its key. Texts that entities have in
/// common are in memory once.
pub struct EntityTable {
    id: u64,
    entities: RwLock<Vec<Kept>>,
    known: Mutex<Known>,
    names: RwLock<BTreeSet<Arc<str>>>,
    columns: Mutex<HashMap<String, EntityColumn>>,
    /// Memory that all of it takes, about.
    bytes: AtomicUsize,
}

struct Kept {
    entity: Arc<Entity>,
    /// Memory that came with it, about.
    bytes: u32,
}

#[derive(Default)]
struct Known {
    /// By fingerprint, which stands in the entity.
    keys: HashTable<u32>,
    /// Attribute values.
    texts: HashSet<Arc<str>>,
}

impl Known {
    /// Makes `value` one that is there already, where it can; else the memory that it takes.
    fn share(&mut self, value: &mut Value) -> usize {
        let (Value::Text(text) | Value::Json(text)) = value else { return 0 };
        if let Some(same) = self.texts.get(&**text) {
            *text = same.clone();
            return 0;
        }
        self.texts.insert(text.clone());
        text.len() + TEXT_BYTES
    }
}

impl std::fmt::Debug for EntityTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EntityTable({}, {} entities)", self.id, self.len())
    }
}

impl Default for EntityTable {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            entities: RwLock::default(),
            known: Mutex::default(),
            names: RwLock::default(),
            columns: Mutex::default(),
            bytes: AtomicUsize::new(0),
        }
    }
}

impl EntityTable {
    /// A number that no other table of this process has; caches key on it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Number of entities so far.
    pub fn len(&self) -> usize {
        self.entities.read().len()
    }

    /// Whether there is no entity yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key of `entity`, which is added if it is new.
    ///
    /// # Errors
    /// [`EntityError::Collision`] if another entity has the same fingerprint.
    pub fn intern(&self, mut entity: Entity) -> Result<u32, EntityError> {
        let mut known = self.known.lock();
        if let Some((key, same)) = self.find(&known.keys, &entity) {
            return if same { Ok(key) } else { Err(EntityError::Collision(entity.fingerprint)) };
        }
        let mut bytes = ENTITY_BYTES + size_of_val(&*entity.attributes);
        for a in &mut entity.attributes {
            bytes += self.share_name(&mut a.name) + known.share(&mut a.value);
        }
        let mut entities = self.entities.write();
        let key = entities.len() as u32;
        let hash_of = |key: &u32| entities[*key as usize].entity.hash();
        known.keys.insert_unique(entity.hash(), key, hash_of);
        let entity = Arc::new(entity);
        entities.push(Kept { entity, bytes: u32::try_from(bytes).unwrap_or(u32::MAX) });
        self.note(bytes);
        Ok(key)
    }

    /// The key of the entity with this fingerprint, and whether it is the same.
    fn find(&self, keys: &HashTable<u32>, entity: &Entity) -> Option<(u32, bool)> {
        let entities = self.entities.read();
        let of = |key: &u32| &*entities[*key as usize].entity;
        let key = keys.find(entity.hash(), |key| of(key).fingerprint == entity.fingerprint)?;
        Some((*key, of(key) == entity))
    }

    /// As [`Known::share`].
    fn share_name(&self, name: &mut Arc<str>) -> usize {
        if let Some(same) = self.names.read().get(&**name) {
            *name = same.clone();
            return 0;
        }
        self.names.write().insert(name.clone());
        name.len() + TEXT_BYTES
    }

    /// Counts memory that goes when the table goes, bytes.
    pub fn note(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Memory that it takes, about, with all that was noted, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Memory that came with the entity with `key`, about, bytes.
    ///
    /// # Panics
    /// As [`EntityTable::get`].
    pub fn bytes_of(&self, key: u32) -> usize {
        self.entities.read()[key as usize].bytes as usize
    }

    /// The entity with `key`.
    ///
    /// # Panics
    /// If no row of this table was ever given that key.
    pub fn get(&self, key: u32) -> Arc<Entity> {
        self.entities.read()[key as usize].entity.clone()
    }

    /// The entities with keys from `start` on, for caches that grow with the table.
    pub fn since(&self, start: usize) -> Vec<Arc<Entity>> {
        let entities = self.entities.read();
        let new = entities.get(start..).unwrap_or_default();
        new.iter().map(|kept| kept.entity.clone()).collect()
    }

    /// Every attribute name that any entity has, sorted.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.names.read().iter().cloned().collect()
    }

    /// Whether any entity has the attribute `name`.
    pub fn has(&self, name: &str) -> bool {
        self.names.read().contains(name)
    }

    /// The column `name` over all entities that were there when this was called, built once and
    /// extended as the table grows. `None` if no entity has the name.
    pub fn column(&self, name: &str) -> Option<EntityColumn> {
        if !self.has(name) {
            return None;
        }
        let mut columns = self.columns.lock();
        let known = columns.get(name).map_or(0, |c| c.values.len());
        let before = columns.get(name).map_or(0, |c| c.values.get_array_memory_size());
        let new = self.since(known);
        if new.is_empty() {
            return columns.get(name).cloned();
        }
        let grown = build_column(new.iter().map(|e| e.get(name)));
        let column = match columns.get(name) {
            None => grown,
            Some(old) => append_column(old, grown).unwrap_or_else(|| {
                let all = self.since(0);
                build_column(all.iter().map(|e| e.get(name)))
            }),
        };
        self.note(column.values.get_array_memory_size().saturating_sub(before));
        columns.insert(name.to_owned(), column.clone());
        Some(column)
    }
}

/// `old` followed by `new`, `None` where their types differ or are mixed.
fn append_column(old: &EntityColumn, new: EntityColumn) -> Option<EntityColumn> {
    if !old.uniform || !new.uniform {
        return None;
    }
    let rows = new.values.len();
    let new = if new.values.null_count() == rows {
        arrow::array::new_null_array(old.values.data_type(), rows)
    } else if new.values.data_type() == old.values.data_type() {
        new.values
    } else if old.values.null_count() == old.values.len() {
        let old = arrow::array::new_null_array(new.values.data_type(), old.values.len());
        let values = arrow::compute::concat(&[&old, &new.values]).ok()?;
        return Some(EntityColumn { values, uniform: true });
    } else {
        return None;
    };
    let values = arrow::compute::concat(&[&old.values, &new]).ok()?;
    Some(EntityColumn { values, uniform: true })
}

/// The narrowest of int, double, bool and text that holds all `values`, and the array of them.
pub fn build_column<'a>(values: impl Iterator<Item = Option<&'a Value>> + Clone) -> EntityColumn {
    let mut common: Option<DataType> = None;
    let mut uniform = true;
    for value in values.clone().flatten() {
        let t = value.data_type();
        match &common {
            None => common = Some(t),
            Some(c) if *c == t => {}
            Some(_) => {
                uniform = false;
                break;
            }
        }
    }
    if !uniform {
        return EntityColumn { values: text_or_double(values), uniform };
    }
    let values: ArrayRef = match common {
        Some(DataType::Boolean) => Arc::new(BooleanArray::from_iter(values.map(|v| match v {
            Some(Value::Bool(v)) => Some(*v),
            _ => None,
        }))),
        Some(DataType::Int64) => Arc::new(Int64Array::from_iter(values.map(|v| match v {
            Some(Value::Int(v)) => Some(*v),
            _ => None,
        }))),
        Some(DataType::Float64) => Arc::new(Float64Array::from_iter(values.map(|v| match v {
            Some(Value::Double(v)) => Some(*v),
            _ => None,
        }))),
        _ => Arc::new(StringArray::from_iter(values.map(|v| v.map(Value::to_text)))),
    };
    EntityColumn { values, uniform }
}

/// Mixed values: doubles where all are numbers that a double holds exactly, else text.
fn text_or_double<'a>(values: impl Iterator<Item = Option<&'a Value>> + Clone) -> ArrayRef {
    let numeric = values.clone().flatten().all(|v| match v {
        Value::Int(i) => int_fits_double(*i),
        Value::Double(_) => true,
        _ => false,
    });
    if numeric {
        return Arc::new(Float64Array::from_iter(values.map(|v| match v {
            Some(Value::Int(i)) => Some(*i as f64),
            Some(Value::Double(d)) => Some(*d),
            _ => None,
        })));
    }
    Arc::new(StringArray::from_iter(values.map(|v| v.map(Value::to_text))))
}

/// Whether a double holds `i` exactly, judged by magnitude (2^53).
pub fn int_fits_double(i: i64) -> bool {
    i.unsigned_abs() <= 1 << 53
}

/// The entity tables of one (source, tenant): the current generation, replaced when it is full, or
/// when all together are and it is the largest. Older generations live as long as a batch holds them.
#[derive(Debug)]
pub struct EntitySpace {
    current: Arc<Current>,
    budget: Arc<Entities>,
}

/// A current table.
#[derive(Debug, Default)]
pub(crate) struct Current {
    table: ArcSwap<EntityTable>,
    /// Bytes of it that are counted in the budget.
    counted: AtomicUsize,
}

impl Current {
    pub(crate) fn counted(&self) -> usize {
        self.counted.load(Relaxed)
    }

    fn count(&self, bytes: usize, budget: &Entities) {
        budget.change(self.counted.swap(bytes, Relaxed), bytes);
    }

    /// Begins a new table.
    pub(crate) fn renew(&self, budget: &Entities) {
        self.table.store(Arc::default());
        self.count(0, budget);
    }
}

impl Default for EntitySpace {
    /// One with a budget of its own.
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl EntitySpace {
    /// One whose current table counts against `budget`.
    pub fn new(budget: Arc<Entities>) -> Self {
        let current = Arc::<Current>::default();
        budget.join(&current);
        Self { current, budget }
    }

    /// The table that the next batch shall use for all its rows.
    pub fn table(&self) -> Arc<EntityTable> {
        let table = self.current.table.load_full();
        self.current.count(table.bytes(), &self.budget);
        if table.len() >= ENTITIES_MAX {
            self.current.renew(&self.budget);
        }
        self.budget.keep();
        self.current.table.load_full()
    }
}

impl Drop for EntitySpace {
    fn drop(&mut self) {
        self.current.count(0, &self.budget);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entity(pod: &str) -> Entity {
        let attribute = |name: &str, value: &str| Attribute {
            name: name.into(),
            value: Value::Text(value.into()),
            origin: Origin::Label,
        };
        Entity::new(vec![attribute("cluster", "the same for all"), attribute("pod", pod)])
    }

    #[test]
    fn an_entity_with_a_nan_is_itself() {
        let table = EntityTable::default();
        let entity = || {
            let value = Value::Double(f64::NAN);
            Entity::new(vec![Attribute { name: "load".into(), value, origin: Origin::Resource }])
        };
        let key = table.intern(entity()).unwrap();
        assert_eq!(table.intern(entity()), Ok(key));
    }

    #[test]
    fn texts_that_entities_share_are_there_once() {
        let table = EntityTable::default();
        let keys = ["a", "b"].map(|pod| table.intern(entity(pod)).unwrap());
        let [a, b] = keys.map(|key| table.get(key));
        for (a, b) in a.attributes().iter().zip(b.attributes()) {
            assert!(Arc::ptr_eq(&a.name, &b.name));
        }
        let (Some(Value::Text(x)), Some(Value::Text(y))) = (a.get("cluster"), b.get("cluster"))
        else {
            panic!("{a:?} {b:?}")
        };
        assert!(Arc::ptr_eq(x, y));
        assert_eq!(table.bytes_of(keys[0]) + table.bytes_of(keys[1]), table.bytes());
        assert!(table.bytes_of(keys[1]) < table.bytes_of(keys[0]));
        let before = table.bytes();
        assert_eq!(table.intern(entity("a")), Ok(keys[0]));
        assert_eq!(table.bytes(), before, "nothing new");
        table.column("pod").unwrap();
        assert!(table.bytes() > before, "a column is counted");
    }

    #[test]
    fn the_larger_tables_are_renewed_when_all_are_too_large() {
        let one = {
            let table = EntityTable::default();
            table.intern(entity("a")).unwrap();
            table.bytes()
        };
        let budget = Entities::new(one * 4);
        let [small, large] = [(); 2].map(|()| EntitySpace::new(budget.clone()));
        small.table().intern(entity("a")).unwrap();
        let (first_small, first) = (small.table().id(), large.table().id());
        let mut pods = 0;
        while large.table().id() == first {
            large.table().intern(entity(&format!("pod-{pods}"))).unwrap();
            pods += 1;
            assert!(pods < 100, "it grows for ever");
        }
        assert!(large.table().is_empty());
        assert_eq!(small.table().id(), first_small);
        drop(large);
        assert_eq!(budget.bytes(), small.table().bytes());
    }
}
