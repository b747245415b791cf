//! Numbers row tuples: a text that a file has in a dictionary, once per entry of that.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, new_null_array};
use arrow::compute;
use arrow::datatypes::{DataType, Int32Type};
use datafusion::common::Result;
use datafusion::physical_expr_common::physical_expr::is_volatile;

use super::exprs::Exprs;
use super::keys::Ordinals;
use crate::query::scan::column::widen;
use crate::query::scan::read::Rows;

/// The numbers of row tuples.
#[derive(Default)]
pub(super) struct RowTuples {
    dictionary: Option<Dictionary>,
    numbers: Vec<u32>,
}

/// The dictionary of which rows came last, and what its entries are numbered.
struct Dictionary {
    entries: ArrayRef,
    /// The last is that of NULL.
    numbers: Vec<u32>,
}

impl RowTuples {
    /// Forgets all numbers.
    pub(super) fn clear(&mut self) {
        self.dictionary = None;
    }

    pub(super) fn bytes(&self) -> usize {
        let entries = self.dictionary.as_ref().map_or(0, |d| d.numbers.capacity());
        (entries + self.numbers.capacity()) * size_of::<u32>()
    }

    /// The number of the tuple of each row; `None` if there are no columns.
    pub(super) fn number(
        &mut self,
        rows: &Rows,
        exprs: &Exprs,
        ordinals: &mut Ordinals,
    ) -> Result<Option<&[u32]>> {
        if ordinals.is_constant() {
            return Ok(None);
        }
        self.numbers.clear();
        if let Some(column) = rows.dictionary(&exprs.part)
            && self.learn(column, exprs, ordinals)?
            && let Some(dictionary) = &self.dictionary
        {
            let keys = column.as_dictionary::<Int32Type>().keys();
            let of = &dictionary.numbers;
            let null = of.len() - 1;
            match keys.nulls() {
                None => self.numbers.extend(keys.values().iter().map(|&k| of[k as usize])),
                Some(_) => {
                    let places = keys.iter().map(|k| k.map_or(null, |k| k as usize));
                    self.numbers.extend(places.map(|k| of[k]));
                }
            }
            return Ok(Some(&self.numbers));
        }
        let numbers = ordinals.number(&exprs.of(rows)?)?;
        self.numbers.extend(numbers.iter().map(|&n| n as u32));
        Ok(Some(&self.numbers))
    }

    /// Numbers the entries of a dictionary; `false` if that cannot be: an entry that no row has may
    /// be one that the expression fails on.
    fn learn(&mut self, column: &ArrayRef, exprs: &Exprs, ordinals: &mut Ordinals) -> Result<bool> {
        let entries = column.as_dictionary::<Int32Type>().values();
        if self.dictionary.as_ref().is_some_and(|d| same(&d.entries, entries)) {
            return Ok(true);
        }
        let kind = exprs.part.schema.field(0).data_type();
        let null = new_null_array(kind, 1);
        let all = compute::concat(&[&widen(entries, kind)?, &null])?;
        let rows = all.len();
        let Ok(tuples) = exprs.evaluate(vec![all], rows) else { return Ok(false) };
        let numbers = ordinals.number(&tuples)?.iter().map(|&n| n as u32).collect();
        self.dictionary = Some(Dictionary { entries: entries.clone(), numbers });
        Ok(true)
    }
}

/// Whether two arrays are one and the same.
fn same(a: &ArrayRef, b: &ArrayRef) -> bool {
    Arc::ptr_eq(a, b) || a.to_data().ptr_eq(&b.to_data())
}

/// Names of columns that are best read as dictionaries: what a lone row expression is over, if it
/// gives the same for the same text.
pub(super) fn dictionaries(exprs: &Exprs) -> Vec<String> {
    if exprs.iter().any(is_volatile) {
        return Vec::new();
    }
    match &**exprs.part.schema.fields() {
        [field] if *field.data_type() == DataType::Utf8 && exprs.iter().count() == 1 => {
            vec![field.name().clone()]
        }
        _ => Vec::new(),
    }
}
