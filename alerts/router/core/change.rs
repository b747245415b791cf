//! Other configurations and other rules: what stays, what goes, and when a group lets go.

use std::collections::{BTreeMap, BTreeSet};

use super::{Alert, AlertKey, Core, Delivery};
use crate::notify::Target;
use crate::router::Wanted;
use crate::router::config::RouterConfig;

impl Core {
    /// Alerts that fire though their rule is not wanted.
    pub(crate) fn strays(&self, wanted: &Wanted) -> Vec<AlertKey> {
        let alerts = self.state.alerts.iter().filter(|(_, a)| a.is_firing()).map(|(k, _)| k);
        alerts.filter(|k| !wanted.has(&k.pipeline, &k.alert)).cloned().collect()
    }

    /// Whether `wanted` would change anything.
    pub(crate) fn keeps_all(&self, wanted: &Wanted) -> bool {
        let known = self.state.positions.keys().all(|(p, a)| wanted.has(p, a));
        known && self.strays(wanted).is_empty()
    }

    /// Ends what rules opened that are not wanted, and forgets where they stood.
    pub(super) fn retain(&mut self, now: i64, wanted: &Wanted) {
        for key in self.strays(wanted) {
            if let Some(alert) = self.state.alerts.get_mut(&key) {
                alert.end(now, "removed");
            }
        }
        self.state.positions.retain(|(p, a), _| wanted.has(p, a));
    }

    pub(super) fn reconfigure(&mut self, now: i64, config: RouterConfig) {
        self.config = config;
        for group in self.state.groups.values_mut() {
            match self.config.route.by_id(&group.route) {
                Some(route) => {
                    group.orphaned = false;
                    group.receiver.clone_from(&route.receiver);
                    group.repeat = route.repeat_interval;
                    if group.interval != route.group_interval {
                        group.interval = route.group_interval;
                        group.next_flush = group.next_flush.min(now + group.interval);
                    }
                }
                None => group.orphaned = true,
            }
        }
        // A target that is still there is spoken to as it is written now.
        let targets: BTreeMap<String, Target> =
            self.config.receivers.values().flatten().map(|t| (t.id.clone(), t.clone())).collect();
        for delivery in self.state.deliveries.values_mut() {
            if let Some(target) = targets.get(&delivery.target.id)
                && delivery.target.clone().whole() != *target
            {
                delivery.next_attempt = now;
                delivery.target = target.clone();
            }
        }
        for sent in self.state.groups.values_mut().flat_map(|g| g.sent.values_mut()) {
            if let Some(target) = targets.get(&sent.target.id) {
                sent.target = target.clone();
            }
        }
        let keys: Vec<AlertKey> = self.state.alerts.keys().cloned().collect();
        for key in keys {
            if self.state.alerts.get(&key).is_some_and(Alert::is_firing) {
                self.place(now, &key);
            }
        }
        let groups: Vec<String> = self.state.groups.keys().cloned().collect();
        for group in groups {
            self.clean(&group);
        }
    }

    /// Lets go of what nobody is owed any more: members that are over (or lead elsewhere), then
    /// records of targets, then the group.
    pub(super) fn clean(&mut self, key: &str) {
        let Some(group) = self.state.groups.get(key) else { return };
        let active: Vec<&Delivery> =
            group.active.values().filter_map(|n| self.state.deliveries.get(n)).collect();
        let owed = |k: &AlertKey| {
            group.sent.values().any(|s| s.firing.contains(k) || s.doubt.contains(k))
                || active.iter().any(|d| d.firing.contains(k) || d.resolved.contains(k))
        };
        let is_firing = |k: &AlertKey| self.state.alerts.get(k).is_some_and(Alert::is_firing);
        let gone: Vec<AlertKey> = group
            .members
            .iter()
            .filter(|k| !is_firing(k))
            .chain(&group.closing)
            .filter(|k| !owed(k))
            .cloned()
            .collect();
        let idle = active.is_empty();
        let targets: BTreeSet<String> = group
            .sent
            .keys()
            .filter(|id| self.target(group, id).is_some() || group.active.contains_key(*id))
            .cloned()
            .collect();
        let Some(group) = self.state.groups.get_mut(key) else { return };
        for k in &gone {
            group.members.remove(k);
            group.closing.remove(k);
            if let Some(alert) = self.state.alerts.get_mut(k) {
                alert.groups.remove(key);
                if alert.groups.is_empty() && !alert.is_firing() {
                    self.state.alerts.remove(k);
                }
            }
        }
        for sent in group.sent.values_mut() {
            sent.resolved.retain(|k| group.members.contains(k) || group.closing.contains(k));
        }
        group
            .sent
            .retain(|id, s| !s.firing.is_empty() || !s.doubt.is_empty() || targets.contains(id));
        if group.members.is_empty() && group.closing.is_empty() && idle {
            self.state.groups.remove(key);
        }
    }
}
