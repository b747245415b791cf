//! How far the partitions of a replayable source have come: what is read late, after a stop or from
//! the beginning, is not late by its own time.
//!
//! A push source is complete up to the clock. A source that reads a log is complete up to what it
//! has read of each partition: the largest event time, at most the clock's. A partition that gave
//! nothing for `idle` is left out, and if all are, the clock counts again. After the first rows ever
//! nothing counts as complete for a while: partitions that have not been heard of may be behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampNanosecondType;
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::component::{Partitioned, Tick};
use crate::lookup::Canonical;

/// How long after the first rows of a source all of its partitions have given some, nanoseconds of
/// running time.
const SETTLED: i64 = 10_000_000_000;
/// Partitions of one source that are told apart; those beyond it count as one.
const PARTITIONS_MAX: usize = 10_000;

/// Under this the state stands among those of operators, whose ids are no such words.
pub(crate) const STATE: &str = "<partitions>";
/// Shape of the state.
pub(super) const SHAPE: &str = "partitions 1";

/// The partitioned sources of a pipeline.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    sources: BTreeMap<Arc<str>, Source>,
    /// Running time at the last tick.
    elapsed: i64,
}

#[derive(Debug)]
struct Source {
    plan: Partitioned,
    state: SourceState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SourceState {
    /// Up to which event time it was complete at the last tick, UTC nanoseconds.
    watermark: i64,
    /// Running time at the first tick.
    since: Option<i64>,
    /// Running time at the first rows.
    first: Option<i64>,
    partitions: BTreeMap<String, Seen>,
}

/// What is known of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// The largest event time, UTC nanoseconds.
    time: i64,
    /// Running time when it last gave something.
    at: i64,
}

impl Partitions {
    pub(super) fn new(sources: &BTreeMap<Arc<str>, Partitioned>) -> Self {
        let fresh = || SourceState {
            watermark: i64::MIN,
            since: None,
            first: None,
            partitions: BTreeMap::new(),
        };
        let source = |plan: &Partitioned| Source { plan: *plan, state: fresh() };
        let sources = sources.iter().map(|(id, plan)| (id.clone(), source(plan)));
        Self { sources: sources.collect(), elapsed: 0 }
    }

    /// Rows of a source.
    pub(super) fn see(&mut self, source: &str, batch: &Batch) {
        let Some(Source { plan, state }) = self.sources.get_mut(source) else { return };
        let Some(times) = batch.array("timestamp") else { return };
        let Some(times) = times.as_primitive_opt::<TimestampNanosecondType>() else { return };
        let columns = plan.columns.iter().filter_map(|name| batch.array(name));
        let columns: Vec<Canonical> = columns.filter_map(|c| Canonical::of(&c).ok()).collect();
        let mut row = 0;
        while row < times.len() {
            // Rows of a partition come in runs.
            let same = |other: &usize| columns.iter().all(|c| c.get(*other) == c.get(row));
            let end = (row + 1..times.len()).find(|r| !same(r)).unwrap_or(times.len());
            let newest = (row..end).filter(|r| times.is_valid(*r)).map(|r| times.value(r)).max();
            let names: Vec<&str> = columns.iter().map(|c| c.get(row).unwrap_or_default()).collect();
            if let Some(newest) = newest {
                state.see(names.join("\u{1f}"), newest, self.elapsed);
            }
            row = end;
        }
    }

    /// Time moved on.
    pub(super) fn tick(&mut self, tick: Tick) {
        self.elapsed = tick.elapsed;
        for Source { plan, state } in self.sources.values_mut() {
            let since = *state.since.get_or_insert(tick.elapsed);
            let now = state.complete(plan.idle, since, tick);
            // It goes back with the clock alone.
            state.watermark = if tick.step < 0 { now } else { now.max(state.watermark) };
        }
    }

    /// Up to which event time a source is complete.
    pub(super) fn watermark(&self, source: &str, tick: Tick) -> i64 {
        self.sources.get(source).map_or(tick.watermark, |s| s.state.watermark)
    }

    /// What [`Partitions::restore`] takes; `None` if there is nothing to say.
    pub(super) fn snapshot(&self) -> Option<Vec<u8>> {
        if self.sources.is_empty() {
            return None;
        }
        let states: BTreeMap<&Arc<str>, &SourceState> =
            self.sources.iter().map(|(id, s)| (id, &s.state)).collect();
        serde_json::to_vec(&(self.elapsed, states)).ok()
    }

    pub(super) fn restore(&mut self, state: &[u8]) {
        let Ok((elapsed, states)) =
            serde_json::from_slice::<(i64, BTreeMap<String, SourceState>)>(state)
        else {
            return;
        };
        self.elapsed = elapsed;
        for (id, state) in states {
            if let Some(source) = self.sources.get_mut(id.as_str()) {
                source.state = state;
            }
        }
    }
}

impl SourceState {
    /// Up to which event time all is there that partitions gave which are not idle.
    fn complete(&self, idle: i64, since: i64, tick: Tick) -> i64 {
        let idle = |at: i64| tick.elapsed.saturating_sub(at) >= idle;
        let awake = self.partitions.values().filter(|seen| !idle(seen.at));
        let settled = self.first.is_none_or(|f| tick.elapsed.saturating_sub(f) >= SETTLED);
        match awake.map(|seen| seen.time).min() {
            Some(_) if !settled => i64::MIN,
            Some(time) => time.min(tick.watermark),
            // Nothing has come yet: nobody knows from when it will be.
            None if self.partitions.is_empty() && !idle(since) => i64::MIN,
            None => tick.watermark,
        }
    }

    fn see(&mut self, name: String, time: i64, at: i64) {
        self.first.get_or_insert(at);
        let full = self.partitions.len() >= PARTITIONS_MAX;
        let name = if full && !self.partitions.contains_key(&name) { String::new() } else { name };
        let seen = self.partitions.entry(name).or_insert(Seen { time, at });
        *seen = Seen { time: seen.time.max(time), at };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::to_batch;
    use serde_json::json;

    const S: i64 = 1_000_000_000;

    fn partitions() -> Partitions {
        let plan = Partitioned { columns: &["topic", "partition"], idle: 60 * S };
        Partitions::new(&[("k".into(), plan)].into())
    }

    fn see(of: &mut Partitions, rows: &[(i64, i64)]) {
        let row = |(partition, time): &(i64, i64)| {
            let row = json!({"topic": "t", "partition": partition, "timestamp": time * S});
            row.as_object().unwrap().clone()
        };
        let rows: Vec<_> = rows.iter().map(row).collect();
        of.see("k", &to_batch("logs", "k", 1, 0, &rows).unwrap());
    }

    /// The watermark in seconds at a tick.
    fn at(of: &mut Partitions, elapsed: i64, time: i64) -> i64 {
        let tick =
            Tick { time: time * S, elapsed: elapsed * S, watermark: time * S, ..Tick::default() };
        of.tick(tick);
        match of.watermark("k", tick) {
            i64::MIN => i64::MIN,
            nanos => nanos / S,
        }
    }

    #[test]
    fn the_slowest_partition_that_is_not_idle_decides() {
        let mut of = partitions();
        assert_eq!(at(&mut of, 0, 1_000), i64::MIN);
        see(&mut of, &[(0, 100), (0, 150), (1, 120), (0, 130)]);
        assert_eq!(at(&mut of, 9, 1_009), i64::MIN);
        assert_eq!(at(&mut of, 10, 1_010), 120);
        see(&mut of, &[(1, 5_000)]);
        assert_eq!(at(&mut of, 11, 1_011), 150);
        // Partition 0 says nothing for a minute; what is ahead of the clock is not believed.
        assert_eq!(at(&mut of, 61, 1_061), 1_061);
        // It comes back late, and time does not go back for it.
        see(&mut of, &[(0, 160)]);
        assert_eq!(at(&mut of, 62, 1_062), 1_061);
        assert_eq!(of.watermark("push", Tick { watermark: 7, ..Tick::default() }), 7);
    }

    #[test]
    fn one_that_never_gives_anything_does_not_hold_for_ever() {
        let mut of = partitions();
        assert_eq!(at(&mut of, 10, 1_000), i64::MIN);
        assert_eq!(at(&mut of, 69, 1_059), i64::MIN);
        assert_eq!(at(&mut of, 70, 1_060), 1_060);
    }

    #[test]
    fn a_state_goes_on_as_it_was() {
        let mut of = partitions();
        at(&mut of, 0, 1_000);
        see(&mut of, &[(0, 100), (1, 120)]);
        let mut again = partitions();
        again.restore(&of.snapshot().unwrap());
        assert_eq!(again.snapshot(), of.snapshot());
        assert_eq!(at(&mut again, 1, 1_001), at(&mut of, 1, 1_001));
    }
}
