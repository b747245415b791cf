//! One attribute column under way.
//!
//! Values of one kind go straight into the Arrow array of that kind. Once another kind comes, the
//! values are kept one by one, and [`build::array`] finds the type that holds them all.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanBuilder, Float64Builder, Int64Builder};
use weir_pipeline::component::DecodeError;

use super::semantic::{self, Kind};
use super::{Cell, TextBuilder, build};

/// No column.
pub(super) const NONE: u32 = u32::MAX;

/// Values of one name.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// The name as it was received first.
    pub(super) received: Box<str>,
    /// The columns that came after this one, the last first: of records with the same attributes
    /// the next one is at hand without a search.
    pub(super) followers: [u32; 2],
    /// One more than the last row that has a value.
    rows: usize,
    /// Values of one kind, one or null for each row so far.
    values: Values,
    /// All values, once they are of more than one kind.
    mixed: Option<Sparse>,
}

#[derive(Debug)]
enum Values {
    Bool(BooleanBuilder),
    Int(Int64Builder),
    Double(Float64Builder),
    Text(TextBuilder),
    Json(TextBuilder),
}

/// Values of any kinds, by ascending row.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) rows: Vec<u32>,
    pub(super) values: build::Values,
}

impl Sparse {
    pub(super) fn push(&mut self, row: usize, value: Cell<'_>) {
        self.rows.push(row as u32);
        self.values.push(value);
    }
}

impl Column {
    /// A column of about `rows` rows, with room for at most `bytes` of text, for values such as
    /// `first`.
    pub(super) fn new(
        name: String,
        received: &str,
        (rows, bytes): (usize, usize),
        first: Cell<'_>,
    ) -> Self {
        let values = match first {
            Cell::Bool(_) => Values::Bool(BooleanBuilder::with_capacity(rows)),
            Cell::Int(_) => Values::Int(Int64Builder::with_capacity(rows)),
            Cell::Double(_) => Values::Double(Float64Builder::with_capacity(rows)),
            Cell::Text(_) => Values::Text(TextBuilder::new(rows, bytes)),
            Cell::Json(_) => Values::Json(TextBuilder::new(rows, bytes)),
        };
        let (received, followers) = (received.into(), [NONE; 2]);
        Self { name, received, followers, rows: 0, values, mixed: None }
    }

    /// Sets the value of `row`, unless it has one. Rows must not go down.
    #[inline]
    pub(super) fn put(&mut self, row: usize, value: Cell<'_>) {
        if row < self.rows {
            return;
        }
        let missing = row - self.rows;
        self.rows = row + 1;
        if let Some(mixed) = &mut self.mixed {
            return mixed.push(row, value);
        }
        if missing > 0 {
            self.values.pad(missing);
        }
        match (&mut self.values, value) {
            (Values::Text(to), Cell::Text(value)) | (Values::Json(to), Cell::Json(value)) => {
                to.push(value);
            }
            (Values::Int(to), Cell::Int(value)) => to.append_value(value),
            (Values::Double(to), Cell::Double(value)) => to.append_value(value),
            (Values::Bool(to), Cell::Bool(value)) => to.append_value(value),
            _ => self.mix().push(row, value),
        }
    }

    /// All values, with room for all kinds.
    fn mix(&mut self) -> &mut Sparse {
        self.mixed.get_or_insert_with(|| self.values.take())
    }

    /// Puts `change` of all values in the place of the values.
    pub(super) fn change(&mut self, change: impl FnOnce(Sparse) -> Sparse) {
        let values = self.mix();
        *values = change(std::mem::take(values));
    }

    /// The array over `rows` rows, and whether all its values are JSON.
    ///
    /// # Errors
    /// If the column takes more than 2 GiB of text.
    pub(super) fn finish(mut self, rows: usize) -> Result<(ArrayRef, bool), DecodeError> {
        let kind = self.values.kind();
        let other = semantic::kind(&self.name).is_some_and(|want| kind != want);
        if other || self.mixed.is_some() {
            self.mix();
            let values = self.mixed.unwrap_or_default();
            return build::array(&values, &self.name, rows);
        }
        self.values.pad(rows.saturating_sub(self.rows));
        Ok(match self.values {
            Values::Bool(mut values) => (Arc::new(values.finish()) as ArrayRef, false),
            Values::Int(mut values) => (Arc::new(values.finish()), false),
            Values::Double(mut values) => (Arc::new(values.finish()), false),
            Values::Text(values) => (values.finish(&self.name)?, false),
            Values::Json(values) => (values.finish(&self.name)?, true),
        })
    }
}

impl Values {
    fn kind(&self) -> Kind {
        match self {
            Self::Bool(_) => Kind::Bool,
            Self::Int(_) => Kind::Int,
            Self::Double(_) => Kind::Double,
            Self::Text(_) | Self::Json(_) => Kind::Text,
        }
    }

    /// Adds `n` rows without a value.
    fn pad(&mut self, n: usize) {
        match self {
            Self::Bool(values) => values.append_nulls(n),
            Self::Int(values) => values.append_nulls(n),
            Self::Double(values) => values.append_nulls(n),
            Self::Text(values) | Self::Json(values) => values.push_nulls(n),
        }
    }

    /// The values so far, which it gives up.
    #[cold]
    fn take(&mut self) -> Sparse {
        fn all<A: Array>(array: &A, push: impl FnMut(usize)) {
            (0..array.len()).filter(|row| array.is_valid(*row)).for_each(push);
        }
        let mut out = Sparse::default();
        match self {
            Self::Text(values) => {
                let values = values.take();
                all(&values, |row| out.push(row, Cell::Text(values.value(row))));
            }
            Self::Json(values) => {
                let values = values.take();
                all(&values, |row| out.push(row, Cell::Json(values.value(row))));
            }
            Self::Bool(values) => {
                let values = values.finish();
                all(&values, |row| out.push(row, Cell::Bool(values.value(row))));
            }
            Self::Int(values) => {
                let values = values.finish();
                all(&values, |row| out.push(row, Cell::Int(values.value(row))));
            }
            Self::Double(values) => {
                let values = values.finish();
                all(&values, |row| out.push(row, Cell::Double(values.value(row))));
            }
        }
        out
    }
}
