//! One series: its bins, and the group that it was in last.

use std::sync::Arc;

use weir_pipeline::entity::Entity;

use crate::codec::{get_entity, get_u64, put_entity, put_u64};
use crate::series::bins::Bins;
use crate::series::known::{self, Identity};
use crate::series::robust::median;

/// Share of the steps, in quarters, that must have points.
const QUARTERS_MIN: usize = 3;

/// Values further from the median than this many robust deviations count as so far.
const FAR: f64 = 4.0;
const DEVIATION: f64 = 1.482_602_218_505_602;

/// A series whose deviation is less than this share of its largest value does not vary.
const VARIES: f64 = 1e-6;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    pub(super) entity: Arc<Entity>,
    pub(super) bins: Bins,
    time: i64,
    /// Number of its group, and how many were in it.
    pub(super) group: Option<u64>,
    pub(super) size: u64,
}

/// What a series looks like.
pub(super) enum Look {
    /// Mean 0, sum of squares 1.
    Shape(Vec<f64>),
    Flat,
}

impl Series {
    pub(super) fn add(&mut self, step: i64, bins: usize, time: i64, value: f64) {
        self.time = self.time.max(time);
        self.bins.add(step, bins, time, value);
    }

    /// Over the bins of these numbers; `None` if too many have no points.
    pub(super) fn look(&self, bins: std::ops::Range<i64>) -> Option<Look> {
        let mut values: Vec<f64> = bins.map(|b| self.bins.mean(b).unwrap_or(f64::NAN)).collect();
        let mut known: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
        if known.len() * 4 < values.len() * QUARTERS_MIN {
            return None;
        }
        let largest = known.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
        let middle = median(&mut known);
        known.iter_mut().for_each(|v| *v = (*v - middle).abs());
        let far = FAR * DEVIATION * median(&mut known);
        for value in &mut values {
            // A gap is as it is usually.
            let away = if value.is_nan() { 0.0 } else { *value - middle };
            // Of a series that is mostly the same, what is not is all that there is.
            *value = if far > 0.0 { away.clamp(-far, far) } else { away };
        }
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter_mut().for_each(|v| *v -= mean);
        let length = values.iter().map(|v| v * v).sum::<f64>().sqrt();
        if length <= VARIES * largest * (values.len() as f64).sqrt() {
            return Some(Look::Flat);
        }
        values.iter_mut().for_each(|v| *v /= length);
        Some(Look::Shape(values))
    }

    /// As people read it: the name of the metric, and what else it has.
    pub(super) fn text(&self) -> String {
        let name = self.entity.get("metric.name").map(|v| v.to_text().into_owned());
        let own = |name: &str| name.starts_with("metric.") || name.starts_with("scope.");
        let rest = self.entity.attributes().iter().filter(|a| !own(&a.name));
        let rest: Vec<String> = rest.map(|a| format!("{}={}", a.name, a.value.to_text())).collect();
        match name {
            Some(name) if rest.is_empty() => name,
            name => format!("{}{{{}}}", name.unwrap_or_default(), rest.join(",")),
        }
    }
}

impl known::Series for Series {
    const SAVED_MIN: usize = 40;

    fn new(identity: &Identity<'_>) -> Self {
        let (entity, bins) = (identity.entity(), Bins::new(identity));
        Self { entity, bins, time: i64::MIN, group: None, size: 0 }
    }

    fn time(&self) -> i64 {
        self.time
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_entity(out, &self.entity);
        self.bins.put(out);
        put_u64(out, self.time as u64);
        // Groups are numbered from 1.
        put_u64(out, self.group.unwrap_or_default());
        put_u64(out, self.size);
    }

    fn get(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self {
            entity: Arc::new(get_entity(bytes)?),
            bins: Bins::get(bytes)?,
            time: get_u64(bytes)? as i64,
            group: Some(get_u64(bytes)?).filter(|g| *g > 0),
            size: get_u64(bytes)?,
        })
    }
}
