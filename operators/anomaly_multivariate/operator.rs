//! The running operator.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use weir_pipeline::batch::{Batch, Run};
use weir_pipeline::component::{Operator, OperatorError, Output, Tick};
use weir_pipeline::entity::{Entity, EntitySpace};

use super::group::{Group, Said, Series, common};
use super::{ADDED, LATENESS, SIGNAL, Shape};
use crate::codec::{get, get_u64, put, put_u64};
use crate::series::TIMESTAMP;
use crate::series::known::{Full, Key, Known};
use crate::series::points::points;
use crate::series::rows::{self, at_tick};

/// Series that are named in `anomaly.contributions`.
const NAMED: usize = 5;

pub(super) struct Multivariate {
    shape: Arc<Shape>,
    known: Known<Series>,
    groups: BTreeMap<Key, Group>,
    /// Whether rows came since the last look.
    fed: bool,
    /// Number of the first step that may still get points, at the last look.
    open: i64,
    /// Where the entities of emitted rows live.
    entities: EntitySpace,
}

/// A row: what its group has in common, what is said, and the names of the series that fit least.
type Row = (Arc<Entity>, Said, Vec<String>);

impl Multivariate {
    pub(super) fn new(shape: Arc<Shape>) -> Self {
        let silent = shape.settings.step.saturating_mul(shape.settings.steps as i64);
        let known = Known::new(shape.series_max, Full::Waits(silent), shape.by.clone());
        let entities = EntitySpace::default();
        Self { shape, known, groups: BTreeMap::new(), fed: true, open: i64::MIN, entities }
    }

    /// Judges all groups, in the order of their keys, up to step number `open`.
    fn judge(&mut self, open: i64) -> Vec<Row> {
        let settings = &self.shape.settings;
        let mut members: BTreeMap<Key, Vec<(Key, &Series)>> = BTreeMap::new();
        for (key, series) in self.known.all().iter() {
            if let Some(group) = series.group {
                members.entry(group).or_default().push((*key, series));
            }
        }
        self.groups.retain(|key, _| members.contains_key(key));
        let mut rows = Vec::new();
        for (key, mut members) in members {
            members.sort_unstable_by_key(|(key, _)| *key);
            let said = self.groups.entry(key).or_default().judge(settings, &members, open);
            let Some((_, first)) = members.first().filter(|_| !said.is_empty()) else { continue };
            let entity = Arc::new(common(&first.entity, settings));
            for said in said {
                let named = said.shares.iter().take(NAMED).map(|(key, _)| {
                    let place = members.binary_search_by_key(key, |(key, _)| *key);
                    place.map(|p| members[p].1.text(settings)).unwrap_or_default()
                });
                let named = named.collect();
                rows.push((entity.clone(), said, named));
            }
        }
        rows
    }

    fn rows(&self, said: &[Row], run: Run) -> Result<Batch, OperatorError> {
        let number = |of: fn(&Said) -> f64| -> ArrayRef {
            rows::doubles(said.iter().map(|(_, s, _)| Some(of(s))))
        };
        let shares = |(_, said, named): &Row| {
            let each = named.iter().zip(&said.shares);
            let each = each.map(|(name, (_, share))| (name.clone(), (share * 1e3).round() / 1e3));
            let map: serde_json::Map<_, _> = each.map(|(n, s)| (n, s.into())).collect();
            serde_json::Value::Object(map).to_string()
        };
        let arrays: [ArrayRef; ADDED.len()] = [
            number(|s| s.score),
            rows::bools(said.iter().map(|(_, s, _)| Some(s.alert))),
            rows::texts(said.iter().map(|(_, _, named)| named.first())),
            number(|s| s.shares.first().map_or(0.0, |(_, share)| *share)),
            number(|s| s.value),
            number(|s| s.expected),
            rows::texts(said.iter().map(|row| Some(shares(row)))),
            rows::ints(said.iter().map(|(_, s, _)| Some(s.members as i64))),
        ];
        let time = (TIMESTAMP, rows::times(said.iter().map(|(_, s, _)| Some(s.time))));
        let columns = std::iter::once(time).chain(ADDED.iter().map(|(n, _)| *n).zip(arrays));
        let runs = [Run { rows: said.len(), ..run }].into();
        rows::rows(SIGNAL, &self.entities, said.iter().map(|(e, _, _)| e), columns, runs)
    }
}

impl Operator for Multivariate {
    fn process(&mut self, _: usize, batch: Batch, _: &mut Output) -> Result<(), OperatorError> {
        let points = points(&batch, self.shape.value.as_ref())?;
        let settings = &self.shape.settings;
        self.known.feed(&batch, &points, |series, _, point| {
            if point.learn {
                series.add(settings, point.time, point.value);
            }
        })?;
        self.fed = true;
        Ok(())
    }

    fn tick(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        if let Some(rows) = self.known.dropped() {
            let limit = self.shape.series_max;
            tracing::warn!(rows, limit, "more series than anomaly_multivariate may know");
        }
        // Not by the points: a sender whose clock is ahead would end steps for all others.
        let open = tick.watermark.saturating_sub(LATENESS).div_euclid(self.shape.settings.step);
        let over = std::mem::replace(&mut self.open, open) != open;
        if std::mem::take(&mut self.fed) || over {
            let said = self.judge(open);
            if !said.is_empty() {
                out.emit(self.rows(&said, at_tick(tick))?);
            }
        }
        Ok(())
    }

    fn watermark(&self, inputs: i64) -> i64 {
        inputs
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
        let mut out = Vec::new();
        put_u64(&mut out, self.groups.len() as u64);
        for (key, group) in &self.groups {
            out.extend(key.to_le_bytes());
            group.put(&mut out);
        }
        put(&mut out, &self.known.put());
        Ok(out)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), OperatorError> {
        let bad = || OperatorError::new("malformed state of an anomaly_multivariate operator");
        let mut bytes = state;
        let mut groups = BTreeMap::new();
        for _ in 0..get_u64(&mut bytes).ok_or_else(bad)? {
            let (key, rest) = bytes.split_first_chunk::<16>().ok_or_else(bad)?;
            bytes = rest;
            groups.insert(Key::from_le_bytes(*key), Group::get(&mut bytes).ok_or_else(bad)?);
        }
        let known = get(&mut bytes).filter(|_| bytes.is_empty()).ok_or_else(bad)?;
        self.known.get(known).ok_or_else(bad)?;
        self.groups = groups;
        Ok(())
    }

    fn flush(&mut self, _: Tick, _: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }
}
