//! Which entities the conditions leave.

use std::sync::Arc;

use arrow::array::new_null_array;
use arrow::buffer::BooleanBuffer;
use datafusion::common::{DataFusionError, Result};

use super::column::{Level, from_chunk};
use super::conditions::{Conditions, Filters};
use super::exec::Shared;
use super::file::Stop;
use super::identity::Identity;
use crate::entity_log::{ChunkFile, EntityColumns};
use crate::error::StoreError;
use crate::file::FileEntry;

/// Which entities the conditions leave.
pub(super) enum Keep {
    All,
    Nothing,
    Some(Masks),
}

/// The entities that are left, by chunk.
pub(super) struct Masks {
    /// Id of the first entity of each chunk that is there, and which are kept.
    kept: Vec<(u32, BooleanBuffer)>,
    /// Whether rows stay whose entity is in no chunk: all their entity columns are NULL.
    without: bool,
}

impl Keep {
    /// Whether the rows of `entity` stay.
    pub(super) fn has(&self, entity: u32) -> bool {
        let Masks { kept, without } = match self {
            Self::All => return true,
            Self::Nothing => return false,
            Self::Some(masks) => masks,
        };
        let after = kept.partition_point(|(first, _)| *first <= entity);
        let chunk = after.checked_sub(1).map(|c| &kept[c]);
        let place = chunk.map(|(first, kept)| ((entity - first) as usize, kept));
        match place.filter(|(index, kept)| *index < kept.len()) {
            Some((index, kept)) => kept.value(index),
            None => *without,
        }
    }
}

/// Which entities of a chunk meet conditions.
struct Mask {
    chunk: u64,
    /// The conditions, so that a chance hit of the hash is noticed.
    question: Identity,
    kept: BooleanBuffer,
}

/// Evaluates conditions that one value per entity decides, over the `chunks` that the file refers
/// to.
pub(super) fn keep(
    entry: &FileEntry,
    shared: &Shared,
    filters: &Filters,
    chunks: &[Arc<ChunkFile>],
) -> std::result::Result<Keep, Stop> {
    if filters.is_empty() {
        return Ok(Keep::All);
    }
    let conditions = Conditions::new(entry, &shared.schema, filters)?;
    let columns = &conditions.columns;
    let fields = columns.schema.fields();
    let without = || -> Result<bool> {
        let nulls = fields.iter().map(|f| new_null_array(f.data_type(), 1));
        Ok(conditions.evaluate(nulls.collect(), 1)?.value(0))
    };
    if columns.sources.iter().all(|s| s.level == Level::Absent) {
        // No row of this file has any of the columns: one row stands for all.
        return Ok(if without()? { Keep::All } else { Keep::Nothing });
    }
    // The same question is asked of the same chunk by every file of a day, and by later queries.
    let text = format!("{:?} {:?} {:?}", conditions.filters, columns.schema, columns.sources);
    let question = Identity::of(text, conditions.filters.iter())?;
    let mut kept = Vec::with_capacity(chunks.len());
    for file in chunks {
        let known = question.as_ref().and_then(|question| {
            let known = shared.masks.get::<Mask>(question.key(file.id))?;
            (known.chunk == file.id && known.question == *question).then(|| known.kept.clone())
        });
        if let Some(known) = known {
            kept.push((file.meta.first, known));
            continue;
        }
        let Some(chunk) = entities(entry, file, columns.entity_names())? else { continue };
        let _held = shared.ledger.hold(std::slice::from_ref(&chunk))?;
        let arrays = from_chunk(&chunk, fields, &columns.sources).map_err(DataFusionError::from)?;
        let met = conditions.evaluate(arrays, chunk.len())?.values().clone();
        if let Some(question) = &question {
            let mask = Mask { chunk: file.id, question: question.clone(), kept: met.clone() };
            let bytes = question.bytes() + met.len() / 8 + size_of::<Mask>();
            shared.masks.insert(question.key(file.id), Arc::new(mask), bytes);
        }
        kept.push((file.meta.first, met));
    }
    let lost = kept.len() < chunks.len();
    let without = lost && without()?;
    let all = |count: fn(&BooleanBuffer) -> bool| kept.iter().all(|(_, met)| count(met));
    Ok(if !without && all(|met| met.count_set_bits() == 0) {
        Keep::Nothing
    } else if without == lost && all(|met| met.count_set_bits() == met.len()) {
        Keep::All
    } else {
        Keep::Some(Masks { kept, without })
    })
}

/// The columns `names` of the entities of one chunk; `None` if it is damaged.
pub(super) fn entities(
    entry: &FileEntry,
    chunk: &ChunkFile,
    names: Vec<&str>,
) -> std::result::Result<Option<EntityColumns>, Stop> {
    let Some(set) = entry.entities() else { return Ok(None) };
    match set.columns(chunk, &names) {
        Ok(columns) => Ok(Some(columns)),
        Err(StoreError::Damaged { .. }) => Ok(None),
        // They are a file of their own: what is wrong there says nothing of this one.
        Err(e) => Err(DataFusionError::Execution(e.to_string()).into()),
    }
}
