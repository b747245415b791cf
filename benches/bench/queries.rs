//! The way out: dashboard questions over a day of data, beside the same over Prometheus'
//! `query_range`. Writes `docs/benchmarks-queries.md`.
//!
//! `WEIR_BENCH_ROWS` sets how many samples there are (default 20 million, in 10,000 series); a
//! quarter as many log records and a fifth as many spans.

use std::fmt::Write as _;
use std::time::Instant;

use jiff::{Timestamp, ToSpan};
use reqwest::Client;
use serde_json::Value;

use crate::servers::{Peer, Weir, idle, load};
use crate::{machine, write_page};

/// How often each question is asked.
const TIMES: usize = 20;

/// A question in both languages. `{from}` and `{to}` stand for times.
struct Question {
    name: &'static str,
    /// Hours that it looks back from the end of the data.
    hours: i64,
    sql: &'static str,
    /// Step in seconds, and the expression; a step of 0 asks for the last moment alone.
    promql: Option<(u32, &'static str)>,
}

const METRICS: [Question; 6] = [
    Question {
        name: "average by mode, 1 h by the minute",
        hours: 1,
        sql: "SELECT date_bin(interval '1 minute', timestamp) AS t, mode, avg(value) FROM metrics \
              WHERE metric.name = 'load_1_requests' AND {times} GROUP BY t, mode ORDER BY t",
        promql: Some((60, "avg by (mode) (avg_over_time(load_1_requests[1m]))")),
    },
    Question {
        name: "average by mode, 6 h by 5 minutes",
        hours: 6,
        sql: "SELECT date_bin(interval '5 minute', timestamp) AS t, mode, avg(value) FROM metrics \
              WHERE metric.name = 'load_1_requests' AND {times} GROUP BY t, mode ORDER BY t",
        promql: Some((300, "avg by (mode) (avg_over_time(load_1_requests[5m]))")),
    },
    Question {
        name: "average by job, 24 h by 15 minutes",
        hours: 24,
        sql: "SELECT date_bin(interval '15 minute', timestamp) AS t, job, avg(value) FROM metrics \
              WHERE metric.name = 'load_1_requests' AND {times} GROUP BY t, job ORDER BY t",
        promql: Some((900, "avg by (job) (avg_over_time(load_1_requests[15m]))")),
    },
    Question {
        name: "greatest of all, 24 h by the hour",
        hours: 24,
        sql: "SELECT date_bin(interval '1 hour', timestamp) AS t, max(value) FROM metrics \
              WHERE metric.name = 'load_1_requests' AND {times} GROUP BY t ORDER BY t",
        promql: Some((3600, "max(max_over_time(load_1_requests[1h]))")),
    },
    Question {
        name: "top ten instances, 24 h",
        hours: 24,
        sql: "SELECT instance, max(value) AS m FROM metrics WHERE metric.name = 'load_1_requests' \
              AND {times} GROUP BY instance ORDER BY m DESC LIMIT 10",
        promql: Some((0, "topk(10, max by (instance) (max_over_time(load_1_requests[24h])))")),
    },
    Question {
        name: "last value of all 10,000 series, of 5 minutes",
        hours: 0,
        sql: "SELECT metric.name, instance, mode, last_value(value ORDER BY timestamp) \
              FROM metrics WHERE {times} GROUP BY metric.name, instance, mode",
        promql: Some((0, "last_over_time({instance!=\"\"}[5m])")),
    },
];

const EVENTS: [Question; 6] = [
    Question {
        name: "newest 100 errors of a service",
        hours: 24,
        sql: "SELECT timestamp, severity, body FROM logs WHERE severity = 'ERROR' \
              AND service.name = 'cart' AND {times} ORDER BY timestamp DESC LIMIT 100",
        promql: None,
    },
    Question {
        name: "newest 100 log records with a rare word",
        hours: 24,
        sql: "SELECT timestamp, body FROM logs WHERE has_token(body, 'unusual') AND {times} \
              ORDER BY timestamp DESC LIMIT 100",
        promql: None,
    },
    Question {
        name: "newest 100 log records with part of a rare word",
        hours: 24,
        sql: "SELECT timestamp, body FROM logs WHERE body LIKE '%unusua%' AND {times} \
              ORDER BY timestamp DESC LIMIT 100",
        promql: None,
    },
    Question {
        name: "log records by severity, 24 h by 15 minutes",
        hours: 24,
        sql: "SELECT date_bin(interval '15 minute', timestamp) AS t, severity, count(*) FROM logs \
              WHERE {times} GROUP BY t, severity ORDER BY t",
        promql: None,
    },
    Question {
        name: "p99 of spans by route, 6 h",
        hours: 6,
        sql: "SELECT http.route, count(*), approx_percentile_cont(duration_ns, 0.99) FROM spans \
              WHERE {times} GROUP BY http.route",
        promql: None,
    },
    Question {
        name: "a trace by its id, all time",
        hours: 24,
        sql: "SELECT * FROM spans WHERE trace_id = '{trace}'",
        promql: None,
    },
];

/// Milliseconds of the first answer, and of the twentieth part of the others that took longest.
struct Times {
    first: f64,
    p95: f64,
}

pub(super) async fn run() {
    let rows: u64 = std::env::var("WEIR_BENCH_ROWS")
        .map_or(20_000_000, |n| n.parse().expect("WEIR_BENCH_ROWS is a number"));
    let end = Timestamp::now();
    let weir = Weir::start().await;
    weir.load(&samples(rows), "prometheus", "http", "/api/v1/write").await;
    let over =
        |n: u64| ["--over".to_owned(), "24h".to_owned(), "--count".to_owned(), n.to_string()];
    for (what, n) in [("logs", rows / 4), ("spans", rows / 5)] {
        let over = over(n);
        let arguments = [&[what], &over.each_ref().map(String::as_str)[..]].concat();
        weir.load(&arguments, "otlp", "http", "").await;
    }
    let mut table = Vec::new();
    let trace = answer(&weir, "SELECT trace_id FROM spans LIMIT 1 OFFSET 1000").await;
    let trace = trace["rows"][0]["trace_id"].as_str().expect("a trace").to_owned();
    for question in METRICS.iter().chain(&EVENTS) {
        let sql = question.sql(end).replace("{trace}", &trace);
        let rows = answer(&weir, &sql).await["rows"].as_array().map_or(0, Vec::len);
        assert!(rows > 0, "{sql}");
        table.push(vec![timed(async || drop(answer(&weir, &sql).await)).await]);
    }
    drop(weir);
    let (victoria, prometheus) = (Peer::victoria_metrics().await, Peer::prometheus().await);
    let peers: Vec<(&str, Peer)> = [("VictoriaMetrics", victoria), ("Prometheus", prometheus)]
        .into_iter()
        .filter_map(|(name, peer)| Some((name, peer?)))
        .collect();
    for (_, peer) in &peers {
        load(&samples(rows), &format!("{}/api/v1/write", peer.url), &[]);
        idle(&peer.server).await;
        for (question, times) in METRICS.iter().zip(&mut table) {
            let Some((step, promql)) = question.promql else { continue };
            let ask = async || ask_peer(peer, question.hours, end, step, promql).await;
            times.push(timed(ask).await);
        }
    }
    let names: Vec<&str> = peers.iter().map(|(name, _)| *name).collect();
    write_page("benchmarks-queries.md", &page(rows, &names, &table));
}

/// One connection: a peer refuses samples that are much older than the newest.
fn samples(rows: u64) -> [&'static str; 9] {
    let count: &'static str = Box::leak(rows.to_string().into_boxed_str());
    ["remote-write", "--series", "10000", "--over", "24h", "--connections", "1", "--count", count]
}

impl Question {
    fn sql(&self, end: Timestamp) -> String {
        let from = match self.hours {
            0 => end - 5.minutes(),
            hours => end - hours.hours(),
        };
        let times = format!("timestamp > '{from}' AND timestamp <= '{end}'");
        self.sql.replace("{times}", &times)
    }
}

async fn answer(weir: &Weir, sql: &str) -> Value {
    let url = format!("{}/api/v1/sql", weir.api);
    let answer = weir.client.post(url).body(sql.to_owned()).send().await.unwrap();
    let status = answer.status();
    let answer: Value = answer.json().await.unwrap();
    assert!(status.is_success(), "{sql}\n{answer}");
    answer
}

async fn ask_peer(peer: &Peer, hours: i64, end: Timestamp, step: u32, promql: &str) {
    let client: &Client = &peer.client;
    let to = end.as_second();
    let request = if step == 0 {
        let asked = [("query", promql.to_owned()), ("time", to.to_string())];
        client.get(format!("{}/api/v1/query", peer.url)).query(&asked)
    } else {
        let asked = [
            ("query", promql.to_owned()),
            ("start", (to - hours * 3_600).to_string()),
            ("end", to.to_string()),
            ("step", step.to_string()),
            // What was answered before is not kept: the question would be another one.
            ("nocache", "1".to_owned()),
        ];
        client.get(format!("{}/api/v1/query_range", peer.url)).query(&asked)
    };
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    let found = answer["data"]["result"].as_array().map_or(0, Vec::len);
    assert!(found > 0, "{promql}\n{answer}");
}

async fn timed(ask: impl AsyncFn()) -> Times {
    let mut times = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let start = Instant::now();
        ask().await;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let first = times.remove(0);
    times.sort_by(f64::total_cmp);
    Times { first, p95: times[times.len() * 95 / 100] }
}

fn page(rows: u64, peers: &[&str], table: &[Vec<Times>]) -> String {
    let mut page = format!(
        "# Benchmarks: queries\n\nWritten by `make bench`, all in one run on one machine: {}. A day of \
         data: {} million samples in 10,000 series, {} million log records of 300 B and {} million \
         spans. Each question is asked {TIMES} times over HTTP, one after the other; the first answer, \
         and the 95th percentile of the others, in milliseconds. Peers answer PromQL, without their \
         caches of answers.\n\n| | Weir first | Weir p95 |",
        machine(),
        rows / 1_000_000,
        rows / 4_000_000,
        rows / 5_000_000,
    );
    for peer in peers {
        let _ = write!(page, " {peer} first | {peer} p95 |");
    }
    page.push_str("\n|---|---|---|");
    page.push_str(&"---|---|".repeat(peers.len()));
    page.push('\n');
    for (question, times) in METRICS.iter().chain(&EVENTS).zip(table) {
        let _ = write!(page, "| {} |", question.name);
        for Times { first, p95 } in times {
            let _ = write!(page, " {first:.0} | {p95:.0} |");
        }
        page.push_str(&" | |".repeat(peers.len() + 1 - times.len()));
        page.push('\n');
    }
    page
}
