//! Servers that are measured: Weir, VictoriaMetrics, Prometheus.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// `USER_HZ`, the unit of times in `/proc/PID/stat`; 100 on every Linux architecture of today.
const TICKS_PER_SECOND: f64 = 100.0;
/// What the server may take: a peer takes what it likes.
pub(super) const MEMORY: &str = "4GiB";

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
pub(super) struct Measured {
    pub(super) rows: f64,
    pub(super) rows_per_second: f64,
    /// CPU time of the server for all of it, until nothing was left to do.
    pub(super) cpu: f64,
    /// Most resident memory of the server, bytes.
    pub(super) peak: u64,
    pub(super) p99_ms: f64,
}

impl Measured {
    /// What `weir load` told of a load that `server` took; `before`: its CPU time before it.
    pub(super) fn new(told: &Value, server: &Process, before: f64) -> Self {
        Self {
            rows: told["rows"].as_f64().unwrap(),
            rows_per_second: told["rows_per_second"].as_f64().unwrap(),
            cpu: server.cpu_seconds() - before,
            peak: server.peak_bytes(),
            p99_ms: told["answered_ms"]["p99"].as_f64().unwrap(),
        }
    }

    pub(super) fn cpu_per_million(&self) -> f64 {
        self.cpu * 1e6 / self.rows
    }
}

/// A Weir that runs [`PIPELINE`].
pub(super) struct Weir {
    server: Process,
    pub(super) api: String,
    pub(super) client: reqwest::Client,
    dir: tempfile::TempDir,
}

impl Weir {
    pub(super) async fn start() -> Self {
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
        let weir = Self { server, api, client, dir };
        let reload = &weir.status().await["reload"];
        assert_eq!(reload["ok"], true, "{reload}");
        weir
    }

    async fn status(&self) -> Value {
        let answer = self.client.get(format!("{}/api/v1/status", self.api)).send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    }

    /// Where `source` listens for a scheme.
    pub(super) async fn address(&self, source: &str, scheme: &str) -> String {
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

    pub(super) async fn load(
        &self,
        arguments: &[&str],
        source: &str,
        scheme: &str,
        path: &str,
    ) -> Measured {
        let to = format!("{scheme}://{}{path}", self.address(source, scheme).await);
        let before = self.server.cpu_seconds();
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let api = self.api.clone();
        let sent = move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            load(&arguments, &to, &["--check", &api])
        };
        let told = tokio::task::spawn_blocking(sent).await.unwrap();
        assert_eq!(told["found"], told["rows"], "{told}");
        self.settle().await;
        Measured::new(&told, &self.server, before)
    }

    /// The answer to `sql`, or what is wrong.
    pub(super) async fn answer(&self, sql: &str) -> Result<Value, Value> {
        let url = format!("{}/api/v1/sql", self.api);
        let answer = self.client.post(url).body(sql.to_owned()).send().await.unwrap();
        let ok = answer.status().is_success();
        let answer: Value = answer.json().await.unwrap();
        if ok { Ok(answer) } else { Err(answer) }
    }

    fn stop(&mut self) {
        let pid = self.server.0.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        assert!(self.server.0.wait().unwrap().success());
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What a command on the data folder of the server, which is stopped, tells.
    fn command(&self, arguments: &[&OsStr]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(arguments)
            .arg("--config")
            .arg(self.dir.path().join("weir.toml"))
            .arg("--data")
            .arg(self.data())
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Stops it and writes each table to a file `TABLE.parquet` in `folder`.
    pub(super) fn export(mut self, tables: &[&str], folder: &Path) {
        self.stop();
        for table in tables {
            let file = folder.join(format!("{table}.parquet"));
            self.command(&["export".as_ref(), table.as_ref(), file.as_os_str()]);
        }
    }

    /// Stops it, merges all files as far as they go, and says what became of each table: rows, and
    /// bytes of all that is kept of it.
    pub(super) fn into_rest(mut self) -> Vec<(String, u64, u64)> {
        self.stop();
        let (data, told) = (self.data(), self.command(&["merge".as_ref()]));
        // `metrics: 16 files into 1, 543000 rows, 400000 bytes`
        let table = |line: &str| {
            let (name, rest) = line.split_once(": ")?;
            let rows = rest.split(", ").nth(1)?.split(' ').next()?.parse().ok()?;
            let bytes = folder_bytes(&data.join("tables/default").join(name));
            Some((name.to_owned(), rows, bytes))
        };
        told.lines().map(|line| table(line).expect(line)).collect()
    }

    /// Until all is in files and merges are done.
    pub(super) async fn settle(&self) {
        let head = self.status().await["journal"]["head"].as_u64().unwrap();
        while self.status().await["pipelines"][0]["committed"].as_u64().unwrap_or(u64::MAX) < head {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        idle(&self.server).await;
    }
}

/// `weir load`: what it says of it.
pub(super) fn load(arguments: &[&str], to: &str, more: &[&str]) -> Value {
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

/// A server that takes Prometheus remote write and answers PromQL.
pub(super) struct Peer {
    pub(super) server: Process,
    pub(super) url: String,
    pub(super) client: reqwest::Client,
    /// Where its data is.
    pub(super) dir: tempfile::TempDir,
}

impl Peer {
    /// `None` if it is not installed.
    pub(super) async fn victoria_metrics() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let server = Command::new("victoria-metrics")
            .arg(format!("-httpListenAddr=127.0.0.1:{port}"))
            .arg(format!("-storageDataPath={}", dir.path().display()))
            .args(["-retentionPeriod=1", "-search.maxUniqueTimeseries=1000000"])
            .args(["-search.maxQueryDuration=10m", "-search.latencyOffset=0s"])
            .stderr(Stdio::null())
            .spawn();
        Some(Self::ready(server.ok()?, port, "/health", dir).await)
    }

    /// `None` if it is not installed.
    pub(super) async fn prometheus() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("prometheus.yml");
        std::fs::write(&config, "global: {}\n").unwrap();
        let port = free_port();
        let server = Command::new("prometheus")
            .args(["--web.enable-remote-write-receiver", "--query.timeout=10m"])
            .arg("--web.enable-admin-api")
            .arg("--query.max-samples=5000000000")
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .stderr(Stdio::null())
            .spawn();
        Some(Self::ready(server.ok()?, port, "/-/ready", dir).await)
    }

    async fn ready(server: Child, port: u16, path: &str, dir: tempfile::TempDir) -> Self {
        let client = reqwest::Client::new();
        let url = format!("http://127.0.0.1:{port}");
        wait_for(&client, &format!("{url}{path}")).await;
        Self { server: Process(server), url, client, dir }
    }
}

pub(super) async fn wait_for(client: &reqwest::Client, url: &str) {
    while !client.get(url).send().await.is_ok_and(|a| a.status().is_success()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Until a process has done next to nothing for two seconds, at most a minute.
pub(super) async fn idle(server: &Process) {
    for _ in 0..30 {
        let before = server.cpu_seconds();
        tokio::time::sleep(Duration::from_secs(2)).await;
        if server.cpu_seconds() - before < 0.1 {
            return;
        }
    }
}

pub(super) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Bytes of all files below `path`.
pub(super) fn folder_bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Ends with what owns it.
pub(super) struct Process(pub(super) Child);

impl Process {
    /// User and system time so far.
    pub(super) fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        // The name, in brackets, may hold anything; the third field follows it.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |n: usize| fields[n - 3].parse::<f64>().unwrap();
        (ticks(14) + ticks(15)) / TICKS_PER_SECOND
    }

    /// Most resident memory so far.
    fn peak_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    }
}

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
