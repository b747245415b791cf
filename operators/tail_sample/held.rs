//! Traces that are not decided yet, and what was decided of others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hashbrown::HashMap;
use weir_pipeline::batch::Batch;

use super::decide::Trace;

/// Decided traces that are remembered: 30 minutes at 55 traces a second, 10 MB.
const REMEMBERED_MAX: usize = 100_000;

/// A batch of which some rows are held.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) batch: Batch,
    /// How many.
    pub(super) held: usize,
}

/// A trace whose spans are held.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) trace: Trace,
    /// Numbers of batches, and rows in them.
    pub(super) rows: Vec<(u64, u32)>,
}

/// All that is held and remembered.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// By number, in the order in which they came.
    pub(super) batches: BTreeMap<u64, Rows>,
    pub(super) next: u64,
    pub(super) traces: HashMap<Arc<str>, Open>,
    /// Traces in the order in which they began, with the elapsed time of the tick after.
    pub(super) ticks: VecDeque<(i64, Vec<Arc<str>>)>,
    /// Those that began since the last tick.
    pub(super) fresh: Vec<Arc<str>>,
    /// Spans.
    pub(super) spans: usize,
    /// The reason of each remembered trace, none if it was dropped.
    pub(super) decided: HashMap<Arc<str>, Option<u8>>,
    /// The same in order.
    pub(super) decisions: VecDeque<Arc<str>>,
}

impl Held {
    /// Notes a decision.
    pub(super) fn remember(&mut self, id: Arc<str>, reason: Option<u8>) {
        if self.decided.insert(id.clone(), reason).is_none() {
            self.decisions.push_back(id);
        }
        if self.decisions.len() > REMEMBERED_MAX
            && let Some(oldest) = self.decisions.pop_front()
        {
            self.decided.remove(&oldest);
        }
    }

    /// Holds the row `row` of the batch `batch` of a trace.
    pub(super) fn hold(&mut self, id: &str, trace: Trace, batch: u64, row: u32) {
        self.spans += 1;
        if let Some(open) = self.traces.get_mut(id) {
            open.trace.error |= trace.error;
            open.trace.slowest = open.trace.slowest.max(trace.slowest);
            if trace.rooted && !open.trace.rooted {
                let (error, slowest) = (open.trace.error, open.trace.slowest);
                open.trace = Trace { error, slowest, ..trace };
            }
            open.rows.push((batch, row));
            return;
        }
        let id: Arc<str> = id.into();
        self.fresh.push(id.clone());
        self.traces.insert(id, Open { trace, rows: vec![(batch, row)] });
    }

    /// Traces that have waited for `wait`, or all, in order.
    pub(super) fn due(&mut self, elapsed: i64, wait: Option<i64>) -> Vec<Arc<str>> {
        if !self.fresh.is_empty() {
            self.ticks.push_back((elapsed, std::mem::take(&mut self.fresh)));
        }
        let mut due = Vec::new();
        while let Some((since, _)) = self.ticks.front()
            && wait.is_none_or(|wait| elapsed.saturating_sub(*since) >= wait)
        {
            due.extend(self.ticks.pop_front().into_iter().flat_map(|(_, ids)| ids));
        }
        due
    }

    /// Lets go of `rows`; `chosen` collects by batch those that are kept, with the reason.
    pub(super) fn release(
        &mut self,
        rows: &[(u64, u32)],
        reason: Option<u8>,
        chosen: &mut BTreeMap<u64, Vec<(u32, u8)>>,
    ) {
        self.spans -= rows.len();
        for (batch, row) in rows {
            if let Some(held) = self.batches.get_mut(batch) {
                held.held -= 1;
            }
            if let Some(reason) = reason {
                chosen.entry(*batch).or_default().push((*row, reason));
            }
        }
    }
}
