//! A window over a stream gives what a plain GROUP BY over the stored rows gives.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::assert_rows;
use crate::harness::{Server, request};

const PIPELINE: &str = r#"
[sources.otlp]
type = "otlp"
http = "127.0.0.1:0"

[operators.tumbling]
type = "window"
inputs = ["otlp.logs"]
every = "1s"
lateness = "2s"
group_by = ["service.name"]
[operators.tumbling.aggregate]
total = "count(*)"
errors = "count(*) FILTER (WHERE severity_number >= 17)"
bytes = "sum(size)"
smallest = "min(size)"
largest = "max(size)"
mean = "avg(size)"

[operators.hopping]
type = "window"
inputs = ["otlp.logs"]
every = "1s"
over = "3s"
lateness = "2s"
group_by = ["service.name"]
[operators.hopping.aggregate]
total = "count(*)"
errors = "count(*) FILTER (WHERE severity_number >= 17)"
bytes = "sum(size)"
smallest = "min(size)"
largest = "max(size)"
mean = "avg(size)"

[sinks.logs]
type = "store"
inputs = ["otlp.logs"]
table = "logs"

[sinks.tumbling_rows]
type = "store"
inputs = ["tumbling"]
table = "tumbling"

[sinks.hopping_rows]
type = "store"
inputs = ["hopping"]
table = "hopping"

[sinks.late]
type = "store"
inputs = ["tumbling.late"]
table = "late"
"#;

const SERVICES: usize = 5;
/// Rows over this many seconds from now on.
const SECONDS: u64 = 6;
const ROWS: u64 = 3_000;
const LATE: u64 = 40;

#[test]
fn window_equals_group_by() {
    let server = Server::start(&[("window", PIPELINE)], None);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = u64::try_from(now.as_nanos()).unwrap();
    // Times from now on, so that no row is late however slow this machine is. Many requests:
    // cuts do not matter.
    let step = SECONDS * 1_000_000_000 / ROWS;
    for first in (0..ROWS).step_by(250) {
        let times = (first..first + 250).map(|i| (i, now + i * step));
        send(&server, "on time", times);
    }
    // An hour ago every window was emitted.
    send(&server, "late", (0..LATE).map(|i| (i, now - 3_600_000_000_000 + i)));
    let logs = "SELECT count(*) AS n FROM logs";
    server.wait_sql(logs, |r| r[0]["n"] == ROWS + LATE);
    let late = server.wait_sql("SELECT * FROM late", |r| r.len() as u64 == LATE);
    assert!(late.iter().all(|r| r["body"] == "late"), "{late:#?}");

    for (table, length) in [("tumbling", 1_u64), ("hopping", 3)] {
        let complete = format!("SELECT sum(total) AS n FROM {table}");
        server.wait_sql(&complete, |r| r.first().is_some_and(|r| r["n"] == ROWS * length));
        let emitted = server.sql(&format!(
            "SELECT window_start, window_end, service.name, total, errors, bytes, smallest, \
             largest, mean FROM {table} ORDER BY 1, 3"
        ));
        let steps: Vec<String> =
            (0..length).map(|i| format!("SELECT INTERVAL '{i} second' AS back")).collect();
        let grouped = server.sql(&format!(
            "SELECT date_bin(INTERVAL '1 second', timestamp) - back AS window_start, \
             date_bin(INTERVAL '1 second', timestamp) - back + INTERVAL '{length} second' \
               AS window_end, service.name, count(*) AS total, \
             count(*) FILTER (WHERE severity_number >= 17) AS errors, sum(size) AS bytes, \
             min(size) AS smallest, max(size) AS largest, avg(size) AS mean \
             FROM logs CROSS JOIN ({}) AS steps WHERE body <> 'late' \
             GROUP BY 1, 2, 3 ORDER BY 1, 3",
            steps.join(" UNION ALL ")
        ));
        assert!(emitted.len() as u64 >= SECONDS * SERVICES as u64);
        assert_rows(&emitted, &Value::Array(grouped));
    }
}

/// Sends rows (number, time), each of one of the services.
fn send(server: &Server, body: &str, rows: impl Iterator<Item = (u64, u64)>) {
    let mut services: Vec<Vec<Value>> = vec![Vec::new(); SERVICES];
    for (number, time) in rows {
        let record = json!({
            "timeUnixNano": time.to_string(),
            "severityNumber": if number % 7 == 0 { 17 } else { 9 },
            "body": { "stringValue": body },
            "attributes": [{
                "key": "size", "value": { "intValue": (number * number % 1_009).to_string() },
            }],
        });
        services[usize::try_from(number).unwrap() % SERVICES].push(record);
    }
    let resources: Vec<Value> = services
        .into_iter()
        .enumerate()
        .map(|(i, records)| {
            let name =
                json!({ "key": "service.name", "value": { "stringValue": format!("s{i}") } });
            json!({
                "resource": { "attributes": [name] },
                "scopeLogs": [{ "logRecords": records }],
            })
        })
        .collect();
    let url = format!("http://{}/v1/logs", server.address("otlp"));
    let body = serde_json::to_vec(&json!({ "resourceLogs": resources })).unwrap();
    let reply = request("POST", &url, &[("content-type", "application/json")], body);
    assert_eq!(reply.status, 200, "{}", reply.text());
}
