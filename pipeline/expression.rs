//! SQL expressions over batches.
//!
//! The text is parsed once and compiled for each set of column types it meets. A name is a column
//! of either level, dotted names stand bare, nothing is folded. What a batch lacks reads as NULL.
//! Comparing text with a number tries the cast, and what does not cast is NULL. Functions that
//! depend on the clock or on chance do not exist here.

mod aggregate;
mod coerce;
mod columns;
mod compile;
mod entities;
mod extremes;
mod functions;
mod parse;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, new_null_array};
use arrow::compute;
use arrow::datatypes::DataType;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::ast::Expr as SqlExpr;
use parking_lot::Mutex;

use crate::batch::Batch;
use crate::component::OperatorError;
use crate::config::{Scope, Text};
use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::edge::Edge;
use columns::Standing;
use compile::{Compiled, Fit};

pub use aggregate::{Accumulator, Aggregate, Call};
pub use columns::read as read_columns;
pub use weir_udfs::{histogram, sketch};

/// Sets of column types that are kept compiled; the least recently used goes.
const COMPILED_MAX: usize = 16;

/// A SQL expression, parsed once and compiled per batch schema. Clones share what was compiled.
#[derive(Clone, Debug)]
pub struct Expression(Arc<Core>);

#[derive(Debug)]
struct Core {
    text: String,
    place: Option<String>,
    sql: SqlExpr,
    names: Vec<String>,
    /// Type of each name where planning knows it.
    known: Vec<Option<DataType>>,
    /// Type of the result where planning knows it.
    data_type: Option<DataType>,
    compiled: Mutex<Vec<(Vec<DataType>, Arc<Compiled>)>>,
    entities: entities::Shared,
}

/// Index and reason of each row that failed, in order.
pub type Failed = Vec<(usize, OperatorError)>;

/// Values row by row, and the rows that failed.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// One value per row, NULL for those that failed.
    pub values: ArrayRef,
    /// The rows that failed.
    pub errors: Failed,
}

impl Expression {
    /// Parses `text` and checks it against `edge`: unknown columns are errors on a closed edge,
    /// on an open one a warning when near a known name.
    ///
    /// # Errors
    /// With the place inside the text.
    pub fn parse(text: &Text, edge: &Edge, scope: &Scope) -> Result<Self, Diagnostics> {
        Self::from_sql(parse::parse(text)?, text, edge, scope)
    }

    /// As [`Expression::parse`], for a condition: it has to be boolean wherever its type is known.
    ///
    /// # Errors
    /// As [`Expression::parse`], or if it is known to be something else than boolean.
    pub fn condition(text: &Text, edge: &Edge, scope: &Scope) -> Result<Self, Diagnostics> {
        let expression = Self::parse(text, edge, scope)?;
        match expression.data_type() {
            None | Some(DataType::Boolean) => Ok(expression),
            Some(other) => {
                let d = Diagnostic::error("W307", "condition that is not true or false");
                Err(d.at(&text.span).label(format!("this is {}", type_name(other))).into())
            }
        }
    }

    fn from_sql(
        mut sql: SqlExpr,
        text: &Text,
        edge: &Edge,
        scope: &Scope,
    ) -> Result<Self, Diagnostics> {
        let mut found = Vec::new();
        let columns = parse::resolve(&mut sql, text, edge, &mut found);
        let (errors, warnings): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|d| d.severity == Severity::Error);
        warnings.into_iter().for_each(|w| scope.warn(w));
        if !errors.is_empty() {
            return Err(Diagnostics(errors));
        }
        let names: Vec<String> = columns.into_iter().map(|(name, _)| name).collect();
        let known: Vec<Option<DataType>> =
            names.iter().map(|n| edge.column_type(n).cloned()).collect();
        let data_type = prove(&sql, &names, &known).map_err(|e| {
            let label = compile::message(&e);
            Diagnostic::error("W306", "SQL expression that cannot be evaluated")
                .at(&text.span)
                .label(label)
        })?;
        let (line, column) = text.span.line_column();
        let place = format!("{}:{line}:{column}", text.span.file.path.display());
        Ok(Self(Arc::new(Core {
            text: text.text.clone(),
            place: Some(place),
            sql,
            names,
            known,
            data_type,
            compiled: Mutex::default(),
            entities: entities::Shared::default(),
        })))
    }

    /// The text as written.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Names of the columns that it reads.
    pub fn columns(&self) -> &[String] {
        &self.0.names
    }

    /// The column that it stands for, if it is nothing but a column.
    pub fn as_column(&self) -> Option<&str> {
        match &self.0.sql {
            SqlExpr::Identifier(ident) => Some(&ident.value),
            _ => None,
        }
    }

    /// The type of its values as far as planning knows it: on an open edge only where it does not
    /// depend on what arrives.
    pub fn data_type(&self) -> Option<&DataType> {
        self.0.data_type.as_ref()
    }

    /// Whether its values depend on the entity of a row alone, in this batch.
    pub fn by_entity(&self, batch: &Batch) -> bool {
        columns::standing(batch, &self.0.names) == Standing::Entity
    }

    /// One value per row. An expression over entity columns alone is evaluated once per entity.
    ///
    /// # Errors
    /// If evaluation fails for any row (a cast of bad data, a division by zero). See
    /// [`Expression::evaluate_each`] for the rows that do not fail.
    pub fn evaluate(&self, batch: &Batch) -> Result<ArrayRef, OperatorError> {
        let core = &self.0;
        if let Some(values) = core.by_entity(batch) {
            return Ok(values);
        }
        let arrays = columns::read(batch, &core.names, &core.known)?;
        self.evaluate_columns(&arrays, batch.num_rows())
    }

    /// One value per row; a row that fails is NULL and named. What fails does not depend on which
    /// rows share its batch.
    ///
    /// # Errors
    /// If the expression does not fit the types of this batch at all.
    pub fn evaluate_each(&self, batch: &Batch) -> Result<Evaluated, OperatorError> {
        let core = &self.0;
        if let Some(values) = core.by_entity(batch) {
            return Ok(Evaluated { values, errors: Vec::new() });
        }
        let arrays = columns::read(batch, &core.names, &core.known)?;
        self.each_of(&arrays, batch.num_rows())
    }

    /// As [`Expression::evaluate_each`] over arrays that stand for the columns.
    fn each_of(&self, arrays: &[ArrayRef], rows: usize) -> Result<Evaluated, OperatorError> {
        let core = &self.0;
        let types: Vec<DataType> = arrays.iter().map(|a| a.data_type().clone()).collect();
        let compiled = core.compiled(&types).map_err(|e| core.failure(&e))?;
        let mut parts = Vec::new();
        let mut errors = Vec::new();
        core.each(&compiled, arrays, 0..rows, &mut parts, &mut errors);
        let values = match parts.as_slice() {
            [one] => one.clone(),
            [] => new_null_array(&compiled.data_type, 0),
            _ => compute::concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())?,
        };
        Ok(Evaluated { values, errors })
    }

    /// One value per row over arrays that stand for [`Expression::columns`], in their order.
    ///
    /// # Errors
    /// As [`Expression::evaluate`].
    pub fn evaluate_columns(
        &self,
        arrays: &[ArrayRef],
        rows: usize,
    ) -> Result<ArrayRef, OperatorError> {
        let core = &self.0;
        let types: Vec<DataType> = arrays.iter().map(|a| a.data_type().clone()).collect();
        let values = core.compiled(&types).and_then(|c| c.evaluate(arrays, 0..rows));
        values.map_err(|e| core.failure(&e))
    }

    /// The expression as a condition; NULL stays NULL.
    ///
    /// # Errors
    /// As [`Expression::evaluate`], or if it is not boolean.
    pub fn mask(&self, batch: &Batch) -> Result<BooleanArray, OperatorError> {
        self.as_mask(&self.evaluate(batch)?)
    }

    /// As [`Expression::mask`], with the rows that failed, which are NULL in the mask.
    ///
    /// # Errors
    /// As [`Expression::evaluate_each`], or if it is not boolean.
    pub fn mask_each(&self, batch: &Batch) -> Result<(BooleanArray, Failed), OperatorError> {
        let Evaluated { values, errors } = self.evaluate_each(batch)?;
        Ok((self.as_mask(&values)?, errors))
    }

    /// Values of this expression as a condition: booleans as they are, text as far as it casts.
    fn as_mask(&self, values: &ArrayRef) -> Result<BooleanArray, OperatorError> {
        match values.data_type() {
            DataType::Boolean => Ok(values.as_boolean().clone()),
            DataType::Utf8 | DataType::Null => {
                let options = compute::CastOptions { safe: true, ..Default::default() };
                let cast = compute::cast_with_options(values, &DataType::Boolean, &options)?;
                Ok(cast.as_boolean().clone())
            }
            other if values.null_count() == values.len() => {
                let _ = other;
                Ok(new_null_array(&DataType::Boolean, values.len()).as_boolean().clone())
            }
            other => Err(OperatorError {
                reason: format!("the condition gives {}, not true or false", type_name(other)),
                place: self.0.place.clone(),
            }),
        }
    }
}

impl Core {
    fn compiled(&self, types: &[DataType]) -> Result<Arc<Compiled>, DataFusionError> {
        let mut kept = self.compiled.lock();
        if let Some(i) = kept.iter().position(|(t, _)| t == types) {
            let hit = kept.remove(i);
            let compiled = hit.1.clone();
            kept.insert(0, hit);
            return Ok(compiled);
        }
        let compiled = Arc::new(compile::compile(&self.sql, &self.names, types, Fit::Lenient)?);
        kept.insert(0, (types.to_vec(), compiled.clone()));
        kept.truncate(COMPILED_MAX);
        Ok(compiled)
    }

    fn by_entity(&self, batch: &Batch) -> Option<ArrayRef> {
        let keys = batch.entities()?;
        if columns::standing(batch, &self.names) == Standing::Row {
            return None;
        }
        entities::evaluate(self, batch, keys)
    }

    fn failure(&self, e: &DataFusionError) -> OperatorError {
        compile::failure(e, self.place.as_deref())
    }

    /// Evaluates a stretch of rows; where it fails, its halves, down to the rows that fail alone.
    fn each(
        &self,
        compiled: &Compiled,
        arrays: &[ArrayRef],
        range: std::ops::Range<usize>,
        parts: &mut Vec<ArrayRef>,
        errors: &mut Failed,
    ) {
        match compiled.evaluate(arrays, range.clone()) {
            Ok(values) => parts.push(values),
            Err(e) if range.len() <= 1 => {
                errors.push((range.start, self.failure(&e)));
                parts.push(new_null_array(&compiled.data_type, range.len()));
            }
            Err(_) => {
                let middle = range.start + range.len() / 2;
                self.each(compiled, arrays, range.start..middle, parts, errors);
                self.each(compiled, arrays, middle..range.end, parts, errors);
            }
        }
    }
}

/// The types that an attribute may arrive with.
const ARRIVING: [DataType; 4] =
    [DataType::Utf8, DataType::Int64, DataType::Float64, DataType::Boolean];

/// Plans `sql` for whatever may arrive. Gives the type of the result where it is the same each
/// time; fails if nothing that may arrive makes it work.
fn prove(
    sql: &SqlExpr,
    names: &[String],
    known: &[Option<DataType>],
) -> Result<Option<DataType>, DataFusionError> {
    let types = |arriving: &DataType| -> Vec<DataType> {
        known.iter().map(|k| k.clone().unwrap_or_else(|| arriving.clone())).collect()
    };
    if known.iter().all(Option::is_some) {
        let compiled = compile::compile(sql, names, &types(&DataType::Null), Fit::Strict)?;
        return Ok(Some(compiled.data_type));
    }
    let mut result: Option<Option<DataType>> = None;
    let mut failed = None;
    for arriving in ARRIVING {
        match compile::compile(sql, names, &types(&arriving), Fit::Strict) {
            Ok(compiled) => {
                let t = Some(compiled.data_type);
                result = Some(match result {
                    None => t,
                    Some(before) if before == t => t,
                    Some(_) => None,
                });
            }
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    match (result, failed) {
        (Some(result), _) => Ok(result),
        (None, failed) => {
            let lenient = compile::compile(sql, names, &types(&DataType::Utf8), Fit::Lenient);
            lenient.map(|_| None).map_err(|e| failed.unwrap_or(e))
        }
    }
}

/// A type in the words of the documentation.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "true or false".into(),
        DataType::Int64 => "a whole number".into(),
        DataType::Float64 => "a number".into(),
        DataType::Utf8 => "text".into(),
        DataType::Timestamp(..) => "a time".into(),
        other => other.to_string(),
    }
}
