//! The way in: made-up data over real protocols (`weir load`) through journal (fsynced), pipeline and
//! store of the real binary, beside peers under the same load on the same cores. Prints a table and
//! writes it to `docs/benchmarks.md`.
//!
//! `make bench`; `WEIR_BENCH_SECONDS` sets how long each load lasts (default 30). Nothing is asserted
//! about time; that what was acknowledged is there is.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::Value;

/// `USER_HZ`, the unit of times in `/proc/PID/stat`; 100 on every Linux architecture of today.
const TICKS_PER_SECOND: f64 = 100.0;
/// What the server may take: a peer takes what it likes.
const MEMORY: &str = "4GiB";

const PIPELINE: &str = r#"
[sources.prometheus]
type = "prometheus_remote_write"
listen = "127.0.0.1:0"

[sources.otlp]
type = "otlp"
http = "127.0.0.2:0"
grpc = "127.0.0.3:0"

[sources.syslog]
type = "syslog"
listen = "127.0.0.4:0"
protocol = "tcp"

[operators.by_job]
type = "window"
inputs = ["prometheus.metrics"]
every = "10s"
group_by = ["job", "mode"]
[operators.by_job.aggregate]
samples = "count(*)"
total = "sum(value)"

[operators.logs]
type = "vrl"
inputs = ["otlp.logs"]
source = """
.http.method = del(.http.request.method)
.http.status_code = del(.http.response.status_code)
"""

[operators.spans]
type = "vrl"
inputs = ["otlp.spans"]
source = """
.http.method = del(.http.request.method)
.http.status_code = del(.http.response.status_code)
"""

[sinks.metrics_table]
type = "store"
inputs = ["prometheus.metrics", "otlp.metrics"]
table = "metrics"

[sinks.jobs_table]
type = "store"
inputs = ["by_job"]
table = "jobs"

[sinks.logs_table]
type = "store"
inputs = ["logs", "syslog.logs"]
table = "logs"

[sinks.spans_table]
type = "store"
inputs = ["spans"]
table = "spans"
"#;

/// What a load gave.
struct Measured {
    rows: f64,
    rows_per_second: f64,
    /// CPU time of the server for all of it, until nothing was left to do.
    cpu: f64,
    /// Most resident memory of the server, bytes.
    peak: u64,
    p99_ms: f64,
}

impl Measured {
    fn cpu_per_million(&self) -> f64 {
        self.cpu * 1e6 / self.rows
    }
}

fn main() {
    // As the binary's own `main` does: reqwest asks for it.
    rustls::crypto::ring::default_provider().install_default().expect("the first to ask");
    let seconds: u64 = std::env::var("WEIR_BENCH_SECONDS")
        .map_or(30, |n| n.parse().expect("WEIR_BENCH_SECONDS is a number"));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut page = page_head(seconds);
    runtime.block_on(async {
        remote_write(seconds, &mut page).await;
        events(seconds, &mut page).await;
    });
    print!("{page}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
    std::fs::write(&path, page).unwrap();
    println!("\nwritten: {}", path.display());
}

fn page_head(seconds: u64) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let of = |text: String, key: &str| {
        let line = text.lines().find(|l| l.starts_with(key)).unwrap_or_default().to_owned();
        line.split_once(':').map(|(_, v)| v.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let dir = tempfile::tempdir().unwrap();
    format!(
        "# Benchmarks\n\nWritten by `make bench`, all in one run on one machine: {cores} cores of \
         {}, {} of memory, a disk that takes {:.0} MB/s in writes of 1 MiB with an fsync each. \
         Server and `weir load` share the cores; each load lasts {seconds} s. What was acknowledged \
         was counted afterwards. CPU is that of the server, until all was in files or it had nothing \
         left to do.\n",
        of(read("/proc/cpuinfo"), "model name"),
        of(read("/proc/meminfo"), "MemTotal"),
        disk_bytes_per_second(dir.path()) / 1e6,
    )
}

async fn remote_write(seconds: u64, page: &mut String) {
    let time = format!("{seconds}s");
    let arguments = ["remote-write", "--for", &time];
    page.push_str(
        "\n## Prometheus remote write\n\n100,000 series with 10 labels, 2,000 samples a request, \
         4 connections. Weir runs a window of 10 s by `job` and `mode` beside the table.\n\n\
         | | samples/s | CPU s per million | p99 of answers | most memory |\n|---|---|---|---|---|\n",
    );
    let weir = Weir::start().await;
    let ours = weir.load(&arguments, "prometheus", "http", "/api/v1/write").await;
    drop(weir);
    let mut all = vec![("Weir", ours)];
    if let Some(peer) = victoria_metrics(&arguments).await {
        all.push(("VictoriaMetrics", peer));
    }
    if let Some(peer) = prometheus(&arguments).await {
        all.push(("Prometheus", peer));
    }
    for (name, m) in &all {
        let _ = writeln!(
            page,
            "| {name} | {:.2} M | {:.2} | {:.0} ms | {} MiB |",
            m.rows_per_second / 1e6,
            m.cpu_per_million(),
            m.p99_ms,
            m.peak >> 20
        );
    }
    let ours = &all[0].1;
    for (name, m) in &all[1..] {
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

/// A Weir that runs [`PIPELINE`].
struct Weir {
    server: Process,
    api: String,
    client: reqwest::Client,
    _dir: tempfile::TempDir,
}

impl Weir {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pipelines = dir.path().join("pipelines.d");
        std::fs::create_dir(&pipelines).unwrap();
        std::fs::write(pipelines.join("bench.toml"), PIPELINE).unwrap();
        let config = dir.path().join("weir.toml");
        std::fs::write(&config, format!("[server]\nmemory = \"{MEMORY}\"\n")).unwrap();
        let mut server = Process(
            Command::new(env!("CARGO_BIN_EXE_weir"))
                .args(["run", "--listen", "127.0.0.1:0", "--pipelines"])
                .arg(&pipelines)
                .arg("--config")
                .arg(&config)
                .arg("--data")
                .arg(dir.path().join("data"))
                .stderr(Stdio::piped())
                .spawn()
                .expect("the binary starts"),
        );
        let api = api_address(&mut server.0);
        let client = reqwest::Client::new();
        wait_for(&client, &format!("{api}/readyz")).await;
        let weir = Self { server, api, client, _dir: dir };
        let reload = &weir.status().await["reload"];
        assert_eq!(reload["ok"], true, "{reload}");
        weir
    }

    async fn status(&self) -> Value {
        let answer = self.client.get(format!("{}/api/v1/status", self.api)).send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    }

    /// Where `source` listens for a scheme.
    async fn address(&self, source: &str, scheme: &str) -> String {
        let status = self.status().await;
        let sources = status["sources"].as_array().unwrap();
        let of = sources.iter().find(|s| s["id"] == source).expect("the source");
        let listens = of["listens"].as_array().unwrap().iter().map(|l| l.as_str().unwrap());
        // OTLP over HTTP and gRPC differ by host.
        let host = match (source, scheme) {
            ("otlp", "http") => "127.0.0.2:",
            ("otlp", "grpc") => "127.0.0.3:",
            _ => "127.0.0.",
        };
        let address = listens.flat_map(|l| l.split([' ', '/'])).find(|l| l.starts_with(host));
        address.expect("an address").to_owned()
    }

    async fn load(&self, arguments: &[&str], source: &str, scheme: &str, path: &str) -> Measured {
        let to = format!("{scheme}://{}{path}", self.address(source, scheme).await);
        let before = cpu_seconds(self.server.0.id());
        let told = load(arguments, &to, &["--check", &self.api]);
        assert_eq!(told["found"], told["rows"], "{told}");
        self.settle().await;
        measured(&told, self.server.0.id(), before)
    }

    /// Until all is in files and merges are done.
    async fn settle(&self) {
        let head = self.status().await["journal"]["head"].as_u64().unwrap();
        while self.status().await["pipelines"][0]["committed"].as_u64().unwrap_or(u64::MAX) < head {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        idle(self.server.0.id()).await;
    }
}

fn measured(told: &Value, pid: u32, before: f64) -> Measured {
    Measured {
        rows: told["rows"].as_f64().unwrap(),
        rows_per_second: told["rows_per_second"].as_f64().unwrap(),
        cpu: cpu_seconds(pid) - before,
        peak: peak_bytes(pid),
        p99_ms: told["answered_ms"]["p99"].as_f64().unwrap(),
    }
}

/// `weir load`: what it says of it.
fn load(arguments: &[&str], to: &str, more: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .arg("load")
        .args(arguments)
        .args(["--to", to, "--json"])
        .args(more)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The same through VictoriaMetrics, if there is one.
async fn victoria_metrics(arguments: &[&str]) -> Option<Measured> {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let server = Command::new("victoria-metrics")
        .arg(format!("-httpListenAddr=127.0.0.1:{port}"))
        .arg(format!("-storageDataPath={}", dir.path().display()))
        .args(["-retentionPeriod=1", "-search.maxUniqueTimeseries=1000000"])
        .args(["-search.maxQueryDuration=10m", "-search.latencyOffset=0s"])
        .stderr(Stdio::null())
        .spawn();
    peer(server.ok()?, port, "/health", arguments).await
}

/// The same through Prometheus, if there is one.
async fn prometheus(arguments: &[&str]) -> Option<Measured> {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("prometheus.yml");
    std::fs::write(&config, "global: {}\n").unwrap();
    let port = free_port();
    let server = Command::new("prometheus")
        .args(["--web.enable-remote-write-receiver", "--query.timeout=10m"])
        .arg("--query.max-samples=5000000000")
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
        .stderr(Stdio::null())
        .spawn();
    peer(server.ok()?, port, "/-/ready", arguments).await
}

async fn peer(server: Child, port: u16, ready: &str, arguments: &[&str]) -> Option<Measured> {
    let server = Process(server);
    let client = reqwest::Client::new();
    let url = format!("http://127.0.0.1:{port}");
    wait_for(&client, &format!("{url}{ready}")).await;
    let before = cpu_seconds(server.0.id());
    let told = load(arguments, &format!("{url}/api/v1/write"), &[]);
    idle(server.0.id()).await;
    let measured = measured(&told, server.0.id(), before);
    let run = told["sql"].as_str().unwrap().rsplit('\'').nth(1).unwrap();
    // Name by name: `count_over_time` drops them, and then some series are alike.
    let mut count = 0;
    for name in 0..25 {
        let query = format!("sum(count_over_time(load_{name}_requests{{cluster=\"{run}\"}}[1h]))");
        let request = client.get(format!("{url}/api/v1/query")).query(&[("query", &query)]);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        let found = answer["data"]["result"][0]["value"][1].as_str();
        let found = found.unwrap_or_else(|| panic!("{query}: {answer}"));
        count += found.parse::<u64>().unwrap();
    }
    assert_eq!(Some(count), told["rows"].as_u64(), "what was acknowledged is there");
    Some(measured)
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

async fn wait_for(client: &reqwest::Client, url: &str) {
    while !client.get(url).send().await.is_ok_and(|a| a.status().is_success()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Until a process has done next to nothing for two seconds, at most a minute.
async fn idle(pid: u32) {
    for _ in 0..30 {
        let before = cpu_seconds(pid);
        tokio::time::sleep(Duration::from_secs(2)).await;
        if cpu_seconds(pid) - before < 0.1 {
            return;
        }
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Ends with what owns it.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for the line that names the API; what comes after it is read and dropped.
fn api_address(server: &mut Child) -> String {
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    let mut log = String::new();
    let up = lines.by_ref().map_while(Result::ok).find_map(|line| {
        log.push_str(&line);
        log.push('\n');
        let (_, rest) = line.split_once("Weir is up: ")?;
        rest.split_whitespace().next().map(str::to_owned)
    });
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    up.unwrap_or_else(|| panic!("weir did not start:\n{log}"))
}

/// User and system time so far.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name, in brackets, may hold anything; the third field follows it.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |n: usize| fields[n - 3].parse::<f64>().unwrap();
    (ticks(14) + ticks(15)) / TICKS_PER_SECOND
}

/// Most resident memory so far.
fn peak_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// What the disk takes when each MiB is fsynced.
fn disk_bytes_per_second(dir: &Path) -> f64 {
    const BLOCK: usize = 1 << 20;
    const BLOCKS: usize = 256;
    let path: PathBuf = dir.join("limit");
    let mut file = File::create(path).unwrap();
    // Not zeros: some disks are quicker at those.
    let block: Vec<u8> = (0..BLOCK).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let start = Instant::now();
    for _ in 0..BLOCKS {
        file.write_all(&block).unwrap();
        file.sync_data().unwrap();
    }
    (BLOCK * BLOCKS) as f64 / start.elapsed().as_secs_f64()
}
