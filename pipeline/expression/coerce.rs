//! What SQL does with values whose type is only known when they arrive: comparing text with a
//! number tries the cast, and what does not cast is NULL.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::{Between, BinaryExpr, InList, Like, ScalarFunction};
use datafusion::logical_expr::{Case, Expr, ExprSchemable, Operator, cast, try_cast};

use super::compile::Fit;

/// `expr` with the casts that SQL over telemetry needs; DataFusion's own coercion comes after.
pub(super) fn rewrite(expr: Expr, schema: &DFSchema, fit: Fit) -> Result<Expr, DataFusionError> {
    Ok(expr.transform_up(|e| Ok(Transformed::yes(node(e, schema, fit))))?.data)
}

fn node(expr: Expr, schema: &DFSchema, fit: Fit) -> Expr {
    match expr {
        Expr::BinaryExpr(b) => Expr::BinaryExpr(binary(b, schema, fit)),
        Expr::Between(b) => {
            let (expr, low) = align(*b.expr, *b.low, schema);
            let (low, high) = (low, align(expr.clone(), *b.high, schema).1);
            let expr = if is_text(&expr, schema) && is_number(&high, schema) {
                double(expr)
            } else {
                expr
            };
            Expr::Between(Between {
                expr: Box::new(expr),
                negated: b.negated,
                low: Box::new(low),
                high: Box::new(high),
            })
        }
        Expr::InList(l) => Expr::InList(in_list(l, schema)),
        Expr::Like(l) => Expr::Like(like(l, schema)),
        Expr::SimilarTo(l) => Expr::SimilarTo(like(l, schema)),
        Expr::Negative(e) if is_text(&e, schema) => Expr::Negative(Box::new(double(*e))),
        Expr::Not(e) => Expr::Not(Box::new(condition(*e, schema, fit))),
        Expr::Case(c) if c.expr.is_none() => Expr::Case(Case {
            when_then_expr: c
                .when_then_expr
                .into_iter()
                .map(|(when, then)| (Box::new(condition(*when, schema, fit)), then))
                .collect(),
            ..c
        }),
        Expr::ScalarFunction(f) if fit == Fit::Lenient => function(f, schema),
        other => other,
    }
}

fn binary(b: BinaryExpr, schema: &DFSchema, fit: Fit) -> BinaryExpr {
    use Operator::{
        And, Divide, Eq, Gt, GtEq, ILikeMatch, IsDistinctFrom, IsNotDistinctFrom, LikeMatch, Lt,
        LtEq, Minus, Modulo, Multiply, NotEq, NotILikeMatch, NotLikeMatch, Or, Plus, RegexIMatch,
        RegexMatch, RegexNotIMatch, RegexNotMatch,
    };
    let BinaryExpr { left, op, right } = b;
    let (left, right) = match op {
        Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom => {
            align(*left, *right, schema)
        }
        Plus | Minus | Multiply | Divide | Modulo => {
            let (left, right) = align(*left, *right, schema);
            if fit == Fit::Lenient && is_text(&left, schema) && is_text(&right, schema) {
                (double(left), double(right))
            } else {
                (left, right)
            }
        }
        And | Or => (condition(*left, schema, fit), condition(*right, schema, fit)),
        RegexMatch | RegexIMatch | RegexNotMatch | RegexNotIMatch | LikeMatch | ILikeMatch
        | NotLikeMatch | NotILikeMatch => (text(*left, schema), *right),
        _ => (*left, *right),
    };
    BinaryExpr { left: Box::new(left), op, right: Box::new(right) }
}

/// Two sides that are compared or computed with.
fn align(left: Expr, right: Expr, schema: &DFSchema) -> (Expr, Expr) {
    let number = |e: &Expr| is_number(e, schema);
    let boolean = |e: &Expr| matches!(e.get_type(schema), Ok(DataType::Boolean));
    match (is_text(&left, schema), is_text(&right, schema)) {
        (true, false) if number(&right) => (double(left), right),
        (false, true) if number(&left) => (left, double(right)),
        (true, false) if boolean(&right) => (try_cast(left, DataType::Boolean), right),
        (false, true) if boolean(&left) => (left, try_cast(right, DataType::Boolean)),
        _ => (left, right),
    }
}

fn in_list(l: InList, schema: &DFSchema) -> InList {
    let numbers = l.list.iter().all(|e| is_number(e, schema));
    if is_text(&l.expr, schema) && numbers && !l.list.is_empty() {
        return InList { expr: Box::new(double(*l.expr)), ..l };
    }
    if is_number(&l.expr, schema) {
        let list =
            l.list.into_iter().map(|e| if is_text(&e, schema) { double(e) } else { e }).collect();
        return InList { list, ..l };
    }
    l
}

fn like(l: Like, schema: &DFSchema) -> Like {
    Like { expr: Box::new(text(*l.expr, schema)), ..l }
}

/// A number or boolean as text, for patterns.
fn text(e: Expr, schema: &DFSchema) -> Expr {
    match e.get_type(schema) {
        Ok(t) if t.is_numeric() || t == DataType::Boolean => cast(e, DataType::Utf8),
        _ => e,
    }
}

/// Text where a condition is wanted.
fn condition(e: Expr, schema: &DFSchema, fit: Fit) -> Expr {
    if fit == Fit::Lenient && is_text(&e, schema) { try_cast(e, DataType::Boolean) } else { e }
}

/// Arguments of an open edge that the function does not take as they are: numbers as text, or
/// text as numbers, whichever it takes.
fn function(f: ScalarFunction, schema: &DFSchema) -> Expr {
    let plain = Expr::ScalarFunction(f.clone());
    if plain.get_type(schema).is_ok() {
        return plain;
    }
    let with = |change: &dyn Fn(Expr) -> Expr| {
        let args = f.args.iter().cloned().map(change).collect();
        Expr::ScalarFunction(ScalarFunction { func: f.func.clone(), args })
    };
    let texts = with(&|e| text(e, schema));
    if texts.get_type(schema).is_ok() {
        return texts;
    }
    let column = |e: &Expr| !matches!(e, Expr::Literal(..));
    let numbers = with(&|e| if is_text(&e, schema) && column(&e) { double(e) } else { e });
    if numbers.get_type(schema).is_ok() { numbers } else { plain }
}

fn double(e: Expr) -> Expr {
    try_cast(e, DataType::Float64)
}

fn is_text(e: &Expr, schema: &DFSchema) -> bool {
    matches!(e.get_type(schema), Ok(DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View))
}

fn is_number(e: &Expr, schema: &DFSchema) -> bool {
    matches!(e.get_type(schema), Ok(t) if t.is_numeric())
}
