//! The columns that an expression reads, as one batch has them.

use arrow::array::{Array, ArrayRef, AsArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, is_not_null, kernels::zip::zip};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use crate::batch::{Batch, Level};
use crate::entity::{Value, build_column};
use crate::signal::Signal;

/// Where the columns of an expression stand in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// At least one is an entity column, and no value of any stands at the row level.
    Entity,
    /// Anything else.
    Row,
}

/// Where `names` stand in `batch`.
pub(super) fn standing(batch: &Batch, names: &[String]) -> Standing {
    let mut entity = false;
    for name in names {
        match batch.level(name) {
            Some(Level::Row) => return Standing::Row,
            Some(Level::Entity) => entity = true,
            None => {}
        }
    }
    if !entity || mentioned(batch, names) { Standing::Row } else { Standing::Entity }
}

/// The type that a column without any value takes: the one that planning knows, else the
/// canonical one, else text.
pub(super) fn absent_type(signal: &Signal, name: &str, known: Option<&DataType>) -> DataType {
    known.cloned().or_else(|| signal.canonical_type(name)).unwrap_or(DataType::Utf8)
}

/// One array per name, one value per row: the typed column, else what the JSON column
/// `attributes` holds under that name, else NULL.
pub fn read(
    batch: &Batch,
    names: &[String],
    known: &[Option<DataType>],
) -> Result<Vec<ArrayRef>, ArrowError> {
    let mut arrays: Vec<Option<ArrayRef>> = names.iter().map(|n| batch.array(n)).collect();
    if mentioned(batch, names) {
        let values = overflow(batch, names);
        for ((array, values), name) in arrays.iter_mut().zip(values).zip(names) {
            if values.iter().all(Option::is_none) || canonical(batch, name) {
                continue;
            }
            let found = build_column(values.iter().map(Option::as_ref)).values;
            *array = Some(match array.take() {
                Some(typed) => first_of(&typed, &found)?,
                None => found,
            });
        }
    }
    let absent = |name, known: &Option<DataType>| {
        new_null_array(&absent_type(batch.signal(), name, known.as_ref()), batch.num_rows())
    };
    Ok(arrays
        .into_iter()
        .zip(names.iter().zip(known))
        .map(|(array, (name, known))| array.unwrap_or_else(|| absent(name, known)))
        .collect())
}

fn canonical(batch: &Batch, name: &str) -> bool {
    batch.signal().canonical_type(name).is_some()
}

/// The JSON text of a row of `attributes`, if the batch has that column.
fn overflow_text<'a>(batch: &'a Batch) -> Option<impl Fn(usize) -> Option<&'a str> + 'a> {
    let texts = batch.overflow()?.as_string_opt::<i32>()?;
    Some(move |row: usize| texts.is_valid(row).then(|| texts.value(row)))
}

/// Whether the JSON column may hold one of `names`.
fn mentioned(batch: &Batch, names: &[String]) -> bool {
    let Some(text) = overflow_text(batch) else { return false };
    // A name that needs escapes may be spelled in several ways: then the rows decide.
    let plain = |n: &String| n.chars().all(|c| (' '..='~').contains(&c) && c != '"' && c != '\\');
    let wanted: Vec<Option<String>> = names
        .iter()
        .filter(|n| !canonical(batch, n))
        .map(|n| plain(n).then(|| format!("\"{n}\"")))
        .collect();
    !wanted.is_empty()
        && (0..batch.num_rows())
            .filter_map(text)
            .any(|t| wanted.iter().any(|w| w.as_ref().is_none_or(|w| t.contains(w.as_str()))))
}

/// What `attributes` holds under each name, row by row.
fn overflow(batch: &Batch, names: &[String]) -> Vec<Vec<Option<Value>>> {
    let mut values = vec![vec![None; batch.num_rows()]; names.len()];
    let Some(text) = overflow_text(batch) else { return values };
    for row in 0..batch.num_rows() {
        let Some(text) = text(row) else { continue };
        let Ok(serde_json::Value::Object(object)) = serde_json::from_str(text) else { continue };
        for (values, name) in values.iter_mut().zip(names) {
            values[row] = object.get(name).and_then(Value::of_json);
        }
    }
    values
}

/// `typed` where it has a value, else `found`, in a type that holds both.
fn first_of(typed: &ArrayRef, found: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let number = |t: &DataType| matches!(t, DataType::Int64 | DataType::Float64);
    let common = match (typed.data_type(), found.data_type()) {
        (a, b) if a == b => a.clone(),
        (a, b) if number(a) && number(b) => DataType::Float64,
        _ => DataType::Utf8,
    };
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let typed = cast_with_options(typed, &common, &options)?;
    let found = cast_with_options(found, &common, &options)?;
    zip(&is_not_null(&typed)?, &typed, &found)
}
