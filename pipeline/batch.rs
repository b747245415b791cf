//! What flows: Arrow rows at two levels.
//!
//! Row columns hold one value per row, entity columns one value per entity (see
//! [`crate::entity`]). A name stands at one level only, and a column of either level is read by
//! name alike through [`Batch::array`].
//!
//! Inside an epoch batches may be cut between journal entries and joined anywhere; no output
//! depends on it. [`Run`]s say which rows came from which entry.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::entity::{EntityTable, build_column};
use crate::signal::{ATTRIBUTES, Signal};

/// Consecutive rows that came from one journal entry. Entries are never cut, so the index of a
/// row within its run does not depend on how batches were joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Journal offset of the entry.
    pub offset: u64,
    /// When the entry was received (for rows made at a tick: the tick), UTC nanoseconds.
    pub received: i64,
    /// Source id.
    pub source: Arc<str>,
    /// Number of rows.
    pub rows: usize,
}

/// The entity of each row.
#[derive(Clone, Debug)]
pub struct Keys {
    /// One key per row, without nulls.
    pub keys: UInt32Array,
    /// What the keys point into.
    pub table: Arc<EntityTable>,
}

/// At which level a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// One value per row.
    Row,
    /// One value per entity.
    Entity,
}

/// Rows of one stream. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Batch {
    signal: Signal,
    tenant: Arc<str>,
    rows: RecordBatch,
    entities: Option<Keys>,
    runs: Arc<[Run]>,
}

/// The tenant that everything belongs to until tenancy is built.
pub const TENANT: &str = "default";

impl Batch {
    /// A batch of `rows` (row columns only) whose entities are `entities`, if it has any.
    ///
    /// # Errors
    /// If the keys or the runs do not add up to the number of rows.
    pub fn new(
        signal: Signal,
        tenant: Arc<str>,
        rows: RecordBatch,
        entities: Option<Keys>,
        runs: Arc<[Run]>,
    ) -> Result<Self, ArrowError> {
        let n = rows.num_rows();
        let keys = entities.as_ref().map_or(n, |e| e.keys.len());
        let in_runs: usize = runs.iter().map(|r| r.rows).sum();
        if keys != n || in_runs != n {
            return Err(ArrowError::InvalidArgumentError(format!(
                "{n} rows, but {keys} entity keys and {in_runs} rows in runs"
            )));
        }
        Ok(Self { signal, tenant, rows, entities, runs })
    }

    /// What kind of telemetry this is.
    pub fn signal(&self) -> &Signal {
        &self.signal
    }

    /// The tenant that the rows belong to.
    pub fn tenant(&self) -> &Arc<str> {
        &self.tenant
    }

    /// The row columns.
    pub fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// The entity of each row; `None` for streams without entities (windows, for instance).
    pub fn entities(&self) -> Option<&Keys> {
        self.entities.as_ref()
    }

    /// Which rows came from which journal entry, in order.
    pub fn runs(&self) -> &Arc<[Run]> {
        &self.runs
    }

    /// Number of rows.
    pub fn num_rows(&self) -> usize {
        self.rows.num_rows()
    }

    /// Approximate size of the row level in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.rows.get_array_memory_size() + self.num_rows() * 4
    }

    /// At which level the column `name` stands, `None` if this batch has no such column.
    pub fn level(&self, name: &str) -> Option<Level> {
        if self.rows.schema_ref().column_with_name(name).is_some() {
            return Some(Level::Row);
        }
        self.entities.as_ref().filter(|e| e.table.has(name)).map(|_| Level::Entity)
    }

    /// The column `name`, one value per row, whatever its level. `None` if there is none; a name
    /// that stands only in the JSON column `attributes` is not found here (see
    /// [`Batch::overflow`]).
    pub fn array(&self, name: &str) -> Option<ArrayRef> {
        if let Some(array) = self.rows.column_by_name(name) {
            return Some(array.clone());
        }
        let Keys { keys, table } = self.entities.as_ref()?;
        let column = table.column(name)?;
        if column.uniform {
            return compute::take(&column.values, keys, None).ok();
        }
        // Entities disagree on the type: this batch decides from the ones it refers to.
        let entities: Vec<_> = keys.values().iter().map(|&k| table.get(k)).collect();
        Some(build_column(entities.iter().map(|e| e.get(name))).values)
    }

    /// The JSON column `attributes`, if this batch has names without a column.
    pub fn overflow(&self) -> Option<&ArrayRef> {
        self.rows.column_by_name(ATTRIBUTES)
    }

    /// Every column name of either level, sorted, with its level. Entity names are those of the
    /// whole table, so a name may have no value in this batch.
    pub fn names(&self) -> Vec<(Arc<str>, Level)> {
        let schema = self.rows.schema();
        let mut names: Vec<(Arc<str>, Level)> =
            schema.fields().iter().map(|f| (f.name().as_str().into(), Level::Row)).collect();
        if let Some(e) = &self.entities {
            for name in e.table.names() {
                if schema.column_with_name(&name).is_none() {
                    names.push((name, Level::Entity));
                }
            }
        }
        names.sort_by(|a, b| a.0.cmp(&b.0));
        names
    }

    /// The rows for which `mask` is true; NULL counts as false.
    ///
    /// # Errors
    /// If the mask has another length than the batch.
    pub fn filter(&self, mask: &BooleanArray) -> Result<Self, ArrowError> {
        let rows = compute::filter_record_batch(&self.rows, mask)?;
        let entities = match &self.entities {
            None => None,
            Some(e) => {
                let keys = compute::filter(&e.keys, mask)?;
                Some(Keys {
                    keys: keys
                        .as_any()
                        .downcast_ref()
                        .cloned()
                        .unwrap_or_else(|| UInt32Array::from(Vec::<u32>::new())),
                    table: e.table.clone(),
                })
            }
        };
        let mut start = 0;
        let runs = self
            .runs
            .iter()
            .filter_map(|run| {
                let part = mask.slice(start, run.rows);
                start += run.rows;
                let rows = (0..part.len()).filter(|&i| part.is_valid(i) && part.value(i)).count();
                (rows > 0).then(|| Run { rows, ..run.clone() })
            })
            .collect();
        Self::new(self.signal.clone(), self.tenant.clone(), rows, entities, runs)
    }

    /// The same rows and entities with other row columns. Used by operators that set columns.
    ///
    /// # Errors
    /// If `rows` has another number of rows.
    pub fn with_rows(&self, rows: RecordBatch) -> Result<Self, ArrowError> {
        Self::new(
            self.signal.clone(),
            self.tenant.clone(),
            rows,
            self.entities.clone(),
            self.runs.clone(),
        )
    }

    /// The same rows under another signal, as operators emit on outputs of their own.
    pub fn with_signal(mut self, signal: Signal) -> Self {
        self.signal = signal;
        self
    }

    /// The same rows as those of the journal entry at `offset`: it is known only once the entry
    /// is written.
    pub fn with_offset(mut self, offset: u64) -> Self {
        self.runs = self.runs.iter().map(|run| Run { offset, ..run.clone() }).collect();
        self
    }

    /// One record batch with the columns of both levels that have a value, in the order of
    /// [`Batch::names`]. For consoles, taps and tests; it costs a gather per entity column.
    pub fn wide(&self) -> Result<RecordBatch, ArrowError> {
        let schema = self.rows.schema();
        let mut fields = Vec::new();
        let mut arrays = Vec::new();
        for (name, _) in self.names() {
            let Some(array) = self.array(&name) else { continue };
            if array.null_count() == array.len() && !array.is_empty() {
                continue;
            }
            let field = match schema.field_with_name(&name) {
                Ok(field) => field.clone(),
                Err(_) => Field::new(&*name, array.data_type().clone(), true),
            };
            fields.push(field);
            arrays.push(array);
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(self.num_rows()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
    }

    /// Joins batches of one stream, in order, if they have the same signal, tenant, entity table
    /// and compatible columns (a column that one lacks is NULL there). `None` where they
    /// conflict: then they stay apart.
    pub fn join(batches: &[Self]) -> Option<Self> {
        let first = batches.first()?;
        if batches.len() == 1 {
            return Some(first.clone());
        }
        let same = batches.iter().all(|b| {
            b.signal == first.signal
                && b.tenant == first.tenant
                && match (&b.entities, &first.entities) {
                    (None, None) => true,
                    (Some(a), Some(b)) => Arc::ptr_eq(&a.table, &b.table),
                    _ => false,
                }
        });
        if !same {
            return None;
        }
        let schema = join_schemas(batches)?;
        let columns = schema
            .fields()
            .iter()
            .map(|field| {
                let parts: Vec<ArrayRef> = batches
                    .iter()
                    .map(|b| {
                        b.rows.column_by_name(field.name()).cloned().unwrap_or_else(|| {
                            arrow::array::new_null_array(field.data_type(), b.num_rows())
                        })
                    })
                    .collect();
                let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
                compute::concat(&parts).ok()
            })
            .collect::<Option<Vec<_>>>()?;
        let options = arrow::array::RecordBatchOptions::new()
            .with_row_count(Some(batches.iter().map(Self::num_rows).sum()));
        let rows = RecordBatch::try_new_with_options(schema, columns, &options).ok()?;
        let entities = first.entities.as_ref().map(|e| Keys {
            keys: UInt32Array::from_iter_values(
                batches
                    .iter()
                    .flat_map(|b| b.entities.iter().flat_map(|e| e.keys.values().iter().copied())),
            ),
            table: e.table.clone(),
        });
        let runs = batches.iter().flat_map(|b| b.runs.iter().cloned()).collect();
        Self::new(first.signal.clone(), first.tenant.clone(), rows, entities, runs).ok()
    }
}

/// The union of the row schemas, `None` if a name has two types, or stands at the row level in
/// one batch and not in another that has it at the entity level.
fn join_schemas(batches: &[Batch]) -> Option<SchemaRef> {
    let first = batches[0].rows.schema();
    if batches.iter().all(|b| b.rows.schema() == first) {
        return Some(first);
    }
    let mut fields: Vec<Arc<Field>> = Vec::new();
    for batch in batches {
        for field in batch.rows.schema_ref().fields() {
            match fields.iter().find(|f| f.name() == field.name()) {
                None => fields.push(field.clone()),
                Some(f) if f.data_type() == field.data_type() => {}
                Some(_) => return None,
            }
        }
    }
    let mixed =
        fields.iter().any(|f| batches.iter().any(|b| b.level(f.name()) == Some(Level::Entity)));
    let nullable = fields.into_iter().map(|f| Arc::new(f.as_ref().clone().with_nullable(true)));
    (!mixed).then(|| Arc::new(Schema::new(nullable.collect::<Vec<_>>())))
}
