//! Rows too few for a file, as bytes for a checkpoint: Arrow IPC for the rows, and their entities.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use hashbrown::HashMap;
use weir_pipeline::batch::{Batch, Keys, Run};
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::Signal;

use crate::entity_log::{decode_entity, encode_entity};
use crate::error::{Result, StoreError};
use crate::file::ENTITY_COLUMN;
use crate::layout::{get, put};

/// What a carry starts with; the last byte is the version.
const MAGIC: &[u8; 5] = b"WCAR\x01";

/// Rows of several tables, by table name.
pub(super) type Carried = Vec<(Arc<str>, Vec<Batch>)>;

/// As bytes that [`decode`] takes.
pub(super) fn encode(tables: &[(Arc<str>, Vec<Batch>)]) -> Result<Vec<u8>> {
    let mut out = MAGIC.to_vec();
    put(&mut out, tables.len() as u64);
    for (name, batches) in tables {
        put_text(&mut out, name);
        put(&mut out, batches.len() as u64);
        for batch in batches {
            encode_batch(batch, &mut out)?;
        }
    }
    let crc = crc32c::crc32c(&out);
    out.extend(crc.to_le_bytes());
    Ok(out)
}

/// The inverse of [`encode`]. All entities are in one new table. Nothing gives nothing.
pub(super) fn decode(bytes: &[u8]) -> Result<Carried> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let foreign = |why: &str| StoreError::Foreign { what: "carried rows", why: why.to_owned() };
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| foreign("they are cut"))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(foreign("the checksum is wrong"));
    }
    let mut at = body.strip_prefix(MAGIC).ok_or_else(|| foreign("unknown version"))?;
    let table = Arc::new(EntityTable::default());
    let cut = || foreign("they are cut");
    let mut out = Vec::new();
    for _ in 0..get(&mut at).ok_or_else(cut)? {
        let name = get_text(&mut at).ok_or_else(cut)?;
        let mut batches = Vec::new();
        for _ in 0..get(&mut at).ok_or_else(cut)? {
            batches.push(decode_batch(&mut at, &table)?);
        }
        out.push((name, batches));
    }
    Ok(out)
}

fn encode_batch(batch: &Batch, out: &mut Vec<u8>) -> Result<()> {
    put_text(out, batch.signal().as_str());
    put_text(out, batch.tenant());
    put(out, batch.runs().len() as u64);
    for run in batch.runs().iter() {
        put(out, run.offset);
        put(out, run.received as u64);
        put_text(out, &run.source);
        put(out, run.rows as u64);
    }
    let mut rows = batch.rows().clone();
    if let Some(e) = batch.entities() {
        let mut dense: HashMap<u32, u32> = HashMap::new();
        let mut order = Vec::new();
        let ids = e.keys.values().iter().map(|&key| {
            *dense.entry(key).or_insert_with(|| {
                order.push(key);
                order.len() as u32 - 1
            })
        });
        let ids: UInt32Array = ids.collect::<Vec<u32>>().into();
        put(out, order.len() as u64 + 1);
        for key in order {
            encode_entity(&e.table.get(key), out);
        }
        let mut fields = rows.schema().fields().to_vec();
        fields.push(Arc::new(Field::new(ENTITY_COLUMN, DataType::UInt32, false)));
        let mut arrays = rows.columns().to_vec();
        arrays.push(Arc::new(ids));
        rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?;
    } else {
        put(out, 0);
    }
    let mut ipc = Vec::new();
    let mut writer = StreamWriter::try_new(&mut ipc, rows.schema_ref())?;
    writer.write(&rows)?;
    writer.finish()?;
    drop(writer);
    put(out, ipc.len() as u64);
    out.extend(ipc);
    Ok(())
}

fn decode_batch(at: &mut &[u8], table: &Arc<EntityTable>) -> Result<Batch> {
    let foreign = |why: &str| StoreError::Foreign { what: "carried rows", why: why.to_owned() };
    let cut = || foreign("they are cut");
    let signal = Signal::from_name(&get_text(at).ok_or_else(cut)?);
    let tenant = get_text(at).ok_or_else(cut)?;
    let mut runs = Vec::new();
    for _ in 0..get(at).ok_or_else(cut)? {
        let offset = get(at).ok_or_else(cut)?;
        let received = get(at).ok_or_else(cut)? as i64;
        let source = get_text(at).ok_or_else(cut)?;
        let rows = get(at).ok_or_else(cut)? as usize;
        runs.push(Run { offset, received, source, rows });
    }
    let count = get(at).ok_or_else(cut)?;
    let mut keys = Vec::new();
    for _ in 1..count {
        let entity = decode_entity(at).ok_or_else(cut)?;
        keys.push(table.intern(entity)?);
    }
    let len = usize::try_from(get(at).ok_or_else(cut)?).map_err(|_| cut())?;
    let (ipc, rest) = at.split_at_checked(len).ok_or_else(cut)?;
    *at = rest;
    let mut reader = StreamReader::try_new(Cursor::new(ipc), None)?;
    let mut rows = reader.next().ok_or_else(cut)??;
    let mut entities = None;
    if count > 0 {
        let index = rows.schema().index_of(ENTITY_COLUMN)?;
        let ids = rows.remove_column(index);
        let ids = ids.as_primitive_opt::<UInt32Type>().ok_or_else(cut)?;
        let ids = ids.values().iter().map(|&id| keys.get(id as usize).copied());
        let ids = ids.collect::<Option<Vec<u32>>>().ok_or_else(cut)?;
        entities = Some(Keys { keys: ids.into(), table: table.clone() });
        if rows.num_columns() == 0 {
            let n = entities.as_ref().map_or(0, |e: &Keys| e.keys.len());
            let options = RecordBatchOptions::new().with_row_count(Some(n));
            rows = RecordBatch::try_new_with_options(rows.schema(), Vec::new(), &options)?;
        }
    }
    Ok(Batch::new(signal, tenant, rows, entities, runs.into())?)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend(text.as_bytes());
}

fn get_text(at: &mut &[u8]) -> Option<Arc<str>> {
    let len = usize::try_from(get(at)?).ok()?;
    let (text, rest) = at.split_at_checked(len)?;
    *at = rest;
    Some(std::str::from_utf8(text).ok()?.into())
}
