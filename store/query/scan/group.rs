//! A scan that groups its rows as it reads them: the partial step of an aggregation.
//!
//! Rows of one entity lie together and have the same labels, so expressions over labels are
//! evaluated once per entity, and a row's group follows from the number of its entity's label
//! tuple and its time. Columns of labels are never made for rows. Aggregates are DataFusion's own.

mod exprs;
mod keys;
mod known;
mod labels;
mod rule;
mod stream;
mod times;
mod tuples;

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::aggregates::{AggregateMode, aggregate_expressions};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

pub(in crate::query) use self::rule::GroupWhileScanning;

use self::exprs::Exprs;
use self::times::Times;
use super::TIMESTAMP;
use super::exec::ScanExec;
use super::read::Asked;

/// One column of a group, by what it is told apart.
#[derive(Clone, Copy, Debug)]
enum Axis {
    /// One of the expressions over labels.
    Label(usize),
    /// One of the expressions over rows.
    Row(usize),
    /// The time of the row, or the bin that it falls into.
    Time,
}

/// What is grouped and aggregated.
#[derive(Debug)]
struct Grouping {
    axes: Vec<Axis>,
    labels: Exprs,
    rows: Exprs,
    time: Option<Times>,
    /// Arguments of all aggregates, one after the other.
    arguments: Exprs,
    /// How many arguments each aggregate has.
    counts: Vec<usize>,
    /// The conditions of aggregates that have one.
    filters: Exprs,
    filtered: Vec<bool>,
    aggregates: Vec<Arc<AggregateFunctionExpr>>,
    /// As the query names the groups.
    names: Vec<String>,
}

impl Grouping {
    /// All expressions that it evaluates.
    fn exprs(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        let parts = [&self.labels, &self.rows, &self.arguments, &self.filters];
        let time = self.time.iter().map(|t| &t.exprs);
        parts.into_iter().chain(time).flat_map(Exprs::iter)
    }
}

impl Grouping {
    /// The columns of labels, if besides them only the last row of each entity counts: all
    /// aggregates are `last_value(... ORDER BY timestamp)`.
    fn lasts(&self) -> Option<Vec<String>> {
        let apart = self.rows.iter().next().is_some() || self.time.is_some();
        if apart || self.aggregates.is_empty() || self.filtered.contains(&true) {
            return None;
        }
        let mut arguments = self.arguments.iter();
        for (aggregate, &count) in self.aggregates.iter().zip(&self.counts) {
            let own: Vec<_> = arguments.by_ref().take(count).collect();
            let ([_, by], [order]) = (own.as_slice(), aggregate.order_bys()) else { return None };
            let by_time = by.downcast_ref::<Column>().is_some_and(|c| c.name() == TIMESTAMP);
            let plain = !aggregate.ignore_nulls() && !aggregate.is_distinct();
            let last = aggregate.fun().name() == "last_value" && !order.options.descending;
            if !(by_time && plain && last) {
                return None;
            }
        }
        Some(self.labels.part.schema.fields().iter().map(|f| f.name().clone()).collect())
    }

    /// Which column of the partial step has the time of a group.
    fn time_column(&self) -> Option<usize> {
        let axis = self.axes.iter().position(|a| matches!(a, Axis::Time));
        // Of a last row: the state has its value, then what it is ordered by.
        axis.or_else(|| self.lasts().map(|_| self.axes.len() + 1))
    }
}

/// The leaf execution plan.
#[derive(Debug)]
pub(super) struct GroupExec {
    scan: Arc<ScanExec>,
    grouping: Arc<Grouping>,
    properties: Arc<PlanProperties>,
}

impl GroupExec {
    /// Groups the rows of `scan` by `groups`, which are over its output. `schema` is that of the
    /// partial step: the groups, then the states of `aggregates`.
    ///
    /// `Ok(None)`: grouping while scanning gains nothing here.
    fn try_new(
        scan: Arc<ScanExec>,
        groups: &[(Arc<dyn PhysicalExpr>, String)],
        aggregates: Vec<Arc<AggregateFunctionExpr>>,
        arguments: &[Vec<Arc<dyn PhysicalExpr>>],
        filters: &[Option<Arc<dyn PhysicalExpr>>],
        schema: SchemaRef,
    ) -> Result<Option<Self>> {
        let output = scan.output();
        let (mut labels, mut rows, mut time) = (Vec::new(), Vec::new(), None);
        let mut axes = Vec::with_capacity(groups.len());
        for (expr, _) in groups {
            axes.push(if time.is_none() && is_time(expr, &scan.schema())? {
                time = Some(expr.clone());
                Axis::Time
            } else if is_label(expr, &scan)? {
                labels.push(expr.clone());
                Axis::Label(labels.len() - 1)
            } else {
                rows.push(expr.clone());
                Axis::Row(rows.len() - 1)
            });
        }
        if labels.is_empty() && time.is_none() {
            return Ok(None);
        }
        let given: Vec<_> = filters.iter().flatten().cloned().collect();
        let grouping = Grouping {
            axes,
            labels: Exprs::new(&output, &labels)?,
            rows: Exprs::new(&output, &rows)?,
            time: match time {
                Some(e) => Some(Times::new(&e, Exprs::new(&output, std::slice::from_ref(&e))?)),
                None => None,
            },
            arguments: Exprs::new(&output, &arguments.concat())?,
            counts: arguments.iter().map(Vec::len).collect(),
            filters: Exprs::new(&output, &given)?,
            filtered: filters.iter().map(Option::is_some).collect(),
            aggregates,
            names: groups.iter().map(|(_, name)| name.clone()).collect(),
        };
        let partitions = scan.properties().output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        let (grouping, properties) = (Arc::new(grouping), Arc::new(properties));
        Ok(Some(Self { scan, grouping, properties }))
    }
}

/// Whether `expr` is a time made of the row's time alone.
fn is_time(expr: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Result<bool> {
    let columns = collect_columns(expr);
    let alone = columns.len() == 1 && columns.iter().all(|c| c.name() == TIMESTAMP);
    let kind = expr.data_type(schema)?;
    Ok(alone && matches!(kind, DataType::Timestamp(TimeUnit::Nanosecond, _)))
}

/// Whether `expr` gives the same for all rows of an entity, in most files that are read.
fn is_label(expr: &Arc<dyn PhysicalExpr>, scan: &ScanExec) -> Result<bool> {
    let columns = collect_columns(expr);
    let mut changes = false;
    expr.apply(|e| {
        changes |= e.is_volatile_node();
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(!changes && !columns.is_empty() && scan.mostly_by_entity(columns.iter().map(|c| c.name())))
}

impl DisplayAs for GroupExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Grouping { axes, names, aggregates, .. } = &*self.grouping;
        let of = |wanted: fn(&Axis) -> bool| {
            let names = axes.iter().zip(names).filter(|(a, _)| wanted(a)).map(|(_, n)| n.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let aggregates: Vec<&str> = aggregates.iter().map(|a| a.name()).collect();
        write!(
            f,
            "GroupExec: by_entity=[{}], by_time=[{}], by_row=[{}], aggr=[{}], ",
            of(|a| matches!(a, Axis::Label(_))),
            of(|a| matches!(a, Axis::Time)),
            of(|a| matches!(a, Axis::Row(_))),
            aggregates.join(", "),
        )?;
        self.scan.fmt_as(t, f)
    }
}

impl ExecutionPlan for GroupExec {
    fn name(&self) -> &str {
        "GroupExec"
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
        self.scan.apply_expressions(f)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("a scan has no children") }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let dictionaries = tuples::dictionaries(&self.grouping.rows);
        let bins = self.grouping.time.as_ref().is_some_and(Times::has_bins);
        let lasts = self.grouping.lasts();
        let asked = Asked { dictionaries, beyond: bins || lasts.is_some(), lasts };
        let reader = self.scan.reader(partition)?.with(asked);
        stream::stream(reader, self.grouping.clone(), self.schema(), context.memory_pool())
    }
}

/// The arguments of each aggregate as the partial step evaluates them.
fn arguments(aggregates: &[Arc<AggregateFunctionExpr>]) -> Result<Vec<Vec<Arc<dyn PhysicalExpr>>>> {
    aggregate_expressions(aggregates, &AggregateMode::Partial, 0)
}
