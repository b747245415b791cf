//! Rows in an order of their own, where who gives them gives them in any.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{SortColumn, lexsort_to_indices, take_record_batch};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};

/// The rows sorted by their values, column by column.
///
/// # Errors
/// If a column has no order.
pub fn in_order(rows: &RecordBatch) -> Result<RecordBatch, String> {
    if rows.num_columns() == 0 || rows.num_rows() < 2 {
        return Ok(rows.clone());
    }
    let sort = || {
        let fields = rows.schema_ref().fields().iter();
        let fields = fields.map(|f| SortField::new(f.data_type().clone())).collect();
        let keys = RowConverter::new(fields)?.convert_columns(rows.columns())?;
        let keys: ArrayRef = Arc::new(keys.try_into_binary()?);
        let column = SortColumn { values: keys, options: None };
        take_record_batch(rows, &lexsort_to_indices(&[column], None)?)
    };
    sort().map_err(|e: ArrowError| e.to_string())
}

/// Whether both have the same rows, each as often, in whatever order.
pub(super) fn same_rows(a: &RecordBatch, b: &RecordBatch) -> bool {
    let alike = a.schema_ref() == b.schema_ref() && a.num_rows() == b.num_rows();
    alike && (a == b || matches!((in_order(a), in_order(b)), (Ok(a), Ok(b)) if a == b))
}
