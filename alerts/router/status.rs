//! What the router tells people: alerts with their deliveries, targets, test pages.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::core::{Alert, AlertKey, Group, State};
use super::{Inner, Router, RouterError};
use crate::notify::{Channel, Notice, Notification, Reason, SendError, Target, sha256_hex};
use crate::transition::{State as AlertState, fingerprint};

/// Time for a test page at one target, besides its own limits.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// An alert, and who was told of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AlertStatus {
    /// Pipeline.
    pub pipeline: String,
    /// Id of the rule.
    pub alert: String,
    /// Fingerprint of the labels.
    pub fingerprint: String,
    /// `firing`, or `resolved` while somebody is still to be told so.
    pub state: AlertState,
    /// Identity.
    pub labels: BTreeMap<String, String>,
    /// Rendered texts.
    pub annotations: BTreeMap<String, String>,
    /// Columns that the condition read.
    pub value: serde_json::Value,
    /// RFC 3339.
    pub starts_at: String,
    /// RFC 3339; `null` while firing.
    pub ends_at: Option<String>,
    /// Why, where it is not the condition.
    pub reason: String,
    /// Targets that it leads to, or that are owed its end.
    pub told: Vec<Told>,
}

/// What one target knows of one alert.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    /// Receiver.
    pub receiver: String,
    /// `receiver/type:destination`.
    pub target: String,
    /// `waiting` (for the group's turn), `sending`, `retrying`, `firing` (told so), `resolved`
    /// (told so).
    pub state: &'static str,
    /// When it last took a notice that holds this alert, RFC 3339.
    pub at: Option<String>,
    /// Failed attempts of the notice on its way.
    pub attempts: u32,
    /// When the next attempt, or the group's turn, is due, RFC 3339.
    pub next: Option<String>,
    /// What the last attempt failed with.
    pub error: Option<String>,
}

/// How a target fares.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TargetStatus {
    /// Receiver.
    pub receiver: String,
    /// `receiver/type:destination`.
    pub target: String,
    /// Notices on their way.
    pub waiting: usize,
    /// Last notice that it took, RFC 3339.
    pub delivered_at: Option<String>,
    /// Last failed attempt, RFC 3339.
    pub failed_at: Option<String>,
    /// What the last attempt failed with; `null` if it succeeded.
    pub error: Option<String>,
}

/// How a test page went at one target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TestOutcome {
    /// `receiver/type:destination`.
    pub target: String,
    /// What went wrong; `null` if it was taken.
    pub error: Option<String>,
}

fn time(nanoseconds: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds))
        .map(|t| t.to_string())
        .unwrap_or_default()
}

impl Router {
    /// Alerts that fire, and those whose end somebody is still to be told; by identity.
    pub fn alerts(&self) -> Vec<AlertStatus> {
        let inner = self.inner.lock();
        inner.core.state.alerts.iter().map(|(key, alert)| status(&inner, key, alert)).collect()
    }

    /// Targets of all receivers, and those that are gone but have notices on their way.
    pub fn targets(&self) -> Vec<TargetStatus> {
        let inner = self.inner.lock();
        let State { deliveries, outcomes, .. } = &inner.core.state;
        let mut waiting: BTreeMap<&str, usize> = BTreeMap::new();
        let mut targets: BTreeMap<&str, &Target> = BTreeMap::new();
        for delivery in deliveries.values() {
            *waiting.entry(&delivery.target.id).or_default() += 1;
            targets.insert(&delivery.target.id, &delivery.target);
        }
        for target in inner.core.config.receivers.values().flatten() {
            targets.insert(&target.id, target);
        }
        targets
            .into_iter()
            .map(|(id, target)| {
                let last = outcomes.get(id).cloned().unwrap_or_default();
                TargetStatus {
                    receiver: target.receiver.clone(),
                    target: id.to_owned(),
                    waiting: waiting.get(id).copied().unwrap_or_default(),
                    delivered_at: last.delivered.map(time),
                    failed_at: last.failed.map(time),
                    error: last.error,
                }
            })
            .collect()
    }

    /// Sends a test page to every target of a receiver, once, past groups and log. Where that
    /// opens something that stays open (an incident), its end is sent after it.
    ///
    /// # Errors
    /// If there is no such receiver.
    pub async fn test_page(&self, receiver: &str) -> Result<Vec<TestOutcome>, RouterError> {
        let targets = {
            let inner = self.inner.lock();
            let receivers = &inner.core.config.receivers;
            receivers.get(receiver).cloned().ok_or_else(|| RouterError::NoReceiver {
                name: receiver.to_owned(),
                known: receivers.keys().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", "),
            })?
        };
        let notification = self.test_notification(receiver);
        let end = ended(notification.clone());
        let mut outcomes = Vec::new();
        for target in targets {
            let mut result = self.test(&target, &notification).await;
            if result.is_ok() && matches!(target.channel, Channel::Pagerduty(_)) {
                result = self.test(&target, &end).await.map_err(|mut e| {
                    e.message = format!("opened an incident, but did not resolve it: {e}");
                    e
                });
            }
            outcomes
                .push(TestOutcome { target: target.id, error: result.err().map(|e| e.message) });
        }
        Ok(outcomes)
    }

    async fn test(&self, target: &Target, notification: &Notification) -> Result<(), SendError> {
        let send = self.transport.send(target, notification);
        let result = tokio::time::timeout(TEST_TIMEOUT, send).await;
        result.unwrap_or_else(|_| Err(SendError::transient("no answer in time")))
    }

    fn test_notification(&self, receiver: &str) -> Notification {
        let now = self.clock.now();
        let labels = BTreeMap::from([
            ("alertname".to_owned(), "weir_test_page".to_owned()),
            ("severity".to_owned(), "info".to_owned()),
        ]);
        let summary = format!("test page to receiver `{receiver}`: nothing is wrong");
        let notice = Notice {
            state: AlertState::Firing,
            pipeline: String::new(),
            fingerprint: fingerprint(&labels),
            labels: labels.clone(),
            annotations: BTreeMap::from([("summary".to_owned(), summary)]),
            value: "{}".to_owned(),
            starts_at: now,
            ends_at: None,
            reason: "test".to_owned(),
        };
        // A group of its own each time: no incident of another test is touched.
        let group_key = format!("test/{receiver}:{{time=\"{now}\"}}");
        Notification {
            id: sha256_hex(&group_key)[..32].to_owned(),
            group_key,
            receiver: receiver.to_owned(),
            reason: Reason::Test,
            group_labels: labels,
            alerts: vec![notice],
            external_url: self.external_url.clone(),
            time: now,
        }
    }
}

/// The end of a test page.
fn ended(mut notification: Notification) -> Notification {
    for notice in &mut notification.alerts {
        notice.state = AlertState::Resolved;
        notice.ends_at = Some(notification.time);
    }
    notification.id = sha256_hex(&format!("{}/end", notification.group_key))[..32].to_owned();
    notification
}

fn status(inner: &Inner, key: &AlertKey, alert: &Alert) -> AlertStatus {
    let t = &alert.transition;
    let groups = alert.groups.iter().filter_map(|g| inner.core.state.groups.get(g));
    AlertStatus {
        pipeline: key.pipeline.clone(),
        alert: key.alert.clone(),
        fingerprint: key.fingerprint.clone(),
        state: t.state,
        labels: t.labels.clone(),
        annotations: t.annotations.clone(),
        value: serde_json::from_str(&t.value).unwrap_or_default(),
        starts_at: time(t.starts_at),
        ends_at: t.ends_at.map(time),
        reason: t.reason.clone(),
        told: groups.flat_map(|g| told(inner, g, key)).collect(),
    }
}

fn told(inner: &Inner, group: &Group, key: &AlertKey) -> Vec<Told> {
    let State { deliveries, outcomes, .. } = &inner.core.state;
    let current = inner.core.config.receivers.get(&group.receiver).into_iter().flatten();
    let current = current.filter(|_| !group.orphaned && group.members.contains(key));
    let mut targets: BTreeMap<&str, &Target> = current.map(|t| (t.id.as_str(), t)).collect();
    for (id, sent) in &group.sent {
        if sent.firing.contains(key) || sent.doubt.contains(key) {
            targets.entry(id).or_insert(&sent.target);
        }
    }
    targets
        .into_iter()
        .map(|(id, target)| {
            let sent = group.sent.get(id);
            let on_its_way = group.active.get(id).and_then(|n| deliveries.get(n));
            let state = match (on_its_way, sent) {
                (Some(d), _) if d.attempts > 0 => "retrying",
                (Some(_), _) => "sending",
                (None, Some(s)) if s.firing.contains(key) => "firing",
                (None, Some(s)) if s.resolved.contains(key) => "resolved",
                _ => "waiting",
            };
            let known = sent.filter(|s| s.firing.contains(key) || s.resolved.contains(key));
            Told {
                receiver: target.receiver.clone(),
                target: id.to_owned(),
                state,
                at: known.map(|s| time(s.at)),
                attempts: on_its_way.map_or(0, |d| d.attempts),
                next: Some(time(on_its_way.map_or(group.next_flush, |d| d.next_attempt))),
                error: outcomes.get(id).and_then(|o| o.error.clone()),
            }
        })
        .collect()
}
