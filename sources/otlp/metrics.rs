//! Metric data points to rows, one per point.
//!
//! The identity of a series is name, unit, type, temporality, bounds, labels, resource and scope.
//! A metric's description and metadata are not part of it and are not kept.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Builder, Int64Builder};
use hashbrown::HashSet;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1 as pb;
use pb::metric::Data;
use weir_pipeline::component::{DecodeError, Decoded};
use weir_pipeline::entity::{EntityTable, Origin, Value, int_fits_double};
use weir_pipeline::signal::Signal;

use super::flat::Attributes;
use super::histogram::{Histogram, column};
use super::rows::{Rows, TextColumn, TimeColumn, intern};
use super::value::{self, Bad, Members, Rejects};
use super::wire::{self, Record, Request};
use crate::columns::EntityBuilder;
use crate::json;

/// Bit of the flags that says that a series has no value at this time.
const NO_RECORDED_VALUE: u32 = pb::DataPointFlags::NoRecordedValueMask as u32;

/// Metric times are kept in milliseconds.
const MS: i64 = 1_000_000;

struct Columns<'a> {
    table: &'a Arc<EntityTable>,
    received: i64,
    keys: Vec<u32>,
    timestamp: TimeColumn,
    start: TimeColumn,
    value: Float64Builder,
    value_int: Int64Builder,
    stale: Vec<Option<bool>>,
    histograms: Vec<Option<Box<Histogram>>>,
    exemplars: TextColumn,
    rejects: Rejects,
    /// Whether no point lacks a time.
    own_times: bool,
    at_entity: HashSet<&'static str>,
}

/// What all kinds of points have.
struct Point<'a> {
    attributes: &'a [KeyValue],
    start: u64,
    time: u64,
    flags: u32,
    exemplars: &'a [pb::Exemplar],
    value: Sample,
    /// Explicit bounds or quantiles.
    bounds: Option<String>,
}

enum Sample {
    None,
    Double(f64),
    Int(i64),
    Histogram(Result<Box<Histogram>, Bad>),
}

pub(super) fn decode(
    request: Request<'_, pb::Metric>,
    received: i64,
    table: &Arc<EntityTable>,
) -> Result<Decoded, DecodeError> {
    let Request { entities, records, bytes } = request;
    let mut c = Columns {
        table,
        received,
        keys: Vec::new(),
        timestamp: TimeColumn::with_capacity(records.len()),
        start: TimeColumn::with_capacity(records.len()),
        value: Float64Builder::with_capacity(records.len()),
        value_int: Int64Builder::new(),
        stale: Vec::new(),
        histograms: Vec::new(),
        exemplars: TextColumn::new("exemplars", 0, bytes),
        rejects: Rejects::default(),
        own_times: true,
        at_entity: HashSet::new(),
    };
    let mut points = 0;
    for (entity, record) in records {
        if let Record::Wire(bytes) = &record {
            points += wire::points(bytes)?;
            if points > wire::ROWS_MAX {
                return Err(wire::too_many("data points", wire::ROWS_MAX));
            }
        }
        let metric = record.decode()?;
        if let Some(entity) = entities.get(entity as usize) {
            c.metric(&metric, entity)?;
        }
    }
    let mut rows = Rows::new("metrics", Signal::Metrics);
    rows.times("timestamp", c.timestamp);
    rows.times("start_timestamp", c.start);
    rows.column("value", Arc::new(c.value.finish()) as ArrayRef);
    rows.column("value_int", Arc::new(c.value_int.finish()));
    rows.column("stale", Arc::new(BooleanArray::from(c.stale)));
    if c.histograms.iter().any(Option::is_some) {
        rows.column("histogram", column(&c.histograms)?);
    }
    rows.json(c.exemplars)?;
    let decoded = rows.batch(c.keys, table, c.rejects)?;
    Ok(Decoded { idempotent: c.own_times, ..decoded })
}

impl Columns<'_> {
    fn metric(&mut self, metric: &pb::Metric, scope: &EntityBuilder) -> Result<(), DecodeError> {
        let Some(data) = &metric.data else {
            self.rejects.add(Bad {
                reason: "no_data",
                message: format!("metric `{}` has no data points", metric.name),
            });
            return Ok(());
        };
        let (kind, temporality) = match data {
            Data::Gauge(_) => ("gauge", 0),
            Data::Sum(s) => {
                (if s.is_monotonic { "counter" } else { "gauge" }, s.aggregation_temporality)
            }
            Data::Histogram(h) => ("histogram", h.aggregation_temporality),
            Data::ExponentialHistogram(h) => ("exponential_histogram", h.aggregation_temporality),
            Data::Summary(_) => ("summary", 0),
        };
        let mut series = scope.clone();
        let temporality = match temporality {
            1 => "delta",
            2 => "cumulative",
            _ => "",
        };
        for (name, text) in [
            ("metric.name", metric.name.as_str()),
            ("metric.type", kind),
            ("metric.unit", &metric.unit),
            ("metric.temporality", temporality),
        ] {
            series.field(name, Value::Text(text.into()), Origin::Metric);
        }
        match data {
            Data::Gauge(pb::Gauge { data_points }) | Data::Sum(pb::Sum { data_points, .. }) => {
                data_points.iter().try_for_each(|p| self.point(metric, &series, number(p)))
            }
            Data::Histogram(h) => {
                h.data_points.iter().try_for_each(|p| self.point(metric, &series, explicit(p)))
            }
            Data::ExponentialHistogram(h) => {
                h.data_points.iter().try_for_each(|p| self.point(metric, &series, exponential(p)))
            }
            Data::Summary(s) => {
                s.data_points.iter().try_for_each(|p| self.point(metric, &series, summary(p)))
            }
        }
    }

    fn point(
        &mut self,
        metric: &pb::Metric,
        series: &EntityBuilder,
        point: Point<'_>,
    ) -> Result<(), DecodeError> {
        let named = |bad: Bad| Bad {
            message: format!("metric `{}`: {}", metric.name, bad.message),
            reason: bad.reason,
        };
        let times = || {
            Ok((
                value::time("time_unix_nano", point.time)?,
                value::time("start_time_unix_nano", point.start)?,
            ))
        };
        let (time, start) = match times() {
            Ok(times) => times,
            Err(bad) => {
                self.rejects.add(named(bad));
                return Ok(());
            }
        };
        let stale = point.flags & NO_RECORDED_VALUE != 0;
        let (mut double, mut int, mut histogram) = (None, None, None);
        match point.value {
            _ if stale => {}
            Sample::Double(v) => double = Some(v),
            Sample::Int(v) => {
                double = Some(v as f64);
                int = (!int_fits_double(v)).then_some(v);
            }
            Sample::Histogram(Ok(h)) => histogram = Some(h),
            Sample::Histogram(Err(bad)) => {
                self.rejects.add(named(bad));
                return Ok(());
            }
            Sample::None => {
                let message = "a data point has no value".to_owned();
                self.rejects.add(named(Bad { reason: "no_value", message }));
                return Ok(());
            }
        }
        let mut entity = series.clone();
        if let Some(bounds) = &point.bounds {
            entity.field("metric.bounds", Value::Json(bounds.as_str().into()), Origin::Metric);
        }
        value::flatten(point.attributes, &mut |name, v| entity.attribute(Origin::Label, name, v));
        self.keys.push(intern(self.table, entity.build(&self.at_entity))?);
        let floor = |t: i64| t - t.rem_euclid(MS);
        self.own_times &= time.is_some();
        self.timestamp.push(Some(floor(time.unwrap_or(self.received))));
        self.start.push(start.map(floor));
        self.value.append_option(double);
        self.value_int.append_option(int);
        self.stale.push(stale.then_some(true));
        self.histograms.push(histogram);
        self.exemplars.push(exemplars(point.exemplars).as_deref());
        Ok(())
    }
}

fn number(p: &pb::NumberDataPoint) -> Point<'_> {
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

fn explicit(p: &pb::HistogramDataPoint) -> Point<'_> {
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

fn exponential(p: &pb::ExponentialHistogramDataPoint) -> Point<'_> {
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

fn summary(p: &pb::SummaryDataPoint) -> Point<'_> {
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

fn exemplars(exemplars: &[pb::Exemplar]) -> Option<String> {
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
