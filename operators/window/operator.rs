//! The running window operator.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampNanosecondArray, UInt32Array,
};
use arrow::compute;
use arrow::datatypes::{DataType, Field, Schema, TimestampNanosecondType};
use weir_pipeline::batch::{Batch, Run, TENANT};
use weir_pipeline::component::{Operator, OperatorError, Output, Tick};
use weir_pipeline::expression::{Aggregate, Call, Expression};
use weir_pipeline::signal::timestamp;

use super::closed::Closed;
use super::keys::{self, Grouper, Key};
use super::places::{NONE, Places};
use super::state::{Input, Open};
use super::unseen::Unseen;
use super::{END, START, Shape, TIMESTAMP};
use crate::codec::{get, get_u64, put};
use crate::filter::only;

/// Windows open at once, of all stretches of time that rows are stamped with.
const OPEN_MAX: usize = 10_000;

/// A row stamped later than this after it was received is in no window.
const AHEAD_MAX: i64 = 600_000_000_000;

/// Rows for groups without rows that one tick emits, about: after a pause the windows that passed
/// meanwhile are emitted over as many ticks as that takes. 100,000 groups make 10 windows a tick.
const EMPTY_ROWS_PER_TICK: i64 = 1_000_000;

/// Version of the state; that of version 2 has no [`Unseen`].
const VERSION: u8 = 3;

/// The type of a group column where planning knows it: what keys cannot hold becomes text.
pub(super) fn group_type(expression: &Expression) -> Option<DataType> {
    Some(match expression.data_type()? {
        t @ (DataType::Boolean | DataType::Int64 | DataType::Float64 | DataType::Timestamp(..)) => {
            t.clone()
        }
        _ => DataType::Utf8,
    })
}

/// Open windows of all groups.
pub(crate) struct Window {
    shape: Arc<Shape>,
    group_by: Vec<Expression>,
    grouper: Grouper,
    closed: Closed,
    /// By start.
    open: BTreeMap<i64, Open>,
    /// Groups and the end of the last window in which they had rows, for `emit_empty`.
    seen: BTreeMap<Key, i64>,
    unseen: Unseen,
    places: Places,
}

/// The rows of one batch that go to one window.
struct Part {
    rows: Vec<u32>,
    /// Place of the group of each row in the window.
    of: Vec<usize>,
    /// The same by group, as far as known.
    places: Vec<u32>,
}

/// Rows of a batch that are in no window, and why.
type Wrong = BTreeMap<usize, OperatorError>;

/// What became of a row.
enum Place {
    /// In the windows from this start on, backwards.
    In(i64),
    Late,
    /// Stamped too far ahead of its receipt: in none, so that no window stays open for it.
    Ahead,
    Wrong(&'static str),
}

impl Window {
    pub(crate) fn new(shape: Arc<Shape>) -> Self {
        Self {
            group_by: shape.group_by.iter().map(|(_, e)| e.clone()).collect(),
            shape,
            grouper: Grouper::default(),
            closed: Closed::default(),
            open: BTreeMap::new(),
            seen: BTreeMap::new(),
            unseen: Unseen::default(),
            places: Places::default(),
        }
    }

    fn calls(shape: &Shape) -> Vec<&Call> {
        shape.aggregates.iter().flat_map(|(_, a)| a.calls()).collect()
    }

    /// The last window that holds `time`.
    fn place(&self, time: Option<i64>, received: i64) -> Place {
        let Shape { every, over, .. } = *self.shape;
        let Some(time) = time else { return Place::Wrong("the row has no timestamp") };
        if time > received.saturating_add(AHEAD_MAX) {
            return Place::Ahead;
        }
        let start = time.checked_sub(time.rem_euclid(every));
        let first = start.and_then(|s| s.checked_sub(over));
        match (start, first, start.and_then(|s| s.checked_add(over))) {
            (Some(start), Some(_), Some(_))
                if self.closed.takes(&self.shape, start).next().is_none() =>
            {
                Place::Late
            }
            (Some(start), Some(_), Some(_)) => Place::In(start),
            _ => Place::Wrong("the timestamp is out of range"),
        }
    }

    /// Sends late rows on their way, notes impossible ones, and gives back the others with their
    /// windows and their places in `batch`.
    fn sort(
        &self,
        batch: &Batch,
        wrong: &mut Wrong,
        out: &mut Output,
    ) -> Result<(Batch, Vec<i64>, Vec<usize>), OperatorError> {
        let times = batch.array(TIMESTAMP).ok_or_else(|| OperatorError::new("no `timestamp`"))?;
        let times = compute::cast(&times, &timestamp())?;
        let times: &TimestampNanosecondArray = times.as_primitive::<TimestampNanosecondType>();
        let received = batch.runs().iter().flat_map(|r| std::iter::repeat_n(r.received, r.rows));
        let (mut good, mut late, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        // Rows of one window mostly follow each other.
        let mut current = None;
        for (row, received) in received.enumerate() {
            if let Some(start) = current
                && times.is_valid(row)
                && let time = times.value(row)
                && (start..start + self.shape.every).contains(&time)
                && time <= received.saturating_add(AHEAD_MAX)
            {
                good.push(row);
                starts.push(start);
                continue;
            }
            match self.place(times.is_valid(row).then(|| times.value(row)), received) {
                Place::In(start) => {
                    good.push(row);
                    starts.push(start);
                    current = Some(start);
                }
                Place::Late => late.push(row),
                Place::Ahead => out.dropped += 1,
                Place::Wrong(reason) => {
                    wrong.insert(row, OperatorError::new(reason));
                }
            }
        }
        let rows = batch.num_rows();
        if good.len() == rows {
            return Ok((batch.clone(), starts, good));
        }
        out.emit_to("late", batch.filter(&only(&late, rows))?);
        Ok((batch.filter(&only(&good, rows))?, starts, good))
    }

    /// Takes rows that are in at least one open window; `places` are theirs in the batch as it
    /// came.
    fn take(
        &mut self,
        batch: Batch,
        starts: Vec<i64>,
        places: &[usize],
        wrong: &mut Wrong,
    ) -> Result<(), OperatorError> {
        let shape = self.shape.clone();
        let calls = Self::calls(&shape);
        let (groups, mut errors) = self.grouper.groups(&self.group_by, &batch)?;
        let mut inputs = Vec::with_capacity(calls.len());
        for call in &calls {
            let evaluated = call.evaluate(&batch)?;
            let filter = call.filter(&batch)?.map(|(mask, failed)| {
                errors.extend(failed);
                mask
            });
            // What the filter leaves out need not make sense to the call.
            let counts =
                |row: usize| filter.as_ref().is_none_or(|f| f.is_valid(row) && f.value(row));
            errors.extend(evaluated.errors.into_iter().filter(|(row, _)| counts(*row)));
            inputs.push(Input { values: evaluated.values, filter });
        }
        if !errors.is_empty() {
            drop(groups);
            return self.without(&batch, starts, places, errors, wrong);
        }
        let Self { closed, open, places: maps, .. } = self;
        let mut refused: BTreeMap<usize, &'static str> = BTreeMap::new();
        let mut parts: BTreeMap<i64, Part> = BTreeMap::new();
        // Where windows do not overlap: the part that the last row went to, out of `parts`.
        let mut current: Option<(i64, Part)> = None;
        for (row, (&last, &group)) in starts.iter().zip(&groups.rows).enumerate() {
            let group = group as usize;
            if let Some((start, part)) = &mut current
                && *start == last
                && part.places[group] != NONE
            {
                part.rows.push(row as u32);
                part.of.push(part.places[group] as usize);
                continue;
            }
            parts.extend(current.take());
            let key = &groups.keys[group];
            for start in closed.takes(&shape, last) {
                parts.entry(start).or_insert_with(|| Part {
                    rows: Vec::with_capacity(starts.len()),
                    of: Vec::with_capacity(starts.len()),
                    places: maps.take(start, groups.table, groups.keys.len()),
                });
            }
            if let Some(reason) = full(&shape, closed, open, &parts, last, group, key) {
                refused.insert(row, reason);
                continue;
            }
            for start in closed.takes(&shape, last) {
                let Some(part) = parts.get_mut(&start) else { continue };
                if part.places[group] == NONE {
                    let window = open.entry(start).or_insert_with(|| Open::new(calls.len()));
                    let place = window.group(key, shape.groups_max);
                    part.places[group] = place.map_or(NONE, |place| place as u32);
                }
                part.rows.push(row as u32);
                part.of.push(part.places[group] as usize);
            }
            if shape.over == shape.every {
                current = parts.remove_entry(&last);
            }
        }
        parts.extend(current.take());
        for (start, Part { rows, of, places }) in parts {
            maps.put(start, groups.table, places);
            let Some(window) = open.get_mut(&start) else { continue };
            let full = window.update(&calls, &inputs, &UInt32Array::from(rows), &of)?;
            for row in full {
                refused.insert(row as usize, "the window holds too many distinct values");
            }
        }
        wrong.extend(refused.into_iter().map(|(row, why)| (places[row], OperatorError::new(why))));
        Ok(())
    }

    /// Notes the rows for which an expression failed, and takes the others.
    fn without(
        &mut self,
        batch: &Batch,
        starts: Vec<i64>,
        places: &[usize],
        errors: Vec<(usize, OperatorError)>,
        wrong: &mut Wrong,
    ) -> Result<(), OperatorError> {
        let mut good = vec![true; batch.num_rows()];
        for (row, e) in errors {
            good[row] = false;
            wrong.entry(places[row]).or_insert(e);
        }
        let (starts, places): (Vec<i64>, Vec<usize>) =
            (0..good.len()).filter(|&i| good[i]).map(|i| (starts[i], places[i])).unzip();
        let rest = batch.filter(&BooleanArray::from(good))?;
        self.take(rest, starts, &places, wrong)
    }

    /// Emits the windows that end at `until` or before.
    fn close(&mut self, until: i64, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        let Shape { every, over, .. } = *self.shape;
        let mut from = std::mem::replace(&mut self.closed.until, until);
        loop {
            let next = self.open.first_key_value().map(|(s, _)| *s);
            // The first window that ends after what is emitted, for groups without rows.
            let empty = (self.shape.idle.is_some() && !self.seen.is_empty() && from != i64::MIN)
                .then(|| {
                    let before = from.saturating_sub(over);
                    before.saturating_sub(before.rem_euclid(every)).saturating_add(every)
                });
            let Some(start) = next.into_iter().chain(empty).min() else { return Ok(()) };
            let end = start.saturating_add(over);
            if end > until {
                return Ok(());
            }
            let calls = Self::calls(&self.shape).len();
            from = end;
            self.places.forget(start);
            let mut window = match self.open.remove(&start) {
                Some(window) => window,
                None if self.closed.has_emitted(start) => continue,
                None => Open::new(calls),
            };
            if let Some(idle) = self.shape.idle {
                self.remember(&mut window, start, end, idle);
            }
            if !window.keys.is_empty() {
                self.closed.emit(start);
            }
            self.emit(window, start, end, tick, out)?;
        }
    }

    /// Up to where a tick at this watermark of the inputs emits windows.
    fn reach(&self, inputs: i64) -> i64 {
        if inputs == i64::MIN {
            return i64::MIN;
        }
        let until = inputs.saturating_sub(self.shape.lateness);
        let groups = self.seen.len() as i64;
        if self.shape.idle.is_none() || groups == 0 || self.closed.until == i64::MIN {
            return until;
        }
        let windows = (EMPTY_ROWS_PER_TICK / groups).max(1);
        until.min(self.closed.until.saturating_add(windows.saturating_mul(self.shape.every)))
    }

    /// Notes which groups had rows, adds those that had some within `idle`, forgets the others.
    fn remember(&mut self, window: &mut Open, start: i64, end: i64, idle: i64) {
        for key in &window.keys {
            if self.seen.contains_key(key) || self.seen.len() < self.shape.groups_max {
                self.seen.insert(key.clone(), end);
            }
        }
        self.seen.retain(|_, last| end.saturating_sub(*last) <= idle);
        if self.unseen.overlaps(start, end) {
            return;
        }
        for key in self.seen.keys() {
            if !window.has(key) {
                window.group(key, self.shape.groups_max);
            }
        }
    }

    fn emit(
        &self,
        window: Open,
        start: i64,
        end: i64,
        tick: Tick,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let groups = window.keys.len();
        if groups == 0 {
            return Ok(());
        }
        let (keys, results) = window.results(&Self::calls(&self.shape))?;
        let order = keys::order(&keys);
        let sorted: Vec<Key> = order.iter().map(|&i| keys[i as usize].clone()).collect();
        let order = UInt32Array::from(order);
        let time = |t: i64| -> ArrayRef {
            Arc::new(TimestampNanosecondArray::from(vec![t; groups]).with_timezone("UTC"))
        };
        let mut columns = vec![
            (START.to_owned(), time(start)),
            (END.to_owned(), time(end)),
            (TIMESTAMP.to_owned(), time(end)),
        ];
        for (i, (name, expression)) in self.shape.group_by.iter().enumerate() {
            let known = group_type(expression);
            columns.push((name.clone(), keys::column(&sorted, i, known.as_ref())?));
        }
        let mut results = results.into_iter();
        for (name, aggregate) in &self.shape.aggregates {
            let of: Vec<ArrayRef> = results.by_ref().take(aggregate.calls().len()).collect();
            columns.push((name.clone(), value(aggregate, &of, &order)?));
        }
        let fields: Vec<Field> =
            columns.iter().map(|(n, a)| Field::new(n, a.data_type().clone(), true)).collect();
        let arrays = columns.into_iter().map(|(_, a)| a).collect();
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?;
        let run = Run { offset: tick.offset, received: tick.time, source: "".into(), rows: groups };
        let signal = self.shape.output.signal.clone();
        out.emit(Batch::new(signal, TENANT.into(), rows, None, [run].into())?);
        Ok(())
    }
}

/// Why a row has no place in one of its windows: then it counts in none of them.
fn full(
    shape: &Shape,
    closed: &Closed,
    open: &BTreeMap<i64, Open>,
    parts: &BTreeMap<i64, Part>,
    last: i64,
    group: usize,
    key: &Key,
) -> Option<&'static str> {
    let mut new = 0;
    for start in closed.takes(shape, last) {
        if parts.get(&start).is_some_and(|p| p.places[group] != NONE) {
            continue;
        }
        match open.get(&start) {
            Some(w) if w.keys.len() >= shape.groups_max && !w.has(key) => {
                return Some("the window has `max_groups` other groups");
            }
            Some(_) => {}
            None => new += 1,
        }
    }
    (open.len() + new > OPEN_MAX).then_some("too many windows are open")
}

fn value(
    aggregate: &Aggregate,
    results: &[ArrayRef],
    order: &UInt32Array,
) -> Result<ArrayRef, OperatorError> {
    let values = aggregate.finish(results, order.len())?;
    Ok(compute::take(&values, order, None)?)
}

impl Operator for Window {
    fn process(
        &mut self,
        _input: usize,
        batch: Batch,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let mut wrong = Wrong::new();
        let (good, starts, places) = self.sort(&batch, &mut wrong, out)?;
        if !starts.is_empty() {
            self.take(good, starts, &places, &mut wrong)?;
        }
        // In the order of rows, whatever is wrong with them: it must not depend on where batches
        // were cut.
        let (rows, reasons): (Vec<usize>, Vec<OperatorError>) = wrong.into_iter().unzip();
        out.reject(batch.filter(&only(&rows, batch.num_rows()))?, reasons);
        Ok(())
    }

    fn tick(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        self.unseen.tick(tick, self.closed.until);
        match self.reach(tick.watermark) {
            i64::MIN => Ok(()),
            until if until < self.closed.until => {
                self.closed.reopen(until, self.shape.over);
                Ok(())
            }
            until => self.close(until, tick, out),
        }
    }

    fn watermark(&self, inputs: i64) -> i64 {
        self.reach(inputs)
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
        let shape = self.shape.clone();
        let calls = Self::calls(&shape);
        let mut out = vec![VERSION];
        self.closed.save(&mut out);
        self.unseen.save(&mut out);
        out.extend((self.seen.len() as u64).to_le_bytes());
        for (key, last) in &self.seen {
            put(&mut out, key);
            out.extend(last.to_le_bytes());
        }
        out.extend((self.open.len() as u64).to_le_bytes());
        for (start, window) in &mut self.open {
            out.extend(start.to_le_bytes());
            put(&mut out, &window.save(&calls)?);
        }
        Ok(out)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), OperatorError> {
        let bad = || OperatorError::new("malformed state of a window operator");
        let shape = self.shape.clone();
        let calls = Self::calls(&shape);
        let (version, mut bytes) = state.split_first().ok_or_else(bad)?;
        if !(2..=VERSION).contains(version) {
            let reason = format!("state of a window operator of version {version}, not {VERSION}");
            return Err(OperatorError::new(reason));
        }
        let closed = Closed::load(&mut bytes).ok_or_else(bad)?;
        let unseen = match version {
            2 => Unseen::default(),
            _ => Unseen::load(&mut bytes).ok_or_else(bad)?,
        };
        let mut seen = BTreeMap::new();
        for _ in 0..get_u64(&mut bytes).ok_or_else(bad)? {
            let key: Key = get(&mut bytes).ok_or_else(bad)?.into();
            seen.insert(key, get_u64(&mut bytes).ok_or_else(bad)? as i64);
        }
        let mut open = BTreeMap::new();
        for _ in 0..get_u64(&mut bytes).ok_or_else(bad)? {
            let start = get_u64(&mut bytes).ok_or_else(bad)? as i64;
            open.insert(start, Open::load(get(&mut bytes).ok_or_else(bad)?, &calls)?);
        }
        if !bytes.is_empty() {
            return Err(bad());
        }
        (self.closed, self.unseen, self.seen, self.open) = (closed, unseen, seen, open);
        self.places.clear();
        Ok(())
    }

    fn flush(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        while let Some((start, window)) = self.open.pop_first() {
            let end = start.saturating_add(self.shape.over);
            self.closed.until = self.closed.until.max(end);
            self.places.forget(start);
            self.emit(window, start, end, tick, out)?;
        }
        Ok(())
    }
}
