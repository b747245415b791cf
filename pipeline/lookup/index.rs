//! Finds the rows of a table: by equal keys, by the longest network, by time.

mod spans;

use std::fmt::Debug;
use std::net::IpAddr;

use arrow::array::{ArrayRef, RecordBatch};
use hashbrown::HashMap;

use self::spans::Spans;
use super::network::{Network, Networks};
use super::text::{Canonical, set_key, times};
use crate::diagnostic::nearest;

/// By what rows are found: columns of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexKeys {
    /// Columns whose values are equal to those asked for.
    pub exact: Vec<String>,
    /// Whether capitals make no difference in them.
    pub ignore_case: bool,
    /// Column of the network that holds the address asked for.
    pub network: Option<String>,
    /// Column of the time from which on a row holds: the newest is found that has begun.
    pub since: Option<String>,
    /// Column of the time at which a row ends to hold.
    pub until: Option<String>,
}

/// Rows by their keys.
#[derive(Debug, Default)]
pub struct Index {
    ignore_case: bool,
    groups: HashMap<Box<str>, u32>,
    networks: Option<Networks>,
    /// Where the rows of each cell (a group, or a network of it) begin in `rows`, and where the
    /// last ends.
    starts: Vec<u32>,
    /// Rows, cell by cell; in a cell as in the table.
    rows: Vec<u32>,
    /// Which row of a cell holds when, if that matters.
    spans: Option<Spans>,
    /// Rows that no key finds, because another row has the same.
    doubled: usize,
}

/// What is asked for: one value for each exact column.
pub struct Found<'a> {
    index: &'a Index,
    keys: Vec<Canonical>,
    key: String,
}

impl Index {
    pub(super) fn new(table: &RecordBatch, keys: &IndexKeys) -> Result<Self, String> {
        if table.num_columns() == 0 {
            // JSON without rows says nothing of columns.
            return Ok(Self::default());
        }
        let column = |name: &String| -> Result<&ArrayRef, String> {
            table.column_by_name(name).ok_or_else(|| {
                let schema = table.schema_ref();
                let near = nearest(name, schema.fields().iter().map(|f| f.name().as_str()));
                let hint = near.map(|near| format!(", did you mean `{near}`?"));
                format!("it has no column `{name}`{}", hint.unwrap_or_default())
            })
        };
        let in_column = |name: &str, why: String| format!("column `{name}`: {why}");
        let exact = keys
            .exact
            .iter()
            .map(|name| Canonical::of(column(name)?).map_err(|why| in_column(name, why)));
        let exact: Vec<Canonical> = exact.collect::<Result<_, _>>()?;
        let mut index = Self { ignore_case: keys.ignore_case, ..Self::default() };
        let networks = match &keys.network {
            Some(name) => {
                index.networks = Some(Networks::default());
                Some((name, Canonical::of(column(name)?).map_err(|why| in_column(name, why))?))
            }
            None => None,
        };
        let mut cells: Vec<Option<u32>> = Vec::with_capacity(table.num_rows());
        let mut key = String::new();
        for row in 0..table.num_rows() {
            let group = index.group(&exact, row, &mut key);
            let cell = match (&networks, group) {
                (_, None) => None,
                (None, Some(group)) => Some(group),
                (Some((name, texts)), Some(group)) => {
                    index.network(group, texts.get(row)).map_err(|text| {
                        in_column(name, format!("`{text}` in row {} is no network", row + 1))
                    })?
                }
            };
            cells.push(cell);
        }
        let times = |name: &Option<String>, open: i64| -> Result<Option<Vec<i64>>, String> {
            let Some(name) = name else { return Ok(None) };
            let found = times(column(name)?).map_err(|why| in_column(name, why))?;
            Ok(Some(found.into_iter().map(|t| t.unwrap_or(open)).collect()))
        };
        let (since, until) = (times(&keys.since, i64::MIN)?, times(&keys.until, i64::MAX)?);
        index.lay_out(&cells);
        match since {
            Some(since) => index.spans = Some(index.spans(&since, until.as_deref())),
            None => index.doubled = index.cells().map(|rows| rows.len().saturating_sub(1)).sum(),
        }
        Ok(index)
    }

    /// The group of a row of the table, a new one if need be; `None` if a key has no value.
    fn group(&mut self, exact: &[Canonical], row: usize, key: &mut String) -> Option<u32> {
        set_key(key, exact.iter().map(|k| k.get(row)), self.ignore_case)?;
        let next = self.groups.len() as u32;
        Some(*self.groups.entry_ref(key.as_str()).or_insert(next))
    }

    fn network<'a>(&mut self, group: u32, text: Option<&'a str>) -> Result<Option<u32>, &'a str> {
        let (Some(text), Some(networks)) = (text, &mut self.networks) else { return Ok(None) };
        let network = Network::parse(text).ok_or(text)?;
        Ok(Some(networks.add(group, network)))
    }

    /// Sorts rows by cell.
    fn lay_out(&mut self, cells: &[Option<u32>]) {
        let count = self.networks.as_ref().map_or(self.groups.len(), Networks::len);
        let mut starts = vec![0_u32; count + 1];
        for cell in cells.iter().flatten() {
            starts[*cell as usize + 1] += 1;
        }
        for cell in 0..count {
            starts[cell + 1] += starts[cell];
        }
        let mut next = starts.clone();
        self.rows = vec![0; starts[count] as usize];
        for (row, cell) in (0_u32..).zip(cells) {
            let Some(cell) = cell else { continue };
            let at = &mut next[*cell as usize];
            self.rows[*at as usize] = row;
            *at += 1;
        }
        self.starts = starts;
    }

    fn spans(&self, since: &[i64], until: Option<&[i64]>) -> Spans {
        let mut spans = Spans::default();
        for rows in self.cells() {
            spans.add(rows, since, until);
        }
        spans
    }

    fn cells(&self) -> impl Iterator<Item = &[u32]> {
        self.starts.windows(2).map(|pair| &self.rows[pair[0] as usize..pair[1] as usize])
    }

    /// Rows that are hidden by another with the same key: the last one is found.
    pub fn doubled(&self) -> usize {
        self.doubled
    }

    /// To find rows by the values of these columns, one for each exact column of the table.
    ///
    /// # Errors
    /// If values of one of them have no text.
    pub fn by(&self, columns: &[ArrayRef]) -> Result<Found<'_>, String> {
        let keys = columns.iter().map(Canonical::of).collect::<Result<Vec<_>, _>>()?;
        Ok(Found { index: self, keys, key: String::new() })
    }

    /// All rows whose keys are `texts`, in the order of the table.
    pub fn all(&self, texts: &[&str]) -> &[u32] {
        self.group_of(texts).map_or(&[], |group| self.cell(group))
    }

    /// The row of the table whose keys are `texts`, within the longest network that holds
    /// `address`, at `time`, both only if the index is by them.
    pub fn find(&self, texts: &[&str], address: Option<IpAddr>, time: Option<i64>) -> Option<u32> {
        self.row(self.group_of(texts)?, address, time)
    }

    fn group_of(&self, texts: &[&str]) -> Option<u32> {
        let mut key = String::new();
        set_key(&mut key, texts.iter().map(|t| Some(*t)), self.ignore_case)?;
        self.groups.get(key.as_str()).copied()
    }

    fn row(&self, group: u32, address: Option<IpAddr>, time: Option<i64>) -> Option<u32> {
        match &self.networks {
            None => self.pick(group, time),
            Some(networks) => networks.of(group, address?).find_map(|c| self.pick(c, time)),
        }
    }

    fn cell(&self, cell: u32) -> &[u32] {
        let at = |i: usize| self.starts.get(i).copied().unwrap_or_default() as usize;
        self.rows.get(at(cell as usize)..at(cell as usize + 1)).unwrap_or(&[])
    }

    /// Of the rows of a cell the last one; by time, the last to begin of those that hold at `time`.
    fn pick(&self, cell: u32, time: Option<i64>) -> Option<u32> {
        match &self.spans {
            None => self.cell(cell).last().copied(),
            Some(spans) => spans.at(cell, time?),
        }
    }
}

impl Found<'_> {
    /// As [`Index::find`], for row `row` of the columns asked by.
    pub fn find(&mut self, row: usize, address: Option<IpAddr>, time: Option<i64>) -> Option<u32> {
        let Self { index, keys, key } = self;
        let group = match keys.as_slice() {
            [] => 0,
            [one] if !index.ignore_case => *index.groups.get(one.get(row)?)?,
            many => {
                set_key(key, many.iter().map(|k| k.get(row)), index.ignore_case)?;
                *index.groups.get(key.as_str())?
            }
        };
        index.row(group, address, time)
    }
}
