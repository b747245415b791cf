//! What one open window holds: its groups, and an accumulator per call of an aggregate.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, RecordBatch, RecordBatchOptions,
    StringArray, UInt32Array, make_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{self, cast};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::EmitTo;
use hashbrown::{HashMap, HashSet};
use weir_pipeline::component::OperatorError;
use weir_pipeline::expression::{Accumulator, Call};
use xxhash_rust::xxh3::xxh3_128;

use super::keys::Key;
use crate::codec::{get, get_u64, put};

/// Distinct values that one call keeps in one window: 20 bytes each and the set's own.
const DISTINCT_MAX: usize = 1_000_000;

/// An open window.
#[derive(Debug, Default)]
pub(super) struct Open {
    groups: HashMap<Key, usize>,
    /// By group, in order of arrival.
    pub(super) keys: Vec<Key>,
    calls: Vec<Held>,
}

/// The state of one call.
#[derive(Debug, Default)]
struct Held {
    /// Made with the first value.
    accumulator: Option<Accumulator>,
    /// Whether some row did not bring a value: then a group may have come without one.
    gaps: bool,
    /// Group and XXH3-128 of the values seen, for DISTINCT.
    seen: HashSet<(u32, u128)>,
}

/// Values of one call for the rows of one batch.
pub(super) struct Input {
    pub(super) values: ArrayRef,
    pub(super) filter: Option<BooleanArray>,
}

fn error(e: DataFusionError) -> OperatorError {
    OperatorError::new(e.strip_backtrace())
}

impl Open {
    pub(super) fn new(calls: usize) -> Self {
        Self { calls: (0..calls).map(|_| Held::default()).collect(), ..Self::default() }
    }

    /// The index of a group, which is added if there are fewer than `limit`.
    pub(super) fn group(&mut self, key: &Key, limit: usize) -> Option<usize> {
        if let Some(&group) = self.groups.get(key) {
            return Some(group);
        }
        if self.keys.len() >= limit {
            return None;
        }
        let group = self.keys.len();
        self.groups.insert(key.clone(), group);
        self.keys.push(key.clone());
        Some(group)
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.groups.contains_key(key)
    }

    /// Takes the rows `rows` of a batch, whose groups are `groups`. Gives the rows that a call of
    /// DISTINCT has no room for.
    pub(super) fn update(
        &mut self,
        calls: &[&Call],
        inputs: &[Input],
        rows: &UInt32Array,
        groups: &[usize],
    ) -> Result<Vec<u32>, OperatorError> {
        let total = self.keys.len();
        let mut full = Vec::new();
        for ((held, call), input) in self.calls.iter_mut().zip(calls).zip(inputs) {
            let all = rows.len() == input.values.len();
            let values = match all {
                true => input.values.clone(),
                false => compute::take(&input.values, rows, None)?,
            };
            let filter = match (&input.filter, all) {
                (Some(filter), false) => {
                    Some(compute::take(filter, rows, None)?.as_boolean().clone())
                }
                (filter, _) => filter.clone(),
            };
            let (values, filter) = if call.distinct() {
                let (once, over) = held.distinct(&values, filter.as_ref(), groups)?;
                full.extend(over.into_iter().map(|i| rows.value(i)));
                (values, Some(once))
            } else {
                (values, filter)
            };
            let nulls = values.logical_null_count();
            held.gaps |= filter.is_some() || nulls > 0;
            let empty = nulls == values.len();
            if empty && held.accumulator.is_none() {
                continue;
            }
            let current = held.accumulator.as_ref().map(|a| &a.argument);
            let wanted = match (current, empty) {
                (Some(current), true) => current.clone(),
                (current, _) => call.settle(current, values.data_type()),
            };
            let accumulator = held.take_as(call, wanted)?;
            let values = call.take(&values, &accumulator.argument)?;
            // What does not cast is NULL.
            let gaps = values.logical_null_count() > nulls;
            held.gaps |= gaps;
            let filter = filter.or_else(|| held.gaps.then(|| everything(values.len())));
            let Some(accumulator) = &mut held.accumulator else { continue };
            update(accumulator, values, groups, filter, total)?;
        }
        full.sort_unstable();
        full.dedup();
        Ok(full)
    }

    /// The result of each call, one value per group in order of arrival.
    pub(super) fn results(
        mut self,
        calls: &[&Call],
    ) -> Result<(Vec<Key>, Vec<ArrayRef>), OperatorError> {
        let total = self.keys.len();
        let mut results = Vec::new();
        for (held, call) in self.calls.iter_mut().zip(calls) {
            let wanted = match &held.accumulator {
                Some(a) => a.argument.clone(),
                None => call.settle_empty(),
            };
            let accumulator = held.take_as(call, wanted)?;
            let none = arrow::array::new_empty_array(&accumulator.argument);
            update(accumulator, none, &[], Some(everything(0)), total)?;
            results.push(accumulator.groups.evaluate(EmitTo::All).map_err(error)?);
        }
        Ok((self.keys, results))
    }

    /// The state as bytes. It stays as it is.
    pub(super) fn save(&mut self, calls: &[&Call]) -> Result<Vec<u8>, OperatorError> {
        let total = self.keys.len();
        let keys = BinaryArray::from_iter_values(self.keys.iter().map(|k| &k[..]));
        let mut fields = vec![Field::new("key", DataType::Binary, false)];
        let mut columns: Vec<ArrayRef> = vec![Arc::new(keys)];
        let mut types: Vec<Field> = Vec::new();
        for (i, (held, call)) in self.calls.iter_mut().zip(calls).enumerate() {
            let Some(accumulator) = &mut held.accumulator else { continue };
            types.push(Field::new(i.to_string(), accumulator.argument.clone(), true));
            let none = arrow::array::new_empty_array(&accumulator.argument);
            update(accumulator, none, &[], Some(everything(0)), total)?;
            let state = accumulator.groups.state(EmitTo::All).map_err(error)?;
            for (j, column) in state.iter().enumerate() {
                fields.push(Field::new(format!("{i}.{j}"), column.data_type().clone(), true));
                columns.push(plain(column)?);
            }
            // Taking the state empties the accumulator.
            let mut fresh = call.accumulator(&accumulator.argument)?;
            merge(&mut fresh, &state, total)?;
            *accumulator = fresh;
            held.gaps = true;
        }
        let mut out = Vec::new();
        let rows = RecordBatch::try_new_with_options(
            Arc::new(Schema::new(fields)),
            columns,
            &RecordBatchOptions::new().with_row_count(Some(total)),
        )?;
        put(&mut out, &ipc(&rows)?);
        put(&mut out, &ipc(&RecordBatch::new_empty(Arc::new(Schema::new(types))))?);
        for held in &self.calls {
            let mut seen: Vec<(u32, u128)> = held.seen.iter().copied().collect();
            seen.sort_unstable();
            out.extend((seen.len() as u64).to_le_bytes());
            for (group, hash) in seen {
                out.extend(group.to_le_bytes());
                out.extend(hash.to_le_bytes());
            }
        }
        Ok(out)
    }

    /// The inverse of [`Open::save`].
    pub(super) fn load(mut bytes: &[u8], calls: &[&Call]) -> Result<Self, OperatorError> {
        let bad = || OperatorError::new("malformed state of a window");
        let mut open = Self::new(calls.len());
        let rows = read(get(&mut bytes).ok_or_else(bad)?)?;
        let types = read(get(&mut bytes).ok_or_else(bad)?)?;
        let keys = rows.column_by_name("key").ok_or_else(bad)?;
        for key in keys.as_binary_opt::<i32>().ok_or_else(bad)?.iter() {
            let key: Key = key.ok_or_else(bad)?.into();
            let total = open.keys.len();
            if open.group(&key, usize::MAX) != Some(total) {
                return Err(bad());
            }
        }
        let total = open.keys.len();
        for field in types.schema().fields() {
            let i: usize = field.name().parse().map_err(|_| bad())?;
            let call = calls.get(i).ok_or_else(bad)?;
            let mut accumulator = call.accumulator(field.data_type())?;
            let state = accumulator
                .state
                .iter()
                .enumerate()
                .map(|(j, t)| {
                    let column = rows.column_by_name(&format!("{i}.{j}")).ok_or_else(bad)?;
                    Ok(cast(column, t)?)
                })
                .collect::<Result<Vec<_>, OperatorError>>()?;
            merge(&mut accumulator, &state, total)?;
            open.calls[i].accumulator = Some(accumulator);
        }
        for held in &mut open.calls {
            // It is not saved whether there were any.
            held.gaps = true;
            for _ in 0..get_u64(&mut bytes).ok_or_else(bad)? {
                let (group, rest) = bytes.split_first_chunk::<4>().ok_or_else(bad)?;
                let (hash, rest) = rest.split_first_chunk::<16>().ok_or_else(bad)?;
                held.seen.insert((u32::from_le_bytes(*group), u128::from_le_bytes(*hash)));
                bytes = rest;
            }
        }
        Ok(open)
    }
}

impl Held {
    /// The accumulator for arguments of type `wanted`, with what was accumulated so far.
    fn take_as(
        &mut self,
        call: &Call,
        wanted: DataType,
    ) -> Result<&mut Accumulator, OperatorError> {
        let accumulator = match self.accumulator.take() {
            Some(same) if same.argument == wanted => same,
            None => call.accumulator(&wanted)?,
            Some(mut old) => {
                let mut wider = call.accumulator(&wanted)?;
                let state = old.groups.state(EmitTo::All).map_err(error)?;
                let total = state.first().map_or(0, |s| s.len());
                let state = state
                    .iter()
                    .zip(&wider.state)
                    .map(|(column, t)| Call::cast(column, t))
                    .collect::<Result<Vec<_>, _>>()?;
                merge(&mut wider, &state, total)?;
                self.gaps = true;
                wider
            }
        };
        Ok(self.accumulator.insert(accumulator))
    }

    /// Which rows bring a value that their group has not seen, and which find no room.
    fn distinct(
        &mut self,
        values: &ArrayRef,
        filter: Option<&BooleanArray>,
        groups: &[usize],
    ) -> Result<(BooleanArray, Vec<usize>), OperatorError> {
        let texts = texts(values)?;
        let mut full = Vec::new();
        let once = groups.iter().enumerate().map(|(row, &group)| {
            let kept = filter.is_none_or(|f| f.is_valid(row) && f.value(row));
            if !kept || texts.is_null(row) {
                return false;
            }
            let value = (group as u32, xxh3_128(texts.value(row).as_bytes()));
            if self.seen.len() >= DISTINCT_MAX && !self.seen.contains(&value) {
                full.push(row);
                return false;
            }
            self.seen.insert(value)
        });
        let once: Vec<bool> = once.collect();
        Ok((BooleanArray::from(once), full))
    }
}

/// Values as text, so that a value is the same whatever type its batch gave it.
fn texts(values: &ArrayRef) -> Result<StringArray, OperatorError> {
    if *values.data_type() == DataType::Float64 {
        let doubles = values.as_primitive::<Float64Type>().iter();
        let text = |d: f64| match d + 0.0 {
            d if d.fract() == 0.0 && d.abs() < 9e18 => (d as i64).to_string(),
            d => d.to_string(),
        };
        return Ok(doubles.map(|d| d.map(text)).collect());
    }
    Ok(cast(values, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// Takes values; `total` groups are there afterwards, with or without a value.
fn update(
    accumulator: &mut Accumulator,
    values: ArrayRef,
    groups: &[usize],
    filter: Option<BooleanArray>,
    total: usize,
) -> Result<(), OperatorError> {
    let arguments = accumulator.arguments(values).map_err(error)?;
    accumulator.groups.update_batch(&arguments, groups, filter.as_ref(), total).map_err(error)
}

/// A filter that takes all rows. Without one DataFusion takes every group to have had a value: in its
/// plans a group comes with its first row, here it may have come with a row that this call did not
/// see.
fn everything(rows: usize) -> BooleanArray {
    BooleanArray::new(BooleanBuffer::new_set(rows), None)
}

/// The same values: whether none being NULL is spelt out depends on how they came.
fn plain(column: &ArrayRef) -> Result<ArrayRef, OperatorError> {
    if column.null_count() > 0 || column.nulls().is_none() {
        return Ok(column.clone());
    }
    Ok(make_array(column.to_data().into_builder().nulls(None).build()?))
}

fn merge(into: &mut Accumulator, state: &[ArrayRef], total: usize) -> Result<(), OperatorError> {
    let groups: Vec<usize> = (0..total).collect();
    into.groups.merge_batch(state, &groups, total).map_err(error)
}

fn ipc(batch: &RecordBatch) -> Result<Vec<u8>, OperatorError> {
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new(&mut out, batch.schema_ref())?;
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    Ok(out)
}

fn read(bytes: &[u8]) -> Result<RecordBatch, OperatorError> {
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None)?;
    let schema = reader.schema();
    Ok(reader.next().transpose()?.unwrap_or_else(|| RecordBatch::new_empty(schema)))
}
