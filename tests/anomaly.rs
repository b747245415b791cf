//! The shipped example of `pipelines.d/examples/anomaly.toml`: its own tests pass, and scores in tables are the
//! same whether the server was killed meanwhile or not.

use serde_json::{Value, json};

use crate::harness::{Server, request};

const EXAMPLE: &str = include_str!("../pipelines.d/examples/anomaly.toml");

const SOURCES: &str = r#"
[sources.otlp]
type = "otlp"
http = "127.0.0.1:0"
"#;

const POINTS: i64 = 900;
const SPIKE: i64 = 700;
const STEP_NS: i64 = 300_000_000_000;
/// 2026-03-02T00:00:00Z.
const START_NS: i64 = 1_772_409_600_000_000_000;

/// A flat line with a little on it, and a spike.
fn value(point: i64) -> f64 {
    let noise = (point * 7_919 % 101) as f64 / 50.0;
    50.0 + noise + if point == SPIKE { 40.0 } else { 0.0 }
}

fn send(server: &Server, points: std::ops::Range<i64>) {
    let points: Vec<Value> = points
        .map(|i| json!({ "timeUnixNano": (START_NS + i * STEP_NS).to_string(), "asDouble": value(i) }))
        .collect();
    let metric = json!({ "name": "load", "gauge": { "dataPoints": points } });
    let body = json!({ "resourceMetrics": [{ "scopeMetrics": [{ "metrics": [metric] }] }] });
    let url = format!("http://{}/v1/metrics", server.address("otlp"));
    let headers = [("content-type", "application/json")];
    let reply = request("POST", &url, &headers, body.to_string().into());
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// All that is said of all points, once `count` of them are there.
fn scores(server: &Server, count: i64) -> Vec<Value> {
    let sql = "SELECT timestamp, value, anomaly.score, anomaly.expected, anomaly.low, anomaly.high, \
               anomaly.part, anomaly.state, anomaly.alert FROM unusual ORDER BY timestamp";
    server.wait_sql(sql, |rows| rows.len() as i64 == count)
}

#[test]
fn scores_survive_a_kill() {
    let files = [("sources", SOURCES), ("anomaly", EXAMPLE)];
    let whole = Server::start(&files, None);
    let (code, said) = whole.weir(&["test"]);
    assert_eq!(code, Some(0), "{said}");
    send(&whole, 0..POINTS);
    let expected = scores(&whole, POINTS);
    let alerts: Vec<usize> = (0..expected.len())
        .filter(|i| expected[*i]["anomaly.alert"] == Value::Bool(true))
        .collect();
    assert_eq!(alerts, [SPIKE as usize]);

    let mut killed = Server::start(&files, None);
    for (from, to) in [(0, 300), (300, 650), (650, SPIKE), (SPIKE, POINTS)] {
        send(&killed, from..to);
        killed.kill9();
        killed.restart();
    }
    assert_eq!(scores(&killed, POINTS), expected);
}
