//! What becomes of instances by time: without rows, pending, recovering.

use std::collections::BTreeMap;

use weir_pipeline::component::Tick;

use super::super::NoData;
use super::super::instance::{Details, Key, Moment, Status};
use super::{At, Machine, REASON_LABEL, labels, release, seconds, stamp};
use crate::transition::State;

impl Machine {
    /// Rows are back after `no_data`.
    pub(super) fn data_came(&mut self, key: &Key, at: At, ends: bool) {
        let Some(instance) = self.instances.get_mut(key) else { return };
        let Some(since) = instance.no_data.take() else { return };
        match self.settings.no_data {
            NoData::Alert => self.own(key, at, State::Resolved, since, Details::default()),
            NoData::Firing if ends => self.holds(key, false, at, ""),
            _ => {}
        }
    }

    /// The alert about an instance without data.
    pub(super) fn own(&mut self, key: &Key, at: At, state: State, since: i64, details: Details) {
        let labels = own_labels(labels(&self.settings, key));
        self.push(at, state, labels, since, details, "no_data");
    }

    pub(super) fn timers(&mut self, key: &Key, tick: Tick) {
        let at = At::from(tick);
        let after = self.resolve_after();
        let Some(instance) = self.instances.get_mut(key) else { return };
        let no_rows = instance.row.is_gone(tick.elapsed, tick.watermark, after);
        let absent = instance.basis().is_gone(tick.elapsed, tick.watermark, after);
        let policy = if no_rows { self.settings.no_data } else { NoData::Ok };
        match policy {
            NoData::Keep => return,
            NoData::Firing => {
                if instance.no_data.is_none() {
                    instance.no_data = Some(tick.time);
                    if instance.status == Status::Inactive {
                        instance.details = silent(&self.settings.alert, after);
                    }
                    self.holds(key, true, at, "no_data");
                }
            }
            NoData::Alert => {
                if instance.no_data.is_none() {
                    instance.no_data = Some(tick.time);
                    let details = silent(&self.settings.alert, after);
                    self.own(key, at, State::Firing, tick.time, details);
                }
                self.absent(key, at);
            }
            NoData::Ok if absent => self.absent(key, at),
            NoData::Ok => {}
        }
        let Some(instance) = self.instances.get_mut(key) else { return };
        stamp(instance, tick.elapsed);
        let no_data = instance.no_data.is_some() && self.settings.no_data == NoData::Firing;
        match instance.status {
            Status::Pending { since: Some(since) }
                if tick.elapsed - since >= self.settings.hold =>
            {
                self.fire(key, at, if no_data { "no_data" } else { "" });
            }
            Status::Firing { recovering: Some(Moment(Some(since))), .. }
                if tick.elapsed - since >= self.settings.keep =>
            {
                self.resolve(key, at, if absent { "absent" } else { "" });
            }
            _ => {}
        }
    }

    /// No (matching) row for too long: the condition holds no more.
    fn absent(&mut self, key: &Key, at: At) {
        let Some(instance) = self.instances.get_mut(key) else { return };
        instance.matching = 0;
        for series in std::mem::take(&mut instance.series).into_keys() {
            release(&mut self.series, &series);
        }
        self.holds(key, false, at, "absent");
    }
}

/// Of the alert about an instance without data.
pub(super) fn own_labels(mut labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels.insert(REASON_LABEL.to_owned(), "no_data".to_owned());
    labels
}

pub(super) fn silent(alert: &str, after: i64) -> Details {
    Details::summary(format!("alert `{alert}`: no data for {}", seconds(after)))
}
