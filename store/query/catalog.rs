//! The tables of one tenant as one query sees them: snapshots taken once, on first use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::Result;
use indexmap::IndexMap;
use parking_lot::Mutex;
use serde::Serialize;
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::{ATTRIBUTES, COLUMNS_MAX, timestamp};

use super::foreign::ForeignTable;
use super::names::{Catalog, Shape, nearest};
use super::scan::{METRIC_NAME, METRIC_TYPE};
use crate::entity_log::{ChunkFile, EntitySet};
use crate::snapshot::TableSnapshot;
use crate::store::Store;

/// Where tables and columns are listed.
pub(super) const TABLES: &str = "information_schema.tables";
/// One row per column.
pub(super) const COLUMNS: &str = "information_schema.columns";

/// Entity sets that are looked through for the columns of one metric, newest first: two days of
/// merged files. Columns of older ones can be named, but are not in `*`.
const METRIC_SETS_MAX: usize = 48;

/// Columns that `*` stands for at most. Files within their limits have fewer; a table of many
/// files of different columns may have any number.
const STAR_COLUMNS_MAX: usize = 2 * COLUMNS_MAX;

/// A table, as clients see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TableInfo {
    /// Name.
    pub name: String,
    /// `logs`, `metrics`, `spans`, `profiles`, or the name of another stream.
    pub signal: Option<String>,
    /// Rows in files and hot rows.
    pub rows: u64,
    /// Rows that no file holds yet.
    pub hot_rows: u64,
    /// Number of files.
    pub files: u64,
    /// Size of the files.
    pub bytes: u64,
    /// Earliest `timestamp`, UTC nanoseconds.
    pub min_time: Option<i64>,
    /// Latest `timestamp`, UTC nanoseconds.
    pub max_time: Option<i64>,
    /// Columns, sorted by name; keys of `attributes` last.
    pub columns: Vec<ColumnInfo>,
}

/// A column, as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnInfo {
    /// Name.
    pub name: String,
    /// Arrow type, as text.
    #[serde(rename = "type")]
    pub data_type: String,
    /// `row`, `entity`, `both`, or `attributes` for a key of that JSON column.
    pub level: &'static str,
}

/// Tables of one tenant.
pub(super) struct Tables {
    store: Arc<Store>,
    tenant: String,
    snapshots: Mutex<BTreeMap<String, Arc<TableSnapshot>>>,
    /// Tables of stores of others that the statement names.
    foreign: BTreeMap<String, Arc<ForeignTable>>,
}

impl Tables {
    pub(super) fn new(store: Arc<Store>, tenant: &str) -> Self {
        let tenant = tenant.to_owned();
        Self { store, tenant, snapshots: Mutex::default(), foreign: BTreeMap::new() }
    }

    /// Whether there is a table of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.store.table(&self.tenant, name).is_some()
    }

    /// With tables of stores of others, none of which has the name of an own one.
    pub(super) fn with(self, foreign: BTreeMap<String, Arc<ForeignTable>>) -> Self {
        Self { foreign, ..self }
    }

    pub(super) fn foreign(&self, name: &str) -> Option<Arc<ForeignTable>> {
        self.foreign.get(name).cloned()
    }

    /// Own tables.
    fn names(&self) -> Vec<String> {
        self.store.tables(&self.tenant).iter().map(|t| t.name().to_string()).collect()
    }

    /// The one version of a table that this query reads.
    pub(super) fn snapshot(&self, name: &str) -> Option<Arc<TableSnapshot>> {
        let mut snapshots = self.snapshots.lock();
        if let Some(found) = snapshots.get(name) {
            return Some(found.clone());
        }
        let snapshot = self.store.table(&self.tenant, name)?.snapshot();
        snapshots.insert(name.to_owned(), snapshot.clone());
        Some(snapshot)
    }

    /// Every table with its columns.
    pub(super) fn list(&self) -> Vec<TableInfo> {
        let names = self.names();
        names.iter().filter_map(|n| self.snapshot(n)).map(|s| info(&s)).collect()
    }

    /// The rows of a table of `information_schema`.
    pub(super) fn listing(&self, name: &str) -> Result<RecordBatch> {
        let tables = self.list();
        let columns: Vec<ArrayRef> = if name == TABLES {
            let text = |f: fn(&TableInfo) -> Option<String>| -> ArrayRef {
                Arc::new(StringArray::from_iter(tables.iter().map(f)))
            };
            let int = |f: fn(&TableInfo) -> u64| -> ArrayRef {
                Arc::new(Int64Array::from_iter_values(
                    tables.iter().map(|t| i64::try_from(f(t)).unwrap_or(i64::MAX)),
                ))
            };
            let time = |f: fn(&TableInfo) -> Option<i64>| -> ArrayRef {
                let times = TimestampNanosecondArray::from_iter(tables.iter().map(f));
                Arc::new(times.with_timezone("UTC"))
            };
            vec![
                text(|t| Some(t.name.clone())),
                text(|t| t.signal.clone()),
                int(|t| t.rows),
                int(|t| t.hot_rows),
                int(|t| t.files),
                int(|t| t.bytes),
                time(|t| t.min_time),
                time(|t| t.max_time),
            ]
        } else {
            let own = tables.iter().map(|t| (t.name.as_str(), t.columns.clone()));
            let foreign = self.foreign.iter().map(|(name, t)| (name.as_str(), t.columns()));
            let rows: Vec<(&str, ColumnInfo)> = own
                .chain(foreign)
                .flat_map(|(name, columns)| columns.into_iter().map(move |c| (name, c)))
                .collect();
            vec![
                Arc::new(StringArray::from_iter_values(rows.iter().map(|(t, _)| t))),
                Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, c)| &c.name))),
                Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, c)| &c.data_type))),
                Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, c)| c.level))),
            ]
        };
        let schema = listing_schema(name);
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}

fn listing_schema(name: &str) -> Arc<Schema> {
    static SCHEMAS: LazyLock<[Arc<Schema>; 2]> = LazyLock::new(|| {
        let field = |name: &str, t: DataType| Field::new(name, t, true);
        let (text, int) = (DataType::Utf8, DataType::Int64);
        [
            Arc::new(Schema::new(vec![
                field("table_name", text.clone()),
                field("signal", text.clone()),
                field("rows", int.clone()),
                field("hot_rows", int.clone()),
                field("files", int.clone()),
                field("bytes", int),
                field("min_time", timestamp()),
                field("max_time", timestamp()),
            ])),
            Arc::new(Schema::new(vec![
                field("table_name", text.clone()),
                field("column_name", text.clone()),
                field("data_type", text.clone()),
                field("level", text),
            ])),
        ]
    });
    SCHEMAS[usize::from(name != TABLES)].clone()
}

fn info(snapshot: &TableSnapshot) -> TableInfo {
    let (files, hot) = (snapshot.files(), snapshot.hot());
    let times = || {
        let files = files.iter().map(|f| (f.meta().min_time, f.meta().max_time));
        files.chain(hot.iter().map(|h| (h.min_time(), h.max_time())))
    };
    let schema = snapshot.schema();
    let mut columns: Vec<ColumnInfo> = schema
        .columns()
        .iter()
        .map(|c| ColumnInfo {
            name: c.name.to_string(),
            data_type: c.data_type().to_string(),
            level: match (c.row, c.entity) {
                (true, true) => "both",
                (false, true) => "entity",
                _ => "row",
            },
        })
        .collect();
    columns.extend(schema.overflow_keys().iter().filter(|k| schema.column(k).is_none()).map(|k| {
        ColumnInfo { name: k.to_string(), data_type: DataType::Utf8.to_string(), level: ATTRIBUTES }
    }));
    TableInfo {
        name: snapshot.table().name().to_string(),
        signal: snapshot.signal().map(|s| s.as_str().to_owned()),
        rows: snapshot.rows(),
        hot_rows: hot.iter().map(|h| h.batch().num_rows() as u64).sum(),
        files: files.len() as u64,
        bytes: files.iter().map(|f| f.meta().bytes).sum(),
        min_time: times().map(|t| t.0).min(),
        max_time: times().map(|t| t.1).max(),
        columns,
    }
}

impl Catalog for Tables {
    fn tables(&self) -> Vec<String> {
        self.names().into_iter().chain(self.foreign.keys().cloned()).collect()
    }

    fn table(&self, name: &str) -> Option<Arc<Shape>> {
        if let Some(foreign) = self.foreign.get(name) {
            return Some(foreign.shape());
        }
        if name == TABLES || name == COLUMNS {
            let schema = listing_schema(name);
            let columns = schema.fields().iter();
            let columns = columns.map(|f| (f.name().clone(), Some(f.data_type().clone())));
            return Some(Arc::new(Shape { columns: columns.collect(), ..Shape::default() }));
        }
        Some(Arc::new(shape(&*self.snapshot(name)?, |_| true)))
    }

    fn metric(&self, name: &str) -> Option<Arc<Shape>> {
        let snapshot = self.snapshot("metrics")?;
        let mut found = Found::default();
        for table in hot_entities(&snapshot) {
            for entity in table.since(0) {
                if entity.get(METRIC_NAME).is_some_and(|v| v.to_text() == name) {
                    found.any = true;
                    found.names.extend(entity.attributes().iter().map(|a| a.name.to_string()));
                    found.types.extend(entity.get(METRIC_TYPE).map(|t| t.to_text().into()));
                }
            }
        }
        let (sets, all) = entity_sets(&snapshot);
        for set in &sets {
            for chunk in set.files() {
                found.look(set, &chunk, name);
            }
        }
        if !found.any {
            // Past the sets that were looked through it may exist still.
            return (!all).then(|| self.table("metrics")).flatten();
        }
        let simple = ["gauge", "counter", "unknown"];
        let simple = found.types.iter().all(|t| simple.contains(&t.as_str()));
        let row = |column: &str| {
            let level = snapshot.schema().column(column);
            level.is_some_and(|c| c.row) && !(simple && column == "histogram")
        };
        let shape = shape(&snapshot, |column| row(column) || found.names.contains(column));
        Some(Arc::new(shape))
    }

    fn nearest_metric(&self, name: &str) -> Option<String> {
        let snapshot = self.snapshot("metrics")?;
        let mut names = BTreeSet::new();
        for column in hot_entities(&snapshot).iter().filter_map(|t| t.column(METRIC_NAME)) {
            collect(&column.values, &mut names);
        }
        let (sets, _) = entity_sets(&snapshot);
        for set in &sets {
            for chunk in set.files() {
                let entities = set.columns(&chunk, &[METRIC_NAME]).ok();
                if let Some(column) = entities.as_ref().and_then(|e| e.column(METRIC_NAME)) {
                    collect(column, &mut names);
                }
            }
        }
        nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
    }
}

/// Names that go with one metric.
#[derive(Default)]
struct Found {
    any: bool,
    names: BTreeSet<String>,
    types: BTreeSet<String>,
}

impl Found {
    /// Looks for `metric` among the entities of `chunk`; one that cannot be read has none.
    fn look(&mut self, set: &EntitySet, chunk: &ChunkFile, metric: &str) {
        let Ok(entities) = set.columns(chunk, &[METRIC_NAME, METRIC_TYPE]) else { return };
        let texts = |name| entities.column(name).and_then(|c| c.as_string_opt::<i32>());
        let Some(metrics) = texts(METRIC_NAME) else { return };
        let rows: Vec<usize> =
            (0..metrics.len()).filter(|&i| value(metrics, i) == Some(metric)).collect();
        if rows.is_empty() {
            return;
        }
        self.any = true;
        if let Some(types) = texts(METRIC_TYPE) {
            self.types.extend(rows.iter().filter_map(|&i| value(types, i)).map(str::to_owned));
        }
        let mut names: Vec<String> =
            chunk.meta.columns.iter().map(|c| c.name.to_string()).collect();
        if chunk.meta.more
            && let Ok(whole) = set.load_chunk(chunk)
        {
            names.extend(whole.names().into_iter().map(str::to_owned));
        }
        names.retain(|n| !self.names.contains(n));
        let asked: Vec<&str> = names.iter().map(String::as_str).collect();
        let Ok(others) = set.columns(chunk, &asked) else { return };
        for name in names {
            let column = others.column(&name);
            if column.is_some_and(|c| rows.iter().any(|&i| c.is_valid(i))) {
                self.names.insert(name);
            }
        }
    }
}

fn value(values: &StringArray, i: usize) -> Option<&str> {
    values.is_valid(i).then(|| values.value(i))
}

fn collect(column: &ArrayRef, names: &mut BTreeSet<String>) {
    if let Some(values) = column.as_string_opt::<i32>() {
        for name in values.iter().flatten() {
            if !names.contains(name) {
                names.insert(name.to_owned());
            }
        }
    }
}

/// The entity tables of hot rows, each once.
fn hot_entities(snapshot: &TableSnapshot) -> Vec<Arc<EntityTable>> {
    let mut tables: Vec<Arc<EntityTable>> = Vec::new();
    for keys in snapshot.hot().iter().filter_map(|run| run.batch().entities()) {
        if !tables.iter().any(|t| Arc::ptr_eq(t, &keys.table)) {
            tables.push(keys.table.clone());
        }
    }
    tables
}

/// The entity sets of a table, newest first, each once; and whether these are all.
fn entity_sets(snapshot: &TableSnapshot) -> (Vec<Arc<EntitySet>>, bool) {
    let mut files: Vec<_> = snapshot.files().iter().collect();
    files.sort_by_key(|f| std::cmp::Reverse(f.meta().max_time));
    let mut sets: Vec<Arc<EntitySet>> = Vec::new();
    for set in files.into_iter().filter_map(|f| f.entities()) {
        if sets.iter().any(|s| Arc::ptr_eq(s, set)) {
            continue;
        }
        if sets.len() == METRIC_SETS_MAX {
            return (sets, false);
        }
        sets.push(set.clone());
    }
    (sets, true)
}

/// Columns of a table, those for which `shown` is true in `*`, canonical order: time first.
fn shape(snapshot: &TableSnapshot, shown: impl Fn(&str) -> bool) -> Shape {
    let schema = snapshot.schema();
    let canonical = snapshot.signal().map_or(&[][..], |s| s.row_columns());
    let rank = |name: &str| canonical.iter().position(|(n, _)| *n == name);
    let mut columns: Vec<_> = schema.columns().iter().collect();
    columns.sort_by_key(|c| match (rank(&c.name), &*c.name) {
        (Some(i), _) => (0, i),
        (None, ATTRIBUTES) => (2, 0),
        (None, _) => (1, 0),
    });
    let mut keys: BTreeSet<String> = schema.overflow_keys().iter().map(|k| k.to_string()).collect();
    let mut listed: IndexMap<String, Option<DataType>> = IndexMap::new();
    let mut unlisted = 0;
    for column in columns {
        let wanted = shown(&column.name);
        let room = listed.len() < STAR_COLUMNS_MAX || rank(&column.name).is_some();
        unlisted += usize::from(wanted && !room);
        if wanted && room {
            listed.insert(column.name.to_string(), Some(column.data_type()));
        } else {
            keys.insert(column.name.to_string());
        }
    }
    keys.retain(|k| !listed.contains_key(k));
    Shape { columns: listed, keys, unlisted, open: schema.overflow_is_open(), closed: false }
}
