//! The plain run: row by row. It is the reference that faster ways are tested against.

use std::collections::BTreeSet;
use std::ops::Range;

use arrow::array::{BooleanArray, UInt32Array};
use vrl::compiler::state::RuntimeState;
use vrl::value::{KeyString, ObjectMap, Value};
use weir_pipeline::batch::{Batch, Run};
use weir_pipeline::component::{OperatorError, Output};
use weir_pipeline::share::Pace;
use weir_pipeline::signal::{ATTRIBUTES, META_JSON};

use super::assemble::assemble;
use super::column::{Cell, column};
use super::entities::first_misfit;
use super::functions::{NOW, SEED, time};
use super::program::{Compiled, End};
use super::row::{Changes, Result as Left, Row};
use super::values::Columns;
use crate::entities::Entities;

/// One row of the output.
struct OutRow {
    /// The row it was made from.
    from: usize,
    changes: Changes,
    /// Columns without a change are NULL, not as before.
    cleared: bool,
}

/// What became of the rows of one part of a batch.
#[derive(Default)]
struct Ran {
    kept: Vec<OutRow>,
    failed: Vec<(usize, OperatorError)>,
    dropped: u64,
}

/// Runs the program on every row of `batch`.
pub(super) fn process(
    program: &Compiled,
    (entities, pace): (&mut Entities, &mut Pace),
    batch: &Batch,
    out: &mut Output,
) -> Result<(), OperatorError> {
    let now = out.now;
    let parts = pace.share(batch.num_rows(), |part| run(program, batch, part, now));
    let mut all = Ran::default();
    for part in parts {
        all.kept.extend(part.kept);
        all.failed.extend(part.failed);
        all.dropped += part.dropped;
    }
    out.dropped += all.dropped;
    if !all.failed.is_empty() {
        let mut failed = vec![false; batch.num_rows()];
        all.failed.iter().for_each(|(row, _)| failed[*row] = true);
        let errors = all.failed.into_iter().map(|(_, error)| error).collect();
        out.reject(batch.filter(&BooleanArray::from(failed))?, errors);
    }
    if !all.kept.is_empty() {
        out.emit(build(batch, &Columns::of_batch(batch), entities, &all.kept)?);
    }
    Ok(())
}

fn run(program: &Compiled, batch: &Batch, part: Range<usize>, now: i64) -> Ran {
    let columns = Columns::of_batch(batch);
    let mut state = RuntimeState::default();
    let mut ran = Ran::default();
    for (index, (run, in_run)) in part.clone().zip(places(batch).skip(part.start)) {
        let metadata = metadata(program, batch, run, in_run, now);
        let mut row = Row::new(&columns, index, &program.slots, metadata);
        let result = match program.run(&mut row, &mut state) {
            End::Done => rows_of(row.finish(), index, batch, &columns),
            End::Aborted => {
                ran.dropped += 1;
                continue;
            }
            End::Failed(error) => Err(error),
        };
        match result {
            Ok(rows) => ran.kept.extend(rows),
            Err(error) => ran.failed.push((index, error)),
        }
    }
    ran
}

/// For each row of `batch` its run, and the row's number in it.
pub(super) fn places(batch: &Batch) -> impl Iterator<Item = (&Run, usize)> {
    batch.runs().iter().flat_map(|run| (0..run.rows).map(move |row| (run, row)))
}

/// What stands under `%`, and what `now` and the functions of chance read.
pub(super) fn metadata(
    program: &Compiled,
    batch: &Batch,
    run: &Run,
    in_run: usize,
    now: i64,
) -> Value {
    if !program.place_or_time {
        return Value::Null;
    }
    let mut seed = program.node.as_bytes().to_vec();
    seed.extend(run.offset.to_le_bytes());
    seed.extend((in_run as u64).to_le_bytes());
    let fields = [
        ("tenant", Value::from(&**batch.tenant())),
        ("source", Value::from(&*run.source)),
        ("received", Value::Timestamp(time(run.received))),
        ("position", Value::Integer(i64::try_from(run.offset).unwrap_or(i64::MAX))),
        (NOW, Value::Integer(now)),
        (SEED, Value::Bytes(seed.into())),
    ];
    let fields = fields.into_iter().map(|(name, value)| (KeyString::from(name), value));
    Value::Object(fields.collect::<ObjectMap>())
}

/// The rows that one row became: itself, or those of an array assigned to `.`.
fn rows_of(
    left: Left<'_>,
    from: usize,
    batch: &Batch,
    columns: &Columns,
) -> Result<Vec<OutRow>, OperatorError> {
    let rows = match left {
        Left::Changed { mut changes, cleared } => {
            out_of_overflow(&mut changes, columns, from);
            vec![OutRow { from, changes, cleared }]
        }
        Left::Root(Value::Array(items), _) => {
            let row = |item| match item {
                Value::Object(object) => {
                    let mut changes = Changes::new();
                    flatten("", object, &mut changes);
                    Ok(OutRow { from, changes, cleared: true })
                }
                other => Err(not_a_row(&other)),
            };
            items.into_iter().map(row).collect::<Result<_, _>>()?
        }
        Left::Root(other, _) => return Err(not_a_row(&other)),
    };
    let misfit = rows.iter().find_map(|r| first_misfit(batch.signal(), &r.changes));
    match misfit {
        Some(reason) => Err(OperatorError::new(reason)),
        None => Ok(rows),
    }
}

fn not_a_row(value: &Value) -> OperatorError {
    OperatorError::new(format!("a row is an object, not {}", value.kind_str()))
}

/// A name that stood only in the JSON column `attributes` and was set or deleted must not be read
/// from there any more.
fn out_of_overflow(changes: &mut Changes, columns: &Columns, row: usize) {
    let moved: Vec<String> = changes.keys().filter(|n| columns.in_overflow(n)).cloned().collect();
    if moved.is_empty() || changes.contains_key(ATTRIBUTES) {
        return;
    }
    if let Some(Value::Object(mut object)) = columns.value(ATTRIBUTES, row) {
        moved.iter().for_each(|name| drop(object.remove(name.as_str())));
        let rest = (!object.is_empty()).then_some(Value::Object(object));
        changes.insert(ATTRIBUTES.to_owned(), rest);
    }
}

fn flatten(prefix: &str, object: ObjectMap, changes: &mut Changes) {
    for (key, value) in object {
        let name = if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") };
        match value {
            Value::Object(inner) => flatten(&name, inner, changes),
            value => {
                changes.insert(name, Some(value));
            }
        }
    }
}

fn build(
    batch: &Batch,
    columns: &Columns,
    entities: &mut Entities,
    kept: &[OutRow],
) -> Result<Batch, OperatorError> {
    let from = UInt32Array::from_iter_values(kept.iter().map(|r| r.from as u32));
    let schema = batch.rows().schema();
    let column = |name: String| {
        let cells: Vec<Cell<'_>> = kept
            .iter()
            .map(|row| match row.changes.get(&name) {
                Some(value) => Cell::Set(value.as_ref()),
                None if row.cleared => Cell::Set(None),
                None => Cell::Before(row.from),
            })
            .collect();
        let before = batch.array(&name);
        let was_json = columns.is_json(&name)
            || schema.field_with_name(&name).is_ok_and(|f| f.metadata().contains_key(META_JSON));
        let (field, array) = column(batch.signal(), &name, before.as_ref(), was_json, &cells);
        (name, field, array)
    };
    let touched = touched(batch, kept).into_iter().map(column).collect();
    // As many rows as before may be other rows: one dropped, another made two.
    let same = kept.len() == batch.num_rows() && kept.iter().enumerate().all(|(i, r)| i == r.from);
    assemble(batch, entities, touched, (!same).then_some(&from))
}

/// Names of the columns that change: those set or deleted, and all where a row was replaced.
fn touched(batch: &Batch, kept: &[OutRow]) -> BTreeSet<String> {
    let mut touched: BTreeSet<String> =
        kept.iter().flat_map(|r| r.changes.keys().cloned()).collect();
    if kept.iter().any(|r| r.cleared) {
        touched.extend(batch.names().into_iter().map(|(name, _)| name.to_string()));
    }
    touched
}
