//! The leaf of the plan: which slices and hot runs each partition reads, and in what order.

use std::fmt;
use std::sync::Arc;
use std::task::Poll;

use arrow::datatypes::{FieldRef, SchemaRef};
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
use datafusion::physical_optimizer::pruning::PruningPredicate;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

use super::column::Source;
use super::conditions::Filters;
use super::file::FilePlan;
use super::memory::Ledger;
use super::prune;
use super::read::{Part, Reader, Step, Wanted};
use super::tokens::Need;
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
    /// Tokens that the filters ask for.
    pub(super) need: Option<Need>,
    pub(super) costs: Arc<Costs>,
    pub(super) footers: Arc<Cache>,
    pub(super) masks: Arc<Cache>,
    pub(super) answers: Arc<Cache>,
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
        let Caches { footers, masks, answers } = caches.clone();
        let all: Vec<_> = filters.iter().cloned().collect();
        let predicate = prune::predicate(&all, &schema);
        let range = prune::time_range(&all);
        let need = Need::of(filters.iter());
        let ledger = Ledger::new(pool);
        Self {
            snapshot,
            schema,
            filters,
            predicate,
            range,
            need,
            costs,
            footers,
            masks,
            answers,
            ledger,
        }
    }

    /// A file could not be read. One that is damaged is left out and named; if it is whole, the
    /// query fails: its rows must not be missing from the answer.
    pub(super) fn unread(&self, file: &FilePlan, why: &str) -> Result<()> {
        let table = self.snapshot.table();
        let judged = table.report_damage(&file.entry, why);
        judged.map_err(|e| DataFusionError::Execution(e.to_string()))?;
        self.costs.warn(format!("a file of `{}` is damaged and was left out: {why}", table.name()));
        Ok(())
    }

    /// Names the chunks of `set` that could not be read.
    pub(super) fn name_lost(&self, set: &EntitySet) {
        let table = self.snapshot.table();
        for chunk in set.lost() {
            table.note_damage(&chunk.meta.file, "entities are lost: their columns read as NULL");
            self.costs.warn(format!(
                "entities of `{}` are damaged: columns of theirs read as NULL",
                table.name()
            ));
        }
    }
}

/// What is read at a time.
#[derive(Clone, Debug)]
pub(super) enum Unit {
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

    pub(super) fn hot(run: &HotRun) -> Slice {
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

    /// Reads what `partition` was dealt.
    pub(super) fn reader(&self, partition: usize) -> Result<Reader> {
        let Some(units) = self.partitions.get(partition) else {
            return internal_err!("a scan has no partition {partition}");
        };
        let (shared, dynamic) = (self.shared.clone(), self.dynamic.clone());
        Ok(Reader::new(shared, self.output(), units.clone(), self.limit, dynamic))
    }

    pub(super) fn output(&self) -> Vec<FieldRef> {
        self.projection.iter().map(|&i| self.shared.schema.fields()[i].clone()).collect()
    }

    /// Whether most files that are read have one value per entity of all columns `names`.
    pub(super) fn mostly_by_entity<'a>(
        &self,
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> bool {
        let (mut yes, mut no) = (0_usize, 0_usize);
        for file in self.shared.snapshot.files() {
            let mut sources = names.clone().map(|name| Source::of(file, name));
            let by_entity = sources.all(|s| s.by_entity());
            *if by_entity { &mut yes } else { &mut no } += 1;
        }
        yes > no
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
        if let Some(need) = &self.shared.need {
            write!(f, ", tokens=[{need}]")?;
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
        let mut reader = self.reader(partition)?;
        let all = Part::new(&self.output(), (0..self.projection.len()).collect());
        let stream = futures::stream::poll_fn(move |context| {
            // One step of bounded work per poll: whoever waits can stop in between.
            match reader.step(Wanted::Within) {
                Ok(Step::Rows(rows)) => Poll::Ready(Some(rows.columns(&all))),
                Ok(Step::More | Step::Slice { .. }) => {
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
