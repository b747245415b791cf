//! The running forecast operator.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use weir_pipeline::batch::{Batch, Run};
use weir_pipeline::component::{Operator, OperatorError, Output, Tick};
use weir_pipeline::entity::{Entity, EntitySpace};

use super::series::{Forecast, Series};
use super::{ADDED, SIGNAL, Shape};
use crate::series::known::{Full, Key, Known};
use crate::series::points::{doubles, points};
use crate::series::rows::{self, at_tick};
use crate::series::{SECOND, TIMESTAMP, VALUE};

/// What may be worked on at one tick, in microseconds by what forecasts usually take: the count must
/// not depend on how long they do. What is left waits for the next tick; one is made in any case.
const WORK_MAX: usize = 250_000;

pub(super) struct ForecastOperator {
    shape: Arc<Shape>,
    known: Known<Series>,
    /// Whether a forecast may be due.
    fed: bool,
    /// Where the entities of emitted rows live.
    entities: EntitySpace,
}

impl ForecastOperator {
    pub(super) fn new(shape: Arc<Shape>) -> Self {
        let settings = &shape.settings;
        let silent = settings.step.saturating_mul(settings.bins as i64);
        let known = Known::new(shape.series_max, Full::Waits(silent), shape.by.clone());
        Self { shape, known, fed: true, entities: EntitySpace::default() }
    }

    /// Series whose forecast is due, those that wait longest first.
    fn due(&mut self) -> Vec<(i64, Key)> {
        let settings = &self.shape.settings;
        let all = self.known.all().iter();
        let mut due: Vec<(i64, Key)> =
            all.filter_map(|(key, series)| Some((series.due(settings)?, *key))).collect();
        due.sort_unstable();
        due
    }

    fn rows(&self, made: &[(Arc<Entity>, Forecast)], run: Run) -> Result<Batch, OperatorError> {
        let settings = &self.shape.settings;
        let mut places: Vec<(usize, usize)> = Vec::new();
        for (index, (_, forecast)) in made.iter().enumerate() {
            let steps = forecast.ahead.len();
            let points = settings.points.min(steps);
            places.extend((1..=points).map(|point| (index, steps * point / points - 1)));
        }
        let each = || places.iter().map(|(index, step)| (&made[*index].1, *step));
        let number = |of: &dyn Fn(&Forecast, usize) -> Option<f64>| -> ArrayRef {
            rows::doubles(each().map(|(f, step)| of(f, step)))
        };
        let ahead = |step: usize| settings.step.saturating_mul(step as i64 + 1);
        let crosses = |f: &Forecast| {
            let nanos = f.crosses.expected? * SECOND as f64;
            Some(f.time.saturating_add(nanos as i64))
        };
        let arrays: [ArrayRef; ADDED.len()] = [
            rows::times(each().map(|(f, step)| Some(f.time.saturating_add(ahead(step))))),
            number(&|f, step| Some(f.ahead[step])),
            number(&|f, step| Some(settings.possible(f.ahead[step] - f.widths[step]))),
            number(&|f, step| Some(settings.possible(f.ahead[step] + f.widths[step]))),
            number(&|_, _| Some(settings.level)),
            number(&|f, _| f.limit),
            rows::times(each().map(|(f, _)| crosses(f))),
            number(&|f, _| f.crosses.expected),
            number(&|f, _| f.crosses.earliest),
            number(&|f, _| f.crosses.latest),
            rows::texts(each().map(|(f, _)| Some(f.model.name()))),
            rows::ints(each().map(|(f, _)| Some(f.steps as i64))),
            number(&|f, _| Some(f.model.mase)),
            number(&|f, _| Some(f.model.smape)),
            number(&|f, _| Some(f.model.coverage)),
        ];
        let first = [
            (TIMESTAMP, rows::times(each().map(|(f, _)| Some(f.time)))),
            (VALUE, number(&|f, _| Some(f.value))),
        ];
        let added = ADDED.iter().map(|(name, _)| *name).zip(arrays);
        let series = places.iter().map(|(index, _)| &made[*index].0);
        let runs = [Run { rows: places.len(), ..run }].into();
        rows::rows(SIGNAL, &self.entities, series, first.into_iter().chain(added), runs)
    }
}

impl Operator for ForecastOperator {
    fn process(&mut self, _: usize, batch: Batch, _: &mut Output) -> Result<(), OperatorError> {
        let points = points(&batch, self.shape.value.as_ref())?;
        let limits = match &self.shape.limit {
            Some(limit) => Some(doubles(&limit.evaluate_each(&batch)?.values)?),
            None => None,
        };
        let settings = &self.shape.settings;
        self.known.feed(&batch, &points, |series, row, point| {
            if let Some(limits) = limits.as_ref().filter(|l| l.is_valid(row)) {
                series.limit = Some(limits.value(row)).filter(|l| l.is_finite());
            }
            if point.learn {
                series.add(settings, point.time, point.value);
            }
        })?;
        self.fed = true;
        Ok(())
    }

    fn tick(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        if let Some(rows) = self.known.dropped() {
            let limit = self.shape.series_max;
            tracing::warn!(rows, limit, "more series than forecast may know");
        }
        if !std::mem::take(&mut self.fed) {
            return Ok(());
        }
        let shape = self.shape.clone();
        let (mut work, mut made) = (0, Vec::new());
        for (number, key) in self.due() {
            if work >= WORK_MAX {
                self.fed = true;
                break;
            }
            let Some(series) = self.known.by_key(key) else { continue };
            work += series.cost(&shape.settings);
            if let Some(forecast) = series.forecast(&shape.settings, number) {
                made.push((series.entity.clone(), forecast));
            }
        }
        if !made.is_empty() {
            out.emit(self.rows(&made, at_tick(tick))?);
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
        let bad = || OperatorError::new("malformed state of a forecast operator");
        self.known.get(state).ok_or_else(bad)
    }

    /// The forecasts that are due stay undone: they would be of a series that goes on.
    fn flush(&mut self, _: Tick, _: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }
}
