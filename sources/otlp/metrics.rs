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
use weir_pipeline::entity::{Entity, Origin, Value, int_fits_double};
use weir_pipeline::signal::Signal;

use super::flat::{Attributes, Odd};
use super::histogram::{Histogram, column};
use super::numbers::{self, Number, Numbers};
use super::rows::{Rows, TextColumn, TimeColumn, intern};
use super::value::{self, Bad, Members, Rejects};
use super::wire::{self, Record, Request};
use crate::columns::{Cell, EntityBuilder};
use crate::json;
use crate::series::{BadSeries, Lookup};

/// Bit of the flags that says that a series has no value at this time.
const NO_RECORDED_VALUE: u32 = pb::DataPointFlags::NoRecordedValueMask as u32;

/// Metric times are kept in milliseconds.
const MS: i64 = 1_000_000;

struct Columns<'a> {
    lookup: Lookup<'a>,
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

/// What of a point is in its row, besides key and exemplars.
struct Row {
    time: Option<i64>,
    start: Option<i64>,
    stale: bool,
    value: Option<f64>,
    /// The value, if `value` cannot hold it.
    int: Option<i64>,
    histogram: Option<Box<Histogram>>,
}

impl Row {
    fn new((start, time, flags): (u64, u64, u32), sample: Sample) -> Result<Self, Bad> {
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

    fn of(point: &numbers::Point<'_>) -> Result<Self, Bad> {
        let sample = match point.value {
            None => Sample::None,
            Some(Number::Double(v)) => Sample::Double(v),
            Some(Number::Int(v)) => Sample::Int(v),
        };
        Self::new((point.start, point.time, point.flags), sample)
    }
}

/// A metric that was read in place, and what names its series.
struct Named<'a> {
    metric: Numbers<'a>,
    points: &'a [numbers::Point<'a>],
    /// What stands for all but the attributes.
    prefix: [u8; 16],
}

impl Named<'_> {
    /// The key of the series of `point`; `build` makes its entity, if it is not known.
    fn key(
        &self,
        point: &numbers::Point<'_>,
        lookup: &mut Lookup<'_>,
        name: &mut Vec<u8>,
        build: impl FnOnce() -> Result<Entity, BadSeries>,
    ) -> Result<u32, BadSeries> {
        name.clear();
        name.extend(self.prefix);
        name.extend(point.attributes);
        lookup.key(u8::from(self.metric.is_counter), name, build)
    }
}

pub(super) fn decode(
    request: Request<'_, pb::Metric>,
    received: i64,
    lookup: Lookup<'_>,
) -> Result<Decoded, DecodeError> {
    // Most metrics come with one point each.
    let rows = request.records.len();
    let mut c = Columns {
        lookup,
        received,
        keys: Vec::with_capacity(rows),
        timestamp: TimeColumn::with_capacity(rows),
        start: TimeColumn::with_capacity(rows),
        value: Float64Builder::with_capacity(rows),
        value_int: Int64Builder::new(),
        stale: Vec::with_capacity(rows),
        histograms: Vec::new(),
        exemplars: TextColumn::new("exemplars", rows, request.bytes),
        rejects: Rejects::default(),
        own_times: true,
    };
    let walked = c.walk(request);
    // Also after a failure: entities that were made are known.
    let table = c.lookup.finish();
    walked?;
    let mut rows = Rows::new("metrics", Signal::Metrics);
    rows.times("timestamp", c.timestamp);
    rows.times("start_timestamp", c.start);
    rows.column("value", Arc::new(c.value.finish()) as ArrayRef);
    rows.column("value_int", Arc::new(c.value_int.finish()));
    rows.column("stale", Arc::new(BooleanArray::from(c.stale)));
    if c.histograms.iter().any(Option::is_some) {
        c.histograms.resize(c.keys.len(), None);
        rows.column("histogram", column(&c.histograms)?);
    }
    rows.json(c.exemplars)?;
    let decoded = rows.batch(c.keys, &table, c.rejects)?;
    Ok(Decoded { idempotent: c.own_times, ..decoded })
}

impl Columns<'_> {
    fn walk(&mut self, request: Request<'_, pb::Metric>) -> Result<(), DecodeError> {
        let Request { entities, names, records, .. } = request;
        let mut count = 0;
        let (mut keys, mut name) = (Vec::new(), Vec::new());
        let mut scope_digest = (u32::MAX, [0; 16]);
        for (entity, record) in records {
            let Some(scope) = entities.get(entity as usize) else { continue };
            let mut points = Vec::new();
            let read = record.wire().ok_or(Odd).and_then(|m| Numbers::read(m, &mut points));
            count += match (&read, &record) {
                (Ok(_), _) => points.len(),
                (Err(Odd), Record::Wire(bytes)) => wire::points(bytes)?,
                (Err(Odd), Record::Owned(_)) => 0,
            };
            if count > wire::ROWS_MAX {
                return Err(wire::too_many("data points", wire::ROWS_MAX));
            }
            let mut named = None;
            if let Some((metric, scope)) = read.ok().zip(names.get(entity as usize)) {
                if scope_digest.0 != entity {
                    scope_digest = (entity, self.lookup.digest(scope));
                }
                metric.name_into(scope_digest.1, &mut name);
                let metric = Named { metric, prefix: self.lookup.digest(&name), points: &points };
                if self.known(&metric, &mut keys, &mut name) {
                    self.numbers(&metric, &keys);
                    continue;
                }
                named = Some(metric);
            }
            self.metric(&record.decode()?, scope, named.as_ref())?;
        }
        Ok(())
    }

    /// Finds the keys of all points, if all their series are known.
    fn known(&mut self, metric: &Named<'_>, keys: &mut Vec<u32>, name: &mut Vec<u8>) -> bool {
        keys.clear();
        for point in metric.points {
            // One that is going to be left out needs none.
            let key = match Row::of(point) {
                Err(_) => Ok(0),
                Ok(_) => {
                    metric.key(point, &mut self.lookup, name, || Err(BadSeries::new("unknown", "")))
                }
            };
            let Ok(key) = key else { return false };
            keys.push(key);
        }
        true
    }

    fn numbers(&mut self, metric: &Named<'_>, keys: &[u32]) {
        for (point, key) in metric.points.iter().zip(keys) {
            match Row::of(point) {
                Ok(row) => self.push(*key, row, None),
                Err(bad) => self.reject(metric.metric.name, bad),
            }
        }
    }

    fn metric(
        &mut self,
        metric: &pb::Metric,
        scope: &EntityBuilder,
        named: Option<&Named<'_>>,
    ) -> Result<(), DecodeError> {
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
        let mut nth = 0;
        let mut add = |point| {
            let named = named.and_then(|n| Some((n, n.points.get(nth)?)));
            nth += 1;
            self.point(metric, &series, point, named)
        };
        match data {
            Data::Gauge(pb::Gauge { data_points }) | Data::Sum(pb::Sum { data_points, .. }) => {
                data_points.iter().try_for_each(|p| add(number(p)))
            }
            Data::Histogram(h) => h.data_points.iter().try_for_each(|p| add(explicit(p))),
            Data::ExponentialHistogram(h) => {
                h.data_points.iter().try_for_each(|p| add(exponential(p)))
            }
            Data::Summary(s) => s.data_points.iter().try_for_each(|p| add(summary(p))),
        }
    }

    fn point(
        &mut self,
        metric: &pb::Metric,
        series: &EntityBuilder,
        point: Point<'_>,
        named: Option<(&Named<'_>, &numbers::Point<'_>)>,
    ) -> Result<(), DecodeError> {
        let row = match Row::new((point.start, point.time, point.flags), point.value) {
            Ok(row) => row,
            Err(bad) => {
                self.reject(&metric.name, bad);
                return Ok(());
            }
        };
        let entity = || {
            let mut entity = series.clone();
            if let Some(bounds) = &point.bounds {
                entity.field("metric.bounds", Value::Json(bounds.as_str().into()), Origin::Metric);
            }
            let mut label = |name: &str, v: Cell<'_>| entity.attribute(Origin::Label, name, v);
            value::flatten(point.attributes, &mut label);
            entity.build(&HashSet::new())
        };
        let key = match named {
            Some((metric, point)) => metric
                .key(point, &mut self.lookup, &mut Vec::new(), || Ok(entity()))
                .map_err(|e| DecodeError::new(e.reason, e.message))?,
            None => intern(self.lookup.table(), entity())?,
        };
        self.push(key, row, exemplars(point.exemplars).as_deref());
        Ok(())
    }

    fn reject(&mut self, metric: &str, bad: Bad) {
        let message = format!("metric `{metric}`: {}", bad.message);
        self.rejects.add(Bad { reason: bad.reason, message });
    }

    #[inline]
    fn push(&mut self, key: u32, row: Row, exemplars: Option<&str>) {
        let floor = |t: i64| t - t.rem_euclid(MS);
        if row.histogram.is_some() {
            self.histograms.resize(self.keys.len(), None);
            self.histograms.push(row.histogram);
        }
        self.keys.push(key);
        self.own_times &= row.time.is_some();
        self.timestamp.push(Some(floor(row.time.unwrap_or(self.received))));
        self.start.push(row.start.map(floor));
        self.value.append_option(row.value);
        self.value_int.append_option(row.int);
        self.stale.push(row.stale.then_some(true));
        self.exemplars.push(exemplars);
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
