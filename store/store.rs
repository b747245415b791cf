//! All tables of a data folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use weir_pipeline::batch::TENANT;
use weir_pipeline::memory::Rows;

use crate::cache::{CACHE_BYTES, Cache};
use crate::disk::make_folder;
use crate::error::{Result, StoreError};
use crate::manifest::WriterId;
use crate::merge::Limits;
use crate::table::{LATE_SUFFIX, Table};
use crate::turns::Turns;
use crate::writer::TableWriter;

/// How a store works.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// How long rows of a table are kept, by table name. Others are kept for ever.
    pub retention: BTreeMap<String, Duration>,
    /// Bytes that caches of runs and entities hold.
    pub cache_bytes: usize,
    /// Bytes that a merge takes, and half as many a flush.
    pub upkeep_bytes: usize,
    /// Where rows in memory are counted.
    pub rows: Arc<Rows>,
    /// How long files stay after nothing lists or reads them.
    pub grace: Duration,
    /// How often maintenance looks for work.
    pub maintenance_every: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            retention: BTreeMap::new(),
            cache_bytes: CACHE_BYTES,
            upkeep_bytes: 256 << 20,
            rows: Arc::default(),
            grace: Duration::from_secs(60),
            maintenance_every: Duration::from_secs(10),
        }
    }
}

/// What a table holds of a writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Tenant of the table.
    pub tenant: Arc<str>,
    /// Name of the table.
    pub table: Arc<str>,
    /// Who committed.
    pub writer: WriterId,
    /// The journal entry up to which all rows of the writer are in files.
    pub mark: u64,
}

type Key = (Arc<str>, Arc<str>);

/// All tables of a data folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    pub(crate) options: StoreOptions,
    cache: Arc<Cache>,
    tables: Mutex<BTreeMap<Key, Arc<Table>>>,
    retention: Mutex<BTreeMap<String, Duration>>,
    pub(crate) flushing: Turns,
}

impl Store {
    /// Opens or makes the store in `dir`: `<dir>/<tenant>/<table>/`. A table that cannot be
    /// opened is an error: going on without it would make it anew.
    ///
    /// # Errors
    /// If a folder cannot be read or written, or a newer Weir wrote it.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Arc<Self>> {
        make_folder(dir)?;
        let store = Arc::new(Self {
            folder: dir.to_owned(),
            cache: Arc::new(Cache::new(options.cache_bytes)),
            tables: Mutex::default(),
            retention: Mutex::new(options.retention.clone()),
            flushing: Turns::new(options.upkeep_bytes / 2),
            options,
        });
        for tenant in folders(dir)? {
            for table in folders(&dir.join(&tenant))? {
                store.open_table(&tenant, &table)?;
            }
        }
        Ok(store)
    }

    /// What merges take.
    pub(crate) fn limits(&self) -> Limits {
        Limits::of(self.options.upkeep_bytes)
    }

    /// The tables of a tenant, by name.
    pub fn tables(&self, tenant: &str) -> Vec<Arc<Table>> {
        let tables = self.tables.lock();
        tables.iter().filter(|((t, _), _)| **t == *tenant).map(|(_, t)| t.clone()).collect()
    }

    /// The table `name` of a tenant.
    pub fn table(&self, tenant: &str, name: &str) -> Option<Arc<Table>> {
        self.tables.lock().get(&(tenant.into(), name.into())).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Table>> {
        self.tables.lock().values().cloned().collect()
    }

    /// The table `name` of a tenant, made if it is not there.
    ///
    /// # Errors
    /// If the name is not allowed, or the disk refuses.
    pub fn open_table(&self, tenant: &str, name: &str) -> Result<Arc<Table>> {
        check_name(name)?;
        check_name(tenant)?;
        let mut tables = self.tables.lock();
        let key: Key = (tenant.into(), name.into());
        if let Some(table) = tables.get(&key) {
            return Ok(table.clone());
        }
        let tenant_folder = self.folder.join(tenant);
        if !tenant_folder.is_dir() {
            make_folder(&tenant_folder)?;
        }
        let folder = tenant_folder.join(name);
        if !folder.is_dir() {
            make_folder(&folder)?;
        }
        let keep =
            self.retention.lock().get(name.strip_suffix(LATE_SUFFIX).unwrap_or(name)).copied();
        let table = Table::open(&folder, tenant, name, self.cache.clone(), keep)?;
        tables.insert(key, table.clone());
        Ok(table)
    }

    /// The way into a table for one sink. Blocks on the disk.
    ///
    /// # Errors
    /// If the name is not allowed, or the disk refuses.
    pub fn writer(
        self: &Arc<Self>,
        tenant: &str,
        table: &str,
        id: WriterId,
    ) -> Result<TableWriter> {
        Ok(TableWriter::new(self.clone(), self.open_table(tenant, table)?, id))
    }

    /// Sets how long the rows of tables are kept; those not named are kept for ever.
    pub fn set_retention(&self, retention: BTreeMap<String, Duration>) {
        *self.retention.lock() = retention.clone();
        for table in self.all() {
            let name: &str = table.name();
            let base = name.strip_suffix(LATE_SUFFIX).unwrap_or(name);
            table.set_retention(retention.get(base).copied());
        }
    }

    /// The newest commit of any table by a writer that reads `journal`: offsets up to there were
    /// given to entries, whether the journal still has them or not.
    pub fn newest_commit(&self, journal: u128) -> Option<Commit> {
        let commits = self.all().into_iter().filter_map(|table| {
            let (writer, mark) = table.newest_commit(journal)?;
            Some(Commit {
                tenant: table.tenant().clone(),
                table: table.name().clone(),
                writer,
                mark,
            })
        });
        commits.max_by_key(|commit| commit.mark)
    }

    /// Whether no commit is ahead of `journal`, whose newest entry is `head`. One that is means
    /// that the journal was replaced or cut: going on would give offsets a second time, and drop
    /// new rows for old ones.
    ///
    /// # Errors
    /// [`StoreError::Ahead`], which names both positions.
    pub fn check_head(&self, journal: u128, head: u64) -> Result<()> {
        match self.newest_commit(journal) {
            Some(commit) if commit.mark > head => {
                Err(StoreError::Ahead { commit: Box::new(commit), head })
            }
            _ => Ok(()),
        }
    }

    /// Hits and misses of the cache of runs and entities.
    pub fn cache_statistics(&self) -> (u64, u64) {
        self.cache.statistics()
    }
}

/// Longest name of a table, in bytes: it is the name of a folder too.
pub const NAME_BYTES_MAX: usize = 100;

/// Whether `name` may name a table: lower-case letters, digits, `_` and single dots between, a
/// letter first, at most [`NAME_BYTES_MAX`].
///
/// # Errors
/// [`StoreError::Name`] if not.
pub fn check_name(name: &str) -> Result<()> {
    let good = name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.".contains(&b))
        && !name.contains("..")
        && !name.ends_with('.');
    if good { Ok(()) } else { Err(StoreError::Name(name.to_owned())) }
}

/// Folders in `path` whose names may be tenants or tables.
fn folders(path: &Path) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(path).map_err(StoreError::io("cannot list", path))? {
        let entry = entry.map_err(StoreError::io("cannot list", path))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && check_name(&name).is_ok() {
            out.push(name);
        }
    }
    out.sort();
    Ok(out)
}

/// The tenant until tenancy is built.
pub const DEFAULT_TENANT: &str = TENANT;
