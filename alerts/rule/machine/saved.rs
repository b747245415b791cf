//! State as bytes, and what becomes of it when the identity of instances has changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_pipeline::component::OperatorError;

use super::super::NoData;
use super::super::instance::{Details, Instance, Key, Status};
use super::absence::own_labels;
use super::lag::Lag;
use super::{Machine, REASON_LABEL, Settings, Truncated, labels};

/// Version of the state.
const VERSION: u32 = 2;

/// What a snapshot holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    version: u32,
    alert: String,
    by: Vec<String>,
    labels: BTreeMap<String, String>,
    instances: Vec<(Key, Instance)>,
    /// What the rule says about itself, since when.
    meta: BTreeMap<String, i64>,
    sequence: u64,
    window: Option<i64>,
    no_data: NoData,
    lag: Lag,
    truncated: Truncated,
    orphans: Vec<Orphan>,
}

/// What an earlier form of the rule fired, and this one cannot end by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Orphan {
    pub(super) alert: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) starts_at: i64,
    pub(super) details: Details,
}

impl Orphan {
    /// The alert about an instance without data.
    fn of_silence(settings: &Settings, key: &Key, starts_at: i64) -> Self {
        let labels = own_labels(labels(settings, key));
        Self { alert: settings.alert.clone(), labels, starts_at, details: Details::default() }
    }
}

impl Machine {
    pub(in super::super) fn snapshot(&self) -> Result<Vec<u8>, OperatorError> {
        let saved = Saved {
            version: VERSION,
            alert: self.settings.alert.clone(),
            by: self.settings.by.clone(),
            labels: self.settings.labels.clone(),
            instances: self.instances.iter().map(|(k, i)| (k.clone(), i.clone())).collect(),
            meta: self.meta.clone(),
            sequence: self.sequence,
            window: self.window,
            no_data: self.settings.no_data,
            lag: self.lag.clone(),
            truncated: self.truncated.clone(),
            orphans: self.orphans.clone(),
        };
        serde_json::to_vec(&saved).map_err(|e| OperatorError::new(e.to_string()))
    }

    /// Takes over what was saved. Where the identity of instances has changed since, what fired
    /// under the old one is resolved at the next row or tick with reason `changed`; so is the
    /// alert about missing data where `no_data` asks for none any more.
    pub(in super::super) fn restore(&mut self, state: &[u8]) -> Result<(), OperatorError> {
        let saved: Saved =
            serde_json::from_slice(state).map_err(|e| OperatorError::new(e.to_string()))?;
        if saved.version != VERSION {
            let message = format!("state of an alert has version {}, not {VERSION}", saved.version);
            return Err(OperatorError::new(message));
        }
        self.sequence = saved.sequence;
        self.window = saved.window;
        self.lag = saved.lag;
        self.orphans = saved.orphans;
        let s = self.settings.clone();
        if (&saved.alert, &saved.by, &saved.labels) == (&s.alert, &s.by, &s.labels) {
            self.instances = saved.instances.into_iter().collect();
            if saved.no_data != s.no_data {
                // What is missing is noticed anew, under the present policy.
                for (key, instance) in &mut self.instances {
                    let since = instance.no_data.take();
                    if let Some(since) = since.filter(|_| saved.no_data == NoData::Alert) {
                        self.orphans.push(Orphan::of_silence(&s, key, since));
                    }
                }
            }
            self.meta = saved.meta;
            self.truncated = saved.truncated;
            let all = self.instances.values().flat_map(|i| i.series.keys().cloned());
            for series in all.collect::<Vec<_>>() {
                *self.series.entry(series).or_default() += 1;
            }
            return Ok(());
        }
        let old = Settings {
            alert: saved.alert,
            by: saved.by,
            labels: saved.labels,
            hold: 0,
            keep: 0,
            resolve_after: None,
            no_data: saved.no_data,
            limit: 0,
        };
        for (key, instance) in saved.instances {
            if let Status::Firing { starts_at, .. } = instance.status {
                let labels = labels(&old, &key);
                let details = instance.details;
                self.orphans.push(Orphan { alert: old.alert.clone(), labels, starts_at, details });
            }
            if let Some(since) = instance.no_data.filter(|_| old.no_data == NoData::Alert) {
                self.orphans.push(Orphan::of_silence(&old, &key, since));
            }
        }
        for (reason, starts_at) in saved.meta {
            let mut labels = old.labels.clone();
            labels.insert("alertname".to_owned(), old.alert.clone());
            labels.insert(REASON_LABEL.to_owned(), reason);
            let details = Details::default();
            self.orphans.push(Orphan { alert: old.alert.clone(), labels, starts_at, details });
        }
        Ok(())
    }
}
