//! Who is let in: memory for what is on its way, and sources that take nothing for a while.
//!
//! Every request holds tickets for its bytes, first as received, then as decoded, until it is in
//! the journal; there are as many as a share of `server.memory`. What does not get one is answered
//! 429. A few requests are decoded at a time, since more would only need more memory. Where a consumer
//! is too far behind, the runtime shuts the gate for its sources.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Tickets are given out in units of so many bytes.
const UNIT: usize = 1 << 10;
/// Bytes on their way, where nothing else is said.
const IN_FLIGHT_BYTES: usize = 256 << 20;
/// Requests that are decoded at a time, per core.
const DECODING: usize = 2;
/// What decoding takes for a moment, in bytes for each byte as received: plain, and compressed. No
/// more than all that may be on its way, so that large requests are decoded one after the other.
const EXPANSION: (usize, usize) = (8, 32);

/// Why a source takes nothing now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}; retry after {} s", retry_after.as_secs())]
pub struct Held {
    /// As the metric names it: `backlog`, `lag`.
    pub reason: &'static str,
    /// Who is behind, and by how much.
    pub why: Arc<str>,
    /// Whether the load is too high (answered 429), or there is no room (503).
    pub overload: bool,
    /// When to try again.
    pub retry_after: Duration,
}

/// What all sources go through. The runtime sets it, the way in looks at it.
#[derive(Debug)]
pub struct Gate {
    /// Sources that take nothing.
    held: RwLock<HashMap<Arc<str>, Held>>,
    /// Of bytes as received, and as decoded: two, so that who has the one gets the other.
    received: Arc<Semaphore>,
    decoded: Arc<Semaphore>,
    units: u32,
    decoding: Semaphore,
    /// Memory for it.
    expanding: Semaphore,
}

/// Bytes on their way. Dropping it gives them back.
#[derive(Debug)]
pub struct Tickets {
    units: OwnedSemaphorePermit,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new(IN_FLIGHT_BYTES)
    }
}

impl Gate {
    /// Lets `bytes` be on their way at a time, as received, and as many as decoded.
    pub fn new(bytes: usize) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            held: RwLock::default(),
            received: Arc::new(Semaphore::new(units as usize)),
            decoded: Arc::new(Semaphore::new(units as usize)),
            units,
            decoding: Semaphore::new(cores * DECODING),
            expanding: Semaphore::new(units as usize),
        }
    }

    /// Whether `source` may take data.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, source: &str) -> Result<(), Held> {
        self.held.read().get(source).map_or(Ok(()), |held| Err(held.clone()))
    }

    /// Makes `tickets` enough for so many bytes as received; false if others hold too many. One
    /// request always fits, however large, if it is the only one.
    pub fn received(&self, tickets: &mut Option<Tickets>, bytes: usize) -> bool {
        let held = tickets.as_ref().map_or(0, |t| t.units.num_permits());
        let more = self.units(bytes).saturating_sub(u32::try_from(held).unwrap_or(u32::MAX));
        let Ok(units) = self.received.clone().try_acquire_many_owned(more) else { return false };
        match tickets {
            Some(tickets) => tickets.units.merge(units),
            None => *tickets = Some(Tickets { units }),
        }
        true
    }

    /// Tickets for so many bytes as decoded, in the order of those who ask: a large request waits
    /// for others to go, and none that comes later goes ahead of it.
    pub(crate) async fn decoded(&self, bytes: usize) -> Option<Tickets> {
        let units = self.decoded.clone().acquire_many_owned(self.units(bytes)).await.ok()?;
        Some(Tickets { units })
    }

    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.units)
    }

    /// A place among those that are decoded, for a request of so many bytes.
    pub(crate) async fn decoding(
        &self,
        bytes: usize,
        compressed: bool,
    ) -> Option<(SemaphorePermit<'_>, SemaphorePermit<'_>)> {
        let factor = if compressed { EXPANSION.1 } else { EXPANSION.0 };
        let memory = self.units(bytes.saturating_mul(factor));
        let memory = self.expanding.acquire_many(memory).await.ok()?;
        Some((self.decoding.acquire().await.ok()?, memory))
    }

    /// Those that take nothing, by name.
    pub(crate) fn held(&self) -> Vec<(Arc<str>, Held)> {
        let mut all: Vec<_> =
            self.held.read().iter().map(|(s, h)| (s.clone(), h.clone())).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// From now on exactly these sources take nothing.
    pub(crate) fn hold(&self, held: HashMap<Arc<str>, Held>) {
        if *self.held.read() != held {
            *self.held.write() = held;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn large_requests_are_decoded_one_after_the_other() {
        let gate = Gate::new(64 * UNIT);
        let begin = |bytes, compressed| gate.decoding(bytes, compressed).now_or_never().flatten();
        let plain = begin(4 * UNIT, false);
        assert!(plain.is_some());
        assert!(begin(4 * UNIT, false).is_some(), "half of the memory each");
        assert!(begin(4 * UNIT, true).is_none(), "compressed it needs all");
        drop(plain);
        let all = begin(1_000 * UNIT, true);
        assert!(all.is_some(), "larger than all there is");
        assert!(begin(1, false).is_none());
        drop(all);
        assert!(begin(1, false).is_some());
    }

    #[tokio::test]
    async fn tickets_come_back_and_one_always_fits() {
        let gate = Gate::new(10 * UNIT);
        let take = |bytes| {
            let mut tickets = None;
            gate.received(&mut tickets, bytes).then_some(tickets)
        };
        let first = take(6 * UNIT);
        assert!(first.is_some());
        assert!(take(5 * UNIT).is_none());
        assert!(take(4 * UNIT).is_some());
        drop(first);
        let mut whole = None;
        for bytes in [UNIT, 9 * UNIT, 11 * UNIT, 100 * UNIT] {
            assert!(gate.received(&mut whole, bytes), "larger than all there is: {bytes}");
        }
        assert!(gate.decoded(100 * UNIT).await.is_some(), "and it can be decoded");
    }
}
