//! Ticks: the only time that pipelines know. One every 200 ms while entries flow, every second
//! otherwise; marks are ticks appended at once.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::intake::now;
use crate::journal::{AppendError, Journal, NewEntry, Stamp, TickClock};

/// Between ticks while entries flow: what a window or an alert may be late by.
const BUSY: Duration = Duration::from_millis(200);
/// Between ticks when nothing else is in the journal.
const IDLE: Duration = Duration::from_secs(1);
/// Between ticks while the journal is full: they live on its reserve, which lasts for days then.
const FULL: Duration = Duration::from_secs(10);

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

    /// Stamps and appends. One at a time, so that stamps are in the journal in their order.
    async fn append(&self, entry: impl FnOnce(Stamp) -> NewEntry) -> Result<u64, AppendError> {
        let mut clock = self.clock.lock().await;
        // What the journal did not take, a step of the clock perhaps, the next one says.
        let mut next = clock.clone();
        let stamp = next.next(now(), self.started.elapsed());
        let offset = self.journal.append(entry(stamp)).await?;
        *clock = next;
        Ok(offset)
    }

    /// Whether the clock was set since the last tick: requests may wait for the next.
    async fn was_set(&self) -> bool {
        self.clock.lock().await.was_set(now(), self.started.elapsed())
    }

    /// Appends a mark that carries `id` and gives its offset.
    ///
    /// # Errors
    /// If the journal cannot take it.
    pub(super) async fn mark(&self, id: u64) -> Result<u64, AppendError> {
        self.append(|stamp| NewEntry::mark(stamp, &id.to_string())).await
    }

    /// Ticks until `stop`.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let mut head = self.journal.head();
        let mut since_tick = IDLE;
        // A disk that refuses is told once, not five times a second.
        let mut failing = false;
        let mut pulse = tokio::time::interval(BUSY);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(pulse.tick()).await.is_some() {
            since_tick += BUSY;
            let every = if self.journal.is_full() { FULL } else { IDLE };
            let idle = self.journal.head() == head || every == FULL;
            if idle && since_tick < every && !self.was_set().await {
                continue;
            }
            match self.append(NewEntry::tick).await {
                Ok(offset) => (head, failing) = (offset, false),
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "no tick; still trying");
                    }
                }
            }
            since_tick = Duration::ZERO;
        }
    }
}
