//! A consumer that lags further behind than it may: its sources refuse, or it skips and says what.

use std::sync::atomic::Ordering::Relaxed;

use super::dead_sink::{Endpoint, detached};
use super::load::{Ledger, ROWS, SOURCES, send_logs};
use super::{numbers, pass};
use crate::harness::{Reply, Server, wait};

/// Segments are an eighth of it.
const JOURNAL: &str = "[journal]\nmax_bytes = \"64MiB\"\nretain = \"0s\"\n";

/// More requests than wait in front of a sink, and less than half of what its pipeline may hold.
const FILL: i64 = 40;

/// A server with a table, and a dead sink with this backlog that has just been detached.
fn start(backlog: &str, url: &str, ledger: &mut Ledger) -> Server {
    let text = format!(
        "[sinks.rows_table]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\ntable = \"rows\"\n\
         [sinks.out]\ntype = \"http\"\ninputs = [\"otlp.logs\"]\nendpoint = \"{url}\"\n\
         backlog = {backlog}\n"
    );
    let server = Server::start(&[("sources", SOURCES), ("work", &text)], Some(JOURNAL));
    let to = logs(&server);
    for i in 0..FILL {
        send(&to, i * ROWS, ledger);
    }
    wait("the sink is detached", || (!detached(&server).is_empty()).then_some(()));
    server
}

fn logs(server: &Server) -> String {
    format!("http://{}/v1/logs", server.address("otlp"))
}

/// Sends until it is acknowledged.
fn send(url: &str, first: i64, ledger: &mut Ledger) {
    wait("an acknowledgement", || (send_logs(url, first).status == 200).then_some(()));
    ledger.acknowledge(first);
}

fn refusal(url: &str) -> Reply {
    wait("a refusal", || Some(send_logs(url, 0)).filter(|reply| reply.status != 200))
}

#[test]
fn past_the_backlog_of_a_sink_its_sources_refuse() {
    let (endpoint, url) = Endpoint::serve();
    endpoint.dead.store(true, Relaxed);
    let mut ledger = Ledger::default();
    let mut server = start(r#"{ limit = "3MiB", policy = "refuse" }"#, &url, &mut ledger);
    let refused = refusal(&logs(&server));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.headers["retry-after"], "5");
    let why = refused.json()["message"].as_str().unwrap().to_owned();
    assert!(why.contains("detached sink `out` of pipeline `work`"), "{why}");
    assert!(why.contains("past its backlog of 3MiB"), "{why}");
    let problems = server.status()["problems"].to_string();
    assert!(problems.contains("source `otlp` refuses data (answers 503)"), "{problems}");
    assert!(problems.contains("its backlog is 3145728"), "{problems}");
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("weir_backlog_bytes{pipeline=\"work\",sink=\"out\"}"), "{metrics}");

    // Also after a death; and it takes data again by itself when the sink has caught up.
    server.kill9();
    server.restart();
    assert_eq!(refusal(&logs(&server)).status, 503);
    endpoint.dead.store(false, Relaxed);
    send(&logs(&server), FILL * ROWS, &mut ledger);
    pass(&server);
    let all: Vec<i64> = (0..(FILL + 1) * ROWS).collect();
    // What was let in before a refusal came is there twice.
    wait("the sink has everything", || {
        let mut got = endpoint.numbers.lock().clone();
        got.sort_unstable();
        got.dedup();
        (got == all).then_some(())
    });
    let mut rows: Vec<i64> = numbers(&server, "SELECT n FROM rows").into_iter().collect();
    rows.sort_unstable();
    rows.dedup();
    ledger.check("rows", rows);
}

#[test]
fn past_the_backlog_of_a_sink_it_skips_what_is_older() {
    let (endpoint, url) = Endpoint::serve();
    endpoint.dead.store(true, Relaxed);
    let mut ledger = Ledger::default();
    let mut server = start(r#"{ limit = "10MiB" }"#, &url, &mut ledger);
    // Some times what it may hold; nobody else notices.
    let all = 8 * FILL;
    for i in FILL..all {
        send(&logs(&server), i * ROWS, &mut ledger);
    }
    wait("what is older is trimmed", || {
        let bytes = server.status()["journal"]["bytes"].as_u64().unwrap();
        (bytes < 32 << 20).then_some(())
    });
    endpoint.dead.store(false, Relaxed);
    let gap = wait("a gap is listed", || {
        detached(&server).first()?["skipped"].as_array()?.first().cloned()
    });
    assert!(gap[0].as_u64() < gap[1].as_u64(), "{gap}");
    let problems = server.status()["problems"].to_string();
    assert!(problems.contains("sink `out` of pipeline `work` skipped entries"), "{problems}");
    assert!(server.get("/metrics").text().contains("weir_backlog_skips_total 1"), "{problems}");
    pass(&server);
    ledger.check("rows", numbers(&server, "SELECT n FROM rows"));
    wait("it goes on behind the gap", || {
        endpoint.numbers.lock().contains(&(all * ROWS - 1)).then_some(())
    });
    let got = endpoint.numbers.lock().len();
    assert!(got < ledger.acknowledged_rows(), "{got}");
    // Still, when it is back, and after a restart.
    wait("the sink is back", || detached(&server).is_empty().then_some(()));
    server.restart();
    let problems = server.status()["problems"].to_string();
    assert!(problems.contains("sink `out` of pipeline `work` skipped entries"), "{problems}");
}
