//! The run on columns, where a program touches columns as such ([`Flat`]): paths are found once per
//! batch, and a program whose result depends on the row alone runs once for all rows that look the
//! same to it. It gives what the plain run gives ([`super::rows`]).

use std::collections::BTreeMap;
use std::ops::Range;

use arrow::array::{Array, BooleanArray, UInt32Array};
use arrow::compute::take;
use vrl::compiler::state::RuntimeState;
use vrl::value::Value;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{OperatorError, Output};
use weir_pipeline::share::Pace;
use weir_pipeline::signal::META_JSON;

use super::assemble::{Touched, assemble};
use super::column::{Cell, column};
use super::distinct::Distinct;
use super::flat::Flat;
use super::flat_row::{Change, FlatRow};
use super::program::{Compiled, End};
use super::rows::{metadata, places};
use super::values::{Columns, check};
use crate::entities::Entities;

/// What became of a row.
enum Fate {
    /// Its index among the results.
    Kept(u32),
    Dropped,
    Failed(OperatorError),
}

/// What the program did to the rows that it kept.
#[derive(Default)]
struct Results {
    /// Per name of the [`Flat`] and row: what was set.
    own: Vec<Vec<Option<Option<Value>>>>,
    /// Values of new columns, with the row of each.
    below: BTreeMap<String, Vec<(u32, Value)>>,
    /// The row in the batch that each was made from.
    rows: Vec<usize>,
}

/// Where the results go.
struct Spread {
    /// Rows of the batch that are kept.
    from: UInt32Array,
    /// For each of them its result; `None` if results are in the order of rows, one each.
    result: Option<UInt32Array>,
}

/// Runs the program on `batch`, which is flat.
pub(super) fn process(
    program: &Compiled,
    flat: &Flat,
    (entities, pace): (&mut Entities, &mut Pace),
    batch: &Batch,
    out: &mut Output,
) -> Result<(), OperatorError> {
    let distinct = if program.place_or_time { None } else { Distinct::of(flat, batch) };
    process_as(program, flat, distinct, (entities, pace), batch, out)
}

/// The same, of rows that are known to be alike.
fn process_as(
    program: &Compiled,
    flat: &Flat,
    distinct: Option<Distinct>,
    (entities, pace): (&mut Entities, &mut Pace),
    batch: &Batch,
    out: &mut Output,
) -> Result<(), OperatorError> {
    let rows = distinct.as_ref().map_or(batch.num_rows(), |d| d.samples.len());
    let (samples, now) = (distinct.as_ref().map(|d| d.samples.as_slice()), out.now);
    let parts = pace.share(rows, |part| run(program, flat, batch, samples, part, now));
    let (fates, results) = joined(parts);
    let columns = Columns::of_batch(batch);
    let mut from = Vec::with_capacity(batch.num_rows());
    let mut result = Vec::with_capacity(batch.num_rows());
    let mut failed = vec![false; batch.num_rows()];
    let mut errors = Vec::new();
    for row in 0..batch.num_rows() {
        match &fates[distinct.as_ref().map_or(row, |d| d.of[row] as usize)] {
            Fate::Kept(at) => {
                from.push(row as u32);
                result.push(*at);
            }
            Fate::Dropped => out.dropped += 1,
            Fate::Failed(error) => {
                failed[row] = true;
                errors.push(error.clone());
            }
        }
    }
    if !errors.is_empty() {
        out.reject(batch.filter(&BooleanArray::from(failed))?, errors);
    }
    if !from.is_empty() {
        let all = from.len() == batch.num_rows();
        let result = distinct.is_some().then(|| result.into());
        let spread = Spread { from: from.into(), result };
        let touched = touched(&results, &spread, flat, &columns, batch)?;
        out.emit(assemble(batch, entities, touched, (!all).then_some(&spread.from))?);
    }
    Ok(())
}

/// Runs the program on a part of the rows `samples`, or of all.
fn run(
    program: &Compiled,
    flat: &Flat,
    batch: &Batch,
    samples: Option<&[usize]>,
    part: Range<usize>,
    now: i64,
) -> (Vec<Fate>, Results) {
    let count = part.len();
    let mut fates = Vec::with_capacity(count);
    let own = flat.names.iter().map(|_| Vec::with_capacity(count)).collect();
    let mut results = Results { own, below: BTreeMap::new(), rows: Vec::with_capacity(count) };
    let columns = Columns::of_batch(batch);
    let mut row = FlatRow::new(flat, &columns);
    let mut state = RuntimeState::default();
    let mut one = |index: usize, metadata: Value| {
        row.start(index, metadata);
        fates.push(match program.run(&mut row, &mut state) {
            End::Done => results.take(index, row.changes(), flat, batch),
            End::Aborted => Fate::Dropped,
            End::Failed(error) => Fate::Failed(error),
        });
    };
    match samples {
        Some(samples) => samples[part].iter().for_each(|&row| one(row, Value::Null)),
        None => {
            for (row, (run, in_run)) in part.clone().zip(places(batch).skip(part.start)) {
                one(row, metadata(program, batch, run, in_run, now));
            }
        }
    }
    (fates, results)
}

/// What all parts gave, as if they had been one.
fn joined(parts: Vec<(Vec<Fate>, Results)>) -> (Vec<Fate>, Results) {
    let mut parts = parts.into_iter();
    let (mut fates, mut results) = parts.next().unwrap_or_default();
    for (others, more) in parts {
        let start = results.rows.len() as u32;
        fates.extend(others.into_iter().map(|fate| match fate {
            Fate::Kept(at) => Fate::Kept(start + at),
            other => other,
        }));
        for (own, more) in results.own.iter_mut().zip(more.own) {
            own.extend(more);
        }
        for (name, values) in more.below {
            let values = values.into_iter().map(|(at, value)| (start + at, value));
            results.below.entry(name).or_default().extend(values);
        }
        results.rows.extend(more.rows);
    }
    (fates, results)
}

impl Results {
    /// Takes what was done to the row `from`, if it fits.
    fn take(
        &mut self,
        from: usize,
        changes: impl Iterator<Item = Change>,
        flat: &Flat,
        batch: &Batch,
    ) -> Fate {
        let at = self.rows.len();
        let mut misfit: Option<(String, String)> = None;
        let mut check = |name: &str, value: &Value| {
            // The first by name is told.
            if let Err(reason) = check(batch.signal(), name, value)
                && misfit.as_ref().is_none_or(|(first, _)| name < first.as_str())
            {
                misfit = Some((name.to_owned(), reason));
            }
        };
        let mut below = Vec::new();
        for ((own, name), change) in self.own.iter_mut().zip(&flat.names).zip(changes) {
            if let Some(Some(value)) = &change.own {
                check(&name.name, value);
            }
            change.below.iter().for_each(|(name, value)| check(name, value));
            own.push(change.own);
            below.extend(change.below);
        }
        if let Some((_, reason)) = misfit {
            self.own.iter_mut().for_each(|own| own.truncate(at));
            return Fate::Failed(OperatorError::new(reason));
        }
        self.rows.push(from);
        for (name, value) in below {
            self.below.entry(name).or_default().push((at as u32, value));
        }
        Fate::Kept(at as u32)
    }
}

/// The columns that change, sorted by name.
fn touched(
    results: &Results,
    spread: &Spread,
    flat: &Flat,
    columns: &Columns,
    batch: &Batch,
) -> Result<Vec<Touched>, OperatorError> {
    let mut touched = Vec::new();
    for (name, own) in flat.names.iter().zip(&results.own) {
        let set = own.iter().filter(|set| set.is_some()).count();
        if set == 0 {
            continue;
        }
        // What was not read may differ between rows that look the same.
        let alike = set == own.len() || name.read;
        touched.push(match &spread.result {
            Some(result) if !alike => {
                let rows = spread.from.values().iter().zip(result.values());
                let cell = |(&row, &at): (&u32, &u32)| cell(&own[at as usize], row as usize);
                render(&name.name, &rows.map(cell).collect::<Vec<_>>(), columns, batch)
            }
            _ => {
                let cells = own.iter().zip(&results.rows).map(|(own, &row)| cell(own, row));
                let made = render(&name.name, &cells.collect::<Vec<_>>(), columns, batch);
                spread.over(made)?
            }
        });
    }
    for (name, values) in &results.below {
        let mut cells = vec![Cell::Set(None); results.rows.len()];
        values.iter().for_each(|(at, value)| cells[*at as usize] = Cell::Set(Some(value)));
        touched.push(spread.over(render(name, &cells, columns, batch))?);
    }
    touched.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(touched)
}

fn cell(own: &Option<Option<Value>>, row: usize) -> Cell<'_> {
    own.as_ref().map_or(Cell::Before(row), |value| Cell::Set(value.as_ref()))
}

fn render(name: &str, cells: &[Cell<'_>], columns: &Columns, batch: &Batch) -> Touched {
    let before = batch.array(name);
    let field = batch.rows().schema_ref().field_with_name(name);
    let json = columns.is_json(name) || field.is_ok_and(|f| f.metadata().contains_key(META_JSON));
    let (field, array) = column(batch.signal(), name, before.as_ref(), json, cells);
    (name.to_owned(), field, array)
}

impl Spread {
    /// A column of results as one of rows.
    fn over(&self, (name, field, array): Touched) -> Result<Touched, OperatorError> {
        let array = match &self.result {
            Some(result) if array.len() != result.len() || !ascending(result) => {
                take(&array, result, None)?
            }
            _ => array,
        };
        Ok((name, field, array))
    }
}

/// Whether each result is that of its own row.
fn ascending(result: &UInt32Array) -> bool {
    result.values().iter().enumerate().all(|(i, at)| i == *at as usize)
}

#[cfg(test)]
mod tests;
