//! The leaf of the plan: which slices and hot runs each partition reads, and in what order.

use std::fmt;
use std::sync::Arc;
use std::task::Poll;

use arrow::array::{BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{
    ColumnStatistics, DataFusionError, Result, ScalarValue, Statistics, internal_err,
};
use datafusion::config::ConfigOptions;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::utils::reassign_expr_columns;
use datafusion::physical_expr::{
    DynamicFilterTracking, EquivalenceProperties, Partitioning, PhysicalExpr,
};
use datafusion::physical_expr_common::physical_expr::{
    snapshot_generation, snapshot_physical_expr,
};
use datafusion::physical_optimizer::pruning::PruningPredicate;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

use super::column::from_hot;
use super::conditions::Filters;
use super::file::{FilePlan, Prepared, SliceReader, Stop};
use super::memory::Ledger;
use super::prune;
use super::{Caches, TIMESTAMP};
use crate::cache::Cache;
use crate::entity_log::EntitySet;
use crate::layout::Slice;
use crate::query::cost::Costs;
use crate::snapshot::{HotRun, TableSnapshot};

/// What all partitions of a scan have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) snapshot: Arc<TableSnapshot>,
    /// Every column that the query can name.
    pub(super) schema: SchemaRef,
    /// Over `schema`.
    pub(super) filters: Filters,
    pub(super) predicate: Option<Arc<PruningPredicate>>,
    /// Earliest and latest `timestamp` that the filters leave.
    pub(super) range: (i64, i64),
    pub(super) costs: Arc<Costs>,
    pub(super) footers: Arc<Cache>,
    pub(super) masks: Arc<Cache>,
    pub(super) ledger: Ledger,
}

impl Shared {
    pub(super) fn new(
        snapshot: Arc<TableSnapshot>,
        schema: SchemaRef,
        filters: Filters,
        costs: Arc<Costs>,
        caches: &Caches,
        pool: Arc<dyn MemoryPool>,
    ) -> Self {
        let Caches { footers, masks } = caches.clone();
        let all: Vec<_> = filters.iter().cloned().collect();
        let predicate = prune::predicate(&all, &schema);
        let range = prune::time_range(&all);
        let ledger = Ledger::new(pool);
        Self { snapshot, schema, filters, predicate, range, costs, footers, masks, ledger }
    }

    /// A file could not be read. One that is damaged is left out and named; if it is whole, the
    /// query fails: its rows must not be missing from the answer.
    fn unread(&self, file: &FilePlan, why: &str) -> Result<()> {
        let table = self.snapshot.table();
        let judged = table.report_damage(&file.entry, why);
        judged.map_err(|e| DataFusionError::Execution(e.to_string()))?;
        self.costs.warn(format!("a file of `{}` is damaged and was left out: {why}", table.name()));
        Ok(())
    }

    /// Names the chunks of `set` that cannot be read; whether there are any.
    pub(super) fn name_lost(&self, set: &EntitySet) -> bool {
        let table = self.snapshot.table();
        let lost = set.lost();
        for chunk in &lost {
            table.note_damage(&chunk.meta.file, "entities are lost: their columns read as NULL");
            self.costs.warn(format!(
                "entities of `{}` are damaged: columns of theirs read as NULL",
                table.name()
            ));
        }
        !lost.is_empty()
    }
}

/// What is read at a time.
#[derive(Clone, Debug)]
enum Unit {
    Hot(Arc<HotRun>),
    Slice(Arc<FilePlan>, usize),
}

impl Unit {
    fn times(&self) -> Slice {
        match self {
            Self::Hot(run) => Self::hot(run),
            Self::Slice(file, i) => file.entry.meta().slices[*i],
        }
    }

    fn hot(run: &HotRun) -> Slice {
        Slice {
            rows: u32::try_from(run.batch().num_rows()).unwrap_or(u32::MAX),
            min_time: run.min_time(),
            max_time: run.max_time(),
        }
    }
}

/// The leaf execution plan.
#[derive(Clone, Debug)]
pub(super) struct ScanExec {
    shared: Arc<Shared>,
    projection: Arc<[usize]>,
    limit: Option<usize>,
    /// Conditions that grow narrower while the query runs, over `Shared::schema`. They only
    /// leave out slices; whoever made them filters the rows.
    dynamic: Vec<Arc<dyn PhysicalExpr>>,
    partitions: Arc<[Vec<Unit>]>,
    properties: Arc<PlanProperties>,
}

impl ScanExec {
    pub(super) fn try_new(
        shared: Arc<Shared>,
        projection: Vec<usize>,
        limit: Option<usize>,
        partitions: usize,
    ) -> Result<Self> {
        let schema = Arc::new(shared.schema.project(&projection)?);
        let units = deal(&shared, partitions);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(units.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            shared,
            projection: projection.into(),
            limit,
            dynamic: Vec::new(),
            partitions: units.into(),
            properties: Arc::new(properties),
        })
    }

    fn output(&self) -> Vec<FieldRef> {
        self.projection.iter().map(|&i| self.shared.schema.fields()[i].clone()).collect()
    }

    fn rows(&self, partition: Option<usize>) -> usize {
        let rows =
            |units: &Vec<Unit>| -> usize { units.iter().map(|u| u.times().rows as usize).sum() };
        match partition {
            Some(i) => self.partitions.get(i).map_or(0, rows),
            None => self.partitions.iter().map(rows).sum(),
        }
    }
}

/// Deals slices and hot runs to partitions: each gets a like number of rows, newest first.
fn deal(shared: &Shared, partitions: usize) -> Vec<Vec<Unit>> {
    let (low, high) = shared.range;
    let within = |min: i64, max: i64| max >= low && min <= high;
    let mut units: Vec<Unit> = shared
        .snapshot
        .hot()
        .iter()
        .filter(|h| h.batch().num_rows() > 0 && within(h.min_time(), h.max_time()))
        .map(|h| Unit::Hot(h.clone()))
        .collect();
    let mut slices = Vec::new();
    for file in shared.snapshot.files() {
        let meta = file.meta();
        if !within(meta.min_time, meta.max_time) {
            continue;
        }
        let wanted = |s: &Slice| s.rows > 0 && within(s.min_time, s.max_time);
        let found = meta.slices.iter().enumerate().filter(|(_, s)| wanted(s)).map(|(i, _)| i);
        let found: Vec<usize> = found.collect();
        let plan = Arc::new(FilePlan::new(file.clone(), found.len()));
        slices.extend(found.into_iter().map(|i| Unit::Slice(plan.clone(), i)));
    }
    units.sort_by_key(|u| std::cmp::Reverse(u.times().max_time));
    slices.sort_by_key(|u| std::cmp::Reverse(u.times().max_time));
    units.extend(slices);
    let count = partitions.min(units.len()).max(1);
    let mut dealt = vec![(0_u64, Vec::new()); count];
    for unit in units {
        let rows = u64::from(unit.times().rows);
        if let Some(least) = dealt.iter_mut().min_by_key(|(rows, _)| *rows) {
            least.0 += rows;
            least.1.push(unit);
        }
    }
    dealt.into_iter().map(|(_, units)| units).collect()
}

impl DisplayAs for ScanExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.output().iter().map(|f| f.name().clone()).collect();
        let slices = self.partitions.iter().flatten().filter(|u| matches!(u, Unit::Slice(..)));
        write!(
            f,
            "ScanExec: table={}, columns=[{}], slices={}, hot={}",
            self.shared.snapshot.table().name(),
            names.join(", "),
            slices.count(),
            self.partitions.iter().flatten().filter(|u| matches!(u, Unit::Hot(_))).count(),
        )?;
        if !self.shared.filters.is_empty() {
            let filters: Vec<String> = self.shared.filters.iter().map(|e| e.to_string()).collect();
            write!(f, ", filters=[{}]", filters.join(" AND "))?;
        }
        if !self.dynamic.is_empty() {
            let dynamic: Vec<String> = self.dynamic.iter().map(|e| e.to_string()).collect();
            write!(f, ", dynamic=[{}]", dynamic.join(" AND "))?;
        }
        match self.limit {
            Some(limit) => write!(f, ", limit={limit}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for ScanExec {
    fn name(&self) -> &str {
        "ScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for expr in self.shared.filters.iter().chain(&self.dynamic) {
            if f(expr)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("a scan has no children") }
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(Self { limit, ..self.clone() }))
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }

    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        pushed: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let mut dynamic = self.dynamic.clone();
        for parent in &pushed.parent_filters {
            let changes = DynamicFilterTracking::classify(&parent.filter).contains_dynamic_filter();
            let expr = || reassign_expr_columns(parent.filter.clone(), &self.shared.schema).ok();
            dynamic.extend(changes.then(expr).flatten());
        }
        // Their owners go on filtering: here they only leave out slices.
        let kept = vec![PushedDown::No; pushed.parent_filters.len()];
        let result = FilterPushdownPropagation::with_parent_pushdown_result(kept);
        if dynamic.len() == self.dynamic.len() {
            return Ok(result);
        }
        Ok(result.with_updated_node(Arc::new(Self { dynamic, ..self.clone() })))
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema());
        let rows = self.rows(partition);
        if !self.shared.filters.is_empty() || self.limit.is_some() {
            let rows = self.limit.map_or(rows, |l| rows.min(l));
            statistics.num_rows = Precision::Inexact(rows);
            return Ok(Arc::new(statistics));
        }
        statistics.num_rows = Precision::Exact(rows);
        let units = match partition {
            Some(i) => self.partitions.get(i).into_iter().flatten().collect::<Vec<_>>(),
            None => self.partitions.iter().flatten().collect(),
        };
        let time = |t: Option<i64>| {
            t.map_or(Precision::Absent, |t| {
                Precision::Exact(ScalarValue::TimestampNanosecond(Some(t), Some("UTC".into())))
            })
        };
        for (field, column) in self.output().iter().zip(&mut statistics.column_statistics) {
            if field.name() == TIMESTAMP && rows > 0 {
                *column = ColumnStatistics {
                    null_count: Precision::Exact(0),
                    min_value: time(units.iter().map(|u| u.times().min_time).min()),
                    max_value: time(units.iter().map(|u| u.times().max_time).max()),
                    ..ColumnStatistics::new_unknown()
                };
            }
        }
        Ok(Arc::new(statistics))
    }

    fn execute(
        &self,
        partition: usize,
        _context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let Some(units) = self.partitions.get(partition) else {
            return internal_err!("a scan has no partition {partition}");
        };
        let output = self.output();
        let mut reader = Reader {
            shared: self.shared.clone(),
            schema: Arc::new(Schema::new(output.clone())),
            output,
            units: units.clone().into_iter(),
            slice: None,
            left: self.limit,
            dynamic: Dynamic { exprs: self.dynamic.clone(), seen: 0, predicate: None },
        };
        let stream = futures::stream::poll_fn(move |context| {
            // One step of bounded work per poll: whoever waits can stop in between.
            match reader.step() {
                Ok(Step::Rows(batch)) => Poll::Ready(Some(Ok(batch))),
                Ok(Step::More) => {
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                Ok(Step::End) => Poll::Ready(None),
                Err(e) => Poll::Ready(Some(Err(e))),
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }
}

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

enum Step {
    Rows(RecordBatch),
    /// Nothing came of this step, but there is more to do.
    More,
    End,
}

/// Reads the units of one partition in order.
struct Reader {
    shared: Arc<Shared>,
    schema: SchemaRef,
    output: Vec<FieldRef>,
    units: std::vec::IntoIter<Unit>,
    slice: Option<(Reading, SliceReader)>,
    left: Option<usize>,
    dynamic: Dynamic,
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
    fn step(&mut self) -> Result<Step> {
        if self.left == Some(0) {
            return Ok(Step::End);
        }
        if let Some((file, slice)) = &mut self.slice {
            match slice.next() {
                Ok(Some(batch)) => return Ok(self.give(batch)),
                Ok(None) => {}
                Err(Stop::Failed(e)) => return Err(e),
                Err(Stop::Unread(why)) => self.shared.unread(file, &why)?,
            }
            self.slice = None;
            return Ok(Step::More);
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
                if self.dynamic.may_match(&self.shared.schema, times) {
                    match self.open(&file, i) {
                        Ok(slice) => self.slice = slice.map(|s| (file, s)),
                        Err(Stop::Failed(e)) => return Err(e),
                        Err(Stop::Unread(why)) => self.shared.unread(&file, &why)?,
                    }
                }
                Ok(Step::More)
            }
        }
    }

    fn open(
        &self,
        file: &FilePlan,
        slice: usize,
    ) -> std::result::Result<Option<SliceReader>, Stop> {
        let prepared: Option<Arc<Prepared>> = file.prepare(&self.shared, &self.output)?;
        match prepared {
            Some(prepared) => prepared.read(&file.entry, &self.shared, slice, self.left),
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
        let arrays = from_hot(&batch, self.schema.fields())?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let rows = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)?;
        Ok(self.give(rows))
    }

    fn give(&mut self, mut batch: RecordBatch) -> Step {
        if let Some(left) = &mut self.left {
            batch = batch.slice(0, batch.num_rows().min(*left));
            *left -= batch.num_rows();
        }
        if batch.num_rows() == 0 { Step::More } else { Step::Rows(batch) }
    }
}
