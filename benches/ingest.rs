//! Ingest: Prometheus remote write over HTTP through the journal (fsynced), a window and the
//! store, against the real binary. Prints samples per second and CPU seconds per million samples
//! of the server, beside what the disk and snappy alone would allow in the same minute, and beside
//! a Prometheus under the same load where one is installed.
//!
//! `make bench`; `WEIR_BENCH_SAMPLES` sets the number of samples (default 4,000,000). Nothing is
//! asserted about time; that each accepted sample is in the table is.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Series, ten labels each.
const SERIES: usize = 10_000;
/// Samples of one request, one per series: what Prometheus sends by default.
const REQUEST_SAMPLES: usize = 2_000;
/// Each connection sends its share of the series in order, as the queue shards of Prometheus do.
const CONNECTIONS: usize = SERIES / REQUEST_SAMPLES;
/// Time between two samples of a series, milliseconds: fast, so that windows open and close.
const STEP_MS: i64 = 100;
/// `USER_HZ`, the unit of times in `/proc/PID/stat`; 100 on every Linux architecture of today.
const TICKS_PER_SECOND: f64 = 100.0;

const PIPELINE: &str = r#"
[sources.prometheus]
type = "prometheus_remote_write"
listen = "127.0.0.1:0"

[operators.by_job]
type = "window"
inputs = ["prometheus.metrics"]
every = "10s"
group_by = ["job"]
[operators.by_job.aggregate]
samples = "count(*)"
total = "sum(value)"

[sinks.metrics]
type = "store"
inputs = ["prometheus.metrics"]
table = "metrics"

[sinks.jobs]
type = "store"
inputs = ["by_job"]
table = "jobs"
"#;

/// Request bodies, by connection, in order.
type Bodies = Arc<Vec<Vec<Vec<u8>>>>;

/// What a run gave.
struct Measured {
    /// From the first request to the last acknowledgement.
    acknowledged: Duration,
    /// CPU time of the server for all of it.
    cpu: f64,
    /// Most resident memory of the server, bytes.
    peak: u64,
}

fn main() {
    let samples: usize = std::env::var("WEIR_BENCH_SAMPLES")
        .map_or(4_000_000, |n| n.parse().expect("WEIR_BENCH_SAMPLES is a number"));
    let rounds = samples.div_ceil(SERIES).max(1);
    let samples = rounds * SERIES;
    // As the binary's own `main` does: reqwest asks for it.
    rustls::crypto::ring::default_provider().install_default().expect("the first to ask");
    let bodies = bodies(rounds);
    let sent: usize = bodies.iter().flatten().map(Vec::len).sum();
    println!(
        "{samples} samples of {SERIES} series with 10 labels, {REQUEST_SAMPLES} a request, \
         {CONNECTIONS} connections, {:.1} bytes a sample as sent",
        sent as f64 / samples as f64
    );
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();

    let disk = disk_bytes_per_second(dir.path());
    let disk_samples = disk / (sent as f64 / samples as f64);
    println!("\nlimits of this machine");
    println!(
        "  disk, 1 MiB writes each fsynced   {:>9.1} MB/s = {disk_samples:>11.0} samples/s",
        disk / 1e6
    );
    let snappy = snappy_seconds(&bodies);
    println!(
        "  snappy alone, one core            {:>23.0} samples/s = {:.3} CPU s per million",
        samples as f64 / snappy,
        snappy * 1e6 / samples as f64
    );

    let weir = runtime.block_on(weir(dir.path(), bodies.clone(), samples));
    let rate = print("weir (journal, window, store)", &weir, samples);
    println!("  of the disk limit                 {:>22.1} %", 100.0 * rate / disk_samples);
    match runtime.block_on(prometheus(dir.path(), bodies, samples)) {
        Some(peer) => {
            let peer_rate = print("prometheus (write-ahead log, head)", &peer, samples);
            println!("\nweir / prometheus: {:.2} x the samples per second", rate / peer_rate);
            println!("                   {:.2} x the CPU", weir.cpu / peer.cpu);
        }
        None => println!("\nprometheus is not installed: no peer to compare with"),
    }
}

fn print(name: &str, measured: &Measured, samples: usize) -> f64 {
    let rate = samples as f64 / measured.acknowledged.as_secs_f64();
    println!("\n{name}");
    println!("  acknowledged                      {rate:>23.0} samples/s");
    let cpu = measured.cpu * 1e6 / samples as f64;
    println!("  CPU of the server                 {cpu:>23.3} s per million samples");
    println!("  resident memory, at most          {:>23} MiB", measured.peak >> 20);
    rate
}

/// Sends through Weir; ends when all is in files, and checks that it is.
async fn weir(dir: &Path, bodies: Bodies, samples: usize) -> Measured {
    let pipelines = dir.join("pipelines.d");
    std::fs::create_dir(&pipelines).unwrap();
    let file = pipelines.join("bench.toml");
    std::fs::write(&file, PIPELINE).unwrap();
    let mut server = Process(
        Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["run", "--listen", "127.0.0.1:0", "--pipelines"])
            .arg(&pipelines)
            .arg("--data")
            .arg(dir.join("data"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts"),
    );
    let api = api_address(&mut server.0);
    let client = reqwest::Client::new();
    wait_for(&client, &format!("{api}/readyz")).await;
    let status = || async {
        let answer = client.get(format!("{api}/api/v1/status")).send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    };
    let reload = &status().await["reload"];
    assert_eq!(reload["ok"], true, "{reload}");
    let listens = status().await["sources"][0]["listens"][0].as_str().unwrap().to_owned();
    let address = listens.split([' ', '/']).find(|part| part.contains("127.0.0.1:")).unwrap();
    let url = format!("http://{address}/api/v1/write");

    let before = cpu_seconds(server.0.id());
    let acknowledged = send(&client, &url, bodies).await;
    // What is in the journal now has to pass the pipeline, too.
    let head = status().await["journal"]["head"].as_u64().unwrap();
    while status().await["pipelines"][0]["position"].as_u64().unwrap() < head {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // An edit makes a mark: state is saved, hot rows become files.
    std::fs::write(&file, PIPELINE.replace("every =", "max_groups = 50000\nevery =")).unwrap();
    let outcome = client.post(format!("{api}/api/v1/reload")).send().await.unwrap();
    let outcome: Value = outcome.json().await.unwrap();
    assert_eq!(outcome["ok"], true, "{outcome}");
    let cpu = cpu_seconds(server.0.id()) - before;
    let peak = peak_bytes(server.0.id());

    let count = client.post(format!("{api}/api/v1/sql")).body("SELECT count(*) AS n FROM metrics");
    let count: Value = count.send().await.unwrap().json().await.unwrap();
    assert_eq!(count["rows"][0]["n"], samples, "each accepted sample is in the table: {count}");
    Measured { acknowledged, cpu, peak }
}

/// The same through Prometheus, if there is one.
async fn prometheus(dir: &Path, bodies: Bodies, samples: usize) -> Option<Measured> {
    let config = dir.join("prometheus.yml");
    std::fs::write(&config, "global: {}\n").unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Command::new("prometheus")
        .arg("--web.enable-remote-write-receiver")
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()))
        .stderr(Stdio::null())
        .spawn();
    let server = Process(server.ok()?);
    let client = reqwest::Client::new();
    let url = format!("http://127.0.0.1:{port}");
    wait_for(&client, &format!("{url}/-/ready")).await;
    let before = cpu_seconds(server.0.id());
    let acknowledged = send(&client, &format!("{url}/api/v1/write"), bodies).await;
    let cpu = cpu_seconds(server.0.id()) - before;
    let peak = peak_bytes(server.0.id());
    let end = now_ms() / 1000 + 3600;
    let query = [
        ("query", "sum(count_over_time({job=~\"job.*\"}[3h]))".to_owned()),
        ("time", end.to_string()),
    ];
    let count = client.get(format!("{url}/api/v1/query")).query(&query).send().await.unwrap();
    let count: Value = count.json().await.unwrap();
    let count = count["data"]["result"][0]["value"][1].as_str().unwrap_or("none").to_owned();
    assert_eq!(count, samples.to_string(), "prometheus has each sample");
    Some(Measured { acknowledged, cpu, peak })
}

async fn wait_for(client: &reqwest::Client, url: &str) {
    while !client.get(url).send().await.is_ok_and(|a| a.status().is_success()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
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

/// Sends all bodies; each has to be accepted. How long it took.
async fn send(client: &reqwest::Client, url: &str, bodies: Bodies) -> Duration {
    let start = Instant::now();
    let connections = (0..CONNECTIONS).map(|c| {
        let (client, url, bodies) = (client.clone(), url.to_owned(), bodies.clone());
        tokio::spawn(async move {
            for body in &bodies[c] {
                let request = client
                    .post(&url)
                    .header("content-encoding", "snappy")
                    .header("content-type", "application/x-protobuf")
                    .header("x-prometheus-remote-write-version", "0.1.0")
                    .body(body.clone());
                let answer = request.send().await.expect("an answer");
                let status = answer.status();
                let text = answer.text().await.unwrap_or_default();
                assert!(status.is_success(), "{status}: {text}");
            }
        })
    });
    for connection in connections.collect::<Vec<_>>() {
        connection.await.unwrap();
    }
    start.elapsed()
}

fn bodies(rounds: usize) -> Bodies {
    let heads: Vec<Vec<u8>> = (0..SERIES).map(series).collect();
    let start = now_ms();
    let body = |connection: usize, round: usize| {
        let mut request = Vec::new();
        let first = connection * REQUEST_SAMPLES;
        for (s, head) in heads.iter().enumerate().skip(first).take(REQUEST_SAMPLES) {
            let mut sample = vec![0x09];
            sample.extend(((round * (s % 100)) as f64 * 0.25).to_le_bytes());
            sample.push(0x10);
            varint(&mut sample, (start + round as i64 * STEP_MS).cast_unsigned());
            let mut message = head.clone();
            field(&mut message, 2, &sample);
            field(&mut request, 1, &message);
        }
        snap::raw::Encoder::new().compress_vec(&request).unwrap()
    };
    Arc::new((0..CONNECTIONS).map(|c| (0..rounds).map(|r| body(c, r)).collect()).collect())
}

/// The labels of a series, in order of their names, as fields of a `TimeSeries`.
fn series(s: usize) -> Vec<u8> {
    let labels = [
        ("__name__", format!("bench_requests_{}", s % 100)),
        ("cluster", "eu-west-1a".to_owned()),
        ("container", format!("container-{}", s % 7)),
        ("endpoint", format!("/api/v1/resource/{}", s % 50)),
        ("env", "production".to_owned()),
        ("instance", format!("10.0.{}.{}:9100", s / 250 % 250, s % 250)),
        ("job", format!("job-{}", s % 20)),
        ("namespace", format!("namespace-{}", s % 13)),
        ("pod", format!("pod-{s}-7d9f8b6c5-x2x4z")),
        ("region", "eu-west-1".to_owned()),
    ];
    let mut out = Vec::new();
    for (name, value) in labels {
        let mut label = Vec::new();
        field(&mut label, 1, name.as_bytes());
        field(&mut label, 2, value.as_bytes());
        field(&mut out, 1, &label);
    }
    out
}

/// A field of protobuf that holds bytes.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n > 0x7f {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
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

/// What the journal's disk takes when each MiB is fsynced.
fn disk_bytes_per_second(dir: &Path) -> f64 {
    const BLOCK: usize = 1 << 20;
    const BLOCKS: usize = 256;
    let mut file = File::create(dir.join("limit")).unwrap();
    // Not zeros: some disks are quicker at those.
    let block: Vec<u8> = (0..BLOCK).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let start = Instant::now();
    for _ in 0..BLOCKS {
        file.write_all(&block).unwrap();
        file.sync_data().unwrap();
    }
    (BLOCK * BLOCKS) as f64 / start.elapsed().as_secs_f64()
}

/// Time that one core takes to uncompress all bodies.
fn snappy_seconds(bodies: &Bodies) -> f64 {
    let start = Instant::now();
    for body in bodies.iter().flatten() {
        std::hint::black_box(snap::raw::Decoder::new().decompress_vec(body).unwrap());
    }
    start.elapsed().as_secs_f64()
}
