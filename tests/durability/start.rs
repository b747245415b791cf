//! A start takes data and answers questions before it has replayed the journal.
//!
//! `WEIR_START_MIB=N` lets it replay that much (`make start`) and prints how long each step took.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::dead_sink::Endpoint;
use super::load::{Addresses, Ledger, Load, OnFailure, ROWS, SOURCES, send_logs};
use super::{numbers, pass};
use crate::harness::{Server, wait};

/// Journal to replay in `make test`.
const MIB: u64 = 8;
/// More requests than wait in front of a sink.
const FILL: i64 = 40;

/// Entries that pipelines replay according to what a start logged.
pub(super) fn replayed(log: &str) -> u64 {
    let field = |line: &str, name: &str| -> u64 {
        let (_, rest) = line.split_once(&format!(" {name}=")).unwrap_or_else(|| panic!("{line}"));
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    let lines = log.lines().filter(|l| l.contains("goes on from its checkpoint"));
    let entries = lines.map(|l| field(l, "head") - field(l, "position"));
    entries.max().unwrap_or_else(|| panic!("no checkpoint in\n{log}"))
}

fn logs(server: &Server) -> String {
    format!("http://{}/v1/logs", server.address("otlp"))
}

/// Its pipeline waits for a sink, and changes only behind that.
#[test]
fn a_start_waits_for_no_pipeline() {
    let (endpoint, url) = Endpoint::serve();
    endpoint.dead.store(true, Relaxed);
    let work = |mark: i64| {
        format!(
            "[operators.mark]\ntype = \"vrl\"\ninputs = [\"otlp.logs\"]\nsource = \".edit = {mark}\"\n\
             [sinks.rows_table]\ntype = \"store\"\ninputs = [\"mark\"]\ntable = \"rows\"\n\
             [sinks.out]\ntype = \"http\"\ninputs = [\"mark\"]\nendpoint = \"{url}\"\n"
        )
    };
    let mut server = Server::start(&[("sources", SOURCES), ("work", &work(1))], None);
    let mut ledger = Ledger::default();
    let mut send = |server: &Server, first: i64| {
        assert_eq!(send_logs(&logs(server), first).status, 200);
        ledger.acknowledge(first);
    };
    (0..FILL).for_each(|i| send(&server, i * ROWS));
    server.kill9();
    server.write("work", &work(2));
    let logged = server.stderr().len();
    server.restart();
    send(&server, FILL * ROWS);
    let rows = server.query("SELECT count(*) AS c FROM rows");
    assert!(rows.status == 200 || rows.text().contains("rows"), "{}", rows.text());
    let log = server.stderr().split_off(logged);
    let (before, after) = log.split_once("Weir is up").unwrap();
    assert!(replayed(before) >= FILL.unsigned_abs(), "{before}");
    let is_told =
        |log: &str| log.contains("pipeline `work` changed") || log.contains("is not changed");
    assert!(!is_told(before) && !is_told(after), "the pipeline was waited for: {log}");

    endpoint.dead.store(false, Relaxed);
    wait("it changes", || {
        let sql = format!("SELECT edit FROM rows WHERE n = {}", FILL * ROWS);
        let reply = server.query(&sql);
        (reply.status == 200 && !reply.text().is_empty()).then_some(())
    });
    pass(&server);
    ledger.check("rows", numbers(&server, "SELECT n FROM rows"));
    let edits = server.sql("SELECT DISTINCT edit FROM rows ORDER BY edit").len();
    assert_eq!(edits, 2, "before the mark by the old program, behind it by the new one");
}

/// A pipeline that reads the whole journal, which another one has filled.
#[test]
fn a_long_journal_is_replayed_behind_the_start() {
    let mib = std::env::var("WEIR_START_MIB").ok().map(|n| n.parse().expect("WEIR_START_MIB"));
    let bytes = mib.unwrap_or(MIB) << 20;
    // What it replays is less than the backlog that a pipeline may have.
    let limit = (bytes >> 20) * 6 + 64;
    let weir_toml = format!("[journal]\nmax_bytes = \"{limit}MiB\"\nretain = \"1d\"\n");
    let other = "[sinks.others]\ntype = \"store\"\ninputs = [\"otlp.spans\"]\ntable = \"others\"\n";
    let files = [("sources", SOURCES), ("other", other)];
    let mut server = Server::start(&files, Some(&weir_toml));
    let next = Arc::new(AtomicI64::new(0));
    let load = Load::start(&Addresses::of(&server).unwrap(), &next, OnFailure::Stop);
    while server.status()["journal"]["bytes"].as_u64().unwrap() < bytes {
        std::thread::sleep(Duration::from_millis(50));
    }
    server.kill9();
    let mut sent = load.finish();
    let work = "from = \"oldest\"\n[sinks.rows_table]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\n\
                table = \"rows\"\n[operators.all]\ntype = \"window\"\ninputs = [\"otlp.logs\"]\n\
                every = \"1s\"\ngroup_by = [\"service.name\"]\naggregate = { rows = \"count(*)\" }\n\
                [sinks.all_table]\ntype = \"store\"\ninputs = [\"all\"]\ntable = \"windows\"\n";
    server.write("work", work);

    let start = Instant::now();
    server.restart();
    let ready = start.elapsed();
    let journal = server.status()["journal"]["bytes"].as_u64().unwrap();
    let first = next.fetch_add(ROWS, Relaxed);
    let reply = send_logs(&logs(&server), first);
    assert_eq!(reply.status, 200, "{}", reply.text());
    sent.logs.acknowledge(first);
    let takes = start.elapsed();
    let head = server.status()["journal"]["head"].as_u64().unwrap();
    let position = || {
        let status = server.status();
        let all = status["pipelines"].as_array().unwrap();
        all.iter().find(|p| p["name"] == "work").unwrap()["position"].as_u64().unwrap()
    };
    let at_first = position();
    while position() < head {
        std::thread::sleep(Duration::from_millis(50));
    }
    let replayed = start.elapsed();
    sent.logs.check("rows", numbers(&server, "SELECT n FROM rows"));
    fs::remove_file(server.path().join("pipelines.d/work.toml")).unwrap();
    assert_eq!(server.reload()["ok"], true);
    let count = |sql: &str| server.sql(sql)[0]["c"].as_f64().unwrap() as usize;
    let in_windows = count("SELECT coalesce(sum(rows), 0) AS c FROM windows");
    assert_eq!(in_windows, count("SELECT count(*) AS c FROM rows"));
    eprintln!(
        "{} MiB of journal ({} entries): ready after {ready:.2?}, data taken after {takes:.2?}, \
         replayed after {replayed:.2?} (at {at_first} of {head} when it was ready)",
        journal >> 20,
        sent.acknowledged_rows() / usize::try_from(ROWS).unwrap(),
    );
}
