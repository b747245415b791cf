//! Rows of a step that is given.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampNanosecondArray, UInt32Array,
};
use arrow::datatypes::{Field, Schema};
use weir_pipeline::batch::{Batch, Keys, Run, TENANT};
use weir_pipeline::component::{OperatorError, Tick};
use weir_pipeline::entity::EntitySpace;
use weir_pipeline::expression::histogram;
use weir_pipeline::signal::{Signal, histogram_fields};

use super::groups::Groups;
use super::windows::{Held, Made, Step};
use super::{COLUMNS, Column, Shape, column_type};

/// Which step, and whether it was given before.
#[derive(Clone, Copy)]
pub(super) struct Given {
    pub(super) start: i64,
    pub(super) correction: bool,
}

/// The rows of a step in the order of the fingerprints of their groups; `None` if there are none.
pub(super) fn rows(
    shape: &Shape,
    step: &Step,
    groups: &Groups,
    space: &EntitySpace,
    given: Given,
    tick: Tick,
) -> Result<Option<Batch>, OperatorError> {
    let own = |h: &Held| match h.made {
        Made::Gauge => [Column::Sum, Column::Min, Column::Max, Column::Last, Column::Sketch]
            .iter()
            .any(|c| shape.columns.contains(c)),
        Made::Counter => shape.columns.contains(&Column::Increase),
        Made::Histogram => shape.columns.contains(&Column::Histogram),
    };
    let some = |h: &Held| !h.is_empty() && (own(h) || shape.columns.contains(&Column::Count));
    let all = step.groups.iter().copied().zip(&step.held).filter(|(_, held)| some(held));
    let mut all: Vec<(u32, &Held)> = all.collect();
    if all.is_empty() {
        return Ok(None);
    }
    all.sort_unstable_by_key(|(group, _)| groups.entity(*group).fingerprint());
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for name in COLUMNS {
        let asked = match name {
            "timestamp" | "window_end" | "correction" => true,
            name => shape.columns.iter().any(|c| c.names().contains(&name)),
        };
        if let Some(array) = column(name, &all, given, shape.every)?.filter(|_| asked) {
            fields.push(Field::new(name, column_type(name), true));
            columns.push(array);
        }
    }
    let record = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    let table = space.table();
    let keys = all.iter().map(|(group, _)| table.intern(groups.entity(*group).as_ref().clone()));
    let keys = keys.collect::<Result<Vec<u32>, _>>();
    let keys = UInt32Array::from(keys.map_err(|e| OperatorError::new(e.to_string()))?);
    let rows = all.len();
    let run = Run { offset: tick.offset, received: tick.time, source: "".into(), rows };
    let keys = Keys { keys, table };
    let signal = Signal::named("rollup");
    Ok(Some(Batch::new(signal, TENANT.into(), record, Some(keys), [run].into())?))
}

/// One column, `None` if no row has a value in it.
fn column(
    name: &str,
    rows: &[(u32, &Held)],
    given: Given,
    every: i64,
) -> Result<Option<ArrayRef>, OperatorError> {
    let time = |times: Vec<Option<i64>>| -> ArrayRef {
        Arc::new(TimestampNanosecondArray::from(times).with_timezone("UTC"))
    };
    let all = |t: i64| time(vec![Some(t); rows.len()]);
    let is = |made: Made| rows.iter().any(|(_, h)| h.made == made);
    let gauge = |h: &Held| h.made == Made::Gauge && h.count > 0;
    let gauges = |of: fn(&Held) -> f64| -> Option<ArrayRef> {
        let values = rows.iter().map(|(_, h)| gauge(h).then(|| of(h)));
        is(Made::Gauge).then(|| Arc::new(values.collect::<Float64Array>()) as ArrayRef)
    };
    Ok(match name {
        "timestamp" => Some(all(given.start)),
        "window_end" => Some(all(given.start.saturating_add(every))),
        "correction" => Some(Arc::new(BooleanArray::from(vec![given.correction; rows.len()]))),
        "count" => Some(Arc::new(Int64Array::from_iter(rows.iter().map(|(_, h)| Some(h.count))))),
        "sum" => gauges(|h| h.sum),
        "min" => gauges(|h| h.min),
        "max" => gauges(|h| h.max),
        "last" => gauges(|h| h.last),
        "last_timestamp" => {
            let times = rows.iter().map(|(_, h)| gauge(h).then_some(h.last_time));
            is(Made::Gauge).then(|| time(times.collect()))
        }
        "increase" => {
            let values = rows.iter().map(|(_, h)| h.increase);
            is(Made::Counter).then(|| Arc::new(values.collect::<Float64Array>()) as ArrayRef)
        }
        "histogram" => {
            let values: Vec<_> = rows.iter().map(|(_, h)| h.histogram.as_deref()).collect();
            is(Made::Histogram)
                .then(|| histogram::column(&values, &histogram_fields()))
                .transpose()?
        }
        _ => {
            let texts = rows.iter().map(|(_, h)| h.sketch.as_ref().map(|s| s.to_text()));
            let texts: StringArray = texts.collect();
            rows.iter().any(|(_, h)| h.sketch.is_some()).then(|| Arc::new(texts) as ArrayRef)
        }
    })
}
