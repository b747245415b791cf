//! One file as a query reads it: prepared once, then read slice by slice.

use std::fs::File;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{FieldRef, Schema, SchemaRef, UInt32Type};
use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_expr::utils::collect_columns;
use parking_lot::Mutex;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder, RowFilter, RowSelection,
};
use weir_pipeline::signal::ATTRIBUTES;

use super::column::{Level, Source, from_file};
use super::conditions::{Conditions, Filters};
use super::exec::Shared;
use super::footer::{ColumnsExact, compressed, footer, with_dictionaries};
use super::keep::{Keep, entities, keep};
use super::read::{Asked, Part, Wanted};
use super::{prune, tokens};
use crate::entity_log::EntityColumns;
use crate::file::{ENTITY_COLUMN, FileEntry};
use crate::layout::Slice;

/// Rows that are decoded at a time.
pub(super) const BATCH_ROWS: usize = 8_192;

/// Files up to this size are compared with their checksums before a query first reads them, which
/// takes some milliseconds. Pages have none of their own: of a larger file a query reads what is
/// there, until maintenance has verified it.
const VERIFIED_BYTES_MAX: u64 = 32 << 20;

/// Columns that are read together, and where the file has them.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    pub(super) schema: SchemaRef,
    pub(super) sources: Vec<Source>,
}

impl Columns {
    pub(super) fn new(file: &FileEntry, fields: Vec<FieldRef>) -> Self {
        let sources = fields.iter().map(|f| Source::of(file, f.name())).collect();
        Self { schema: Arc::new(Schema::new(fields)), sources }
    }

    /// Names of those that entities have.
    pub(super) fn entity_names(&self) -> Vec<&str> {
        let both = self.schema.fields().iter().zip(&self.sources);
        both.filter(|(_, s)| s.level == Level::Entity).map(|(f, _)| f.name().as_str()).collect()
    }

    /// Names of the file's own columns that it takes to build these.
    fn stored(&self, with_entity: bool) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .schema
            .fields()
            .iter()
            .zip(&self.sources)
            .filter(|(_, s)| s.level == Level::Row)
            .map(|(f, _)| f.name().as_str())
            .collect();
        if self.sources.iter().any(|s| s.overflow) {
            names.push(ATTRIBUTES);
        }
        if with_entity && self.sources.iter().any(|s| s.level == Level::Entity) {
            names.push(ENTITY_COLUMN);
        }
        names
    }
}

/// Why a slice was not read to its end.
pub(super) enum Stop {
    /// The file could not be read: it is damaged, or the reader or the disk is at fault.
    Unread(String),
    /// The query itself fails on its data.
    Failed(DataFusionError),
}

type Outcome = std::result::Result<Option<Arc<Prepared>>, Arc<str>>;

/// A file that some slice of may be read.
#[derive(Debug)]
pub(super) struct FilePlan {
    pub(super) entry: Arc<FileEntry>,
    /// Slices that are dealt out, and those of them that are not done with.
    slices: usize,
    left: AtomicUsize,
    /// From the first slice to the last: it holds the entities of the file.
    prepared: Mutex<Option<Outcome>>,
}

/// What all slices of a file have in common.
#[derive(Debug)]
pub(super) struct Prepared {
    metadata: ArrowReaderMetadata,
    chunks: Arc<Vec<EntityColumns>>,
    output: Columns,
    /// Conditions on rows.
    rows: Option<Conditions>,
    /// Those of them that do not bound the time.
    timeless: Filters,
    /// The same over the columns of the file.
    rows_within: Option<Conditions>,
    /// Whether only the last row of each entity counts.
    lasts: bool,
    /// Rows to read of each slice, counted from its start; `None`: no row.
    selected: Vec<Option<Vec<Range<usize>>>>,
    _memory: Vec<Arc<MemoryReservation>>,
}

impl FilePlan {
    /// A plan to read `slices` slices of a file.
    pub(super) fn new(entry: Arc<FileEntry>, slices: usize) -> Self {
        Self { entry, slices, left: AtomicUsize::new(slices), prepared: Mutex::default() }
    }

    /// Opens the file and decides what to read; once, whoever comes first.
    ///
    /// # Errors
    /// As [`Stop`]; `Ok(None)` if no row of the file is wanted.
    pub(super) fn prepare(
        &self,
        shared: &Shared,
        output: &[FieldRef],
        asked: &Asked,
    ) -> std::result::Result<Option<Arc<Prepared>>, Stop> {
        let mut slot = self.prepared.lock();
        let outcome = match &*slot {
            Some(known) => known.clone(),
            None => {
                let work = AssertUnwindSafe(|| Prepared::new(&self.entry, shared, output, asked));
                let outcome = match catch_unwind(work) {
                    Ok(Ok(prepared)) => {
                        if prepared.is_some() {
                            shared.costs.file_read();
                        }
                        Ok(prepared.map(Arc::new))
                    }
                    Ok(Err(Stop::Unread(why))) => Err(why.into()),
                    Ok(Err(failed)) => return Err(failed),
                    Err(_) => Err("reading its footer or entities failed".into()),
                };
                slot.insert(outcome).clone()
            }
        };
        outcome.map_err(|why| Stop::Unread(why.to_string()))
    }

    /// One slice is done with. After the last, the file's entities are let go.
    pub(super) fn done(&self) {
        let next = |left| Some(if left <= 1 { self.slices } else { left - 1 });
        if self.left.fetch_update(Relaxed, Relaxed, next).is_ok_and(|left| left <= 1) {
            self.prepared.lock().take();
        }
    }
}

impl From<DataFusionError> for Stop {
    fn from(e: DataFusionError) -> Self {
        Self::Failed(e)
    }
}

pub(super) fn unread(e: impl std::fmt::Display) -> Stop {
    Stop::Unread(e.to_string())
}

impl Prepared {
    fn new(
        entry: &FileEntry,
        shared: &Shared,
        output: &[FieldRef],
        asked: &Asked,
    ) -> std::result::Result<Option<Self>, Stop> {
        let files = entry.entities().map(|set| set.files()).unwrap_or_default();
        let (by_entity, by_row) = shared.filters.partition(|filter| {
            collect_columns(filter).iter().all(|c| Source::of(entry, c.name()).by_entity())
        });
        let keep = keep(entry, shared, &by_entity, &files);
        if let Some(set) = entry.entities() {
            shared.name_lost(set);
        }
        let keep = keep?;
        if let Keep::Nothing = keep {
            return Ok(None);
        }
        if entry.meta().bytes <= VERIFIED_BYTES_MAX {
            entry.verify().map_err(unread)?;
        }
        let metadata = footer(entry, shared)?;
        if metadata.metadata().num_row_groups() != entry.meta().slices.len() {
            return Err(unread("its footer has another number of row groups than the manifest"));
        }
        let (_, timeless) = by_row.partition(|filter| prune::time_bound(filter).is_some());
        let by_entity = |name: &String| Source::of(entry, name).by_entity();
        let lasts = asked.lasts.as_ref().is_some_and(|names| names.iter().all(by_entity));
        let lasts = lasts && timeless.is_empty();
        let times = if asked.beyond { (i64::MIN, i64::MAX) } else { shared.range };
        let mut selected = select(entry, shared, &keep, times, lasts, &metadata)?;
        tokens::narrow(entry, shared, &mut selected);
        if selected.iter().all(Option::is_none) {
            return Ok(None);
        }
        let metadata = with_dictionaries(entry, metadata, &asked.dictionaries)?;
        let conditions = |filters: &Filters| match filters.is_empty() {
            true => Ok(None),
            false => Conditions::new(entry, &shared.schema, filters).map(Some),
        };
        let output = Columns::new(entry, output.to_vec());
        let (rows, rows_within) = (conditions(&by_row)?, conditions(&timeless)?);
        let mut names = output.entity_names();
        names.extend(rows.iter().flat_map(|r| r.columns.entity_names()));
        names.sort_unstable();
        names.dedup();
        let mut chunks = Vec::with_capacity(files.len());
        if !names.is_empty() {
            for file in &files {
                chunks.extend(entities(entry, file, names.clone())?);
            }
        }
        if let Some(set) = entry.entities() {
            shared.name_lost(set);
        }
        let memory = shared.ledger.hold(&chunks)?;
        Ok(Some(Self {
            metadata,
            chunks: Arc::new(chunks),
            output,
            rows,
            timeless,
            rows_within,
            lasts,
            selected,
            _memory: memory,
        }))
    }

    /// Where the file has the columns of `part` of the answer.
    pub(super) fn sources(&self, part: &Part) -> Vec<Source> {
        part.indexes.iter().map(|&i| self.output.sources[i].clone()).collect()
    }

    /// The entities of its rows.
    pub(super) fn chunks(&self) -> &[EntityColumns] {
        &self.chunks
    }

    /// Starts to read slice `slice`; `None` if no row of it is wanted.
    pub(super) fn read(
        self: &Arc<Self>,
        entry: &FileEntry,
        shared: &Shared,
        slice: usize,
        wanted: Wanted,
        limit: Option<usize>,
    ) -> std::result::Result<Option<SliceReader>, Stop> {
        let Some(ranges) = &self.selected[slice] else { return Ok(None) };
        let times = entry.meta().slices[slice];
        let total = times.rows as usize;
        let rows: usize = ranges.iter().map(Range::len).sum();
        let projection = ProjectionMask::columns_exact(&self.metadata, &self.output.stored(true));
        let file = File::open(entry.path()).map_err(unread)?;
        let mut builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                .with_row_groups(vec![slice])
                .with_batch_size(BATCH_ROWS)
                .with_projection(projection.clone());
        if rows < total {
            let ranges = ranges.iter().cloned();
            builder =
                builder.with_row_selection(RowSelection::from_consecutive_ranges(ranges, total));
        }
        if let Some(limit) = limit {
            builder = builder.with_limit(limit);
        }
        let failed: Arc<Mutex<Option<DataFusionError>>> = Arc::default();
        let mut bytes = compressed(&self.metadata, &projection, slice);
        if let Some(conditions) = self.conditions(entry, shared, times, wanted)? {
            let lasts = self.lasts && !self.chunks.is_empty();
            let mut stored = conditions.columns.stored(true);
            stored.extend(lasts.then_some(ENTITY_COLUMN));
            let mask = ProjectionMask::columns_exact(&self.metadata, &stored);
            bytes += compressed(&self.metadata, &mask, slice);
            let chunks = self.chunks.clone();
            let failed = failed.clone();
            let predicate = ArrowPredicateFn::new(mask, move |batch: RecordBatch| {
                let columns = &conditions.columns;
                let outcome = from_file(&batch, columns.schema.fields(), &columns.sources, &chunks)
                    .map_err(DataFusionError::from)
                    .and_then(|arrays| conditions.evaluate(arrays, batch.num_rows()))
                    .map(|met| if lasts { last_of_each(&met, &batch) } else { met });
                outcome.map_err(|e| {
                    *failed.lock() = Some(e);
                    ArrowError::ComputeError("condition failed".into())
                })
            });
            builder = builder.with_row_filter(RowFilter::new(vec![Box::new(predicate)]));
        }
        let reader = catch_unwind(AssertUnwindSafe(|| builder.build()));
        let reader = match reader {
            Ok(Ok(reader)) => reader,
            Ok(Err(e)) => return Err(stop(&failed, e)),
            Err(_) => return Err(unread("decoding it failed")),
        };
        shared.costs.slice_read(rows as u64, bytes);
        Ok(Some(SliceReader { prepared: self.clone(), reader, failed }))
    }

    /// What the rows of a slice of these times must meet.
    fn conditions(
        &self,
        entry: &FileEntry,
        shared: &Shared,
        times: Slice,
        wanted: Wanted,
    ) -> Result<Option<Conditions>> {
        let within = shared.range.0 <= times.min_time && times.max_time <= shared.range.1;
        match wanted {
            Wanted::Within if !within => Ok(self.rows.clone()),
            Wanted::Within | Wanted::All => Ok(self.rows_within.clone()),
            Wanted::But(stretch) => {
                let rest = prune::outside(shared.range, stretch, &shared.schema)?;
                Conditions::new(entry, &shared.schema, &self.timeless.and(rest)).map(Some)
            }
        }
    }
}

/// Of the rows that `met` the conditions those behind which none of the same entity did.
fn last_of_each(met: &BooleanArray, batch: &RecordBatch) -> BooleanArray {
    let Some(ids) = batch.column_by_name(ENTITY_COLUMN) else { return met.clone() };
    let (ids, met) = (ids.as_primitive::<UInt32Type>().values(), met.values());
    let followed = |i: usize| i + 1 < ids.len() && met.value(i + 1) && ids[i + 1] == ids[i];
    let last = BooleanBuffer::collect_bool(ids.len(), |i| met.value(i) && !followed(i));
    BooleanArray::new(last, None)
}

fn stop(failed: &Mutex<Option<DataFusionError>>, e: impl std::fmt::Display) -> Stop {
    match failed.lock().take() {
        Some(e) => Stop::Failed(e),
        None => unread(e),
    }
}

/// A slice that is being read.
pub(super) struct SliceReader {
    prepared: Arc<Prepared>,
    reader: ParquetRecordBatchReader,
    failed: Arc<Mutex<Option<DataFusionError>>>,
}

impl SliceReader {
    /// The next rows that pass, in the columns of the file; `None` at the end.
    pub(super) fn next(&mut self) -> std::result::Result<Option<RecordBatch>, Stop> {
        match catch_unwind(AssertUnwindSafe(|| self.reader.next())) {
            Ok(None) => Ok(None),
            Ok(Some(Ok(batch))) => Ok(Some(batch)),
            Ok(Some(Err(e))) => Err(stop(&self.failed, e)),
            Err(_) => Err(unread("decoding it failed")),
        }
    }

    /// The file that it is of.
    pub(super) fn file(&self) -> &Arc<Prepared> {
        &self.prepared
    }
}

/// The rows of each slice that entities, `times` (both ends inclusive) and statistics leave. `lasts`:
/// of each run the last row that is within the bounds on time, which may be among others.
fn select(
    entry: &FileEntry,
    shared: &Shared,
    keep: &Keep,
    (low, high): (i64, i64),
    lasts: bool,
    metadata: &ArrowReaderMetadata,
) -> std::result::Result<Vec<Option<Vec<Range<usize>>>>, Stop> {
    let slices = &entry.meta().slices;
    let mut wanted: Vec<bool> =
        slices.iter().map(|s| s.rows > 0 && s.max_time >= low && s.min_time <= high).collect();
    if let Some(predicate) = &shared.predicate {
        let file_schema = entry.arrow_schema();
        let statistics = prune::Slices {
            file: entry,
            footer: metadata.metadata(),
            file_schema: &file_schema,
            table_schema: &shared.schema,
            footers: &shared.footers,
        };
        if let Ok(left) = predicate.prune(&statistics) {
            wanted.iter_mut().zip(left).for_each(|(w, l)| *w &= l);
        }
    }
    let whole = |i: usize| 0..slices[i].rows as usize;
    let runs = match keep {
        Keep::Nothing => return Ok(vec![None; slices.len()]),
        Keep::Some(_) => entry.runs().map_err(unread)?,
        Keep::All if lasts => entry.runs().map_err(unread)?,
        // Reading the runs pays only where they cut something.
        Keep::All if low > entry.meta().min_time || high < entry.meta().max_time => {
            entry.runs().map_err(unread)?
        }
        Keep::All => None,
    };
    let Some(runs) = runs else {
        return Ok((0..slices.len()).map(|i| wanted[i].then(|| vec![whole(i)])).collect());
    };
    let mut selected: Vec<Option<Vec<Range<usize>>>> = vec![None; slices.len()];
    let (mut slice, mut start) = (0, 0_u64);
    for run in runs.iter() {
        while slice < slices.len() && run.first >= start + u64::from(slices[slice].rows) {
            start += u64::from(slices[slice].rows);
            slice += 1;
        }
        let Some(wanted) = wanted.get(slice) else { break };
        if !wanted || run.max_time < low || run.min_time > high || !keep.has(run.entity) {
            continue;
        }
        let first = (run.first - start) as usize;
        let end = first + run.rows as usize;
        // Rows of a run are in order of time.
        let range = if lasts && run.max_time <= shared.range.1 { end - 1..end } else { first..end };
        let ranges = selected[slice].get_or_insert_default();
        match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    Ok(selected)
}
