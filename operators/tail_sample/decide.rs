//! Why a trace is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::codec::{get_text, get_u64, put, put_u64};

/// What `rare` counts in, nanoseconds of running.
pub(super) const HOUR: i64 = 3_600_000_000_000;

/// Operations, and services, that are known: beyond them nothing is rare, and no rate is kept.
const NAMES_MAX: usize = 10_000;

/// Reasons, by their number.
pub(super) const REASONS: [&str; 5] = ["error", "slow", "rare", "rate", "share"];

/// What is asked of a trace.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    errors: bool,
    slow: Option<i64>,
    rare: u64,
    /// Between two traces of a service, nanoseconds.
    gap: Option<i64>,
    /// Hashes up to here are kept.
    share: u64,
    /// 1 has no hash above it.
    all: bool,
}

impl Rules {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(super) fn new(
        errors: bool,
        slow: Option<i64>,
        rare: u64,
        rate: Option<f64>,
        share: f64,
    ) -> Self {
        let gap = rate.map(|rate| (1e9 / rate) as i64);
        let all = share >= 1.0;
        Self { errors, slow, rare, gap, share: (share * u64::MAX as f64) as u64, all }
    }
}

/// What is known of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trace {
    pub(super) error: bool,
    pub(super) slowest: i64,
    /// Whether service and operation are those of a span without a parent.
    pub(super) rooted: bool,
    pub(super) service: Arc<str>,
    pub(super) operation: Arc<str>,
}

/// What was kept so far.
#[derive(Debug, Default)]
pub(super) struct Kept {
    hour: i64,
    /// Traces of each service and operation in this hour.
    operations: BTreeMap<(Arc<str>, Arc<str>), u64>,
    /// When the next trace of each service may be kept, elapsed time.
    services: BTreeMap<Arc<str>, i64>,
}

impl Kept {
    /// The number of the reason for which a trace is kept, if it is.
    pub(super) fn decide(
        &mut self,
        rules: &Rules,
        id: &str,
        trace: &Trace,
        elapsed: i64,
    ) -> Option<u8> {
        // All that count are counted, whatever they are kept for.
        let rare = self.is_rare(rules, trace, elapsed);
        if rules.errors && trace.error {
            return Some(0);
        }
        if rules.slow.is_some_and(|slow| trace.slowest >= slow) {
            return Some(1);
        }
        if rare {
            return Some(2);
        }
        if rules.gap.is_some_and(|gap| self.is_due(gap, &trace.service, elapsed)) {
            return Some(3);
        }
        let chance = rules.all || (rules.share > 0 && xxh3_64(id.as_bytes()) <= rules.share);
        chance.then_some(4)
    }

    fn is_rare(&mut self, rules: &Rules, trace: &Trace, elapsed: i64) -> bool {
        if rules.rare == 0 {
            return false;
        }
        let hour = elapsed.div_euclid(HOUR);
        if hour != self.hour {
            self.hour = hour;
            self.operations.clear();
        }
        let name = (trace.service.clone(), trace.operation.clone());
        if !self.operations.contains_key(&name) && self.operations.len() >= NAMES_MAX {
            return false;
        }
        let seen = self.operations.entry(name).or_default();
        *seen = seen.saturating_add(1);
        *seen <= rules.rare
    }

    /// Traces may come together: what a service did not use of a second it may use at once.
    fn is_due(&mut self, gap: i64, service: &Arc<str>, elapsed: i64) -> bool {
        const SECOND: i64 = 1_000_000_000;
        if !self.services.contains_key(service) && self.services.len() >= NAMES_MAX {
            return false;
        }
        let least = elapsed.saturating_sub(SECOND).saturating_add(gap.min(SECOND));
        let next = self.services.entry(service.clone()).or_insert(least);
        *next = (*next).max(least);
        if *next > elapsed {
            return false;
        }
        *next = next.saturating_add(gap);
        true
    }

    pub(super) fn save(&self, out: &mut Vec<u8>) {
        put_u64(out, self.hour.cast_unsigned());
        put_u64(out, self.operations.len() as u64);
        for ((service, operation), seen) in &self.operations {
            put(out, service.as_bytes());
            put(out, operation.as_bytes());
            put_u64(out, *seen);
        }
        put_u64(out, self.services.len() as u64);
        for (service, next) in &self.services {
            put(out, service.as_bytes());
            put_u64(out, next.cast_unsigned());
        }
    }

    /// The inverse of [`Kept::save`].
    pub(super) fn load(bytes: &mut &[u8]) -> Option<Self> {
        let mut kept = Self { hour: get_u64(bytes)?.cast_signed(), ..Self::default() };
        for _ in 0..get_u64(bytes)? {
            let name = (get_text(bytes)?.into(), get_text(bytes)?.into());
            kept.operations.insert(name, get_u64(bytes)?);
        }
        for _ in 0..get_u64(bytes)? {
            kept.services.insert(get_text(bytes)?.into(), get_u64(bytes)?.cast_signed());
        }
        Some(kept)
    }
}
