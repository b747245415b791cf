//! Keeps hot rows within the column limit. What a flush does for a file, in short: names past the
//! limit go to the JSON column `attributes`.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::Value as Json;
use weir_pipeline::batch::Batch;
use weir_pipeline::signal::{ATTRIBUTES, COLUMNS_MAX, META_JSON};

use super::state::State;
use crate::flush::{movable, with_moved};
use crate::types::ColumnType;

impl State {
    /// Columns of `batch`, by number, that would take the hot rows past the limit: those whose
    /// names no hot row has yet. Who comes first has a column until the rows are in files.
    pub(super) fn past_limit(&self, batch: &Batch) -> Vec<usize> {
        let schema = batch.rows().schema_ref();
        if self.hot_columns.len() + schema.fields().len() <= COLUMNS_MAX {
            return Vec::new();
        }
        let signal = batch.signal();
        let counts = |name: &str| name != ATTRIBUTES && signal.canonical_type(name).is_none();
        let row = |name: &str| self.hot_columns.get(name).is_some_and(|c| c.row);
        let mut width = self.hot_columns.values().filter(|c| c.row && counts(&c.name)).count();
        let mut past = Vec::new();
        for (i, field) in schema.fields().iter().enumerate() {
            let name = field.name();
            if !counts(name) || row(name) {
                continue;
            }
            width += 1;
            // Where an entity has the name too, only a column can say what a row has.
            let by_entity = || batch.entities().is_some_and(|e| e.table.has(name));
            let kind = ColumnType::from_arrow(field.data_type());
            if width > COLUMNS_MAX && kind.is_some_and(movable) && !by_entity() {
                past.push(i);
            }
        }
        past
    }
}

/// `batch` with the columns `moved` in `attributes`.
pub(super) fn within_limit(batch: Batch, moved: &[usize]) -> Batch {
    if moved.is_empty() {
        return batch;
    }
    let rows = batch.rows();
    let schema = rows.schema_ref();
    let is_json = |f: &Field| f.metadata().get(META_JSON).is_some_and(|v| v == "true");
    let names: Vec<(&str, bool)> =
        moved.iter().map(|&i| schema.field(i)).map(|f| (f.name().as_str(), is_json(f))).collect();
    let objects = with_moved(&batch, &names).into_iter();
    let texts: StringArray = objects.map(|o| o.map(|o| Json::Object(o).to_string())).collect();
    let mut fields = Vec::with_capacity(schema.fields().len());
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for (i, (field, array)) in schema.fields().iter().zip(rows.columns()).enumerate() {
        if moved.binary_search(&i).is_err() && field.name() != ATTRIBUTES {
            fields.push(field.clone());
            arrays.push(array.clone());
        }
    }
    let json = [(META_JSON.to_owned(), "true".to_owned())];
    let attributes = Field::new(ATTRIBUTES, DataType::Utf8, true).with_metadata(json.into());
    fields.push(Arc::new(attributes));
    arrays.push(Arc::new(texts));
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let narrow = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options);
    // Columns of one length each under its own type always fit together.
    narrow.and_then(|rows| batch.with_rows(rows)).unwrap_or(batch)
}
