//! The running staleness operator.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampNanosecondArray, UInt32Array,
};
use arrow::compute;
use arrow::datatypes::{DataType, Field, Schema, TimestampNanosecondType};
use hashbrown::HashMap;
use weir_pipeline::batch::{Batch, Keys, Run, TENANT};
use weir_pipeline::component::{Operator, OperatorError, Output, Tick};
use weir_pipeline::entity::{Entity, EntitySpace, Value};
use weir_pipeline::signal::{Signal, timestamp};

use crate::codec::{get_entity, get_text, get_u8, get_u64, put, put_entity, put_u64};

/// Version of the state.
const VERSION: u8 = 1;

/// Metric times are whole milliseconds.
const MILLISECOND: i64 = 1_000_000;

/// `job` and `instance`.
type TargetName = (Box<str>, Box<str>);

/// The live series of all targets.
pub(super) struct Staleness {
    after: i64,
    series_max: usize,
    targets: BTreeMap<TargetName, Target>,
    /// Series of all targets.
    series: usize,
    /// Rows of series that found no room since the last tick.
    unwatched: u64,
    /// Where the entities of emitted rows live.
    entities: EntitySpace,
}

#[derive(Default)]
struct Target {
    /// By fingerprint: the series, and the last scrape that had it.
    series: HashMap<u128, (Arc<Entity>, u64)>,
    /// Counts scrapes.
    scrape: u64,
    /// Elapsed time at the first tick after the last scrape; `None` between the two.
    last: Option<i64>,
}

/// One scrape: rows of one entry and one target.
struct Scrape {
    target: TargetName,
    rows: Vec<(usize, Arc<Entity>)>,
}

fn text<'a>(entity: &'a Entity, name: &str) -> Option<&'a str> {
    match entity.get(name)? {
        Value::Text(v) | Value::Json(v) => Some(v),
        _ => None,
    }
}

impl Staleness {
    pub(super) fn new(after: i64, series_max: usize) -> Self {
        Self {
            after,
            series_max,
            targets: BTreeMap::new(),
            series: 0,
            unwatched: 0,
            entities: EntitySpace::default(),
        }
    }

    /// Notes what one scrape has. Gives the time of the scrape and the series that it lacks.
    fn scraped(
        &mut self,
        scrape: Scrape,
        times: &TimestampNanosecondArray,
        stale: Option<&BooleanArray>,
    ) -> Option<(i64, Vec<Arc<Entity>>)> {
        let time_of = |row: usize| times.is_valid(row).then(|| times.value(row));
        let is_up = |e: &Entity| text(e, "metric.name") == Some("up");
        let up = scrape.rows.iter().find(|(_, e)| is_up(e)).and_then(|(r, _)| time_of(*r));
        let time = up.or_else(|| scrape.rows.iter().filter_map(|(r, _)| time_of(*r)).max())?;
        let room = self.series_max;
        let target = self.targets.entry(scrape.target).or_default();
        target.scrape += 1;
        target.last = None;
        let before = target.series.len();
        let mut seen = 0;
        for (row, entity) in scrape.rows {
            if time_of(row) != Some(time) {
                continue;
            }
            let fingerprint = entity.fingerprint();
            if stale.is_some_and(|s| s.is_valid(row) && s.value(row)) {
                target.series.remove(&fingerprint);
                continue;
            }
            if let Some((_, scrape)) = target.series.get_mut(&fingerprint) {
                seen += usize::from(*scrape != target.scrape);
                *scrape = target.scrape;
            } else if self.series + target.series.len() - before < room {
                target.series.insert(fingerprint, (entity, target.scrape));
                seen += 1;
            } else {
                self.unwatched += 1;
            }
        }
        let mut gone = Vec::new();
        if target.series.len() > seen {
            let current = target.scrape;
            let lacking = target.series.extract_if(|_, (_, scrape)| *scrape != current);
            gone = lacking.map(|(f, (entity, _))| (f, entity)).collect();
            gone.sort_unstable_by_key(|(f, _)| *f);
        }
        self.series = self.series + target.series.len() - before;
        Some((time, gone.into_iter().map(|(_, e)| e).collect()))
    }

    /// Rows that end `series` at `time`.
    fn rows(&self, time: i64, series: &[Arc<Entity>], run: Run) -> Result<Batch, OperatorError> {
        let table = self.entities.table();
        let keys: Result<Vec<u32>, _> =
            series.iter().map(|e| table.intern(e.as_ref().clone())).collect();
        let keys = keys.map_err(|e| OperatorError::new(e.to_string()))?;
        let n = keys.len();
        let times = TimestampNanosecondArray::from(vec![time; n]).with_timezone("UTC");
        let schema = Schema::new(vec![
            Field::new("timestamp", timestamp(), true),
            Field::new("stale", DataType::Boolean, true),
        ]);
        let columns: Vec<ArrayRef> =
            vec![Arc::new(times), Arc::new(BooleanArray::from(vec![true; n]))];
        let rows = RecordBatch::try_new(Arc::new(schema), columns)?;
        let keys = Keys { keys: UInt32Array::from(keys), table };
        let run = Run { rows: n, ..run };
        Ok(Batch::new(Signal::Metrics, TENANT.into(), rows, Some(keys), [run].into())?)
    }
}

/// The scrapes of the rows `start..end` of a batch, in order of first appearance.
fn scrapes(keys: &Keys, start: usize, end: usize) -> Vec<Scrape> {
    let mut scrapes: Vec<Scrape> = Vec::new();
    let mut by_name: HashMap<TargetName, usize> = HashMap::new();
    let mut current = None;
    for row in start..end {
        let entity = keys.table.get(keys.keys.value(row));
        let (Some(job), Some(instance)) = (text(&entity, "job"), text(&entity, "instance")) else {
            continue;
        };
        // Rows of one target follow each other.
        let same = |i: &usize| {
            let (j, at) = &scrapes[*i].target;
            **j == *job && **at == *instance
        };
        let index = current.filter(same).unwrap_or_else(|| {
            let name: TargetName = (job.into(), instance.into());
            *by_name.entry(name.clone()).or_insert_with(|| {
                scrapes.push(Scrape { target: name, rows: Vec::new() });
                scrapes.len() - 1
            })
        });
        current = Some(index);
        scrapes[index].rows.push((row, entity));
    }
    scrapes
}

/// The rows `start..end` of a batch.
fn part(batch: &Batch, start: usize, end: usize) -> Result<Batch, OperatorError> {
    if start == 0 && end == batch.num_rows() {
        return Ok(batch.clone());
    }
    let mask = (0..batch.num_rows()).map(|row| Some(row >= start && row < end));
    Ok(batch.filter(&mask.collect())?)
}

impl Operator for Staleness {
    fn process(
        &mut self,
        _input: usize,
        batch: Batch,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let (Some(keys), Some(times)) = (batch.entities().cloned(), batch.array("timestamp"))
        else {
            out.emit(batch);
            return Ok(());
        };
        let times = compute::cast(&times, &timestamp())?;
        let times = times.as_primitive::<TimestampNanosecondType>();
        let stale = batch.array("stale");
        let stale = stale.as_ref().and_then(|s| s.as_boolean_opt());
        // What a scrape lacks comes right behind its rows, however entries were joined.
        let (mut start, mut from) = (0, 0);
        for run in batch.runs().clone().iter() {
            let end = start + run.rows;
            for scrape in scrapes(&keys, start, end) {
                let Some((time, gone)) = self.scraped(scrape, times, stale) else { continue };
                if gone.is_empty() {
                    continue;
                }
                if from < end {
                    out.emit(part(&batch, from, end)?);
                    from = end;
                }
                out.emit(self.rows(time, &gone, run.clone())?);
            }
            start = end;
        }
        if from < start {
            out.emit(part(&batch, from, start)?);
        }
        Ok(())
    }

    fn tick(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        if self.unwatched > 0 {
            tracing::warn!(rows = self.unwatched, limit = self.series_max, "series not watched");
            self.unwatched = 0;
        }
        let mut silent = Vec::new();
        for (name, target) in &mut self.targets {
            let last = *target.last.get_or_insert(tick.elapsed);
            if tick.elapsed.saturating_sub(last) >= self.after {
                silent.push(name.clone());
            }
        }
        let time = tick.time - tick.time.rem_euclid(MILLISECOND);
        let run = Run { offset: tick.offset, received: tick.time, source: "".into(), rows: 0 };
        for name in silent {
            let Some(target) = self.targets.remove(&name) else { continue };
            self.series -= target.series.len();
            let mut gone: Vec<(u128, Arc<Entity>)> =
                target.series.into_iter().map(|(f, (e, _))| (f, e)).collect();
            gone.sort_unstable_by_key(|(f, _)| *f);
            let gone: Vec<Arc<Entity>> = gone.into_iter().map(|(_, e)| e).collect();
            out.emit(self.rows(time, &gone, run.clone())?);
        }
        Ok(())
    }

    fn watermark(&self, inputs: i64) -> i64 {
        inputs
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
        let mut out = vec![VERSION];
        put_u64(&mut out, self.targets.len() as u64);
        for ((job, instance), target) in &self.targets {
            put(&mut out, job.as_bytes());
            put(&mut out, instance.as_bytes());
            out.push(u8::from(target.last.is_some()));
            put_u64(&mut out, target.last.unwrap_or_default() as u64);
            let mut series: Vec<_> = target.series.values().map(|(e, _)| e).collect();
            series.sort_unstable_by_key(|e| e.fingerprint());
            put_u64(&mut out, series.len() as u64);
            series.into_iter().for_each(|e| put_entity(&mut out, e));
        }
        Ok(out)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), OperatorError> {
        let bad = || OperatorError::new("malformed state of a staleness operator");
        let (version, mut bytes) = state.split_first().ok_or_else(bad)?;
        if *version != VERSION {
            return Err(bad());
        }
        let mut restored = Self::new(self.after, self.series_max);
        for _ in 0..get_u64(&mut bytes).ok_or_else(bad)? {
            let job = get_text(&mut bytes).ok_or_else(bad)?.into();
            let instance = get_text(&mut bytes).ok_or_else(bad)?.into();
            let known = get_u8(&mut bytes).ok_or_else(bad)? == 1;
            let last = get_u64(&mut bytes).ok_or_else(bad)? as i64;
            let mut target = Target { last: known.then_some(last), ..Target::default() };
            for _ in 0..get_u64(&mut bytes).ok_or_else(bad)? {
                let entity = get_entity(&mut bytes).ok_or_else(bad)?;
                target.series.insert(entity.fingerprint(), (Arc::new(entity), 0));
            }
            restored.series += target.series.len();
            restored.targets.insert((job, instance), target);
        }
        if !bytes.is_empty() {
            return Err(bad());
        }
        *self = restored;
        Ok(())
    }

    fn flush(&mut self, _: Tick, _: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }
}
