//! With which versions of its lookup tables a file is planned.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Lookup, Tables};
use crate::plan::LookupDefinition;

/// With which versions of its tables a file is planned; those that are named are by
/// [`LookupDefinition::key`].
#[derive(Clone, Debug)]
pub(crate) enum Versions {
    /// The newest.
    Newest,
    /// The newest, or these where none is known.
    NewestOr(Arc<BTreeMap<String, String>>),
    /// These, and the newest of those that are not among them.
    These(Arc<BTreeMap<String, String>>),
}

impl Versions {
    /// The version of a table that it is planned with; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn of(
        &self,
        definition: &LookupDefinition,
        tables: &Tables,
    ) -> Result<Option<Arc<Lookup>>, String> {
        let named = match self {
            Self::Newest => None,
            Self::NewestOr(named) | Self::These(named) => named.get(&definition.key),
        };
        let newest = match (self, named) {
            (Self::These(_), Some(_)) => None,
            _ => tables.newest(definition)?,
        };
        match (newest, named) {
            (Some(newest), _) => Ok(Some(newest)),
            (None, Some(version)) => tables.version(version).map(Some),
            (None, None) => Ok(None),
        }
    }
}
