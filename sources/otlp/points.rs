//! Data points of all kinds, and what of them is in a row.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1 as pb;
use weir_pipeline::entity::int_fits_double;

use super::flat::Attributes;
use super::histogram::Histogram;
use super::numbers::{self, Number};
use super::value::{self, Bad, Members};
use crate::json;

/// Bit of the flags that says that a series has no value at this time.
const NO_RECORDED_VALUE: u32 = pb::DataPointFlags::NoRecordedValueMask as u32;

/// What all kinds of points have.
pub(super) struct Point<'a> {
    pub(super) attributes: &'a [KeyValue],
    pub(super) start: u64,
    pub(super) time: u64,
    pub(super) flags: u32,
    pub(super) exemplars: &'a [pb::Exemplar],
    pub(super) value: Sample,
    /// Explicit bounds or quantiles.
    pub(super) bounds: Option<String>,
}

pub(super) enum Sample {
    None,
    Double(f64),
    Int(i64),
    Histogram(Result<Box<Histogram>, Bad>),
}

/// What of a point is in its row, besides key and exemplars.
pub(super) struct Row {
    pub(super) time: Option<i64>,
    pub(super) start: Option<i64>,
    pub(super) stale: bool,
    pub(super) value: Option<f64>,
    /// The value, if `value` cannot hold it.
    pub(super) int: Option<i64>,
    pub(super) histogram: Option<Box<Histogram>>,
}

impl Row {
    pub(super) fn new((start, time, flags): (u64, u64, u32), sample: Sample) -> Result<Self, Bad> {
        let time = value::time("time_unix_nano", time)?;
        let start = value::time("start_time_unix_nano", start)?;
        let stale = flags & NO_RECORDED_VALUE != 0;
        let (mut value, mut int, mut histogram) = (None, None, None);
        match sample {
            _ if stale => {}
            Sample::Double(v) => value = Some(v),
            Sample::Int(v) => {
                value = Some(v as f64);
                int = (!int_fits_double(v)).then_some(v);
            }
            Sample::Histogram(h) => histogram = Some(h?),
            Sample::None => {
                let message = "a data point has no value".to_owned();
                return Err(Bad { reason: "no_value", message });
            }
        }
        Ok(Self { time, start, stale, value, int, histogram })
    }

    pub(super) fn of(point: &numbers::Point<'_>) -> Result<Self, Bad> {
        let sample = match point.value {
            None => Sample::None,
            Some(Number::Double(v)) => Sample::Double(v),
            Some(Number::Int(v)) => Sample::Int(v),
        };
        Self::new((point.start, point.time, point.flags), sample)
    }
}

pub(super) fn number(p: &pb::NumberDataPoint) -> Point<'_> {
    use pb::number_data_point::Value::{AsDouble, AsInt};
    Point {
        attributes: &p.attributes,
        start: p.start_time_unix_nano,
        time: p.time_unix_nano,
        flags: p.flags,
        exemplars: &p.exemplars,
        value: match p.value {
            None => Sample::None,
            Some(AsDouble(v)) => Sample::Double(v),
            Some(AsInt(v)) => Sample::Int(v),
        },
        bounds: None,
    }
}

pub(super) fn explicit(p: &pb::HistogramDataPoint) -> Point<'_> {
    Point {
        attributes: &p.attributes,
        start: p.start_time_unix_nano,
        time: p.time_unix_nano,
        flags: p.flags,
        exemplars: &p.exemplars,
        value: Sample::Histogram(Histogram::explicit(p).map(Box::new)),
        bounds: Some(numbers(p.explicit_bounds.iter().copied())),
    }
}

pub(super) fn exponential(p: &pb::ExponentialHistogramDataPoint) -> Point<'_> {
    Point {
        attributes: &p.attributes,
        start: p.start_time_unix_nano,
        time: p.time_unix_nano,
        flags: p.flags,
        exemplars: &p.exemplars,
        value: Sample::Histogram(Histogram::exponential(p).map(Box::new)),
        bounds: None,
    }
}

pub(super) fn summary(p: &pb::SummaryDataPoint) -> Point<'_> {
    Point {
        attributes: &p.attributes,
        start: p.start_time_unix_nano,
        time: p.time_unix_nano,
        flags: p.flags,
        exemplars: &[],
        value: Sample::Histogram(Histogram::summary(p).map(Box::new)),
        bounds: Some(numbers(p.quantile_values.iter().map(|q| q.quantile))),
    }
}

/// A JSON array of doubles.
fn numbers(values: impl Iterator<Item = f64>) -> String {
    let values: Vec<f64> = values.collect();
    let mut out = String::new();
    value::write_list(&values, &mut out, |v, out| json::double(*v, out));
    out
}

pub(super) fn exemplars(exemplars: &[pb::Exemplar]) -> Option<String> {
    use pb::exemplar::Value::{AsDouble, AsInt};
    if exemplars.is_empty() {
        return None;
    }
    let mut out = String::new();
    value::write_list(exemplars, &mut out, |e, out| {
        let mut m = Members::open(out);
        m.int("timestamp", e.time_unix_nano);
        match e.value {
            Some(AsDouble(v)) => m.double("value", v),
            Some(AsInt(v)) => m.number("value", v),
            None => {}
        }
        m.id("trace_id", &e.trace_id);
        m.id("span_id", &e.span_id);
        m.attributes(Attributes::Nested(&e.filtered_attributes));
        m.close();
    });
    Some(out)
}
