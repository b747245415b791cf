//! Entities of merged files, and chunks of entity logs made into fewer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arrow::array::{Array, ArrayRef, UInt32Array, new_null_array};
use arrow::compute::{concat, take};
use hashbrown::HashMap;
use weir_pipeline::entity::Entity;

use super::Limits;
use crate::disk::{file_name, sync_folder};
use crate::entity_log::{EntityChunk, EntityLog, EntitySet, write_chunk};
use crate::error::{Result, StoreError};
use crate::normalise::{common_type, widen_array};
use crate::table::Table;

/// So many small chunks in a row are worth the while.
const CHUNKS: usize = 16;
/// Entities that make a chunk large enough, where memory allows; and memory for each.
const LARGE: u32 = 16 << 10;
const COMPACTED_BYTES: u64 = 4 << 10;

/// The entities that the inputs of a merge refer to, in their order.
#[derive(Default)]
pub(super) struct Entities {
    /// Per input: id of each row, and which of `groups` they are in.
    inputs: Vec<(UInt32Array, usize)>,
    groups: Vec<Group>,
    /// By file, however many inputs refer to them.
    chunks: HashMap<u64, Arc<EntityChunk>>,
    /// Per rank: the chunk and index of one that has it.
    ranked: Vec<(Arc<EntityChunk>, usize)>,
}

/// The entities of one set: inputs that share it are looked at once.
struct Group {
    set: Arc<EntitySet>,
    chunks: Vec<Arc<EntityChunk>>,
    /// Ids that rows have, sorted.
    used: Vec<u32>,
    /// Of each of them, once ranked.
    ranks: Vec<u32>,
}

/// No rank.
const NONE: u32 = u32::MAX;

impl Entities {
    /// Takes in the ids of the next input.
    pub(super) fn add(
        &mut self,
        set: &Arc<EntitySet>,
        ids: UInt32Array,
        path: &Path,
    ) -> Result<()> {
        let mut used: Vec<u32> = ids.values().to_vec();
        // Rows of one entity mostly follow each other: few are left to sort.
        used.dedup();
        let known = self.groups.iter().position(|g| Arc::ptr_eq(&g.set, set));
        if let Some(known) = known {
            used.extend(&self.groups[known].used);
        }
        used.sort_unstable();
        used.dedup();
        // All anew: chunks of a log may have become one meanwhile.
        let chunks = set.load_of(&used, &mut self.chunks)?;
        if used.iter().any(|id| find(&chunks, *id).is_none()) {
            return Err(StoreError::damaged(path, "it refers to entities that are not there"));
        }
        let group = Group { set: set.clone(), chunks, used, ranks: Vec::new() };
        let at = match known {
            Some(at) => {
                self.groups[at] = group;
                at
            }
            None => {
                self.groups.push(group);
                self.groups.len() - 1
            }
        };
        self.inputs.push((ids, at));
        Ok(())
    }

    /// Orders all entities by their sort keys, which differ where they do.
    pub(super) fn rank(&mut self) {
        let mut order: Vec<(&[u8], usize, usize)> = Vec::new();
        for (at, group) in self.groups.iter().enumerate() {
            for (i, id) in group.used.iter().enumerate() {
                if let Some((chunk, index)) = find(&group.chunks, *id) {
                    order.push((&chunk.sort_keys()[index], at, i));
                }
            }
        }
        // Chunks are sorted, and this sort is quick where it meets what is.
        order.sort_by(|a, b| a.0.cmp(b.0));
        let mut ranks: Vec<Vec<u32>> =
            self.groups.iter().map(|g| vec![NONE; g.used.len()]).collect();
        let mut ranked = Vec::new();
        for same in order.chunk_by(|a, b| a.0 == b.0) {
            for (_, at, i) in same {
                ranks[*at][*i] = ranked.len() as u32;
            }
            let (_, at, i) = same[0];
            let group = &self.groups[at];
            if let Some((chunk, index)) = find(&group.chunks, group.used[i]) {
                ranked.push((chunk.clone(), index));
            }
        }
        for (group, ranks) in self.groups.iter_mut().zip(ranks) {
            group.ranks = ranks;
        }
        self.ranked = ranked;
    }

    /// The rank of the entity of each row of an input.
    pub(super) fn ranks(&self, input: usize) -> Result<Vec<u32>> {
        let (ids, at) = &self.inputs[input];
        let Group { used, ranks, .. } = &self.groups[*at];
        let (first, last) = (used.first().copied(), used.last().copied());
        let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
        let places = (last - first) as usize + 1;
        // Few of many ids are looked for, where a place for each would take more than the rows.
        let mut dense = Vec::new();
        if places <= ids.len() {
            dense.resize(places, NONE);
            used.iter().zip(ranks).for_each(|(id, rank)| dense[(id - first) as usize] = *rank);
        }
        let look_up = |id: u32| match dense.is_empty() {
            true => used.binary_search(&id).map_or(NONE, |i| ranks[i]),
            false => {
                id.checked_sub(first).map_or(NONE, |i| dense.get(i as usize).map_or(NONE, |r| *r))
            }
        };
        let mut same = (NONE, NONE);
        let rank = |id: &u32| {
            if same.0 != *id || same.1 == NONE {
                same = (*id, look_up(*id));
            }
            (same.1 != NONE).then_some(same.1)
        };
        ids.values().iter().map(rank).collect::<Option<Vec<u32>>>().ok_or_else(|| {
            StoreError::Foreign { what: "entity ids", why: "an id has no entity".to_owned() }
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ranked.len()
    }

    /// The id that it has in its set.
    pub(super) fn id(&self, rank: u32) -> u32 {
        let (chunk, index) = &self.ranked[rank as usize];
        chunk.first() + *index as u32
    }

    pub(super) fn entity(&self, rank: u32) -> Arc<Entity> {
        let (chunk, index) = &self.ranked[rank as usize];
        chunk.entity(*index)
    }

    /// Memory that such an entity takes in a merge, about, bytes.
    pub(super) fn bytes(&self, rank: u32) -> u64 {
        let (chunk, index) = &self.ranked[rank as usize];
        entity_bytes(chunk.sort_keys()[*index].len())
    }
}

/// Memory that an entity takes in a merge, about, bytes: its sort key, of this length, the attributes
/// as columns, and as one entity while its chunk is written.
pub(crate) fn entity_bytes(sort_key: usize) -> u64 {
    sort_key as u64 * 4 + 128
}

/// The chunk of `id` and its index there.
fn find(chunks: &[Arc<EntityChunk>], id: u32) -> Option<(&Arc<EntityChunk>, usize)> {
    let i = chunks.partition_point(|c| c.first() <= id).checked_sub(1)?;
    let index = (id - chunks[i].first()) as usize;
    (index < chunks[i].len()).then_some((&chunks[i], index))
}

/// The entity column `name` of a set, one value per element of `ids`; `None` if no entity has it.
pub(crate) fn expand(set: &EntitySet, name: &str, ids: &UInt32Array) -> Result<Option<ArrayRef>> {
    let chunks = set.load()?;
    let columns: Vec<Option<ArrayRef>> = chunks.iter().map(|c| c.column(name)).collect();
    let present: Vec<&ArrayRef> = columns.iter().flatten().collect();
    if present.is_empty() {
        return Ok(None);
    }
    let kind = common_type(&present);
    let mut starts = Vec::with_capacity(chunks.len());
    let mut parts = Vec::with_capacity(chunks.len());
    let mut start = 0;
    for (chunk, column) in chunks.iter().zip(&columns) {
        starts.push((chunk.first(), start, chunk.len() as u32));
        start += chunk.len() as u32;
        parts.push(match column {
            Some(column) => widen_array(column, kind)?,
            None => new_null_array(&kind.at_rest(), chunk.len()),
        });
    }
    let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
    let all = concat(&parts)?;
    let place = |id: u32| {
        let i = starts.partition_point(|(first, _, _)| *first <= id).checked_sub(1)?;
        let (first, start, len) = starts[i];
        (id - first < len).then(|| start + id - first)
    };
    let places: UInt32Array = ids.values().iter().map(|id| place(*id)).collect();
    Ok(Some(take(&all, &places, None)?))
}

/// Makes one chunk of a row of small ones in the log of `day`; whether there was one to make.
/// Flushes go on meanwhile: only the exchange holds them up.
pub(crate) fn compact_log(
    table: &Arc<Table>,
    day: i32,
    log: &EntityLog,
    limits: Limits,
) -> Result<bool> {
    let files = log.set().files();
    let large = u32::try_from(limits.raw_bytes / COMPACTED_BYTES).map_or(LARGE, |n| n.min(LARGE));
    let Some(range) = small_row(&files, large) else { return Ok(false) };
    let chunks = files[range.clone()]
        .iter()
        .map(|file| log.set().load_chunk(file))
        .collect::<Result<Vec<_>>>()?;
    let entities: Vec<Arc<Entity>> =
        chunks.iter().flat_map(|c| (0..c.len()).map(|i| c.entity(i))).collect();
    let folder = &table.folders().entities;
    let merged = write_chunk(folder, &file_name("e"), files[range.start].meta.first, &entities)?;
    sync_folder(folder)?;
    log.exclusive(|| table.replace_chunks(day, log.set(), range, merged))?;
    Ok(true)
}

/// The start of the longest row of chunks with less than `large` entities whose ids follow on, if it
/// is long enough: as many as make a large one.
fn small_row(
    files: &[Arc<crate::entity_log::ChunkFile>],
    large: u32,
) -> Option<std::ops::Range<usize>> {
    let mut best = 0..0;
    let mut start = 0;
    for (i, file) in files.iter().enumerate() {
        let small = file.meta.entities < large && !file.damaged.load(Relaxed);
        let follows = i == start || {
            let before = &files[i - 1].meta;
            before.first + before.entities == file.meta.first
        };
        if !small {
            start = i + 1;
        } else if !follows {
            start = i;
        }
        if small && i + 1 - start > best.len() {
            best = start..i + 1;
        }
    }
    let mut entities = 0;
    let more = files[best.clone()].iter().take_while(|file| {
        let goes_on = entities < large;
        entities += file.meta.entities;
        goes_on
    });
    (best.len() >= CHUNKS).then(|| best.start..best.start + more.count())
}
