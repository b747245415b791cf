//! What a rule says about itself, and how instances end.

use std::collections::BTreeMap;

use weir_pipeline::component::Tick;

use super::super::NoData;
use super::super::instance::{Details, Key, Status};
use super::saved::Orphan;
use super::{At, FORGET_AFTER, Machine, REASON_LABEL, SERIES_KEPT, release};
use crate::transition::State;

impl Machine {
    /// What the rule says about itself, once when it begins and once when it ends.
    pub(super) fn tell(&mut self, at: At, reason: &str, is: bool, text: impl FnOnce() -> String) {
        let state = match (self.meta.get(reason), is) {
            (None, true) => State::Firing,
            (Some(_), false) => State::Resolved,
            _ => return,
        };
        let since = match state {
            State::Firing => *self.meta.entry(reason.to_owned()).or_insert(at.time),
            State::Resolved => self.meta.remove(reason).unwrap_or(at.time),
        };
        let labels = self.meta_labels(reason);
        let details = Details::summary(format!("alert `{}`: {}", self.settings.alert, text()));
        self.push(at, state, labels, since, details, reason);
    }

    pub(super) fn meta_labels(&self, reason: &str) -> BTreeMap<String, String> {
        let mut labels = self.settings.labels.clone();
        labels.insert("alertname".to_owned(), self.settings.alert.clone());
        labels.insert(REASON_LABEL.to_owned(), reason.to_owned());
        labels
    }

    pub(super) fn limit(&mut self, tick: Tick) {
        let rows = std::mem::take(&mut self.truncated.rows);
        if rows > 0 {
            self.truncated.last = tick.elapsed;
        }
        let over = rows > 0
            || (self.meta.contains_key("limit")
                && tick.elapsed - self.truncated.last < self.resolve_after());
        let limit = self.settings.limit;
        self.tell(tick.into(), "limit", over, || {
            format!("there are more than {limit} instances; further ones are left out")
        });
    }

    /// What an earlier form of the rule fired is over. Before anything else happens: the same
    /// labels may fire again under the new form.
    pub(super) fn end_orphans(&mut self, at: At, reason: &str) {
        for orphan in std::mem::take(&mut self.orphans) {
            let Orphan { alert, labels, starts_at, details } = orphan;
            self.push(at, State::Resolved, labels, starts_at, details, reason);
            if let Some(last) = self.out.last_mut() {
                last.alert = alert;
            }
        }
    }

    /// Lets go of series whose newest sample does not match.
    pub(super) fn forget_samples(&mut self, tick: Tick) {
        let before = tick.watermark.saturating_sub(SERIES_KEPT);
        for instance in self.instances.values_mut() {
            instance.series.retain(|series, sample| {
                let keep = sample.matches || sample.time > before;
                if !keep {
                    release(&mut self.series, series);
                }
                keep
            });
        }
    }

    /// Lets go of instances that nothing can come of.
    pub(super) fn forget(&mut self, tick: Tick) {
        let watches = self.watches_rows();
        let single = self.settings.by.is_empty();
        let gone: Vec<Key> = self
            .instances
            .iter()
            .filter(|(_, i)| match watches {
                false => i.status == Status::Inactive && i.series.is_empty(),
                true => !single && i.row.is_gone(tick.elapsed, tick.watermark, FORGET_AFTER),
            })
            .map(|(k, _)| k.clone())
            .collect();
        for key in gone {
            self.end(&key, tick.into(), "forgotten");
        }
    }

    /// Removes an instance; what it has open is closed.
    fn end(&mut self, key: &Key, at: At, reason: &str) {
        self.resolve(key, at, reason);
        let Some(instance) = self.instances.remove(key) else { return };
        for series in instance.series.keys() {
            release(&mut self.series, series);
        }
        if let Some(since) = instance.no_data
            && self.settings.no_data == NoData::Alert
        {
            self.own(key, at, State::Resolved, since, Details::default());
            if let Some(last) = self.out.last_mut() {
                last.reason = reason.to_owned();
            }
        }
    }

    /// The rule goes: everything that is open is closed.
    pub(in super::super) fn flush(&mut self, tick: Tick) {
        let at = At::from(tick);
        self.end_orphans(at, "removed");
        let keys: Vec<Key> = self.instances.keys().cloned().collect();
        for key in keys {
            self.end(&key, at, "removed");
        }
        for (reason, since) in std::mem::take(&mut self.meta) {
            let labels = self.meta_labels(&reason);
            self.push(at, State::Resolved, labels, since, Details::default(), "removed");
        }
    }
}
