//! The running operator: pairs what comes, and gives the calls to windows.

use weir_pipeline::batch::Batch;
use weir_pipeline::component::{Operator, OperatorError, Output, Tick};

use super::calls::{Call, Spans, rows};
use super::pairs::Pairs;
use super::state;
use crate::metered::Metered;

pub(super) struct ServiceGraph {
    pairs: Pairs,
    windows: Metered,
    wait: i64,
    waiting_max: usize,
}

impl ServiceGraph {
    pub(super) fn new(windows: Metered, wait: i64, waiting_max: usize) -> Self {
        Self { pairs: Pairs::new(wait, waiting_max), windows, wait, waiting_max }
    }

    /// Gives calls to the windows. Those that come too late for them are counted as dropped: they
    /// are no rows that anybody sent.
    fn count(&mut self, calls: &[Call], out: &mut Output) -> Result<(), OperatorError> {
        if calls.is_empty() {
            return Ok(());
        }
        let mut made = Output { now: out.now, ..Output::default() };
        self.windows.process(0, rows(calls)?, &mut made)?;
        let late: usize = made.emitted.iter().map(|(_, batch)| batch.num_rows()).sum();
        out.dropped += made.dropped + late as u64;
        made.rejected.into_iter().for_each(|(batch, errors)| out.reject(batch, errors));
        Ok(())
    }
}

impl Operator for ServiceGraph {
    fn process(
        &mut self,
        _input: usize,
        batch: Batch,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let spans = Spans::of(&batch)?;
        let mut calls = Vec::new();
        for row in 0..batch.num_rows() {
            if let Some(taken) = spans.take(row)
                && !self.pairs.take(taken, &mut calls)
            {
                out.dropped += 1;
            }
        }
        self.count(&calls, out)
    }

    fn tick(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        let mut calls = Vec::new();
        self.pairs.tick(tick.elapsed, &mut calls);
        self.count(&calls, out)?;
        self.windows.tick(tick, out)
    }

    fn watermark(&self, inputs: i64) -> i64 {
        self.windows.watermark(inputs)
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
        Ok(state::write(&self.pairs, &self.windows.snapshot()?))
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), OperatorError> {
        let bad = || OperatorError::new("malformed state of a service_graph operator");
        let mut pairs = Pairs::new(self.wait, self.waiting_max);
        let windows = state::read(state, &mut pairs).ok_or_else(bad)?;
        self.windows.restore(windows)?;
        self.pairs = pairs;
        Ok(())
    }

    fn flush(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        let mut calls = Vec::new();
        self.pairs.flush(&mut calls);
        self.count(&calls, out)?;
        self.windows.flush(tick, out)
    }
}
