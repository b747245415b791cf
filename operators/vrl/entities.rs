//! Programs that touch nothing but entity columns: run once per entity.

use vrl::compiler::state::RuntimeState;
use vrl::value::Value;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{OperatorError, Output};
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin};
use weir_pipeline::signal::{ATTRIBUTES, Signal};

use super::program::{Compiled, End};
use super::row::{Changes, Result as Left, Row};
use super::values::{Columns, check, to_attribute};
use crate::entities::{Entities, Outcome};

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

/// Runs the program once per entity of `batch` that was not seen before.
pub(super) fn process(
    program: &Compiled,
    entities: &mut Entities,
    batch: &Batch,
    out: &mut Output,
) -> Result<(), OperatorError> {
    entities.process(batch, out, |entity, to| run(program, batch.signal(), entity, to))
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
        return Outcome::failed("the row was replaced by something else");
    };
    if let Some(error) = first_misfit(signal, &changes) {
        return Outcome::failed(error);
    }
    Outcome::intern(to, changed(signal, entity, &changes))
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
