//! All tables of a data folder.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::table::Table;

/// How a store works.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {}

/// All tables of a data folder.
#[derive(Debug)]
pub struct Store {}

impl Store {
    /// Opens or makes the store in `dir`.
    ///
    /// # Errors
    /// If the folder cannot be read or written, or a newer Weir wrote it.
    pub fn open(_dir: &Path, _options: StoreOptions) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {}))
    }

    /// The tables of a tenant, by name.
    pub fn tables(&self, _tenant: &str) -> Vec<Arc<Table>> {
        Vec::new()
    }

    /// The table `name` of a tenant.
    pub fn table(&self, _tenant: &str, _name: &str) -> Option<Arc<Table>> {
        None
    }
}
