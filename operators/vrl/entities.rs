//! Programs that touch nothing but entity columns: run once per entity, and the entities that
//! come of it.

use std::sync::{Arc, Weak};

use arrow::array::{BooleanArray, UInt32Array};
use vrl::compiler::state::RuntimeState;
use vrl::value::Value;
use weir_pipeline::batch::{Batch, Keys};
use weir_pipeline::component::{OperatorError, Output};
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin};
use weir_pipeline::signal::{ATTRIBUTES, Signal};

use super::program::{Compiled, End};
use super::row::{Changes, Result as Left, Row};
use super::values::{Columns, check, to_attribute};

/// Entity tables whose results are kept, while they are in use: a table per source and generation.
const TABLES_MAX: usize = 8;

/// What became of an entity.
#[derive(Clone, Debug)]
enum Outcome {
    /// Its key in the new table.
    Kept(u32),
    Dropped,
    /// Boxed: there is room for an outcome per entity.
    Failed(Box<OperatorError>),
}

/// Results of one program on the entities of one table.
#[derive(Debug)]
struct Derived {
    /// The table that the keys of `outcomes` point into.
    from: Weak<EntityTable>,
    /// Names left out of the entities (they became row columns); empty when a program ran.
    without: Vec<String>,
    to: Arc<EntityTable>,
    /// By key, of those that were seen.
    outcomes: Vec<Option<Outcome>>,
}

/// Entities made from those of the input. A cache: what is in it never shows in the output.
#[derive(Debug, Default)]
pub(super) struct Entities {
    derived: Vec<Derived>,
}

/// Whether `program` can run on the entities of `batch` alone.
pub(super) fn suffices(program: &Compiled, batch: &Batch) -> bool {
    let (Some(names), false, Some(_)) = (&program.names, program.place_or_time, batch.entities())
    else {
        return false;
    };
    let schema = batch.rows().schema();
    let at_rows = |row: &str| {
        let of = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|r| r.starts_with('.'));
        names.iter().any(|n| n == row || of(n, row) || of(row, n))
    };
    let canonical = batch.signal().row_columns().iter().any(|(name, _)| at_rows(name));
    let present = schema.fields().iter().any(|f| f.name() == ATTRIBUTES || at_rows(f.name()));
    !canonical && !present
}

impl Entities {
    /// Runs the program once per entity of `batch` that was not seen before.
    pub(super) fn process(
        &mut self,
        program: &Compiled,
        batch: &Batch,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let Some(Keys { keys, table }) = batch.entities() else { return Ok(()) };
        let signal = batch.signal();
        let derived = self.derived(table, &[]);
        let mut mapped = Vec::with_capacity(keys.len());
        let mut keep = Vec::with_capacity(keys.len());
        let mut failed = Vec::with_capacity(keys.len());
        let mut errors = Vec::new();
        for &key in keys.values() {
            let outcome = at(&mut derived.outcomes, key)
                .get_or_insert_with(|| run(program, signal, &table.get(key), &derived.to));
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
            signal.clone(),
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
    pub(super) fn without(&mut self, keys: &Keys, names: &[String]) -> Result<Keys, OperatorError> {
        let derived = self.derived(&keys.table, names);
        let mut mapped = Vec::with_capacity(keys.keys.len());
        for &key in keys.keys.values() {
            let outcome = at(&mut derived.outcomes, key).get_or_insert_with(|| {
                let entity = keys.table.get(key);
                let kept = entity.attributes().iter();
                let kept = kept.filter(|a| !names.iter().any(|n| **n == *a.name));
                intern(&derived.to, kept.cloned().collect())
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

fn failed(reason: impl Into<String>) -> Outcome {
    Outcome::Failed(Box::new(OperatorError::new(reason)))
}

fn intern(table: &EntityTable, attributes: Vec<Attribute>) -> Outcome {
    match table.intern(Entity::new(attributes)) {
        Ok(key) => Outcome::Kept(key),
        Err(error) => failed(error.to_string()),
    }
}

fn run(program: &Compiled, signal: &Signal, entity: &Entity, to: &EntityTable) -> Outcome {
    let columns = Columns::of_entity(entity);
    let mut row = Row::new(&columns, 0, &program.slots, Value::Null);
    match program.run(&mut row, &mut RuntimeState::default()) {
        End::Aborted => return Outcome::Dropped,
        End::Failed(error) => return Outcome::Failed(Box::new(error)),
        End::Done => {}
    }
    let Left::Changed { changes, .. } = row.finish() else {
        return failed("the row was replaced by something else");
    };
    if let Some(error) = first_misfit(signal, &changes) {
        return failed(error);
    }
    intern(to, changed(signal, entity, &changes))
}

/// Why one of `changes` cannot stand in its column.
pub(super) fn first_misfit(signal: &Signal, changes: &Changes) -> Option<String> {
    let mut set = changes.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    set.find_map(|(name, value)| check(signal, name, value).err())
}

fn changed(signal: &Signal, entity: &Entity, changes: &Changes) -> Vec<Attribute> {
    let kept = entity.attributes().iter().filter(|a| !changes.contains_key(&*a.name));
    let mut attributes: Vec<Attribute> = kept.cloned().collect();
    for (name, value) in changes {
        let Some(value) = value.as_ref().and_then(to_attribute) else { continue };
        let origin = match (entity.attribute(name), signal) {
            (Some(attribute), _) => attribute.origin,
            (None, Signal::Metrics) => Origin::Label,
            (None, _) => Origin::Resource,
        };
        attributes.push(Attribute { name: name.as_str().into(), value, origin });
    }
    attributes
}
