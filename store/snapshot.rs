//! One version of a table as a reader sees it: manifest files and hot rows that belong together,
//! pinned. No row is in it twice and none is missing; its files stay until it is dropped.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use hashbrown::HashMap;
use weir_pipeline::batch::{Batch, Keys};
use weir_pipeline::entity::{Entity, EntityTable};
use weir_pipeline::memory::Charge;
use weir_pipeline::signal::{META_JSON, META_ORIGIN, Signal};

use crate::cache::next_id;
use crate::error::{Result, StoreError};
use crate::file::FileEntry;
use crate::table::Table;
use crate::types::ColumnType;

/// Entities of a table that are not worth parting from.
const FEW: usize = 1_024;

/// Processed rows that no committed file holds yet.
#[derive(Debug)]
pub struct HotRun {
    pub(crate) id: u64,
    pub(crate) batch: Batch,
    pub(crate) min_time: i64,
    pub(crate) max_time: i64,
    /// Memory of entities that came with it, bytes.
    pub(crate) entities: usize,
    /// Counted for as long as anybody holds it, a query too.
    pub(crate) charge: Charge,
}

impl HotRun {
    /// The same rows with a table of only their entities, where they are few of those in the table.
    pub(crate) fn parted(&self) -> Result<Option<Self>> {
        let Some(Keys { keys, table }) = self.batch.entities() else { return Ok(None) };
        if table.len() <= FEW.max(2 * keys.len()) {
            return Ok(None);
        }
        let own = Arc::<EntityTable>::default();
        let mut known: HashMap<u32, u32> = HashMap::new();
        let mut new = Vec::with_capacity(keys.len());
        for key in keys.values() {
            let key = match known.get(key) {
                Some(key) => *key,
                None => {
                    let mapped = own.intern(Entity::clone(&table.get(*key))).map_err(|e| {
                        StoreError::Foreign { what: "entities", why: e.to_string() }
                    })?;
                    known.insert(*key, mapped);
                    mapped
                }
            };
            new.push(key);
        }
        let batch = &self.batch;
        let batch = Batch::new(
            batch.signal().clone(),
            batch.tenant().clone(),
            batch.rows().clone(),
            Some(Keys { keys: new.into(), table: own.clone() }),
            batch.runs().clone(),
        )?;
        let entities = own.bytes();
        let charge = self.charge.another(batch.bytes() + entities);
        let (id, min_time, max_time) = (next_id(), self.min_time, self.max_time);
        Ok(Some(Self { id, batch, min_time, max_time, entities, charge }))
    }

    /// A number that no other hot run of this process has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The rows, at two levels. Row columns have surface types; `timestamp` is there and not
    /// null. Rows are in order of arrival.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Earliest `timestamp`, UTC nanoseconds.
    pub fn min_time(&self) -> i64 {
        self.min_time
    }

    /// Latest `timestamp`, UTC nanoseconds.
    pub fn max_time(&self) -> i64 {
        self.max_time
    }
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableColumn {
    /// Name.
    pub name: Arc<str>,
    /// Surface type: the widest of the types that files and hot rows have.
    pub kind: ColumnType,
    /// Some file or hot run has it as a row column.
    pub row: bool,
    /// Some file or hot run has it as an entity column.
    pub entity: bool,
    /// Text that holds JSON.
    pub json: bool,
    /// Where the attribute came from: `resource`, `scope`, `record`, `label`, `metric`.
    pub origin: Option<Arc<str>>,
}

impl TableColumn {
    /// The Arrow type that queries see.
    pub fn data_type(&self) -> DataType {
        self.kind.surface_type()
    }

    /// The Arrow field that queries see.
    pub fn field(&self) -> Field {
        let mut metadata = std::collections::HashMap::new();
        if self.json {
            metadata.insert(META_JSON.to_owned(), "true".to_owned());
        }
        if let Some(origin) = &self.origin {
            metadata.insert(META_ORIGIN.to_owned(), origin.to_string());
        }
        Field::new(&*self.name, self.data_type(), true).with_metadata(metadata)
    }
}

/// The union of what the files and hot rows of a version have, widened.
#[derive(Clone, Debug, Default)]
pub struct TableSchema {
    pub(crate) columns: Vec<TableColumn>,
    pub(crate) overflow: BTreeSet<Arc<str>>,
    pub(crate) overflow_open: bool,
}

impl TableSchema {
    /// Columns, sorted by name. `timestamp` is always there. The JSON column `attributes` is one
    /// of them where a file has it.
    pub fn columns(&self) -> &[TableColumn] {
        &self.columns
    }

    /// The column `name`.
    pub fn column(&self, name: &str) -> Option<&TableColumn> {
        self.columns.binary_search_by(|c| (*c.name).cmp(name)).ok().map(|i| &self.columns[i])
    }

    /// Names that stand in some JSON column `attributes`, sorted; some also have a column.
    pub fn overflow_keys(&self) -> &BTreeSet<Arc<str>> {
        &self.overflow
    }

    /// Whether `attributes` may hold names that [`TableSchema::overflow_keys`] does not list.
    pub fn overflow_is_open(&self) -> bool {
        self.overflow_open
    }
}

/// One version of a table.
#[derive(Debug)]
pub struct TableSnapshot {
    pub(crate) table: Arc<Table>,
    pub(crate) version: u64,
    pub(crate) signal: Option<Signal>,
    pub(crate) schema: Arc<TableSchema>,
    pub(crate) files: Vec<Arc<FileEntry>>,
    pub(crate) hot: Vec<Arc<HotRun>>,
    pub(crate) retention: Option<std::time::Duration>,
}

impl TableSnapshot {
    /// The table.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Grows with every change of the table, hot rows included.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The signal of its rows, once any were written.
    pub fn signal(&self) -> Option<&Signal> {
        self.signal.as_ref()
    }

    /// Columns of this version.
    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// The files, by earliest time.
    pub fn files(&self) -> &[Arc<FileEntry>] {
        &self.files
    }

    /// Hot rows, in order of arrival within each writer.
    pub fn hot(&self) -> &[Arc<HotRun>] {
        &self.hot
    }

    /// Rows stamped before this are past retention at `now` (both UTC nanoseconds) and must not
    /// be shown; `i64::MIN` if the table keeps everything.
    pub fn min_time(&self, now: i64) -> i64 {
        match self.retention {
            Some(keep) => now.saturating_sub(i64::try_from(keep.as_nanos()).unwrap_or(i64::MAX)),
            None => i64::MIN,
        }
    }

    /// Number of rows, those past retention included.
    pub fn rows(&self) -> u64 {
        let files: u64 = self.files.iter().map(|f| f.meta.rows).sum();
        let hot: usize = self.hot.iter().map(|h| h.batch.num_rows()).sum();
        files + hot as u64
    }
}
