//! Makes a plan stop when it is told to, within a batch of work.
//!
//! A task that is cancelled ends where it yields, and operators that read an input until it has
//! nothing for them yield only there. A join multiplies rows between two reads of its inputs, so
//! that a plan above it may not yield for hours. Guards above leaves, joins and other operators
//! that make many rows of few yield and look whether to stop at every batch, and the condition of
//! a join looks whenever it is evaluated, which covers joins that find nothing.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, exec_err, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::lit;
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::execution_plan::SchedulingType;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

/// `plan`, failing soon after `stop` is cancelled.
///
/// # Errors
/// If a node of the plan does not take another child or condition in place of its own.
pub(super) fn stoppable(
    plan: Arc<dyn ExecutionPlan>,
    stop: &CancellationToken,
) -> Result<Arc<dyn ExecutionPlan>> {
    let guarded = plan.transform_up(|node| {
        let node = match guard_condition(&node, stop)? {
            Some(node) => node,
            None => node,
        };
        let makes_rows = node.children().len() != 1 || node.is::<UnnestExec>();
        if !makes_rows {
            return Ok(Transformed::no(node));
        }
        Ok(Transformed::yes(Arc::new(Guard::new(node, stop.clone())) as Arc<dyn ExecutionPlan>))
    })?;
    Ok(guarded.data)
}

/// The join `node` with a condition that looks whether to stop; `None` for other nodes.
fn guard_condition(
    node: &Arc<dyn ExecutionPlan>,
    stop: &CancellationToken,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let guarded = |filter: &JoinFilter| {
        let condition = Condition { inner: filter.expression().clone(), stop: stop.clone() };
        let (columns, schema) = (filter.column_indices().to_vec(), filter.schema().clone());
        JoinFilter::new(Arc::new(condition), columns, schema)
    };
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        // One without a condition (EXISTS over another table) may give no row for long as well.
        let always = || JoinFilter::new(lit(true), Vec::new(), Arc::new(Schema::empty()));
        let filter = guarded(&join.filter().cloned().unwrap_or_else(always));
        let join = NestedLoopJoinExecBuilder::from(join).with_filter(Some(filter)).build()?;
        return Ok(Some(Arc::new(join)));
    }
    match node.downcast_ref::<HashJoinExec>() {
        Some(join) => match join.filter() {
            Some(filter) => {
                join.builder().with_filter(Some(guarded(filter))).build_exec().map(Some)
            }
            None => Ok(None),
        },
        None => Ok(None),
    }
}

fn check(stop: &CancellationToken) -> Result<()> {
    if stop.is_cancelled() { exec_err!("the query was stopped") } else { Ok(()) }
}

/// Passes the batches of its input on, unless the query was stopped.
#[derive(Debug)]
struct Guard {
    input: Arc<dyn ExecutionPlan>,
    stop: CancellationToken,
    properties: Arc<PlanProperties>,
}

impl Guard {
    fn new(input: Arc<dyn ExecutionPlan>, stop: CancellationToken) -> Self {
        let properties = PlanProperties::clone(input.properties())
            .with_scheduling_type(SchedulingType::Cooperative);
        Self { input, stop, properties: Arc::new(properties) }
    }
}

impl DisplayAs for Guard {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

impl ExecutionPlan for Guard {
    fn name(&self) -> &str {
        "Guard"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.len()) {
            (Some(input), 0) => Ok(Arc::new(Self::new(input, self.stop.clone()))),
            _ => internal_err!("a guard has one child"),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        check(&self.stop)?;
        let input = make_cooperative(self.input.execute(partition, context)?);
        let stop = self.stop.clone();
        let checked = input.map(move |batch| check(&stop).and(batch));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), checked)))
    }
}

/// The condition of a join, failing once the query was stopped.
#[derive(Debug)]
struct Condition {
    inner: Arc<dyn PhysicalExpr>,
    stop: CancellationToken,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for Condition {}

impl Hash for Condition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl PhysicalExpr for Condition {
    fn data_type(&self, input: &Schema) -> Result<DataType> {
        self.inner.data_type(input)
    }

    fn nullable(&self, input: &Schema) -> Result<bool> {
        self.inner.nullable(input)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        check(&self.stop)?;
        self.inner.evaluate(batch)
    }

    fn return_field(&self, input: &Schema) -> Result<FieldRef> {
        self.inner.return_field(input)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        match (children.pop(), children.len()) {
            (Some(inner), 0) => Ok(Arc::new(Self { inner, stop: self.stop.clone() })),
            _ => internal_err!("a guarded condition has one child"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}
