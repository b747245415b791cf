//! Comparing text with a number tries the cast: what does not cast is NULL.
//!
//! A text column against a number is read as a double; against an integer literal past 2^53 as an
//! integer. A text literal against a numeric column becomes the number it spells, or NULL. The
//! same holds in arithmetic, BETWEEN and IN.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, try_cast};
use datafusion::optimizer::AnalyzerRule;
use datafusion::sql::sqlparser::ast::BinaryOperator;
use weir_pipeline::entity::int_fits_double;

/// Casts while SQL is planned: comparisons and arithmetic.
#[derive(Debug)]
pub(super) struct TextAsNumber;

impl ExprPlanner for TextAsNumber {
    fn plan_binary_op(
        &self,
        mut expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        if numeric(&expr.op) {
            let (left, right) = pair(expr.left, expr.right, schema);
            (expr.left, expr.right) = (left, right);
        }
        Ok(PlannerResult::Original(expr))
    }
}

fn numeric(op: &BinaryOperator) -> bool {
    matches!(
        op,
        BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq
            | BinaryOperator::Plus
            | BinaryOperator::Minus
            | BinaryOperator::Multiply
            | BinaryOperator::Divide
            | BinaryOperator::Modulo
    )
}

/// Both sides, the text one as a number if the other is one.
fn pair(left: Expr, right: Expr, schema: &DFSchema) -> (Expr, Expr) {
    let (Ok(l), Ok(r)) = (left.get_type(schema), right.get_type(schema)) else {
        return (left, right);
    };
    if l.is_numeric() && r.is_string() {
        let right = as_number(right, &left);
        (left, right)
    } else if l.is_string() && r.is_numeric() {
        let left = as_number(left, &right);
        (left, right)
    } else {
        (left, right)
    }
}

/// `text` as a number that compares with `number`.
fn as_number(text: Expr, number: &Expr) -> Expr {
    if let Expr::Literal(value, metadata) = &text
        && let Some(Some(text)) = value.try_as_str()
    {
        let text = text.trim();
        let value = match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(int), _) => ScalarValue::Int64(Some(int)),
            (_, Ok(double)) => ScalarValue::Float64(Some(double)),
            _ => ScalarValue::Float64(None),
        };
        return Expr::Literal(value, metadata.clone());
    }
    let exact = matches!(
        number,
        Expr::Literal(ScalarValue::Int64(Some(int)), _) if !int_fits_double(*int)
    );
    try_cast(text, if exact { DataType::Int64 } else { DataType::Float64 })
}

/// Casts in BETWEEN and IN, which the SQL planner asks nobody about.
#[derive(Debug)]
pub(super) struct TextAsNumberInLists;

impl AnalyzerRule for TextAsNumberInLists {
    fn name(&self) -> &str {
        "text_as_number"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            let done = plan.map_expressions(|e| e.transform_up(|e| rewrite(e, &schema)))?;
            if done.transformed {
                return Ok(Transformed::yes(done.data.recompute_schema()?));
            }
            Ok(done)
        })
        .map(|t| t.data)
    }
}

fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let kind = |e: &Expr| e.get_type(schema).unwrap_or(DataType::Null);
    match expr {
        Expr::Between(Between { expr, negated, low, high })
            if [&expr, &low, &high].iter().any(|e| kind(e).is_string())
                && [&expr, &low, &high].iter().any(|e| kind(e).is_numeric()) =>
        {
            let number = [&expr, &low, &high].into_iter().find(|e| kind(e).is_numeric());
            let number = number.map_or_else(|| low.as_ref().clone(), |n| n.as_ref().clone());
            let fix = |e: Box<Expr>| {
                if kind(&e).is_string() { Box::new(as_number(*e, &number)) } else { e }
            };
            let between = Between { expr: fix(expr), negated, low: fix(low), high: fix(high) };
            Ok(Transformed::yes(Expr::Between(between)))
        }
        Expr::InList(InList { expr, list, negated })
            if std::iter::once(expr.as_ref()).chain(&list).any(|e| kind(e).is_string())
                && std::iter::once(expr.as_ref()).chain(&list).any(|e| kind(e).is_numeric()) =>
        {
            let number =
                std::iter::once(expr.as_ref()).chain(&list).find(|e| kind(e).is_numeric()).cloned();
            let number = number.unwrap_or_else(|| expr.as_ref().clone());
            let fix = |e: Expr| if kind(&e).is_string() { as_number(e, &number) } else { e };
            let list = list.into_iter().map(fix).collect();
            let expr = Box::new(fix(*expr));
            Ok(Transformed::yes(Expr::InList(InList { expr, list, negated })))
        }
        other => Ok(Transformed::no(other)),
    }
}
