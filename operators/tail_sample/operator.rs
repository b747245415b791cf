//! The running operator.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{Operator, OperatorError, Output, Tick};
use weir_pipeline::entity::EntitySpace;

use super::decide::{Kept, REASONS, Rules, Trace};
use super::held::{Held, Rows};
use super::{REASON, TICKS, state};
use crate::columns::{nullable, with_columns};

pub(super) struct TailSample {
    wait: i64,
    spans_max: usize,
    rules: Rules,
    held: Held,
    kept: Kept,
    /// Of the last tick.
    elapsed: i64,
    /// Where the entities of restored rows live.
    entities: EntitySpace,
}

/// Columns of a batch of spans.
struct Spans {
    trace: Option<StringArray>,
    parent: Option<StringArray>,
    duration: Option<Int64Array>,
    status: Option<StringArray>,
    name: Option<StringArray>,
    service: Option<StringArray>,
}

fn text(array: &Option<StringArray>, row: usize) -> Option<&str> {
    let array = array.as_ref()?;
    (array.is_valid(row) && !array.value(row).is_empty()).then(|| array.value(row))
}

impl Spans {
    fn of(batch: &Batch) -> Self {
        let text = |name: &str| {
            let array = cast(&batch.array(name)?, &DataType::Utf8).ok()?;
            array.as_string_opt::<i32>().cloned()
        };
        let duration = batch.array("duration_ns").and_then(|a| cast(&a, &DataType::Int64).ok());
        Self {
            trace: text("trace_id"),
            parent: text("parent_span_id"),
            duration: duration.map(|a| a.as_primitive::<Int64Type>().clone()),
            status: text("status"),
            name: text("name"),
            service: text("service.name"),
        }
    }

    /// What the span at `row` says of its trace.
    fn trace(&self, row: usize) -> Trace {
        let duration = self.duration.as_ref().filter(|d| d.is_valid(row)).map(|d| d.value(row));
        Trace {
            error: text(&self.status, row) == Some("error"),
            slowest: duration.unwrap_or_default(),
            rooted: text(&self.parent, row).is_none(),
            service: text(&self.service, row).unwrap_or_default().into(),
            operation: text(&self.name, row).unwrap_or_default().into(),
        }
    }
}

impl TailSample {
    pub(super) fn new(wait: i64, spans_max: usize, rules: Rules) -> Self {
        Self {
            wait,
            spans_max,
            rules,
            held: Held::default(),
            kept: Kept::default(),
            elapsed: 0,
            entities: EntitySpace::default(),
        }
    }

    /// What becomes of a row at once: `Some` if it passes, with its reason, or is dropped.
    fn at_once(&mut self, spans: &Spans, row: usize) -> Option<Option<Option<u8>>> {
        let Some(id) = text(&spans.trace, row) else { return Some(Some(None)) };
        if let Some(reason) = self.held.decided.get(id) {
            return Some(reason.map(Some));
        }
        if self.held.spans < self.spans_max {
            return None;
        }
        if self.held.traces.contains_key(id) {
            return Some(None);
        }
        let reason = self.kept.decide(&self.rules, id, &spans.trace(row), self.elapsed);
        self.held.remember(id.into(), reason);
        Some(reason.map(Some))
    }

    /// Decides the traces that have waited for `wait`, or all.
    fn decide(&mut self, wait: Option<i64>, out: &mut Output) -> Result<(), OperatorError> {
        let mut chosen: BTreeMap<u64, Vec<(u32, u8)>> = BTreeMap::new();
        for id in self.held.due(self.elapsed, wait) {
            let Some(open) = self.held.traces.remove(&id) else { continue };
            let reason = self.kept.decide(&self.rules, &id, &open.trace, self.elapsed);
            if reason.is_none() {
                out.dropped += open.rows.len() as u64;
            }
            self.held.release(&open.rows, reason, &mut chosen);
            self.held.remember(id, reason);
        }
        for (number, rows) in chosen {
            let Some(held) = self.held.batches.get(&number) else { continue };
            let mut reasons = vec![None; held.batch.num_rows()];
            rows.into_iter().for_each(|(row, reason)| reasons[row as usize] = Some(Some(reason)));
            out.emit(only(&held.batch, &reasons)?);
        }
        self.held.batches.retain(|_, rows| rows.held > 0);
        Ok(())
    }
}

/// The rows of `batch` that have something in `chosen`, with the reason.
fn only(batch: &Batch, chosen: &[Option<Option<u8>>]) -> Result<Batch, OperatorError> {
    let mask: BooleanArray = chosen.iter().map(|c| Some(c.is_some())).collect();
    let batch = batch.filter(&mask)?;
    let reasons = chosen.iter().flatten();
    let reasons = reasons.map(|r| REASONS.get(usize::from((*r)?)).copied());
    let reasons: StringArray = reasons.collect();
    let reasons: ArrayRef = Arc::new(reasons);
    with_columns(&batch, [REASON], [(nullable(REASON, DataType::Utf8), reasons)])
}

impl Operator for TailSample {
    fn process(
        &mut self,
        _input: usize,
        batch: Batch,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let spans = Spans::of(&batch);
        let number = self.held.next;
        let mut pass = vec![None; batch.num_rows()];
        let mut held = 0;
        for (row, pass) in pass.iter_mut().enumerate() {
            match self.at_once(&spans, row) {
                Some(Some(reason)) => *pass = Some(reason),
                Some(None) => out.dropped += 1,
                None => {
                    let id = text(&spans.trace, row).unwrap_or_default();
                    self.held.hold(id, spans.trace(row), number, row as u32);
                    held += 1;
                }
            }
        }
        if pass.iter().any(Option::is_some) {
            out.emit(only(&batch, &pass)?);
        }
        if held > 0 {
            self.held.next += 1;
            self.held.batches.insert(number, Rows { batch, held });
        }
        Ok(())
    }

    fn tick(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        self.elapsed = tick.elapsed;
        self.decide(Some(self.wait), out)
    }

    fn watermark(&self, inputs: i64) -> i64 {
        match inputs {
            i64::MIN => i64::MIN,
            inputs => inputs.saturating_sub(self.wait).saturating_sub(TICKS),
        }
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
        state::write(self.elapsed, &self.held, &self.kept)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), OperatorError> {
        let (elapsed, held, kept) = state::read(state, &self.entities)?;
        (self.elapsed, self.held, self.kept) = (elapsed, held, kept);
        Ok(())
    }

    fn flush(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        self.elapsed = tick.elapsed;
        self.decide(None, out)
    }
}
