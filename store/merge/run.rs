//! Carries a merge out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, new_null_array};
use arrow::datatypes::{TimestampNanosecondType, UInt32Type};

use super::entities::Entities;
use super::pick::Job;
use super::{HOUR_NS, WINDOWS_MAX};
use weir_pipeline::failpoint;

use crate::disk::{file_name, sync_folder, verify};
use crate::entity_log::write_chunk;
use crate::error::{Result, StoreError};
use crate::file::{
    ENTITY_COLUMN, EntityPlace, FileColumn, FileEntry, FileMeta, FileReader, FileSpec,
    OVERFLOW_KEYS_MAX, Overflow, write_file,
};
use crate::normalise::{TIMESTAMP, common_type, widen_array};
use crate::order::{RowKey, arrange};
use crate::table::{Change, Table};
use crate::types::ColumnType;

/// No id.
const NONE: u32 = u32::MAX;

/// What became of a merge.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The output took the place of the inputs.
    Done,
    /// An input is listed no more; the output was deleted.
    Overtaken,
    /// An input could not be read and was set aside.
    Damaged,
}

/// Why a merge came to nothing.
#[derive(Debug)]
pub(crate) enum MergeError {
    /// This input, or its entities, cannot be read.
    Input(Arc<FileEntry>, StoreError),
    /// The output cannot be made.
    Output(StoreError),
}

impl From<StoreError> for MergeError {
    fn from(e: StoreError) -> Self {
        Self::Output(e)
    }
}

struct Input {
    file: Arc<FileEntry>,
    reader: FileReader,
}

/// Merges the inputs of `job` within `table`; rows before `min_time` are left out.
pub(crate) fn run(table: &Arc<Table>, job: &Job, min_time: i64) -> Result<Outcome, MergeError> {
    let mut inputs = Vec::new();
    for file in &job.inputs {
        let input = |e| MergeError::Input(file.clone(), e);
        let opened = verify(&file.path, file.meta.bytes, file.meta.crc)
            .and_then(|()| FileReader::open(file));
        match opened {
            Ok(reader) => inputs.push(Input { file: file.clone(), reader }),
            Err(StoreError::Damaged { why, .. }) => {
                table.report_damage(file, &why).map_err(input)?;
                return Ok(Outcome::Damaged);
            }
            Err(e) => return Err(input(e)),
        }
    }
    let entities = match &job.inputs[0].set {
        Some(_) => Some(read_entities(&inputs)?),
        None => None,
    };
    let mut written = Vec::new();
    let result = write_all(table, job, &inputs, entities.as_ref(), min_time, &mut written);
    failpoint!("merge.written");
    let done = result.and_then(|()| {
        sync_folder(&table.folders().entities)?;
        sync_folder(&table.folders().files)?;
        table.change(&Change { remove: job.inputs.clone(), add: written.clone() })
    });
    failpoint!("merge.listed");
    if !matches!(done, Ok(true)) {
        for meta in &written {
            std::fs::remove_file(table.folders().files.join(&*meta.name)).ok();
            if let Some(EntityPlace::Own(chunk)) = &meta.entities {
                std::fs::remove_file(table.folders().entities.join(&*chunk.file)).ok();
            }
        }
    }
    Ok(if done? { Outcome::Done } else { Outcome::Overtaken })
}

fn write_all(
    table: &Arc<Table>,
    job: &Job,
    inputs: &[Input],
    entities: Option<&Entities>,
    min_time: i64,
    written: &mut Vec<FileMeta>,
) -> Result<()> {
    let layout = job.inputs[0].meta.layout;
    let windows = windows(inputs, entities, job.level, min_time)?;
    let columns = columns(inputs)?;
    let rows: u64 = job.inputs.iter().map(|f| f.meta.rows).sum();
    let raw: u64 = job.inputs.iter().map(|f| f.meta.raw_bytes).sum();
    let received = job.inputs.iter().map(|f| f.meta.received).max().unwrap_or_default();
    for mut keys in windows {
        let share = raw.saturating_mul(keys.len() as u64) / rows.max(1);
        let groups = arrange(&mut keys, layout, (raw / rows.max(1)) as usize);
        let order: Vec<(u32, u32)> = keys.iter().map(|k| k.place).collect();
        let times: Vec<i64> = keys.iter().map(|k| k.time).collect();
        let mut place = None;
        let mut ids = None;
        let mut entity_bytes = 0;
        if let Some(entities) = entities {
            // By rank: the id in the output, where a row has it.
            let mut id_of = vec![NONE; entities.len()];
            keys.iter().for_each(|k| id_of[k.rank as usize] = 0);
            let mut used = Vec::new();
            for (rank, id) in id_of.iter_mut().enumerate().filter(|(_, id)| **id != NONE) {
                *id = used.len() as u32;
                used.push(rank as u32);
            }
            entity_bytes = used.iter().map(|rank| entities.bytes(*rank)).sum();
            if job.keeps_log {
                used.iter().for_each(|rank| id_of[*rank as usize] = entities.id(*rank));
                place = job.inputs[0].meta.entities.clone();
            } else {
                let own: Vec<_> = used.iter().map(|rank| entities.entity(*rank)).collect();
                let chunk = write_chunk(&table.folders().entities, &file_name("m"), 0, &own)?;
                place = Some(EntityPlace::Own(chunk));
            }
            ids = Some(keys.iter().map(|k| id_of[k.rank as usize]).collect::<Vec<u32>>());
        }
        drop(keys);
        let spec = FileSpec {
            folder: &table.folders().files,
            name: file_name("m"),
            level: job.level,
            layout,
            columns: columns.clone(),
            overflow: overflow(inputs),
            order: &order,
            groups: &groups,
            times: &times,
            ids: ids.as_deref(),
            entities: place.clone(),
            raw_bytes: share,
            entity_bytes,
            received,
        };
        let meta = write_file(spec, &mut |column| parts(inputs, column, column.kind.surface()));
        if meta.is_err()
            && let Some(EntityPlace::Own(chunk)) = &place
        {
            std::fs::remove_file(table.folders().entities.join(&*chunk.file)).ok();
        }
        written.push(meta?);
    }
    Ok(())
}

fn read_entities(inputs: &[Input]) -> Result<Entities, MergeError> {
    let mut entities = Entities::default();
    for Input { file, reader } in inputs {
        let Some(set) = &file.set else { continue };
        let ids = reader.column(ENTITY_COLUMN, ColumnType::EntityId)?;
        entities
            .add(set, ids.as_primitive::<UInt32Type>().clone(), &file.path)
            .map_err(|e| MergeError::Input(file.clone(), e))?;
    }
    entities.rank();
    Ok(entities)
}

/// The rows of each output file, in order of arrival.
fn windows(
    inputs: &[Input],
    entities: Option<&Entities>,
    level: u8,
    min_time: i64,
) -> Result<Vec<Vec<RowKey>>> {
    let mut windows: BTreeMap<i64, Vec<RowKey>> = BTreeMap::new();
    for (part, input) in inputs.iter().enumerate() {
        let kind = input.file.column(TIMESTAMP).map_or(ColumnType::Time, |c| c.kind);
        let times = input.reader.column(TIMESTAMP, kind)?;
        let times = times.as_primitive::<TimestampNanosecondType>();
        let ranks = entities.map(|e| e.ranks(part)).transpose()?;
        let key = |(row, &time): (usize, &i64)| {
            let rank = ranks.as_ref().map_or(0, |r| r[row]);
            RowKey { rank, time, place: (part as u32, row as u32) }
        };
        let keys = times.values().iter().enumerate().map(key).filter(|k| k.time >= min_time);
        // Later merges have inputs of one window already, and mostly one has the rows of an hour.
        let meta = &input.file.meta;
        let first = meta.min_time.max(min_time).div_euclid(HOUR_NS);
        if level != 1 || first == meta.max_time.div_euclid(HOUR_NS) {
            windows.entry(if level == 1 { first } else { 0 }).or_default().extend(keys);
        } else {
            keys.for_each(|k| windows.entry(k.time.div_euclid(HOUR_NS)).or_default().push(k));
        }
    }
    // All rows of a file may be past retention.
    windows.retain(|_, rows| !rows.is_empty());
    let mut windows: Vec<Vec<RowKey>> = windows.into_values().collect();
    if windows.len() > WINDOWS_MAX {
        windows.sort_by_key(|w| std::cmp::Reverse(w.len()));
        let mut rest: Vec<RowKey> = windows.drain(WINDOWS_MAX - 1..).flatten().collect();
        rest.sort_unstable_by_key(|k| k.place);
        windows.push(rest);
    }
    Ok(windows)
}

/// The row columns of the output, sorted by name.
fn columns(inputs: &[Input]) -> Result<Vec<FileColumn>> {
    let names: BTreeSet<&Arc<str>> =
        inputs.iter().flat_map(|i| i.file.meta.columns.iter().map(|c| &c.name)).collect();
    let mut out = Vec::new();
    for name in names {
        let found: Vec<&FileColumn> = inputs.iter().filter_map(|i| i.file.column(name)).collect();
        let Some(first) = found.first() else { continue };
        let one_kind = found.iter().all(|c| c.kind == first.kind);
        let expanded = inputs
            .iter()
            .any(|i| i.file.column(name).is_none() && i.file.may_have_entity_column(name));
        let kind = if one_kind && !expanded {
            first.kind
        } else {
            let mut arrays = Vec::new();
            for input in inputs {
                arrays.extend(surface(input, name)?);
            }
            common_type(&arrays.iter().collect::<Vec<_>>())
        };
        let json = kind == ColumnType::Text && found.iter().all(|c| c.json);
        let origin = found.iter().find_map(|c| c.origin.clone());
        out.push(FileColumn { name: name.clone(), kind, json, origin });
    }
    Ok(out)
}

/// The column `name` of an input as surface type: its row column, or what its entities have.
fn surface(input: &Input, name: &str) -> Result<Option<ArrayRef>> {
    if let Some(column) = input.file.column(name) {
        return Ok(Some(input.reader.column(name, column.kind)?));
    }
    match &input.file.set {
        Some(set) if input.file.may_have_entity_column(name) => {
            let ids = input.reader.column(ENTITY_COLUMN, ColumnType::EntityId)?;
            super::entities::expand(set, name, ids.as_primitive::<UInt32Type>())
        }
        _ => Ok(None),
    }
}

fn parts(inputs: &[Input], column: &FileColumn, kind: ColumnType) -> Result<Vec<ArrayRef>> {
    let part = |input: &Input| match surface(input, &column.name)? {
        Some(array) => widen_array(&array, kind),
        None => Ok(new_null_array(&kind.at_rest(), input.file.meta.rows as usize)),
    };
    inputs.iter().map(part).collect()
}

fn overflow(inputs: &[Input]) -> Overflow {
    let mut keys = BTreeSet::new();
    let mut any = false;
    for input in inputs {
        match &input.file.meta.overflow {
            Overflow::None => {}
            Overflow::Many => return Overflow::Many,
            Overflow::Keys(more) => {
                any = true;
                keys.extend(more.iter().cloned());
            }
        }
    }
    match (any, keys.len() > OVERFLOW_KEYS_MAX) {
        (false, _) => Overflow::None,
        (true, true) => Overflow::Many,
        (true, false) => Overflow::Keys(keys.into_iter().collect()),
    }
}
