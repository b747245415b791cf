//! One row as a VRL target where each path of the program is one column ([`Flat`]): what a path
//! reads or sets is found by its index, and nothing is looked up by name.
//!
//! It does what [`super::row::Row`] does on such a batch. An object that is assigned becomes the
//! columns below, `.a = {"b": 1}` the column `a.b`; a later scalar in `.a` stands beside them.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use vrl::compiler::{SecretTarget, Target};
use vrl::path::{OwnedTargetPath, OwnedValuePath, PathPrefix};
use vrl::value::{ObjectMap, Value};

use super::flat::{Flat, Path};
use super::row::nest;
use super::values::{Column, Columns};

/// A row while a program runs on it; the same is used for all rows of a batch.
#[derive(Debug)]
pub(super) struct FlatRow<'a> {
    flat: &'a Flat,
    index: usize,
    slots: Vec<Slot<'a>>,
    metadata: Value,
}

/// A column in the row.
#[derive(Debug)]
struct Slot<'a> {
    name: &'a str,
    before: Option<&'a Column>,
    /// Whether it holds objects as such, not as columns below it.
    json: bool,
    /// What it holds now, once that is asked for.
    own: OnceCell<Option<Value>>,
    /// Whether `own` was set or deleted.
    changed: bool,
    below: Option<Below>,
}

/// What an object became, and the object again.
#[derive(Debug)]
struct Below {
    columns: BTreeMap<String, Value>,
    object: Option<Value>,
}

/// What a program did to one column of a row.
#[derive(Debug)]
pub(super) struct Change {
    /// `None` if nothing, else its value; `None` is deleted.
    pub(super) own: Option<Option<Value>>,
    /// New columns whose names begin with its own.
    pub(super) below: BTreeMap<String, Value>,
}

impl<'a> FlatRow<'a> {
    pub(super) fn new(flat: &'a Flat, columns: &'a Columns) -> Self {
        let slot = |name: &'a super::flat::Name| Slot {
            name: &name.name,
            before: columns.get(&name.name),
            json: columns.is_json(&name.name),
            own: OnceCell::new(),
            changed: false,
            below: None,
        };
        let slots = flat.names.iter().map(slot).collect();
        Self { flat, index: 0, slots, metadata: Value::Null }
    }

    /// Goes on to the row `index`.
    pub(super) fn start(&mut self, index: usize, metadata: Value) {
        (self.index, self.metadata) = (index, metadata);
        for slot in &mut self.slots {
            drop(slot.own.take());
            slot.changed = false;
            slot.below = None;
        }
    }

    /// What was done, a change for each of [`Flat::names`].
    pub(super) fn changes(&mut self) -> impl Iterator<Item = Change> {
        self.slots.iter_mut().map(|slot| Change {
            own: slot.changed.then(|| slot.own.take().flatten()),
            below: slot.below.take().map(|b| b.columns).unwrap_or_default(),
        })
    }

    fn path(&self, path: &OwnedTargetPath) -> Result<&'a Path, String> {
        let found = self.flat.paths.iter().find(|p| p.path == *path);
        found.ok_or_else(|| format!("path `{path}` was not planned"))
    }
}

impl Slot<'_> {
    fn own(&self, row: usize) -> Option<&Value> {
        let load = || self.before.and_then(|column| column.value(self.name, row));
        self.own.get_or_init(load).as_ref()
    }

    fn get(&self, row: usize, rest: &OwnedValuePath) -> Option<&Value> {
        match self.own(row) {
            Some(value) => value.get(rest),
            None => self.below.as_ref()?.object.as_ref()?.get(rest),
        }
    }

    fn set(&mut self, value: Option<Value>) {
        self.own = OnceCell::from(value);
        self.changed = true;
    }

    fn insert(&mut self, row: usize, rest: &OwnedValuePath, value: Value) {
        match value {
            value if !rest.is_root() => {
                let mut whole = self.own(row).cloned().unwrap_or(Value::Null);
                whole.insert(rest, value);
                self.set(Some(whole));
            }
            Value::Object(object) if !self.json => {
                self.set(None);
                self.below = Some(Below::of(self.name, object));
            }
            value => self.set(Some(value)),
        }
    }

    fn remove(&mut self, row: usize, rest: &OwnedValuePath, compact: bool) -> Option<Value> {
        let removed = self.get(row, rest)?.clone();
        match self.own(row) {
            Some(whole) if !rest.is_root() => {
                let mut whole = whole.clone();
                whole.remove(rest, compact);
                self.set(Some(whole));
            }
            // Only the column itself: what stands below it stays.
            Some(_) => self.set(None),
            None => {
                self.set(None);
                self.below = None;
            }
        }
        Some(removed)
    }
}

impl Below {
    fn of(name: &str, object: ObjectMap) -> Self {
        let mut columns = BTreeMap::new();
        flatten(name, object, &mut columns);
        let mut object = ObjectMap::new();
        for (column, value) in &columns {
            nest(&mut object, &column[name.len() + 1..], value.clone());
        }
        Self { columns, object: (!object.is_empty()).then_some(Value::Object(object)) }
    }
}

fn flatten(prefix: &str, object: ObjectMap, columns: &mut BTreeMap<String, Value>) {
    for (key, value) in object {
        let name = format!("{prefix}.{key}");
        match value {
            Value::Object(inner) => flatten(&name, inner, columns),
            value => drop(columns.insert(name, value)),
        }
    }
}

impl Target for FlatRow<'_> {
    fn target_insert(&mut self, path: &OwnedTargetPath, value: Value) -> Result<(), String> {
        if path.prefix == PathPrefix::Metadata {
            return Err("metadata is read-only".to_owned());
        }
        let Path { column, rest, .. } = self.path(path)?;
        self.slots[*column].insert(self.index, rest, value);
        Ok(())
    }

    fn target_get(&self, path: &OwnedTargetPath) -> Result<Option<&Value>, String> {
        if path.prefix == PathPrefix::Metadata {
            return Ok(self.metadata.get(&path.path));
        }
        let Path { column, rest, .. } = self.path(path)?;
        Ok(self.slots[*column].get(self.index, rest))
    }

    fn target_get_mut(&mut self, path: &OwnedTargetPath) -> Result<Option<&mut Value>, String> {
        Err(format!("path `{path}` cannot be changed in place"))
    }

    fn target_remove(
        &mut self,
        path: &OwnedTargetPath,
        compact: bool,
    ) -> Result<Option<Value>, String> {
        if path.prefix == PathPrefix::Metadata {
            return Err("metadata is read-only".to_owned());
        }
        let Path { column, rest, .. } = self.path(path)?;
        Ok(self.slots[*column].remove(self.index, rest, compact))
    }
}

/// Programs have no secrets.
impl SecretTarget for FlatRow<'_> {
    fn get_secret(&self, _key: &str) -> Option<&str> {
        None
    }

    fn insert_secret(&mut self, _key: &str, _value: &str) {}

    fn remove_secret(&mut self, _key: &str) {}
}
