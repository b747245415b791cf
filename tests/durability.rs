//! Nothing acknowledged is lost and nothing is doubled: under edits, deaths, stops.

mod backlog;
pub(crate) mod clickhouse;
mod clock;
mod crash;
mod damage;
mod dead_sink;
mod disk;
pub(crate) mod load;
mod lookups;
mod overload;
mod poison;
pub(crate) mod remote_write;
mod retries;
mod start;
mod storm;
mod while_down;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{DEADLINE, PAUSE, Server, wait};
use load::{Addresses, Ledger, Ledgers, Load, OnFailure, SOURCES, send_logs};

/// Renames under load; even, so that names are as at first in the end.
const RENAMES: usize = 6;

/// The pipeline under test. Each row is marked with `edit`; windows stay open for long enough
/// that each is cut by several edits or deaths.
fn pipeline(edit: usize, further: &str) -> String {
    format!(
        r#"
[operators.mark]
type = "vrl"
inputs = ["otlp.logs"]
source = ".edit = {edit}"

[operators.totals]
type = "window"
inputs = ["mark"]
every = "2s"
lateness = "20s"
group_by = ["service.name"]
[operators.totals.aggregate]
rows = "count(*)"
total = "sum(n)"

[operators.levels]
type = "window"
inputs = ["prometheus.metrics"]
every = "2s"
over = "4s"
lateness = "20s"
group_by = ["series"]
[operators.levels.aggregate]
rows = "count(*)"
highest = "max(value)"

[sinks.rows_table]
type = "store"
inputs = ["mark"]
table = "rows"

[sinks.samples]
type = "store"
inputs = ["prometheus.metrics"]
table = "samples"

[sinks.spans]
type = "store"
inputs = ["otlp.spans"]
table = "spans"

[sinks.points]
type = "store"
inputs = ["otlp.metrics"]
table = "points"

[sinks.totals_table]
type = "store"
inputs = ["totals"]
table = "totals"

[sinks.levels_table]
type = "store"
inputs = ["levels"]
table = "levels"

[sinks.late]
type = "store"
inputs = ["totals.late", "levels.late"]
table = "late"
{further}"#
    )
}

/// Three ways to be wrong: not TOML, not VRL, not a known column.
fn broken(edit: usize) -> String {
    match edit % 3 {
        0 => format!("{}\n[operators.half", pipeline(edit, "")),
        1 => pipeline(edit, "").replace(".edit =", ".edit = nonsense( +"),
        _ => pipeline(edit, "").replace("sum(n)", "no_such_function(n)"),
    }
}

fn numbers(server: &Server, sql: &str) -> Vec<i64> {
    let number = |row: &Value| row["n"].as_f64().unwrap_or_else(|| panic!("{row}")) as i64;
    server.sql(sql).iter().map(number).collect()
}

/// Waits until all that is in the journal now has passed every pipeline.
fn pass(server: &Server) {
    let head = server.status()["journal"]["head"].as_u64().unwrap();
    wait("pipelines at the head of the journal", || {
        let status = server.status();
        let pipelines = status["pipelines"].as_array().unwrap();
        pipelines.iter().all(|p| p["position"].as_u64().unwrap() >= head).then_some(())
    });
}

/// Compares a table with what was acknowledged. What passed a pipeline may still wait in front of its
/// sink: a table has [`DEADLINE`] to show it.
fn check_table(server: &Server, table: &str, sql: &str, sent: &Ledger) {
    let start = Instant::now();
    let mut found = numbers(server, sql);
    while start.elapsed() < DEADLINE && {
        let there: BTreeSet<i64> = found.iter().copied().collect();
        !sent.lost(|n| there.contains(&n)).is_empty()
    } {
        std::thread::sleep(PAUSE);
        found = numbers(server, sql);
    }
    sent.check(table, found);
}

/// Compares the tables with what was acknowledged.
fn check_tables(server: &Server, sent: &Ledgers) {
    pass(server);
    check_table(server, "rows", "SELECT n FROM rows", &sent.logs);
    if sent.samples.acknowledged_rows() > 0 {
        let samples = "SELECT value AS n FROM samples WHERE metric.name = 'load'";
        check_table(server, "samples", samples, &sent.samples);
    }
    if sent.spans.acknowledged_rows() > 0 {
        check_table(server, "spans", "SELECT n FROM spans", &sent.spans);
    }
    if sent.points.acknowledged_rows() > 0 {
        check_table(server, "points", "SELECT value AS n FROM points", &sent.points);
    }
}

/// Takes the pipeline away, which makes its windows emit, and compares them with what plain SQL
/// says of the stored rows.
fn check_windows(server: &Server) {
    fs::remove_file(server.path().join("pipelines.d/work.toml")).unwrap();
    let outcome = server.reload();
    assert_eq!(outcome["ok"], true, "{outcome}");
    let late = server.query("SELECT count(*) AS c FROM late");
    assert!(late.status != 200 || late.text().contains("\"c\":0"), "late: {}", late.text());
    for (windows, rows) in [
        (
            "SELECT window_start AS w, service.name AS g, rows AS c, total AS t FROM totals",
            "SELECT date_bin(INTERVAL '2 seconds', timestamp) AS w, service.name AS g, \
             count(*) AS c, sum(n) AS t FROM rows GROUP BY 1, 2",
        ),
        (
            "SELECT window_start AS w, series AS g, rows AS c, highest AS t FROM levels",
            "SELECT w, g, count(*) AS c, max(value) AS t FROM (\
             SELECT date_bin(INTERVAL '2 seconds', timestamp) AS w, series AS g, value \
             FROM samples UNION ALL \
             SELECT date_bin(INTERVAL '2 seconds', timestamp) - INTERVAL '2 seconds', series, value \
             FROM samples) AS both_windows GROUP BY w, g",
        ),
    ] {
        let order = "ORDER BY w, g";
        let expected = server.sql(&format!("{rows} {order}"));
        assert!(expected.len() > 2, "{rows}: {expected:?}");
        let found = server.sql(&format!("{windows} {order}"));
        let differ = expected.iter().zip(&found).position(|(e, f)| e != f);
        if let Some(at) = differ {
            panic!("row {at}: rows say {}, the window {}\n{windows}", expected[at], found[at]);
        }
        assert_eq!(expected.len(), found.len(), "{windows}");
    }
}

/// How many data files all tables have.
fn files(server: &Server) -> usize {
    let mut folders = vec![server.path().join("data/tables")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "parquet") {
                files += 1;
            }
        }
    }
    files
}

/// Sends a few rows and waits until they are in the table; gives the edit that they met.
fn probe(server: &Server, logs: &mut Ledger, next: &AtomicI64) -> u64 {
    let first = next.fetch_add(load::ROWS, Relaxed);
    let reply = send_logs(&format!("http://{}/v1/logs", server.address("otlp")), first);
    assert_eq!(reply.status, 200, "{}", reply.text());
    logs.acknowledge(first);
    let sql = format!("SELECT edit FROM rows WHERE n = {first}");
    server.wait_sql(&sql, |rows| !rows.is_empty())[0]["edit"].as_u64().unwrap()
}

fn file_state<'a>(outcome: &'a Value, name: &str) -> &'a str {
    let files = outcome["files"].as_array().unwrap();
    let file = files.iter().find(|f| f["path"].as_str().unwrap().contains(name));
    file.unwrap_or_else(|| panic!("no {name} in {outcome}"))["state"].as_str().unwrap()
}

#[test]
fn files_and_sources_are_renamed_under_load() {
    let server = Server::start(&[("sources", SOURCES), ("work", &pipeline(0, ""))], None);
    let next = Arc::new(AtomicI64::new(0));
    let load = Load::start(&Addresses::of(&server).unwrap(), &next, OnFailure::Panic);
    let folder = server.path().join("pipelines.d");
    let names = ["work", "moved"];
    for turn in 0..RENAMES {
        let (before, after) = (names[turn % 2], names[(turn + 1) % 2]);
        let path = |name: &str| folder.join(format!("{name}.toml"));
        fs::rename(path(before), path(after)).unwrap();
        let outcome = server.reload();
        assert_eq!(outcome["ok"], true, "{outcome}");
        let names = server.status()["pipelines"].to_string();
        assert!(names.contains(&format!("\"name\":\"{after}\"")), "{names}");
        assert!(!names.contains(&format!("\"name\":\"{before}\"")), "{names}");
        // The same socket under another name: whoever sends does not notice.
        let source = ["telemetry", "otlp"][turn % 2];
        server.write("sources", &SOURCES.replace("sources.otlp", &format!("sources.{source}")));
        server.write(after, &pipeline(0, "").replace("\"otlp.", &format!("\"{source}.")));
        let outcome = server.reload();
        assert_eq!(outcome["ok"], true, "{outcome}");
    }
    let sent = load.finish();
    check_tables(&server, &sent);
    check_windows(&server);
}

#[test]
fn a_stop_loses_nothing_and_a_broken_file_starts() {
    let mut server = Server::start(&[("sources", SOURCES), ("work", &pipeline(1, ""))], None);
    let next = Arc::new(AtomicI64::new(0));
    let load = Load::start(&Addresses::of(&server).unwrap(), &next, OnFailure::Stop);
    std::thread::sleep(Duration::from_millis(700));
    server.stop();
    let mut sent = load.finish();
    let logged = server.stderr().len();
    server.restart();
    assert!(start::replayed(&server.stderr()[logged..]) <= 1, "it saved where it stopped");
    check_tables(&server, &sent);

    server.stop();
    server.write("work", &broken(2));
    server.restart();
    let status = server.status();
    assert_eq!(file_state(&status["reload"], "work.toml"), "kept", "{status}");
    assert_eq!(probe(&server, &mut sent.logs, &next), 1, "its last good version runs");
    server.write("work", &pipeline(3, ""));
    assert_eq!(server.reload()["ok"], true);
    assert_eq!(probe(&server, &mut sent.logs, &next), 3);
    check_tables(&server, &sent);
    check_windows(&server);
}

#[test]
fn a_removed_pipeline_comes_back_where_it_left_off() {
    let other = "[sinks.other]\ntype = \"store\"\ninputs = [\"otlp.logs\", \"prometheus.metrics\"]\ntable = \"other\"\n";
    let server = Server::start(
        &[("sources", SOURCES), ("other", other), ("work", &pipeline(1, ""))],
        Some("[journal]\nretain = \"1h\"\n"),
    );
    let next = Arc::new(AtomicI64::new(0));
    let mut sent = Ledgers::default();
    probe(&server, &mut sent.logs, &next);
    fs::remove_file(server.path().join("pipelines.d/work.toml")).unwrap();
    assert_eq!(server.reload()["ok"], true);
    assert!(!server.status()["pipelines"].to_string().contains("\"work\""));
    // What comes meanwhile is in the journal.
    let url = format!("http://{}/v1/logs", server.address("otlp"));
    for _ in 0..10 {
        let first = next.fetch_add(load::ROWS, Relaxed);
        assert_eq!(send_logs(&url, first).status, 200);
        sent.logs.acknowledge(first);
    }
    server.write("work", &pipeline(2, ""));
    let outcome = server.reload();
    assert_eq!(outcome["ok"], true, "{outcome}");
    assert_eq!(probe(&server, &mut sent.logs, &next), 2);
    check_tables(&server, &sent);
}

/// Reading is an event of the file system, too.
#[test]
fn an_edit_is_noticed_while_others_read_the_files() {
    let server = Server::start(&[("sources", SOURCES), ("work", &pipeline(0, ""))], None);
    let reloads = || server.status()["reload"]["number"].as_u64().unwrap();
    let before = reloads();
    let file = server.path().join("pipelines.d/sources.toml");
    // Read until this goes, also where the test fails.
    let test = Arc::new(());
    let goes_on = Arc::downgrade(&test);
    std::thread::spawn(move || {
        while goes_on.strong_count() > 0 {
            let _ = fs::read(&file);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    server.write("work", &pipeline(1, ""));
    wait("the edit is noticed", || (reloads() > before).then_some(()));
    drop(test);
}
