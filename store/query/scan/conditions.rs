//! What rows must meet to be in the answer.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, BooleanBufferBuilder, RecordBatch, RecordBatchOptions};
use arrow::buffer::BooleanBuffer;
use arrow::compute;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};

use super::column::mask;
use super::file::Columns;
use crate::file::FileEntry;

type Expr = Arc<dyn PhysicalExpr>;

/// Conditions that must all be true.
#[derive(Clone, Debug, Default)]
pub(super) struct Filters {
    /// Those of the table that is read: they say which rows the query may see at all.
    own: Vec<Expr>,
    /// Those that the query asks. They may fail on a value (a cast, a division), so they are
    /// asked only of rows that `own` leaves.
    asked: Vec<Expr>,
}

impl Filters {
    pub(super) fn new(own: Vec<Expr>, asked: Vec<Expr>) -> Self {
        Self { own, asked }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.asked.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Expr> {
        self.own.iter().chain(&self.asked)
    }

    /// These and one more.
    pub(super) fn and(&self, expr: Expr) -> Self {
        let mut all = self.clone();
        all.asked.push(expr);
        all
    }

    /// Those that `first` holds for, and the others.
    pub(super) fn partition(&self, first: impl Fn(&Expr) -> bool) -> (Self, Self) {
        let parts = |exprs: &[Expr]| exprs.iter().cloned().partition(&first);
        let ((own, other_own), (asked, other_asked)) = (parts(&self.own), parts(&self.asked));
        (Self { own, asked }, Self { own: other_own, asked: other_asked })
    }

    /// Indexes of the columns that they read, sorted.
    pub(super) fn columns(&self) -> Vec<usize> {
        let mut used: Vec<usize> =
            self.iter().flat_map(collect_columns).map(|c| c.index()).collect();
        used.sort_unstable();
        used.dedup();
        used
    }

    /// The same over another schema that has their columns.
    pub(super) fn over(&self, schema: &Schema) -> Result<Self> {
        let remap = |exprs: &[Expr]| -> Result<Vec<Expr>> {
            exprs.iter().map(|e| reassign_expr_columns(e.clone(), schema)).collect()
        };
        Ok(Self { own: remap(&self.own)?, asked: remap(&self.asked)? })
    }

    /// The rows of `batch` for which every condition is true.
    pub(super) fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let seen = all_true(&self.own, batch)?;
        let count = seen.true_count();
        if self.asked.is_empty() || count == 0 {
            return Ok(seen);
        }
        if count == batch.num_rows() {
            return all_true(&self.asked, batch);
        }
        let left = all_true(&self.asked, &compute::filter_record_batch(batch, &seen)?)?;
        let mut kept = BooleanBufferBuilder::new(batch.num_rows());
        kept.append_n(batch.num_rows(), false);
        for (row, keep) in seen.values().set_indices().zip(left.values()) {
            kept.set_bit(row, keep);
        }
        Ok(BooleanArray::new(kept.finish(), None))
    }
}

fn all_true(exprs: &[Expr], batch: &RecordBatch) -> Result<BooleanArray> {
    let mut all: Option<BooleanArray> = None;
    for expr in exprs {
        let one = mask(expr.evaluate(batch)?.into_array(batch.num_rows())?)?;
        let both = match all {
            None => one,
            Some(all) => compute::and(&all, &one)?,
        };
        if both.true_count() == 0 {
            return Ok(both);
        }
        all = Some(both);
    }
    let rows = batch.num_rows();
    Ok(all.unwrap_or_else(|| BooleanArray::new(BooleanBuffer::new_set(rows), None)))
}

/// Conditions over the same columns of a file, remapped to them.
#[derive(Clone, Debug)]
pub(super) struct Conditions {
    pub(super) columns: Columns,
    pub(super) filters: Filters,
}

impl Conditions {
    pub(super) fn new(file: &FileEntry, table: &SchemaRef, filters: &Filters) -> Result<Self> {
        let fields: Vec<FieldRef> =
            filters.columns().iter().map(|&i| table.fields()[i].clone()).collect();
        let columns = Columns::new(file, fields);
        let filters = filters.over(&columns.schema)?;
        Ok(Self { columns, filters })
    }

    pub(super) fn evaluate(&self, arrays: Vec<ArrayRef>, rows: usize) -> Result<BooleanArray> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch =
            RecordBatch::try_new_with_options(self.columns.schema.clone(), arrays, &options)?;
        self.filters.evaluate(&batch)
    }
}
