//! From a syntax tree and the types of its columns to something that runs.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast::Expr as SqlExpr;

use super::coerce;
use super::functions::{self, Provider};
use crate::component::OperatorError;
use crate::signal;

/// An expression for one set of column types.
#[derive(Debug)]
pub(super) struct Compiled {
    schema: SchemaRef,
    physical: Arc<dyn PhysicalExpr>,
    /// Type of the result.
    pub(super) data_type: DataType,
}

/// How much is made to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// Comparing text with a number tries the cast, nothing else.
    Strict,
    /// Whatever an open edge may bring gives a value or NULL rather than an error.
    Lenient,
}

/// Plans `sql` over columns called `names` of these types.
pub(super) fn compile(
    sql: &SqlExpr,
    names: &[String],
    types: &[DataType],
    fit: Fit,
) -> Result<Compiled, DataFusionError> {
    let fields: Fields =
        names.iter().zip(types).map(|(n, t)| Field::new(n, t.clone(), true)).collect();
    let df = Arc::new(DFSchema::from_unqualified_fields(fields.clone(), Default::default())?);
    let options = ParserOptions::new()
        .with_enable_ident_normalization(false)
        .with_map_string_types_to_utf8view(false);
    let planner = SqlToRel::new_with_options(&Provider, options);
    let expr = planner.sql_to_expr(sql.clone(), &df, &mut PlannerContext::new())?;
    let expr = coerce::rewrite(expr, &df, fit)?;
    let context = SimplifyContext::builder()
        .with_config_options(functions::options())
        .with_schema(df.clone())
        .build();
    let simplifier = ExprSimplifier::new(context);
    let expr = simplifier.coerce(expr, &df)?;
    let expr = simplifier.simplify(expr)?;
    let props = ExecutionProps::new();
    let physical = create_physical_expr(&expr, &df, &props, &PhysicalPlanningContext::default())?;
    let schema = Arc::new(Schema::new(fields));
    let data_type = surface(&physical.data_type(&schema)?);
    Ok(Compiled { schema, physical, data_type })
}

/// The type that a value has outside expressions: 64-bit numbers, `Utf8`, UTC nanoseconds.
fn surface(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64 => DataType::Int64,
        DataType::Float16 | DataType::Float32 => DataType::Float64,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Timestamp(..) => signal::timestamp(),
        DataType::Dictionary(_, values) => surface(values),
        other => other.clone(),
    }
}

impl Compiled {
    /// One value for each row of `range`.
    pub(super) fn evaluate(
        &self,
        columns: &[ArrayRef],
        range: Range<usize>,
    ) -> Result<ArrayRef, DataFusionError> {
        let rows = range.len();
        let columns = columns.iter().map(|c| c.slice(range.start, rows)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        let values = self.physical.evaluate(&batch)?.into_array(rows)?;
        if *values.data_type() == self.data_type {
            return Ok(values);
        }
        let options = CastOptions { safe: true, ..CastOptions::default() };
        Ok(cast_with_options(&values, &self.data_type, &options)?)
    }
}

/// What went wrong, in one line, without DataFusion's prefixes.
pub(super) fn message(e: &DataFusionError) -> String {
    let text = e.find_root().strip_backtrace();
    let mut text = text.lines().next().unwrap_or_default();
    for prefix in [
        "Error during planning: ",
        "Execution error: ",
        "Arrow error: ",
        "SQL error: ",
        "Schema error: ",
        "This feature is not implemented: ",
        "Invalid argument error: ",
        "Cast error: ",
        "Compute error: ",
    ] {
        text = text.strip_prefix(prefix).unwrap_or(text);
    }
    let mut text = text.trim_end_matches('.').to_owned();
    let keyword =
        text.split_whitespace().next().is_some_and(|w| w.len() > 1 && w == w.to_uppercase());
    if let (Some(first), false) = (text.get_mut(..1), keyword) {
        first.make_ascii_lowercase();
    }
    text
}

/// A failure at run time.
pub(super) fn failure(e: &DataFusionError, place: Option<&str>) -> OperatorError {
    OperatorError { reason: message(e), place: place.map(str::to_owned) }
}
