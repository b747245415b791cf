//! The running anomaly operator.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, Float64Array, Float64Builder, RecordBatch,
    StringBuilder, TimestampNanosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Schema, TimestampNanosecondType};
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{Operator, OperatorError, Output, Tick};
use weir_pipeline::expression::Expression;
use weir_pipeline::signal::timestamp;

use super::detector::Verdict;
use super::known::{Known, Place, Places};
use super::{ADDED, Shape, TIMESTAMP, VALUE, VALUE_INT, maturity};

/// A row stamped later than this after it was received is not learned from: it would make all that
/// follows late.
const AHEAD_MAX: i64 = 600_000_000_000;

/// Values beyond this are none: sums, squares and rates of others stay finite.
const VALUE_MAX: f64 = 1e150;

/// Detectors of all series.
pub(super) struct Anomaly {
    shape: Arc<Shape>,
    value: Option<Expression>,
    known: Known,
}

impl Anomaly {
    pub(super) fn new(shape: Arc<Shape>) -> Self {
        let by = shape.by.iter().map(|(_, e)| e.clone()).collect();
        Self { value: shape.value.clone(), known: Known::new(shape.series_max, by), shape }
    }

    /// The values to score, NULL where there is none, and the rows for which the expression fails.
    fn values(&self, batch: &Batch) -> Result<Values, OperatorError> {
        let double = |array: ArrayRef| -> Result<Float64Array, OperatorError> {
            Ok(cast(&array, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
        };
        if let Some(expression) = &self.value {
            let evaluated = expression.evaluate_each(batch)?;
            let failed = evaluated.errors.into_iter().map(|(row, _)| row).collect();
            return Ok(Values { of: vec![double(evaluated.values)?], failed });
        }
        // Whole numbers that a double cannot hold come in a column of their own.
        let columns = [VALUE, VALUE_INT].iter().filter_map(|name| batch.array(name));
        Ok(Values { of: columns.map(double).collect::<Result<_, _>>()?, failed: Vec::new() })
    }

    /// Scores the rows from `start` on whose series are known or find room. Gives the first that
    /// finds none.
    fn score(
        &mut self,
        rows: &Rows,
        places: &mut Places,
        start: usize,
        verdicts: &mut [Option<Verdict>],
    ) -> Result<usize, OperatorError> {
        let end = verdicts.len();
        let mut order: Vec<(u32, u32)> = Vec::with_capacity(end - start);
        let mut next = start;
        while next < end {
            if rows.points[next].is_some() {
                match places.of(&mut self.known, next) {
                    Place::At(place) => order.push((place, next as u32)),
                    Place::Full => break,
                }
            }
            next += 1;
        }
        // By series, in the order in which they came: each is in the cache once.
        order.sort_unstable();
        for (place, row) in order {
            let Some(point) = rows.points[row as usize] else { continue };
            let series = self.known.series(place);
            verdicts[row as usize] =
                series.score(point.time, point.value, point.learn, &self.shape.settings);
        }
        Ok(next)
    }
}

struct Values {
    of: Vec<Float64Array>,
    failed: Vec<usize>,
}

/// What can be scored.
#[derive(Clone, Copy)]
struct Point {
    time: i64,
    value: f64,
    learn: bool,
}

struct Rows {
    points: Vec<Option<Point>>,
}

impl Rows {
    fn new(batch: &Batch, times: &TimestampNanosecondArray, values: &Values) -> Self {
        let received = batch.runs().iter().flat_map(|r| std::iter::repeat_n(r.received, r.rows));
        let mut points: Vec<Option<Point>> = received
            .enumerate()
            .map(|(row, received)| {
                let value = values.of.iter().find(|v| v.is_valid(row))?.value(row);
                if !times.is_valid(row) || !value.is_finite() || value.abs() > VALUE_MAX {
                    return None;
                }
                let time = times.value(row);
                Some(Point { time, value, learn: time <= received.saturating_add(AHEAD_MAX) })
            })
            .collect();
        values.failed.iter().for_each(|row| points[*row] = None);
        Self { points }
    }
}

impl Operator for Anomaly {
    fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<(), OperatorError> {
        let times = batch.array(TIMESTAMP).ok_or_else(|| OperatorError::new("no `timestamp`"))?;
        let times = cast(&times, &timestamp())?;
        let values = self.values(&batch)?;
        let rows = Rows::new(&batch, times.as_primitive::<TimestampNanosecondType>(), &values);
        let mut verdicts = vec![None; batch.num_rows()];
        let mut places = self.known.places(&batch)?;
        let mut next = 0;
        while next < verdicts.len() {
            next = self.score(&rows, &mut places, next, &mut verdicts)?;
            if next < verdicts.len() {
                self.known.make_room();
                places.forget();
            }
        }
        self.known.keep(places);
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
        let bad = || OperatorError::new("malformed state of an anomaly operator");
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
    let rows = batch.rows();
    let schema = rows.schema();
    let is_own = |name: &str| ADDED.iter().any(|(added, _)| *added == name);
    let kept = schema.fields().iter().zip(rows.columns()).filter(|(f, _)| !is_own(f.name()));
    let (mut fields, mut columns): (Vec<Arc<Field>>, Vec<ArrayRef>) =
        kept.map(|(f, c)| (f.clone(), c.clone())).unzip();
    for ((name, data_type), column) in ADDED.iter().zip(added) {
        fields.push(Arc::new(Field::new(*name, data_type.clone(), true)));
        columns.push(column);
    }
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    Ok(batch.with_rows(RecordBatch::try_new(Arc::new(schema), columns)?)?)
}
