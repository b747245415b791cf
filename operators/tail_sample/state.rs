//! The state as bytes: the rows that are held, entry by entry, so that it does not depend on how
//! they were joined to batches.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute;
use arrow::datatypes::Schema;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use hashbrown::HashMap;
use weir_pipeline::batch::{Batch, Keys, Run};
use weir_pipeline::component::OperatorError;
use weir_pipeline::entity::EntitySpace;
use weir_pipeline::signal::Signal;

use super::decide::{Kept, Trace};
use super::held::{Held, Open, Rows};
use crate::codec::{get, get_entity, get_text, get_u8, get_u64, put, put_entity, put_u64};

/// Version of the state.
const VERSION: u8 = 1;

/// What stands for a trace that was dropped.
const DROPPED: u8 = u8::MAX;

fn bad() -> OperatorError {
    OperatorError::new("malformed state of a tail_sample operator")
}

pub(super) fn write(elapsed: i64, held: &Held, kept: &Kept) -> Result<Vec<u8>, OperatorError> {
    let mut out = vec![VERSION];
    put_u64(&mut out, elapsed.cast_unsigned());
    kept.save(&mut out);
    put_u64(&mut out, held.decisions.len() as u64);
    for id in &held.decisions {
        put(&mut out, id.as_bytes());
        out.push(held.decided.get(id).copied().flatten().unwrap_or(DROPPED));
    }
    // Where each held row is among all of them, in the order in which they came.
    let mut places: HashMap<(u64, u32), u64> = HashMap::new();
    let mut rows: Vec<(u64, u32)> = held.traces.values().flat_map(|t| t.rows.clone()).collect();
    rows.sort_unstable();
    places.extend(rows.iter().copied().zip(0..));
    let mut entries = Vec::new();
    let mut count = 0_u64;
    for (number, batch) in &held.batches {
        let first = rows.partition_point(|row| row.0 < *number);
        let end = rows.partition_point(|row| row.0 <= *number);
        count += put_entries(&mut entries, &batch.batch, &rows[first..end])?;
    }
    put_u64(&mut out, count);
    out.extend(entries);
    put_u64(&mut out, held.ticks.len() as u64);
    for (elapsed, ids) in &held.ticks {
        put_u64(&mut out, elapsed.cast_unsigned());
        put_traces(&mut out, held, ids, &places);
    }
    put_traces(&mut out, held, &held.fresh, &places);
    Ok(out)
}

fn put_traces(out: &mut Vec<u8>, held: &Held, ids: &[Arc<str>], places: &HashMap<(u64, u32), u64>) {
    put_u64(out, ids.len() as u64);
    for id in ids {
        put(out, id.as_bytes());
        let Some(Open { trace, rows }) = held.traces.get(id) else { continue };
        out.push(u8::from(trace.error) | u8::from(trace.rooted) << 1);
        put_u64(out, trace.slowest.cast_unsigned());
        put(out, trace.service.as_bytes());
        put(out, trace.operation.as_bytes());
        put_u64(out, rows.len() as u64);
        rows.iter().for_each(|row| put_u64(out, places.get(row).copied().unwrap_or_default()));
    }
}

/// The rows `rows` of a batch, one piece for each journal entry that has some. Gives how many.
fn put_entries(
    out: &mut Vec<u8>,
    batch: &Batch,
    rows: &[(u64, u32)],
) -> Result<u64, OperatorError> {
    let (mut end, mut done, mut count) = (0, 0, 0);
    for run in batch.runs().iter() {
        end += run.rows;
        let of = rows[done..].iter().take_while(|(_, row)| (*row as usize) < end);
        let of: UInt32Array = of.map(|(_, row)| *row).collect();
        if of.is_empty() {
            continue;
        }
        done += of.len();
        count += 1;
        put(out, batch.signal().as_str().as_bytes());
        put(out, batch.tenant().as_bytes());
        put_u64(out, run.offset);
        put_u64(out, run.received.cast_unsigned());
        put(out, run.source.as_bytes());
        // Taken, not sliced: the bytes shall not tell of what stood beside.
        put(out, &ipc(&compute::take_record_batch(batch.rows(), &of)?)?);
        out.push(u8::from(batch.entities().is_some()));
        let Some(Keys { keys, table }) = batch.entities() else { continue };
        let mut known: HashMap<u32, u64> = HashMap::new();
        let (mut entities, mut places) = (Vec::new(), Vec::new());
        for row in of.values() {
            let (key, next) = (keys.value(*row as usize), known.len() as u64);
            let place = *known.entry(key).or_insert_with(|| {
                put_entity(&mut entities, &table.get(key));
                next
            });
            put_u64(&mut places, place);
        }
        put_u64(out, known.len() as u64);
        out.extend(entities);
        out.extend(places);
    }
    Ok(count)
}

/// Rows as bytes: columns without a value are left out, the others stand by name.
fn ipc(rows: &RecordBatch) -> Result<Vec<u8>, OperatorError> {
    let schema = rows.schema();
    let mut columns: Vec<_> = schema.fields().iter().zip(rows.columns()).collect();
    columns.retain(|(_, array)| array.null_count() < array.len());
    columns.sort_by(|a, b| a.0.name().cmp(b.0.name()));
    let fields: Vec<_> = columns
        .iter()
        .map(|(field, _)| Arc::new(field.as_ref().clone().with_nullable(true)))
        .collect();
    let arrays = columns.iter().map(|(_, array)| (*array).clone()).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let schema = Arc::new(Schema::new(fields));
    let rows = RecordBatch::try_new_with_options(schema.clone(), arrays, &options)?;
    let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
    writer.write(&rows)?;
    Ok(writer.into_inner()?)
}

/// The inverse of [`write`].
pub(super) fn read(state: &[u8], space: &EntitySpace) -> Result<(i64, Held, Kept), OperatorError> {
    let mut bytes = state;
    let read = read_all(&mut bytes, space).ok_or_else(bad)?;
    if bytes.is_empty() { Ok(read) } else { Err(bad()) }
}

fn read_all(bytes: &mut &[u8], space: &EntitySpace) -> Option<(i64, Held, Kept)> {
    if get_u8(bytes)? != VERSION {
        return None;
    }
    let elapsed = get_u64(bytes)?.cast_signed();
    let kept = Kept::load(bytes)?;
    let mut held = Held::default();
    for _ in 0..get_u64(bytes)? {
        let id = get_text(bytes)?.into();
        let reason = Some(get_u8(bytes)?).filter(|reason| *reason != DROPPED);
        held.remember(id, reason);
    }
    let mut places = Vec::new();
    for _ in 0..get_u64(bytes)? {
        let batch = get_entry(bytes, space)?;
        let rows = u32::try_from(batch.num_rows()).ok()?;
        places.extend((0..rows).map(|row| (held.next, row)));
        held.batches.insert(held.next, Rows { batch, held: 0 });
        held.next += 1;
    }
    for _ in 0..get_u64(bytes)? {
        let elapsed = get_u64(bytes)?.cast_signed();
        let ids = get_traces(bytes, &mut held, &places)?;
        held.ticks.push_back((elapsed, ids));
    }
    held.fresh = get_traces(bytes, &mut held, &places)?;
    Some((elapsed, held, kept))
}

fn get_traces(bytes: &mut &[u8], held: &mut Held, places: &[(u64, u32)]) -> Option<Vec<Arc<str>>> {
    let mut ids = Vec::new();
    for _ in 0..get_u64(bytes)? {
        let id: Arc<str> = get_text(bytes)?.into();
        let flags = get_u8(bytes)?;
        let trace = Trace {
            error: flags & 1 == 1,
            rooted: flags & 2 == 2,
            slowest: get_u64(bytes)?.cast_signed(),
            service: get_text(bytes)?.into(),
            operation: get_text(bytes)?.into(),
        };
        let mut rows = Vec::new();
        for _ in 0..get_u64(bytes)? {
            let row = *places.get(usize::try_from(get_u64(bytes)?).ok()?)?;
            held.batches.get_mut(&row.0)?.held += 1;
            rows.push(row);
        }
        held.spans += rows.len();
        held.traces.insert(id.clone(), Open { trace, rows });
        ids.push(id);
    }
    Some(ids)
}

fn get_entry(bytes: &mut &[u8], space: &EntitySpace) -> Option<Batch> {
    let signal = Signal::from_name(get_text(bytes)?);
    let tenant: Arc<str> = get_text(bytes)?.into();
    let (offset, received) = (get_u64(bytes)?, get_u64(bytes)?.cast_signed());
    let source = get_text(bytes)?.into();
    let rows = StreamReader::try_new(get(bytes)?, None).ok()?.next()?.ok()?;
    let run = Run { offset, received, source, rows: rows.num_rows() };
    let mut keys = None;
    if get_u8(bytes)? == 1 {
        let table = space.table();
        let mut known = Vec::new();
        for _ in 0..get_u64(bytes)? {
            known.push(table.intern(get_entity(bytes)?).ok()?);
        }
        let mut of = Vec::new();
        for _ in 0..rows.num_rows() {
            of.push(*known.get(usize::try_from(get_u64(bytes)?).ok()?)?);
        }
        keys = Some(Keys { keys: UInt32Array::from(of), table });
    }
    Batch::new(signal, tenant, rows, keys, [run].into()).ok()
}
