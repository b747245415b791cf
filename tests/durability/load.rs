//! Steady load with a ledger of what was acknowledged.

mod send;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::{Grpc, Reply, Server};
pub(crate) use send::{nanoseconds, send_logs};
pub(super) use send::{send_logs_at, send_samples};
use send::{send_logs_grpc, send_points, send_spans};

/// Rows of one request.
pub(super) const ROWS: i64 = 50;
/// Between two requests of one sender.
const PAUSE: Duration = Duration::from_millis(4);

/// Three ways in, in a file of its own; three addresses, since sockets are kept by address.
pub(crate) const SOURCES: &str = r#"
[sources.otlp]
type = "otlp"
http = "127.0.0.1:0"

[sources.prometheus]
type = "prometheus_remote_write"
listen = "127.0.0.2:0"

[sources.syslog]
type = "syslog"
listen = "127.0.0.3:0"
protocol = "tcp"
"#;

/// Requests by the first of their [`ROWS`] numbers, and what became of them.
#[derive(Default)]
pub(super) struct Ledger {
    acknowledged: BTreeSet<i64>,
    /// Sent, and no answer came: kept or not, but whole and once.
    unknown: BTreeSet<i64>,
}

impl Ledger {
    /// Rows that have to be there.
    pub(super) fn acknowledged_rows(&self) -> usize {
        self.acknowledged.len() * usize::try_from(ROWS).unwrap()
    }

    /// Notes a request that was acknowledged.
    pub(super) fn acknowledge(&mut self, first: i64) {
        self.acknowledged.insert(first);
    }

    /// The requests that were sent, acknowledged or not.
    pub(super) fn requests(&self) -> impl Iterator<Item = i64> {
        self.acknowledged.union(&self.unknown).copied()
    }

    /// Takes in what another one wrote.
    pub(super) fn add(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.unknown.extend(other.unknown);
    }

    /// What it says of the numbers in `range`, which holds whole requests.
    pub(super) fn part(&self, range: Range<i64>) -> Self {
        let of = |all: &BTreeSet<i64>| all.range(range.clone()).copied().collect();
        Self { acknowledged: of(&self.acknowledged), unknown: of(&self.unknown) }
    }

    /// The first number behind all that were sent.
    pub(super) fn end(&self) -> i64 {
        let last = self.acknowledged.last().max(self.unknown.last());
        last.map_or(0, |first| first + ROWS)
    }

    /// As [`Ledger::check`], where rows may be missing.
    pub(super) fn check_some(&self, what: &str, found: impl IntoIterator<Item = i64>) {
        let found: Vec<i64> = found.into_iter().collect();
        let there: BTreeSet<i64> = found.iter().map(|n| n - n.rem_euclid(ROWS)).collect();
        let all = there.iter().flat_map(|first| *first..first + ROWS);
        let some = Self { acknowledged: &self.acknowledged & &there, ..Self::default() };
        let missing: BTreeSet<i64> = all.filter(|n| !found.contains(n)).collect();
        some.check(what, found.into_iter().chain(missing));
    }

    /// What was acknowledged and is not there.
    pub(super) fn lost(&self, there: impl Fn(i64) -> bool) -> Vec<i64> {
        let all = self.acknowledged.iter().flat_map(|first| *first..first + ROWS);
        all.filter(|n| !there(*n)).collect()
    }

    /// Compares with the numbers found in a table.
    pub(super) fn check(&self, what: &str, found: impl IntoIterator<Item = i64>) {
        let mut times: BTreeMap<i64, u32> = BTreeMap::new();
        for n in found {
            *times.entry(n).or_default() += 1;
        }
        let twice: Vec<_> = times.iter().filter(|(_, c)| **c > 1).take(10).collect();
        assert!(twice.is_empty(), "{what}: rows that are there more than once: {twice:?}");
        let lost = self.lost(|n| times.contains_key(&n));
        let some = &lost[..lost.len().min(10)];
        assert!(lost.is_empty(), "{what}: {} acknowledged rows are lost: {some:?}", lost.len());
        for first in &self.unknown {
            let there = (*first..first + ROWS).filter(|n| times.contains_key(n)).count();
            let whole = there == 0 || there == usize::try_from(ROWS).unwrap();
            assert!(whole, "{what}: {there} of {ROWS} rows of the request at {first}");
        }
        let sent = |n: i64| {
            let first = n - n.rem_euclid(ROWS);
            self.acknowledged.contains(&first) || self.unknown.contains(&first)
        };
        let foreign: Vec<_> = times.keys().filter(|n| !sent(**n)).take(10).collect();
        assert!(foreign.is_empty(), "{what}: rows that nobody sent: {foreign:?}");
    }
}

/// What a sender does when a request is not acknowledged.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum OnFailure {
    /// The test fails.
    Panic,
    /// It stops: the server was killed.
    Stop,
    /// It goes on with the next request. Nothing of one that is refused may be kept, and the
    /// answer says why and when to come again.
    GoOn,
}

/// Where the server takes what.
pub(super) struct Addresses {
    pub(super) otlp: String,
    pub(super) prometheus: String,
    pub(super) syslog: String,
}

impl Addresses {
    /// `None` if the server is gone.
    pub(super) fn of(server: &Server) -> Option<Self> {
        let reply = server.get("/api/v1/status");
        if reply.status != 200 {
            return None;
        }
        let status = reply.json();
        let address = |id: &str| {
            let source = status["sources"].as_array().unwrap().iter().find(|s| s["id"] == id);
            let listens = source.expect("no such source")["listens"][0].as_str().unwrap();
            listens.split('/').next().unwrap().to_owned()
        };
        let (otlp, prometheus) = (address("otlp"), address("prometheus"));
        Some(Self { otlp, prometheus, syslog: address("syslog") })
    }
}

/// What was acknowledged of each kind.
#[derive(Default)]
pub(super) struct Ledgers {
    pub(super) logs: Ledger,
    pub(super) samples: Ledger,
    pub(super) spans: Ledger,
    pub(super) points: Ledger,
}

impl Ledgers {
    /// Takes in what others wrote.
    pub(super) fn add(&mut self, other: Self) {
        self.logs.add(other.logs);
        self.samples.add(other.samples);
        self.spans.add(other.spans);
        self.points.add(other.points);
    }

    /// Rows that have to be there.
    pub(super) fn acknowledged_rows(&self) -> usize {
        let all = [&self.logs, &self.samples, &self.spans, &self.points];
        all.map(Ledger::acknowledged_rows).iter().sum()
    }
}

/// One request that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// What it was sent as.
    pub(super) way: &'static str,
    /// [`Load::phase`] when it was sent and when it was answered.
    pub(super) phases: [usize; 2],
    pub(super) took: Duration,
}

/// Senders at work.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    next: Arc<AtomicI64>,
    failure: OnFailure,
    pause: Duration,
    /// What the test is doing, for [`Answer::phases`].
    pub(super) phase: Arc<AtomicUsize>,
    /// Requests that were answered 503.
    pub(super) refused: Arc<AtomicUsize>,
    senders: Vec<JoinHandle<(Ledgers, Vec<Answer>)>>,
}

/// The ledger of one kind.
type Of = fn(&mut Ledgers) -> &mut Ledger;

impl Load {
    /// Starts two senders of logs (OTLP, JSON), two of samples (remote write), one of spans and
    /// one of metric points (OTLP, JSON). Numbers go on from `next` over all loads of a test.
    pub(super) fn start(at: &Addresses, next: &Arc<AtomicI64>, failure: OnFailure) -> Self {
        Self::start_with(at, next, failure, PAUSE)
    }

    /// As [`Load::start`], with another pause between two requests of a sender.
    pub(super) fn start_with(
        at: &Addresses,
        next: &Arc<AtomicI64>,
        failure: OnFailure,
        pause: Duration,
    ) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            next: next.clone(),
            failure,
            pause,
            phase: Arc::default(),
            refused: Arc::default(),
            senders: Vec::new(),
        };
        let otlp = |path: &str| format!("http://{}{path}", at.otlp);
        for _ in 0..2 {
            let (logs, samples) =
                (otlp("/v1/logs"), format!("http://{}/api/v1/write", at.prometheus));
            load.sender("OTLP/HTTP", move |first| send_logs(&logs, first), |l| &mut l.logs);
            let send = move |first| send_samples(&samples, first);
            load.sender("remote write", send, |l| &mut l.samples);
        }
        let (spans, points) = (otlp("/v1/traces"), otlp("/v1/metrics"));
        load.sender("OTLP/HTTP", move |first| send_spans(&spans, first), |l| &mut l.spans);
        load.sender("OTLP/HTTP", move |first| send_points(&points, first), |l| &mut l.points);
        load
    }

    /// Sends logs over gRPC too, over one connection as long as that lasts.
    pub(super) fn also_grpc(&mut self, address: &str) {
        let grpc = Grpc::to(address);
        self.sender("OTLP/gRPC", move |first| send_logs_grpc(&grpc, first), |l| &mut l.logs);
    }

    /// Sends with `send`, which takes the first number of a request.
    fn sender(&mut self, way: &'static str, send: impl Fn(i64) -> Reply + Send + 'static, of: Of) {
        let (stop, next, refused) = (self.stop.clone(), self.next.clone(), self.refused.clone());
        let (phase, failure, pause) = (self.phase.clone(), self.failure, self.pause);
        self.senders.push(std::thread::spawn(move || {
            let (mut ledgers, mut answers) = (Ledgers::default(), Vec::new());
            while !stop.load(Relaxed) {
                let first = next.fetch_add(ROWS, Relaxed);
                let (sent, before) = (Instant::now(), phase.load(Relaxed));
                let reply = send(first);
                let (took, phases) = (sent.elapsed(), [before, phase.load(Relaxed)]);
                if (200..300).contains(&reply.status) {
                    of(&mut ledgers).acknowledged.insert(first);
                    answers.push(Answer { way, phases, took });
                } else if failure == OnFailure::GoOn {
                    assert_refused(&reply);
                    refused.fetch_add(1, Relaxed);
                } else {
                    let text = format!("{way}: {}: {}", reply.status, reply.text());
                    assert!(failure == OnFailure::Stop, "not acknowledged: {text}");
                    of(&mut ledgers).unknown.insert(first);
                    break;
                }
                std::thread::sleep(pause);
            }
            (ledgers, answers)
        }));
    }

    /// Ends it; gives what was acknowledged.
    pub(super) fn finish(self) -> Ledgers {
        self.finish_timed().0
    }

    /// Ends it; gives what was acknowledged, and when.
    pub(super) fn finish_timed(self) -> (Ledgers, Vec<Answer>) {
        self.stop.store(true, Relaxed);
        let (mut all, mut answers) = (Ledgers::default(), Vec::new());
        for sender in self.senders {
            let (ledgers, timed) = sender.join().expect("a sender");
            all.add(ledgers);
            answers.extend(timed);
        }
        (all, answers)
    }
}

/// A refusal as senders need it.
pub(super) fn assert_refused(reply: &Reply) {
    let text = reply.text();
    assert_eq!(reply.status, 503, "{text}");
    assert!(text.contains("journal") || text.contains("backlog"), "no reason: {text}");
    let after = reply.headers.get("retry-after").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    assert!(after.is_some_and(|s| s > 0), "no Retry-After: {:?}", reply.headers);
}

/// Lines over one syslog connection that stays open: [`ROWS`] at a time, once a pause.
pub(super) fn syslog(address: &str, stop: Arc<AtomicBool>, pause: Duration) -> JoinHandle<Ledger> {
    let mut stream = TcpStream::connect(address).unwrap();
    std::thread::spawn(move || {
        let mut ledger = Ledger::default();
        for round in 0.. {
            if stop.load(Relaxed) {
                break;
            }
            let first = round * ROWS;
            let lines = (first..first + ROWS).map(|n| format!("<14>1 - host app - - - {n}\n"));
            // One broken pipe would be a lost line.
            stream.write_all(lines.collect::<String>().as_bytes()).unwrap();
            ledger.acknowledged.insert(first);
            std::thread::sleep(pause);
        }
        ledger
    })
}
