//! An entry that kills the process is found and skipped, and everything else is there.

use serde_json::{Value, json};

use super::load::{Ledger, ROWS, SOURCES, send_logs};
use super::{numbers, pass};
use crate::harness::{Server, request, wait};

/// The process dies at payloads that contain this.
const POISON: &str = "nightshade";

/// Whether every pipeline has read all that there is.
fn caught_up(server: &Server) -> bool {
    let status = server.get("/api/v1/status");
    let pipelines = (status.status == 200).then(|| status.json()["pipelines"].clone());
    let behind = |p: &Value| p["lag_ns"] != 0;
    pipelines.is_some_and(|all| !all.as_array().unwrap().iter().any(behind))
}

#[test]
fn an_entry_that_kills_is_skipped() {
    let work = "[sinks.rows_table]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\ntable = \"rows\"\n";
    let pipelines = [("sources", SOURCES), ("work", work), ("other", work)].map(|(name, text)| {
        let table =
            if name == "other" { text.replace("\"rows\"", "\"others\"") } else { text.into() };
        (name, table)
    });
    let pipelines: Vec<_> = pipelines.iter().map(|(n, t)| (*n, t.as_str())).collect();
    let mut server = Server::start_with(&pipelines, None, &[("WEIR_POISON", POISON)]);
    let to = |server: &Server| format!("http://{}/v1/logs", server.address("otlp"));
    let mut ledger = Ledger::default();
    for first in [0, ROWS] {
        assert_eq!(send_logs(&to(&server), first).status, 200);
        ledger.acknowledge(first);
    }
    let body = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
        {"body": {"stringValue": POISON}}
    ]}]}]});
    let headers = [("content-type", "application/json")];
    // It is acknowledged, and then kills.
    request("POST", &to(&server), &headers, body.to_string().into_bytes());
    wait("it dies", || server.died().then_some(()));
    let mut deaths = 1;
    let deaths = wait("it stays up", || {
        server.start_to_die("none:1");
        let ready = wait("it has caught up, or is gone", || {
            let died = server.died();
            (died || caught_up(&server)).then_some(!died)
        });
        deaths += i32::from(!ready);
        ready.then_some(deaths)
    });
    // Two to go entry by entry; three at the entry, for each of the pipelines.
    assert!((4..=10).contains(&deaths), "{deaths} deaths");
    assert_eq!(send_logs(&to(&server), 2 * ROWS).status, 200);
    ledger.acknowledge(2 * ROWS);
    let raw = "SELECT body FROM weir_errors WHERE \"weir.error\" LIKE 'it killed%'";
    for _ in 0..2 {
        pass(&server);
        ledger.check("rows", numbers(&server, "SELECT n FROM rows"));
        ledger.check("others", numbers(&server, "SELECT n FROM others"));
        let rows = server.wait_sql(raw, |rows| rows.len() >= 2);
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert!(rows.iter().all(|r| r["body"].as_str().unwrap().contains(POISON)), "{rows:?}");
        // And from now on, in every replay.
        server.kill9();
        server.restart();
    }
}
