//! Which row columns a file gets, and what goes to its JSON column `attributes`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, new_null_array};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use serde_json::{Map, Value as Json};
use weir_pipeline::batch::Batch;
use weir_pipeline::entity::double_text;
use weir_pipeline::signal::{ATTRIBUTES, COLUMNS_MAX, META_JSON, META_ORIGIN};

use crate::error::Result;
use crate::file::{FileColumn, OVERFLOW_KEYS_MAX, Overflow};
use crate::normalise::{TIMESTAMP, common_type, widen_array};
use crate::types::ColumnType;

/// A text attribute that fewer than one row in so many has gets no column.
const RARE: usize = 1_000;

/// The row columns of some batches.
pub(super) struct Columns<'a> {
    batches: &'a [Batch],
    /// Those with a column; `attributes` not among them.
    kept: BTreeMap<Arc<str>, FileColumn>,
    /// Per batch, the JSON column `attributes` of the file.
    attributes: Option<Vec<ArrayRef>>,
    overflow: Overflow,
}

impl<'a> Columns<'a> {
    /// Decides for `batches` of one signal.
    pub(super) fn of(batches: &'a [Batch]) -> Result<Self> {
        let rows: usize = batches.iter().map(Batch::num_rows).sum();
        let names: BTreeSet<Arc<str>> = batches
            .iter()
            .flat_map(|b| b.rows().schema_ref().fields().iter().map(|f| f.name().as_str().into()))
            .collect();
        let signal = batches[0].signal();
        let mut kept = BTreeMap::new();
        let mut counts = Vec::new();
        for name in names.into_iter().filter(|n| &**n != ATTRIBUTES) {
            let arrays = arrays(batches, &name);
            let values: usize = arrays.iter().flatten().map(|a| a.len() - a.null_count()).sum();
            if values == 0 && &*name != TIMESTAMP {
                continue;
            }
            // Where an entity has the name too, only a column can say what a row has.
            let fixed = signal.canonical_type(&name).is_some()
                || batches.iter().any(|b| b.entities().is_some_and(|e| e.table.has(&name)));
            let present: Vec<&ArrayRef> = arrays.iter().flatten().collect();
            let kind = common_type(&present);
            if !fixed && movable(kind) {
                counts.push((values, name.clone()));
            }
            let (json, origin) = metadata(batches, &name);
            let json = json && kind == ColumnType::Text;
            kept.insert(name.clone(), FileColumn { name, kind, json, origin });
        }
        let mut columns = Self { batches, kept, attributes: None, overflow: Overflow::None };
        counts.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let moved: Vec<Arc<str>> = counts
            .into_iter()
            .enumerate()
            .filter(|(i, (values, name))| {
                // JSON is read as text: numbers move there only where there is no room, so that
                // the type of a name does not change with how often it comes.
                let text = columns.kept.get(name).is_some_and(|c| c.kind == ColumnType::Text);
                *i >= COLUMNS_MAX || (text && values * RARE < rows)
            })
            .map(|(_, (_, name))| name)
            .collect();
        columns.move_to_attributes(&moved)?;
        Ok(columns)
    }

    /// What the file gets, sorted by name.
    pub(super) fn columns(&self) -> Vec<FileColumn> {
        let mut columns: Vec<FileColumn> = self.kept.values().cloned().collect();
        if self.attributes.is_some() {
            let name = ATTRIBUTES.into();
            columns.push(FileColumn { name, kind: ColumnType::Text, json: true, origin: None });
            columns.sort_by(|a, b| a.name.cmp(&b.name));
        }
        columns
    }

    pub(super) fn overflow(&self) -> Overflow {
        self.overflow.clone()
    }

    /// The column `name` of each batch, as `kind`.
    pub(super) fn parts(&self, name: &str, kind: ColumnType) -> Result<Vec<ArrayRef>> {
        if name == ATTRIBUTES
            && let Some(attributes) = &self.attributes
        {
            return Ok(attributes.clone());
        }
        let arrays = arrays(self.batches, name);
        let parts = self.batches.iter().zip(arrays).map(|(batch, array)| match array {
            Some(array) => widen_array(&array, kind),
            None => Ok(new_null_array(&kind.at_rest(), batch.num_rows())),
        });
        parts.collect()
    }

    fn move_to_attributes(&mut self, moved: &[Arc<str>]) -> Result<()> {
        let given = self.batches.iter().any(|b| b.overflow().is_some_and(has_values));
        if moved.is_empty() && !given {
            return Ok(());
        }
        let mut keys = BTreeSet::new();
        let mut out = Vec::with_capacity(self.batches.len());
        let named: Vec<(&str, bool)> =
            moved.iter().map(|n| (&**n, self.kept.get(n).is_some_and(|c| c.json))).collect();
        for batch in self.batches {
            let objects = with_moved(batch, &named);
            for key in objects.iter().flatten().flat_map(Map::keys) {
                if keys.len() <= OVERFLOW_KEYS_MAX && !keys.contains(key.as_str()) {
                    keys.insert(Arc::<str>::from(key.as_str()));
                }
            }
            let text = objects.into_iter().map(|o| o.map(|o| Json::Object(o).to_string()));
            out.push(Arc::new(text.collect::<StringArray>()) as ArrayRef);
        }
        for name in moved {
            self.kept.remove(name);
        }
        self.overflow = if keys.len() > OVERFLOW_KEYS_MAX {
            Overflow::Many
        } else {
            Overflow::Keys(keys.into_iter().collect())
        };
        self.attributes = Some(out);
        Ok(())
    }
}

/// The objects of the JSON column `attributes` of a batch, with the values of the row columns
/// `moved` (by name, and whether it is text that holds JSON) in them.
pub(crate) fn with_moved(batch: &Batch, moved: &[(&str, bool)]) -> Vec<Option<Map<String, Json>>> {
    let mut objects = given_objects(batch);
    for (name, json) in moved {
        let Some(array) = batch.rows().column_by_name(name) else { continue };
        for (row, object) in objects.iter_mut().enumerate() {
            if array.is_valid(row)
                && let Some(value) = json_value(array, row, *json)
            {
                object.get_or_insert_default().insert((*name).to_owned(), value);
            }
        }
    }
    objects
}

/// The column `name` of each batch, from either level.
fn arrays(batches: &[Batch], name: &str) -> Vec<Option<ArrayRef>> {
    batches.iter().map(|b| b.array(name)).collect()
}

fn metadata(batches: &[Batch], name: &str) -> (bool, Option<Arc<str>>) {
    let fields = batches.iter().filter_map(|b| b.rows().schema_ref().field_with_name(name).ok());
    let mut json = false;
    let mut origin = None;
    for field in fields {
        json |= field.metadata().get(META_JSON).is_some_and(|v| v == "true");
        if origin.is_none() {
            origin = field.metadata().get(META_ORIGIN).map(|o| o.as_str().into());
        }
    }
    (json, origin)
}

fn has_values(array: &ArrayRef) -> bool {
    array.null_count() < array.len()
}

/// Whether values of this type read back from JSON as they were.
pub(crate) fn movable(kind: ColumnType) -> bool {
    matches!(
        kind,
        ColumnType::Bool
            | ColumnType::Int
            | ColumnType::WideInt
            | ColumnType::Double
            | ColumnType::Text
    )
}

/// The objects that the batch's own column `attributes` holds. Text that is no object is kept
/// under the key `attributes`.
fn given_objects(batch: &Batch) -> Vec<Option<Map<String, Json>>> {
    let text = batch.overflow().and_then(|a| a.as_string_opt::<i32>());
    let Some(text) = text else { return vec![None; batch.num_rows()] };
    let parse = |t: &str| match serde_json::from_str(t) {
        Ok(Json::Object(object)) => object,
        _ => Map::from_iter([(ATTRIBUTES.to_owned(), Json::String(t.to_owned()))]),
    };
    text.iter().map(|t| t.map(parse)).collect()
}

fn json_value(array: &ArrayRef, row: usize, json: bool) -> Option<Json> {
    Some(match array.data_type() {
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        DataType::Float64 => {
            let v = array.as_primitive::<Float64Type>().value(row);
            serde_json::Number::from_f64(v).map_or_else(|| double_text(v).into(), Json::Number)
        }
        DataType::Utf8 => {
            let text = array.as_string::<i32>().value(row);
            let parsed = json.then(|| serde_json::from_str(text).ok()).flatten();
            parsed.unwrap_or_else(|| text.into())
        }
        _ => return None,
    })
}
