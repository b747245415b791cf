//! What a reload would do with lookup tables.

use std::sync::Arc;

use serde::Serialize;

use super::super::Runtime;
use super::super::lookups::{Definitions, all_of};
use crate::config::Loaded;
use crate::lookup::{Lookup, Place, Tables};
use crate::plan::LookupDefinition;

/// What becomes of a lookup table.
#[derive(Clone, Debug, Serialize)]
pub struct LookupChange {
    /// `[lookups.id]`.
    pub id: String,
    /// The pipeline file.
    pub file: String,
    /// `type`.
    pub kind: &'static str,
    /// What happens to it.
    pub change: TableChange,
    /// Rows that it has, if it is in use; 0 for a MaxMind database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<usize>,
    /// Rows that it would have, if they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<usize>,
    /// Why it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What happens to a lookup table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TableChange {
    /// Nothing.
    Unchanged,
    /// It has other rows.
    Changed,
    /// It was not there, and its rows are known.
    New,
    /// Its rows are not known, and its pipeline waits for them.
    Pending,
    /// Its file has it no more.
    Removed,
}

impl Runtime {
    /// What becomes of the tables of the files as they are, given those that `ahead` has.
    pub(super) fn plan_lookups(
        &self,
        files: Definitions,
        loaded: &Loaded,
        ahead: &Tables,
    ) -> Vec<LookupChange> {
        let present = self.definitions.lock().clone();
        let wanted = all_of(files, loaded);
        let is_in = |all: &[Arc<LookupDefinition>], d: &LookupDefinition| {
            all.iter().any(|o| o.key == d.key && o.header.file.path == d.header.file.path)
        };
        let newest = |tables: &Tables, d: &LookupDefinition| tables.newest(d).ok().flatten();
        let mut changes: Vec<LookupChange> = wanted
            .iter()
            .map(|d| {
                let before = is_in(&present, d).then(|| newest(&self.options.tables, d)).flatten();
                LookupChange::of(d, before, newest(ahead, d), ahead.failure(d))
            })
            .collect();
        let removed = present.iter().filter(|d| !is_in(&wanted, d));
        // One under the same id in its place is the same to people.
        let removed = removed.filter(|d| {
            let same = |w: &Arc<LookupDefinition>| {
                w.id == d.id && w.header.file.path == d.header.file.path
            };
            !wanted.iter().any(same)
        });
        changes.extend(removed.map(|d| {
            let was = newest(&self.options.tables, d).map(|table| table.num_rows());
            LookupChange {
                change: TableChange::Removed,
                was,
                ..LookupChange::of(d, None, None, None)
            }
        }));
        changes.sort_by(|a, b| (&a.file, &a.id).cmp(&(&b.file, &b.id)));
        changes
    }
}

impl LookupChange {
    fn of(
        definition: &LookupDefinition,
        before: Option<Arc<Lookup>>,
        after: Option<Arc<Lookup>>,
        failure: Option<String>,
    ) -> Self {
        let change = match (&before, &after) {
            (Some(before), Some(after)) if before.version() == after.version() => {
                TableChange::Unchanged
            }
            (Some(_), Some(_)) => TableChange::Changed,
            (None, Some(_)) => TableChange::New,
            (_, None) => TableChange::Pending,
        };
        let is_peer = matches!(definition.plan.place(), Place::Peer(_));
        let unread = (change == TableChange::Pending && is_peer)
            .then(|| "it was not asked for yet; the reload asks".to_owned());
        Self {
            id: definition.id.clone(),
            file: definition.header.file.path.display().to_string(),
            kind: definition.kind,
            change,
            was: before.map(|table| table.num_rows()),
            rows: after.map(|table| table.num_rows()),
            why: failure.or(unread),
        }
    }
}
