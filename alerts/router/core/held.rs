//! What rules say they hold open: how the router and a rule come to agree again, and how late
//! transitions wait until their pipeline has caught up.

use std::collections::BTreeSet;

use super::{Alert, AlertKey, Core, Position, STALE_HOLD};
use crate::transition::{Held, Transition};

impl Core {
    /// Whether what a rule holds at this place is news: not if later transitions are known (a
    /// pipeline that recovers says again what was true at its checkpoint).
    pub(crate) fn differs(&self, journal: u128, pipeline: &str, held: &Held) -> bool {
        let unknown = |t: &Transition| !self.fires(&key(pipeline, held, &t.fingerprint));
        self.is_current(journal, pipeline, held)
            && (!self.lost(pipeline, held).is_empty() || held.open.iter().any(unknown))
    }

    fn fires(&self, key: &AlertKey) -> bool {
        self.state.alerts.get(key).is_some_and(Alert::is_firing)
    }

    fn is_current(&self, journal: u128, pipeline: &str, held: &Held) -> bool {
        let position = Position { journal, offset: held.offset, sequence: held.sequence };
        let known = self.state.positions.get(&(pipeline.to_owned(), held.alert.clone()));
        known.is_none_or(|last| last.journal != journal || *last <= position)
    }

    /// What fires here, and is not held by the rule: its state was lost.
    fn lost(&self, pipeline: &str, held: &Held) -> Vec<AlertKey> {
        let open: BTreeSet<&str> = held.open.iter().map(|t| t.fingerprint.as_str()).collect();
        let first = key(pipeline, held, "");
        let of_rule = self.state.alerts.range(first.clone()..);
        of_rule
            .take_while(|(k, _)| (&k.pipeline, &k.alert) == (&first.pipeline, &first.alert))
            .filter(|(k, a)| a.is_firing() && !open.contains(k.fingerprint.as_str()))
            .map(|(k, _)| k.clone())
            .collect()
    }

    /// Closes what the rule does not hold, opens what was not known.
    pub(super) fn reconcile(&mut self, now: i64, journal: u128, pipeline: &str, held: Held) {
        if !self.is_current(journal, pipeline, &held) {
            return;
        }
        for key in self.lost(pipeline, &held) {
            if let Some(alert) = self.state.alerts.get_mut(&key) {
                alert.end(held.time, "state_lost");
            }
        }
        let position = Position { journal, offset: held.offset, sequence: held.sequence };
        self.state.positions.insert((pipeline.to_owned(), held.alert.clone()), position);
        let hold_until = if self.is_stale(now, held.time) { self.hold(now) } else { 0 };
        for t in held.open {
            let key = AlertKey {
                pipeline: pipeline.to_owned(),
                alert: held.alert.clone(),
                fingerprint: t.fingerprint.clone(),
            };
            if !self.fires(&key) {
                self.open(now, &key, t, hold_until);
            }
        }
    }

    pub(super) fn is_stale(&self, now: i64, time: i64) -> bool {
        now.saturating_sub(time) > self.config.stale_after
    }

    /// Until when a late alert waits, unless its pipeline says more before.
    pub(super) fn hold(&self, now: i64) -> i64 {
        now.saturating_add(self.config.stale_after.max(STALE_HOLD))
    }

    /// Whether alerts of a pipeline wait for it to catch up.
    pub(crate) fn waits(&self, now: i64, pipeline: &str) -> bool {
        self.state.alerts.iter().any(|(k, a)| k.pipeline == pipeline && a.hold_until > now)
    }

    /// A pipeline has come to `time`. While that is long ago, its late alerts wait on; else
    /// whatever of them still fires is told.
    pub(super) fn came(&mut self, now: i64, pipeline: &str, time: i64) {
        let hold_until = if self.is_stale(now, time) { self.hold(now) } else { 0 };
        let waiting = self.state.alerts.iter_mut();
        for (_, alert) in waiting.filter(|(k, a)| k.pipeline == pipeline && a.hold_until > now) {
            alert.hold_until = hold_until;
            // A group that has told nobody yet was waiting for this.
            let groups = alert.groups.iter().filter(|_| hold_until == 0);
            for group in groups {
                if let Some(group) = self.state.groups.get_mut(group)
                    && group.sent.is_empty()
                {
                    group.next_flush = group.next_flush.min(now);
                }
            }
        }
    }
}

fn key(pipeline: &str, held: &Held, fingerprint: &str) -> AlertKey {
    AlertKey {
        pipeline: pipeline.to_owned(),
        alert: held.alert.clone(),
        fingerprint: fingerprint.to_owned(),
    }
}
