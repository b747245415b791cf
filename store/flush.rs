//! Turns hot rows into a level-0 file.

mod columns;

pub(crate) use columns::{movable, with_moved};

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::TimestampNanosecondType;
use hashbrown::HashMap;
use weir_pipeline::batch::{Batch, Keys};
use weir_pipeline::entity::{Entity, EntityTable};
use weir_pipeline::signal::Signal;

use crate::disk::{file_name, sync_folder};
use crate::entity_log::{ChunkMeta, EntityLog, Ranking, Used, sort_key};
use crate::error::{Result, StoreError};
use crate::file::{EntityPlace, FileMeta, FileSpec, rest_kind, write_file};
use crate::layout::Layout;
use crate::merge::{HOUR_NS, Limits};
use crate::normalise::TIMESTAMP;
use crate::order::{RowKey, arrange};
use crate::turns::Turns;

/// The layout that rows of `signal` have at rest.
pub(crate) fn layout_of(signal: &Signal) -> Layout {
    if *signal == Signal::Metrics { Layout::Series } else { Layout::Slices }
}

/// Size of the rows of a batch in memory: what belongs to them, not what they share.
pub(crate) fn raw_bytes(rows: &RecordBatch) -> usize {
    let columns = rows.columns().iter();
    columns.map(|c| c.to_data().get_slice_memory_size().unwrap_or(0)).sum::<usize>()
        + rows.num_rows() * 4
}

/// Where a flush writes to.
pub(crate) struct Place<'a> {
    /// Folder of data files.
    pub(crate) files: &'a Path,
    /// Starts the names of files.
    pub(crate) prefix: &'a str,
    /// What a file holds at most, unless one batch is larger.
    pub(crate) limits: Limits,
    /// The memory for it.
    pub(crate) turns: &'a Turns,
    /// Day of the entity log, and the log.
    pub(crate) log: (i32, &'a EntityLog),
    /// Adds a chunk of new entities to the manifest.
    pub(crate) commit_chunk: &'a mut dyn FnMut(&ChunkMeta) -> Result<()>,
}

/// Writes normalised `batches` of one signal to files, fsynced, outside the manifest; adds them to
/// `files`, also where one of them fails.
pub(crate) fn flush(
    batches: &[Batch],
    place: &mut Place<'_>,
    files: &mut Vec<FileMeta>,
) -> Result<()> {
    let mut rest = batches;
    while !rest.is_empty() {
        let (count, bytes) = one_file(rest, place.limits);
        let (now, later) = rest.split_at(count);
        let turn = place.turns.take(bytes);
        files.extend(flush_one(now, bytes, place)?);
        drop(turn);
        rest = later;
    }
    sync_folder(place.files)
}

/// How many of `batches` make a file that merges take with others, at least one; their size.
fn one_file(batches: &[Batch], limits: Limits) -> (usize, usize) {
    let (mut rows, mut bytes) = (0, 0);
    for (i, batch) in batches.iter().enumerate() {
        let more = raw_bytes(batch.rows());
        rows += batch.num_rows() as u64;
        if i > 0 && !limits.admit(rows, (bytes + more) as u64) {
            return (i, bytes);
        }
        bytes += more;
    }
    (batches.len(), bytes)
}

fn flush_one(batches: &[Batch], raw: usize, place: &mut Place<'_>) -> Result<Option<FileMeta>> {
    let batches = with_entities(batches);
    let rows: usize = batches.iter().map(Batch::num_rows).sum();
    if rows == 0 {
        return Ok(None);
    }
    if u32::try_from(rows).is_err() {
        return Err(StoreError::Full {
            table: place.files.display().to_string(),
            why: "a file holds at most 2^32 rows",
        });
    }
    let ranking = entity_ids(&batches, place)?.map(|ids| ranked(&batches, &ids, place.log.1));
    let mut keys = Vec::with_capacity(rows);
    for (part, batch) in batches.iter().enumerate() {
        let times = times_of(batch)?;
        let ranks = ranking.as_ref().map(|(_, ranks)| &*ranks[part]);
        for (row, &time) in times.values().iter().enumerate() {
            let rank = ranks.map_or(0, |r| r[row]);
            keys.push(RowKey { rank, time, place: (part as u32, row as u32) });
        }
    }
    let ranking = ranking.map(|(ranking, _)| ranking);
    let layout = layout_of(batches[0].signal());
    let groups: Vec<Range<usize>> = arrange(&mut keys, layout, raw / rows);
    let order: Vec<(u32, u32)> = keys.iter().map(|k| k.place).collect();
    let times: Vec<i64> = keys.iter().map(|k| k.time).collect();
    // By rank, as the rows are now: their ids in order of arrival lie all over memory.
    let row_ids: Option<Vec<u32>> =
        ranking.as_ref().map(|ranking| keys.iter().map(|k| ranking.id(k.rank)).collect());
    let entity_bytes = ranking.map_or(0, |ranking| ranking.bytes(keys.iter().map(|k| k.rank)));
    drop(keys);
    let columns = columns::Columns::of(&batches)?;
    let mut wanted = columns.columns();
    for column in &mut wanted {
        let parts = columns.parts(&column.name, column.kind)?;
        column.kind = rest_kind(&column.name, column.kind, &parts);
    }
    let received = batches.iter().flat_map(|b| b.runs().iter().map(|r| r.received)).max();
    let spec = FileSpec {
        folder: place.files,
        name: file_name(place.prefix),
        level: level(&times, raw, place.limits),
        layout,
        columns: wanted,
        overflow: columns.overflow(),
        order: &order,
        groups: &groups,
        times: &times,
        ids: row_ids.as_deref(),
        entities: row_ids.is_some().then_some(EntityPlace::Log(place.log.0)),
        raw_bytes: raw as u64,
        entity_bytes,
        received: received.unwrap_or_default(),
    };
    let meta = write_file(spec, &mut |c| columns.parts(&c.name, c.kind.surface()))?;
    Ok(Some(meta))
}

/// A file that no merge would take with others, all of one hour, is as good as the first merge would
/// make it.
fn level(times: &[i64], raw: usize, limits: Limits) -> u8 {
    let hour = |time: &i64| time.div_euclid(HOUR_NS);
    let large = !limits.file().admit(times.len() as u64, raw as u64);
    u8::from(large && times.iter().all(|time| hour(time) == hour(&times[0])))
}

/// Where some batches have entities, those that have none get the empty one.
fn with_entities(batches: &[Batch]) -> Vec<Batch> {
    let batches: Vec<Batch> = batches.iter().filter(|b| b.num_rows() > 0).cloned().collect();
    if batches.iter().all(|b| b.entities().is_none()) {
        return batches;
    }
    let empty = Arc::new(EntityTable::default());
    let Ok(key) = empty.intern(Entity::new(Vec::new())) else { return batches };
    let fill = |b: Batch| {
        if b.entities().is_some() {
            return b;
        }
        let keys = UInt32Array::from(vec![key; b.num_rows()]);
        let keys = Keys { keys, table: empty.clone() };
        let filled = Batch::new(
            b.signal().clone(),
            b.tenant().clone(),
            b.rows().clone(),
            Some(keys),
            b.runs().clone(),
        );
        filled.unwrap_or(b)
    };
    batches.into_iter().map(fill).collect()
}

/// The entity id of each row of each batch, `None` for streams without entities.
fn entity_ids(batches: &[Batch], place: &mut Place<'_>) -> Result<Option<Vec<Vec<u32>>>> {
    if batches.iter().any(|b| b.entities().is_none()) {
        return Ok(None);
    }
    let mut tables: Vec<(Arc<EntityTable>, Vec<&[u32]>)> = Vec::new();
    for e in batches.iter().filter_map(Batch::entities) {
        let keys: &[u32] = e.keys.values();
        match tables.iter_mut().find(|(t, _)| t.id() == e.table.id()) {
            Some((_, all)) => all.push(keys),
            None => tables.push((e.table.clone(), vec![keys])),
        }
    }
    let mut ids = HashMap::new();
    for (table, keys) in &tables {
        let of_table = place.log.1.ids(table, keys, place.commit_chunk)?;
        ids.insert(table.id(), of_table.into_iter());
    }
    let of_batch = |e: &Keys| ids.get_mut(&e.table.id())?.next();
    Ok(Some(batches.iter().filter_map(Batch::entities).filter_map(of_batch).collect()))
}

/// The order of the entities of some rows, and the place of each row's among them.
fn ranked(batches: &[Batch], ids: &[Vec<u32>], log: &EntityLog) -> (Arc<Ranking>, Vec<Vec<u32>>) {
    /// No table.
    const NONE: u32 = u32::MAX;
    let last = log.ranking();
    if let Some(ranks) = last.ranks(ids) {
        return (last, ranks);
    }
    let used = Used::of(ids);
    // For each id: the table and key of a row that has it.
    let mut some = vec![(NONE, 0); used.len()];
    for (part, (batch, ids)) in batches.iter().zip(ids).enumerate() {
        let Some(e) = batch.entities() else { continue };
        for (&key, &id) in e.keys.values().iter().zip(ids) {
            some[used.place(id)] = (part as u32, key);
        }
    }
    let sort_key_of = |at: usize| {
        let (part, key) = some[at];
        let e = batches.get(part as usize)?.entities()?;
        Some(sort_key(&e.table.get(key)))
    };
    let ranking = Ranking::after(&last, used, |at| some[at].0 != NONE, sort_key_of);
    let ranks = ranking.ranks(ids).unwrap_or_default();
    (log.set_ranking(ranking), ranks)
}

fn times_of(batch: &Batch) -> Result<arrow::array::TimestampNanosecondArray> {
    let column: Option<&ArrayRef> = batch.rows().column_by_name(TIMESTAMP);
    let times = column.and_then(|c| c.as_primitive_opt::<TimestampNanosecondType>());
    times.filter(|t| t.null_count() == 0).cloned().ok_or_else(|| StoreError::Foreign {
        what: "rows",
        why: "they were not normalised".to_owned(),
    })
}

#[cfg(test)]
mod tests;
