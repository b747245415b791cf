//! What a notice says, before any receiver type shapes it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::transition::State;

/// Why a notice is sent; the words of Alertmanager's `notification_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Nothing of this group was sent here before.
    #[serde(rename = "first notification")]
    First,
    /// Something fires that was not in the last notice.
    #[serde(rename = "new alerts added")]
    NewAlerts,
    /// A part is over.
    #[serde(rename = "some alerts resolved")]
    SomeResolved,
    /// All is over.
    #[serde(rename = "all alerts resolved")]
    AllResolved,
    /// Nothing changed for `repeat_interval`.
    #[serde(rename = "repeat interval elapsed")]
    Repeat,
    /// Somebody asked for a test page.
    #[serde(rename = "test")]
    Test,
}

/// One alert in a notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Firing or resolved.
    pub state: State,
    /// Pipeline that it comes from.
    pub pipeline: String,
    /// Identity.
    pub labels: BTreeMap<String, String>,
    /// Rendered texts.
    pub annotations: BTreeMap<String, String>,
    /// JSON object of what the condition reads.
    pub value: String,
    /// UTC nanoseconds.
    pub starts_at: i64,
    /// UTC nanoseconds; `None` while firing.
    pub ends_at: Option<i64>,
    /// Alertmanager's fingerprint of the labels.
    pub fingerprint: String,
    /// Why it resolved or fired, where it is not the condition.
    pub reason: String,
}

impl Notice {
    /// `alertname`, or the fingerprint where there is none.
    pub fn name(&self) -> &str {
        self.labels.get("alertname").unwrap_or(&self.fingerprint)
    }

    /// The summary, else the name.
    pub fn summary(&self) -> &str {
        self.annotations
            .get("summary")
            .filter(|s| !s.is_empty())
            .map_or(self.name(), String::as_str)
    }

    /// Labels without `alertname`, `a=b, c=d`.
    pub fn label_text(&self) -> String {
        pairs(self.labels.iter().filter(|(k, _)| *k != "alertname"))
    }
}

fn pairs<'a>(labels: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    labels.map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ")
}

/// One notice about a group of alerts to one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// Stable over all attempts, and over restarts: what receivers deduplicate by.
    pub id: String,
    /// Alertmanager's group key, `{}/{severity="page"}:{alertname="X"}`.
    pub group_key: String,
    /// Receiver name.
    pub receiver: String,
    /// Why it is sent.
    pub reason: Reason,
    /// What the group has in common by `group_by`.
    pub group_labels: BTreeMap<String, String>,
    /// Firing first, then resolved, each by identity.
    pub alerts: Vec<Notice>,
    /// Where a person finds this Weir.
    pub external_url: String,
    /// When the group was looked at, UTC nanoseconds.
    pub time: i64,
}

impl Notification {
    /// Firing if anything of it is.
    pub fn state(&self) -> State {
        match self.firing().next() {
            Some(_) => State::Firing,
            None => State::Resolved,
        }
    }

    /// What fires.
    pub fn firing(&self) -> impl Iterator<Item = &Notice> {
        self.alerts.iter().filter(|a| a.state == State::Firing)
    }

    /// What is over.
    pub fn resolved(&self) -> impl Iterator<Item = &Notice> {
        self.alerts.iter().filter(|a| a.state == State::Resolved)
    }

    /// Labels that all alerts agree on.
    pub fn common_labels(&self) -> BTreeMap<String, String> {
        common(self.alerts.iter().map(|a| &a.labels))
    }

    /// Annotations that all alerts agree on.
    pub fn common_annotations(&self) -> BTreeMap<String, String> {
        common(self.alerts.iter().map(|a| &a.annotations))
    }

    /// One line: `[FIRING:2] error_burst (severity=page)`.
    pub fn title(&self) -> String {
        let state = match self.state() {
            State::Firing => format!("FIRING:{}", self.firing().count()),
            State::Resolved => "RESOLVED".to_owned(),
        };
        let common = self.common_labels();
        let name = common.get("alertname").or_else(|| self.group_labels.get("alertname"));
        let name = name.map_or("alerts", String::as_str);
        let rest = pairs(common.iter().filter(|(k, _)| *k != "alertname"));
        match rest.is_empty() {
            true => format!("[{state}] {name}"),
            false => format!("[{state}] {name} ({rest})"),
        }
    }
}

fn common<'a>(
    mut maps: impl Iterator<Item = &'a BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    let Some(mut common) = maps.next().cloned() else { return BTreeMap::new() };
    for map in maps {
        common.retain(|k, v| map.get(k) == Some(v));
    }
    common
}

/// RFC 3339, UTC, as receivers read it.
pub(crate) fn rfc3339(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).map(|t| t.to_string()).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;
    use crate::transition::fingerprint;

    /// A firing or resolved alert with these labels and this summary.
    pub(crate) fn notice(labels: &[(&str, &str)], state: State, summary: &str) -> Notice {
        let labels: BTreeMap<_, _> =
            labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Notice {
            state,
            pipeline: "shop".into(),
            fingerprint: fingerprint(&labels),
            labels,
            annotations: BTreeMap::from([
                ("summary".to_owned(), summary.to_owned()),
                ("runbook_url".to_owned(), "https://wiki.example/errors".to_owned()),
            ]),
            value: "{\"errors\":12}".into(),
            starts_at: 1_700_000_000_000_000_000,
            ends_at: (state == State::Resolved).then_some(1_700_000_060_000_000_000),
            reason: String::new(),
        }
    }

    /// Of these alerts.
    pub(crate) fn notification(alerts: Vec<Notice>) -> Notification {
        Notification {
            id: "0123456789abcdef".into(),
            group_key: "{}/{severity=\"page\"}:{alertname=\"error_burst\"}".into(),
            receiver: "oncall".into(),
            reason: Reason::First,
            group_labels: BTreeMap::from([("alertname".to_owned(), "error_burst".to_owned())]),
            alerts,
            external_url: "http://127.0.0.1:9347".into(),
            time: 1_700_000_010_000_000_000,
        }
    }
}
