//! A group's turn: what may be heard, and what is to be said to each target.

use std::collections::BTreeSet;

use super::{Alert, AlertKey, Core, Delivery, Group};
use crate::notify::{Notice, Notification, Reason, Target};
use crate::transition::State as AlertState;

impl Core {
    /// Stages 1 to 4: of what fires, what may be heard now. Inhibition, active times, mute times
    /// and silences take out of `firing` here, in this order; what is owed a resolve is not
    /// theirs to take.
    fn audible(&self, now: i64, group: &Group) -> BTreeSet<AlertKey> {
        let firing = group.members.iter().filter(|&k| {
            self.state.alerts.get(k).is_some_and(|a| a.is_firing() && a.hold_until <= now)
        });
        firing.cloned().collect()
    }

    /// Stages 5 and 6 for one target: whether something is to be said, and what. `before` is a
    /// failed delivery that this one takes the place of.
    pub(super) fn evaluate(
        &mut self,
        now: i64,
        key: &str,
        id: &str,
        target: Option<Target>,
        before: Option<&Delivery>,
    ) {
        if let Some(delivery) = self.state.delivery_of(key, id) {
            // One at a time. When it ends, what is then true is looked at.
            delivery.stale = true;
            return;
        }
        let Some(group) = self.state.groups.get(key) else { return };
        let decision = self.decide(now, group, id, target);
        let Some(group) = self.state.groups.get_mut(key) else { return };
        match decision {
            Decision::Nothing => {}
            Decision::Note { firing } => {
                if let Some(sent) = group.sent.get_mut(id) {
                    sent.doubt.retain(|k| firing.contains(k));
                    sent.firing = firing;
                }
            }
            Decision::Send(message) => {
                let Message { target, firing, resolved, reason } = *message;
                let number = self.state.next_delivery;
                self.state.next_delivery += 1;
                let notices = |keys: &BTreeSet<AlertKey>, state| {
                    let alerts = keys.iter().filter_map(|k| Some((k, self.state.alerts.get(k)?)));
                    let mut all: Vec<Notice> = alerts.map(|(k, a)| a.notice(k, state)).collect();
                    all.sort_by(|a, b| (&a.labels, &a.pipeline).cmp(&(&b.labels, &b.pipeline)));
                    all
                };
                let mut alerts = notices(&firing, AlertState::Firing);
                alerts.extend(notices(&resolved, AlertState::Resolved));
                let id =
                    crate::notify::sha256_hex(&format!("{key}\n{}\n{now}\n{number}", target.id));
                let notification = Notification {
                    id: id[..32].to_owned(),
                    group_key: key.to_owned(),
                    receiver: target.receiver.clone(),
                    reason,
                    group_labels: group.labels.clone(),
                    alerts,
                    external_url: self.external_url.clone(),
                    time: now,
                };
                let delivery = Delivery {
                    group: key.to_owned(),
                    target,
                    firing,
                    resolved,
                    notification,
                    attempts: before.map_or(0, |d| d.attempts),
                    next_attempt: before.map_or(now, |d| d.next_attempt),
                    made_at: now,
                    error: before.and_then(|d| d.error.clone()),
                    stale: false,
                };
                group.active.insert(delivery.target.id.clone(), number);
                self.state.deliveries.insert(number, delivery);
            }
        }
    }

    /// Alertmanager's `needsUpdate` (`notify/dedup_stage.go`), with what is owed kept apart.
    fn decide(&self, now: i64, group: &Group, id: &str, target: Option<Target>) -> Decision {
        let sent = group.sent.get(id);
        let none = BTreeSet::new();
        let told = sent.map_or(&none, |s| &s.firing);
        let told_resolved = sent.map_or(&none, |s| &s.resolved);
        let doubt = sent.map_or(&none, |s| &s.doubt);
        let is_firing = |k: &AlertKey| self.state.alerts.get(k).is_some_and(Alert::is_firing);
        let current = target.is_some();
        let Some(target) = target.or_else(|| sent.map(|s| s.target.clone())) else {
            return Decision::Nothing;
        };
        // What was told and still fires stays told, even if the alert leads elsewhere now, or
        // something silences it.
        let mut firing: BTreeSet<AlertKey> =
            told.iter().filter(|k| is_firing(k)).cloned().collect();
        let audible = if current { self.audible(now, group) } else { BTreeSet::new() };
        let repeats = !audible.is_empty();
        firing.extend(audible);
        let over = group.members.iter().chain(&group.closing).filter(|k| !is_firing(k));
        let known = |k: &&AlertKey| [told, told_resolved, doubt].iter().any(|set| set.contains(*k));
        let resolved: BTreeSet<AlertKey> = over.filter(known).cloned().collect();
        let doubtful = !doubt.is_disjoint(&resolved);
        let send = |reason| {
            Decision::Send(Box::new(Message {
                target: target.clone(),
                firing: firing.clone(),
                resolved: if target.send_resolved { resolved.clone() } else { BTreeSet::new() },
                reason,
            }))
        };
        let Some(sent) = sent else {
            return if firing.is_empty() { Decision::Nothing } else { send(Reason::First) };
        };
        if !firing.is_subset(told) {
            return send(if told.is_empty() && told_resolved.is_empty() {
                Reason::First
            } else {
                Reason::NewAlerts
            });
        }
        if firing.is_empty() && told.is_empty() && !doubtful {
            return Decision::Nothing;
        }
        if !target.send_resolved && (firing.len() < told.len() || doubtful) {
            return Decision::Note { firing };
        }
        if firing.is_empty() {
            return send(Reason::AllResolved);
        }
        if !resolved.is_subset(told_resolved) {
            return send(Reason::SomeResolved);
        }
        if repeats && now - sent.at >= group.repeat {
            return send(Reason::Repeat);
        }
        Decision::Nothing
    }
}

/// What [`Core::decide`] found.
enum Decision {
    /// Nothing to say.
    Nothing,
    /// Nothing to say, but this is what still counts as told.
    Note { firing: BTreeSet<AlertKey> },
    /// This is to be said.
    Send(Box<Message>),
}

/// What is to be said to one target.
struct Message {
    target: Target,
    firing: BTreeSet<AlertKey>,
    resolved: BTreeSet<AlertKey>,
    reason: Reason,
}
