//! `weir load` sends over each protocol, and what was acknowledged is there.

use std::process::Command;

use serde_json::Value;

use crate::durability::load::SOURCES;
use crate::harness::{Server, binary};

const TABLES: &str = r#"
[sinks.metrics]
type = "store"
inputs = ["prometheus.metrics", "otlp.metrics"]
table = "metrics"

[sinks.logs]
type = "store"
inputs = ["otlp.logs", "syslog.logs"]
table = "logs"

[sinks.spans]
type = "store"
inputs = ["otlp.spans"]
table = "spans"
"#;

/// Sends and counts; what it says of it.
fn load(server: &Server, what: &str, to: &str, more: &[&str]) -> Value {
    let output = Command::new(binary())
        .args(["load", what, "--to", to, "--json", "--check", &server.url])
        .args(more)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{what}: {text}{error}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn what_is_acknowledged_is_counted_and_there() {
    let server = Server::start(&[("sources", SOURCES), ("tables", TABLES)], None);
    let otlp = format!("http://{}", server.address("otlp"));
    let remote_write = format!("http://{}/api/v1/write", server.address("prometheus"));
    let syslog = format!("tcp://{}", server.address("syslog"));
    let some = ["--count", "5000", "--per-request", "500"];
    for (what, to, more) in [
        ("remote-write", &remote_write, [&some[..], &["--series", "1000"]].concat()),
        (
            "remote-write",
            &remote_write,
            [&some[..], &["--series", "1000", "--churn", "60000"]].concat(),
        ),
        ("logs", &otlp, some.to_vec()),
        ("spans", &otlp, some.to_vec()),
        ("points", &otlp, some.to_vec()),
        ("syslog", &syslog, vec!["--count", "5000"]),
        ("syslog", &syslog, vec!["--count", "5000", "--format", "rfc3164"]),
        ("logs", &otlp, vec!["--for", "500ms", "--rate", "1000", "--per-request", "100"]),
    ] {
        let told = load(&server, what, to, &more);
        let rows = told["rows"].as_u64().unwrap();
        assert_eq!(told["found"], told["rows"], "{what}: {told}");
        let limit = if more[0] == "--count" { 5_000..=9_000 } else { 100..=2_000 };
        assert!(limit.contains(&rows), "{what}: {told}");
    }
}

#[test]
fn history_is_spread_over_the_past() {
    let server = Server::start(&[("sources", SOURCES), ("tables", TABLES)], None);
    let otlp = format!("http://{}", server.address("otlp"));
    let remote_write = format!("http://{}/api/v1/write", server.address("prometheus"));
    let past = ["--over", "10h", "--count", "10000", "--per-request", "500"];
    for (what, to, more, distinct) in [
        ("logs", &otlp, vec![], 9_000),
        ("remote-write", &remote_write, vec!["--series", "1000"], 10),
    ] {
        let told = load(&server, what, to, &[&past[..], &more].concat());
        assert_eq!(told["found"], told["rows"], "{what}: {told}");
        let table = if what == "logs" { "logs" } else { "metrics" };
        let sql = format!(
            "SELECT count(DISTINCT timestamp) AS times, count(DISTINCT date_bin(interval '1 hour', \
             timestamp, now() - interval '10 hour')) AS hours, max(timestamp) <= now() AS past \
             FROM {table}"
        );
        let row = &server.sql(&sql)[0];
        assert!(row["times"].as_u64().unwrap() >= distinct, "{what}: {row}");
        assert!((10..=11).contains(&row["hours"].as_u64().unwrap()), "{what}: {row}");
        assert_eq!(row["past"], true, "{what}: {row}");
    }
}

#[test]
fn a_server_that_is_not_there_is_said() {
    let output = Command::new(binary())
        .args(["load", "logs", "--to", "http://127.0.0.1:1", "--count", "1"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("cannot connect to 127.0.0.1:1"), "{error}");
}
