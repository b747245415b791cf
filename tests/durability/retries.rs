//! A request that comes again because its answer was lost.

use std::io::Write;
use std::net::TcpStream;

use serde_json::json;

use super::load::{SOURCES, nanoseconds};
use super::{pass, remote_write};
use crate::harness::{Server, request};

const TABLES: &str = r#"
[sinks.logs_table]
type = "store"
inputs = ["otlp.logs"]
table = "lines"

[sinks.points_table]
type = "store"
inputs = ["otlp.metrics", "prometheus.metrics"]
table = "points"

[sinks.spans_table]
type = "store"
inputs = ["otlp.spans"]
table = "spans"
"#;

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// One request of each kind, always the same bytes.
struct Requests {
    /// Path at the source `otlp`, body.
    otlp: [(&'static str, Vec<u8>); 4],
    remote_write: Vec<u8>,
}

impl Requests {
    fn new() -> Self {
        let time = nanoseconds().to_string();
        let line = json!({"timeUnixNano": time, "body": {"stringValue": "twice is twice"}});
        let span = json!({
            "traceId": format!("{:032x}", 1),
            "spanId": format!("{:016x}", 1),
            "name": "GET /",
            "startTimeUnixNano": time,
            "endTimeUnixNano": time,
        });
        let gauge = |name: &str, point| {
            let metric = json!({"name": name, "gauge": {"dataPoints": [point]}});
            json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]})
        };
        let stamped = gauge("stamped", json!({"timeUnixNano": time, "asDouble": 1.0}));
        // Each time that it comes it is a point of another time.
        let bare = gauge("bare", json!({"asDouble": 1.0}));
        let logs = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [line]}]}]});
        let spans = json!({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]});
        let bodies = [
            ("/v1/logs", logs),
            ("/v1/traces", spans),
            ("/v1/metrics", stamped),
            ("/v1/metrics", bare),
        ];
        Self {
            otlp: bodies.map(|(path, body)| (path, body.to_string().into_bytes())),
            remote_write: remote_write::body("written", "series", &[("a", 1.0)]),
        }
    }

    fn send(&self, server: &Server) {
        let otlp = server.address("otlp");
        for (path, body) in &self.otlp {
            let reply = request("POST", &format!("http://{otlp}{path}"), &JSON, body.clone());
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        }
        let url = format!("http://{}/api/v1/write", server.address("prometheus"));
        let reply = request("POST", &url, &remote_write::HEADERS, self.remote_write.clone());
        assert_eq!(reply.status, 204, "{}", reply.text());
    }

    /// Sends without waiting for an answer.
    fn send_and_leave(&self, server: &Server) {
        for (path, body) in &self.otlp {
            let mut stream = TcpStream::connect(server.address("otlp")).unwrap();
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: weir\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        }
    }
}

/// How often each kind is there: lines, spans, points of the three names.
fn counts(server: &Server) -> [u64; 5] {
    pass(server);
    [
        "lines",
        "spans",
        "points WHERE metric.name = 'stamped'",
        "points WHERE metric.name = 'bare'",
        "points WHERE metric.name = 'written'",
    ]
    .map(|of| {
        let rows = server.sql(&format!("SELECT count(*) AS c FROM {of}"));
        rows[0]["c"].as_u64().unwrap()
    })
}

/// The number of repetitions that a source tells of.
fn repeated(server: &Server, source: &str) -> u64 {
    let metrics = server.get("/metrics").text();
    let of = format!("component=\"{source}\"");
    let is = |l: &&str| l.starts_with("weir_component_repeated_total{") && l.contains(&of);
    let line = metrics.lines().find(is).unwrap_or_else(|| panic!("{metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_retry_whose_answer_was_lost_is_not_doubled() {
    let mut server = Server::start(&[("sources", SOURCES), ("work", TABLES)], None);
    let requests = Requests::new();
    requests.send(&server);
    requests.send(&server);
    assert_eq!(counts(&server), [2, 1, 1, 2, 1]);
    assert_eq!((repeated(&server, "otlp"), repeated(&server, "prometheus")), (2, 1));

    // The answer was lost with the process.
    server.kill9();
    server.restart();
    requests.send(&server);
    assert_eq!(counts(&server), [3, 1, 1, 3, 1]);
    server.restart();
    requests.send(&server);
    assert_eq!(counts(&server), [4, 1, 1, 4, 1]);
}

#[test]
fn a_sender_that_does_not_wait_and_comes_again_is_not_doubled() {
    let server = Server::start(&[("sources", SOURCES), ("work", TABLES)], None);
    let requests = Requests::new();
    for _ in 0..10 {
        requests.send_and_leave(&server);
    }
    requests.send(&server);
    let [lines, spans, stamped, bare, written] = counts(&server);
    assert_eq!([spans, stamped, written], [1, 1, 1]);
    assert!(lines >= 1 && bare >= 1);
}
