//! Steps of time that rows go to: what each group has in them so far.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use weir_pipeline::expression::histogram::Histogram;
use weir_pipeline::expression::sketch::Sketch;

use super::groups::NONE;
use super::series::Change;

/// Steps that hold something at once, as of `window`.
const OPEN_MAX: usize = 10_000;

/// From this many groups on, and if they are one of [`DENSE_PART`] groups, slots are found by index.
const DENSE_MIN: usize = 64;
const DENSE_PART: usize = 8;

/// Which columns a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    Gauge,
    Counter,
    Histogram,
}

pub(super) const MADE: [Made; 3] = [Made::Gauge, Made::Counter, Made::Histogram];

/// What one group has in one step.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) made: Made,
    pub(super) count: i64,
    pub(super) sum: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) last: f64,
    pub(super) last_time: i64,
    /// `None` before something was counted.
    pub(super) increase: Option<f64>,
    pub(super) histogram: Option<Box<Histogram>>,
    pub(super) sketch: Option<Box<Sketch>>,
}

impl Held {
    pub(super) fn new(made: Made) -> Self {
        Self {
            made,
            count: 0,
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            last: 0.0,
            last_time: i64::MIN,
            increase: None,
            histogram: None,
            sketch: None,
        }
    }

    /// Takes a value of a gauge, which is no NaN.
    pub(super) fn gauge(&mut self, time: i64, value: f64, sketch: bool) {
        self.count += 1;
        self.sum += value;
        self.min = if value < self.min { value } else { self.min };
        self.max = if value > self.max { value } else { self.max };
        if time >= self.last_time {
            (self.last, self.last_time) = (value, time);
        }
        if sketch {
            self.sketch.get_or_insert_default().add(value);
        }
    }

    /// Adds to what was counted.
    pub(super) fn add(&mut self, change: Change) {
        match change {
            Change::Number(n) => *self.increase.get_or_insert(0.0) += n,
            Change::Histogram(h) => match &mut self.histogram {
                // Those of one group have the same bounds.
                Some(own) => {
                    own.add(&h, 1);
                }
                None => self.histogram = Some(h),
            },
        }
    }

    /// Whether there is nothing to give.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0 && self.increase.is_none() && self.histogram.is_none()
    }
}

/// Where the groups of a step are in it.
#[derive(Debug)]
enum Slots {
    Few(HashMap<u32, u32>),
    Many(Vec<u32>),
}

/// One step.
#[derive(Debug)]
pub(super) struct Step {
    slots: Slots,
    /// The group of each slot.
    pub(super) groups: Vec<u32>,
    pub(super) held: Vec<Held>,
}

impl Default for Step {
    fn default() -> Self {
        Self { slots: Slots::Few(HashMap::new()), groups: Vec::new(), held: Vec::new() }
    }
}

impl Step {
    fn slot(&self, group: u32) -> Option<usize> {
        match &self.slots {
            Slots::Few(slots) => slots.get(&group).map(|slot| *slot as usize),
            Slots::Many(slots) => {
                slots.get(group as usize).filter(|s| **s != NONE).map(|s| *s as usize)
            }
        }
    }

    /// Adds a group, of `all` that there are.
    pub(super) fn add(&mut self, group: u32, held: Held, all: usize) {
        let slot = self.groups.len() as u32;
        self.groups.push(group);
        self.held.push(held);
        match &mut self.slots {
            Slots::Few(slots) => {
                slots.insert(group, slot);
                if slots.len() >= DENSE_MIN && slots.len() * DENSE_PART >= all {
                    self.slots = self.dense(all);
                }
            }
            Slots::Many(slots) => {
                if slots.len() <= group as usize {
                    slots.resize(all.max(group as usize + 1), NONE);
                }
                slots[group as usize] = slot;
            }
        }
    }

    fn dense(&self, all: usize) -> Slots {
        let last = self.groups.iter().max().map_or(0, |g| *g as usize + 1);
        let mut slots = vec![NONE; all.max(last)];
        for (group, slot) in self.groups.iter().zip(0..) {
            slots[*group as usize] = slot;
        }
        Slots::Many(slots)
    }

    /// Groups have other numbers.
    pub(super) fn renumber(&mut self, numbers: &[u32], all: usize) {
        let groups = std::mem::take(&mut self.groups);
        let held = std::mem::take(&mut self.held);
        self.slots = Slots::Few(HashMap::new());
        for (group, held) in groups.into_iter().zip(held) {
            self.add(numbers[group as usize], held, all);
        }
    }
}

/// All steps that hold something, by start.
#[derive(Debug, Default)]
pub(super) struct Windows {
    /// Steps that are not given yet.
    pub(super) open: BTreeMap<i64, Step>,
    /// What came for steps after they were given.
    pub(super) corrections: BTreeMap<i64, Step>,
    /// Steps that end here or before are given.
    pub(super) until: Option<i64>,
}

/// Bounds of [`Windows`].
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) every: i64,
    pub(super) groups_max: usize,
    /// Groups that there are.
    pub(super) all: usize,
}

impl Windows {
    /// What `group` has in the step that starts at `start`; new if need be.
    ///
    /// # Errors
    /// If there is no room.
    pub(super) fn held(
        &mut self,
        start: i64,
        group: u32,
        made: Made,
        bounds: Bounds,
    ) -> Result<&mut Held, &'static str> {
        let Bounds { every, groups_max, all } = bounds;
        let given = self.until.is_some_and(|until| start.saturating_add(every) <= until);
        let many = self.open.len() + self.corrections.len() >= OPEN_MAX;
        let steps = if given { &mut self.corrections } else { &mut self.open };
        if many && !steps.contains_key(&start) {
            return Err("too many steps are open");
        }
        let step = steps.entry(start).or_default();
        let slot = match step.slot(group) {
            Some(slot) => slot,
            None if step.groups.len() >= groups_max => {
                return Err("the step has `max_groups` other groups");
            }
            None => {
                step.add(group, Held::new(made), all);
                step.groups.len() - 1
            }
        };
        Ok(&mut step.held[slot])
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Step> {
        self.open.values_mut().chain(self.corrections.values_mut())
    }
}
