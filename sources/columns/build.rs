//! From sparse values of mixed kinds to Arrow arrays.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBuilder, Float64Builder, Int64Builder};
use weir_pipeline::component::DecodeError;
use weir_pipeline::entity::{double_text, int_fits_double};
use weir_pipeline::signal::ATTRIBUTES;

use super::column::Sparse;
use super::semantic::{self, Kind};
use super::{Cell, TextBuilder};
use crate::json;

/// A value whose text lies in [`Values::text`].
#[derive(Clone, Copy, Debug)]
enum Packed {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(usize, u32),
    Json(usize, u32),
}

/// Values of mixed kinds, one after another.
#[derive(Debug, Default)]
pub(super) struct Values {
    packed: Vec<Packed>,
    text: String,
}

/// Where a value of a new list of values comes from.
pub(super) enum Pick<'a> {
    /// The value at this index of the old list.
    Own(usize),
    /// This one.
    Other(Cell<'a>),
}

impl Values {
    pub(super) fn push(&mut self, value: Cell<'_>) {
        let mut keep = |text: &str| {
            let start = self.text.len();
            self.text.push_str(text);
            (start, text.len() as u32)
        };
        self.packed.push(match value {
            Cell::Bool(v) => Packed::Bool(v),
            Cell::Int(v) => Packed::Int(v),
            Cell::Double(v) => Packed::Double(v),
            Cell::Text(v) => {
                let (start, len) = keep(v);
                Packed::Text(start, len)
            }
            Cell::Json(v) => {
                let (start, len) = keep(v);
                Packed::Json(start, len)
            }
        });
    }

    fn cell(&self, packed: Packed) -> Cell<'_> {
        let text =
            |start: usize, len: u32| self.text.get(start..start + len as usize).unwrap_or_default();
        match packed {
            Packed::Bool(v) => Cell::Bool(v),
            Packed::Int(v) => Cell::Int(v),
            Packed::Double(v) => Cell::Double(v),
            Packed::Text(start, len) => Cell::Text(text(start, len)),
            Packed::Json(start, len) => Cell::Json(text(start, len)),
        }
    }

    fn iter(&self) -> impl Iterator<Item = Cell<'_>> {
        self.packed.iter().map(|p| self.cell(*p))
    }

    /// A new list, picked from this one and from outside.
    pub(super) fn picked(&self, order: &[Pick<'_>]) -> Self {
        let mut out = Self::default();
        for pick in order {
            match pick {
                Pick::Own(i) => {
                    if let Some(packed) = self.packed.get(*i) {
                        out.push(self.cell(*packed));
                    }
                }
                Pick::Other(value) => out.push(*value),
            }
        }
        out
    }

    /// The kind of column that holds all values.
    fn kind(&self, name: &str) -> Kind {
        if let Some(kind) = semantic::kind(name)
            && self.iter().all(|v| semantic::fits(v, kind))
        {
            return kind;
        }
        let (mut bools, mut ints, mut doubles, mut exact) = (false, false, false, true);
        for value in &self.packed {
            match value {
                Packed::Bool(_) => bools = true,
                Packed::Int(v) => {
                    ints = true;
                    exact &= int_fits_double(*v);
                }
                Packed::Double(_) => doubles = true,
                Packed::Text(..) | Packed::Json(..) => return Kind::Text,
            }
        }
        match (bools, ints, doubles) {
            (true, false, false) => Kind::Bool,
            (false, true, false) => Kind::Int,
            (false, false, true) => Kind::Double,
            (false, true, true) if exact => Kind::Double,
            _ => Kind::Text,
        }
    }
}

/// A value as text.
pub(super) fn text(value: Cell<'_>) -> Cow<'_, str> {
    match value {
        Cell::Bool(v) => if v { "true" } else { "false" }.into(),
        Cell::Int(v) => v.to_string().into(),
        Cell::Double(v) => double_text(v).into(),
        Cell::Text(v) | Cell::Json(v) => v.into(),
    }
}

/// The array of the column `name` over `rows` rows, and whether all its values are JSON.
pub(super) fn array(
    column: &Sparse,
    name: &str,
    rows: usize,
) -> Result<(ArrayRef, bool), DecodeError> {
    let values = &column.values;
    let kind = values.kind(name);
    let json = values.packed.iter().all(|v| matches!(v, Packed::Json(..)));
    let mut at = column.rows.iter().zip(values.iter()).peekable();
    let mut next = |row: u32| at.next_if(|(r, _)| **r == row).map(|(_, v)| v);
    let all = 0..rows as u32;
    Ok(match kind {
        Kind::Bool => {
            let mut b = BooleanBuilder::with_capacity(rows);
            all.for_each(|row| b.append_option(next(row).and_then(semantic::as_bool)));
            (Arc::new(b.finish()) as ArrayRef, false)
        }
        Kind::Int => {
            let mut b = Int64Builder::with_capacity(rows);
            all.for_each(|row| b.append_option(next(row).and_then(semantic::as_int)));
            (Arc::new(b.finish()), false)
        }
        Kind::Double => {
            let mut b = Float64Builder::with_capacity(rows);
            all.for_each(|row| b.append_option(next(row).and_then(semantic::as_double)));
            (Arc::new(b.finish()), false)
        }
        Kind::Text => {
            let mut b = TextBuilder::new(rows, values.text.len());
            for row in all {
                b.push_option(next(row).map(text).as_deref());
            }
            (b.finish(name)?, json)
        }
    })
}

/// The JSON column: one object per row that has names without a column.
pub(super) fn overflow(
    column: &Sparse,
    names: &[String],
    rows: usize,
) -> Result<ArrayRef, DecodeError> {
    let mut b = TextBuilder::new(rows, column.values.text.len());
    let mut at = column.rows.iter().zip(names).zip(column.values.iter()).peekable();
    let mut object = String::new();
    let mut row_values: Vec<(&str, Cell<'_>)> = Vec::new();
    for row in 0..rows as u32 {
        row_values.clear();
        while let Some(((_, name), value)) = at.next_if(|((r, _), _)| **r == row) {
            row_values.push((name, value));
        }
        if row_values.is_empty() {
            b.push_nulls(1);
            continue;
        }
        // Stable, so that of a name given twice the first value stays.
        row_values.sort_by(|a, b| a.0.cmp(b.0));
        row_values.dedup_by(|later, first| later.0 == first.0);
        object.clear();
        json_object(row_values.iter().copied(), &mut object);
        b.push(&object);
    }
    b.finish(ATTRIBUTES)
}

/// Writes a JSON object.
pub(crate) fn json_object<'a>(
    members: impl Iterator<Item = (&'a str, Cell<'a>)>,
    out: &mut String,
) {
    out.push('{');
    for (i, (name, value)) in members.enumerate() {
        if i > 0 {
            out.push(',');
        }
        json::text(name, out);
        out.push(':');
        json_value(value, out);
    }
    out.push('}');
}

/// Writes a value as JSON.
pub(crate) fn json_value(value: Cell<'_>, out: &mut String) {
    match value {
        Cell::Bool(v) => out.push_str(if v { "true" } else { "false" }),
        Cell::Int(v) => {
            let _ = write!(out, "{v}");
        }
        Cell::Double(v) => json::double(v, out),
        Cell::Text(v) => json::text(v, out),
        Cell::Json(v) => out.push_str(v),
    }
}
