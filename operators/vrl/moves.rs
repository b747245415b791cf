//! Programs that only rename, copy, drop or set columns: `.a = del(.b)`, `.a = .b`, `.a = "x"`,
//! `del(.b)`. They run on columns, not on rows.

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Float64Type, TimeUnit};
use vrl::parser::ast::{
    Assignment, AssignmentOp, AssignmentTarget, Expr, FunctionCall, Literal, QueryTarget, RootExpr,
};
use vrl::path::{OwnedValuePath, PathPrefix};
use vrl::value::Value;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{OperatorError, Output};
use weir_pipeline::signal::Signal;

use super::assemble::{Touched, assemble};
use super::column::{Cell, column, field};
use super::flat::Flat;
use super::values::{check, is_json};
use crate::entities::Entities;

/// A program of moves. Columns are indices into the names of its [`Flat`].
#[derive(Debug)]
pub(super) struct Moves(Vec<Move>);

#[derive(Debug)]
struct Move {
    /// The column that is set.
    to: Option<usize>,
    from: From,
}

#[derive(Clone, Debug)]
enum From {
    /// A column, which is deleted or stays.
    Column {
        index: usize,
        delete: bool,
    },
    Literal(Value),
}

impl Moves {
    /// `text`, if it is nothing but moves. It compiles, and its paths are those of `flat`.
    pub(super) fn of(text: &str, flat: &Flat) -> Option<Self> {
        let program = vrl::parser::parse(text).ok()?;
        let step = |root: &RootExpr| match root {
            RootExpr::Expr(node) => step(node, flat),
            RootExpr::Error(_) => None,
        };
        program.0.iter().map(|node| step(node)).collect::<Option<_>>().map(Self)
    }
}

fn step(expr: &Expr, flat: &Flat) -> Option<Move> {
    match expr {
        Expr::FunctionCall(call) => Some(Move { to: None, from: deleted(call, flat)? }),
        Expr::Assignment(assignment) => {
            let Assignment::Single { target, op: AssignmentOp::Assign, expr } = &**assignment
            else {
                return None;
            };
            let to = match &**target {
                AssignmentTarget::Query(query) => match &*query.target {
                    QueryTarget::External(PathPrefix::Event) => index(&query.path, flat)?,
                    _ => return None,
                },
                AssignmentTarget::External(Some(path)) if path.prefix == PathPrefix::Event => {
                    index(&path.path, flat)?
                }
                _ => return None,
            };
            Some(Move { to: Some(to), from: source(expr, flat)? })
        }
        _ => None,
    }
}

fn source(expr: &Expr, flat: &Flat) -> Option<From> {
    match expr {
        Expr::FunctionCall(call) => deleted(call, flat),
        Expr::Query(_) => Some(From::Column { index: queried(expr, flat)?, delete: false }),
        Expr::Literal(literal) => Some(From::Literal(match &**literal {
            Literal::String(text) => Value::from(text.as_literal_string()?),
            Literal::RawString(text) => Value::from(text.as_str()),
            Literal::Integer(v) => Value::Integer(*v),
            Literal::Float(v) => Value::Float(*v),
            Literal::Boolean(v) => Value::Boolean(*v),
            Literal::Null => Value::Null,
            Literal::Regex(_) | Literal::Timestamp(_) => return None,
        })),
        _ => None,
    }
}

/// `del(.path)`.
fn deleted(call: &FunctionCall, flat: &Flat) -> Option<From> {
    let [argument] = call.arguments.as_slice() else { return None };
    let plain = call.ident.as_deref() == "del" && !call.abort_on_error && call.closure.is_none();
    let index = queried(&argument.expr, flat)?;
    (plain && argument.ident.is_none()).then_some(From::Column { index, delete: true })
}

fn queried(expr: &Expr, flat: &Flat) -> Option<usize> {
    let Expr::Query(query) = expr else { return None };
    match &*query.target {
        QueryTarget::External(PathPrefix::Event) => index(&query.path, flat),
        _ => None,
    }
}

fn index(path: &OwnedValuePath, flat: &Flat) -> Option<usize> {
    let found = flat.paths.iter().find(|p| p.path.path == *path)?;
    found.rest.is_root().then_some(found.column)
}

/// What a column holds between two moves.
#[derive(Clone, Debug)]
enum Held {
    Array(ArrayRef),
    /// The same in every row.
    Value(Value),
}

impl Held {
    fn has_value(&self) -> bool {
        match self {
            Self::Array(array) => array.null_count() < array.len(),
            // Null that was set can be deleted.
            Self::Value(_) => true,
        }
    }
}

/// A column while the moves are made.
#[derive(Clone, Debug, Default)]
struct Slot {
    held: Option<Held>,
    touched: bool,
}

/// Runs the moves on `batch`, which is flat. `false` if it has columns of which rows know more:
/// nothing was done then.
pub(super) fn process(
    moves: &Moves,
    flat: &Flat,
    entities: &mut Entities,
    batch: &Batch,
    out: &mut Output,
) -> Result<bool, OperatorError> {
    let rows = batch.num_rows();
    let Some(slots) = moved(moves, flat, batch) else { return Ok(false) };
    let mut touched = Vec::new();
    for (name, slot) in flat.names.iter().zip(slots).filter(|(_, slot)| slot.touched) {
        let Some(column) = rendered(batch.signal(), &name.name, slot.held, rows) else {
            return Ok(false);
        };
        touched.push(column);
    }
    if rows > 0 {
        out.emit(assemble(batch, entities, touched, None)?);
    }
    Ok(true)
}

fn moved(moves: &Moves, flat: &Flat, batch: &Batch) -> Option<Vec<Slot>> {
    let mut slots = flat
        .names
        .iter()
        .map(|name| {
            let held = before(batch, &name.name, name.read)?.map(Held::Array);
            Some(Slot { held, touched: false })
        })
        .collect::<Option<Vec<_>>>()?;
    for Move { to, from } in &moves.0 {
        let held = match from {
            From::Literal(value) => Some(Held::Value(value.clone())),
            From::Column { index, delete: false } => slots[*index].held.clone(),
            From::Column { index, delete: true } => {
                // A row without a value is left as it is.
                let slot = &mut slots[*index];
                slot.touched |= slot.held.as_ref().is_some_and(Held::has_value);
                slot.held.take()
            }
        };
        if let Some(to) = to {
            let held = held.unwrap_or(Held::Value(Value::Null));
            slots[*to] = Slot { held: Some(held), touched: true };
        }
    }
    Some(slots)
}

/// The column `name`, if there is one and it is `wanted`; `None` if it holds what a program sees
/// otherwise than it is: JSON, structures, NaN.
#[allow(clippy::option_option)]
fn before(batch: &Batch, name: &str, wanted: bool) -> Option<Option<ArrayRef>> {
    if let Ok(field) = batch.rows().schema_ref().field_with_name(name)
        && (is_json(field) || !is_plain(field.data_type()))
    {
        return None;
    }
    let array = if wanted { batch.array(name) } else { None };
    let Some(array) = array else { return Some(None) };
    let nan = array
        .as_primitive_opt::<Float64Type>()
        .is_some_and(|a| a.iter().flatten().any(f64::is_nan));
    (is_plain(array.data_type()) && !nan).then_some(Some(array))
}

fn is_plain(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Utf8
            | DataType::Int64
            | DataType::Float64
            | DataType::Boolean
            | DataType::Timestamp(TimeUnit::Nanosecond, _)
    )
}

/// The column that comes out; `None` if values change with it, or do not fit.
fn rendered(signal: &Signal, name: &str, held: Option<Held>, rows: usize) -> Option<Touched> {
    let canonical = signal.canonical_type(name);
    let empty = |kind: &DataType| {
        let array = arrow::array::new_null_array(kind, rows);
        (name.to_owned(), field(name, kind, false), array)
    };
    match held {
        Some(Held::Array(array)) if array.null_count() < array.len() => {
            let kind = array.data_type();
            let fits = match &canonical {
                Some(canonical) => canonical == kind,
                // A time becomes text in a column that is not canonical.
                None => !matches!(kind, DataType::Timestamp(..)),
            };
            let field = field(name, kind, false);
            fits.then(|| (name.to_owned(), field, array))
        }
        Some(Held::Value(value)) if !value.is_null() => {
            check(signal, name, &value).ok()?;
            let (field, one): (Field, ArrayRef) =
                column(signal, name, None, false, &[Cell::Set(Some(&value))]);
            let array = take(&one, &UInt32Array::from(vec![0; rows]), None).ok()?;
            Some((name.to_owned(), field, array))
        }
        _ => {
            let kind = canonical.unwrap_or(DataType::Utf8);
            // It is kept in its form even if it holds nothing.
            (name != "timestamp" || kind == weir_pipeline::signal::timestamp())
                .then(|| empty(&kind))
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
