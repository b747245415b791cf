//! Reads what a partition of a scan was dealt, unit by unit.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{FieldRef, Int32Type, Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::{
    snapshot_generation, snapshot_physical_expr,
};
use datafusion::physical_optimizer::pruning::PruningPredicate;
use weir_pipeline::batch::Batch;

use super::column::{Level, from_file, from_hot};
use super::exec::{Shared, Unit};
use super::file::{FilePlan, Prepared, SliceReader, Stop};
use super::prune;
use crate::layout::Slice;
use crate::snapshot::HotRun;

/// Conditions that change while they are used, as a test of times.
struct Dynamic {
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    seen: u64,
    predicate: Option<Arc<PruningPredicate>>,
}

impl Dynamic {
    /// Whether rows of these times can matter still.
    fn may_match(&mut self, schema: &SchemaRef, times: Slice) -> bool {
        if self.exprs.is_empty() {
            return true;
        }
        let generation = self.exprs.iter().map(snapshot_generation).fold(0, u64::wrapping_add);
        if generation != self.seen {
            self.seen = generation;
            let now: Option<Vec<_>> =
                self.exprs.iter().map(|e| snapshot_physical_expr(e.clone()).ok()).collect();
            self.predicate = now.and_then(|exprs| prune::predicate(&exprs, schema));
        }
        let Some(predicate) = &self.predicate else { return true };
        // Where the test fails it says nothing.
        !predicate.prune(&prune::Times(&[times])).is_ok_and(|left| left == [false])
    }
}

/// Rows that passed every condition; columns of theirs are made when asked for.
pub(super) enum Rows {
    /// Of a hot run.
    Hot(Batch),
    /// Columns as the file has them.
    File(RecordBatch, Arc<Prepared>),
}

impl Rows {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Hot(batch) => batch.num_rows(),
            Self::File(batch, _) => batch.num_rows(),
        }
    }

    /// Those for which `mask` is true.
    pub(super) fn filter(&self, mask: &BooleanArray) -> Result<Self> {
        Ok(match self {
            Self::Hot(batch) => Self::Hot(batch.filter(mask)?),
            Self::File(batch, file) => Self::File(filter_record_batch(batch, mask)?, file.clone()),
        })
    }

    /// Those columns of the scan's output that `part` names, one value per row.
    pub(super) fn columns(&self, part: &Part) -> Result<RecordBatch> {
        let fields = part.schema.fields();
        let arrays = match self {
            Self::Hot(batch) => from_hot(batch, fields)?,
            Self::File(batch, file) => {
                from_file(batch, fields, &file.sources(part), file.chunks())?
            }
        };
        part.batch(arrays, self.len())
    }

    /// The one column of `part`, if the file has it as a dictionary and nowhere else.
    pub(super) fn dictionary(&self, part: &Part) -> Option<&ArrayRef> {
        let (Self::File(batch, file), [field]) = (self, &**part.schema.fields()) else {
            return None;
        };
        let [source] = &*file.sources(part) else { return None };
        let alone = source.level == Level::Row && !source.overflow;
        let column = batch.column_by_name(field.name()).filter(|_| alone)?;
        column.as_dictionary_opt::<Int32Type>().is_some().then_some(column)
    }
}

/// Some columns of the output of a scan.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) schema: SchemaRef,
    /// Their places in the output.
    pub(super) indexes: Vec<usize>,
}

impl Part {
    pub(super) fn new(output: &[FieldRef], indexes: Vec<usize>) -> Self {
        let fields: Vec<FieldRef> = indexes.iter().map(|&i| output[i].clone()).collect();
        Self { schema: Arc::new(Schema::new(fields)), indexes }
    }

    /// `arrays` as the columns of this part.
    pub(super) fn batch(&self, arrays: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)?)
    }
}

pub(super) enum Step {
    Rows(Rows),
    /// Nothing came of this step, but there is more to do.
    More,
    /// A slice is done with. `whole`: every row of it that is wanted was given.
    Slice {
        whole: bool,
    },
    End,
}

/// Reads the units of one partition in order.
pub(super) struct Reader {
    shared: Arc<Shared>,
    output: Vec<FieldRef>,
    units: std::vec::IntoIter<Unit>,
    slice: Option<(Reading, SliceReader)>,
    left: Option<usize>,
    dynamic: Dynamic,
    asked: Asked,
}

/// What a reader may be given in place of plain rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// Text columns that are as good as dictionaries, where files have them so.
    pub(super) dictionaries: Vec<String>,
    /// That only the last row of each entity counts, if these columns are the same for all of its
    /// rows.
    pub(super) lasts: Option<Vec<String>>,
    /// That slices may be wanted without regard to the bounds on time.
    pub(super) beyond: bool,
}

/// Which rows of a slice are wanted, of those that meet the other conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Those within the bounds on time.
    Within,
    /// All; only of readers that are [`Asked`] for rows beyond the bounds.
    All,
    /// Those within the bounds, but for this stretch of time (both ends inclusive).
    But((i64, i64)),
}

/// A slice of a file that is being read: done with when this is dropped.
struct Reading(Arc<FilePlan>);

impl std::ops::Deref for Reading {
    type Target = FilePlan;

    fn deref(&self) -> &FilePlan {
        &self.0
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.done();
    }
}

/// Slices that nobody will read are done with too: a limit was met, or the query was dropped.
impl Drop for Reader {
    fn drop(&mut self) {
        for unit in &mut self.units {
            if let Unit::Slice(file, _) = unit {
                file.done();
            }
        }
    }
}

impl Reader {
    /// Over `units`, of which the columns `output` are wanted.
    pub(super) fn new(
        shared: Arc<Shared>,
        output: Vec<FieldRef>,
        units: Vec<Unit>,
        limit: Option<usize>,
        dynamic: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Self {
        let dynamic = Dynamic { exprs: dynamic, seen: 0, predicate: None };
        let (units, asked) = (units.into_iter(), Asked::default());
        Self { shared, output, units, slice: None, left: limit, dynamic, asked }
    }

    /// Rows as they are `asked` for.
    pub(super) fn with(mut self, asked: Asked) -> Self {
        self.asked = asked;
        self
    }

    /// Does a bounded piece of work. If a slice is begun, it is what is `wanted` of it.
    pub(super) fn step(&mut self, wanted: Wanted) -> Result<Step> {
        if self.left == Some(0) {
            return Ok(Step::End);
        }
        if let Some((file, slice)) = &mut self.slice {
            match slice.next() {
                Ok(Some(batch)) => {
                    let rows = Rows::File(batch, slice.file().clone());
                    return Ok(self.give(rows));
                }
                Ok(None) => {
                    self.slice = None;
                    return Ok(Step::Slice { whole: true });
                }
                Err(Stop::Failed(e)) => return Err(e),
                Err(Stop::Unread(why)) => self.shared.unread(file, &why)?,
            }
            self.slice = None;
            return Ok(Step::Slice { whole: false });
        }
        let Some(unit) = self.units.next() else { return Ok(Step::End) };
        match unit {
            Unit::Hot(run) if self.dynamic.may_match(&self.shared.schema, Unit::hot(&run)) => {
                self.hot(&run)
            }
            Unit::Hot(_) => Ok(Step::More),
            Unit::Slice(file, i) => {
                let file = Reading(file);
                let times = file.entry.meta().slices[i];
                if !self.dynamic.may_match(&self.shared.schema, times) {
                    return Ok(Step::Slice { whole: false });
                }
                match self.open(&file, i, wanted) {
                    Ok(Some(slice)) => {
                        self.slice = Some((file, slice));
                        Ok(Step::More)
                    }
                    Ok(None) => Ok(Step::Slice { whole: true }),
                    Err(Stop::Failed(e)) => Err(e),
                    Err(Stop::Unread(why)) => {
                        self.shared.unread(&file, &why)?;
                        Ok(Step::Slice { whole: false })
                    }
                }
            }
        }
    }

    /// The slice that comes next, if it does and all of it is wanted.
    pub(super) fn ahead(&self) -> Option<(&Arc<FilePlan>, usize)> {
        match self.units.as_slice().first() {
            Some(Unit::Slice(file, i)) if self.slice.is_none() && self.left.is_none() => {
                Some((file, *i))
            }
            _ => None,
        }
    }

    /// Leaves out the slice that comes next: what it has is known.
    pub(super) fn pass(&mut self) {
        if let Some(Unit::Slice(file, _)) = self.units.next() {
            file.done();
        }
    }

    /// What it has in common with the other partitions.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn open(
        &self,
        file: &FilePlan,
        slice: usize,
        wanted: Wanted,
    ) -> std::result::Result<Option<SliceReader>, Stop> {
        let prepared: Option<Arc<Prepared>> =
            file.prepare(&self.shared, &self.output, &self.asked)?;
        match prepared {
            Some(prepared) => prepared.read(&file.entry, &self.shared, slice, wanted, self.left),
            None => Ok(None),
        }
    }

    fn hot(&mut self, run: &HotRun) -> Result<Step> {
        let batch = run.batch();
        self.shared.costs.hot_read(batch.num_rows() as u64);
        let mut batch = batch.clone();
        if !self.shared.filters.is_empty() {
            let filters = &self.shared.filters;
            let fields = Arc::new(self.shared.schema.project(&filters.columns())?);
            let rows = batch.num_rows();
            let arrays = from_hot(&batch, fields.fields())?;
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let columns = RecordBatch::try_new_with_options(fields.clone(), arrays, &options)?;
            let mask = filters.over(&fields)?.evaluate(&columns)?;
            if mask.true_count() < rows {
                batch = batch.filter(&mask)?;
            }
        }
        // Columns are made for the rows that are wanted.
        if let Some(left) = self.left.filter(|left| *left < batch.num_rows()) {
            let first = (0..batch.num_rows()).map(|row| Some(row < left));
            batch = batch.filter(&first.collect::<BooleanArray>())?;
        }
        Ok(self.give(Rows::Hot(batch)))
    }

    fn give(&mut self, mut rows: Rows) -> Step {
        if let Some(left) = &mut self.left {
            if let Rows::File(batch, _) = &mut rows {
                *batch = batch.slice(0, batch.num_rows().min(*left));
            }
            *left -= rows.len();
        }
        if rows.len() == 0 { Step::More } else { Step::Rows(rows) }
    }
}
