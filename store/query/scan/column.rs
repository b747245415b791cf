//! Columns of one batch, from wherever a file or hot run has them, in the type of the table.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, UInt32Array, new_null_array,
};
use arrow::compute::{self, CastOptions};
use arrow::datatypes::{DataType, FieldRef, Float64Type, UInt32Type};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use weir_pipeline::batch::Batch;
use weir_pipeline::entity::double_text;
use weir_pipeline::signal::ATTRIBUTES;

use super::overflow::extract;
use crate::entity_log::EntityColumns;
use crate::file::{ENTITY_COLUMN, FileEntry};
use crate::types::{ColumnType, to_surface};

/// Where a file has a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) level: Level,
    /// Rows without a value may have one in `attributes`.
    pub(super) overflow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// No row of the file has it.
    Absent,
    Row,
    Entity,
}

impl Source {
    pub(super) fn of(file: &FileEntry, name: &str) -> Self {
        let meta = file.meta();
        let entity = || file.may_have_entity_column(name);
        let level = if file.column(name).is_some() {
            Level::Row
        } else if entity() {
            Level::Entity
        } else {
            Level::Absent
        };
        let overflow = name != ATTRIBUTES && meta.overflow.may_have(name);
        Self { level, overflow }
    }

    /// Whether one value per entity is all that there is to know.
    pub(super) fn by_entity(&self) -> bool {
        self.level != Level::Row && !self.overflow
    }
}

/// Brings `array` to `target`; what does not fit is NULL.
pub(super) fn widen(array: &ArrayRef, target: &DataType) -> Result<ArrayRef, ArrowError> {
    let from = array.data_type();
    if from == target {
        return Ok(array.clone());
    }
    if matches!(from, DataType::Struct(_)) && *from == ColumnType::Decimal.at_rest() {
        return widen(&to_surface(array, ColumnType::Decimal)?, target);
    }
    match (from, target) {
        (DataType::FixedSizeBinary(16), DataType::Utf8) => to_surface(array, ColumnType::Id16),
        (DataType::FixedSizeBinary(8), DataType::Utf8) => to_surface(array, ColumnType::Id8),
        (DataType::Float64, DataType::Utf8) => {
            let doubles = array.as_primitive::<Float64Type>();
            Ok(Arc::new(StringArray::from_iter(doubles.iter().map(|v| v.map(double_text)))))
        }
        (_, DataType::Utf8) if from.is_nested() => text(array),
        _ if compute::can_cast_types(from, target) => {
            let options = CastOptions { safe: true, ..CastOptions::default() };
            compute::cast_with_options(array, target, &options)
        }
        _ => Ok(new_null_array(target, array.len())),
    }
}

/// Structs and lists as text, where some file has the name as text.
fn text(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array.as_ref(), &options)?;
    let texts = (0..array.len()).map(|i| array.is_valid(i).then(|| formatter.value(i).to_string()));
    Ok(Arc::new(StringArray::from_iter(texts)))
}

/// The values of `first` where there are any, else those of `second`.
fn coalesce(first: &ArrayRef, second: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if first.null_count() == 0 {
        return Ok(first.clone());
    }
    if first.null_count() == first.len() {
        return Ok(second.clone());
    }
    let valid = compute::is_not_null(first)?;
    compute::kernels::zip::zip(&valid, first, second)
}

/// `fields` over rows that were read from a file.
pub(super) fn from_file(
    batch: &RecordBatch,
    fields: &[FieldRef],
    sources: &[Source],
    chunks: &[EntityColumns],
) -> Result<Vec<ArrayRef>, ArrowError> {
    let rows = batch.num_rows();
    let ids = batch.column_by_name(ENTITY_COLUMN);
    let places = ids.map(|ids| places(ids.as_primitive::<UInt32Type>(), chunks));
    let wanted: Vec<&str> = fields
        .iter()
        .zip(sources)
        .filter(|(_, s)| s.overflow)
        .map(|(f, _)| f.name().as_str())
        .collect();
    let mut spilled = match batch.column_by_name(ATTRIBUTES) {
        Some(attributes) if !wanted.is_empty() => extract(attributes, &wanted),
        _ => Vec::new(),
    }
    .into_iter();
    fields
        .iter()
        .zip(sources)
        .map(|(field, source)| {
            let target = field.data_type();
            let typed = match source.level {
                Level::Row => match batch.column_by_name(field.name()) {
                    Some(array) => widen(array, target)?,
                    None => new_null_array(target, rows),
                },
                Level::Entity => match &places {
                    Some(places) => gather(chunks, field.name(), target, places)?,
                    None => new_null_array(target, rows),
                },
                Level::Absent => new_null_array(target, rows),
            };
            if !source.overflow {
                return Ok(typed);
            }
            match spilled.next() {
                Some(Some(spilled)) => coalesce(&typed, &widen(&spilled, target)?),
                _ => Ok(typed),
            }
        })
        .collect()
}

/// Chunk and index of each entity id; an id in no chunk points one past the last chunk.
fn places(ids: &UInt32Array, chunks: &[EntityColumns]) -> Vec<(usize, usize)> {
    let mut last = (u32::MAX, (chunks.len(), 0));
    ids.values()
        .iter()
        .map(|&id| {
            if id != last.0 {
                let after = chunks.partition_point(|c| c.first() <= id);
                let place = after.checked_sub(1).and_then(|c| {
                    let index = (id - chunks[c].first()) as usize;
                    (index < chunks[c].len()).then_some((c, index))
                });
                last = (id, place.unwrap_or((chunks.len(), 0)));
            }
            last.1
        })
        .collect()
}

/// The entity column `name` of each row.
fn gather(
    chunks: &[EntityColumns],
    name: &str,
    target: &DataType,
    places: &[(usize, usize)],
) -> Result<ArrayRef, ArrowError> {
    let none = new_null_array(target, 1);
    let mut arrays = Vec::with_capacity(chunks.len() + 1);
    let mut present = vec![false; chunks.len() + 1];
    for (i, chunk) in chunks.iter().enumerate() {
        match chunk.column(name) {
            Some(array) => {
                present[i] = true;
                arrays.push(widen(array, target)?);
            }
            None => arrays.push(none.clone()),
        }
    }
    arrays.push(none);
    let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
    let places: Vec<(usize, usize)> =
        places.iter().map(|&(c, i)| if present[c] { (c, i) } else { (chunks.len(), 0) }).collect();
    compute::interleave(&arrays, &places)
}

/// `fields` over the entities of one chunk.
pub(super) fn from_chunk(
    chunk: &EntityColumns,
    fields: &[FieldRef],
    sources: &[Source],
) -> Result<Vec<ArrayRef>, ArrowError> {
    fields
        .iter()
        .zip(sources)
        .map(|(field, source)| {
            match (source.level == Level::Entity).then(|| chunk.column(field.name())).flatten() {
                Some(array) => widen(array, field.data_type()),
                None => Ok(new_null_array(field.data_type(), chunk.len())),
            }
        })
        .collect()
}

/// `fields` over a hot run.
pub(super) fn from_hot(batch: &Batch, fields: &[FieldRef]) -> Result<Vec<ArrayRef>, ArrowError> {
    let rows = batch.num_rows();
    let wanted: Vec<&str> =
        fields.iter().map(|f| f.name().as_str()).filter(|name| *name != ATTRIBUTES).collect();
    let mut spilled = match batch.overflow() {
        Some(attributes) => extract(attributes, &wanted),
        None => Vec::new(),
    }
    .into_iter();
    fields
        .iter()
        .map(|field| {
            let target = field.data_type();
            let typed = match batch.array(field.name()) {
                Some(array) => widen(&array, target)?,
                None => new_null_array(target, rows),
            };
            if !wanted.contains(&field.name().as_str()) {
                return Ok(typed);
            }
            match spilled.next() {
                Some(Some(spilled)) => coalesce(&typed, &widen(&spilled, target)?),
                _ => Ok(typed),
            }
        })
        .collect()
}

/// A condition's outcome as a mask; NULL is false.
pub(super) fn mask(array: ArrayRef) -> Result<BooleanArray, ArrowError> {
    let array = if *array.data_type() == DataType::Null {
        new_null_array(&DataType::Boolean, array.len())
    } else {
        array
    };
    let mask = array.as_boolean_opt().ok_or_else(|| {
        ArrowError::CastError(format!("a condition is {} and not boolean", array.data_type()))
    })?;
    Ok(if mask.null_count() == 0 { mask.clone() } else { compute::prep_null_mask_filter(mask) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{FixedSizeBinaryArray, Float64Array, Int64Array};

    use super::*;

    #[test]
    fn widening_keeps_what_values_mean() {
        let check = |array: ArrayRef, target: DataType, expect: &[Option<&str>]| {
            let wide = widen(&array, &target).unwrap();
            assert_eq!(wide.data_type(), &target);
            let options = FormatOptions::default();
            let format = ArrayFormatter::try_new(wide.as_ref(), &options).unwrap();
            let got: Vec<Option<String>> = (0..wide.len())
                .map(|i| wide.is_valid(i).then(|| format.value(i).to_string()))
                .collect();
            let expect: Vec<Option<String>> = expect.iter().map(|e| e.map(String::from)).collect();
            assert_eq!(got, expect);
        };
        let doubles = Float64Array::from(vec![Some(1.0), None, Some(0.1), Some(f64::NAN)]);
        let texts = [Some("1"), None, Some("0.1"), Some("NaN")];
        check(Arc::new(doubles), DataType::Utf8, &texts);
        let ints = Int64Array::from(vec![Some(7), None]);
        check(Arc::new(ints.clone()), DataType::Utf8, &[Some("7"), None]);
        check(Arc::new(ints), DataType::Float64, &[Some("7.0"), None]);
        let ids =
            FixedSizeBinaryArray::try_from_iter([[0x0a_u8, 0xff, 0, 0, 0, 0, 0, 1]].into_iter())
                .unwrap();
        check(Arc::new(ids), DataType::Utf8, &[Some("0aff000000000001")]);
        let texts = StringArray::from(vec![Some("12"), Some("x")]);
        check(Arc::new(texts), DataType::Int64, &[Some("12"), None]);
    }
}
