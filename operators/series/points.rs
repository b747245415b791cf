//! The points that rows are.

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimestampNanosecondType};
use weir_pipeline::batch::Batch;
use weir_pipeline::component::OperatorError;
use weir_pipeline::expression::Expression;
use weir_pipeline::signal::timestamp;

use super::{TIMESTAMP, VALUE, VALUE_INT};

/// A row stamped later than this after it was received is not learned from: it would make all that
/// follows late.
const AHEAD_MAX: i64 = 600_000_000_000;

/// Values beyond this are none: sums, squares and rates of others stay finite.
const VALUE_MAX: f64 = 1e150;

/// What a series can take in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) time: i64,
    pub(crate) value: f64,
    /// Whether it is not of the future.
    pub(crate) learn: bool,
}

/// The point of each row; `None` without a finite value or a time, or where the expression fails.
pub(crate) fn points(
    batch: &Batch,
    value: Option<&Expression>,
) -> Result<Vec<Option<Point>>, OperatorError> {
    let times = batch.array(TIMESTAMP).ok_or_else(|| OperatorError::new("no `timestamp`"))?;
    let times = cast(&times, &timestamp())?;
    let times = times.as_primitive::<TimestampNanosecondType>();
    let (values, failed) = match value {
        Some(expression) => {
            let evaluated = expression.evaluate_each(batch)?;
            let failed = evaluated.errors.into_iter().map(|(row, _)| row).collect();
            (vec![doubles(&evaluated.values)?], failed)
        }
        None => {
            let columns = [VALUE, VALUE_INT].iter().filter_map(|name| batch.array(name));
            (columns.map(|c| doubles(&c)).collect::<Result<Vec<_>, _>>()?, Vec::new())
        }
    };
    let received = batch.runs().iter().flat_map(|r| std::iter::repeat_n(r.received, r.rows));
    let mut points: Vec<Option<Point>> = received
        .enumerate()
        .map(|(row, received)| {
            let value = values.iter().find(|v| v.is_valid(row))?.value(row);
            if !times.is_valid(row) || !value.is_finite() || value.abs() > VALUE_MAX {
                return None;
            }
            let time = times.value(row);
            Some(Point { time, value, learn: time <= received.saturating_add(AHEAD_MAX) })
        })
        .collect();
    failed.into_iter().for_each(|row: usize| points[row] = None);
    Ok(points)
}

/// An array as doubles; what is no number is NULL.
pub(crate) fn doubles(array: &ArrayRef) -> Result<Float64Array, OperatorError> {
    Ok(cast(array, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
}
