//! The state machine of a rule, without columns: rows and ticks in, transitions out.

mod absence;
mod ending;
mod lag;
mod saved;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weir_pipeline::component::Tick;

use super::NoData;
use super::instance::{Details, Instance, Key, Moment, Sample, Seen, Status, Step, Truth};
use crate::transition::{Held, State, Transition, fingerprint};
use absence::{own_labels, silent};
use lag::Lag;
use saved::Orphan;

const SECOND: i64 = 1_000_000_000;
/// `resolve_after` where there is no window to take it from.
pub(super) const RESOLVE_AFTER: i64 = 300 * SECOND;
/// How far the watermark may lie further behind the clock than it usually does, besides
/// `resolve_after`, before the source counts as late.
const LATE_AFTER: i64 = 300 * SECOND;
/// After what time without rows an instance is forgotten whatever `no_data` says.
const FORGET_AFTER: i64 = 24 * 3600 * SECOND;
/// Series remembered per instance; further ones count while they match, and are not waited for.
const SERIES_MAX: usize = 10_000;
/// How long a series whose newest sample does not match is remembered, so that an older one that
/// comes after it says nothing.
const SERIES_KEPT: i64 = 60 * SECOND;

/// Label of what a rule says about itself.
pub(super) const REASON_LABEL: &str = "weir.reason";

/// A rule as proved, times in nanoseconds.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) alert: String,
    pub(super) hold: i64,
    pub(super) keep: i64,
    pub(super) resolve_after: Option<i64>,
    pub(super) no_data: NoData,
    pub(super) limit: usize,
    pub(super) by: Vec<String>,
    pub(super) labels: BTreeMap<String, String>,
}

/// What rows mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// A row that does not match says nothing.
    Events,
    /// Each series has a newest sample.
    Series,
    /// The rows of one time decide together, at the tick.
    Steps,
}

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) index: usize,
    pub(super) mode: Mode,
    pub(super) key: Key,
    pub(super) truth: Option<bool>,
    pub(super) series: Option<u128>,
    pub(super) time: i64,
    pub(super) received: i64,
    pub(super) offset: u64,
}

/// Instances over the limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Truncated {
    /// Rows since the last tick.
    rows: u64,
    /// Elapsed time of the last tick that had any.
    last: i64,
}

/// Where the details of a row go.
#[derive(Debug)]
enum Want {
    Transition(usize),
    Step(Key, i64),
}

/// The machine.
pub(super) struct Machine {
    settings: Arc<Settings>,
    instances: BTreeMap<Key, Instance>,
    /// Series of all instances, with the number of instances that wait for them.
    series: BTreeMap<String, usize>,
    meta: BTreeMap<String, i64>,
    sequence: u64,
    window: Option<i64>,
    lag: Lag,
    truncated: Truncated,
    orphans: Vec<Orphan>,
    out: Vec<Transition>,
    wanted: BTreeMap<usize, Vec<Want>>,
    /// The last row of this batch that made an instance's condition true.
    latest: BTreeMap<Key, usize>,
}

/// When and where something happens.
#[derive(Clone, Copy)]
struct At {
    time: i64,
    offset: u64,
}

impl From<Tick> for At {
    fn from(tick: Tick) -> Self {
        Self { time: tick.time, offset: tick.offset }
    }
}

impl Machine {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            instances: BTreeMap::new(),
            series: BTreeMap::new(),
            meta: BTreeMap::new(),
            sequence: 0,
            window: None,
            lag: Lag::default(),
            truncated: Truncated::default(),
            orphans: Vec::new(),
            out: Vec::new(),
            wanted: BTreeMap::new(),
            latest: BTreeMap::new(),
        }
    }

    /// Transitions since the last call, in order.
    pub(super) fn take(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.out)
    }

    /// Whether rows that do not match matter too.
    pub(super) fn watches_rows(&self) -> bool {
        self.settings.no_data != NoData::Ok
    }

    pub(super) fn knows_series(&self, series: impl FnOnce() -> u128) -> bool {
        !self.series.is_empty() && self.series.contains_key(&hex(series()))
    }

    /// The length of the windows that come in.
    pub(super) fn note_window(&mut self, length: Option<i64>) {
        self.window = length.filter(|l| *l > 0).or(self.window);
    }

    fn resolve_after(&self) -> i64 {
        let default = self.window.map_or(RESOLVE_AFTER, |w| w.saturating_mul(2));
        self.settings.resolve_after.unwrap_or(default)
    }

    /// Takes one row.
    pub(super) fn row(&mut self, row: Row) {
        let truth = Truth::from(row.truth);
        let at = At { time: row.received, offset: row.offset };
        self.end_orphans(at, "changed");
        if !self.instances.contains_key(&row.key) {
            if truth != Truth::True && !self.watches_rows() {
                return;
            }
            if self.instances.len() >= self.settings.limit {
                self.truncated.rows += 1;
                return;
            }
        }
        let instance = self.instances.entry(row.key.clone()).or_default();
        instance.by_row = row.mode == Mode::Steps;
        instance.row.note(row.time);
        let series = row.series.map(hex);
        let known = series.as_ref().and_then(|s| instance.series.get(s));
        if known.is_some_and(|known| row.time < known.time) {
            // An older sample than the newest decides nothing.
            return;
        }
        if truth == Truth::True {
            instance.matched.note(row.time);
        }
        if row.mode == Mode::Steps {
            let step = instance.steps.entry(row.time).or_default();
            if truth == Truth::True && step.truth != Truth::True {
                let want = Want::Step(row.key.clone(), row.time);
                self.wanted.entry(row.index).or_default().push(want);
            }
            step.truth = step.truth.max(truth);
            return;
        }
        let came_back = instance.no_data.is_some();
        if let Some(series) = series {
            let matches = truth == Truth::True;
            let room = instance.series.len() < SERIES_MAX;
            match instance.series.get_mut(&series) {
                Some(known) if truth == Truth::Unknown => known.time = row.time,
                Some(known) => {
                    instance.matching -= usize::from(known.matches);
                    instance.matching += usize::from(matches);
                    *known = Sample { time: row.time, matches };
                }
                None if matches && room => {
                    instance.matching += 1;
                    instance.series.insert(series.clone(), Sample { time: row.time, matches });
                    *self.series.entry(series).or_default() += 1;
                }
                None => {}
            }
            if truth == Truth::False && instance.matching == 0 {
                let before = self.out.len();
                self.holds(&row.key, false, at, "");
                // What began in this batch ends with the texts that it began with.
                if let Some(row) = self.latest.get(&row.key).filter(|_| self.out.len() > before) {
                    self.wanted.entry(*row).or_default().push(Want::Transition(before));
                }
            }
        }
        if came_back {
            self.data_came(&row.key, at, truth != Truth::True);
        }
        if truth == Truth::True {
            let before = self.out.len();
            self.holds(&row.key, true, at, "");
            let fired = self.out.len() > before;
            if fired {
                let want = Want::Transition(self.out.len() - 1);
                self.wanted.entry(row.index).or_default().push(want);
            }
            // Of the rows of one batch the last one counts while an instance waits.
            let waits = self.instances.get(&row.key).is_some_and(|i| !i.is_firing());
            if waits || fired {
                self.latest.insert(row.key, row.index);
            }
        }
    }

    /// Rows whose texts are wanted, ascending.
    pub(super) fn wanted(&self) -> Vec<usize> {
        let rows: BTreeSet<usize> =
            self.wanted.keys().chain(self.latest.values()).copied().collect();
        rows.into_iter().collect()
    }

    /// The texts of the rows that [`Machine::wanted`] named.
    pub(super) fn describe(&mut self, rows: &[usize], details: Vec<Details>) {
        for (key, row) in std::mem::take(&mut self.latest) {
            let found = rows.binary_search(&row).ok().and_then(|i| details.get(i));
            if let (Some(details), Some(instance)) = (found, self.instances.get_mut(&key)) {
                instance.details = details.clone();
            }
        }
        let mut wanted = std::mem::take(&mut self.wanted);
        for (row, details) in rows.iter().zip(details) {
            for want in wanted.remove(row).unwrap_or_default() {
                match want {
                    Want::Transition(i) => {
                        if let Some(transition) = self.out.get_mut(i) {
                            transition.annotations.clone_from(&details.annotations);
                            transition.value.clone_from(&details.value);
                        }
                    }
                    Want::Step(key, time) => {
                        let step =
                            self.instances.get_mut(&key).and_then(|i| i.steps.get_mut(&time));
                        if let Some(step) = step {
                            step.details = details.clone();
                        }
                    }
                }
            }
        }
    }

    /// The condition of an instance begins or ceases to hold.
    fn holds(&mut self, key: &Key, holds: bool, at: At, reason: &str) {
        let (hold, keep) = (self.settings.hold, self.settings.keep);
        let Some(instance) = self.instances.get_mut(key) else { return };
        match (instance.status, holds) {
            (Status::Inactive, true) if hold == 0 => self.fire(key, at, reason),
            (Status::Inactive, true) => instance.status = Status::Pending { since: None },
            (Status::Pending { .. }, false) => instance.status = Status::Inactive,
            (Status::Firing { starts_at, recovering: Some(_) }, true) => {
                instance.status = Status::Firing { starts_at, recovering: None };
            }
            (Status::Firing { recovering: None, .. }, false) if keep == 0 => {
                self.resolve(key, at, reason);
            }
            (Status::Firing { starts_at, recovering: None }, false) => {
                let recovering = Some(Moment(None));
                instance.status = Status::Firing { starts_at, recovering };
            }
            (Status::Inactive | Status::Firing { recovering: Some(_), .. }, false)
            | (Status::Pending { .. } | Status::Firing { recovering: None, .. }, true) => {}
        }
    }

    fn fire(&mut self, key: &Key, at: At, reason: &str) {
        let Some(instance) = self.instances.get_mut(key) else { return };
        instance.status = Status::Firing { starts_at: at.time, recovering: None };
        let details = instance.details.clone();
        let labels = labels(&self.settings, key);
        self.push(at, State::Firing, labels, at.time, details, reason);
    }

    fn resolve(&mut self, key: &Key, at: At, reason: &str) {
        let Some(instance) = self.instances.get_mut(key) else { return };
        let Status::Firing { starts_at, .. } = instance.status else { return };
        instance.status = Status::Inactive;
        let details = instance.details.clone();
        let labels = labels(&self.settings, key);
        self.push(at, State::Resolved, labels, starts_at, details, reason);
    }

    fn push(
        &mut self,
        at: At,
        state: State,
        labels: BTreeMap<String, String>,
        starts_at: i64,
        details: Details,
        reason: &str,
    ) {
        self.sequence += 1;
        self.out.push(self.transition(at, state, labels, starts_at, details, reason));
    }

    fn transition(
        &self,
        at: At,
        state: State,
        labels: BTreeMap<String, String>,
        starts_at: i64,
        details: Details,
        reason: &str,
    ) -> Transition {
        let value = if details.value.is_empty() { "{}".to_owned() } else { details.value };
        Transition {
            time: at.time,
            alert: self.settings.alert.clone(),
            fingerprint: fingerprint(&labels),
            state,
            labels,
            annotations: details.annotations,
            value,
            starts_at,
            ends_at: (state == State::Resolved).then_some(at.time),
            reason: reason.to_owned(),
            offset: at.offset,
            sequence: self.sequence,
        }
    }

    /// All that fires, as it is after `tick`.
    pub(super) fn held(&self, tick: Tick) -> Held {
        let at = At::from(tick);
        let firing = |labels, since, details, reason| {
            self.transition(at, State::Firing, labels, since, details, reason)
        };
        let mut open = Vec::new();
        for (key, instance) in &self.instances {
            let labels = labels(&self.settings, key);
            if let Status::Firing { starts_at, .. } = instance.status {
                open.push(firing(labels.clone(), starts_at, instance.details.clone(), ""));
            }
            if let Some(since) = instance.no_data.filter(|_| self.settings.no_data == NoData::Alert)
            {
                let details = silent(&self.settings.alert, self.resolve_after());
                open.push(firing(own_labels(labels), since, details, "no_data"));
            }
        }
        for (reason, since) in &self.meta {
            let text = format!("alert `{}`: {reason}", self.settings.alert);
            open.push(firing(self.meta_labels(reason), *since, Details::summary(text), reason));
        }
        Held {
            alert: self.settings.alert.clone(),
            time: tick.time,
            offset: tick.offset,
            sequence: self.sequence,
            open,
        }
    }

    /// Time moves on.
    pub(super) fn tick(&mut self, tick: Tick) {
        let at = At::from(tick);
        self.end_orphans(at, "changed");
        self.steps(at);
        if self.settings.by.is_empty()
            && self.instances.is_empty()
            && matches!(self.settings.no_data, NoData::Firing | NoData::Alert)
        {
            // The one instance is known without rows.
            let row = Seen { time: tick.watermark.max(0), elapsed: None };
            let instance = Instance { by_row: true, row, ..Instance::default() };
            self.instances.insert(Vec::new(), instance);
        }
        for instance in self.instances.values_mut() {
            stamp(instance, tick.elapsed);
        }
        if self.lag.goes_back(tick) {
            self.instances.values_mut().for_each(|i| i.set_back(tick.time));
        }
        let behind = self.lag.note(tick);
        let late = behind > self.resolve_after().saturating_add(LATE_AFTER);
        self.tell(at, "source_late", late, || {
            format!(
                "the source is {} further behind than usual: alerts keep their state",
                seconds(behind)
            )
        });
        if !late {
            let keys: Vec<Key> = self.instances.keys().cloned().collect();
            for key in keys {
                self.timers(&key, tick);
            }
        }
        self.forget_samples(tick);
        self.limit(tick);
        self.forget(tick);
    }

    /// What rows of this epoch say together, oldest first.
    fn steps(&mut self, at: At) {
        let mut steps: Vec<(i64, Key, Step)> = Vec::new();
        for (key, instance) in &mut self.instances {
            let taken = std::mem::take(&mut instance.steps);
            steps.extend(taken.into_iter().map(|(time, step)| (time, key.clone(), step)));
        }
        steps.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (_, key, step) in steps {
            if step.truth == Truth::True
                && let Some(instance) = self.instances.get_mut(&key)
                && (!instance.is_firing() || instance.no_data.is_some())
            {
                instance.details = step.details;
            }
            self.data_came(&key, at, step.truth == Truth::False);
            match step.truth {
                Truth::True => self.holds(&key, true, at, ""),
                Truth::False => self.holds(&key, false, at, ""),
                Truth::Unknown => {}
            }
        }
    }
}

/// Times that begin to count at this tick.
fn stamp(instance: &mut Instance, elapsed: i64) {
    instance.row.elapsed.get_or_insert(elapsed);
    instance.matched.elapsed.get_or_insert(elapsed);
    match &mut instance.status {
        Status::Pending { since } => {
            since.get_or_insert(elapsed);
        }
        Status::Firing { recovering: Some(Moment(since)), .. } => {
            since.get_or_insert(elapsed);
        }
        Status::Inactive | Status::Firing { recovering: None, .. } => {}
    }
}

fn labels(settings: &Settings, key: &Key) -> BTreeMap<String, String> {
    let mut labels = settings.labels.clone();
    for (name, value) in settings.by.iter().zip(key) {
        if let Some(value) = value {
            labels.insert(name.clone(), value.clone());
        }
    }
    labels.insert("alertname".to_owned(), settings.alert.clone());
    labels
}

fn seconds(ns: i64) -> String {
    format!("{} s", ns / SECOND)
}

fn hex(series: u128) -> String {
    format!("{series:032x}")
}

fn release(series: &mut BTreeMap<String, usize>, name: &str) {
    if let Some(count) = series.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            series.remove(name);
        }
    }
}
