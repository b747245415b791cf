//! What became of what was sent.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

/// Buckets of one doubling of time: times are told apart by about 3 %.
const STEPS: u64 = 32;
/// From a microsecond to over an hour.
const BUCKETS: usize = 1_024;

/// Counts of one connection, or of all.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Ledger {
    /// Acknowledged.
    pub(super) rows: u64,
    pub(super) requests: u64,
    pub(super) bytes: u64,
    /// Rows of requests that were sent and never answered: they may be there.
    pub(super) unknown: u64,
    /// Requests refused for now, by status; they were sent again.
    pub(super) refused: BTreeMap<u16, u64>,
    /// Time from the first byte sent to the answer, by bucket.
    times: Vec<u64>,
}

impl Ledger {
    /// A request was acknowledged after `time`.
    pub(super) fn acknowledge(&mut self, rows: u64, bytes: usize, time: Duration) {
        self.rows += rows;
        self.requests += 1;
        self.bytes += bytes as u64;
        self.times.resize(BUCKETS, 0);
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.times[bucket(us)] += 1;
    }

    pub(super) fn refuse(&mut self, status: u16) {
        *self.refused.entry(status).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.unknown += other.unknown;
        for (status, n) in &other.refused {
            *self.refused.entry(*status).or_default() += n;
        }
        self.times.resize(BUCKETS, 0);
        for (all, n) in self.times.iter_mut().zip(&other.times) {
            *all += n;
        }
    }

    /// Whether a table with `n` rows of the run has what was acknowledged and nothing double.
    pub(super) fn admits(&self, n: u64) -> bool {
        (self.rows..=self.rows + self.unknown).contains(&n)
    }

    /// Time within which this part of all requests was answered, milliseconds.
    fn quantile(&self, part: f64) -> f64 {
        let all: u64 = self.times.iter().sum();
        let wanted = (part * all as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let at = self.times.iter().position(|n| {
            seen += n;
            seen >= wanted
        });
        at.map_or(0.0, |at| upper_us(at) as f64 / 1e3)
    }

    pub(super) fn json(&self, took: Duration) -> Value {
        json!({
            "seconds": took.as_secs_f64(),
            "rows": self.rows,
            "requests": self.requests,
            "rows_per_second": self.rows as f64 / took.as_secs_f64(),
            "bytes": self.bytes,
            "unknown_rows": self.unknown,
            "refused": self.refused,
            "answered_ms": {
                "p50": self.quantile(0.5), "p99": self.quantile(0.99), "max": self.quantile(1.0),
            },
        })
    }

    pub(super) fn text(&self, took: Duration) -> String {
        let seconds = took.as_secs_f64();
        let mut text = format!(
            "acknowledged  {} rows in {} requests, {seconds:.1} s: {:.0} rows/s, {:.0} requests/s\n",
            self.rows,
            self.requests,
            self.rows as f64 / seconds,
            self.requests as f64 / seconds,
        );
        let _ = writeln!(
            text,
            "  answered    p50 {:.2} ms, p99 {:.2} ms, at most {:.1} ms",
            self.quantile(0.5),
            self.quantile(0.99),
            self.quantile(1.0),
        );
        let bytes = self.bytes as f64 / self.rows.max(1) as f64;
        let _ = writeln!(text, "  sent        {bytes:.1} bytes a row");
        for (status, n) in &self.refused {
            let _ = writeln!(text, "  refused     {n} requests with {status}, sent again");
        }
        if self.unknown > 0 {
            let _ = writeln!(text, "  unanswered  {} rows: they may be there", self.unknown);
        }
        text.pop();
        text
    }
}

/// Linear up to `STEPS` microseconds, then so many steps for each doubling.
fn bucket(us: u64) -> usize {
    if us < STEPS {
        return us as usize;
    }
    let doublings = u64::from(us.ilog2() - STEPS.ilog2());
    let step = (us >> doublings) - STEPS;
    ((STEPS * (doublings + 1) + step) as usize).min(BUCKETS - 1)
}

/// The longest time in a bucket, microseconds.
fn upper_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let (doublings, step) = (bucket / STEPS - 1, bucket % STEPS);
    ((STEPS + step + 1) << doublings) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_apart_by_three_percent() {
        for us in (0..100_000).chain([1 << 20, 3_000_000, 3_600_000_000]) {
            let upper = upper_us(bucket(us));
            assert!(upper >= us && upper <= us + us / 32, "{us} {upper}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_and_sums() {
        let mut all = Ledger::default();
        for ms in 1..=100 {
            let mut one = Ledger::default();
            one.acknowledge(10, 100, Duration::from_millis(ms));
            all.add(&one);
        }
        all.refuse(429);
        all.unknown = 10;
        assert!((50.0..52.0).contains(&all.quantile(0.5)), "{}", all.quantile(0.5));
        assert!((99.0..102.5).contains(&all.quantile(0.99)));
        assert!(all.admits(1_000) && all.admits(1_010) && !all.admits(999) && !all.admits(1_011));
        let text = all.text(Duration::from_secs(2));
        assert!(
            text.starts_with("acknowledged  1000 rows in 100 requests, 2.0 s: 500 rows/s, 50 ")
        );
        assert!(
            text.contains("10.0 bytes a row") && text.contains("1 requests with 429"),
            "{text}"
        );
    }
}
