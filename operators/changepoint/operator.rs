//! The running changepoint operator.

use std::sync::Arc;

use arrow::array::ArrayRef;
use weir_pipeline::batch::{Batch, Run};
use weir_pipeline::component::{Operator, OperatorError, Output, Tick};
use weir_pipeline::entity::{Entity, EntitySpace};

use super::ranks::Ranks;
use super::series::{Change, Series, Side};
use super::{ADDED, SIGNAL, Shape};
use crate::series::TIMESTAMP;
use crate::series::known::{Full, Known};
use crate::series::points::points;
use crate::series::rows;

/// A series that was silent for so long gives its place to one that waits, nanoseconds: a day.
const SILENT: i64 = 86_400_000_000_000;

pub(super) struct Changepoint {
    shape: Arc<Shape>,
    known: Known<Series>,
    ranks: Ranks,
    /// Where the entities of emitted rows live.
    entities: EntitySpace,
}

/// A change, and the row of the batch that proved it.
type Proved = (usize, Arc<Entity>, Change);

impl Changepoint {
    pub(super) fn new(shape: Arc<Shape>) -> Self {
        let known = Known::new(shape.series_max, Full::Waits(SILENT), shape.by.clone());
        Self { shape, known, ranks: Ranks::default(), entities: EntitySpace::default() }
    }

    fn rows(&self, batch: &Batch, proved: &[Proved]) -> Result<Batch, OperatorError> {
        let changes = || proved.iter().map(|(_, _, change)| change);
        let number =
            |of: fn(&Change) -> f64| -> ArrayRef { rows::doubles(changes().map(|c| Some(of(c)))) };
        let before = |of: fn(&Side) -> f64| -> ArrayRef {
            rows::doubles(changes().map(|c| Some(of(&c.before))))
        };
        let after = |of: fn(&Side) -> f64| -> ArrayRef {
            rows::doubles(changes().map(|c| Some(of(&c.after))))
        };
        let arrays: [ArrayRef; ADDED.len()] = [
            rows::times(changes().map(|c| Some(c.at))),
            rows::texts(changes().map(|c| Some(c.kind.name()))),
            before(|s| s.level),
            after(|s| s.level),
            number(|c| c.size),
            before(|s| s.spread),
            after(|s| s.spread),
            before(|s| s.slope),
            after(|s| s.slope),
            number(|c| c.confidence),
        ];
        let time = (TIMESTAMP, rows::times(changes().map(|c| Some(c.proved))));
        let columns = std::iter::once(time).chain(ADDED.iter().map(|(n, _)| *n).zip(arrays));
        let series = proved.iter().map(|(_, entity, _)| entity);
        let runs = runs(batch, proved.iter().map(|(row, _, _)| *row));
        rows::rows(SIGNAL, &self.entities, series, columns, runs)
    }
}

/// The runs of these rows of a batch, which are in order.
fn runs(batch: &Batch, rows: impl Iterator<Item = usize>) -> Arc<[Run]> {
    let mut counts = vec![0; batch.runs().len()];
    let (mut at, mut end) = (0, batch.runs().first().map_or(0, |r| r.rows));
    for row in rows {
        while row >= end {
            at += 1;
            end += batch.runs()[at].rows;
        }
        counts[at] += 1;
    }
    let runs = batch.runs().iter().zip(counts).filter(|(_, count)| *count > 0);
    runs.map(|(run, rows)| Run { rows, ..run.clone() }).collect()
}

impl Operator for Changepoint {
    fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<(), OperatorError> {
        let points = points(&batch, self.shape.value.as_ref())?;
        let (settings, ranks) = (&self.shape.settings, &mut self.ranks);
        let mut proved: Vec<Proved> = Vec::new();
        self.known.feed(&batch, &points, |series, row, point| {
            if !point.learn {
                return;
            }
            if let Some(change) = series.add(settings, ranks, point.time, point.value) {
                proved.push((row, series.entity.clone(), change));
            }
        })?;
        if !proved.is_empty() {
            proved.sort_by_key(|(row, _, _)| *row);
            out.emit(self.rows(&batch, &proved)?);
        }
        Ok(())
    }

    fn tick(&mut self, _: Tick, _: &mut Output) -> Result<(), OperatorError> {
        if let Some(rows) = self.known.dropped() {
            let limit = self.shape.series_max;
            tracing::warn!(rows, limit, "more series than changepoint may know");
        }
        Ok(())
    }

    fn watermark(&self, inputs: i64) -> i64 {
        inputs
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
        Ok(self.known.put())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), OperatorError> {
        let bad = || OperatorError::new("malformed state of a changepoint operator");
        self.known.get(state).ok_or_else(bad)
    }

    fn flush(&mut self, _: Tick, _: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }
}
