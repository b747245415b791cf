//! The schema of an edge between two nodes, as far as planning knows it.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;

use crate::signal::Signal;

/// What flows along an edge. After `window` it is closed: a name that is not listed is an error.
/// After a source or `vrl` it is open: any other name may come, and reads as NULL until it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Edge {
    /// What kind of telemetry.
    pub signal: Signal,
    /// Columns that are known, with their type where it is fixed.
    pub columns: BTreeMap<String, Option<DataType>>,
    /// Whether other names may come.
    pub open: bool,
}

impl Edge {
    /// The open edge of a signal: its canonical columns, and whatever else arrives.
    pub fn open(signal: Signal) -> Self {
        let mut columns: BTreeMap<String, Option<DataType>> =
            signal.row_columns().iter().map(|(n, t)| ((*n).to_owned(), Some(t.clone()))).collect();
        for name in signal.entity_columns() {
            columns.insert((*name).to_owned(), Some(DataType::Utf8));
        }
        Self { signal, columns, open: true }
    }

    /// The type of column `name` where planning knows it.
    pub fn column_type(&self, name: &str) -> Option<&DataType> {
        self.columns.get(name)?.as_ref()
    }
}
