//! What an operator makes of entities: worked out once for each, whatever the number of its rows.

use std::sync::{Arc, Weak};

use arrow::array::{BooleanArray, UInt32Array};
use weir_pipeline::batch::{Batch, Keys};
use weir_pipeline::component::{OperatorError, Output};
use weir_pipeline::entity::{Attribute, Entity, EntityTable};

/// Entity tables whose results are kept, while they are in use: a table per source and generation.
const TABLES_MAX: usize = 8;

/// What became of an entity.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// Its key in the new table.
    Kept(u32),
    /// Its rows are dropped and counted.
    Dropped,
    /// Boxed: there is room for an outcome per entity.
    Failed(Box<OperatorError>),
}

impl Outcome {
    /// Its rows go to `.errors`.
    pub(crate) fn failed(reason: impl Into<String>) -> Self {
        Self::Failed(Box::new(OperatorError::new(reason)))
    }

    /// An entity of these attributes.
    pub(crate) fn intern(table: &EntityTable, attributes: Vec<Attribute>) -> Self {
        match table.intern(Entity::new(attributes)) {
            Ok(key) => Self::Kept(key),
            Err(error) => Self::failed(error.to_string()),
        }
    }
}

/// Results on the entities of one table.
#[derive(Debug)]
struct Derived {
    /// The table that the keys of `outcomes` point into.
    from: Weak<EntityTable>,
    /// Names left out of the entities (they became row columns); empty when they were worked on.
    without: Vec<String>,
    to: Arc<EntityTable>,
    /// By key, of those that were seen.
    outcomes: Vec<Option<Outcome>>,
}

/// Entities made from those of the input. A cache: what is in it never shows in the output.
#[derive(Debug, Default)]
pub(crate) struct Entities {
    derived: Vec<Derived>,
}

impl Entities {
    /// Hands on the rows of `batch` with the entities that `work` makes of theirs, called once for
    /// each entity that was not seen before.
    pub(crate) fn process(
        &mut self,
        batch: &Batch,
        out: &mut Output,
        mut work: impl FnMut(&Entity, &EntityTable) -> Outcome,
    ) -> Result<(), OperatorError> {
        let Some(Keys { keys, table }) = batch.entities() else { return Ok(()) };
        let derived = self.derived(table, &[]);
        let mut mapped = Vec::with_capacity(keys.len());
        let mut keep = Vec::with_capacity(keys.len());
        let mut failed = Vec::with_capacity(keys.len());
        let mut errors = Vec::new();
        for &key in keys.values() {
            let outcome = at(&mut derived.outcomes, key)
                .get_or_insert_with(|| work(&table.get(key), &derived.to));
            mapped.push(if let Outcome::Kept(new) = outcome { *new } else { 0 });
            keep.push(matches!(outcome, Outcome::Kept(_)));
            failed.push(matches!(outcome, Outcome::Failed(_)));
            match outcome {
                Outcome::Failed(error) => errors.push((**error).clone()),
                Outcome::Dropped => out.dropped += 1,
                Outcome::Kept(_) => {}
            }
        }
        if !errors.is_empty() {
            out.reject(batch.filter(&BooleanArray::from(failed))?, errors);
        }
        let entities = Keys { keys: UInt32Array::from(mapped), table: derived.to.clone() };
        let batch = Batch::new(
            batch.signal().clone(),
            batch.tenant().clone(),
            batch.rows().clone(),
            Some(entities),
            batch.runs().clone(),
        )?;
        let all = keep.iter().all(|k| *k);
        out.emit(if all { batch } else { batch.filter(&BooleanArray::from(keep))? });
        Ok(())
    }

    /// `keys` without the attributes called `names`, which became row columns.
    pub(crate) fn without(&mut self, keys: &Keys, names: &[String]) -> Result<Keys, OperatorError> {
        let derived = self.derived(&keys.table, names);
        let mut mapped = Vec::with_capacity(keys.keys.len());
        for &key in keys.keys.values() {
            let outcome = at(&mut derived.outcomes, key).get_or_insert_with(|| {
                let entity = keys.table.get(key);
                let kept = entity.attributes().iter();
                let kept = kept.filter(|a| !names.iter().any(|n| **n == *a.name));
                Outcome::intern(&derived.to, kept.cloned().collect())
            });
            match outcome {
                Outcome::Kept(new) => mapped.push(*new),
                Outcome::Failed(error) => return Err((**error).clone()),
                Outcome::Dropped => return Err(OperatorError::new("entity was dropped")),
            }
        }
        Ok(Keys { keys: UInt32Array::from(mapped), table: derived.to.clone() })
    }

    fn derived(&mut self, from: &Arc<EntityTable>, without: &[String]) -> &mut Derived {
        // Results for tables that are gone are of no use.
        self.derived.retain(|d| d.from.strong_count() > 0);
        let is_from = |d: &Derived| std::ptr::eq(d.from.as_ptr(), Arc::as_ptr(from));
        let known = self.derived.iter().position(|d| is_from(d) && d.without == without);
        // The one used last stands at the end.
        let derived = match known {
            Some(index) => self.derived.remove(index),
            None => {
                if self.derived.len() >= TABLES_MAX {
                    self.derived.remove(0);
                }
                Derived {
                    from: Arc::downgrade(from),
                    without: without.to_vec(),
                    to: Arc::default(),
                    outcomes: Vec::new(),
                }
            }
        };
        self.derived.push(derived);
        let last = self.derived.len() - 1;
        &mut self.derived[last]
    }
}

/// The outcome of `key`, which may not be there yet.
fn at(outcomes: &mut Vec<Option<Outcome>>, key: u32) -> &mut Option<Outcome> {
    let index = key as usize;
    if index >= outcomes.len() {
        outcomes.resize(index + 1, None);
    }
    &mut outcomes[index]
}
