//! Aggregates, as windows use them: `count(*) FILTER (WHERE severity = 'ERROR')`,
//! `sum(value) / count(*)`, `quantile(duration_ns, 0.99)`.
//!
//! An aggregate is admitted if its result is bit-equal however the rows are cut into batches and
//! however often its state is saved and restored; each has a test in the `window` operator.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{AggregateUDF, GroupsAccumulator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Expr as SqlExpr, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    Ident, Value, VisitMut, VisitorMut,
};

use super::extremes::Ordered;
use super::{Evaluated, Expression, Failed, compile, functions, parse, type_name};
use crate::batch::Batch;
use crate::component::OperatorError;
use crate::config::{Scope, Text};
use crate::diagnostic::{Diagnostic, Diagnostics, nearest};
use crate::edge::Edge;
use crate::signal::Signal;

/// A value per group: one or more calls of aggregates, and what is computed from their results.
#[derive(Clone, Debug)]
pub struct Aggregate {
    text: String,
    calls: Vec<Call>,
    /// Over the columns `#0`, `#1`, ..., the results of the calls. `None`: the one call itself.
    result: Option<Expression>,
    /// Which call each column of `result` is.
    reads: Vec<usize>,
}

/// One call of an aggregate function.
#[derive(Clone, Debug)]
pub struct Call {
    function: Arc<AggregateUDF>,
    argument: Option<Expression>,
    share: Option<f64>,
    filter: Option<Expression>,
    distinct: bool,
    rule: Rule,
    /// The type that the argument is taken as, where planning knows it.
    known: Option<DataType>,
}

/// As what an aggregate takes values whose type only shows when they arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Only whether there is a value.
    Presence,
    /// Whole numbers until the first other one, then doubles.
    Number,
    /// Doubles.
    Double,
    /// The narrowest of what it has met: int, double, text.
    Ordered,
    /// Booleans.
    Boolean,
    /// Whole numbers.
    Bits,
}

/// The admitted aggregates.
const ADMITTED: [(&str, Rule); 11] = [
    ("count", Rule::Presence),
    ("sum", Rule::Number),
    ("avg", Rule::Double),
    ("min", Rule::Ordered),
    ("max", Rule::Ordered),
    ("quantile", Rule::Double),
    ("bool_and", Rule::Boolean),
    ("bool_or", Rule::Boolean),
    ("bit_and", Rule::Bits),
    ("bit_or", Rule::Bits),
    ("bit_xor", Rule::Bits),
];

/// A fresh accumulator of one call for one argument type.
pub struct Accumulator {
    /// DataFusion's accumulator.
    pub groups: Box<dyn GroupsAccumulator>,
    /// The type that its argument has to have.
    pub argument: DataType,
    /// The types of its state columns.
    pub state: Vec<DataType>,
    arguments: Option<f64>,
}

impl std::fmt::Debug for Accumulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Accumulator({})", self.argument)
    }
}

impl Accumulator {
    /// The arguments of [`GroupsAccumulator::update_batch`] for these values.
    pub fn arguments(&self, values: ArrayRef) -> Result<Vec<ArrayRef>, DataFusionError> {
        let rows = values.len();
        let mut arguments = vec![values];
        if let Some(share) = self.arguments {
            arguments.push(ScalarValue::Float64(Some(share)).to_array_of_size(rows)?);
        }
        Ok(arguments)
    }
}

impl Aggregate {
    /// Parses the text of an aggregate over rows of `edge`.
    ///
    /// # Errors
    /// With the place inside the text: what is no SQL, is not admitted, or does not fit.
    pub fn parse(text: &Text, edge: &Edge, scope: &Scope) -> Result<Self, Diagnostics> {
        let mut sql = parse::parse(text)?;
        let mut finder = Finder { text, found: Vec::new(), diagnostics: Diagnostics::default() };
        let _ = sql.visit(&mut finder);
        let Finder { found, mut diagnostics, .. } = finder;
        if found.is_empty() && !diagnostics.has_errors() {
            diagnostics.push(
                Diagnostic::error("W308", "no aggregate in the value of a window")
                    .at(&text.span)
                    .label("expected a call such as `count(*)` or `sum(value)`"),
            );
        }
        let calls: Vec<Call> = found
            .into_iter()
            .filter_map(|f| diagnostics.ok(Call::plan(f, text, edge, scope)))
            .collect();
        if diagnostics.has_errors() {
            return Err(diagnostics);
        }
        let (mut result, mut reads) = (None, vec![0]);
        if !matches!(&sql, SqlExpr::Identifier(_)) {
            let columns =
                calls.iter().enumerate().map(|(i, c)| (format!("#{i}"), c.data_type())).collect();
            let inner = Edge { signal: Signal::named("window"), columns, open: false };
            let expression = Expression::from_sql(sql, text, &inner, scope)?;
            reads = expression
                .columns()
                .iter()
                .filter_map(|n| n.strip_prefix('#')?.parse().ok())
                .collect();
            result = Some(expression);
        }
        Ok(Self { text: text.text.clone(), calls, result, reads })
    }

    /// The text as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Names of the columns that it reads.
    pub fn columns(&self) -> Vec<String> {
        let read = self.calls.iter().flat_map(|call| [&call.argument, &call.filter]);
        read.flatten().flat_map(|e| e.columns().to_vec()).collect()
    }

    /// The calls whose results it needs.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// Its type, as far as planning knows it.
    pub fn data_type(&self) -> Option<DataType> {
        match &self.result {
            Some(expression) => expression.data_type().cloned(),
            None => self.calls.first()?.data_type(),
        }
    }

    /// The value per group from the results of the calls, one array each; a group for which the
    /// computation fails (a division by zero) has NULL.
    ///
    /// # Errors
    /// If the results do not fit at all.
    pub fn finish(&self, results: &[ArrayRef], groups: usize) -> Result<ArrayRef, OperatorError> {
        match &self.result {
            None => results.first().cloned().ok_or_else(|| OperatorError::new("no aggregate")),
            Some(expression) => {
                let arrays: Vec<ArrayRef> =
                    self.reads.iter().filter_map(|&i| results.get(i).cloned()).collect();
                Ok(expression.each_of(&arrays, groups)?.values)
            }
        }
    }
}

impl Call {
    fn plan(found: Found, text: &Text, edge: &Edge, scope: &Scope) -> Result<Self, Diagnostics> {
        let Found { function, rule, argument, share, filter, distinct, place } = found;
        let mut diagnostics = Diagnostics::default();
        let argument = match argument {
            Some(sql) => diagnostics.ok(Expression::from_sql(sql, text, edge, scope)),
            None => None,
        };
        let filter = match filter {
            Some(sql) => diagnostics.ok(Expression::from_sql(sql, text, edge, scope)),
            None => None,
        };
        if diagnostics.has_errors() {
            return Err(diagnostics);
        }
        let place = text.locate(place);
        if let Some(t) = filter.as_ref().and_then(Expression::data_type)
            && *t != DataType::Boolean
        {
            let d = Diagnostic::error("W307", "FILTER condition that is not true or false");
            return Err(d.at(&place).label(format!("this is {}", type_name(t))).into());
        }
        let given = argument.as_ref().and_then(|a| a.data_type().cloned());
        let known = match (rule, given) {
            (Rule::Presence, _) => Some(DataType::Boolean),
            (Rule::Double, Some(DataType::Int64 | DataType::Float64) | None) => {
                Some(DataType::Float64)
            }
            (Rule::Boolean, None) => Some(DataType::Boolean),
            (Rule::Bits, None) => Some(DataType::Int64),
            (_, given) => given,
        };
        let call = Self { function, argument, share, filter, distinct, rule, known };
        let fits = match (call.rule, &call.known) {
            (_, None) => true,
            (Rule::Number | Rule::Double | Rule::Bits, Some(DataType::Utf8)) => false,
            (Rule::Boolean, Some(t)) => *t == DataType::Boolean,
            (_, Some(t)) => call.accumulator(t).is_ok(),
        };
        if !fits {
            let name = call.function.name().to_owned();
            let given = call.known.as_ref().map(type_name).unwrap_or_default();
            let d = Diagnostic::error("W306", format!("aggregate `{name}` of a wrong type"));
            return Err(d.at(&place).label(format!("its argument is {given}")).into());
        }
        Ok(call)
    }

    /// Whether each distinct value of a group counts once.
    pub fn distinct(&self) -> bool {
        self.distinct
    }

    /// The type of its result, as far as planning knows it.
    fn data_type(&self) -> Option<DataType> {
        self.build(self.known.as_ref()?).ok().map(|(t, _)| t)
    }

    /// Values of its argument, one per row, and the rows that failed.
    ///
    /// # Errors
    /// If the argument does not fit the types of this batch at all.
    pub fn evaluate(&self, batch: &Batch) -> Result<Evaluated, OperatorError> {
        match &self.argument {
            None => {
                let all = BooleanBuffer::new_set(batch.num_rows());
                let values = Arc::new(BooleanArray::new(all, None));
                Ok(Evaluated { values, errors: Vec::new() })
            }
            Some(argument) => argument.evaluate_each(batch),
        }
    }

    /// The rows that it takes, and those for which that failed; `None` without a FILTER.
    ///
    /// # Errors
    /// If the condition does not fit the types of this batch at all.
    pub fn filter(&self, batch: &Batch) -> Result<Option<(BooleanArray, Failed)>, OperatorError> {
        self.filter.as_ref().map(|f| f.mask_each(batch)).transpose()
    }

    /// The type to take values as, when so far they were taken as `current` and now come as
    /// `incoming`.
    pub fn settle(&self, current: Option<&DataType>, incoming: &DataType) -> DataType {
        use DataType::{Boolean, Float64, Int64, Utf8};
        if let Some(known) = &self.known {
            return known.clone();
        }
        match (self.rule, current, incoming) {
            (Rule::Presence | Rule::Boolean, ..) => Boolean,
            (Rule::Double, ..) => Float64,
            (Rule::Bits, ..) => Int64,
            (Rule::Number, None | Some(Int64), Int64 | Boolean) => Int64,
            (Rule::Number, ..) => Float64,
            (Rule::Ordered, None, t) => t.clone(),
            (Rule::Ordered, Some(a), b) if a == b => a.clone(),
            (Rule::Ordered, Some(Int64 | Float64), Int64 | Float64) => Float64,
            (Rule::Ordered, ..) => Utf8,
        }
    }

    /// The type to take values as if none ever came.
    pub fn settle_empty(&self) -> DataType {
        self.known.clone().unwrap_or(DataType::Float64)
    }

    /// Values as the accumulator for `to` takes them; what does not cast is NULL.
    ///
    /// # Errors
    /// If there is no such cast.
    pub fn take(&self, values: &ArrayRef, to: &DataType) -> Result<ArrayRef, OperatorError> {
        if self.rule == Rule::Presence && values.data_type() != to {
            let present = BooleanBuffer::new_set(values.len());
            return Ok(Arc::new(BooleanArray::new(present, values.logical_nulls())));
        }
        Self::cast(values, to)
    }

    /// Values as `to`; what does not cast is NULL.
    ///
    /// # Errors
    /// If there is no such cast.
    pub fn cast(values: &ArrayRef, to: &DataType) -> Result<ArrayRef, OperatorError> {
        if values.data_type() == to {
            return Ok(values.clone());
        }
        let options = CastOptions { safe: true, ..CastOptions::default() };
        Ok(cast_with_options(values, to, &options)?)
    }

    /// A fresh accumulator for values of type `argument`.
    ///
    /// # Errors
    /// If the aggregate does not take that type.
    pub fn accumulator(&self, argument: &DataType) -> Result<Accumulator, OperatorError> {
        let build = || {
            let doubles = *argument == DataType::Float64;
            if doubles && matches!(self.function.name(), "min" | "max") {
                let (_, expr) = self.build(&DataType::Int64)?;
                let groups = Box::new(Ordered(expr.create_groups_accumulator()?));
                let (argument, state) = (argument.clone(), vec![argument.clone()]);
                return Ok(Accumulator { groups, argument, state, arguments: self.share });
            }
            let (_, expr) = self.build(argument)?;
            let state = expr.state_fields()?.iter().map(|f| f.data_type().clone()).collect();
            let groups = expr.create_groups_accumulator()?;
            Ok(Accumulator { groups, argument: argument.clone(), state, arguments: self.share })
        };
        build().map_err(|e: DataFusionError| OperatorError::new(compile::message(&e)))
    }

    fn build(
        &self,
        argument: &DataType,
    ) -> Result<(DataType, AggregateFunctionExpr), DataFusionError> {
        let schema = Schema::new(vec![Field::new("x", argument.clone(), true)]);
        let mut args: Vec<Arc<dyn PhysicalExpr>> = vec![Arc::new(Column::new("x", 0))];
        if let Some(share) = self.share {
            args.push(Arc::new(Literal::new(ScalarValue::Float64(Some(share)))));
        }
        let expr = AggregateExprBuilder::new(self.function.clone(), args)
            .schema(Arc::new(schema))
            .alias(self.function.name())
            .build()?;
        Ok((expr.field().data_type().clone(), expr))
    }
}

struct Found {
    function: Arc<AggregateUDF>,
    rule: Rule,
    argument: Option<SqlExpr>,
    share: Option<f64>,
    filter: Option<SqlExpr>,
    distinct: bool,
    place: std::ops::Range<usize>,
}

/// Takes the aggregate calls out of a tree and puts `#0`, `#1`, ... in their place.
struct Finder<'a> {
    text: &'a Text,
    found: Vec<Found>,
    diagnostics: Diagnostics,
}

impl VisitorMut for Finder<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<()> {
        match expr {
            SqlExpr::Function(function) => {
                let name = function.name.to_string().to_lowercase();
                let Some(udaf) = functions::aggregate(&name) else {
                    return ControlFlow::Continue(());
                };
                let span = function.name.0.first().and_then(|p| p.as_ident()).map(|i| i.span);
                let place =
                    span.map_or(0..self.text.text.len(), |s| parse::range(&self.text.text, s));
                match take(function, udaf) {
                    Ok(mut found) => {
                        found.place = place;
                        let name = format!("#{}", self.found.len());
                        self.found.push(found);
                        *expr = SqlExpr::Identifier(Ident::with_quote('"', name));
                    }
                    Err(d) => {
                        self.diagnostics.push(d.at(&self.text.locate(place)));
                        // Its arguments need no further look.
                        *expr = SqlExpr::Value(Value::Null.into());
                    }
                }
            }
            SqlExpr::Identifier(ident) if !ident.value.starts_with('#') => {
                let place = parse::range(&self.text.text, ident.span);
                self.diagnostics.push(
                    Diagnostic::error("W308", format!("column outside of an aggregate: `{ident}`"))
                        .at(&self.text.locate(place))
                        .label("a window gives one value per group")
                        .hint("put it into an aggregate, or into `group_by`"),
                );
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// The parts of a call of an admitted aggregate.
fn take(call: &mut Function, function: Arc<AggregateUDF>) -> Result<Found, Box<Diagnostic>> {
    let name = function.name().to_owned();
    let wrong = |what: &str| {
        let d = Diagnostic::error("W308", format!("aggregate `{name}` as a window cannot run it"));
        Box::new(d.label(what.to_owned()))
    };
    let Some((_, rule)) = ADMITTED.iter().find(|(n, _)| *n == name) else {
        return Err(Box::new(refused(&name)));
    };
    if call.over.is_some() || !call.within_group.is_empty() || call.null_treatment.is_some() {
        return Err(wrong("OVER, WITHIN GROUP and NULLS are not possible here"));
    }
    let FunctionArguments::List(list) = &mut call.args else {
        return Err(wrong("expected arguments in parentheses"));
    };
    if !list.clauses.is_empty() {
        return Err(wrong("ORDER BY and the like are not possible here"));
    }
    let distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
    let mut arguments = Vec::new();
    for argument in std::mem::take(&mut list.args) {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => arguments.push(Some(e)),
            FunctionArg::Unnamed(FunctionArgExpr::Wildcard) if *rule == Rule::Presence => {
                arguments.push(None);
            }
            other => return Err(wrong(&format!("no such argument: {other}"))),
        }
    }
    let mut arguments = arguments.into_iter();
    let argument = arguments.next();
    let second = arguments.next();
    let share = match (name.as_str(), second.flatten()) {
        ("quantile", Some(SqlExpr::Value(v))) => match &v.value {
            Value::Number(n, _) => n.parse::<f64>().ok().filter(|q| (0.0..=1.0).contains(q)),
            _ => None,
        },
        ("quantile", _) => None,
        (_, None) => Some(0.0),
        (_, Some(_)) => return Err(wrong("it takes one argument")),
    };
    let Some(share) = share else {
        return Err(wrong("expected a constant between 0 and 1, as in `quantile(x, 0.99)`"));
    };
    if arguments.next().is_some() {
        return Err(wrong("there are too many arguments"));
    }
    let argument = match argument {
        Some(Some(SqlExpr::Value(v))) if *rule == Rule::Presence && v.value != Value::Null => None,
        Some(argument) => argument,
        None if *rule == Rule::Presence => None,
        None => return Err(wrong("expected an argument")),
    };
    if distinct && argument.is_none() {
        return Err(wrong("DISTINCT needs a column"));
    }
    if distinct && name == "quantile" {
        return Err(wrong("DISTINCT is not possible here"));
    }
    Ok(Found {
        share: (name == "quantile").then_some(share),
        function,
        rule: *rule,
        argument,
        filter: call.filter.take().map(|f| *f),
        distinct,
        place: 0..0,
    })
}

/// Why an aggregate of SQL is none of windows, and what to use.
fn refused(name: &str) -> Diagnostic {
    let d = Diagnostic::error("W308", format!("aggregate that windows do not have: `{name}`"));
    let instead = match name {
        "median" => Some("quantile(x, 0.5)"),
        "approx_median"
        | "percentile_cont"
        | "quantile_cont"
        | "approx_percentile_cont"
        | "approx_percentile_cont_with_weight" => Some("quantile(x, 0.99)"),
        "approx_distinct" => Some("count(DISTINCT x)"),
        _ => None,
    };
    let known: Vec<&str> = ADMITTED.iter().map(|(n, _)| *n).collect();
    match instead {
        Some(instead) => d.label(format!("write `{instead}`")),
        None => d.label(match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "its result depends on how the stream is cut into batches".into(),
        }),
    }
    .hint(format!("windows have {}", known.join(", ")))
}
