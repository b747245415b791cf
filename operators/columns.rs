//! Columns that operators add to the rows that pass through them.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema};
use weir_pipeline::batch::Batch;
use weir_pipeline::component::OperatorError;

/// The rows of `batch` with the columns `added` behind; those that are named in `own`, of an
/// operator of the same type before this one, go.
pub(crate) fn with_columns<'a>(
    batch: &Batch,
    own: impl IntoIterator<Item = &'a str> + Clone,
    added: impl IntoIterator<Item = (Field, ArrayRef)>,
) -> Result<Batch, OperatorError> {
    let rows = batch.rows();
    let schema = rows.schema_ref();
    let is_own = |name: &str| own.clone().into_iter().any(|o| o == name);
    let old = schema.fields().iter().zip(rows.columns());
    let kept = old.filter(|(field, _)| !is_own(field.name()));
    let kept = kept.map(|(field, array)| (field.clone(), array.clone()));
    let added = added.into_iter().map(|(field, array)| (Arc::new(field), array));
    let (fields, arrays): (Vec<Arc<Field>>, Vec<ArrayRef>) = kept.chain(added).unzip();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    Ok(batch.with_rows(RecordBatch::try_new_with_options(schema, arrays, &options)?)?)
}

/// A column that any row may lack.
pub(crate) fn nullable(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}
