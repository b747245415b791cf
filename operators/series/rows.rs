//! Rows that say something of series.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, RecordBatchOptions,
    StringArray, TimestampNanosecondArray, UInt32Array,
};
use arrow::datatypes::{DataType, Schema};
use weir_pipeline::batch::{Batch, Keys, Run, TENANT};
use weir_pipeline::component::{OperatorError, Tick};
use weir_pipeline::entity::{Entity, EntitySpace};
use weir_pipeline::signal::Signal;

use crate::columns::nullable;

/// The run of rows that are made at a tick.
pub(crate) fn at_tick(tick: Tick) -> Run {
    Run { offset: tick.offset, received: tick.time, source: "".into(), rows: 0 }
}

/// One row for each of `series`, with the columns of that many values; those without any are left
/// out. `runs` says where the rows come from.
pub(crate) fn rows<'a>(
    signal: &str,
    space: &EntitySpace,
    series: impl IntoIterator<Item = &'a Arc<Entity>>,
    columns: impl IntoIterator<Item = (&'static str, ArrayRef)>,
    runs: Arc<[Run]>,
) -> Result<Batch, OperatorError> {
    let table = space.table();
    let keys = series.into_iter().map(|e| table.intern(e.as_ref().clone()));
    let keys = keys.collect::<Result<Vec<u32>, _>>();
    let keys = UInt32Array::from(keys.map_err(|e| OperatorError::new(e.to_string()))?);
    let columns = columns.into_iter().filter(|(_, array)| array.null_count() < array.len());
    let (fields, arrays): (Vec<_>, Vec<_>) =
        columns.map(|(name, array)| (nullable(name, array.data_type().clone()), array)).unzip();
    let options = RecordBatchOptions::new().with_row_count(Some(keys.len()));
    let schema = Arc::new(Schema::new(fields));
    let rows = RecordBatch::try_new_with_options(schema, arrays, &options)?;
    let keys = Keys { keys, table };
    Ok(Batch::new(Signal::named(signal), TENANT.into(), rows, Some(keys), runs)?)
}

pub(crate) fn times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampNanosecondArray>().with_timezone("UTC"))
}

/// What is not finite is NULL.
pub(crate) fn doubles(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.map(|v| v.filter(|v| v.is_finite())).collect::<Float64Array>())
}

pub(crate) fn ints(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

pub(crate) fn texts<T: AsRef<str>>(values: impl Iterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

pub(crate) fn bools(values: impl Iterator<Item = Option<bool>>) -> ArrayRef {
    Arc::new(values.collect::<BooleanArray>())
}

/// Name and type of a column.
pub(crate) type Column = (&'static str, DataType);
