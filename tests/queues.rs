//! Logs of messages, read and written: real servers, and deaths on either side. Each message is in
//! Weir once, and each row there at least once.

mod fluvio;
mod kafka;
mod nats;
mod tls;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::durability::load::nanoseconds;
use crate::harness::{Server, request, wait};

/// Compares the numbers in column `n` of a table with `0..count`, each of them once.
fn assert_each_once(server: &Server, table: &str, count: i64) {
    let sql = format!("SELECT n FROM {table}");
    let rows = server.wait_sql(&sql, |rows| rows.len() as i64 >= count);
    let found = rows.iter().map(|row| row["n"].as_i64().unwrap());
    assert_numbers(table, found, count);
}

/// Compares numbers with `0..count`, each of them once.
fn assert_numbers(what: &str, found: impl IntoIterator<Item = i64>, count: i64) {
    let mut times: BTreeMap<i64, u32> = BTreeMap::new();
    for n in found {
        *times.entry(n).or_default() += 1;
    }
    let twice: Vec<_> = times.iter().filter(|(_, c)| **c > 1).take(10).collect();
    assert!(twice.is_empty(), "{what}: more than once: {twice:?}");
    let lost: Vec<_> = (0..count).filter(|n| !times.contains_key(n)).take(10).collect();
    assert!(lost.is_empty(), "{what}: lost: {lost:?}");
    assert_eq!(times.len() as i64, count, "{what}: some that nobody sent");
}

/// What the status says of a source, once `enough`.
fn wait_source(server: &Server, source: &str, enough: impl Fn(&Value) -> bool) -> Value {
    wait("the status of the source", || {
        let status = server.status();
        let all = status["components"].as_array().unwrap();
        let is = |c: &&Value| c["component"] == source && c["class"] == "source";
        let reading = all.iter().find(is)?["reading"].clone();
        enough(&reading).then_some(reading)
    })
}

/// Sends log records with the numbers, one request.
fn send(server: &Server, numbers: std::ops::Range<i64>) {
    let record = |n: i64| {
        json!({"timeUnixNano": nanoseconds().to_string(), "body": {"stringValue": "x"},
               "attributes": [{"key": "n", "value": {"intValue": n.to_string()}}]})
    };
    let records: Vec<Value> = numbers.map(record).collect();
    let resource =
        json!({"attributes": [{"key": "service.name", "value": {"stringValue": "my web"}}]});
    let body =
        json!({"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records}]}]});
    let url = format!("http://{}/v1/logs", server.address("otlp"));
    let headers = [("content-type", "application/json")];
    let reply = request("POST", &url, &headers, body.to_string().into_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
}
