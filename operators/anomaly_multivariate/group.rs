//! Series, and the groups that they are in.

use std::sync::Arc;

use weir_pipeline::entity::{Entity, Value};

use super::model::{Model, varies};
use super::{STEPS_MIN, Settings};
use crate::codec::{get_entity, get_u8, get_u64, put_entity, put_u64};
use crate::series::bins::Bins;
use crate::series::known::{self, Identity, Key};

/// Series of a group that are compared: a fit takes the square of their number.
const MEMBERS_MAX: usize = 64;

/// Share of the steps, in quarters, that must have points.
const QUARTERS_MIN: usize = 3;

/// Steps after which the model is fitted anew.
const ANEW: i64 = 64;

/// Steps after one whose score reached the threshold within which there is no alert.
const QUIET: i64 = 10;

/// Steps that are judged when many came at once: a backfill is learned from, not told.
pub(super) const JUDGED_MAX: i64 = 240;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    pub(super) entity: Arc<Entity>,
    pub(super) bins: Bins,
    time: i64,
    /// Of the attributes that a group has in common.
    pub(super) group: Option<Key>,
}

impl Series {
    pub(super) fn add(&mut self, settings: &Settings, time: i64, value: f64) {
        self.time = self.time.max(time);
        self.bins.add(settings.step, settings.steps + 1, time, value);
        if self.group.is_none() {
            self.group = Some(common(&self.entity, settings).fingerprint());
        }
    }

    /// Values of steps of these numbers; NaN where there is none.
    fn values(&self, steps: std::ops::Range<i64>) -> Vec<f64> {
        steps.map(|step| self.value(step)).collect()
    }

    fn value(&self, step: i64) -> f64 {
        self.bins.mean(step).unwrap_or(f64::NAN)
    }

    /// As people read it: the name of the metric, and what else it has.
    pub(super) fn text(&self, settings: &Settings) -> String {
        let name = self.entity.get("metric.name").map(Value::to_text);
        let other = |name: &str| {
            let told = settings.among.iter().any(|a| a == name);
            !told && !name.starts_with("metric.") && !name.starts_with("scope.")
        };
        let rest = self.entity.attributes().iter().filter(|a| other(&a.name));
        let rest: Vec<String> = rest.map(|a| format!("{}={}", a.name, a.value.to_text())).collect();
        match name {
            Some(name) if rest.is_empty() => name.into_owned(),
            name => format!("{}{{{}}}", name.unwrap_or_default(), rest.join(",")),
        }
    }
}

/// What the series of the group of this one have in common.
pub(super) fn common(entity: &Entity, settings: &Settings) -> Entity {
    let own = entity.attributes().iter().filter(|a| settings.among.iter().any(|n| **n == *a.name));
    Entity::new(own.cloned().collect())
}

/// Series with something in common.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Group {
    /// The last step that was judged; 0 before the first.
    judged: i64,
    /// At which step the model was fitted.
    fitted: i64,
    /// The last step whose score reached the threshold.
    news: i64,
    model: Option<(Vec<Key>, Model)>,
}

/// What is said of one step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    /// End of the step.
    pub(super) time: i64,
    pub(super) score: f64,
    pub(super) alert: bool,
    /// Keys of series with their share, the largest first.
    pub(super) shares: Vec<(Key, f64)>,
    pub(super) value: f64,
    pub(super) expected: f64,
    pub(super) members: usize,
}

impl Group {
    /// Judges the steps that are over since the last time: those before step number `open`, and before
    /// the newest. `members` are in the order of their keys.
    pub(super) fn judge(
        &mut self,
        settings: &Settings,
        members: &[(Key, &Series)],
        open: i64,
    ) -> Vec<Said> {
        let Some(newest) = members.iter().filter_map(|(_, s)| s.bins.newest()).max() else {
            return Vec::new();
        };
        let newest = newest.min(open);
        let first = (self.judged + 1).max(newest - JUDGED_MAX);
        let mut said = Vec::new();
        for step in first..newest {
            self.judged = step;
            if self.model.is_none() || step - self.fitted >= ANEW {
                self.fit(settings, members, step);
            }
            said.extend(self.step(settings, members, step));
        }
        said
    }

    /// Fits the model to what came before a step.
    fn fit(&mut self, settings: &Settings, members: &[(Key, &Series)], step: i64) {
        let oldest = members.iter().filter_map(|(_, s)| s.bins.oldest()).min().unwrap_or(step);
        let from = oldest.max(step - settings.steps as i64);
        if step - from < STEPS_MIN {
            return;
        }
        let enough = |values: &Vec<f64>| {
            let known = values.iter().filter(|v| !v.is_nan()).count();
            known * 4 >= values.len() * QUARTERS_MIN && varies(values)
        };
        let all = members.iter().map(|(key, series)| (*key, series.values(from..step)));
        let (keys, values): (Vec<Key>, Vec<Vec<f64>>) =
            all.filter(|(_, values)| enough(values)).take(MEMBERS_MAX).unzip();
        self.fitted = step;
        if let Some(model) = Model::fit(&values) {
            self.model = Some((keys, model));
        }
    }

    fn step(&mut self, settings: &Settings, members: &[(Key, &Series)], step: i64) -> Option<Said> {
        let (keys, model) = self.model.as_ref()?;
        let value = |key: &Key| {
            let place = members.binary_search_by_key(key, |(key, _)| *key).ok()?;
            Some(members[place].1.value(step))
        };
        let values: Vec<f64> = keys.iter().map(|key| value(key).unwrap_or(f64::NAN)).collect();
        if values.iter().all(|v| v.is_nan()) {
            return None;
        }
        let fit = model.judge(&values);
        let mut shares: Vec<(Key, f64)> = keys.iter().copied().zip(fit.shares).collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let worst = keys.iter().position(|key| Some(key) == shares.first().map(|(k, _)| k))?;
        let reached = fit.score >= settings.threshold;
        let alert = reached && (self.news == 0 || step - self.news > QUIET);
        if reached {
            self.news = step;
        }
        Some(Said {
            time: (step + 1).saturating_mul(settings.step),
            score: fit.score,
            alert,
            shares,
            value: values[worst],
            expected: fit.expected[worst],
            members: model.width(),
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        [self.judged, self.fitted, self.news].iter().for_each(|n| put_u64(out, *n as u64));
        out.push(u8::from(self.model.is_some()));
        if let Some((keys, model)) = &self.model {
            put_u64(out, keys.len() as u64);
            keys.iter().for_each(|key| out.extend(key.to_le_bytes()));
            model.put(out);
        }
    }

    pub(super) fn get(bytes: &mut &[u8]) -> Option<Self> {
        let [judged, fitted, news] = [(); 3].map(|()| get_u64(bytes).map(|n| n as i64));
        let mut group = Self { judged: judged?, fitted: fitted?, news: news?, model: None };
        if get_u8(bytes)? == 1 {
            let mut keys = Vec::new();
            for _ in 0..get_u64(bytes)? {
                let (key, rest) = bytes.split_first_chunk::<16>()?;
                *bytes = rest;
                keys.push(Key::from_le_bytes(*key));
            }
            let model = Model::get(bytes).filter(|m| m.width() == keys.len())?;
            group.model = Some((keys, model));
        }
        Some(group)
    }
}

impl known::Series for Series {
    const SAVED_MIN: usize = 40;

    fn new(identity: &Identity<'_>) -> Self {
        let (entity, bins) = (identity.entity(), Bins::new(identity));
        Self { entity, bins, time: i64::MIN, group: None }
    }

    fn time(&self) -> i64 {
        self.time
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_entity(out, &self.entity);
        self.bins.put(out);
        put_u64(out, self.time as u64);
        out.push(u8::from(self.group.is_some()));
        out.extend(self.group.unwrap_or_default().to_le_bytes());
    }

    fn get(bytes: &mut &[u8]) -> Option<Self> {
        let entity = Arc::new(get_entity(bytes)?);
        let (bins, time) = (Bins::get(bytes)?, get_u64(bytes)? as i64);
        let told = get_u8(bytes)? == 1;
        let (group, rest) = bytes.split_first_chunk::<16>()?;
        *bytes = rest;
        Some(Self { entity, bins, time, group: told.then(|| Key::from_le_bytes(*group)) })
    }
}
