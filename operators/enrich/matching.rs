//! Which row of the table belongs to a row of the stream.

use std::net::IpAddr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit, TimestampNanosecondType};
use serde_json::Value as Json;
use weir_pipeline::batch::{Batch, Level};
use weir_pipeline::component::OperatorError;
use weir_pipeline::entity::{Entity, Value};
use weir_pipeline::expression::read_columns;
use weir_pipeline::lookup::{Canonical, Index, Lookup};

use super::OnMissing;

/// Columns of the stream that are looked up.
#[derive(Debug)]
pub(super) struct Asked {
    /// In the order of the exact keys of the index.
    pub(super) on: Vec<String>,
    pub(super) address: Option<String>,
    pub(super) time: Option<String>,
}

impl Asked {
    pub(super) fn columns(&self) -> impl Iterator<Item = &String> {
        self.on.iter().chain(&self.address).chain(&self.time)
    }
}

/// What `enrich` was told.
#[derive(Debug)]
pub(super) struct Matcher {
    pub(super) lookup: String,
    pub(super) table: Arc<Lookup>,
    /// `None` for a MaxMind database.
    pub(super) index: Option<Arc<Index>>,
    pub(super) asked: Asked,
    /// New column, and the column of the table.
    pub(super) take: Vec<(String, String)>,
    pub(super) on_missing: OnMissing,
}

/// What was found for each row of a batch, or for an entity.
pub(super) enum Found {
    /// Rows of the table.
    Rows(Vec<Option<u32>>),
    /// Records of a MaxMind database.
    Records(Vec<Option<Arc<Json>>>),
}

impl Found {
    /// Whether there is anything for row `row`.
    pub(super) fn is_some(&self, row: usize) -> bool {
        match self {
            Self::Rows(rows) => rows[row].is_some(),
            Self::Records(records) => records[row].is_some(),
        }
    }
}

impl Matcher {
    /// Whether all that matters of `batch` stands at its entities, and what is added can too.
    pub(super) fn suits_entities(&self, batch: &Batch) -> bool {
        if batch.entities().is_none() || self.asked.time.is_some() || batch.overflow().is_some() {
            return false;
        }
        let at_row = |name: &str| {
            batch.level(name) == Some(Level::Row)
                || batch.signal().row_columns().iter().any(|(canonical, _)| *canonical == name)
        };
        let is_time = |column: &str| {
            let schema = self.table.schema();
            let field = schema.as_ref().and_then(|s| s.field_with_name(column).ok());
            field.is_some_and(|f| matches!(f.data_type(), DataType::Timestamp(..)))
        };
        !self.asked.columns().any(|name| at_row(name))
            && !self.take.iter().any(|(new, column)| at_row(new) || is_time(column))
    }

    /// What belongs to the rows of `batch`.
    pub(super) fn rows(&self, batch: &Batch) -> Result<Found, OperatorError> {
        let names: Vec<String> = self.asked.columns().cloned().collect();
        let mut columns = read_columns(batch, &names, &vec![None; names.len()])?;
        let others = columns.split_off(self.asked.on.len());
        let column = |name: &String| -> ArrayRef {
            let at = names[self.asked.on.len()..].iter().position(|n| n == name);
            at.map_or_else(
                || new_null_array(&DataType::Utf8, batch.num_rows()),
                |at| others[at].clone(),
            )
        };
        let addresses = match &self.asked.address {
            Some(name) => Some(addresses(&column(name))?),
            None => None,
        };
        let address = |row: usize| addresses.as_ref().and_then(|a| a[row]);
        let Some(index) = &self.index else {
            return self.records(batch.num_rows(), address);
        };
        let times = match &self.asked.time {
            Some(name) => {
                let nanos = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
                Some(cast(&column(name), &nanos)?)
            }
            None => None,
        };
        let times = times.as_ref().map(|t| t.as_primitive::<TimestampNanosecondType>());
        let time =
            |row: usize| times.filter(|times| times.is_valid(row)).map(|times| times.value(row));
        let mut found = index.by(&columns).map_err(OperatorError::new)?;
        let rows = 0..batch.num_rows();
        Ok(Found::Rows(rows.map(|row| found.find(row, address(row), time(row))).collect()))
    }

    fn records(
        &self,
        rows: usize,
        address: impl Fn(usize) -> Option<IpAddr>,
    ) -> Result<Found, OperatorError> {
        let mut known = hashbrown::HashMap::<IpAddr, Option<Arc<Json>>>::new();
        let mut records = Vec::with_capacity(rows);
        for row in 0..rows {
            let Some(address) = address(row) else {
                records.push(None);
                continue;
            };
            let record = match known.get(&address) {
                Some(record) => record.clone(),
                None => {
                    let record = self.table.record(address).map_err(OperatorError::new)?;
                    known.entry(address).or_insert(record.map(Arc::new)).clone()
                }
            };
            records.push(record);
        }
        Ok(Found::Records(records))
    }

    /// What belongs to an entity.
    pub(super) fn entity(&self, entity: &Entity) -> Result<Found, OperatorError> {
        let address = self.asked.address.as_ref().and_then(|name| {
            entity.get(name).and_then(|value| value.to_text().trim().parse().ok())
        });
        let Some(index) = &self.index else {
            return self.records(1, |_| address);
        };
        let texts: Option<Vec<_>> =
            self.asked.on.iter().map(|name| Some(entity.get(name)?.to_text())).collect();
        let row = texts.and_then(|texts| {
            let texts: Vec<&str> = texts.iter().map(|t| &**t).collect();
            index.find(&texts, address, None)
        });
        Ok(Found::Rows(vec![row]))
    }

    /// Why nothing was found.
    pub(super) fn missing(&self, value: impl Fn(&str) -> Option<String>) -> OperatorError {
        let said: Vec<String> = self
            .asked
            .columns()
            .map(|name| match value(name) {
                Some(value) => format!("`{name}` = `{value}`"),
                None => format!("`{name}` without a value"),
            })
            .collect();
        let lookup = &self.lookup;
        OperatorError::new(format!("lookup `{lookup}` has no row for {}", said.join(", ")))
    }
}

/// Addresses of a text column; what is none is NULL.
fn addresses(column: &ArrayRef) -> Result<Vec<Option<IpAddr>>, OperatorError> {
    let texts = Canonical::of(column).map_err(OperatorError::new)?;
    let mut last: (String, Option<IpAddr>) = (String::new(), None);
    let parsed = (0..column.len()).map(|row| {
        let text = texts.get(row)?;
        if last.0 != text {
            last = (text.to_owned(), text.trim().parse().ok());
        }
        last.1
    });
    Ok(parsed.collect())
}

/// The field of a record at a dotted path.
pub(super) fn field(record: &Json, path: &str) -> Option<Value> {
    let found = path.split('.').try_fold(record, |at, key| match at {
        Json::Array(items) => items.get(key.parse::<usize>().ok()?),
        at => at.get(key),
    });
    Value::of_json(found?)
}
