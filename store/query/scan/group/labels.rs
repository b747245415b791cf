//! Numbers label tuples once per entity instead of once per row.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type};
use datafusion::common::Result;
use hashbrown::HashMap;
use weir_pipeline::batch::Level as BatchLevel;

use super::exprs::Exprs;
use super::keys::Ordinals;
use crate::entity_log::EntityColumns;
use crate::file::ENTITY_COLUMN;
use crate::query::scan::column::{Level, Source, from_file};
use crate::query::scan::file::Prepared;
use crate::query::scan::read::Rows;

/// An entity whose label tuple has no number yet.
const UNKNOWN: u32 = u32::MAX;
/// As [`UNKNOWN`], while it is being numbered.
const ASKED: u32 = u32::MAX - 1;

/// The label tuples of entities by number, for as long as the numbers hold.
#[derive(Default)]
pub(super) struct Labels {
    /// Where the file of which rows came last has the columns.
    sources: Vec<Source>,
    /// By chunk, then by entity in it.
    chunks: HashMap<u64, Vec<u32>>,
    /// Rows whose entity is in no chunk: all their columns are NULL.
    nowhere: Option<u32>,
    numbers: Vec<u32>,
}

impl Labels {
    /// Forgets all numbers.
    pub(super) fn clear(&mut self) {
        self.chunks.clear();
        self.nowhere = None;
    }

    pub(super) fn bytes(&self) -> usize {
        let entities: usize = self.chunks.values().map(Vec::capacity).sum();
        (entities + self.numbers.capacity()) * size_of::<u32>()
    }

    /// The number of the label tuple of each row.
    pub(super) fn number(
        &mut self,
        rows: &Rows,
        exprs: &Exprs,
        ordinals: &mut Ordinals,
    ) -> Result<&[u32]> {
        self.numbers.clear();
        if ordinals.is_constant() {
            self.numbers.resize(rows.len(), 0);
            return Ok(&self.numbers);
        }
        match rows {
            Rows::File(batch, file) => {
                let sources = file.sources(&exprs.part);
                if sources.iter().all(Source::by_entity) {
                    self.by_entity(batch, file, sources, exprs, ordinals)?;
                    return Ok(&self.numbers);
                }
            }
            Rows::Hot(batch) => {
                let level = |name: &str| batch.level(name) != Some(BatchLevel::Row);
                let alike = exprs.part.schema.fields().iter().all(|f| level(f.name()));
                if let (Some(keys), None, true) = (batch.entities(), batch.overflow(), alike) {
                    let (first, of) = firsts(keys.keys.values());
                    let numbers = ordinals.number(&exprs.of(&Rows::Hot(batch.filter(&first)?))?)?;
                    self.numbers.extend(of.into_iter().map(|i| numbers[i as usize] as u32));
                    return Ok(&self.numbers);
                }
            }
        }
        let numbers = ordinals.number(&exprs.of(rows)?)?;
        self.numbers.extend(numbers.iter().map(|&n| n as u32));
        Ok(&self.numbers)
    }

    fn by_entity(
        &mut self,
        batch: &RecordBatch,
        file: &Prepared,
        sources: Vec<Source>,
        exprs: &Exprs,
        ordinals: &mut Ordinals,
    ) -> Result<()> {
        if sources != self.sources {
            // A name that one file lacks may be a label in another.
            self.clear();
            self.sources = sources;
        }
        let absent = self.sources.iter().all(|s| s.level == Level::Absent);
        let ids = batch.column_by_name(ENTITY_COLUMN).filter(|_| !absent);
        let Some(ids) = ids.map(|ids| ids.as_primitive::<UInt32Type>()) else {
            let number = self.nowhere(exprs, ordinals)?;
            self.numbers.resize(batch.num_rows(), number);
            return Ok(());
        };
        let chunks = file.chunks();
        self.learn(ids.values(), chunks, exprs, ordinals)?;
        let mut last = None;
        for &id in ids.values() {
            let number = match last {
                Some((same, number)) if same == id => number,
                _ => match place(chunks, id) {
                    Some((chunk, at)) => self.chunks.get(&chunk.id()).map_or(0, |c| c[at]),
                    None => self.nowhere(exprs, ordinals)?,
                },
            };
            last = Some((id, number));
            self.numbers.push(number);
        }
        Ok(())
    }

    /// Numbers the entities of `ids` that have no number.
    fn learn(
        &mut self,
        ids: &[u32],
        chunks: &[EntityColumns],
        exprs: &Exprs,
        ordinals: &mut Ordinals,
    ) -> Result<()> {
        let mut new = Vec::new();
        let mut last = None;
        for &id in ids {
            if last == Some(id) {
                continue;
            }
            last = Some(id);
            let Some((chunk, at)) = place(chunks, id) else { continue };
            let known = self.chunks.entry(chunk.id());
            let known = known.or_insert_with(|| vec![UNKNOWN; chunk.len()]);
            if known[at] == UNKNOWN {
                known[at] = ASKED;
                new.push(id);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let field = Field::new(ENTITY_COLUMN, DataType::UInt32, false);
        let column: ArrayRef = Arc::new(UInt32Array::from(new.clone()));
        let one_each = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column])?;
        let fields = exprs.part.schema.fields();
        let arrays = from_file(&one_each, fields, &self.sources, chunks)?;
        let numbers = ordinals.number(&exprs.evaluate(arrays, new.len())?)?;
        for (&id, &number) in new.iter().zip(numbers) {
            if let Some((chunk, at)) = place(chunks, id)
                && let Some(known) = self.chunks.get_mut(&chunk.id())
            {
                known[at] = number as u32;
            }
        }
        Ok(())
    }

    fn nowhere(&mut self, exprs: &Exprs, ordinals: &mut Ordinals) -> Result<u32> {
        if let Some(number) = self.nowhere {
            return Ok(number);
        }
        let nulls = exprs.part.schema.fields().iter();
        let nulls = nulls.map(|f| arrow::array::new_null_array(f.data_type(), 1)).collect();
        let number = ordinals.number(&exprs.evaluate(nulls, 1)?)?[0] as u32;
        Ok(*self.nowhere.insert(number))
    }
}

/// Chunk and index of an entity.
fn place(chunks: &[EntityColumns], id: u32) -> Option<(&EntityColumns, usize)> {
    let after = chunks.partition_point(|c| c.first() <= id);
    let chunk = &chunks[after.checked_sub(1)?];
    let at = (id - chunk.first()) as usize;
    (at < chunk.len()).then_some((chunk, at))
}

/// The first row of each distinct key, and for each row which of those it is like.
fn firsts(keys: &[u32]) -> (BooleanArray, Vec<u32>) {
    let mut seen: HashMap<u32, u32> = HashMap::new();
    let mut first = Vec::with_capacity(keys.len());
    let of = keys.iter().map(|&key| {
        let next = seen.len() as u32;
        let number = *seen.entry(key).or_insert(next);
        first.push(number == next);
        number
    });
    let of = of.collect();
    (BooleanArray::from(first), of)
}
