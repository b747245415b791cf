//! When the alerts of one rule fire on both sides.
//!
//! An instance fires from its transition to `firing` to that to `resolved`. Times of both sides
//! that overlap belong together; what belongs to nothing on the other side would have fired, or
//! would not. Whatever ends before the stretch begins does not count, and of what began before it
//! not when.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use serde_json::{Map, Value};

use super::rows::{EDITED, LIVE};
use super::{AlertReport, AlertSample, Firing};
use crate::batch::Batch;

/// Times of firing of one side that are kept because the other side still fires: an alert that
/// flaps beside one that stands is compared in pieces of so many.
const TIMES_MAX: usize = 1_000;
/// The state of a transition that begins to fire.
const FIRING: &str = "firing";

/// The comparison of one rule.
pub(super) struct Alert {
    pub(super) report: AlertReport,
    samples_max: usize,
    /// By fingerprint.
    instances: HashMap<String, Instance>,
}

#[derive(Default)]
struct Instance {
    labels: Map<String, Value>,
    sides: [Times; 2],
}

/// When one side fires.
#[derive(Default)]
struct Times {
    /// Since when it does now.
    open: Option<Firing>,
    /// Times that ended.
    ended: Vec<Firing>,
}

/// A row of the stream of transitions.
struct Transition {
    time: i64,
    offset: u64,
    fingerprint: String,
    fires: bool,
    labels: Map<String, Value>,
    annotations: Map<String, Value>,
    reason: String,
}

impl Alert {
    pub(super) fn new(alert: String, samples_max: usize) -> Self {
        let report = AlertReport { alert, ..AlertReport::default() };
        Self { report, samples_max, instances: HashMap::new() }
    }

    /// Takes what came on both sides in one step; `counts` is false during the warm-up.
    pub(super) fn take(&mut self, sides: &[Vec<Batch>; 2], counts: bool) {
        let mut touched = Vec::new();
        for (side, batches) in sides.iter().enumerate() {
            for transition in batches.iter().flat_map(transitions) {
                touched.push(transition.fingerprint.clone());
                self.note(side, transition, counts);
            }
        }
        for fingerprint in touched {
            let Some(instance) = self.instances.get(&fingerprint) else { continue };
            let [live, edited] = &instance.sides;
            let rest = live.open.is_none() && edited.open.is_none();
            if rest || live.ended.len().max(edited.ended.len()) >= TIMES_MAX {
                self.settle(&fingerprint, counts);
            }
        }
    }

    fn note(&mut self, side: usize, transition: Transition, counts: bool) {
        let Transition { time, offset, fingerprint, fires, labels, annotations, reason } =
            transition;
        let instance = self.instances.entry(fingerprint).or_default();
        instance.labels = labels;
        let times = &mut instance.sides[side];
        if fires {
            let before = !counts;
            let firing =
                Firing { from: time, before, to: None, position: offset, annotations, reason };
            times.open.get_or_insert(firing);
        } else if let Some(mut firing) = times.open.take() {
            firing.to = Some(time);
            times.ended.push(firing);
        }
    }

    /// From here on it counts.
    pub(super) fn begin(&mut self) {
        let open = |side: usize| {
            let all = self.instances.values();
            all.filter(|i| i.sides[side].open.is_some()).count() as u64
        };
        (self.report.live_before, self.report.edited_before) = (open(LIVE), open(EDITED));
        // What has ended on one side while the other fires on is over.
        for instance in self.instances.values_mut() {
            instance.sides.iter_mut().for_each(|times| times.ended.clear());
        }
    }

    /// Nothing more comes; `counted` is false if the stretch was not reached.
    pub(super) fn finish(mut self, counted: bool) -> AlertReport {
        let mut left: Vec<String> = self.instances.keys().cloned().collect();
        left.sort_unstable();
        for fingerprint in left {
            if let Some(instance) = self.instances.get_mut(&fingerprint) {
                for times in &mut instance.sides {
                    times.ended.extend(times.open.take());
                }
            }
            self.settle(&fingerprint, counted);
        }
        self.report
    }

    /// Compares what has ended, and forgets an instance that fires no more.
    fn settle(&mut self, fingerprint: &str, counts: bool) {
        let Some(instance) = self.instances.get_mut(fingerprint) else { return };
        let [live, edited] =
            instance.sides.each_mut().map(|times| std::mem::take(&mut times.ended));
        let labels = instance.labels.clone();
        if instance.sides.iter().all(|times| times.open.is_none()) {
            self.instances.remove(fingerprint);
        }
        if !counts {
            return;
        }
        self.report.live += live.len() as u64;
        self.report.edited += edited.len() as u64;
        for (live, edited) in pairs(live, edited) {
            let (kind, count, differs) = match (&live, &edited) {
                (None, None) => continue,
                (None, Some(_)) => ("fires", &mut self.report.fires, Vec::new()),
                (Some(_), None) => ("silent", &mut self.report.silent, Vec::new()),
                (Some(a), Some(b)) => {
                    let differs = differing(a, b);
                    if differs.is_empty() {
                        continue;
                    }
                    ("changed", &mut self.report.changed, differs)
                }
            };
            *count += 1;
            let shown = self.report.samples.iter().filter(|s| s.kind == kind).count();
            if shown < self.samples_max {
                let labels = labels.clone();
                self.report.samples.push(AlertSample { kind, differs, labels, live, edited });
            }
        }
    }
}

/// Times that overlap, in order; each at most once.
fn pairs(live: Vec<Firing>, edited: Vec<Firing>) -> Vec<(Option<Firing>, Option<Firing>)> {
    let mut pairs = Vec::new();
    let (mut live, mut edited) = (live.into_iter().peekable(), edited.into_iter().peekable());
    loop {
        let pair = match (live.peek(), edited.peek()) {
            (None, None) => return pairs,
            (Some(_), None) => (live.next(), None),
            (None, Some(_)) => (None, edited.next()),
            (Some(a), Some(b)) if ends_before(a, b) => (live.next(), None),
            (Some(a), Some(b)) if ends_before(b, a) => (None, edited.next()),
            (Some(_), Some(_)) => (live.next(), edited.next()),
        };
        pairs.push(pair);
    }
}

/// Whether `a` ends before `b` begins. Two that touch belong together.
fn ends_before(a: &Firing, b: &Firing) -> bool {
    a.to.is_some_and(|to| to < b.from)
}

/// What differs between two times of firing.
fn differing(a: &Firing, b: &Firing) -> Vec<String> {
    let mut differs = Vec::new();
    let both_before = a.before && b.before;
    if !both_before && (a.from, a.before) != (b.from, b.before) {
        differs.push("from".to_owned());
    }
    if a.to != b.to {
        differs.push("to".to_owned());
    }
    if !both_before {
        let names = a.annotations.keys().chain(b.annotations.keys());
        let other = |name: &&String| a.annotations.get(*name) != b.annotations.get(*name);
        for name in names.filter(other) {
            if !differs.contains(name) {
                differs.push(name.clone());
            }
        }
    }
    differs
}

/// The rows of a batch of the stream of transitions, whose columns are the contract between
/// alerts and the engine.
fn transitions(batch: &Batch) -> Vec<Transition> {
    let column = |name: &str, kind: &DataType| cast(&batch.array(name)?, kind).ok();
    let text = |name: &str| column(name, &DataType::Utf8);
    let columns = || {
        let time = column("timestamp", &DataType::Int64)?;
        let texts = ["fingerprint", "state", "labels", "annotations", "reason"].map(text);
        let [fingerprint, state, labels, annotations, reason] = texts;
        Some((time, [fingerprint?, state?, labels?, annotations?, reason?]))
    };
    let Some((time, [fingerprint, state, labels, annotations, reason])) = columns() else {
        return Vec::new();
    };
    let map = |column: &ArrayRef, i| serde_json::from_str(value(column, i)).unwrap_or_default();
    let offsets = batch.runs().iter().flat_map(|r| std::iter::repeat_n(r.offset, r.rows));
    let row = |(i, offset)| Transition {
        time: time.as_primitive::<Int64Type>().value(i),
        offset,
        fingerprint: value(&fingerprint, i).to_owned(),
        fires: value(&state, i) == FIRING,
        labels: map(&labels, i),
        annotations: map(&annotations, i),
        reason: value(&reason, i).to_owned(),
    };
    offsets.enumerate().map(row).collect()
}

fn value(column: &ArrayRef, i: usize) -> &str {
    if column.is_valid(i) { column.as_string::<i32>().value(i) } else { "" }
}
