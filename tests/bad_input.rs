//! Bad input: a clear error or the documented handling, the process alive, and good data beside
//! it kept.

mod bodies;
mod sources;
mod syslog;
mod times;
mod values;

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Reply, Server, request};

const PIPELINE: &str = r#"
[sources.otlp]
type = "otlp"
http = "127.0.0.1:0"

[sources.prometheus]
type = "prometheus_remote_write"
listen = "127.0.0.2:0"

[sources.syslog_udp]
type = "syslog"
listen = "127.0.0.1:0"

[sources.syslog_tcp]
type = "syslog"
listen = "127.0.0.3:0"
protocol = "tcp"

[sinks.logs]
type = "store"
inputs = ["otlp.logs", "syslog_udp.logs", "syslog_tcp.logs"]
table = "logs"

[sinks.metrics]
type = "store"
inputs = ["otlp.metrics", "prometheus.metrics"]
table = "metrics"

[operators.per_second]
type = "window"
inputs = ["otlp.logs"]
every = "1s"
lateness = "1s"
[operators.per_second.aggregate]
total = "count(*)"

[sinks.windows]
type = "store"
inputs = ["per_second"]
table = "windows"
"#;

/// A server that is sent good rows between the bad ones.
struct Bench {
    server: Server,
    otlp: String,
    write: String,
    good: usize,
}

impl Bench {
    fn start() -> Self {
        let server = Server::start(&[("bad", PIPELINE)], None);
        let otlp = format!("http://{}", server.address("otlp"));
        let write = format!("http://{}/api/v1/write", server.address("prometheus"));
        let mut bench = Self { server, otlp, write, good: 0 };
        bench.good();
        bench
    }

    /// Sends a good row; it must be taken whatever came before.
    fn good(&mut self) {
        let reply = self.logs(&json!([{ "body": { "stringValue": "good" } }]));
        assert_eq!(reply.status, 200, "{}", reply.text());
        self.good += 1;
    }

    /// Sends log records, as OTLP JSON has them.
    fn logs(&self, records: &Value) -> Reply {
        let body = json!({ "resourceLogs": [{ "scopeLogs": [{ "logRecords": records }] }] });
        self.otlp("/v1/logs", "application/json", body.to_string())
    }

    /// Sends a gauge with these points.
    fn gauge(&self, name: &str, points: &Value) -> Reply {
        let metric = json!({ "name": name, "gauge": { "dataPoints": points } });
        let body = json!({ "resourceMetrics": [{ "scopeMetrics": [{ "metrics": [metric] }] }] });
        self.otlp("/v1/metrics", "application/json", body.to_string())
    }

    fn otlp(&self, path: &str, content_type: &str, body: impl AsRef<[u8]>) -> Reply {
        let headers = [("content-type", content_type)];
        request("POST", &format!("{}{path}", self.otlp), &headers, body.as_ref().into())
    }

    /// Most memory that the process ever had, in bytes.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    /// The process is alive, and every good row is there once; also after a stop and a start.
    fn finish(mut self) {
        self.good();
        let good = "SELECT count(*) AS n FROM logs WHERE body = 'good'";
        for restarted in [false, true] {
            if restarted {
                self.server.stop();
                self.server.restart();
            }
            self.server.wait_sql(good, |r| r.first().is_some_and(|r| r["n"] == self.good));
            self.server.assert_runs();
        }
        let log = self.server.stderr();
        assert!(!log.contains("panicked"), "{log}");
    }
}
