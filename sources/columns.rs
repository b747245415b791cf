//! Attribute columns: what every decoder builds out of names and values that only the data knows.
//!
//! [`AttributeColumns`] takes the record attributes of one journal entry and gives row columns;
//! [`EntityBuilder`] takes what rows have in common and gives an entity. Types are decided within
//! the entry: the type of the semantic conventions where every value casts to it without loss,
//! else the narrowest of int, double, bool and text that holds all values.

mod build;
mod column;
mod entity;
mod semantic;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use build::{json_object, json_value};
pub(crate) use entity::EntityBuilder;
pub(crate) use text::TextBuilder;

use arrow::array::ArrayRef;
use arrow::datatypes::Field;
use hashbrown::{HashMap, HashSet};
use weir_pipeline::component::DecodeError;
use weir_pipeline::entity::Value;
use weir_pipeline::signal::{ATTRIBUTES, COLUMNS_MAX, META_JSON, META_ORIGIN, Signal};

use self::column::{Column, NONE, Sparse};

/// Longest name that becomes a column, in bytes; longer ones go to `attributes`.
const NAME_BYTES_MAX: usize = 1 << 10;

/// Most cells (rows times attribute columns) of one entry: a wide entry of very many rows gets
/// fewer columns, so that a small payload of sparse attributes cannot take gigabytes.
const CELLS_MAX: usize = 32 << 20;

/// One attribute value, borrowed from the payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    /// A boolean.
    Bool(bool),
    /// A 64-bit integer.
    Int(i64),
    /// A double.
    Double(f64),
    /// Text.
    Text(&'a str),
    /// An array or another structure, as JSON text.
    Json(&'a str),
}

impl Cell<'_> {
    /// The value for an entity.
    pub(crate) fn to_value(self) -> Value {
        match self {
            Self::Bool(v) => Value::Bool(v),
            Self::Int(v) => Value::Int(v),
            Self::Double(v) => Value::Double(v),
            Self::Text(v) => Value::Text(v.into()),
            Self::Json(v) => Value::Json(v.into()),
        }
    }
}

impl<'a> From<&'a Value> for Cell<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Bool(v) => Self::Bool(*v),
            Value::Int(v) => Self::Int(*v),
            Value::Double(v) => Self::Double(*v),
            Value::Text(v) => Self::Text(v),
            Value::Json(v) => Self::Json(v),
        }
    }
}

/// Where a name goes.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// The column with this index.
    Column(u32),
    /// The JSON column.
    Overflow,
}

/// Builder of the record attribute columns of one entry. Rows come in ascending order.
#[derive(Debug)]
pub(crate) struct AttributeColumns {
    signal: Signal,
    rows: usize,
    /// Bytes of text for which columns may still make room before it comes.
    bytes: usize,
    columns: Vec<Column>,
    /// The column that was set last.
    last: u32,
    /// By name as received and by column name.
    places: HashMap<String, Place>,
    /// Columns that still may be opened.
    room: usize,
    /// Names that entities of this entry have. They have room of their own.
    entity_names: HashSet<String>,
    shared: usize,
    /// Names of entities for which there was no room.
    hidden: HashSet<String>,
    overflow: Sparse,
    overflow_names: Vec<String>,
}

impl AttributeColumns {
    /// For an entry of `rows` rows and about `bytes` that belong to `entities` (empty if a record
    /// attribute cannot have the name of one of theirs).
    pub(crate) fn new(
        signal: Signal,
        (rows, bytes): (usize, usize),
        entities: &[EntityBuilder],
    ) -> Self {
        let entity_names = entities.iter().flat_map(EntityBuilder::names).map(Into::into).collect();
        Self {
            signal,
            rows,
            bytes,
            columns: Vec::new(),
            last: NONE,
            places: HashMap::new(),
            room: COLUMNS_MAX.min(CELLS_MAX / rows.max(1)),
            entity_names,
            shared: 0,
            hidden: HashSet::new(),
            overflow: Sparse::default(),
            overflow_names: Vec::new(),
        }
    }

    /// Sets the attribute `name` of `row`. Rows must not go down; of a name given twice for one
    /// row the first value stays.
    #[inline]
    pub(crate) fn set(&mut self, row: usize, name: &str, value: Cell<'_>) {
        debug_assert!(row < self.rows);
        if let Some(last) = self.columns.get(self.last as usize) {
            for follower in last.followers {
                if let Some(column) = self.columns.get_mut(follower as usize)
                    && *column.received == *name
                {
                    self.last = follower;
                    return column.put(row, value);
                }
            }
        }
        self.set_other(row, name, value);
    }

    /// The same for a name that did not come after the last one yet.
    fn set_other(&mut self, row: usize, name: &str, value: Cell<'_>) {
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => self.open(name, value),
        };
        match place {
            Place::Column(i) => {
                if let Some(last) = self.columns.get_mut(self.last as usize) {
                    last.followers = [i, last.followers[0]];
                }
                self.last = i;
                self.columns[i as usize].put(row, value);
            }
            Place::Overflow => {
                let column = self.signal.attribute_column(name);
                self.overflow.push(row, value);
                self.overflow_names.push(column.into_owned());
            }
        }
    }

    /// Decides where a new name goes, whose first value is `value`. Names in the overflow are not remembered: there may be
    /// millions.
    fn open(&mut self, name: &str, value: Cell<'_>) -> Place {
        let column = attribute_column(&self.signal, name);
        if let Some(place) = self.places.get(&*column).copied() {
            if self.places.len() < 4 * COLUMNS_MAX {
                self.places.insert(name.to_owned(), place);
            }
            return place;
        }
        if column.len() > NAME_BYTES_MAX {
            return Place::Overflow;
        }
        if self.entity_names.contains(&*column) {
            if self.shared == COLUMNS_MAX {
                self.hidden.insert(column.into_owned());
                return Place::Overflow;
            }
            self.shared += 1;
        } else {
            if self.room == 0 {
                return Place::Overflow;
            }
            self.room -= 1;
        }
        let place = Place::Column(self.columns.len() as u32);
        if *column != *name {
            self.places.insert(name.to_owned(), place);
        }
        self.places.insert(column.clone().into_owned(), place);
        if let Cell::Text(text) | Cell::Json(text) = value {
            let room = text.len().saturating_mul(self.rows);
            let size = (self.rows, room.min(self.bytes));
            self.bytes -= size.1;
            self.columns.push(Column::new(column.into_owned(), name, size, value));
        } else {
            self.columns.push(Column::new(column.into_owned(), name, (self.rows, 0), value));
        }
        place
    }

    /// The names that stand at the row level: entities give them up (see
    /// [`EntityBuilder::build`]).
    pub(crate) fn names(&self) -> HashSet<&str> {
        let columns = self.columns.iter().map(|c| c.name.as_str());
        columns.chain(self.hidden.iter().map(String::as_str)).collect()
    }

    /// Fills columns whose names entities have too: a row without a value of its own gets that of
    /// its entity. `owner` is the index in `entities` of each row. (Past the column limit such a
    /// name is only in the rows that set it, and the entity's value under the prefixed name.)
    ///
    /// # Errors
    /// If the columns that this takes are too many.
    pub(crate) fn share(
        &mut self,
        entities: &[EntityBuilder],
        owner: &[u32],
    ) -> Result<(), DecodeError> {
        if self.shared == 0 {
            return Ok(());
        }
        if self.shared.saturating_mul(owner.len()) > CELLS_MAX {
            return Err(DecodeError::new(
                "too_wide",
                format!(
                    "{} names stand on records and on their resources, over {} records; send \
                     fewer records at once",
                    self.shared,
                    owner.len()
                ),
            ));
        }
        let plain: Vec<_> = entities.iter().map(EntityBuilder::plain).collect();
        for column in &mut self.columns {
            if !self.entity_names.contains(&column.name) {
                continue;
            }
            let values: Vec<Option<&Value>> =
                plain.iter().map(|e| e.get(column.name.as_str()).copied()).collect();
            column.change(|old| {
                let (mut rows, mut order) = (Vec::new(), Vec::new());
                let mut own = 0;
                for (row, &entity) in (0_u32..).zip(owner) {
                    if old.rows.get(own) == Some(&row) {
                        order.push(build::Pick::Own(own));
                        own += 1;
                    } else if let Some(value) = values.get(entity as usize).copied().flatten() {
                        order.push(build::Pick::Other(value.into()));
                    } else {
                        continue;
                    }
                    rows.push(row);
                }
                Sparse { rows, values: old.values.picked(&order) }
            });
        }
        Ok(())
    }

    /// The columns, in order of first appearance, and `attributes` last if there is need of it.
    ///
    /// # Errors
    /// If a column takes more than 2 GiB of text.
    pub(crate) fn finish(self) -> Result<Vec<(Field, ArrayRef)>, DecodeError> {
        let mut out = Vec::with_capacity(self.columns.len() + 1);
        for column in self.columns {
            let name = column.name.clone();
            let (array, json) = column.finish(self.rows)?;
            let mut metadata = vec![(META_ORIGIN.to_owned(), "record".to_owned())];
            if json {
                metadata.push((META_JSON.to_owned(), "true".to_owned()));
            }
            let field = Field::new(name, array.data_type().clone(), true);
            out.push((field.with_metadata(metadata.into_iter().collect()), array));
        }
        if !self.overflow_names.is_empty() {
            let array = build::overflow(&self.overflow, &self.overflow_names, self.rows)?;
            let field = Field::new(ATTRIBUTES, array.data_type().clone(), true);
            let metadata = [(META_JSON.to_owned(), "true".to_owned())];
            out.push((field.with_metadata(metadata.into()), array));
        }
        Ok(out)
    }
}

/// [`Signal::attribute_column`], with a name for the attribute without one.
fn attribute_column<'a>(signal: &Signal, name: &'a str) -> std::borrow::Cow<'a, str> {
    if name.is_empty() {
        return match signal {
            Signal::Metrics => "label.".into(),
            _ => "attr.".into(),
        };
    }
    signal.attribute_column(name)
}
