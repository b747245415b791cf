//! What the router knows. Serialized as the snapshot of its log.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::notify::{Notice, Notification, Target};
use crate::transition::{State as AlertState, Transition};

/// Identity of an alert.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct AlertKey {
    pub(crate) pipeline: String,
    pub(crate) alert: String,
    pub(crate) fingerprint: String,
}

/// Where in a pipeline's input a transition came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) journal: u128,
    pub(crate) offset: u64,
    pub(crate) sequence: u64,
}

/// One alert instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Alert {
    /// The newest transition.
    pub(crate) transition: Transition,
    /// It came late: not told before this time unless its pipeline has caught up, so that its
    /// resolve may overtake. 0 if not.
    pub(crate) hold_until: i64,
    /// Groups that it is in.
    pub(crate) groups: BTreeSet<String>,
}

impl Alert {
    pub(crate) fn is_firing(&self) -> bool {
        self.transition.state == AlertState::Firing
    }

    /// It is over.
    pub(crate) fn end(&mut self, time: i64, reason: &str) {
        self.transition.state = AlertState::Resolved;
        self.transition.ends_at = Some(time);
        self.transition.time = time;
        reason.clone_into(&mut self.transition.reason);
        self.hold_until = 0;
    }

    /// As it is told, in the state that it had when its group was looked at.
    pub(crate) fn notice(&self, key: &AlertKey, state: AlertState) -> Notice {
        let t = &self.transition;
        Notice {
            state,
            pipeline: key.pipeline.clone(),
            labels: t.labels.clone(),
            annotations: t.annotations.clone(),
            value: t.value.clone(),
            starts_at: t.starts_at,
            ends_at: t.ends_at.filter(|_| state == AlertState::Resolved),
            fingerprint: t.fingerprint.clone(),
            reason: t.reason.clone(),
        }
    }
}

/// Alerts that are told together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Group {
    /// Id of the route.
    pub(crate) route: String,
    pub(crate) receiver: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) interval: i64,
    pub(crate) repeat: i64,
    pub(crate) next_flush: i64,
    /// The route is gone: only what is owed is still sent.
    pub(crate) orphaned: bool,
    pub(crate) members: BTreeSet<AlertKey>,
    /// Alerts that lead elsewhere now, but may be owed a resolve here.
    pub(crate) closing: BTreeSet<AlertKey>,
    /// What each target was told last, by target id.
    pub(crate) sent: BTreeMap<String, Sent>,
    /// The delivery on its way to each target, by target id.
    pub(crate) active: BTreeMap<String, u64>,
}

/// The last notice that a target took for a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// As it was then: it can be told of the end though it is configured no more.
    pub(crate) target: Target,
    pub(crate) firing: BTreeSet<AlertKey>,
    pub(crate) resolved: BTreeSet<AlertKey>,
    /// In attempts that failed, but may have arrived: owed a resolve too.
    pub(crate) doubt: BTreeSet<AlertKey>,
    /// The turn of the group that it was made at.
    pub(crate) at: i64,
    /// When the first attempt since then failed.
    #[serde(default)]
    pub(crate) failing: Option<i64>,
}

/// A notice on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Delivery {
    pub(crate) group: String,
    pub(crate) target: Target,
    pub(crate) firing: BTreeSet<AlertKey>,
    pub(crate) resolved: BTreeSet<AlertKey>,
    pub(crate) notification: Notification,
    /// Attempts that failed.
    pub(crate) attempts: u32,
    pub(crate) next_attempt: i64,
    /// The turn of the group that it was made at; follows the clock where that of the notification
    /// stays as it was told. 0 in older logs.
    #[serde(default)]
    pub(crate) made_at: i64,
    pub(crate) error: Option<String>,
    /// The group had another turn meanwhile.
    pub(crate) stale: bool,
}

impl Delivery {
    /// When it was made, by the clock as it is now.
    pub(crate) fn made(&self) -> i64 {
        if self.made_at == 0 { self.notification.time } else { self.made_at }
    }
}

/// How the newest attempts at a target went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LastOutcome {
    pub(crate) delivered: Option<i64>,
    pub(crate) failed: Option<i64>,
    pub(crate) error: Option<String>,
}

/// Targets whose last outcome is kept; the oldest go first.
const OUTCOMES_MAX: usize = 1_000;

/// Everything. Times are those of the router's clock, unless they are a transition's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    #[serde(with = "pairs")]
    pub(crate) alerts: BTreeMap<AlertKey, Alert>,
    /// By pipeline and alert.
    #[serde(with = "pairs")]
    pub(crate) positions: BTreeMap<(String, String), Position>,
    /// By group key.
    pub(crate) groups: BTreeMap<String, Group>,
    #[serde(with = "pairs")]
    pub(crate) deliveries: BTreeMap<u64, Delivery>,
    pub(crate) next_delivery: u64,
    /// By target id.
    pub(crate) outcomes: BTreeMap<String, LastOutcome>,
    /// When the last thing happened.
    #[serde(default)]
    pub(crate) now: i64,
}

impl State {
    pub(super) fn delivery_of(&mut self, group: &str, target: &str) -> Option<&mut Delivery> {
        let number = self.groups.get(group)?.active.get(target)?;
        self.deliveries.get_mut(number)
    }

    /// What a delivery says is firing may have been told.
    pub(super) fn doubt(&mut self, delivery: &Delivery) {
        let Some(group) = self.groups.get_mut(&delivery.group) else { return };
        let sent = group.sent.entry(delivery.target.id.clone()).or_insert_with(|| Sent {
            target: delivery.target.clone().whole(),
            firing: BTreeSet::new(),
            resolved: BTreeSet::new(),
            doubt: BTreeSet::new(),
            at: 0,
            failing: None,
        });
        sent.doubt.extend(delivery.firing.iter().cloned());
    }

    /// Notes that an attempt at a target that is owed something failed.
    pub(super) fn failed(&mut self, now: i64, delivery: &Delivery) {
        let group = self.groups.get_mut(&delivery.group);
        if let Some(sent) = group.and_then(|g| g.sent.get_mut(&delivery.target.id)) {
            sent.failing.get_or_insert(now);
        }
    }

    /// The clock was set by `by`: what was to happen at a time happens as much later.
    pub(super) fn move_timers(&mut self, by: i64) {
        let shift = |time: &mut i64| *time = time.saturating_add(by);
        for group in self.groups.values_mut() {
            shift(&mut group.next_flush);
            for sent in group.sent.values_mut() {
                shift(&mut sent.at);
                sent.failing.iter_mut().for_each(shift);
            }
        }
        for delivery in self.deliveries.values_mut() {
            shift(&mut delivery.next_attempt);
            delivery.made_at = delivery.made();
            shift(&mut delivery.made_at);
        }
        let held = self.alerts.values_mut().filter(|a| a.hold_until > 0);
        held.for_each(|a| shift(&mut a.hold_until));
    }

    /// Keeps how an attempt went, for people.
    pub(super) fn note(&mut self, now: i64, delivery: &Delivery, outcome: &Outcome) {
        let last = self.outcomes.entry(delivery.target.id.clone()).or_default();
        match outcome {
            Outcome::Delivered => {
                *last = LastOutcome { delivered: Some(now), failed: last.failed, error: None };
            }
            Outcome::Failed { error, .. } | Outcome::Refused { error } => {
                last.failed = Some(now);
                last.error = Some(error.clone());
            }
        }
        while self.outcomes.len() > OUTCOMES_MAX {
            let oldest = self.outcomes.iter().min_by_key(|(_, o)| o.delivered.max(o.failed));
            let Some(id) = oldest.map(|(id, _)| id.clone()) else { return };
            self.outcomes.remove(&id);
        }
    }
}

/// Maps whose keys are no text, as lists of pairs.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_seq(map)
    }

    pub(super) fn deserialize<'de, K, V, D>(d: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(d)?.into_iter().collect())
    }
}
