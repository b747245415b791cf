//! At rest: bytes that data takes after merging, beside Prometheus, VictoriaMetrics and ClickHouse
//! with the same data, and what flushes and merges cost. Writes `docs/benchmarks-rest.md`.
//!
//! Samples are real: node_exporter, scraped for `WEIR_BENCH_MINUTES` (default 20), or the recording
//! that `WEIR_BENCH_SCRAPES` names. ClickHouse is `chdb` in `$WEIR_PYTHON`. `WEIR_BENCH_LINES` names
//! a folder of Loghub's samples. A peer that is not installed is left out.

mod cost;
mod demo;
mod scrapes;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use prost::Message;

use self::demo::Sent;
use self::scrapes::{Pick, WriteRequest};
use crate::servers::{Peer, Weir, folder_bytes, idle};
use crate::{machine, write_page};

/// Visits to the shop: some 750,000 spans and as many log records.
const VISITS: u64 = 100_000;

pub(super) async fn run() {
    let mut page = format!(
        "# Benchmarks: at rest\n\nWritten by `make bench`, all in one run on one machine: {}. Every \
         store got the same requests; sizes are those of all files of the table after its last \
         merge, entities, indices and manifests with them.\n",
        machine()
    );
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    match scrapes::recording(kept).await {
        Some(recording) => {
            samples(&recording, &mut page).await;
            cost::run(&scrapes::requests(&recording, Pick::Everything), &mut page);
        }
        None => page.push_str("\nprometheus-node-exporter is not installed: no samples.\n"),
    }
    events(&mut page).await;
    write_page("benchmarks-rest.md", &page);
}

/// What flushes and merges cost, printed.
pub(super) async fn cost() {
    let recording = scrapes::recording(Path::new(env!("CARGO_TARGET_TMPDIR"))).await;
    let recording = recording.expect("prometheus-node-exporter is installed");
    cost::run(&scrapes::requests(&recording, Pick::Everything), &mut String::new());
}

async fn samples(recording: &str, page: &mut String) {
    page.push_str(
        "\n## Samples\n\nnode_exporter (two targets, every 2 s). Bytes a sample; Prometheus: its block \
         (chunks and index) of a snapshot; VictoriaMetrics: data and indexdb after a forced merge.\n\n\
         | | samples | Weir | VictoriaMetrics | Prometheus |\n|---|---|---|---|---|\n",
    );
    let picks = [
        ("all series, as scraped", Pick::Everything),
        ("gauges, exact interval", Pick::ExactGauges),
    ];
    for (name, pick) in picks {
        let requests = scrapes::requests(recording, pick);
        let count: u64 = requests.iter().map(|r| r.timeseries.len() as u64).sum();
        let weir = Weir::start().await;
        let to = format!("http://{}/api/v1/write", weir.address("prometheus", "http").await);
        replay(&weir.client, &to, &requests).await;
        weir.settle().await;
        let tables = weir.into_rest();
        let (_, rows, bytes) = tables.iter().find(|t| t.0 == "metrics").expect("a table");
        // The last few may wait in the checkpoint.
        let ours = *bytes as f64 / *rows as f64;
        assert!(*rows <= count && *rows * 10 > count * 9, "{rows} of {count}");
        let victoria = victoria_metrics(&requests).await.map(|b| b as f64 / count as f64);
        let prometheus = prometheus(&requests).await.map(|b| b as f64 / count as f64);
        let _ = writeln!(
            page,
            "| {name} | {:.2} M | {ours:.2} | {} | {} |",
            count as f64 / 1e6,
            figure(victoria),
            figure(prometheus)
        );
        println!("{page}");
    }
}

fn figure(bytes: Option<f64>) -> String {
    bytes.map_or_else(|| "not installed".to_owned(), |bytes| format!("{bytes:.2}"))
}

async fn replay(client: &reqwest::Client, to: &str, requests: &[WriteRequest]) {
    for request in requests {
        let body = snap::raw::Encoder::new().compress_vec(&request.encode_to_vec()).unwrap();
        let answer = client
            .post(to)
            .header("content-encoding", "snappy")
            .header("content-type", "application/x-protobuf")
            .header("x-prometheus-remote-write-version", "0.1.0")
            .body(body);
        let answer = answer.send().await.unwrap();
        assert!(answer.status().is_success(), "{to}: {}", answer.text().await.unwrap());
    }
}

async fn victoria_metrics(requests: &[WriteRequest]) -> Option<u64> {
    let peer = Peer::victoria_metrics().await?;
    replay(&peer.client, &format!("{}/api/v1/write", peer.url), requests).await;
    for path in ["/internal/force_flush", "/internal/force_merge"] {
        let answer = peer.client.get(format!("{}{path}", peer.url)).send().await.unwrap();
        assert!(answer.status().is_success());
        // A merge goes on after the answer.
        idle(&peer.server).await;
    }
    // Parts that were merged away are deleted a moment later.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let of = |name| folder_bytes(&peer.dir.path().join(name));
    Some(of("data") + of("indexdb"))
}

async fn prometheus(requests: &[WriteRequest]) -> Option<u64> {
    let peer = Peer::prometheus().await?;
    replay(&peer.client, &format!("{}/api/v1/write", peer.url), requests).await;
    let url = format!("{}/api/v1/admin/tsdb/snapshot", peer.url);
    let answer = peer.client.post(url).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    Some(folder_bytes(&peer.dir.path().join("data/snapshots")))
}

async fn events(page: &mut String) {
    let _ = write!(
        page,
        "\n## Log records and spans\n\nWhat the services of a shop send, like those of the \
         OpenTelemetry demo: {VISITS} visits, with random ids, users, durations and amounts; and real \
         log lines (Loghub). Bytes a row, and how many times smaller than the OTLP requests. \
         ClickHouse: the schema of the Collector's exporter (zstd), after `OPTIMIZE FINAL`; the \
         columns alone, and with indices and marks.\n\n\
         | | rows | OTLP | Weir | times smaller | ClickHouse, columns | with indices |\n\
         |---|---|---|---|---|---|---|\n"
    );
    let end = jiff::Timestamp::now().as_nanosecond() as u64;
    let (records, spans) = demo::shop(VISITS, end);
    event("log records", "logs", &records, page).await;
    event("spans", "spans", &spans, page).await;
    let folder = std::env::var("WEIR_BENCH_LINES").unwrap_or_default();
    if let Some(lines) = demo::lines(Path::new(&folder), end) {
        event("real log lines", "logs", &lines, page).await;
    }
}

async fn event(name: &str, table: &str, sent: &Sent, page: &mut String) {
    let weir = Weir::start().await;
    let path = if table == "logs" { "/v1/logs" } else { "/v1/traces" };
    let to = format!("http://{}{path}", weir.address("otlp", "http").await);
    for body in &sent.bodies {
        let request = weir.client.post(&to).header("content-type", "application/x-protobuf");
        let answer = request.body(body.clone()).send().await.unwrap();
        assert!(answer.status().is_success(), "{to}: {}", answer.text().await.unwrap());
    }
    weir.settle().await;
    let tables = weir.into_rest();
    let (_, rows, bytes) = tables.iter().find(|t| t.0 == table).expect("a table");
    let per_row = |bytes: u64, rows: u64| bytes as f64 / rows as f64;
    let (otlp, ours) = (per_row(sent.bytes(), sent.rows), per_row(*bytes, *rows));
    let peer = clickhouse(table, sent);
    let _ = writeln!(
        page,
        "| {name} | {} | {otlp:.0} | {ours:.1} | {:.1} | {} | {} |",
        sent.rows,
        otlp / ours,
        figure(peer.map(|(rows, columns, _)| per_row(columns, rows))),
        figure(peer.map(|(rows, _, all)| per_row(all, rows))),
    );
    println!("{page}");
}

/// Rows, bytes of the columns, bytes of everything. `None` if it is not installed.
fn clickhouse(table: &str, sent: &Sent) -> Option<(u64, u64, u64)> {
    let python = std::env::var("WEIR_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&python)
        .args(["-c", "import chdb, pyarrow"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("requests");
    let framed = sent.bodies.iter().flat_map(|b| [&(b.len() as u32).to_le_bytes()[..], b].concat());
    std::fs::write(&path, framed.collect::<Vec<u8>>()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/bench/clickhouse.py");
    let output = Command::new(python)
        .arg(script)
        .arg(table)
        .arg(&path)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    let told = String::from_utf8(output.stdout).unwrap();
    let mut numbers = told.split_whitespace().map(|n| n.parse::<u64>().expect("a number"));
    Some((numbers.next()?, numbers.next()?, numbers.next()?))
}
