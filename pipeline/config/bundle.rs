//! Texts kept so that a plan can be made again without the present files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The files that a pipeline or source was planned from, with `${NAME}` values. Secrets stay
/// references.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Path as shown to people, and text: pipeline files, and the VRL, SQL and other files they
    /// name.
    pub files: BTreeMap<String, String>,
    /// Values of the environment variables that string values named.
    pub environment: BTreeMap<String, String>,
    /// Versions of the lookup tables that it looks into, by [`crate::plan::LookupDefinition::key`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lookups: BTreeMap<String, String>,
}

impl Bundle {
    /// Adds what another one holds.
    pub(crate) fn merge(&mut self, other: &Self) {
        let files = other.files.iter().map(|(k, v)| (k.clone(), v.clone()));
        self.files.extend(files);
        let environment = other.environment.iter().map(|(k, v)| (k.clone(), v.clone()));
        self.environment.extend(environment);
        self.lookups.extend(other.lookups.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
}
