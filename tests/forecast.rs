//! The shipped example of `pipelines.d/examples/forecast.toml`: its own tests pass, an alert follows from what is
//! foretold, and that is the same whether the server was killed meanwhile or not.

use serde_json::{Value, json};

use crate::harness::{Server, request};

const EXAMPLE: &str = include_str!("../pipelines.d/examples/forecast.toml");

const SOURCES: &str = r#"
[sources.otlp]
type = "otlp"
http = "127.0.0.1:0"
"#;

const HOSTS: [&str; 2] = ["a", "b"];
const POINTS: i64 = 200;
const STEP_NS: i64 = 900_000_000_000;
/// 2026-03-02T00:00:00Z.
const START_NS: i64 = 1_772_409_600_000_000_000;

/// One disk that fills, and one that does not.
fn value(host: &str, point: i64) -> f64 {
    let noise = (point * 7_919 % 101) as f64 / 10_000.0;
    if host == "a" { 0.5 + point as f64 * 0.002 + noise } else { 0.4 + noise }
}

fn send(server: &Server, points: std::ops::Range<i64>) {
    let resource = |host: &&str| {
        let points: Vec<Value> = points
            .clone()
            .map(|i| {
                let time = (START_NS + i * STEP_NS).to_string();
                json!({ "timeUnixNano": time, "asDouble": value(host, i) })
            })
            .collect();
        let metric =
            json!({ "name": "system.filesystem.utilization", "gauge": { "dataPoints": points } });
        json!({
            "resource": { "attributes": [{ "key": "host.name", "value": { "stringValue": host } }] },
            "scopeMetrics": [{ "metrics": [metric] }],
        })
    };
    let body = json!({ "resourceMetrics": HOSTS.iter().map(resource).collect::<Vec<_>>() });
    let url = format!("http://{}/v1/metrics", server.address("otlp"));
    let headers = [("content-type", "application/json")];
    let reply = request("POST", &url, &headers, body.to_string().into());
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// What is said of both disks at the end of the step before `point`.
fn said(server: &Server, point: i64) -> Vec<Value> {
    let sql = format!(
        "SELECT host.name, value, forecast.value, forecast.low, forecast.high, forecast.crosses_in, \
         forecast.crosses_in_low, forecast.method, forecast.mase, forecast.coverage FROM filling \
         WHERE timestamp = to_timestamp_nanos({}) ORDER BY host.name",
        START_NS + point * STEP_NS
    );
    server.wait_sql(&sql, |rows| rows.len() == HOSTS.len())
}

#[test]
fn forecasts_survive_a_kill() {
    let files = [("sources", SOURCES), ("forecast", EXAMPLE)];
    let whole = Server::start(&files, None);
    let (code, text) = whole.weir(&["test"]);
    assert_eq!(code, Some(0), "{text}");
    let ends = [60, 90, 150, POINTS];
    let mut from = 0;
    for end in ends {
        send(&whole, from..end);
        said(&whole, end - 1);
        from = end;
    }
    let expected = said(&whole, POINTS - 1);
    // At 0.002 a step from about 0.9 on.
    let crosses = expected[0]["forecast.crosses_in"].as_f64().unwrap();
    assert!((crosses / 900.0 - 25.0).abs() < 5.0, "{crosses}");
    assert_eq!(expected[1]["forecast.crosses_in"], Value::Null);

    let mut killed = Server::start(&files, None);
    from = 0;
    for end in ends {
        send(&killed, from..end);
        said(&killed, end - 1);
        killed.kill9();
        killed.restart();
        from = end;
    }
    assert_eq!(said(&killed, POINTS - 1), expected);
}
