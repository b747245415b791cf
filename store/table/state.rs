//! What readers see of a table, under one lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use weir_pipeline::batch::Batch;
use weir_pipeline::entity::{Attribute, Entity, Value};
use weir_pipeline::memory::Account;
use weir_pipeline::signal::{ATTRIBUTES, COLUMNS_MAX, META_JSON, META_ORIGIN, Signal};

use crate::cache::next_id;
use crate::file::{FileEntry, Overflow};
use crate::normalise::TIMESTAMP;
use crate::snapshot::{HotRun, TableColumn, TableSchema};
use crate::types::ColumnType;

/// Hot runs of fewer rows are joined, so that a trickle does not make thousands of them.
const JOIN_ROWS: usize = 8_192;

/// But not to more bytes: of large batches there are few, and to copy their rows costs more than the
/// rest of the way into memory.
const JOIN_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct HotSlot {
    pub(super) run: Arc<HotRun>,
    pub(super) lane: u64,
    /// The mark whose files hold these rows; `u64::MAX` while they are in files that no mark
    /// covers yet.
    pub(super) staged: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) version: u64,
    pub(super) files: BTreeMap<Arc<str>, Arc<FileEntry>>,
    /// Files of level 0.
    pub(super) level0: u64,
    pub(super) hot: Vec<HotSlot>,
    pub(super) signal: Option<Signal>,
    pub(super) hot_columns: BTreeMap<Arc<str>, TableColumn>,
    hot_overflow: bool,
    /// Per process entity table, the keys whose attributes are in `hot_columns`.
    seen: HashMap<u64, Vec<u64>>,
    schema: Option<Arc<TableSchema>>,
}

impl State {
    pub(super) fn append(
        &mut self,
        lane: u64,
        account: &Arc<Account>,
        batch: Batch,
        min_time: i64,
        max_time: i64,
    ) {
        let came = self.note_columns(&batch);
        self.version += 1;
        if self.signal.is_none() {
            self.signal = Some(batch.signal().clone());
        }
        let rows = batch.num_rows();
        if let Some(i) = self.hot.iter().rposition(|s| s.lane == lane)
            && let slot = &mut self.hot[i]
            && slot.staged.is_none()
            && slot.run.batch.num_rows() <= rows * 2
            && slot.run.batch.num_rows() + rows <= JOIN_ROWS
            && slot.run.batch.bytes() + batch.bytes() <= JOIN_BYTES
            && let Some(joined) = Batch::join(&[slot.run.batch.clone(), batch.clone()])
        {
            let entities = slot.run.entities + came;
            slot.run = Arc::new(HotRun {
                id: next_id(),
                entities,
                charge: account.charge(joined.bytes() + entities),
                batch: joined,
                min_time: slot.run.min_time.min(min_time),
                max_time: slot.run.max_time.max(max_time),
            });
            return;
        }
        let charge = account.charge(batch.bytes() + came);
        let run =
            Arc::new(HotRun { id: next_id(), batch, min_time, max_time, entities: came, charge });
        self.hot.push(HotSlot { run, lane, staged: None });
    }

    /// Hot rows went: forget what only they had, now and then, and where names are many always,
    /// so that new ones get columns.
    pub(super) fn hot_changed(&mut self) {
        self.version += 1;
        if self.hot.is_empty() || self.hot_columns.len() > COLUMNS_MAX {
            self.hot_columns.clear();
            self.hot_overflow = false;
            self.seen.clear();
            self.schema = None;
            let batches: Vec<Batch> = self.hot.iter().map(|s| s.run.batch.clone()).collect();
            for batch in &batches {
                self.note_columns(batch);
            }
        }
    }

    pub(super) fn files_changed(&mut self) {
        self.version += 1;
        self.schema = None;
        self.level0 = self.files.values().filter(|f| f.meta.level == 0).count() as u64;
    }

    /// Gives the memory of entities that no hot row had before, bytes.
    fn note_columns(&mut self, batch: &Batch) -> usize {
        for (field, array) in batch.rows().schema_ref().fields().iter().zip(batch.rows().columns())
        {
            // As in a file: what has no value decides no type.
            if array.null_count() == array.len() {
                continue;
            }
            let Some(kind) = ColumnType::of_array(array) else { continue };
            let json = field.metadata().get(META_JSON).is_some_and(|v| v == "true");
            let origin = field.metadata().get(META_ORIGIN).map(String::as_str);
            self.note(field.name(), kind, true, json, origin);
            if field.name() == ATTRIBUTES && !self.hot_overflow {
                self.hot_overflow = true;
                self.schema = None;
            }
        }
        let Some(e) = batch.entities() else { return 0 };
        let mut bytes = 0;
        let mut new: Vec<Arc<Entity>> = Vec::new();
        let seen = self.seen.entry(e.table.id()).or_default();
        let words = e.table.len().div_ceil(64);
        if seen.len() < words {
            seen.resize(words, 0);
        }
        for &key in e.keys.values() {
            let (word, bit) = (key as usize / 64, 1 << (key % 64));
            if seen[word] & bit == 0 {
                seen[word] |= bit;
                bytes += e.table.bytes_of(key);
                new.push(e.table.get(key));
            }
        }
        let mut before: Option<Arc<Entity>> = None;
        for entity in new {
            for (i, a) in entity.attributes().iter().enumerate() {
                // Mostly each looks like the one before, and what they share is not looked up again.
                if before
                    .as_ref()
                    .is_some_and(|b| b.attributes().get(i).is_some_and(|b| alike(a, b)))
                {
                    continue;
                }
                let Some(kind) = ColumnType::of_value(&a.value) else { continue };
                let json = matches!(a.value, Value::Json(_));
                self.note(&a.name, kind, false, json, Some(a.origin.as_str()));
            }
            before = Some(entity);
        }
        bytes
    }

    fn note(&mut self, name: &str, kind: ColumnType, row: bool, json: bool, origin: Option<&str>) {
        if let Some(known) = self.hot_columns.get_mut(name) {
            let same =
                known.kind.widen(kind) == known.kind && if row { known.row } else { known.entity };
            if same {
                return;
            }
        }
        add_column(&mut self.hot_columns, name, kind, row, json, origin);
        self.schema = None;
    }

    /// The union of everything, made again only when it changed.
    pub(super) fn schema(&mut self) -> Arc<TableSchema> {
        if let Some(schema) = &self.schema {
            return schema.clone();
        }
        let mut columns = self.hot_columns.clone();
        let mut overflow = std::collections::BTreeSet::new();
        let mut open = self.hot_overflow;
        let mut shapes = HashSet::new();
        let mut sets = HashSet::new();
        let mut chunks = HashSet::new();
        for file in self.files.values() {
            match &file.meta.overflow {
                Overflow::None => {}
                Overflow::Keys(keys) => overflow.extend(keys.iter().cloned()),
                Overflow::Many => open = true,
            }
            if shapes.insert(Arc::as_ptr(&file.meta.columns).cast::<u8>()) {
                for c in file.meta.columns.iter() {
                    let origin = c.origin.as_deref();
                    add_column(&mut columns, &c.name, c.kind, true, c.json, origin);
                }
            }
            let Some(set) = file.set.as_ref().filter(|s| sets.insert(Arc::as_ptr(s))) else {
                continue;
            };
            for chunk in set.files() {
                open |= chunk.meta.more;
                if !chunks.insert(chunk.id) {
                    continue;
                }
                for c in chunk.meta.columns.iter() {
                    let origin = c.origin.as_deref();
                    add_column(&mut columns, &c.name, c.kind, false, c.json, origin);
                }
            }
        }
        if !columns.contains_key(TIMESTAMP) {
            add_column(&mut columns, TIMESTAMP, ColumnType::Time, true, false, None);
        }
        let schema = Arc::new(TableSchema {
            columns: columns.into_values().collect(),
            overflow,
            overflow_open: open,
        });
        self.schema = Some(schema.clone());
        schema
    }
}

/// Whether a column that has one of them is as it must be for the other.
fn alike(a: &Attribute, b: &Attribute) -> bool {
    // Of one table: the same name is one text.
    Arc::ptr_eq(&a.name, &b.name)
        && a.origin == b.origin
        && std::mem::discriminant(&a.value) == std::mem::discriminant(&b.value)
        // Some integers are wider than others.
        && !matches!(a.value, Value::Int(_))
}

fn add_column(
    columns: &mut BTreeMap<Arc<str>, TableColumn>,
    name: &str,
    kind: ColumnType,
    row: bool,
    json: bool,
    origin: Option<&str>,
) {
    let kind = kind.surface();
    match columns.get_mut(name) {
        Some(known) => {
            let canonical = known.kind == ColumnType::Time && name == TIMESTAMP;
            if !canonical {
                known.kind = known.kind.widen(kind);
            }
            known.row |= row;
            known.entity |= !row;
            known.json &= json;
            if known.origin.is_none() {
                known.origin = origin.map(Into::into);
            }
        }
        None => {
            let name: Arc<str> = name.into();
            let origin = origin.map(Into::into);
            let column = TableColumn { name: name.clone(), kind, row, entity: !row, json, origin };
            columns.insert(name, column);
        }
    }
}
