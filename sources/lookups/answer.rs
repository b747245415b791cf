//! What a database answers, gathered as text and then given its types.

use arrow::array::{RecordBatch, StringArray, StringBuilder};
use arrow::datatypes::Field;
use weir_pipeline::lookup::BYTES_MAX;

use super::Type;
use super::numbers::numbers;
use super::plain::{batch, typed};

/// What a column of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Of(Type),
    /// A number that may have more digits than an integer or a double.
    Number,
}

/// Rows as text, column by column.
pub(super) struct Columns {
    names: Vec<String>,
    kinds: Vec<Kind>,
    texts: Vec<StringBuilder>,
    bytes: usize,
    rows: usize,
}

impl Columns {
    pub(super) fn new(names: Vec<String>, kinds: Vec<Kind>) -> Result<Self, String> {
        if let Some(i) = (1..names.len()).find(|i| names[..*i].contains(&names[*i])) {
            return Err(format!("the query gives two columns `{}`", names[i]));
        }
        let texts = names.iter().map(|_| StringBuilder::new()).collect();
        Ok(Self { names, kinds, texts, bytes: 0, rows: 0 })
    }

    /// The next value of a column.
    pub(super) fn value(&mut self, column: usize, text: Option<&str>) -> Result<(), String> {
        self.bytes += text.map_or(0, str::len);
        if self.bytes > BYTES_MAX {
            return Err(format!("it gives more than {} MiB", BYTES_MAX >> 20));
        }
        self.texts[column].append_option(text);
        Ok(())
    }

    /// A row is whole.
    pub(super) fn row(&mut self) {
        self.rows += 1;
    }

    pub(super) fn finish(self) -> Result<RecordBatch, String> {
        let rows = self.rows;
        let columns = self.names.into_iter().zip(self.kinds).zip(self.texts);
        let columns = columns.map(|((name, kind), mut text)| {
            let text: StringArray = text.finish();
            let column = match kind {
                Kind::Number => numbers(&text),
                Kind::Of(Type::Time) => typed(&iso(&text), Type::Time),
                Kind::Of(kind) => typed(&text, kind),
            };
            let column = column.map_err(|why| format!("column `{name}`: {why}"))?;
            Ok((Field::new(name, column.data_type().clone(), true), column))
        });
        batch(columns.collect::<Result<Vec<_>, String>>()?, rows)
    }
}

/// Times as databases write them, as RFC 3339 has it: `2026-01-31 12:00:00+00`. MySQL's day 0 is
/// no time.
fn iso(times: &StringArray) -> StringArray {
    let times = times.iter().map(|time| {
        let time = time.filter(|t| !t.starts_with("0000-00-00"))?.replacen(' ', "T", 1);
        match time.rfind(['+', '-']).filter(|at| *at > "2026-01-31T".len()) {
            Some(at) if time.len() - at == "+00".len() => Some(format!("{time}:00")),
            _ => Some(time),
        }
    });
    times.collect()
}
