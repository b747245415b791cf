//! The running cluster operator.

use std::sync::Arc;

use arrow::array::ArrayRef;
use weir_pipeline::batch::{Batch, Run};
use weir_pipeline::component::{Operator, OperatorError, Output, Tick};
use weir_pipeline::entity::{Entity, EntitySpace};

use super::groups::{correlation, groups, numbers};
use super::series::{Look, Series};
use super::{ADDED, SIGNAL, Shape};
use crate::codec::{get, get_u64, put, put_u64};
use crate::series::TIMESTAMP;
use crate::series::known::{Full, Key, Known};
use crate::series::points::points;
use crate::series::rows::{self, at_tick};

pub(super) struct Cluster {
    shape: Arc<Shape>,
    known: Known<Series>,
    /// Number of the last `every` for which groups were made.
    made: i64,
    /// Number of the next group.
    next: u64,
    /// Where the entities of emitted rows live.
    entities: EntitySpace,
}

/// What is said of one series.
struct Said {
    entity: Arc<Entity>,
    group: Option<u64>,
    size: u64,
    distance: Option<f64>,
    representative: Option<Arc<str>>,
    left: bool,
    size_before: u64,
}

impl Cluster {
    pub(super) fn new(shape: Arc<Shape>) -> Self {
        let silent = shape.settings.step.saturating_mul(shape.settings.steps as i64);
        let known = Known::new(shape.series_max, Full::Waits(silent), shape.by.clone());
        Self { shape, known, made: i64::MIN, next: 1, entities: EntitySpace::default() }
    }

    /// Groups the series, if it is time to. The end of what was looked at, and what is to say.
    fn group(&mut self) -> Option<(i64, Vec<Said>)> {
        let settings = self.shape.settings;
        let all = self.known.all();
        let newest = all.iter().filter_map(|(_, s)| s.bins.newest()).max()?;
        let end = newest.saturating_mul(settings.step);
        let number = end.div_euclid(settings.every);
        if number <= self.made {
            return None;
        }
        self.made = number;
        let bins = newest.saturating_sub(settings.steps as i64)..newest;
        // By key, which is a hash: the first ones are any.
        let mut looks: Vec<(Key, usize, Look)> = all
            .iter()
            .enumerate()
            .filter_map(|(place, (key, s))| Some((*key, place, s.look(bins.clone())?)))
            .collect();
        looks.sort_unstable_by_key(|(key, _, _)| *key);
        let (mut places, mut shapes, mut flat) = (Vec::new(), Vec::new(), Vec::new());
        for (_, place, look) in looks {
            match look {
                Look::Shape(values) => {
                    places.push(place);
                    shapes.push(values);
                }
                Look::Flat => flat.push(place),
            }
        }
        let found = groups(&shapes, &settings);
        let before: Vec<Option<u64>> = places.iter().map(|p| all[*p].1.group).collect();
        let numbers = numbers(&found, &before, &mut self.next);
        let mut said: Vec<Said> = Vec::with_capacity(places.len() + flat.len());
        let mut of: Vec<Option<usize>> = vec![None; places.len()];
        for (group, members) in found.iter().map(|g| &g.members).enumerate() {
            members.iter().for_each(|m| of[*m] = Some(group));
        }
        let names: Vec<Arc<str>> =
            found.iter().map(|g| all[places[g.representative]].1.text().into()).collect();
        let shapes_and_flat = places.iter().enumerate().map(|(i, p)| (*p, Some(i)));
        for (place, shape) in shapes_and_flat.chain(flat.iter().map(|p| (*p, None))) {
            let series = &mut all[place].1;
            let group = shape.and_then(|shape| of[shape]);
            let now = group.map(|g| numbers[g]);
            let size = group.map_or(0, |g| found[g].members.len() as u64);
            let distance = group.zip(shape).map(|(g, shape)| {
                1.0 - correlation(&shapes[shape], &shapes[found[g].representative])
            });
            said.push(Said {
                entity: series.entity.clone(),
                group: now,
                size,
                distance,
                representative: group.map(|g| names[g].clone()),
                left: series.group.is_some() && series.group != now,
                size_before: series.size,
            });
            (series.group, series.size) = (now, size);
        }
        Some((end, said))
    }

    fn rows(&self, end: i64, said: &[Said], run: Run) -> Result<Batch, OperatorError> {
        let int = |of: fn(&Said) -> Option<u64>| -> ArrayRef {
            rows::ints(said.iter().map(|s| of(s).map(|n| n as i64)))
        };
        let arrays: [ArrayRef; ADDED.len()] = [
            int(|s| s.group),
            int(|s| s.group.map(|_| s.size)),
            rows::doubles(said.iter().map(|s| s.distance)),
            rows::texts(said.iter().map(|s| s.representative.as_deref())),
            rows::bools(said.iter().map(|s| Some(s.left))),
            int(|s| Some(s.size_before)),
        ];
        let time = (TIMESTAMP, rows::times(said.iter().map(|_| Some(end))));
        let columns = std::iter::once(time).chain(ADDED.iter().map(|(n, _)| *n).zip(arrays));
        let runs = [Run { rows: said.len(), ..run }].into();
        rows::rows(SIGNAL, &self.entities, said.iter().map(|s| &s.entity), columns, runs)
    }
}

impl Operator for Cluster {
    fn process(&mut self, _: usize, batch: Batch, _: &mut Output) -> Result<(), OperatorError> {
        let points = points(&batch, self.shape.value.as_ref())?;
        let (step, bins) = (self.shape.settings.step, self.shape.settings.steps + 1);
        self.known.feed(&batch, &points, |series, _, point| {
            if point.learn {
                series.add(step, bins, point.time, point.value);
            }
        })
    }

    fn tick(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        if let Some(rows) = self.known.dropped() {
            let limit = self.shape.series_max;
            tracing::warn!(rows, limit, "more series than cluster may know");
        }
        if let Some((end, said)) = self.group().filter(|(_, said)| !said.is_empty()) {
            out.emit(self.rows(end, &said, at_tick(tick))?);
        }
        Ok(())
    }

    fn watermark(&self, inputs: i64) -> i64 {
        inputs
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
        let mut out = Vec::new();
        put_u64(&mut out, self.made as u64);
        put_u64(&mut out, self.next);
        put(&mut out, &self.known.put());
        Ok(out)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), OperatorError> {
        let bad = || OperatorError::new("malformed state of a cluster operator");
        let mut bytes = state;
        let made = get_u64(&mut bytes).ok_or_else(bad)? as i64;
        let next = get_u64(&mut bytes).ok_or_else(bad)?;
        let known = get(&mut bytes).filter(|_| bytes.is_empty()).ok_or_else(bad)?;
        self.known.get(known).ok_or_else(bad)?;
        (self.made, self.next) = (made, next);
        Ok(())
    }

    fn flush(&mut self, _: Tick, _: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }
}
