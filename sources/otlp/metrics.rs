//! Metric data points to rows, one per point.
//!
//! The identity of a series is name, unit, type, temporality, bounds, labels, resource and scope.
//! A metric's description and metadata are not part of it and are not kept.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Builder, Int64Builder};
use hashbrown::HashSet;
use opentelemetry_proto::tonic::metrics::v1 as pb;
use pb::metric::Data;
use weir_pipeline::component::{DecodeError, Decoded};
use weir_pipeline::entity::{Entity, Origin, Value};
use weir_pipeline::signal::Signal;

use super::flat::Odd;
use super::histogram::{Histogram, column};
use super::numbers::{self, Numbers};
use super::points::{Point, Row, exemplars, explicit, exponential, number, summary};
use super::rows::{Rows, TextColumn, TimeColumn, intern};
use super::value::{self, Bad, Rejects};
use super::wire::{self, Record, Request};
use crate::columns::{Cell, EntityBuilder};
use crate::series::{BadSeries, Lookup};

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
        let (mut rows, mut name) = (Vec::new(), Vec::new());
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
                if self.known(&metric, &mut rows, &mut name).is_some() {
                    rows.drain(..).for_each(|(key, row)| self.push(key, row, None));
                    continue;
                }
                named = Some(metric);
            }
            self.metric(&record.decode()?, scope, named.as_ref())?;
        }
        Ok(())
    }

    /// The rows of all points with their keys, if all can be kept and their series are known.
    fn known(
        &mut self,
        metric: &Named<'_>,
        rows: &mut Vec<(u32, Row)>,
        name: &mut Vec<u8>,
    ) -> Option<()> {
        let unknown = || Err(BadSeries::new("unknown", ""));
        rows.clear();
        for point in metric.points {
            let row = Row::of(point).ok()?;
            rows.push((metric.key(point, &mut self.lookup, name, unknown).ok()?, row));
        }
        Some(())
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
