//! Values of an expression over entity columns alone, kept per entity.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute;
use arrow::datatypes::DataType;

use super::{Core, columns};
use crate::batch::{Batch, Keys};

/// Tables whose values are kept; the least recently used goes.
const TABLES_MAX: usize = 8;

/// What was computed, most recently used first.
#[derive(Debug, Default)]
pub(super) struct Cache(Vec<Known>);

#[derive(Debug)]
struct Known {
    table: u64,
    types: Vec<DataType>,
    /// One value per entity, in key order; `None` if one of them fails, so that each batch has
    /// to look at its own.
    values: Option<ArrayRef>,
    entities: usize,
}

/// One value per row, by the entity of each row. `None` if the entities disagree on types or one
/// fails: then the batch itself has to be evaluated.
pub(super) fn evaluate(core: &Core, batch: &Batch, keys: &Keys) -> Option<ArrayRef> {
    let mut entities = usize::MAX;
    let mut arrays = Vec::with_capacity(core.names.len());
    for (name, known) in core.names.iter().zip(&core.known) {
        let column = keys.table.column(name);
        if column.as_ref().is_some_and(|c| !c.uniform) {
            return None;
        }
        let absent = || columns::absent_type(batch.signal(), name, known.as_ref());
        if let Some(c) = &column {
            entities = entities.min(c.values.len());
        }
        arrays.push(column.map_or_else(|| Err(absent()), |c| Ok(c.values)));
    }
    if entities == usize::MAX {
        return None;
    }
    let arrays: Vec<ArrayRef> = arrays
        .into_iter()
        .map(|a| match a {
            Ok(values) => values.slice(0, entities),
            Err(t) => arrow::array::new_null_array(&t, entities),
        })
        .collect();
    let values = all(core, keys.table.id(), &arrays, entities)?;
    compute::take(&values, &keys.keys, None).ok()
}

/// Values of all entities: what is kept, extended by the new ones.
fn all(core: &Core, table: u64, arrays: &[ArrayRef], entities: usize) -> Option<ArrayRef> {
    let types: Vec<DataType> = arrays.iter().map(|a| a.data_type().clone()).collect();
    let mut cache = core.entities.lock();
    let place = cache.0.iter().position(|k| k.table == table && k.types == types);
    let before = place.map(|i| cache.0.remove(i));
    let known = match before {
        Some(known) if known.entities >= entities => known,
        Some(Known { values: None, .. }) => Known { table, types, values: None, entities },
        before => {
            let start = before.as_ref().map_or(0, |k| k.entities);
            let new = core.compiled(&types).and_then(|c| c.evaluate(arrays, start..entities)).ok();
            let old = before.and_then(|k| k.values);
            let values = match (old, new) {
                (Some(old), Some(new)) => compute::concat(&[&old, &new]).ok(),
                (None, new) => new,
                (_, None) => None,
            };
            Known { table, types, values, entities }
        }
    };
    let values = known.values.clone();
    cache.0.retain(|k| k.table != table);
    cache.0.insert(0, known);
    cache.0.truncate(TABLES_MAX);
    values
}

/// The cache shared by the clones of one expression.
pub(super) type Shared = Arc<parking_lot::Mutex<Cache>>;
