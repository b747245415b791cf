//! State as bytes, and what becomes of it when the identity of instances has changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_pipeline::component::OperatorError;

use super::super::NoData;
use super::super::instance::{Details, Instance, Key, Status};
use super::{Machine, REASON_LABEL, Settings, Truncated, labels};

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

impl Machine {
    pub(in super::super) fn snapshot(&self) -> Result<Vec<u8>, OperatorError> {
        let saved = Saved {
            version: 1,
            alert: self.settings.alert.clone(),
            by: self.settings.by.clone(),
            labels: self.settings.labels.clone(),
            instances: self.instances.iter().map(|(k, i)| (k.clone(), i.clone())).collect(),
            meta: self.meta.clone(),
            sequence: self.sequence,
            window: self.window,
            truncated: self.truncated.clone(),
            orphans: self.orphans.clone(),
        };
        serde_json::to_vec(&saved).map_err(|e| OperatorError::new(e.to_string()))
    }

    /// Takes over what was saved. Where the identity of instances has changed since, what fired
    /// under the old one is resolved at the next tick with reason `changed`.
    pub(in super::super) fn restore(&mut self, state: &[u8]) -> Result<(), OperatorError> {
        let saved: Saved =
            serde_json::from_slice(state).map_err(|e| OperatorError::new(e.to_string()))?;
        if saved.version != 1 {
            let message = format!("state of an alert has version {}, not 1", saved.version);
            return Err(OperatorError::new(message));
        }
        self.sequence = saved.sequence;
        self.window = saved.window;
        self.orphans = saved.orphans;
        let s = &self.settings;
        if (&saved.alert, &saved.by, &saved.labels) == (&s.alert, &s.by, &s.labels) {
            self.instances = saved.instances.into_iter().collect();
            self.meta = saved.meta;
            self.truncated = saved.truncated;
            let all = self.instances.values().flat_map(|i| i.series.iter().cloned());
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
            no_data: NoData::Ok,
            limit: 0,
        };
        for (key, instance) in saved.instances {
            if let Status::Firing { starts_at, .. } = instance.status {
                let labels = labels(&old, &key);
                let details = instance.details;
                self.orphans.push(Orphan { alert: old.alert.clone(), labels, starts_at, details });
            }
            if let Some(starts_at) = instance.no_data {
                let mut labels = labels(&old, &key);
                labels.insert(REASON_LABEL.to_owned(), "no_data".to_owned());
                let details = Details::default();
                self.orphans.push(Orphan { alert: old.alert.clone(), labels, starts_at, details });
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
