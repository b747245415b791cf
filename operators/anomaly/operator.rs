//! The running anomaly operator.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBuilder, Float64Builder, StringBuilder};
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{Operator, OperatorError, Output, Tick};
use weir_pipeline::expression::Expression;

use super::detector::Verdict;
use super::series::Series;
use super::{ADDED, Shape, maturity};
use crate::columns::{nullable, with_columns};
use crate::series::known::{Full, Known};
use crate::series::points::points;

/// Detectors of all series.
pub(super) struct Anomaly {
    shape: Arc<Shape>,
    value: Option<Expression>,
    known: Known<Series>,
}

impl Anomaly {
    pub(super) fn new(shape: Arc<Shape>) -> Self {
        let known = Known::new(shape.series_max, Full::Replaces, shape.by.clone());
        Self { value: shape.value.clone(), known, shape }
    }
}

impl Operator for Anomaly {
    fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<(), OperatorError> {
        let points = points(&batch, self.value.as_ref())?;
        let mut verdicts = vec![None; batch.num_rows()];
        let settings = &self.shape.settings;
        self.known.feed(&batch, &points, |series, row, point| {
            verdicts[row] = series.score(point.time, point.value, point.learn, settings);
        })?;
        out.emit(with(&batch, &verdicts)?);
        Ok(())
    }

    fn tick(&mut self, _: Tick, _: &mut Output) -> Result<(), OperatorError> {
        if let Some(dropped) = self.known.dropped() {
            let limit = self.shape.series_max;
            tracing::warn!(series = dropped, limit, "oldest series forgotten by anomaly");
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
        let bad = || {
            OperatorError::new("malformed state of an anomaly operator, or one of another version")
        };
        self.known.get(state).ok_or_else(bad)
    }

    fn flush(&mut self, _: Tick, _: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }
}

/// The batch with what is said of its rows.
fn with(batch: &Batch, verdicts: &[Option<Verdict>]) -> Result<Batch, OperatorError> {
    let n = verdicts.len();
    let numbers = |of: fn(&Verdict) -> f64| -> ArrayRef {
        let mut column = Float64Builder::with_capacity(n);
        verdicts.iter().for_each(|v| column.append_option(v.as_ref().map(of)));
        Arc::new(column.finish())
    };
    let texts = |of: fn(&Verdict) -> Option<&'static str>| -> ArrayRef {
        let mut column = StringBuilder::with_capacity(n, n * 8);
        verdicts.iter().for_each(|v| column.append_option(v.as_ref().and_then(of)));
        Arc::new(column.finish())
    };
    let mut alerts = BooleanBuilder::with_capacity(n);
    verdicts.iter().for_each(|v| alerts.append_option(v.as_ref().map(|v| v.alert)));
    let added: [ArrayRef; ADDED.len()] = [
        numbers(|v| v.score),
        numbers(|v| v.expected),
        numbers(|v| v.low),
        numbers(|v| v.high),
        texts(|v| v.part.map(|p| p.name())),
        texts(|v| Some(maturity(v.points))),
        Arc::new(alerts.finish()),
    ];
    let fields = ADDED.into_iter().map(|(name, data_type)| nullable(name, data_type));
    with_columns(batch, ADDED.iter().map(|(name, _)| *name), fields.zip(added))
}
