//! From columns to the rows of the machine, and from its rows to texts.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use weir_pipeline::batch::Batch;
use weir_pipeline::component::OperatorError;
use weir_pipeline::expression::Expression;

use super::instance::{Details, Key};
use super::machine::{Mode, Row};
use super::{Alert, Watch};
use crate::notify::{excerpt, sha256_hex};
use crate::template::json_value;

/// Longest `by` value in a label, in characters: labels stand in every notice and in the log.
const LABEL_CHARS_MAX: usize = 256;

impl Alert {
    /// Rows that can change anything.
    pub(super) fn pick(&self, mode: Mode, batch: &Batch, mask: &BooleanArray) -> Vec<usize> {
        let all = self.machine.watches_rows();
        let matches = |i: usize| mask.is_valid(i) && mask.value(i);
        match (mode, batch.entities()) {
            (Mode::Steps, _) => (0..batch.num_rows()).collect(),
            _ if all => (0..batch.num_rows()).collect(),
            (Mode::Series, Some(entities)) => {
                // By key: whether the machine waits for this series, or will by then.
                let mut known = hashbrown::HashMap::new();
                let keys = entities.keys.values();
                let counts = |&i: &usize| {
                    let waits = known.entry(keys[i]).or_insert_with(|| {
                        self.machine.knows_series(|| entities.table.get(keys[i]).fingerprint())
                    });
                    *waits |= matches(i);
                    *waits
                };
                (0..batch.num_rows()).filter(counts).collect()
            }
            _ => (0..batch.num_rows()).filter(|&i| matches(i)).collect(),
        }
    }

    /// Runs rows through the machine; those whose texts are wanted, ascending.
    pub(super) fn machine_rows(
        &mut self,
        watch: &Watch,
        mode: Mode,
        rows: &Batch,
        truth: &[Option<bool>],
    ) -> Result<Vec<usize>, OperatorError> {
        let text = |by: &Expression| Ok(cast(&by.evaluate(rows)?, &DataType::Utf8)?);
        let by: Vec<ArrayRef> = watch.by.iter().map(text).collect::<Result<_, OperatorError>>()?;
        let times = times(rows, "timestamp");
        self.machine.note_window(
            match (times_at(rows, "window_start"), times_at(rows, "window_end")) {
                (Some(start), Some(end)) => Some(end.saturating_sub(start)),
                _ => None,
            },
        );
        let mut heads = rows.runs().iter().flat_map(|run| std::iter::repeat_n(run, run.rows));
        for (i, truth) in truth.iter().enumerate() {
            let Some(run) = heads.next() else { break };
            let key: Key = by
                .iter()
                .map(|a| {
                    let array = a.as_string::<i32>();
                    let value = array.is_valid(i).then(|| array.value(i));
                    value.filter(|v| !v.is_empty()).map(label)
                })
                .collect();
            let series = rows
                .entities()
                .filter(|_| mode == Mode::Series)
                .map(|e| e.table.get(e.keys.value(i)).fingerprint());
            let time = times
                .as_ref()
                .and_then(|t| t.is_valid(i).then(|| t.as_primitive::<Int64Type>().value(i)));
            let time = time.unwrap_or(run.received);
            // A sender whose clock is ahead: by its word all that it says once that is mended would
            // be old, and nothing would end.
            let time = if mode == Mode::Steps { time } else { time.min(run.received) };
            self.machine.row(Row {
                index: i,
                mode,
                key,
                truth: *truth,
                series,
                time,
                received: run.received,
                offset: run.offset,
            });
        }
        Ok(self.machine.wanted())
    }
}

/// A `by` value as a label: one that is too long is cut, and keeps its identity by its hash.
fn label(value: &str) -> String {
    match value.chars().count() {
        0..=LABEL_CHARS_MAX => value.to_owned(),
        _ => format!("{} #{}", excerpt(value, LABEL_CHARS_MAX), &sha256_hex(value)[..16]),
    }
}

fn times(batch: &Batch, name: &str) -> Option<ArrayRef> {
    let array = batch.array(name)?;
    let nanos = cast(&array, &weir_pipeline::signal::timestamp()).ok()?;
    cast(&nanos, &DataType::Int64).ok()
}

fn times_at(batch: &Batch, name: &str) -> Option<i64> {
    let array = times(batch, name).filter(|a| !a.is_empty() && a.is_valid(0))?;
    Some(array.as_primitive::<Int64Type>().value(0))
}

pub(super) fn rows_mask(len: usize, rows: &[usize]) -> BooleanArray {
    let mut mask = vec![false; len];
    for &row in rows {
        mask[row] = true;
    }
    BooleanArray::from(mask)
}

/// Rendered texts and values of some rows, in their order.
pub(super) fn details(
    watch: &Watch,
    rows: &Batch,
    wanted: &[usize],
) -> Result<Vec<Details>, OperatorError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let rows = rows.filter(&rows_mask(rows.num_rows(), wanted))?;
    let mut details = vec![Details::default(); rows.num_rows()];
    for (name, template) in &watch.annotations {
        for (d, text) in details.iter_mut().zip(template.render(&rows)) {
            d.annotations.insert(name.clone(), text);
        }
    }
    let columns = watch.values.iter().map(|(name, column)| Ok((name, column.evaluate(&rows)?)));
    let columns: Vec<(&String, ArrayRef)> = columns.collect::<Result<_, OperatorError>>()?;
    for (i, d) in details.iter_mut().enumerate() {
        let value: serde_json::Map<String, serde_json::Value> =
            columns.iter().map(|(name, array)| ((*name).clone(), json_value(array, i))).collect();
        d.value = serde_json::Value::Object(value).to_string();
    }
    Ok(details)
}
