//! Entities: what rows have in common, said once.
//!
//! For metrics an entity is a series (name, unit, type, labels, resource, scope), for logs, spans
//! and profiles a resource with its scope. A row refers to its entity by a `UInt32` key into an
//! append-only [`EntityTable`]. Keys are local to the process: they never reach a checkpoint, a
//! file, a hash or the order of output. State and files know an entity by [`Entity::fingerprint`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use arrow::datatypes::DataType;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use xxhash_rust::xxh3::xxh3_128;

/// Entities of one table generation. A batch that brings new ones may go past it by its own
/// number of rows; the next batch starts a new generation.
pub const ENTITIES_MAX: usize = 2_000_000;

/// One attribute value.
#[derive(Clone, Debug, PartialEq)]
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

impl Value {
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

/// Append-only table of entities; the index of an entity is its key.
pub struct EntityTable {
    id: u64,
    entities: RwLock<Vec<Arc<Entity>>>,
    keys: Mutex<HashMap<u128, u32>>,
    names: RwLock<BTreeSet<Arc<str>>>,
    columns: Mutex<HashMap<String, EntityColumn>>,
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
            keys: Mutex::default(),
            names: RwLock::default(),
            columns: Mutex::default(),
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
    pub fn intern(&self, entity: Entity) -> Result<u32, EntityError> {
        let mut keys = self.keys.lock();
        if let Some(&key) = keys.get(&entity.fingerprint) {
            if *self.entities.read()[key as usize] != entity {
                return Err(EntityError::Collision(entity.fingerprint));
            }
            return Ok(key);
        }
        {
            let names = self.names.read();
            let new: Vec<_> =
                entity.attributes.iter().filter(|a| !names.contains(&a.name)).collect();
            drop(names);
            if !new.is_empty() {
                self.names.write().extend(new.into_iter().map(|a| a.name.clone()));
            }
        }
        let mut entities = self.entities.write();
        let key = entities.len() as u32;
        keys.insert(entity.fingerprint, key);
        entities.push(Arc::new(entity));
        Ok(key)
    }

    /// The entity with `key`.
    ///
    /// # Panics
    /// If no row of this table was ever given that key.
    pub fn get(&self, key: u32) -> Arc<Entity> {
        self.entities.read()[key as usize].clone()
    }

    /// The entities with keys from `start` on, for caches that grow with the table.
    pub fn since(&self, start: usize) -> Vec<Arc<Entity>> {
        self.entities.read().get(start..).map(<[_]>::to_vec).unwrap_or_default()
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

/// The entity tables of one (source, tenant): the current generation, replaced when it is full.
/// Older generations live as long as a batch holds them.
#[derive(Debug, Default)]
pub struct EntitySpace {
    current: ArcSwap<EntityTable>,
}

impl EntitySpace {
    /// The table that the next batch shall use for all its rows.
    pub fn table(&self) -> Arc<EntityTable> {
        let table = self.current.load_full();
        if table.len() < ENTITIES_MAX {
            return table;
        }
        let next = Arc::new(EntityTable::default());
        let before = self.current.compare_and_swap(&table, next.clone());
        if Arc::ptr_eq(&before, &table) { next } else { self.current.load_full() }
    }
}
