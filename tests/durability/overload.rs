//! More load than it can carry: what is refused is told and counted, what is accepted is there, and
//! memory stays within its budget.
//!
//! `WEIR_OVERLOAD_SECONDS=N` goes on for that long (`make overload`, with the release binary), prints
//! figures, and holds all resident memory to the budget.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::load::{Ledger, ROWS, SOURCES, send_logs, send_samples};
use super::remote_write::{HEADERS, body};
use super::{numbers, pass};
use crate::harness::{DEADLINE, Reply, Server, request, wait};

const MIB: u64 = 1 << 20;
/// `server.memory` of a short run and of a long one.
const BUDGETS: (u64, u64) = (128 * MIB, 256 * MIB);
/// Senders of logs, and of samples; none waits before it sends again.
const SENDERS: (usize, usize) = (16, 4);
/// A short run ends when so many requests of each kind were taken and so many were refused.
const REQUESTS: usize = 100;
/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Requests, and series of each, that never come again.
const CHURN: (usize, i64) = (500, 1_000);
/// Numbers that are compared at a time.
const PART: i64 = 500_000;

/// Work that one core cannot do as fast as the senders send. Who is a second behind is overloaded.
const WORK: &str = r#"
[backlog]
max_lag = "1s"
[operators.heavy]
type = "vrl"
inputs = ["otlp.logs"]
source = """
.words = length(split(string!(.body), "0")) + length(split(upcase(string!(.body)), "0"))
"""
[sinks.rows_table]
type = "store"
inputs = ["heavy"]
table = "rows"
"#;

/// Samples are not refused for the logs' sake.
const SAMPLES: &str = r#"
[sinks.samples_table]
type = "store"
inputs = ["prometheus.metrics"]
table = "samples"
"#;

/// What became of the requests of some senders.
#[derive(Default)]
struct Tally {
    ledger: Ledger,
    /// By status and by what the answer says of the reason.
    refused: BTreeMap<(u16, &'static str), usize>,
    /// How long each answer took that took something in.
    taken: Vec<Duration>,
}

impl Tally {
    fn note(&mut self, first: i64, reply: &Reply, took: Duration) {
        match reply.status {
            200 | 204 => {
                self.ledger.acknowledge(first);
                self.taken.push(took);
            }
            429 | 503 => {
                let after = reply.headers.get("retry-after").and_then(|v| v.to_str().ok());
                let after = after.and_then(|s| s.parse::<u64>().ok());
                assert!(after.is_some_and(|s| s > 0), "no Retry-After: {reply:?}");
                *self.refused.entry((reply.status, reason(reply))).or_default() += 1;
            }
            other => panic!("{other}: {}", reply.text()),
        }
    }

    fn add(&mut self, other: Self) {
        self.ledger.add(other.ledger);
        for (why, count) in other.refused {
            *self.refused.entry(why).or_default() += count;
        }
        self.taken.extend(other.taken);
    }

    fn refused(&self) -> usize {
        self.refused.values().sum()
    }
}

/// What the answer names.
fn reason(reply: &Reply) -> &'static str {
    let text = reply.text();
    let known = ["cannot keep up", "backlog", "busy", "too many", "full"];
    known.into_iter().find(|k| text.contains(k)).unwrap_or_else(|| panic!("no reason: {text}"))
}

/// Senders that send until they are told to end.
#[derive(Default)]
struct Senders {
    end: Arc<AtomicBool>,
    taken: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Senders {
    fn start(count: usize, url: &str, send: fn(&str, i64) -> Reply) -> Self {
        let mut all = Self::default();
        let next = Arc::new(AtomicI64::new(0));
        for _ in 0..count {
            let (url, next, end) = (url.to_owned(), next.clone(), all.end.clone());
            let (taken, refused) = (all.taken.clone(), all.refused.clone());
            all.threads.push(std::thread::spawn(move || {
                let mut tally = Tally::default();
                while !end.load(Relaxed) {
                    let (first, start) = (next.fetch_add(ROWS, Relaxed), Instant::now());
                    let reply = send(&url, first);
                    tally.note(first, &reply, start.elapsed());
                    let counter = if reply.status < 300 { &taken } else { &refused };
                    counter.fetch_add(1, Relaxed);
                }
                tally
            }));
        }
        all
    }

    fn finish(self) -> Tally {
        self.end.store(true, Relaxed);
        let mut all = Tally::default();
        self.threads.into_iter().for_each(|t| all.add(t.join().expect("a sender")));
        all
    }
}

#[test]
fn what_is_refused_is_told_and_what_is_accepted_is_there() {
    let seconds = std::env::var("WEIR_OVERLOAD_SECONDS").ok().map(|s| s.parse::<u64>().unwrap());
    let budget = if seconds.is_some() { BUDGETS.1 } else { BUDGETS.0 };
    // The code of a debug binary alone takes more than others take in all.
    let memory = if seconds.is_some() { "VmHWM" } else { "RssAnon" };
    let settings = format!("[server]\nmemory = \"{}MiB\"\n", budget / MIB);
    let files = [("sources", SOURCES), ("work", WORK), ("samples", SAMPLES)];
    let server = Server::start(&files, Some(&settings));
    assert_eq!(server.status()["reload"]["ok"], true);
    let logs = format!("http://{}/v1/logs", server.address("otlp"));
    let samples = format!("http://{}/api/v1/write", server.address("prometheus"));
    let idle = server.resident(memory);
    let start = Instant::now();
    let logs = Senders::start(SENDERS.0, &logs, send_logs);
    let samples = Senders::start(SENDERS.1, &samples, send_samples);
    let enough = || match seconds {
        Some(seconds) => start.elapsed() >= Duration::from_secs(seconds),
        None => {
            let least = logs.taken.load(Relaxed).min(samples.taken.load(Relaxed));
            least.min(logs.refused.load(Relaxed)) >= REQUESTS
        }
    };
    let mut peak = idle;
    while !enough() {
        peak = peak.max(server.resident(memory));
        assert!(seconds.is_some() || start.elapsed() < DEADLINE, "nothing is taken and refused");
        std::thread::sleep(LOOK);
    }
    let took = start.elapsed();
    let (logs, samples) = (logs.finish(), samples.finish());
    eprintln!(
        "budget {} MiB; {memory} idle {} MiB, at most {} MiB",
        budget / MIB,
        idle / MIB,
        peak / MIB
    );
    print("logs", &logs, took);
    print("samples", &samples, took);
    assert_counted(&server, "otlp", logs.refused());
    assert_counted(&server, "prometheus", samples.refused());
    pass(&server);
    check(&server, &logs.ledger, "rows", "n");
    check(&server, &samples.ledger, "samples", "value");
    assert!(peak <= budget + budget / 10, "{} MiB are too many", peak / MIB);
}

fn print(what: &str, tally: &Tally, took: Duration) {
    let (taken, refused) = (tally.taken.len(), tally.refused());
    let mut times = tally.taken.clone();
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_millis();
    eprintln!(
        "{what}: {} requests in {} s, {:.1} times what was taken; {taken} taken ({} rows), answered \
         in {} ms (p50), {} ms (p99); refused {:?}",
        taken + refused,
        took.as_secs(),
        (taken + refused) as f64 / taken as f64,
        tally.ledger.acknowledged_rows(),
        at(50),
        at(99),
        tally.refused,
    );
}

/// Each request brings series that never come again: what is known of the earlier ones goes.
#[test]
fn series_that_never_come_again_are_forgotten() {
    let requests = std::env::var("WEIR_CHURN_REQUESTS").map_or(CHURN.0, |n| n.parse().unwrap());
    let settings = format!("[server]\nmemory = \"{}MiB\"\n", BUDGETS.1 / MIB);
    let server = Server::start(&[("sources", SOURCES), ("samples", SAMPLES)], Some(&settings));
    let url = format!("http://{}/api/v1/write", server.address("prometheus"));
    let (mut next, mut peak) = (0, 0);
    for _ in 0..requests {
        let samples: Vec<_> = (next..next + CHURN.1)
            .map(|n| (format!("web-5d8f7c9b6d-{n:016x}"), n as f64))
            .collect();
        let reply = request("POST", &url, &HEADERS, body("churn", "k8s.pod.name", &samples));
        if reply.status == 204 {
            next += CHURN.1;
        } else {
            assert!(matches!(reply.status, 429 | 503), "{}: {}", reply.status, reply.text());
            std::thread::sleep(LOOK);
        }
        peak = peak.max(server.resident("RssAnon"));
    }
    eprintln!("{next} series; RssAnon at most {} MiB of {}", peak / MIB, BUDGETS.1 / MIB);
    pass(&server);
    let counted = || numbers(&server, "SELECT count(*) AS n FROM samples")[0];
    // Some batches wait in front of the sink.
    wait("the samples in their table", || (counted() >= next).then_some(()));
    assert_eq!(counted(), next);
    assert!(peak <= BUDGETS.1 + BUDGETS.1 / 10, "{} MiB are too many", peak / MIB);
}

/// Each refusal is counted by reason.
fn assert_counted(server: &Server, source: &str, refused: usize) {
    let metrics = server.get("/metrics").text();
    let counted: usize = metrics
        .lines()
        .filter(|l| l.starts_with("weir_component_rejected_total{"))
        .filter(|l| l.contains(&format!("\"{source}\"")))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<usize>().ok())
        .sum();
    assert!(counted >= refused, "{counted} counted of {refused} refused");
}

/// Compares part by part: neither side holds all of them at once.
fn check(server: &Server, ledger: &Ledger, table: &str, number: &str) {
    for from in (0..ledger.end()).step_by(PART as usize) {
        let to = from + PART;
        let sql = format!(
            "SELECT {number} AS n FROM {table} WHERE {number} >= {from} AND {number} < {to}"
        );
        ledger.part(from..to).check(table, numbers(server, &sql));
    }
}
