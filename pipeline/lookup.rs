//! Lookup tables: rows that operators and programs look into (`[lookups.*]`).
//!
//! A table is read from where its section says, and kept under the hash of its content, its
//! *version*. A plan names the versions that it looks into, so a refresh goes live as an edit does:
//! at one mark of the journal, with a checkpoint. What was looked up is the same in every replay.

mod index;
mod network;
mod order;
mod tables;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::component::Services;
use crate::entity::{Value, build_column};

pub use self::index::{Found, Index, IndexKeys};
pub use self::order::in_order;
pub(crate) use self::tables::Versions;
pub use self::tables::{LookupStatus, Tables};
pub use self::text::{Canonical, instant};

/// Rows of a table: what tells them apart is a 32-bit number, and a table lies in memory.
pub const ROWS_MAX: usize = 20_000_000;
/// Bytes of a table as it is read and as it is kept.
pub const BYTES_MAX: usize = 1 << 30;

/// A lookup table as proved from its configuration.
pub trait LookupPlan: Debug + Send + Sync {
    /// Where the rows are.
    fn place(&self) -> Place;

    /// Whether the same rows in another order are another version: of those with the same keys the
    /// last is found.
    fn order_counts(&self) -> bool;

    /// Reads them. May block, and is called where that does no harm, if [`LookupPlan::place`] is a
    /// file; else it waits for a peer, within the time limit that the section says.
    ///
    /// # Errors
    /// What is wrong, with the way out.
    fn read(&self, services: &Services) -> BoxFuture<'static, Result<Content, String>>;

    /// Rows to go by where the peer cannot be asked: for `weir check`, `weir test`, `[[tests]]`.
    fn sample(&self) -> Option<Content>;
}

/// Asks the tables of the store; a service, see [`Services`].
pub struct OwnTables(pub Arc<dyn Ask>);

/// See [`OwnTables`].
pub trait Ask: Send + Sync {
    /// The rows that `sql` gives.
    ///
    /// # Errors
    /// What is wrong with it, or that there are too many rows.
    fn ask(&self, sql: String) -> BoxFuture<'static, Result<RecordBatch, String>>;
}

/// Where the rows of a table are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file, which is read again when it changed.
    File(PathBuf),
    /// With a peer, which is asked this often.
    Peer(Duration),
}

/// What a table holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// Rows of columns.
    Rows(RecordBatch),
    /// A MaxMind database: networks with nested records.
    MaxMind(Bytes),
}

impl Content {
    /// The rows of JSON objects: each key a column, with the narrowest type that holds its values.
    ///
    /// # Errors
    /// If the columns cannot be made.
    pub fn of_objects(rows: &[serde_json::Map<String, Json>]) -> Result<Self, String> {
        let names: BTreeSet<&str> =
            rows.iter().flat_map(|r| r.keys().map(String::as_str)).collect();
        let column = |name: &str| {
            let values: Vec<Option<Value>> =
                rows.iter().map(|r| r.get(name).and_then(Value::of_json)).collect();
            let array = build_column(values.iter().map(Option::as_ref)).values;
            (Field::new(name, array.data_type().clone(), true), array)
        };
        let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = names.into_iter().map(column).unzip();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let schema = Arc::new(Schema::new(fields));
        let rows = RecordBatch::try_new_with_options(schema, arrays, &options);
        rows.map(Self::Rows).map_err(|e| e.to_string())
    }
}

/// One version of a table, with what finds its rows. Shared by all who look into it.
pub struct Lookup {
    version: Arc<str>,
    rows: Rows,
    /// Made once per version, by what they find rows by.
    indexes: Mutex<Vec<(IndexKeys, Arc<Index>)>>,
}

enum Rows {
    /// Nothing is known of it: no server reads it, and it has no sample.
    Unknown,
    Table(RecordBatch),
    MaxMind(maxminddb::Reader<Bytes>),
}

impl Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookup").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Lookup {
    /// A table whose rows nobody knows: everything may be in it, nothing is found.
    pub fn unknown() -> Self {
        Self { version: "unknown".into(), rows: Rows::Unknown, indexes: Mutex::default() }
    }

    /// The table of `content`, whose bytes as kept are `kept`.
    ///
    /// # Errors
    /// If a MaxMind database is damaged, or the table is too large.
    pub fn new(content: &Content, kept: &[u8]) -> Result<Self, String> {
        let digest = Sha256::digest(kept);
        let version = digest.iter().take(16).map(|b| format!("{b:02x}")).collect::<String>();
        let rows = match content {
            Content::Rows(rows) if rows.num_rows() > ROWS_MAX => {
                return Err(format!("it has more than {ROWS_MAX} rows"));
            }
            Content::Rows(rows) => Rows::Table(rows.clone()),
            Content::MaxMind(bytes) => {
                let reader = maxminddb::Reader::from_source(bytes.clone());
                Rows::MaxMind(reader.map_err(|e| format!("it is no MaxMind database: {e}"))?)
            }
        };
        Ok(Self { version: version.into(), rows, indexes: Mutex::default() })
    }

    /// What names its content.
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// Its columns; `None` if they are not known, or if it is a MaxMind database.
    pub fn schema(&self) -> Option<SchemaRef> {
        self.table().map(RecordBatch::schema)
    }

    /// Its rows, if it has columns.
    pub fn table(&self) -> Option<&RecordBatch> {
        match &self.rows {
            Rows::Table(rows) => Some(rows),
            Rows::Unknown | Rows::MaxMind(_) => None,
        }
    }

    /// Whether it is a MaxMind database.
    pub fn is_maxmind(&self) -> bool {
        matches!(self.rows, Rows::MaxMind(_))
    }

    /// How many rows it has: networks are not counted.
    pub fn num_rows(&self) -> usize {
        self.table().map_or(0, RecordBatch::num_rows)
    }

    /// Bytes that its rows take in memory.
    pub fn bytes(&self) -> usize {
        match &self.rows {
            Rows::Unknown => 0,
            Rows::Table(rows) => rows.get_array_memory_size(),
            Rows::MaxMind(reader) => reader.metadata().node_count as usize * 8,
        }
    }

    /// What finds rows by `keys`. Made at the first call, which takes about 0.3 µs a row.
    ///
    /// # Errors
    /// If a column is missing, or has a value that is no network or no time.
    pub fn index(&self, keys: &IndexKeys) -> Result<Arc<Index>, String> {
        let mut indexes = self.indexes.lock();
        if let Some((_, known)) = indexes.iter().find(|(k, _)| k == keys) {
            return Ok(known.clone());
        }
        let index = match &self.rows {
            Rows::Table(rows) => Index::new(rows, keys)?,
            Rows::Unknown => Index::default(),
            Rows::MaxMind(_) => {
                return Err("a MaxMind database has no columns, only networks".to_owned());
            }
        };
        let index = Arc::new(index);
        indexes.push((keys.clone(), index.clone()));
        Ok(index)
    }

    /// The record of an address in a MaxMind database.
    ///
    /// # Errors
    /// If the database is damaged there.
    pub fn record(&self, address: IpAddr) -> Result<Option<Json>, String> {
        let Rows::MaxMind(reader) = &self.rows else { return Ok(None) };
        let address = address.to_canonical();
        if address.is_ipv6() && reader.metadata().ip_version == 4 {
            return Ok(None);
        }
        let found = reader.lookup(address).map_err(|e| e.to_string())?;
        found.decode::<Json>().map_err(|e| e.to_string())
    }
}
