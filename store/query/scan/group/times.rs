//! The times of groups: bins are found without a division for each row.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, TimestampNanosecondArray};
use arrow::datatypes::TimestampNanosecondType;
use datafusion::common::{Result, ScalarValue};
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

use super::exprs::Exprs;
use crate::query::scan::TIMESTAMP;
use crate::query::scan::read::Rows;

const DAY_NS: i64 = 86_400_000_000_000;

/// The expression that gives the time of a group.
#[derive(Debug)]
pub(super) struct Times {
    pub(super) exprs: Exprs,
    bins: Option<Bins>,
}

/// Bins of one width, nanoseconds: `date_bin` of the row's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bins {
    stride: i64,
    /// The start of some bin, since 1970.
    origin: i64,
}

/// Bins next to each other, from the first moment of the first to the last of the last.
#[derive(Clone, Copy, Debug)]
pub(super) struct WholeBins {
    bins: Bins,
    first: i64,
    last: i64,
}

impl WholeBins {
    /// The stretch that they take (both ends inclusive), if rows from `min` to `max` may be in it
    /// and all of them have a bin.
    pub(super) fn stretch(self, (min, max): (i64, i64)) -> Option<(i64, i64)> {
        let binned = self.bins.start(min).is_some() && self.bins.start(max).is_some();
        (binned && self.first <= max && min <= self.last).then_some((self.first, self.last))
    }
}

impl Times {
    pub(super) fn new(expr: &Arc<dyn PhysicalExpr>, exprs: Exprs) -> Self {
        Self { exprs, bins: Bins::of(expr) }
    }

    /// Whether groups are bins of one width.
    pub(super) fn has_bins(&self) -> bool {
        self.bins.is_some()
    }

    /// The bins that are within `range` (both ends inclusive) as a whole; `None` if there are none,
    /// or none of one width.
    pub(super) fn whole_bins(&self, range: (i64, i64)) -> Option<WholeBins> {
        let bins = self.bins?;
        let first = match range.0 {
            i64::MIN => i64::MIN,
            low => match bins.start(low)? {
                start if start == low => low,
                start => start.checked_add(bins.stride)?,
            },
        };
        let last = match range.1.checked_add(1) {
            Some(end) => bins.start(end)?.checked_sub(1)?,
            None => i64::MAX,
        };
        (first <= last).then_some(WholeBins { bins, first, last })
    }

    /// The time of each row itself.
    pub(super) fn rows(&self, rows: &Rows) -> Result<ArrayRef> {
        Ok(rows.columns(&self.exprs.part)?.column(0).clone())
    }

    /// For each of `rows`.
    pub(super) fn of(&self, rows: &Rows) -> Result<ArrayRef> {
        let columns = rows.columns(&self.exprs.part)?;
        if let (Some(bins), [times]) = (self.bins, columns.columns())
            && let Some(times) = times.as_primitive_opt::<TimestampNanosecondType>()
            && let Some(starts) = bins.starts(times)
        {
            return Ok(Arc::new(starts));
        }
        let times = self.exprs.evaluate(columns.columns().to_vec(), rows.len())?;
        Ok(times[0].clone())
    }
}

impl Bins {
    /// The bins of `expr`, if it is `date_bin` with a width that is always the same.
    fn of(expr: &Arc<dyn PhysicalExpr>) -> Option<Self> {
        let call = expr.downcast_ref::<ScalarFunctionExpr>()?;
        if call.fun().name() != "date_bin" {
            return None;
        }
        let (stride, time, origin) = match call.args() {
            [stride, time] => (stride, time, 0),
            [stride, time, origin] => match origin.downcast_ref::<Literal>()?.value() {
                ScalarValue::TimestampNanosecond(Some(origin), _) => (stride, time, *origin),
                _ => return None,
            },
            _ => return None,
        };
        time.downcast_ref::<Column>().filter(|c| c.name() == TIMESTAMP)?;
        let ScalarValue::IntervalMonthDayNano(Some(width)) =
            stride.downcast_ref::<Literal>()?.value()
        else {
            return None;
        };
        let days = i64::from(width.days).checked_mul(DAY_NS)?;
        let stride = days.checked_add(width.nanoseconds)?;
        (width.months == 0 && stride > 0).then_some(Self { stride, origin })
    }

    /// The start of the bin of each time; `None` if one is too far away.
    fn starts(self, times: &TimestampNanosecondArray) -> Option<TimestampNanosecondArray> {
        let mut starts = Vec::with_capacity(times.values().len());
        let mut start = self.start(*times.values().first()?)?;
        for &time in times.values() {
            // Rows of an entity lie in order of time: most are in the bin of the one before.
            if time < start || time.wrapping_sub(start) as u64 >= self.stride as u64 {
                start = self.start(time)?;
            }
            starts.push(start);
        }
        Some(TimestampNanosecondArray::new(starts.into(), times.nulls().cloned()))
    }

    fn start(self, time: i64) -> Option<i64> {
        let within = time.checked_sub(self.origin)?.rem_euclid(self.stride);
        time.checked_sub(within)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::datatypes::{Field, IntervalMonthDayNano, Schema};
    use datafusion::prelude::SessionContext;
    use proptest::prelude::*;
    use weir_pipeline::signal::timestamp;

    use super::*;

    fn date_bin(width: IntervalMonthDayNano, origin: Option<i64>) -> Arc<dyn PhysicalExpr> {
        use datafusion::prelude::{col, lit};
        let mut args = vec![lit(ScalarValue::IntervalMonthDayNano(Some(width))), col(TIMESTAMP)];
        args.extend(
            origin.map(|o| lit(ScalarValue::TimestampNanosecond(Some(o), Some("UTC".into())))),
        );
        let context = SessionContext::new();
        let call = context.state().scalar_functions()["date_bin"].call(args);
        let schema = Schema::new(vec![Field::new(TIMESTAMP, timestamp(), true)]);
        let schema = datafusion::common::DFSchema::try_from(schema).unwrap();
        context.create_physical_expr(call, &schema).unwrap()
    }

    proptest! {
        #[test]
        fn bins_are_those_of_date_bin(
            days in 0..3_i32,
            nanoseconds in prop_oneof![1..100_i64, 1_000_000_000..90_000_000_000_000_i64],
            origin in proptest::option::of(-1_000_000_i64..1_000_000),
            times in proptest::collection::vec(
                proptest::option::of(prop_oneof![
                    -500..500_i64,
                    -200_000_000_000_000..200_000_000_000_000_i64,
                    any::<i64>(),
                ]),
                1..40,
            ),
        ) {
            let expr = date_bin(IntervalMonthDayNano::new(0, days, nanoseconds), origin);
            let bins = Bins::of(&expr).unwrap();
            let field = Field::new(TIMESTAMP, timestamp(), true);
            let times = TimestampNanosecondArray::from(times).with_timezone("UTC");
            let batch = arrow::array::RecordBatch::try_new(
                Arc::new(Schema::new(vec![field])),
                vec![Arc::new(times.clone())],
            )
            .unwrap();
            let expect = expr.evaluate(&batch).and_then(|v| v.into_array(times.len()));
            // What is too far away is left to the function itself.
            if let Some(starts) = bins.starts(&times) {
                let expect = expect.unwrap();
                let expect = expect.as_primitive::<TimestampNanosecondType>();
                prop_assert_eq!(
                    starts.iter().collect::<Vec<_>>(),
                    expect.iter().collect::<Vec<_>>()
                );
            }
        }
    }

    proptest! {
        #[test]
        fn whole_bins_are_within(
            (stride, origin) in (1..50_i64, -30..30_i64),
            low in prop_oneof![Just(i64::MIN), -100..100_i64],
            high in prop_oneof![Just(i64::MAX), -100..100_i64],
            time in -200..200_i64,
        ) {
            let bins = Bins { stride, origin };
            let schema = Schema::new(vec![Field::new(TIMESTAMP, timestamp(), true)]);
            let expr: Arc<dyn PhysicalExpr> =
                Arc::new(Column::new_with_schema(TIMESTAMP, &schema).unwrap());
            let exprs = Exprs::new(schema.fields(), &[expr]).unwrap();
            let bins_within = Times { exprs, bins: Some(bins) }.whole_bins((low, high));
            let start = bins.start(time).unwrap();
            let whole = low <= start && start + stride - 1 <= high;
            let stretch = bins_within.and_then(|b| b.stretch((-200, 200)));
            prop_assert_eq!(stretch.is_some_and(|(a, b)| a <= time && time <= b), whole);
        }
    }

    #[test]
    fn months_have_no_one_width() {
        assert_eq!(Bins::of(&date_bin(IntervalMonthDayNano::new(1, 0, 0), None)), None);
        let hour = IntervalMonthDayNano::new(0, 0, 3_600_000_000_000);
        let bins = Bins::of(&date_bin(hour, None)).unwrap();
        assert_eq!(bins, Bins { stride: 3_600_000_000_000, origin: 0 });
        let times = TimestampNanosecondArray::from(vec![i64::MIN, i64::MAX]);
        assert!(bins.starts(&times).is_none());
    }
}
