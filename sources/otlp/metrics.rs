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
    /// The last name of a series that was looked up.
    name: Vec<u8>,
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

/// What names the series of one metric, besides their attributes and bounds.
#[derive(Clone, Copy)]
struct Names {
    kind: u8,
    prefix: [u8; 16],
}

impl Names {
    /// `kind` and `head` are of the metric (see [`numbers::head`]), `scope` stands for all around it.
    fn new(lookup: &Lookup<'_>, scope: [u8; 16], kind: u8, mut head: Vec<u8>) -> Self {
        head.extend(scope);
        Self { kind, prefix: lookup.digest(&head) }
    }

    /// The key of the series with these attributes, which `build` makes if it is not known.
    fn key(
        &self,
        attributes: &[u8],
        lookup: &mut Lookup<'_>,
        name: &mut Vec<u8>,
        build: impl FnOnce() -> Result<Entity, BadSeries>,
    ) -> Result<u32, BadSeries> {
        name.clear();
        name.extend(self.prefix);
        name.extend(attributes);
        lookup.key(self.kind, name, build)
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
        name: Vec::new(),
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
        let (mut points, mut rows) = (Vec::new(), Vec::new());
        let mut digest = (u32::MAX, None);
        for (entity, record) in records {
            let Some(scope) = entities.get(entity as usize) else { continue };
            if digest.0 != entity {
                digest = (entity, names.get(entity as usize).map(|n| self.lookup.digest(n)));
            }
            points.clear();
            let wire = record.wire();
            let read = wire.ok_or(Odd).and_then(|m| Numbers::read(m, &mut points));
            count += match (&read, &record) {
                (Ok(_), _) => points.len(),
                (Err(Odd), Record::Wire(bytes)) => wire::points(bytes)?,
                (Err(Odd), Record::Owned(_)) => 0,
            };
            if count > wire::ROWS_MAX {
                return Err(wire::too_many("data points", wire::ROWS_MAX));
            }
            if let Some((metric, scope)) = read.ok().zip(digest.1) {
                let names =
                    Names::new(&self.lookup, scope, u8::from(metric.is_counter), metric.head());
                if self.known(names, &points, &mut rows).is_some() {
                    rows.drain(..).for_each(|(key, row)| self.push(key, row, None));
                    continue;
                }
            }
            let metric = record.decode()?;
            let attributes = wire.and_then(|m| numbers::attributes(m).ok()).unwrap_or_default();
            self.metric(&metric, scope, digest.1, &attributes)?;
        }
        Ok(())
    }

    /// The rows of all points with their keys, if all can be kept and their series are known.
    fn known(
        &mut self,
        names: Names,
        points: &[numbers::Point<'_>],
        rows: &mut Vec<(u32, Row)>,
    ) -> Option<()> {
        let unknown = || Err(BadSeries::new("unknown", ""));
        rows.clear();
        for point in points {
            let row = Row::of(point).ok()?;
            let key = names.key(point.attributes, &mut self.lookup, &mut self.name, unknown);
            rows.push((key.ok()?, row));
        }
        Some(())
    }

    fn metric(
        &mut self,
        metric: &pb::Metric,
        scope: &EntityBuilder,
        digest: Option<[u8; 16]>,
        attributes: &[Vec<u8>],
    ) -> Result<(), DecodeError> {
        let Some(data) = &metric.data else {
            self.rejects.add(Bad {
                reason: "no_data",
                message: format!("metric `{}` has no data points", metric.name),
            });
            return Ok(());
        };
        const KINDS: [&str; 5] =
            ["gauge", "counter", "histogram", "exponential_histogram", "summary"];
        let (kind, temporality) = match data {
            Data::Gauge(_) => (0, 0),
            Data::Sum(s) => (u8::from(s.is_monotonic), s.aggregation_temporality),
            Data::Histogram(h) => (2, h.aggregation_temporality),
            Data::ExponentialHistogram(h) => (3, h.aggregation_temporality),
            Data::Summary(_) => (4, 0),
        };
        let names = digest.map(|scope| {
            let head = numbers::head(&metric.name, &metric.unit, temporality);
            Names::new(&self.lookup, scope, kind, head)
        });
        let mut series = scope.clone();
        let temporality = match temporality {
            1 => "delta",
            2 => "cumulative",
            _ => "",
        };
        for (name, text) in [
            ("metric.name", metric.name.as_str()),
            ("metric.type", KINDS[usize::from(kind)]),
            ("metric.unit", &metric.unit),
            ("metric.temporality", temporality),
        ] {
            series.field(name, Value::Text(text.into()), Origin::Metric);
        }
        let mut attributes = attributes.iter();
        let mut add = |point| self.point(metric, &series, point, names.zip(attributes.next()));
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
        name: Option<(Names, &Vec<u8>)>,
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
        let key = match name {
            Some((names, attributes)) => names
                .key(attributes, &mut self.lookup, &mut self.name, || Ok(entity()))
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
