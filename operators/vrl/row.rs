//! One row as a VRL target.
//!
//! Paths are column names: `.http.route` is the column `http.route`. Where `error` and
//! `error.type` both exist each path finds its own. A path that is only a prefix of names reads,
//! tests, deletes and assigns them as one object; `.` is the whole row; JSON columns are arrays
//! and objects.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ops::Bound;

use vrl::compiler::{SecretTarget, Target};
use vrl::path::{OwnedSegment, OwnedTargetPath, OwnedValuePath, PathPrefix};
use vrl::value::{KeyString, ObjectMap, Value};

use super::values::Columns;

/// What a program set, by column name; `None` is deleted.
pub(super) type Changes = BTreeMap<String, Option<Value>>;

/// One row while a program runs on it.
#[derive(Debug)]
pub(super) struct Row<'a> {
    columns: &'a Columns,
    index: usize,
    changes: Changes,
    /// All columns of the batch were deleted or replaced.
    cleared: bool,
    /// What was assigned to `.` if it was no object.
    root: Option<Value>,
    /// Every path that the program can read, with what it reads now.
    slots: &'a [OwnedTargetPath],
    read: Vec<OnceCell<Option<Value>>>,
    metadata: Value,
}

/// What a program left of a row.
#[derive(Debug)]
pub(super) enum Result<'a> {
    /// These changes to its columns, after all were cleared or not.
    Changed { changes: Changes, cleared: bool },
    /// Something that is no object was assigned to `.`: an array is one row each.
    Root(Value, std::marker::PhantomData<&'a ()>),
}

impl<'a> Row<'a> {
    /// The row `index`. `slots` are the paths of [`vrl::compiler::ProgramInfo::target_queries`].
    pub(super) fn new(
        columns: &'a Columns,
        index: usize,
        slots: &'a [OwnedTargetPath],
        metadata: Value,
    ) -> Self {
        Self {
            columns,
            index,
            changes: Changes::new(),
            cleared: false,
            root: None,
            slots,
            read: slots.iter().map(|_| OnceCell::new()).collect(),
            metadata,
        }
    }

    /// What is left.
    pub(super) fn finish(self) -> Result<'a> {
        match self.root {
            Some(root) => Result::Root(root, std::marker::PhantomData),
            None => Result::Changed { changes: self.changes, cleared: self.cleared },
        }
    }

    fn column(&self, name: &str) -> Option<Value> {
        match self.changes.get(name) {
            Some(changed) => changed.clone(),
            None if self.cleared => None,
            None => self.columns.value(name, self.index),
        }
    }

    /// Names below `prefix.` that may have a value.
    fn below(&self, prefix: &str) -> Vec<String> {
        let start = format!("{prefix}.");
        // '/' follows '.' in the order of bytes.
        let end = format!("{prefix}/");
        let range = (Bound::Included(start.as_str()), Bound::Excluded(end.as_str()));
        let mut names: Vec<String> =
            self.changes.range::<str, _>(range).map(|(n, _)| n.clone()).collect();
        if !self.cleared {
            names.extend(self.columns.names(range).map(str::to_owned));
        }
        names.sort();
        names.dedup();
        names
    }

    fn all(&self) -> Vec<String> {
        let mut names: Vec<String> = self.changes.keys().cloned().collect();
        if !self.cleared {
            let range = (Bound::<&str>::Unbounded, Bound::Unbounded);
            names.extend(self.columns.names(range).map(str::to_owned));
        }
        names.sort();
        names.dedup();
        names
    }

    /// `names` with a value as one object, `cut` bytes cut off the front of each.
    fn object(&self, names: Vec<String>, cut: usize) -> Option<Value> {
        let mut object = ObjectMap::new();
        for name in names {
            if let Some(value) = self.column(&name) {
                nest(&mut object, &name[cut..], value);
            }
        }
        (!object.is_empty()).then_some(Value::Object(object))
    }

    fn get(&self, path: &OwnedValuePath) -> Option<Value> {
        if let Some(root) = &self.root {
            return root.get(path).cloned();
        }
        let (fields, rest) = split(path);
        if fields.is_empty() {
            let row = self.object(self.all(), 0).unwrap_or(Value::Object(ObjectMap::new()));
            return row.get(&rest).cloned();
        }
        let (host, inner) = self.host(&fields, &rest);
        if let Some(value) = self.column(&host) {
            return value.get(&inner).cloned();
        }
        let name = fields.join(".");
        self.object(self.below(&name), name.len() + 1)?.get(&rest).cloned()
    }

    /// The column that holds a path: the one of its full name if that has a value, else the
    /// longest prefix that holds an object or array; and the path inside it.
    fn host(&self, fields: &[&str], rest: &OwnedValuePath) -> (String, OwnedValuePath) {
        let full = fields.join(".");
        if self.column(&full).is_some() {
            return (full, rest.clone());
        }
        for cut in (1..fields.len()).rev() {
            let name = fields[..cut].join(".");
            if matches!(self.column(&name), Some(Value::Object(_) | Value::Array(_))) {
                let mut inner = OwnedValuePath::root();
                fields[cut..].iter().for_each(|f| inner.push_field(f));
                rest.segments.iter().for_each(|s| inner.push_segment(s.clone()));
                return (name, inner);
            }
        }
        (full, rest.clone())
    }

    fn insert(&mut self, path: &OwnedValuePath, value: Value) {
        self.forget();
        if path.is_root() {
            self.clear();
            match value {
                Value::Object(object) => self.assign_object("", object),
                other => self.root = Some(other),
            }
            return;
        }
        if let Some(root) = &mut self.root {
            root.insert(path, value);
            return;
        }
        let (fields, rest) = split(path);
        if fields.is_empty() {
            // An index into the row itself: it becomes an array.
            let mut row = Value::Array(Vec::new());
            row.insert(&rest, value);
            self.clear();
            self.root = Some(row);
            return;
        }
        let (host, inner) = self.host(&fields, &rest);
        if inner.is_root() {
            self.assign(&host, value);
        } else {
            let mut whole = self.column(&host).unwrap_or(Value::Null);
            whole.insert(&inner, value);
            self.changes.insert(host, Some(whole));
        }
    }

    fn assign(&mut self, name: &str, value: Value) {
        match value {
            Value::Object(object) if self.columns.is_json(name) => {
                self.changes.insert(name.to_owned(), Some(Value::Object(object)));
            }
            Value::Object(object) => {
                self.delete(name);
                self.assign_object(name, object);
            }
            value => {
                self.changes.insert(name.to_owned(), Some(value));
            }
        }
    }

    fn assign_object(&mut self, prefix: &str, object: ObjectMap) {
        for (key, value) in object {
            let name = if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") };
            match value {
                Value::Object(inner) if !self.columns.is_json(&name) => {
                    self.assign_object(&name, inner);
                }
                value => {
                    self.changes.insert(name, Some(value));
                }
            }
        }
    }

    /// Deletes the column and all below it.
    fn delete(&mut self, name: &str) {
        for below in self.below(name) {
            self.changes.insert(below, None);
        }
        self.changes.insert(name.to_owned(), None);
    }

    fn clear(&mut self) {
        self.changes.clear();
        self.cleared = true;
        self.root = None;
    }

    fn remove(&mut self, path: &OwnedValuePath, compact: bool) -> Option<Value> {
        self.forget();
        if let Some(root) = &mut self.root {
            return root.remove(path, compact);
        }
        let before = self.get(path)?;
        if path.is_root() {
            self.clear();
            return Some(before);
        }
        let (fields, rest) = split(path);
        let (host, inner) = self.host(&fields, &rest);
        match self.column(&host) {
            Some(mut whole) if !inner.is_root() => {
                whole.remove(&inner, compact);
                self.changes.insert(host, Some(whole));
            }
            Some(_) => {
                // Only the column itself: `error` goes, `error.type` stays.
                self.changes.insert(host, None);
            }
            None => self.delete(&fields.join(".")),
        }
        Some(before)
    }

    /// After a change nothing that was read before is sure to hold.
    fn forget(&mut self) {
        self.read.iter_mut().for_each(|slot| drop(slot.take()));
    }
}

/// Puts `value` at the dotted `name`, as deep as it goes: below a value that is no object the
/// rest of the name stays dotted.
pub(super) fn nest(object: &mut ObjectMap, name: &str, value: Value) {
    if let Some((first, rest)) = name.split_once('.') {
        let inner =
            object.entry(KeyString::from(first)).or_insert_with(|| Value::Object(ObjectMap::new()));
        if let Value::Object(inner) = inner {
            return nest(inner, rest, value);
        }
    }
    object.insert(KeyString::from(name), value);
}

/// The leading fields of a path, and what follows from the first index on.
fn split(path: &OwnedValuePath) -> (Vec<&str>, OwnedValuePath) {
    let mut fields = Vec::new();
    for segment in &path.segments {
        match segment {
            OwnedSegment::Field(name) => fields.push(name.as_str()),
            OwnedSegment::Index(_) => break,
        }
    }
    let rest = path.segments[fields.len()..].to_vec();
    (fields, OwnedValuePath::from(rest))
}

impl Target for Row<'_> {
    fn target_insert(
        &mut self,
        path: &OwnedTargetPath,
        value: Value,
    ) -> std::result::Result<(), String> {
        match path.prefix {
            PathPrefix::Event => self.insert(&path.path, value),
            PathPrefix::Metadata => return Err("metadata is read-only".to_owned()),
        }
        Ok(())
    }

    fn target_get(&self, path: &OwnedTargetPath) -> std::result::Result<Option<&Value>, String> {
        if path.prefix == PathPrefix::Metadata {
            return Ok(self.metadata.get(&path.path));
        }
        match self.slots.iter().position(|slot| slot == path) {
            Some(slot) => Ok(self.read[slot].get_or_init(|| self.get(&path.path)).as_ref()),
            None => Err(format!("path `{path}` was not planned")),
        }
    }

    fn target_get_mut(
        &mut self,
        path: &OwnedTargetPath,
    ) -> std::result::Result<Option<&mut Value>, String> {
        Err(format!("path `{path}` cannot be changed in place"))
    }

    fn target_remove(
        &mut self,
        path: &OwnedTargetPath,
        compact: bool,
    ) -> std::result::Result<Option<Value>, String> {
        match path.prefix {
            PathPrefix::Event => Ok(self.remove(&path.path, compact)),
            PathPrefix::Metadata => Err("metadata is read-only".to_owned()),
        }
    }
}

/// Programs have no secrets.
impl SecretTarget for Row<'_> {
    fn get_secret(&self, _key: &str) -> Option<&str> {
        None
    }

    fn insert_secret(&mut self, _key: &str, _value: &str) {}

    fn remove_secret(&mut self, _key: &str) {}
}
