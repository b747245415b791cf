//! Ticks: the only time that pipelines know. One every 200 ms while entries flow, every second
//! otherwise; marks are ticks appended at once.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::intake::now;
use crate::journal::{AppendError, Journal, NewEntry, Stamp, TickClock};

/// Between ticks while entries flow: what a window or an alert may be late by.
const BUSY: Duration = Duration::from_millis(200);
/// Between ticks when nothing else is in the journal.
const IDLE: Duration = Duration::from_secs(1);

/// Makes ticks and marks.
pub(super) struct Ticker {
    journal: Journal,
    started: Instant,
    clock: Mutex<TickClock>,
}

impl Ticker {
    /// A ticker whose running time goes on from what the journal last said.
    pub(super) fn new(journal: Journal) -> Self {
        let clock = Mutex::new(TickClock::new(journal.last_stamp()));
        Self { journal, started: Instant::now(), clock }
    }

    fn stamp(&self) -> Stamp {
        self.clock.lock().next(now(), self.started.elapsed())
    }

    /// Appends a mark that carries `id` and gives its offset.
    ///
    /// # Errors
    /// If the journal cannot take it.
    pub(super) async fn mark(&self, id: u64) -> Result<u64, AppendError> {
        self.journal.append(NewEntry::mark(self.stamp(), &id.to_string())).await
    }

    /// Ticks until `stop`.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let mut head = self.journal.head();
        let mut since_tick = IDLE;
        let mut pulse = tokio::time::interval(BUSY);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(pulse.tick()).await.is_some() {
            since_tick += BUSY;
            if self.journal.head() == head && since_tick < IDLE {
                continue;
            }
            match self.journal.append(NewEntry::tick(self.stamp())).await {
                Ok(offset) => head = offset,
                Err(error) => tracing::warn!(%error, "no tick"),
            }
            since_tick = Duration::ZERO;
        }
    }
}
