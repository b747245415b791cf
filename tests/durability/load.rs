//! Steady load with a ledger of what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::{Reply, Server, request};

/// Rows of one request.
pub(super) const ROWS: i64 = 50;
/// Length of a body: a second of load is more than the 1 MiB that a checkpoint keeps by itself, so
/// that there are files to stage and to commit.
const BODY: usize = 3000;
/// Between two requests of one sender.
const PAUSE: Duration = Duration::from_millis(4);

/// Three ways in, in a file of its own; three addresses, since sockets are kept by address.
pub(super) const SOURCES: &str = r#"
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

    /// Compares with the numbers found in a table.
    pub(super) fn check(&self, what: &str, found: impl IntoIterator<Item = i64>) {
        let mut times: BTreeMap<i64, u32> = BTreeMap::new();
        for n in found {
            *times.entry(n).or_default() += 1;
        }
        let twice: Vec<_> = times.iter().filter(|(_, c)| **c > 1).take(10).collect();
        assert!(twice.is_empty(), "{what}: rows that are there more than once: {twice:?}");
        let lost: Vec<_> = self
            .acknowledged
            .iter()
            .flat_map(|first| *first..first + ROWS)
            .filter(|n| !times.contains_key(n))
            .collect();
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

/// Senders at work.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    /// Requests that were answered 503.
    pub(super) refused: Arc<AtomicUsize>,
    senders: Vec<JoinHandle<Ledgers>>,
}

impl Load {
    /// Starts two senders of logs (OTLP, JSON), two of samples (remote write), one of spans and
    /// one of metric points (OTLP, JSON). Numbers go on from `next` over all loads of a test.
    pub(super) fn start(at: &Addresses, next: &Arc<AtomicI64>, failure: OnFailure) -> Self {
        let (stop, refused) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicUsize>::default());
        type Of = fn(&mut Ledgers) -> &mut Ledger;
        let sender = |url: String, send: fn(&str, i64) -> Reply, of: Of| {
            let (stop, next, refused) = (stop.clone(), next.clone(), refused.clone());
            std::thread::spawn(move || {
                let mut ledgers = Ledgers::default();
                while !stop.load(Relaxed) {
                    let first = next.fetch_add(ROWS, Relaxed);
                    let reply = send(&url, first);
                    if (200..300).contains(&reply.status) {
                        of(&mut ledgers).acknowledged.insert(first);
                    } else if failure == OnFailure::GoOn {
                        assert_refused(&reply);
                        refused.fetch_add(1, Relaxed);
                    } else {
                        let text = format!("{}: {}", reply.status, reply.text());
                        assert!(failure == OnFailure::Stop, "not acknowledged: {text}");
                        of(&mut ledgers).unknown.insert(first);
                        break;
                    }
                    std::thread::sleep(PAUSE);
                }
                ledgers
            })
        };
        let logs = || sender(format!("http://{}/v1/logs", at.otlp), send_logs, |l| &mut l.logs);
        let samples = || {
            let url = format!("http://{}/api/v1/write", at.prometheus);
            sender(url, send_samples, |l| &mut l.samples)
        };
        let spans = sender(format!("http://{}/v1/traces", at.otlp), send_spans, |l| &mut l.spans);
        let points = format!("http://{}/v1/metrics", at.otlp);
        let points = sender(points, send_points, |l| &mut l.points);
        let senders = vec![logs(), logs(), samples(), samples(), spans, points];
        Self { stop, refused, senders }
    }

    /// Ends it; gives what was acknowledged.
    pub(super) fn finish(self) -> Ledgers {
        self.stop.store(true, Relaxed);
        let mut all = Ledgers::default();
        self.senders.into_iter().for_each(|s| all.add(s.join().expect("a sender")));
        all
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
pub(super) fn syslog(address: &str, rounds: Arc<AtomicBool>) -> JoinHandle<Ledger> {
    let mut stream = TcpStream::connect(address).unwrap();
    std::thread::spawn(move || {
        let mut ledger = Ledger::default();
        for round in 0.. {
            if rounds.load(Relaxed) {
                break;
            }
            let first = round * ROWS;
            let lines = (first..first + ROWS).map(|n| format!("<14>1 - host app - - - {n}\n"));
            // One broken pipe would be a lost line.
            stream.write_all(lines.collect::<String>().as_bytes()).unwrap();
            ledger.acknowledged.insert(first);
            std::thread::sleep(PAUSE);
        }
        ledger
    })
}

/// Sends the logs `first..first + ROWS` as OTLP JSON; three services share them.
pub(super) fn send_logs(url: &str, first: i64) -> Reply {
    let time = nanoseconds().to_string();
    let service = ["cart", "shop", "web"][usize::try_from(first / ROWS % 3).unwrap()];
    let record = |n: i64| {
        json!({
            "timeUnixNano": time,
            "severityNumber": 9,
            "body": {"stringValue": format!("{n:0BODY$}")},
            "attributes": [{"key": "n", "value": {"intValue": n.to_string()}}],
        })
    };
    let body: Value = json!({"resourceLogs": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]},
        "scopeLogs": [{"logRecords": (first..first + ROWS).map(record).collect::<Vec<_>>()}],
    }]});
    request("POST", url, &[("content-type", "application/json")], body.to_string().into_bytes())
}

/// Sends the spans `first..first + ROWS` as OTLP JSON.
fn send_spans(url: &str, first: i64) -> Reply {
    let time = nanoseconds();
    let span = |n: i64| {
        json!({
            "traceId": format!("{:032x}", first + 1),
            "spanId": format!("{:016x}", n + 1),
            "name": "GET /cart",
            "startTimeUnixNano": (time - 1_000_000).to_string(),
            "endTimeUnixNano": time.to_string(),
            "attributes": [{"key": "n", "value": {"intValue": n.to_string()}}],
        })
    };
    let body: Value = json!({"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "web"}}]},
        "scopeSpans": [{"spans": (first..first + ROWS).map(span).collect::<Vec<_>>()}],
    }]});
    request("POST", url, &[("content-type", "application/json")], body.to_string().into_bytes())
}

/// Sends the points `first..first + ROWS` of a gauge, each its number, as OTLP JSON.
fn send_points(url: &str, first: i64) -> Reply {
    let time = nanoseconds().to_string();
    let point = |n: i64| {
        let series = json!({"key": "series", "value": {"intValue": (n % ROWS).to_string()}});
        json!({"timeUnixNano": time, "asDouble": n as f64, "attributes": [series]})
    };
    let points: Vec<Value> = (first..first + ROWS).map(point).collect();
    let body: Value = json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [
        {"name": "points", "gauge": {"dataPoints": points}}
    ]}]}]});
    request("POST", url, &[("content-type", "application/json")], body.to_string().into_bytes())
}

/// Sends the samples `first..first + ROWS`, each its number, as remote write.
pub(super) fn send_samples(url: &str, first: i64) -> Reply {
    let samples: Vec<_> = (first..first + ROWS).map(|n| (n % ROWS, n as f64)).collect();
    let body = crate::durability::remote_write::body("load", "series", &samples);
    request("POST", url, &crate::durability::remote_write::HEADERS, body)
}

/// Wall time.
pub(super) fn nanoseconds() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}
