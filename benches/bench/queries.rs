//! The way out: dashboard questions over a day of data, asked of Weir, of VictoriaMetrics and
//! Prometheus in PromQL, and of ClickHouse and DuckDB in SQL. Writes `docs/benchmarks-queries.md`.
//!
//! `WEIR_BENCH_ROWS` sets how many samples there are (default 20 million, in 10,000 series); a
//! quarter as many log records and a fifth as many spans.

mod dashboard;
mod heavy;
mod questions;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};

use self::questions::{EVENTS, METRICS};
use crate::servers::{Peer, Weir, idle, load};
use crate::{machine, write_page};

/// How often each question is asked.
const TIMES: usize = 20;
/// How far the end of the time that is asked for moves between two askings, seconds.
const MOVES: i64 = 10;
const TABLES: [&str; 3] = ["metrics", "logs", "spans"];

/// Milliseconds of the first answer, and of the twentieth part of the others that took longest.
struct Times {
    first: f64,
    p95: f64,
}

impl Times {
    fn new(mut asked: Vec<f64>) -> Self {
        let first = asked.remove(0);
        asked.sort_by(f64::total_cmp);
        Self { first, p95: asked[asked.len() * 95 / 100] }
    }
}

/// What an engine took: the questions that it can be asked, then the dashboard.
struct Column {
    name: &'static str,
    times: Vec<Option<Times>>,
    dashboard: Times,
}

pub(super) async fn run() {
    let rows: u64 = std::env::var("WEIR_BENCH_ROWS")
        .map_or(20_000_000, |n| n.parse().expect("WEIR_BENCH_ROWS is a number"));
    let count = rows.to_string();
    let over = ["--over", "24h", "--count"];
    // One connection: a peer refuses samples that are much older than the newest.
    let samples = ["remote-write", "--series", "10000", "--connections", "1"];
    let samples = [&samples[..], &over[..], &[&count]].concat();
    let last = Timestamp::now();
    let weir = Weir::start().await;
    weir.load(&samples, "prometheus", "http", "/api/v1/write").await;
    for (what, n) in [("logs", rows / 4), ("spans", rows / 5)] {
        weir.load(&[&[what], &over[..], &[&n.to_string()]].concat(), "otlp", "http", "").await;
    }
    let trace = answer(&weir, "SELECT trace_id FROM spans LIMIT 1 OFFSET 1000").await;
    let trace = trace["rows"][0]["trace_id"].as_str().expect("a trace").to_owned();
    // Before the questions, so that what comes in here is in all stores that have the same rows.
    let heavy = heavy::run(&weir).await;
    let mut columns = vec![ask_weir(&weir, last, &trace).await];
    let dir = tempfile::tempdir().unwrap();
    weir.export(&TABLES, dir.path());
    for (name, peer) in [
        ("VictoriaMetrics", Peer::victoria_metrics().await),
        ("Prometheus", Peer::prometheus().await),
    ] {
        let Some(peer) = peer else { continue };
        load(&samples, &format!("{}/api/v1/write", peer.url), &[]);
        idle(&peer.server).await;
        columns.push(ask_peer(name, &peer, last).await);
    }
    columns.extend(ask_engines(dir.path(), last, &trace));
    write_page("benchmarks-queries.md", &page(rows, &columns, &heavy));
}

/// The ends of the time that is asked for, one after the other.
fn ends(last: Timestamp) -> impl Iterator<Item = Timestamp> {
    (1..=TIMES as i64).rev().map(move |n| last - (n * MOVES).seconds())
}

async fn ask_weir(weir: &Weir, last: Timestamp, trace: &str) -> Column {
    let mut times = Vec::new();
    for question in METRICS.iter().chain(&EVENTS) {
        let mut asked = Vec::new();
        for end in ends(last) {
            let sql = question.weir(end, trace);
            let start = Instant::now();
            let answer = answer(weir, &sql).await;
            asked.push(start.elapsed().as_secs_f64() * 1e3);
            assert!(answer["rows"].as_array().is_some_and(|rows| !rows.is_empty()), "{sql}");
        }
        times.push(Some(Times::new(asked)));
    }
    let dashboard = dashboard::timed(last, async |panel, end| {
        drop(answer(weir, &panel.weir(end)).await);
    });
    Column { name: "Weir", times, dashboard: dashboard.await }
}

async fn answer(weir: &Weir, sql: &str) -> Value {
    weir.answer(sql).await.unwrap_or_else(|refused| panic!("{sql}\n{refused}"))
}

async fn ask_peer(name: &'static str, peer: &Peer, last: Timestamp) -> Column {
    let mut times = Vec::new();
    for question in &METRICS {
        let Some((step, promql)) = question.promql else {
            times.push(None);
            continue;
        };
        let mut asked = Vec::new();
        for end in ends(last) {
            let start = Instant::now();
            promql_answer(peer, question.hours, end, step, promql).await;
            asked.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.push(Some(Times::new(asked)));
    }
    times.extend(EVENTS.iter().map(|_| None));
    let dashboard = dashboard::timed(last, async |panel, end| {
        promql_answer(peer, dashboard::HOURS, end, dashboard::STEP, &panel.promql()).await;
    });
    Column { name, times, dashboard: dashboard.await }
}

async fn promql_answer(peer: &Peer, hours: i64, end: Timestamp, step: u32, promql: &str) {
    let to = end.as_second();
    let request = if step == 0 {
        let asked = [("query", promql.to_owned()), ("time", to.to_string())];
        peer.client.get(format!("{}/api/v1/query", peer.url)).query(&asked)
    } else {
        let asked = [
            ("query", promql.to_owned()),
            ("start", (to - hours * 3_600).to_string()),
            ("end", to.to_string()),
            ("step", step.to_string()),
        ];
        peer.client.get(format!("{}/api/v1/query_range", peer.url)).query(&asked)
    };
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    let found = answer["data"]["result"].as_array().map_or(0, Vec::len);
    assert!(found > 0, "{promql}\n{answer}");
}

/// ClickHouse and DuckDB over the same rows, in the process of a script; none if there is no Python
/// that has them.
fn ask_engines(folder: &Path, last: Timestamp, trace: &str) -> Vec<Column> {
    let Some(python) = std::env::var_os("WEIR_PYTHON") else { return Vec::new() };
    let each = |of: &dyn Fn(Timestamp) -> Value| ends(last).map(of).collect::<Value>();
    let mut questions: Vec<Value> = METRICS
        .iter()
        .chain(&EVENTS)
        .map(|q| {
            json!({
                "clickhouse": each(&|end| json!([q.clickhouse(end, trace)])),
                "duckdb": each(&|end| json!([q.duckdb(end, trace)])),
            })
        })
        .collect();
    let panels = |of: fn(&dashboard::Panel, Timestamp) -> String| {
        each(&|end| dashboard::panels().map(|p| of(&p, end)).collect())
    };
    questions.push(json!({
        "clickhouse": panels(dashboard::Panel::clickhouse),
        "duckdb": panels(dashboard::Panel::duckdb),
    }));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/bench/queries/engines.py");
    let mut child = Command::new(python)
        .arg(script)
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(json!(questions).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    [("ClickHouse", "clickhouse"), ("DuckDB", "duckdb")]
        .map(|(name, key)| {
            let asked: Vec<Vec<f64>> = serde_json::from_value(told[key].clone()).unwrap();
            let mut times: Vec<Times> = asked.into_iter().map(Times::new).collect();
            let dashboard = times.pop().expect("the dashboard was asked");
            Column { name, times: times.into_iter().map(Some).collect(), dashboard }
        })
        .into()
}

fn page(rows: u64, columns: &[Column], heavy: &str) -> String {
    let mut page = format!(
        "# Benchmarks: queries\n\nWritten by `make bench`, all in one run on one machine: {}. A day of \
         data: {} million samples in 10,000 series, {} million log records of 300 B and {} million \
         spans. Each question is asked {TIMES} times, one after the other, and each time the time that \
         it asks for has moved on by {MOVES} s: the first answer, and the 95th percentile of the \
         others, in milliseconds. Servers are asked over HTTP and may use their caches; ClickHouse \
         (chdb) and DuckDB have the same rows (`weir export`) in tables of their own, merged, and are \
         asked within their process.\n\n|",
        machine(),
        rows / 1_000_000,
        rows / 4_000_000,
        rows / 5_000_000,
    );
    for Column { name, .. } in columns {
        let _ = write!(page, " | {name} first | p95");
    }
    page.push_str(" |\n|---|");
    page.push_str(&"---|---|".repeat(columns.len()));
    page.push('\n');
    let mut row = |name: &str, of: &dyn Fn(&Column) -> Option<(f64, f64)>| {
        let _ = write!(page, "| {name} |");
        for column in columns {
            let _ = match of(column) {
                Some((first, p95)) => write!(page, " {first:.0} | {p95:.0} |"),
                None => write!(page, " | |"),
            };
        }
        page.push('\n');
    };
    for (i, question) in METRICS.iter().chain(&EVENTS).enumerate() {
        row(question.name, &|c| c.times[i].as_ref().map(|t| (t.first, t.p95)));
    }
    let panels = dashboard::panels().count();
    row(&format!("a dashboard of {panels} panels, {} h", dashboard::HOURS), &|c| {
        Some((c.dashboard.first, c.dashboard.p95))
    });
    page + heavy
}
