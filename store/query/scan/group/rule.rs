//! Finds aggregations that stand right above a scan.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;

use super::{GroupExec, arguments};
use crate::query::scan::exec::ScanExec;

/// Puts the partial step of an aggregation into the scan below it.
#[derive(Debug)]
pub(in crate::query) struct GroupWhileScanning;

impl PhysicalOptimizerRule for GroupWhileScanning {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let grouped = plan.transform_up(|node| {
            let found = match node.downcast_ref::<AggregateExec>() {
                Some(aggregation) => grouped(aggregation)?,
                None => None,
            };
            Ok(found.map_or_else(|| Transformed::no(node), Transformed::yes))
        })?;
        Ok(grouped.data)
    }

    fn name(&self) -> &str {
        "group_while_scanning"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// `aggregation` with its partial step in the scan; `None` where that cannot be.
fn grouped(aggregation: &AggregateExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let by = aggregation.group_expr();
    let aggregates = aggregation.aggr_expr();
    // Distinct rows up to a limit: whoever reads them stops early.
    let stops = aggregation.limit_options().is_some() && aggregates.is_empty();
    if by.is_empty() || !by.is_single() || stops {
        return Ok(None);
    }
    let Some((scan, columns)) = scan_below(aggregation.input()) else { return Ok(None) };
    let over = |e: &Arc<dyn PhysicalExpr>| over_scan(e, columns.as_deref());
    let mut groups = Vec::with_capacity(by.expr().len());
    for (expr, name) in by.expr() {
        groups.push((over(expr)?, name.clone()));
    }
    let mut inputs = arguments(aggregates)?;
    for expr in inputs.iter_mut().flatten() {
        *expr = over(expr)?;
    }
    let filters = aggregation.filter_expr().iter();
    let filters = filters.map(|f| f.as_ref().map(&over).transpose()).collect::<Result<Vec<_>>>()?;
    let partial = |schema| {
        let aggregates = aggregates.to_vec();
        GroupExec::try_new(scan.clone(), &groups, aggregates, &inputs, &filters, schema)
    };
    match aggregation.mode() {
        AggregateMode::Partial => {
            let leaf = partial(aggregation.schema())?;
            Ok(leaf.map(|leaf| Arc::new(leaf) as Arc<dyn ExecutionPlan>))
        }
        AggregateMode::Single => {
            // Both steps in one: the scan takes the first.
            let (input, schema) = (aggregation.input().clone(), aggregation.input_schema());
            let none = vec![None; aggregates.len()];
            let first = AggregateExec::try_new(
                AggregateMode::Partial,
                by.clone(),
                aggregates.to_vec(),
                aggregation.filter_expr().to_vec(),
                input,
                schema.clone(),
            )?;
            let Some(leaf) = partial(first.schema())? else { return Ok(None) };
            let last = AggregateExec::try_new(
                AggregateMode::Final,
                by.as_final(),
                aggregates.to_vec(),
                none,
                Arc::new(leaf),
                schema,
            )?;
            Ok(Some(Arc::new(last.with_limit_options(aggregation.limit_options()))))
        }
        _ => Ok(None),
    }
}

type Projected = Vec<Arc<dyn PhysicalExpr>>;

/// The scan below `node` with nothing but a projection in between, and that.
fn scan_below(node: &Arc<dyn ExecutionPlan>) -> Option<(Arc<ScanExec>, Option<Projected>)> {
    if let Some(inner) = node.downcast_ref::<CooperativeExec>() {
        return scan_below(inner.input());
    }
    // Of a scan with one partition batches would go to several in turn: groups need not.
    if let Some(spread) = node.downcast_ref::<RepartitionExec>() {
        let in_turn = matches!(spread.partitioning(), Partitioning::RoundRobinBatch(_));
        return in_turn.then(|| scan_below(spread.input())).flatten();
    }
    if let Some(scan) = node.downcast_ref::<ScanExec>() {
        return scan.fetch().is_none().then(|| (Arc::new(scan.clone()), None));
    }
    let projection = node.downcast_ref::<ProjectionExec>()?;
    match scan_below(projection.input())? {
        (scan, None) => {
            let exprs = projection.expr().iter().map(|p| p.expr.clone());
            Some((scan, Some(exprs.collect())))
        }
        _ => None,
    }
}

/// `expr` over the columns of the scan, where it was over `projected` ones.
fn over_scan(
    expr: &Arc<dyn PhysicalExpr>,
    projected: Option<&[Arc<dyn PhysicalExpr>]>,
) -> Result<Arc<dyn PhysicalExpr>> {
    let Some(projected) = projected else { return Ok(expr.clone()) };
    let replaced = expr.clone().transform_down(|e| {
        let column = e.downcast_ref::<Column>().and_then(|c| projected.get(c.index()));
        Ok(match column {
            // What stands there is over the scan already.
            Some(found) => {
                let next = datafusion::common::tree_node::TreeNodeRecursion::Jump;
                Transformed::new(found.clone(), true, next)
            }
            None => Transformed::no(e),
        })
    })?;
    Ok(replaced.data)
}
