//! The running rollup operator.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, TimestampNanosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampNanosecondType};
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{Operator, OperatorError, Output, Tick};
use weir_pipeline::entity::EntitySpace;
use weir_pipeline::expression::histogram::Reader;
use weir_pipeline::signal::timestamp;

use super::emit::{self, Given};
use super::groups::{self, Groups, Kind, Target};
use super::series::{AllSeries, Change, Effect, Sample, Value};
use super::windows::{Bounds, Made, Step, Windows};
use super::{Column, Shape, TIMESTAMP};
use crate::filter::only;

/// A row stamped later than this after it was received is dropped, as by `window`.
const AHEAD_MAX: i64 = 600_000_000_000;

/// Corrections wait this long for others, nanoseconds: a row for each late sample would be no
/// reduction. A minute, or a step if that is shorter.
const WAIT_MAX: i64 = 60_000_000_000;

/// Groups that nothing refers to are let go of from this many on.
const GROUPS_MIN: usize = 10_000;

pub(super) struct Rollup {
    pub(super) shape: Arc<Shape>,
    pub(super) groups: Groups,
    pub(super) series: AllSeries,
    pub(super) windows: Windows,
    /// Elapsed time at which corrections are given.
    pub(super) due: Option<i64>,
    /// Groups after the last time that unused ones were let go of.
    used: usize,
    /// Where the entities of emitted rows live.
    entities: EntitySpace,
}

/// What became of a row.
enum Fate {
    Taken,
    Late,
    Wrong(OperatorError),
}

impl From<&'static str> for Fate {
    fn from(reason: &'static str) -> Self {
        Self::Wrong(OperatorError::new(reason))
    }
}

/// The columns of a batch that are read.
struct Columns {
    times: TimestampNanosecondArray,
    starts: Option<TimestampNanosecondArray>,
    value: Option<Float64Array>,
    whole: Option<Int64Array>,
    histogram: Option<ArrayRef>,
}

impl Columns {
    fn of(batch: &Batch) -> Result<Self, OperatorError> {
        let times = |name: &str| -> Result<Option<TimestampNanosecondArray>, OperatorError> {
            let Some(array) = batch.array(name) else { return Ok(None) };
            let array = cast(&array, &timestamp())?;
            Ok(Some(array.as_primitive::<TimestampNanosecondType>().clone()))
        };
        let number = |name: &str, t: &DataType| match batch.array(name) {
            Some(array) if array.data_type().is_numeric() => cast(&array, t).map(Some),
            _ => Ok(None),
        };
        let value = number("value", &DataType::Float64)?;
        // Whole numbers that a double cannot hold come in a column of their own.
        let whole = number("value_int", &DataType::Int64)?;
        Ok(Self {
            times: times(TIMESTAMP)?.ok_or_else(|| OperatorError::new("no `timestamp`"))?,
            starts: times("start_timestamp")?,
            value: value.map(|a| a.as_primitive::<Float64Type>().clone()),
            whole: whole.map(|a| a.as_primitive::<Int64Type>().clone()),
            histogram: batch.array("histogram"),
        })
    }

    /// The number of a row; NaN is none.
    fn number(&self, row: usize) -> Option<Value> {
        let value = self.value.as_ref().filter(|a| a.is_valid(row)).map(|a| a.value(row));
        match value {
            Some(value) => (!value.is_nan()).then_some(Value::Number(value, 0)),
            None => {
                let whole = self.whole.as_ref().filter(|a| a.is_valid(row))?;
                Some(Value::whole(whole.value(row)))
            }
        }
    }

    fn start(&self, row: usize) -> i64 {
        let starts = self.starts.as_ref().filter(|a| a.is_valid(row));
        starts.map_or(i64::MIN, |a| a.value(row))
    }
}

impl Rollup {
    pub(super) fn new(shape: Arc<Shape>) -> Self {
        Self {
            shape,
            groups: Groups::default(),
            series: AllSeries::default(),
            windows: Windows::default(),
            due: None,
            used: 0,
            entities: EntitySpace::default(),
        }
    }

    /// What is stamped before it is too late.
    fn horizon(&self) -> i64 {
        let until = self.windows.until.unwrap_or(i64::MIN);
        until.saturating_sub(self.shape.correct_for)
    }

    /// Whether a row that old still counts in the step at `start`: while that is open, if the row
    /// counts by itself. Of cumulative series the samples before it are known no more.
    fn counts_yet(&self, start: i64, kind: Kind) -> bool {
        let end = start.saturating_add(self.shape.every);
        let alone = matches!(
            kind,
            Kind::Gauge | Kind::Counter { delta: true } | Kind::Histogram { delta: true }
        );
        alone && self.windows.until.is_none_or(|until| end > until)
    }

    fn bounds(&self) -> Bounds {
        let Shape { every, groups_max, .. } = *self.shape;
        Bounds { every, groups_max, all: self.groups.len() }
    }

    /// The start of the step that `time` is in, `None` past the ends of time.
    fn step(&self, time: i64) -> Option<i64> {
        let every = self.shape.every;
        let start = time.checked_sub(time.rem_euclid(every))?;
        start.checked_add(every).map(|_| start)
    }

    fn take(
        &mut self,
        row: usize,
        target: &mut Target,
        columns: &Columns,
        histograms: Option<&Reader<'_>>,
    ) -> Fate {
        let time = columns.times.value(row);
        let Some(start) = self.step(time) else {
            return "the timestamp is out of range".into();
        };
        if time < self.horizon() && !self.counts_yet(start, target.kind) {
            return Fate::Late;
        }
        let value = match target.kind {
            Kind::Unsure => return "the histogram has no `metric.temporality`".into(),
            Kind::Gauge | Kind::Counter { .. } => columns.number(row),
            Kind::Histogram { delta } => match histograms.map(|h| h.at(row, delta)) {
                Some(Err(e)) => return Fate::Wrong(OperatorError::new(e)),
                Some(Ok(Some(histogram))) => Some(Value::Histogram(Box::new(histogram))),
                Some(Ok(None)) | None => None,
            },
        };
        // That a series has ended is no value.
        let Some(value) = value else { return Fate::Taken };
        let sample = Sample { time, start: columns.start(row), value };
        match target.kind {
            Kind::Counter { delta: false } | Kind::Histogram { delta: false } => {
                self.cumulative(start, target, sample)
            }
            _ => self.add(start, target, sample),
        }
    }

    /// Takes a value that counts by itself.
    fn add(&mut self, start: i64, target: &Target, sample: Sample) -> Fate {
        let made = match target.kind {
            Kind::Gauge => Made::Gauge,
            Kind::Counter { .. } => Made::Counter,
            Kind::Histogram { .. } | Kind::Unsure => Made::Histogram,
        };
        let sketch = self.shape.columns.contains(&Column::Sketch);
        let bounds = self.bounds();
        let held = match self.windows.held(start, target.group, made, bounds) {
            Ok(held) => held,
            Err(reason) => return reason.into(),
        };
        match (sample.value, made) {
            (Value::Number(value, _), Made::Gauge) => held.gauge(sample.time, value, sketch),
            (Value::Number(value, rest), _) => {
                held.count += 1;
                held.add(Change::Number(value + f64::from(rest)));
            }
            (Value::Histogram(histogram), _) => {
                held.count += 1;
                held.add(Change::Histogram(histogram));
            }
        }
        Fate::Taken
    }

    /// Takes a value that counts by what it is more than the one before.
    fn cumulative(&mut self, start: i64, target: &mut Target, sample: Sample) -> Fate {
        let (horizon, bounds) = (self.horizon(), self.bounds());
        let Shape { idle, series_max, .. } = *self.shape;
        let number = match self.series.find(target, horizon, idle, series_max) {
            Ok(number) => number,
            Err(reason) => return reason.into(),
        };
        let (at, own, next) = match self.series.all[number].effect(&sample, idle) {
            Effect::Known => return Fate::Taken,
            Effect::Late => return Fate::Late,
            Effect::New { at, own, next } => (at, own, next),
        };
        let made = match &sample.value {
            Value::Number(..) => Made::Counter,
            Value::Histogram(_) => Made::Histogram,
        };
        let group = target.group;
        // Both steps or none: what finds no room must change nothing.
        if let Some(next_start) = next.as_ref().and_then(|(time, _)| self.step(*time))
            && let Err(reason) = self.windows.held(next_start, group, made, bounds)
        {
            return reason.into();
        }
        match self.windows.held(start, group, made, bounds) {
            Ok(held) => {
                held.count += 1;
                own.into_iter().for_each(|change| held.add(change));
            }
            Err(reason) => return reason.into(),
        }
        if let Some((time, change)) = next
            && let Some(next_start) = self.step(time)
            && let Ok(held) = self.windows.held(next_start, group, made, bounds)
        {
            held.add(change);
        }
        self.series.insert(number, at, sample, horizon);
        Fate::Taken
    }

    /// Emits the steps that end at `until` or before.
    fn close(&mut self, until: i64, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        while let Some(entry) = self.windows.open.first_entry()
            && entry.key().saturating_add(self.shape.every) <= until
        {
            let (start, step) = entry.remove_entry();
            self.emit(&step, Given { start, correction: false }, tick, out)?;
        }
        Ok(())
    }

    fn correct(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        self.due = None;
        for (start, step) in std::mem::take(&mut self.windows.corrections) {
            self.emit(&step, Given { start, correction: true }, tick, out)?;
        }
        Ok(())
    }

    fn emit(
        &self,
        step: &Step,
        given: Given,
        tick: Tick,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let rows = emit::rows(&self.shape, step, &self.groups, &self.entities, given, tick)?;
        rows.into_iter().for_each(|batch| out.emit(batch));
        Ok(())
    }

    /// Lets go of what nothing refers to. It does not show in what is given.
    fn tidy(&mut self) {
        let horizon = self.horizon();
        let idle = self.shape.idle;
        if self.series.swept.is_none_or(|swept| horizon >= swept.saturating_add(idle)) {
            self.series.sweep(horizon, idle);
        }
        if self.groups.len() < GROUPS_MIN.max(self.used * 2) {
            return;
        }
        let mut used = vec![false; self.groups.len()];
        self.series.all.iter().for_each(|s| used[s.group as usize] = true);
        for step in self.windows.all_mut() {
            step.groups.iter().for_each(|group| used[*group as usize] = true);
        }
        let numbers = self.groups.retain(&used);
        self.used = self.groups.len();
        self.series.all.iter_mut().for_each(|s| s.group = numbers[s.group as usize]);
        let all = self.used;
        self.windows.all_mut().for_each(|step| step.renumber(&numbers, all));
    }
}

impl Operator for Rollup {
    fn process(
        &mut self,
        _input: usize,
        batch: Batch,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let columns = Columns::of(&batch)?;
        let histograms = columns.histogram.as_ref().and_then(Reader::new);
        let shape = self.shape.clone();
        let labels = groups::labels_of_rows(&batch, &shape.labels);
        let entities = batch.entities().filter(|_| labels.is_empty());
        let (mut targets, of_rows) = match entities {
            Some(entities) => (self.groups.targets(&entities.table, &shape), Vec::new()),
            None => self.groups.of_rows(&batch, &labels, &shape),
        };
        let received = batch.runs().iter().flat_map(|r| std::iter::repeat_n(r.received, r.rows));
        let (mut late, mut wrong, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
        for (row, received) in received.enumerate() {
            if columns.times.is_null(row) {
                wrong.push(row);
                reasons.push(OperatorError::new("the row has no timestamp"));
                continue;
            }
            if columns.times.value(row) > received.saturating_add(AHEAD_MAX) {
                out.dropped += 1;
                continue;
            }
            let target = entities.map_or_else(|| of_rows[row], |e| e.keys.value(row));
            match self.take(row, &mut targets[target as usize], &columns, histograms.as_ref()) {
                Fate::Taken => {}
                Fate::Late => late.push(row),
                Fate::Wrong(reason) => {
                    wrong.push(row);
                    reasons.push(reason);
                }
            }
        }
        if let Some(entities) = entities {
            self.groups.keep(&entities.table, targets);
        }
        let rows = batch.num_rows();
        if !late.is_empty() {
            out.emit_to("late", batch.filter(&only(&late, rows))?);
        }
        if !wrong.is_empty() {
            out.reject(batch.filter(&only(&wrong, rows))?, reasons);
        }
        Ok(())
    }

    fn tick(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        if tick.watermark != i64::MIN {
            // After a clock that was set back it is earlier than it was: steps that were given are
            // open again, and what comes for them is given once more, to be added.
            let until = tick.watermark.saturating_sub(self.shape.lateness);
            self.windows.until = Some(until);
            self.close(until, tick, out)?;
        }
        if !self.windows.corrections.is_empty() {
            let wait = self.shape.every.min(WAIT_MAX);
            let due = *self.due.get_or_insert(tick.elapsed.saturating_add(wait));
            if tick.elapsed >= due {
                self.correct(tick, out)?;
            }
        }
        self.tidy();
        Ok(())
    }

    /// A step that is open begins before what is given ends.
    fn watermark(&self, inputs: i64) -> i64 {
        if inputs == i64::MIN {
            return i64::MIN;
        }
        inputs.saturating_sub(self.shape.lateness).saturating_sub(self.shape.every)
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
        Ok(self.save())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), OperatorError> {
        let bad = || OperatorError::new("malformed state of a rollup operator");
        self.load(state).ok_or_else(bad)
    }

    fn flush(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        self.correct(tick, out)?;
        self.close(i64::MAX, tick, out)
    }
}
