//! The router as a state machine: what comes in (transitions, time, outcomes, configuration)
//! changes the state, and nothing else does. No clock, no network, no disk: the log is the list
//! of what came in, and replaying it gives the same state.
//!
//! Order of stages from a group's turn to a notice, as in Alertmanager `notify/notify.go`:
//!
//! 1. inhibition, 2. active times, 3. mute times, 4. silences: their place is [`Core::audible`]
//!
//! then for each target of the receiver
//!
//! 5. deduplication, [`Core::decide`]; 6. attempts with backoff; 7. the record of what was
//!    delivered, [`Sent`].
//!
//! What was delivered as firing is owed a resolve: it passes 1 to 4, changes of routes and
//! receivers (the record keeps the target as it was) and restarts.

mod change;
mod decide;
mod held;
mod state;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Wanted;
use super::config::{Route, RouterConfig, group_key};
use crate::notify::Target;
use crate::transition::{Held, State as AlertState, Transition};

pub(crate) use state::{Alert, AlertKey, Delivery, Group, Position, Sent, State};

const SECOND: i64 = 1_000_000_000;
/// How long at least a transition that is older than `stale_after` waits for its resolve, where
/// nothing says that its pipeline has caught up.
const STALE_HOLD: i64 = 10 * SECOND;
/// First wait after a failed attempt; it doubles up to [`BACKOFF_MAX`].
const BACKOFF: i64 = SECOND;
/// Longest wait between attempts that nobody asked for.
const BACKOFF_MAX: i64 = 60 * SECOND;
/// How long a resolve that cannot be delivered is tried at each turn of its group, from the first
/// attempt that failed.
const RESOLVE_RETENTION: i64 = 7 * 24 * 3600 * SECOND;

/// How one attempt went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The other side took it.
    Delivered,
    /// It may work later. `doubt`: the other side may have taken it all the same.
    /// `left`: of several recipients, those that did not take it.
    Failed {
        error: String,
        after: Option<i64>,
        doubt: bool,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left: Vec<String>,
    },
    /// It will not work by itself.
    Refused { error: String },
}

/// What can happen. The log is a list of these.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// Everything up to here; first in a compacted log.
    Snapshot { config: RouterConfig, state: Box<State> },
    /// The router was opened: attempts that were due may have been made.
    Open { now: i64 },
    /// A pipeline handed in transitions.
    Submit { now: i64, journal: u128, pipeline: String, transitions: Vec<Transition> },
    /// Groups whose turn has come are looked at.
    Tick { now: i64 },
    /// An attempt ended.
    Done { now: i64, delivery: u64, outcome: Outcome },
    /// A rule said what it holds open, and that is not what was known.
    Held { now: i64, journal: u128, pipeline: String, held: Held },
    /// A pipeline with late transitions has come to this time.
    Came { now: i64, pipeline: String, time: i64 },
    /// The clock was set back by `by`; or ahead, or Weir was down, where that is below zero.
    SetBack { now: i64, by: i64 },
    /// Only these rules are wanted: what others opened is over.
    Retain { now: i64, wanted: Wanted },
    /// Receivers or routes changed.
    Config { now: i64, config: RouterConfig },
}

impl Record {
    fn now(&self) -> Option<i64> {
        match self {
            Self::Snapshot { .. } => None,
            Self::Open { now }
            | Self::Submit { now, .. }
            | Self::Tick { now }
            | Self::Done { now, .. }
            | Self::Held { now, .. }
            | Self::Came { now, .. }
            | Self::SetBack { now, .. }
            | Self::Retain { now, .. }
            | Self::Config { now, .. } => Some(*now),
        }
    }
}

/// Configuration and state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Core {
    pub(crate) config: RouterConfig,
    pub(crate) state: State,
    external_url: String,
}

impl Core {
    pub(crate) fn new(config: RouterConfig, external_url: String) -> Self {
        Self { config, state: State::default(), external_url }
    }

    /// Lets one thing happen.
    pub(crate) fn apply(&mut self, record: Record) {
        self.state.now = record.now().unwrap_or(self.state.now);
        match record {
            Record::Snapshot { config, state } => {
                self.config = config;
                self.state = *state;
            }
            Record::Open { now } => {
                let due = self.state.deliveries.values().filter(|d| d.next_attempt <= now);
                for delivery in due.cloned().collect::<Vec<_>>() {
                    self.state.doubt(&delivery);
                }
            }
            Record::Submit { now, journal, pipeline, transitions } => {
                let newest = transitions.iter().map(|t| t.time).max();
                for transition in transitions {
                    self.submit(now, journal, &pipeline, transition);
                }
                if let Some(time) = newest {
                    self.came(now, &pipeline, time);
                }
            }
            Record::Held { now, journal, pipeline, held } => {
                self.reconcile(now, journal, &pipeline, held);
            }
            Record::Came { now, pipeline, time } => self.came(now, &pipeline, time),
            Record::SetBack { by, .. } => self.state.move_timers(by.saturating_neg()),
            Record::Tick { now } => self.tick(now),
            Record::Done { now, delivery, outcome } => self.done(now, delivery, outcome),
            Record::Retain { now, wanted } => self.retain(now, &wanted),
            Record::Config { now, config } => self.reconfigure(now, config),
        }
    }

    pub(crate) fn snapshot(&self) -> Record {
        Record::Snapshot { config: self.config.clone(), state: Box::new(self.state.clone()) }
    }

    /// When the next group has its turn.
    pub(crate) fn next_flush(&self) -> Option<i64> {
        self.state.groups.values().map(|g| g.next_flush).min()
    }

    /// Whether a transition is new. A pipeline that recovers hands in again what it had handed in
    /// since its checkpoint, with the same positions.
    pub(crate) fn is_new(&self, journal: u128, pipeline: &str, t: &Transition) -> bool {
        let position = Position { journal, offset: t.offset, sequence: t.sequence };
        let key = (pipeline.to_owned(), t.alert.clone());
        self.state
            .positions
            .get(&key)
            .is_none_or(|last| last.journal != journal || *last < position)
    }

    fn submit(&mut self, now: i64, journal: u128, pipeline: &str, t: Transition) {
        if !self.is_new(journal, pipeline, &t) {
            return;
        }
        let position = Position { journal, offset: t.offset, sequence: t.sequence };
        self.state.positions.insert((pipeline.to_owned(), t.alert.clone()), position);
        let key = AlertKey {
            pipeline: pipeline.to_owned(),
            alert: t.alert.clone(),
            fingerprint: t.fingerprint.clone(),
        };
        if t.state == AlertState::Resolved {
            if let Some(alert) = self.state.alerts.get_mut(&key) {
                alert.end(t.ends_at.unwrap_or(t.time), &t.reason);
            }
            return;
        }
        let hold_until = if self.is_stale(now, t.time) { self.hold(now) } else { 0 };
        self.open(now, &key, t, hold_until);
    }

    /// An alert begins to fire, or says again that it does.
    fn open(&mut self, now: i64, key: &AlertKey, t: Transition, hold_until: i64) {
        match self.state.alerts.get_mut(key) {
            Some(alert) => {
                let firing = alert.transition.state == AlertState::Firing;
                let starts_at =
                    if firing { alert.transition.starts_at.min(t.starts_at) } else { t.starts_at };
                if !firing {
                    alert.hold_until = hold_until;
                }
                alert.transition = Transition { starts_at, ..t };
            }
            None => {
                let alert = Alert { transition: t, hold_until, groups: BTreeSet::new() };
                self.state.alerts.insert(key.clone(), alert);
            }
        }
        self.place(now, key);
    }

    /// Puts a firing alert into the groups that its labels lead to, which may be new. Others that
    /// it was in may owe its end to somebody.
    fn place(&mut self, now: i64, key: &AlertKey) {
        let Some(alert) = self.state.alerts.get_mut(key) else { return };
        let labels = alert.transition.labels.clone();
        let before = alert.groups.clone();
        let mut placed = BTreeSet::new();
        for route in self.config.route.find(&labels) {
            let group_labels = route.group_labels(&labels);
            let group_key = group_key(&route.id, &group_labels);
            let group = self.state.groups.entry(group_key.clone()).or_insert_with(|| {
                let waited = alert.transition.starts_at.saturating_add(route.group_wait) < now;
                let wait = if waited && alert.hold_until == 0 { 0 } else { route.group_wait };
                new_group(route, group_labels, now + wait)
            });
            // A group that has told nobody begins when its first alert may be heard.
            if group.sent.is_empty() {
                group.next_flush = match alert.hold_until {
                    0 => group.next_flush.min(now + route.group_wait),
                    held if group.members.is_empty() => group.next_flush.max(held),
                    _ => group.next_flush,
                };
            }
            group.closing.remove(key);
            group.members.insert(key.clone());
            alert.groups.insert(group_key.clone());
            placed.insert(group_key);
        }
        for left in before.difference(&placed) {
            if let Some(group) = self.state.groups.get_mut(left)
                && group.members.remove(key)
            {
                group.closing.insert(key.clone());
            }
        }
    }

    fn tick(&mut self, now: i64) {
        let due: Vec<String> = self
            .state
            .groups
            .iter()
            .filter(|(_, g)| g.next_flush <= now)
            .map(|(k, _)| k.clone())
            .collect();
        for key in due {
            self.flush(now, &key);
        }
    }

    /// The turn of one group. The timer is set anew first, so that nothing that follows can
    /// lose it.
    fn flush(&mut self, now: i64, key: &str) {
        let held = self.earliest_hold(now, key);
        let Some(group) = self.state.groups.get_mut(key) else { return };
        group.next_flush = now + group.interval;
        if let Some(held) = held {
            group.next_flush = group.next_flush.min(held);
        }
        self.give_up_old(now, key);
        let Some(group) = self.state.groups.get(key) else { return };
        let mut targets: BTreeMap<String, Option<Target>> =
            group.sent.keys().map(|id| (id.clone(), None)).collect();
        if !group.orphaned {
            for target in self.config.receivers.get(&group.receiver).into_iter().flatten() {
                targets.insert(target.id.clone(), Some(target.clone()));
            }
        }
        for (id, target) in targets {
            self.evaluate(now, key, &id, target, None);
        }
        self.clean(key);
    }

    fn earliest_hold(&self, now: i64, key: &str) -> Option<i64> {
        let group = self.state.groups.get(key)?;
        let holds =
            group.members.iter().filter_map(|m| self.state.alerts.get(m)).map(|a| a.hold_until);
        holds.filter(|&h| h > now).min()
    }

    /// A resolve that could not be delivered for days is given up, loudly.
    fn give_up_old(&mut self, now: i64, key: &str) {
        let Some(group) = self.state.groups.get_mut(key) else { return };
        for (target, sent) in &mut group.sent {
            if sent.failing.is_none_or(|since| now - since < RESOLVE_RETENTION) {
                continue;
            }
            let keep = |k: &AlertKey| {
                let ends = self.state.alerts.get(k).and_then(|a| a.transition.ends_at);
                let keep = ends.is_none_or(|e| now - e < RESOLVE_RETENTION);
                if !keep {
                    tracing::error!(
                        target,
                        alert = k.alert,
                        "gave up telling that an alert is over"
                    );
                }
                keep
            };
            sent.firing.retain(keep);
            sent.doubt.retain(keep);
        }
    }

    /// The target as it is configured for this group now.
    fn target(&self, group: &Group, id: &str) -> Option<Target> {
        let targets = self.config.receivers.get(&group.receiver).filter(|_| !group.orphaned)?;
        targets.iter().find(|t| t.id == id).cloned()
    }

    fn done(&mut self, now: i64, number: u64, outcome: Outcome) {
        let Some(mut delivery) = self.state.deliveries.remove(&number) else { return };
        let (key, id) = (delivery.group.clone(), delivery.target.id.clone());
        if let Some(group) = self.state.groups.get_mut(&key) {
            group.active.remove(&id);
        }
        self.state.note(now, &delivery, &outcome);
        let mut again = delivery.stale;
        if let Outcome::Failed { doubt: true, .. } = outcome {
            self.state.doubt(&delivery);
        }
        if outcome != Outcome::Delivered {
            self.state.failed(now, &delivery);
        }
        match outcome {
            Outcome::Delivered => {
                delivery.target = delivery.target.whole();
                if let Some(group) = self.state.groups.get_mut(&key) {
                    let mut doubt = group.sent.remove(&id).map_or_else(BTreeSet::new, |s| s.doubt);
                    doubt
                        .retain(|k| !delivery.firing.contains(k) && !delivery.resolved.contains(k));
                    let sent = Sent {
                        doubt,
                        target: delivery.target.clone(),
                        firing: delivery.firing.clone(),
                        resolved: delivery.resolved.clone(),
                        at: delivery.made(),
                        failing: None,
                    };
                    group.sent.insert(id.clone(), sent);
                }
                delivery.attempts = 0;
                delivery.next_attempt = now;
                delivery.error = None;
            }
            Outcome::Failed { error, after, left, .. } => {
                delivery.target = delivery.target.narrowed(&left);
                let backoff =
                    BACKOFF.saturating_mul(1 << delivery.attempts.min(6)).min(BACKOFF_MAX);
                delivery.attempts = delivery.attempts.saturating_add(1);
                delivery.next_attempt = now + backoff.max(after.unwrap_or(0));
                delivery.error = Some(error);
                if !delivery.stale {
                    if let Some(group) = self.state.groups.get_mut(&key) {
                        group.active.insert(id, number);
                    }
                    self.state.deliveries.insert(number, delivery);
                    return;
                }
            }
            // The group's next turn looks again: the receiver may be mended by then.
            Outcome::Refused { .. } => again = false,
        }
        if again && let Some(group) = self.state.groups.get(&key) {
            let target = self.target(group, &id);
            self.evaluate(now, &key, &id, target, Some(&delivery));
        }
        self.clean(&key);
    }
}

fn new_group(route: &Route, labels: BTreeMap<String, String>, next_flush: i64) -> Group {
    Group {
        route: route.id.clone(),
        receiver: route.receiver.clone(),
        labels,
        interval: route.group_interval,
        repeat: route.repeat_interval,
        next_flush,
        orphaned: false,
        members: BTreeSet::new(),
        closing: BTreeSet::new(),
        sent: BTreeMap::new(),
        active: BTreeMap::new(),
    }
}
