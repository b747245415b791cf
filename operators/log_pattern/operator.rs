//! The running operator.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanBuilder, StringArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{Operator, OperatorError, Output, Tick};
use weir_pipeline::signal::META_JSON;

use super::miner::Miner;
use super::{CHANGED, ID, NEW, PARAMETERS, TEMPLATE, columns, state};
use crate::columns::{nullable, with_columns};

/// Bytes of a parameter that are kept: the line itself has all of it.
const PARAMETER_BYTES_MAX: usize = 256;

pub(super) struct LogPattern {
    field: String,
    patterns_max: usize,
    parameters: bool,
    miner: Miner,
}

/// Columns as they grow, row by row.
struct Columns {
    id: StringBuilder,
    template: StringBuilder,
    parameters: Option<StringBuilder>,
    new: BooleanBuilder,
    changed: BooleanBuilder,
    /// Room for a JSON array.
    json: String,
    /// The last id as text, and of which slot it is.
    hex: (Option<u64>, String),
}

impl LogPattern {
    pub(super) fn new(field: String, patterns_max: usize, parameters: bool) -> Self {
        Self { field, patterns_max, parameters, miner: Miner::new(patterns_max) }
    }

    /// The text column, if the batch has it as text.
    fn texts(&self, batch: &Batch) -> Option<StringArray> {
        let array = batch.array(&self.field)?;
        match array.data_type() {
            DataType::Utf8 => Some(array.as_string::<i32>().clone()),
            DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => {
                cast(&array, &DataType::Utf8).ok()?.as_string_opt::<i32>().cloned()
            }
            _ => None,
        }
    }
}

impl Columns {
    fn new(rows: usize, parameters: bool) -> Self {
        Self {
            id: StringBuilder::with_capacity(rows, rows * 16),
            template: StringBuilder::with_capacity(rows, rows * 64),
            parameters: parameters.then(|| StringBuilder::with_capacity(rows, rows * 64)),
            new: BooleanBuilder::with_capacity(rows),
            changed: BooleanBuilder::with_capacity(rows),
            json: String::new(),
            hex: (None, String::new()),
        }
    }

    fn push(&mut self, miner: &mut Miner, line: Option<&str>) {
        let found = line.and_then(|line| Some((line, miner.take(line)?)));
        let pattern = found.and_then(|(line, f)| Some((line, f, miner.pattern(f.slot)?)));
        let Some((line, found, pattern)) = pattern else {
            self.id.append_null();
            self.template.append_null();
            self.new.append_null();
            self.changed.append_null();
            if let Some(parameters) = &mut self.parameters {
                parameters.append_null();
            }
            return;
        };
        if self.hex.0 != Some(pattern.id) {
            self.hex.0 = Some(pattern.id);
            self.hex.1.clear();
            let _ = write!(self.hex.1, "{:016x}", pattern.id);
        }
        self.id.append_value(&self.hex.1);
        self.template.append_value(&pattern.template);
        self.new.append_value(found.new);
        self.changed.append_value(found.changed);
        if let Some(parameters) = &mut self.parameters {
            self.json.clear();
            self.json.push('[');
            for parameter in miner.parameters(found.slot, line) {
                if self.json.len() > 1 {
                    self.json.push(',');
                }
                quote(cut(parameter), &mut self.json);
            }
            self.json.push(']');
            parameters.append_value(&self.json);
        }
    }

    /// The columns, in the order of [`columns`].
    fn finish(mut self) -> Vec<ArrayRef> {
        let mut arrays: Vec<ArrayRef> =
            vec![Arc::new(self.id.finish()), Arc::new(self.template.finish())];
        if let Some(mut parameters) = self.parameters {
            arrays.push(Arc::new(parameters.finish()));
        }
        arrays.push(Arc::new(self.new.finish()));
        arrays.push(Arc::new(self.changed.finish()));
        arrays
    }
}

/// No more than [`PARAMETER_BYTES_MAX`] of a text, at a character.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(PARAMETER_BYTES_MAX)).unwrap_or(text)
}

/// Appends a text as JSON.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    let mut done = 0;
    for (at, b) in text.bytes().enumerate() {
        if b >= b' ' && b != b'"' && b != b'\\' {
            continue;
        }
        out.push_str(&text[done..at]);
        done = at + 1;
        match b {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(b));
            }
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b => {
                let _ = write!(out, "\\u{b:04x}");
            }
        }
    }
    out.push_str(&text[done..]);
    out.push('"');
}

/// The rows of the batch with the columns added.
fn with(batch: &Batch, arrays: Vec<ArrayRef>, parameters: bool) -> Result<Batch, OperatorError> {
    let fields = columns(parameters).map(|(name, data_type)| {
        let field = nullable(name, data_type);
        match name {
            PARAMETERS => field.with_metadata([(META_JSON.to_owned(), "true".to_owned())].into()),
            _ => field,
        }
    });
    with_columns(batch, [ID, TEMPLATE, PARAMETERS, NEW, CHANGED], fields.zip(arrays))
}

impl Operator for LogPattern {
    fn process(
        &mut self,
        _input: usize,
        batch: Batch,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let texts = self.texts(&batch);
        let mut columns = Columns::new(batch.num_rows(), self.parameters);
        for row in 0..batch.num_rows() {
            let text = texts.as_ref().filter(|t| t.is_valid(row)).map(|t| t.value(row));
            columns.push(&mut self.miner, text);
        }
        out.emit(with(&batch, columns.finish(), self.parameters)?);
        Ok(())
    }

    fn tick(&mut self, _: Tick, _: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }

    fn watermark(&self, inputs: i64) -> i64 {
        inputs
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
        Ok(state::write(&self.miner))
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), OperatorError> {
        let bad = || OperatorError::new("malformed state of a log_pattern operator");
        self.miner = state::read(self.patterns_max, state).ok_or_else(bad)?;
        Ok(())
    }

    fn flush(&mut self, _: Tick, _: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }
}
