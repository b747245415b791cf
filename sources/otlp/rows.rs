//! Putting the columns of one request together.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, RecordBatch, RecordBatchOptions, TimestampNanosecondBuilder, UInt32Array,
};
use arrow::datatypes::{Field, Schema};
use weir_pipeline::batch::Keys;
use weir_pipeline::component::{DecodeError, Decoded, DecodedBatch};
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::{META_JSON, Signal};

use super::value::Rejects;
use crate::columns::{AttributeColumns, EntityBuilder, TextBuilder};

/// A time column.
pub(super) struct TimeColumn(TimestampNanosecondBuilder);

impl TimeColumn {
    pub(super) fn with_capacity(rows: usize) -> Self {
        Self(TimestampNanosecondBuilder::with_capacity(rows).with_timezone("UTC"))
    }

    pub(super) fn push(&mut self, nanos: Option<i64>) {
        self.0.append_option(nanos);
    }
}

/// A text column.
pub(super) struct TextColumn {
    name: &'static str,
    builder: TextBuilder,
}

impl TextColumn {
    /// For about `rows` values, out of a body of `bytes`.
    pub(super) fn new(name: &'static str, rows: usize, bytes: usize) -> Self {
        Self { name, builder: TextBuilder::new(rows, bytes) }
    }

    #[inline]
    pub(super) fn push(&mut self, value: Option<&str>) {
        self.builder.push_option(value);
    }
}

/// The row columns of one output. Columns without any value are left out, except `timestamp`.
pub(super) struct Rows {
    output: &'static str,
    signal: Signal,
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
}

impl Rows {
    pub(super) fn new(output: &'static str, signal: Signal) -> Self {
        Self { output, signal, fields: Vec::new(), arrays: Vec::new() }
    }

    pub(super) fn column(&mut self, name: &str, array: ArrayRef) {
        if name == "timestamp" || array.null_count() < array.len() {
            self.fields.push(Field::new(name, array.data_type().clone(), true));
            self.arrays.push(array);
        }
    }

    pub(super) fn times(&mut self, name: &str, mut column: TimeColumn) {
        self.column(name, Arc::new(column.0.finish()));
    }

    /// # Errors
    /// If it takes more than 2 GiB.
    pub(super) fn text(&mut self, column: TextColumn) -> Result<(), DecodeError> {
        self.column(column.name, column.builder.finish(column.name)?);
        Ok(())
    }

    /// A text column all of whose values are JSON.
    ///
    /// # Errors
    /// If it takes more than 2 GiB.
    pub(super) fn json(&mut self, column: TextColumn) -> Result<(), DecodeError> {
        let before = self.fields.len();
        self.text(column)?;
        for field in self.fields.iter_mut().skip(before) {
            field.set_metadata([(META_JSON.to_owned(), "true".to_owned())].into());
        }
        Ok(())
    }

    /// The batch, with record attributes and with the entities of its rows.
    pub(super) fn finish(
        mut self,
        mut attributes: AttributeColumns,
        entities: Vec<EntityBuilder>,
        owner: Vec<u32>,
        table: &Arc<EntityTable>,
        rejects: Rejects,
    ) -> Result<Decoded, DecodeError> {
        attributes.share(&entities, &owner)?;
        let mut used = vec![false; entities.len()];
        owner.iter().for_each(|o| used[*o as usize] = true);
        let names = attributes.names();
        let mut keys = Vec::with_capacity(entities.len());
        for (entity, used) in entities.into_iter().zip(used) {
            keys.push(if used { intern(table, entity.build(&names))? } else { 0 });
        }
        drop(names);
        for (field, array) in attributes.finish()? {
            self.fields.push(field);
            self.arrays.push(if array.len() == owner.len() {
                array
            } else {
                array.slice(0, owner.len())
            });
        }
        let keys = owner.iter().map(|o| keys[*o as usize]).collect();
        self.batch(keys, table, rejects)
    }

    /// The batch, with the key of the entity of each row.
    pub(super) fn batch(
        self,
        keys: Vec<u32>,
        table: &Arc<EntityTable>,
        rejects: Rejects,
    ) -> Result<Decoded, DecodeError> {
        let options = RecordBatchOptions::new().with_row_count(Some(keys.len()));
        let schema = Arc::new(Schema::new(self.fields));
        let rows = RecordBatch::try_new_with_options(schema, self.arrays, &options)
            .map_err(|e| DecodeError::new("internal", e.to_string()))?;
        let entities = Keys { keys: UInt32Array::from(keys), table: table.clone() };
        let batch = DecodedBatch {
            output: self.output,
            signal: self.signal,
            rows,
            entities: Some(entities),
        };
        Ok(Decoded { batches: vec![batch], rejected: rejects.into_inner(), idempotent: false })
    }
}

/// The key of `entity`.
pub(super) fn intern(
    table: &EntityTable,
    entity: weir_pipeline::entity::Entity,
) -> Result<u32, DecodeError> {
    table.intern(entity).map_err(|e| DecodeError::new("collision", e.to_string()))
}
