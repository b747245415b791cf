//! What `server.memory` is divided into, and the rows that count against their part of it.
//!
//! Rows that are processed stay in memory until a committed file holds them, and no query any more.
//! They are counted per sink, against one limit for all: from half of it on the pipelines of those
//! that hold most save early, and at the limit they save before they read on. What waits then waits
//! in the journal, on disk.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::entity::Current;

/// What the program itself takes: code, stacks, what is not worth counting. Bytes.
const OWN_BYTES: u64 = 96 << 20;
/// Smallest part, so that the largest batch still gets through however small the whole is.
const PART_BYTES_MIN: u64 = 4 << 20;
/// Rows in memory, where nothing else is said, bytes.
const ROWS_BYTES: usize = 256 << 20;
/// Entities of rows to come, where nothing else is said, bytes.
const ENTITIES_BYTES: usize = 16 << 20;

/// The parts of `server.memory`, bytes: sixteenths of what the program itself leaves, at least of a
/// quarter of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// What queries gather; past it they spill to disk. 3/16.
    pub queries: usize,
    /// What the store keeps of files. 1/16.
    pub caches: usize,
    /// Requests on their way, as received, and as much again as decoded. 1/16 each.
    pub requests: usize,
    /// Entries of the journal for pipelines that keep up. 1/16.
    pub journal: usize,
    /// Entities that new rows may refer to: attributes of series, resources and scopes. 3/16.
    pub entities: usize,
    /// Rows in no committed file, with the entities that came with them; for a moment there may be
    /// half as many more. 3/16.
    pub rows: usize,
    /// One merge at a time. 2/16; flushes take half as much, the last sixteenth.
    pub upkeep: usize,
}

impl Parts {
    /// Divides `memory` bytes.
    pub fn of(memory: u64) -> Self {
        let left = memory.saturating_sub(OWN_BYTES).max(memory / 4);
        let part = |sixteenths: u64| {
            let bytes = (left / 16 * sixteenths).max(PART_BYTES_MIN);
            usize::try_from(bytes).unwrap_or(usize::MAX)
        };
        Self {
            queries: part(3),
            caches: part(1),
            requests: part(1),
            journal: part(1),
            entities: part(3),
            rows: part(3),
            upkeep: part(2),
        }
    }
}

/// Pipeline and sink.
type Of = (Arc<str>, Arc<str>);

/// Rows in memory, of all sinks.
#[derive(Debug)]
pub struct Rows {
    limit: usize,
    total: AtomicUsize,
    accounts: Mutex<BTreeMap<Of, Arc<Account>>>,
}

/// The rows of one sink.
#[derive(Debug)]
pub struct Account {
    rows: Arc<Rows>,
    bytes: AtomicUsize,
}

/// Rows that are in memory. Dropping it takes them off the account.
#[derive(Debug)]
pub struct Charge {
    account: Arc<Account>,
    bytes: usize,
}

/// The entity tables that new rows refer to, of all sources.
#[derive(Debug)]
pub struct Entities {
    limit: usize,
    bytes: AtomicUsize,
    spaces: Mutex<Vec<Weak<Current>>>,
}

/// What a pipeline has to do for the rows that its sinks hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Nothing.
    None,
    /// Save soon.
    Save,
    /// Save before it reads on.
    Wait,
}

impl Default for Entities {
    fn default() -> Self {
        Self { limit: ENTITIES_BYTES, bytes: AtomicUsize::new(0), spaces: Mutex::default() }
    }
}

impl Entities {
    /// Lets current tables take `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, ..Self::default() })
    }

    /// What current tables take, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// One more source has a table.
    pub(crate) fn join(&self, current: &Arc<Current>) {
        let mut spaces = self.spaces.lock();
        spaces.retain(|space| space.strong_count() > 0);
        spaces.push(Arc::downgrade(current));
    }

    /// A table that counted with `before` bytes counts with `now`.
    pub(crate) fn change(&self, before: usize, now: usize) {
        move_by(&self.bytes, before, now);
    }

    /// Where all tables take too much, renews the largest, whoever asks.
    pub(crate) fn keep(&self) {
        if self.bytes() < self.limit {
            return;
        }
        let spaces = self.spaces.lock();
        let spaces: Vec<_> = spaces.iter().filter_map(Weak::upgrade).collect();
        if self.bytes() >= self.limit
            && let Some(largest) = spaces.iter().max_by_key(|space| space.counted())
        {
            largest.renew(self);
        }
    }
}

impl Default for Rows {
    fn default() -> Self {
        Self { limit: ROWS_BYTES, total: AtomicUsize::new(0), accounts: Mutex::default() }
    }
}

impl Rows {
    /// Lets rows of `limit` bytes be in memory.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, ..Self::default() })
    }

    /// How many bytes of rows may be in memory.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The account of a sink.
    pub fn account(self: &Arc<Self>, pipeline: &Arc<str>, sink: &Arc<str>) -> Arc<Account> {
        let mut accounts = self.accounts.lock();
        let of = (pipeline.clone(), sink.clone());
        if let Some(account) = accounts.get(&of) {
            return account.clone();
        }
        // Of sinks that are gone.
        accounts.retain(|_, a| Arc::strong_count(a) > 1);
        let account = Arc::new(Account { rows: self.clone(), bytes: AtomicUsize::new(0) });
        accounts.insert(of, account.clone());
        account
    }

    /// Bytes of rows in memory, by pipeline and sink.
    pub fn held(&self) -> Vec<(Arc<str>, Arc<str>, usize)> {
        let accounts = self.accounts.lock();
        let held = accounts.iter();
        held.map(|((p, s), a)| (p.clone(), s.clone(), a.bytes.load(Relaxed))).collect()
    }

    /// What a pipeline with these sinks has to do: nothing, as long as each holds less than an even
    /// share.
    pub fn pressure<'a>(
        &self,
        pipeline: &Arc<str>,
        sinks: impl Iterator<Item = &'a Arc<str>>,
    ) -> Pressure {
        let total = self.total.load(Relaxed);
        if total < self.limit / 2 {
            return Pressure::None;
        }
        let accounts = self.accounts.lock();
        let held = |a: &Account| a.bytes.load(Relaxed);
        let holders = accounts.values().filter(|a| held(a) > 0).count().max(1);
        let share = self.limit / 2 / holders;
        let mut own = sinks.filter_map(|sink| accounts.get(&(pipeline.clone(), sink.clone())));
        if !own.any(|a| held(a) >= share) {
            Pressure::None
        } else if total < self.limit {
            Pressure::Save
        } else {
            Pressure::Wait
        }
    }
}

impl Account {
    /// Counts rows of `bytes` bytes.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        let mut charge = Charge { account: self.clone(), bytes: 0 };
        charge.resize(bytes);
        charge
    }

    /// How many bytes of rows all sinks may have in memory.
    pub fn limit(&self) -> usize {
        self.rows.limit
    }
}

impl Charge {
    /// Counts rows of `bytes` bytes for the same sink.
    pub fn another(&self, bytes: usize) -> Self {
        self.account.charge(bytes)
    }

    /// The rows take so many bytes now.
    pub fn resize(&mut self, bytes: usize) {
        for counter in [&self.account.bytes, &self.account.rows.total] {
            move_by(counter, self.bytes, bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.resize(0);
    }
}

fn move_by(counter: &AtomicUsize, before: usize, now: usize) {
    if now >= before {
        counter.fetch_add(now - before, Relaxed);
    } else {
        counter.fetch_sub(before - now, Relaxed);
    }
}

/// Resident memory of this process, bytes; `None` where the system does not tell.
pub fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_not_more_than_the_whole() {
        let whole = 1 << 30;
        let Parts { queries, caches, requests, journal, entities, rows, upkeep } = Parts::of(whole);
        let all = queries + caches + 2 * requests + journal + entities + rows + upkeep;
        assert_eq!(all as u64, (whole - OWN_BYTES) / 16 * 15);
        assert!(Parts::of(128 << 20).rows < 16 << 20);
        assert_eq!(Parts::of(0).rows as u64, PART_BYTES_MIN);
    }

    #[test]
    fn who_holds_most_saves_and_then_waits() {
        let rows = Rows::new(1_000);
        let [p, a, b, c]: [Arc<str>; 4] = ["p", "a", "b", "c"].map(Into::into);
        let (of_a, of_b) = (rows.account(&p, &a), rows.account(&p, &b));
        let pressure = |sink: &Arc<str>| rows.pressure(&p, [sink].into_iter());
        let mut most = of_a.charge(499);
        assert_eq!(pressure(&a), Pressure::None);
        let _little = of_b.charge(200);
        assert_eq!((pressure(&a), pressure(&b)), (Pressure::Save, Pressure::None));
        most.resize(800);
        assert_eq!((pressure(&a), pressure(&b)), (Pressure::Wait, Pressure::None));
        assert_eq!(rows.pressure(&p, [&b, &a].into_iter()), Pressure::Wait, "as each of its sinks");
        assert_eq!(pressure(&c), Pressure::None, "it holds nothing");
        drop(most);
        assert_eq!(rows.held(), [(p.clone(), a.clone(), 0), (p.clone(), b.clone(), 200)]);
        drop(of_a);
        drop(rows.account(&p, &c));
        assert_eq!(rows.held().len(), 2, "who is gone and holds nothing is forgotten");
    }
}
