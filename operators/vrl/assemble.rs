//! The batch that comes out, from columns that changed and those that did not.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{Field, Schema};
use weir_pipeline::batch::{Batch, Keys, Run};
use weir_pipeline::component::OperatorError;

use crate::entities::Entities;

/// A column that a program touched, and what it is now.
pub(super) type Touched = (String, Field, ArrayRef);

/// `batch` with other columns in place of those called as in `touched` (sorted by name). Row `i`
/// is the row `from[i]` of `batch`, where rows were dropped or multiplied.
pub(super) fn assemble(
    batch: &Batch,
    entities: &mut Entities,
    touched: Vec<Touched>,
    from: Option<&UInt32Array>,
) -> Result<Batch, OperatorError> {
    let rows = from.map_or(batch.num_rows(), UInt32Array::len);
    let mut fields: Vec<Arc<Field>> = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    let schema = batch.rows().schema_ref();
    let is_touched = |name: &str| touched.iter().any(|(n, ..)| n == name);
    for (field, array) in schema.fields().iter().zip(batch.rows().columns()) {
        if !is_touched(field.name()) {
            fields.push(field.clone());
            arrays.push(match from {
                None => array.clone(),
                Some(from) => take(array, from, None)?,
            });
        }
    }
    let keys = match batch.entities() {
        None => None,
        Some(keys) => {
            let lost = touched.iter().map(|(name, ..)| name).filter(|name| keys.table.has(name));
            Some(entities_of(keys, entities, from, &lost.cloned().collect::<Vec<_>>())?)
        }
    };
    for (name, field, array) in touched {
        // A column without a value is none; the time of a row is always there.
        if array.null_count() < array.len() || name == "timestamp" {
            fields.push(Arc::new(field));
            arrays.push(array);
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let rows = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?;
    let runs = match from {
        None => batch.runs().clone(),
        Some(from) => runs(batch, from),
    };
    Ok(Batch::new(batch.signal().clone(), batch.tenant().clone(), rows, keys, runs)?)
}

/// Names that rows now say themselves leave their entities.
fn entities_of(
    keys: &Keys,
    entities: &mut Entities,
    from: Option<&UInt32Array>,
    lost: &[String],
) -> Result<Keys, OperatorError> {
    let keys = match from {
        None => keys.clone(),
        Some(from) => {
            let of = |&i: &u32| keys.keys.value(i as usize);
            let new = UInt32Array::from_iter_values(from.values().iter().map(of));
            Keys { keys: new, table: keys.table.clone() }
        }
    };
    if lost.is_empty() { Ok(keys) } else { entities.without(&keys, lost) }
}

fn runs(batch: &Batch, from: &UInt32Array) -> Arc<[Run]> {
    let mut rest = from.values().iter().peekable();
    let mut end = 0;
    let mut runs = Vec::new();
    for run in batch.runs().iter() {
        end += run.rows;
        let mut rows = 0;
        while rest.next_if(|&&row| (row as usize) < end).is_some() {
            rows += 1;
        }
        if rows > 0 {
            runs.push(Run { rows, ..run.clone() });
        }
    }
    runs.into()
}
