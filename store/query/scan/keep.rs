//! Which entities the conditions leave.

use std::sync::Arc;

use arrow::array::new_null_array;
use arrow::buffer::BooleanBuffer;
use datafusion::common::Result;
use xxhash_rust::xxh3::xxh3_64;

use super::column::{Level, from_chunk};
use super::conditions::{Conditions, Filters};
use super::exec::Shared;
use crate::entity_log::EntityChunk;
use crate::file::FileEntry;

/// Which entities the conditions leave.
pub(super) enum Keep {
    All,
    Nothing,
    Some(Masks),
}

/// The entities that are left, by chunk.
pub(super) struct Masks {
    kept: Vec<BooleanBuffer>,
    /// Whether rows stay whose entity is in no chunk: all their entity columns are NULL.
    without: bool,
}

impl Keep {
    /// Whether the rows of `entity` stay.
    pub(super) fn has(&self, chunks: &[Arc<EntityChunk>], entity: u32) -> bool {
        let masks = match self {
            Self::All => return true,
            Self::Nothing => return false,
            Self::Some(masks) => masks,
        };
        let after = chunks.partition_point(|c| c.first() <= entity);
        let place = after.checked_sub(1).map(|c| (c, (entity - chunks[c].first()) as usize));
        match place.filter(|(c, index)| *index < masks.kept[*c].len()) {
            Some((c, index)) => masks.kept[c].value(index),
            None => masks.without,
        }
    }
}

/// Which entities of a chunk meet conditions.
struct Mask {
    chunk: u64,
    /// The conditions as text, so that a chance hit of the hash is noticed.
    question: String,
    kept: BooleanBuffer,
}

/// Evaluates conditions that one value per entity decides. `lost`: not all chunks are there.
pub(super) fn keep(
    entry: &FileEntry,
    shared: &Shared,
    filters: &Filters,
    chunks: &[Arc<EntityChunk>],
    lost: bool,
) -> Result<Keep> {
    if filters.is_empty() {
        return Ok(Keep::All);
    }
    let conditions = Conditions::new(entry, &shared.schema, filters)?;
    let columns = &conditions.columns;
    let absent = columns.sources.iter().all(|s| s.level == Level::Absent);
    let mut without = false;
    if absent || lost {
        let fields = columns.schema.fields();
        let nulls = fields.iter().map(|f| new_null_array(f.data_type(), 1));
        without = conditions.evaluate(nulls.collect(), 1)?.value(0);
    }
    if absent {
        // No row of this file has any of the columns: one row stands for all.
        return Ok(if without { Keep::All } else { Keep::Nothing });
    }
    // The same question is asked of the same chunk by every file of a day, and by later queries.
    let question = format!("{:?} {:?} {:?}", conditions.filters, columns.schema, columns.sources);
    let mut masks = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let key = xxh3_64(format!("{} {question}", chunk.id()).as_bytes());
        let known = shared.masks.get::<Mask>(key);
        if let Some(known) = known.filter(|k| k.chunk == chunk.id() && k.question == question) {
            masks.push(known.kept.clone());
            continue;
        }
        let arrays = from_chunk(chunk, columns.schema.fields(), &columns.sources)?;
        let kept = conditions.evaluate(arrays, chunk.len())?.values().clone();
        let mask = Mask { chunk: chunk.id(), question: question.clone(), kept: kept.clone() };
        let bytes = question.len() + kept.len() / 8 + size_of::<Mask>();
        shared.masks.insert(key, Arc::new(mask), bytes);
        masks.push(kept);
    }
    Ok(if !without && masks.iter().all(|m| m.count_set_bits() == 0) {
        Keep::Nothing
    } else if without == lost && masks.iter().all(|m| m.count_set_bits() == m.len()) {
        Keep::All
    } else {
        Keep::Some(Masks { kept: masks, without })
    })
}
