//! The way in: made-up data over real protocols (`weir load`) through journal (fsynced), pipeline and
//! store of the real binary. Writes `docs/benchmarks.md`.
//!
//! `WEIR_BENCH_SECONDS` sets how long each load lasts (default 30).

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::Value;

use crate::servers::{Measured, Peer, Weir, idle, load};
use crate::{machine, write_page};

pub(super) async fn run() {
    let seconds: u64 = std::env::var("WEIR_BENCH_SECONDS")
        .map_or(30, |n| n.parse().expect("WEIR_BENCH_SECONDS is a number"));
    let mut page = format!(
        "# Benchmarks\n\nWritten by `make bench`, all in one run on one machine: {}. Server and \
         `weir load` share the cores; each load lasts {seconds} s. What was acknowledged was counted \
         afterwards. CPU is that of the server, until all was in files or it had nothing left to \
         do.\n",
        machine()
    );
    remote_write(seconds, &mut page).await;
    events(seconds, &mut page).await;
    write_page("benchmarks.md", &page);
}

async fn remote_write(seconds: u64, page: &mut String) {
    let time = format!("{seconds}s");
    let arguments = ["remote-write", "--for", &time];
    page.push_str(
        "\n## Prometheus remote write\n\n100,000 series with 10 labels, 2,000 samples a request, \
         4 connections. Weir runs a window of 10 s by `job` and `mode` beside the table.\n\n\
         | | samples/s | CPU s per million | p99 of answers | most memory | found of what was acknowledged |\n\
         |---|---|---|---|---|---|\n",
    );
    let weir = Weir::start().await;
    let ours = weir.load(&arguments, "prometheus", "http", "/api/v1/write").await;
    drop(weir);
    let mut all = vec![("Weir", ours, 1.0)];
    if let Some((peer, found)) = peer(Peer::victoria_metrics().await, &arguments).await {
        all.push(("VictoriaMetrics", peer, found));
    }
    if let Some((peer, found)) = peer(Peer::prometheus().await, &arguments).await {
        all.push(("Prometheus", peer, found));
    }
    for (name, m, found) in &all {
        let _ = writeln!(
            page,
            "| {name} | {:.2} M | {:.2} | {:.0} ms | {} MiB | {:.4} % |",
            m.rows_per_second / 1e6,
            m.cpu_per_million(),
            m.p99_ms,
            m.peak >> 20,
            found * 100.0
        );
    }
    let ours = &all[0].1;
    for (name, m, _) in &all[1..] {
        let _ = write!(
            page,
            "\nWeir takes {:.2} times the samples of {name}, at {:.2} times its CPU per sample.",
            ours.rows_per_second / m.rows_per_second,
            ours.cpu_per_million() / m.cpu_per_million()
        );
    }
    page.push('\n');
}

/// Logs, spans, points and lines, beside what decoding alone costs.
async fn events(seconds: u64, page: &mut String) {
    let time = format!("{seconds}s");
    page.push_str(
        "\n## OpenTelemetry and syslog\n\n1,000 rows a request (syslog: 500 lines a write). Logs \
         and spans pass a `vrl` operator that renames two attributes. `prost` is the time in which \
         the crate of that name decodes the same bytes, and nothing else.\n\n\
         | | rows/s | CPU s per million | prost | Weir / prost | p99 of answers |\n\
         |---|---|---|---|---|---|\n",
    );
    let weir = Weir::start().await;
    let loads: [(&str, &[&str], &str, &str); 7] = [
        ("logs of 300 B, HTTP", &["logs"], "otlp", "http"),
        ("logs of 300 B, gRPC", &["logs"], "otlp", "grpc"),
        ("logs of 1 KB, HTTP", &["logs", "--bytes", "1024"], "otlp", "http"),
        ("spans, HTTP", &["spans"], "otlp", "http"),
        ("spans, gRPC", &["spans"], "otlp", "grpc"),
        ("points, HTTP", &["points"], "otlp", "http"),
        ("syslog RFC 5424, TCP", &["syslog"], "syslog", "tcp"),
    ];
    for (name, what, source, scheme) in loads {
        let arguments = [what, &["--for", &time]].concat();
        let m = weir.load(&arguments, source, scheme, "").await;
        let decode = match source {
            "otlp" => Some(prost_seconds_per_million(what).await),
            _ => None,
        };
        let cost = m.cpu_per_million();
        let (prost, ratio) = match decode {
            Some(decode) => (format!("{decode:.2}"), format!("{:.1}", cost / decode)),
            None => (String::new(), String::new()),
        };
        let _ = writeln!(
            page,
            "| {name} | {:.0} k | {cost:.2} | {prost} | {ratio} | {:.0} ms |",
            m.rows_per_second / 1e3,
            m.p99_ms,
        );
    }
}

/// Seconds in which `prost` decodes a million rows of what `weir load` sends.
async fn prost_seconds_per_million(what: &[&str]) -> f64 {
    let caught: Arc<Mutex<Bytes>> = Arc::default();
    let keep = caught.clone();
    let app = axum::Router::new().fallback(move |body: Bytes| async move {
        *keep.lock().unwrap() = body;
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let arguments: Vec<String> = what.iter().map(|a| (*a).to_owned()).collect();
    let sent = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        load(&arguments, &to, &["--count", "1000", "--connections", "1"])
    });
    let rows = sent.await.unwrap()["rows"].as_u64().unwrap();
    server.abort();
    let body = caught.lock().unwrap().clone();
    let decode = || match what[0] {
        "logs" => drop(std::hint::black_box(ExportLogsServiceRequest::decode(body.clone()))),
        "spans" => drop(std::hint::black_box(ExportTraceServiceRequest::decode(body.clone()))),
        _ => drop(std::hint::black_box(ExportMetricsServiceRequest::decode(body.clone()))),
    };
    decode();
    let (start, mut times) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(1) {
        decode();
        times += 1;
    }
    start.elapsed().as_secs_f64() * 1e6 / (times * rows) as f64
}

/// The same through a peer, if there is one, and the part of the acknowledged samples that it has.
async fn peer(peer: Option<Peer>, arguments: &[&str]) -> Option<(Measured, f64)> {
    let peer = peer?;
    let server = &peer.server;
    let before = server.cpu_seconds();
    let told = load(arguments, &format!("{}/api/v1/write", peer.url), &[]);
    idle(server).await;
    let measured = Measured::new(&told, server, before);
    let run = told["sql"].as_str().unwrap().rsplit('\'').nth(1).unwrap();
    let acknowledged = told["rows"].as_u64().unwrap();
    // What a peer took shows itself after a while; what never does is told, not hidden.
    let (start, mut found) = (Instant::now(), 0);
    while found < acknowledged && start.elapsed() < Duration::from_secs(30) {
        found = samples(&peer, run).await;
    }
    if found != acknowledged {
        println!("{}: {found} found of {acknowledged} acknowledged samples", peer.url);
    }
    Some((measured, found as f64 / acknowledged as f64))
}

/// How many samples of one run of `weir load` a peer has.
async fn samples(peer: &Peer, run: &str) -> u64 {
    let Peer { url, client, .. } = peer;
    let mut count = 0;
    // Name by name: `count_over_time` drops them, and then some series are alike.
    for name in 0..25 {
        let query = format!("sum(count_over_time(load_{name}_requests{{cluster=\"{run}\"}}[1h]))");
        let request = client.get(format!("{url}/api/v1/query")).query(&[("query", &query)]);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        let found = answer["data"]["result"][0]["value"][1].as_str();
        let found = found.unwrap_or_else(|| panic!("{query}: {answer}"));
        count += found.parse::<u64>().unwrap();
    }
    count
}
