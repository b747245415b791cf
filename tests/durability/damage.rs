//! A flipped bit in each kind of file, and an emptied manifest log, while Weir does not run: it
//! starts, and either all is right or the damage is named; what does not depend on the file is
//! complete.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;

use super::load::{Ledger, Ledgers, ROWS, SOURCES, send_logs};
use super::{numbers, pass, pipeline, probe};
use crate::alerting::ALERTS;
use crate::harness::Server;

/// A kind of file: how its paths look below the data folder, and whether rows of its table may be
/// missing once it is named.
const KINDS: [(&str, &str, &str, bool); 11] = [
    ("VERSION", "VERSION", "", false),
    ("last good server file", "last_good_server.json", "", false),
    ("last good files", "last_good.json", "", false),
    ("journal id", "journal/id", "", false),
    ("journal segment", "journal/0", ".seg", false),
    ("checkpoint", "checkpoints/", ".ckpt", false),
    ("plan", "plans/", ".json", false),
    ("router log", "router/log", "", false),
    ("manifest", "tables/default/rows/manifest/log", "", true),
    ("Parquet file", "tables/default/rows/files/", ".parquet", true),
    ("entity table", "tables/default/rows/entities/", ".parquet", false),
];

/// All files below `folder`.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files_below(&path));
        } else {
            all.push(path);
        }
    }
    all.sort();
    all
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(done.success());
}

/// Places where a bit is flipped: in what a file begins with, in its version, in its middle, in
/// what it ends with.
fn places(length: usize) -> Vec<usize> {
    let mut places = vec![0, 8, length / 2, length.saturating_sub(6)];
    places.retain(|at| *at < length);
    places.sort_unstable();
    places.dedup();
    places
}

/// A server with rows in files, in entity tables and in its journal, stopped.
fn stopped() -> (Server, Ledgers, AtomicI64) {
    let mut server = Server::prepare(
        &[("sources", SOURCES), ("work", &format!("{}{ALERTS}", pipeline(1, "")))],
        Some(""),
        &crate::alerting::SECRETS,
    );
    server.restart();
    let (mut sent, next) = (Ledgers::default(), AtomicI64::new(0));
    let url = format!("http://{}/v1/logs", server.address("otlp"));
    let mut send = |server: &Server, requests| {
        for _ in 0..requests {
            let first = next.fetch_add(ROWS, Relaxed);
            assert_eq!(send_logs(&url, first).status, 200);
            sent.logs.acknowledge(first);
        }
        pass(server);
    };
    // Twice more than a checkpoint carries by itself, then less.
    for (edit, requests) in [(2, 20), (3, 20), (4, 2)] {
        send(&server, requests);
        server.write("work", &format!("{}{ALERTS}", pipeline(edit, "")));
        assert_eq!(server.reload()["ok"], true);
    }
    send(&server, 2);
    assert!(super::files(&server) >= 2);
    server.stop();
    (server, sent, next)
}

/// The rows against what was sent. If it may be, and is named, some may be missing, but none is
/// changed or doubled. Gives whether all are there.
fn check_rows(server: &Server, sent: &Ledger, what: &str, may_miss: bool) -> bool {
    // The body says the number again.
    let rows = numbers(server, "SELECT n FROM rows WHERE CAST(body AS BIGINT) = n");
    let all = server.sql("SELECT count(*) AS c FROM rows")[0]["c"].as_u64().unwrap();
    assert_eq!(rows.len() as u64, all, "{what}: rows are not what they were");
    if rows.len() == sent.acknowledged_rows() || !may_miss {
        sent.check(what, rows);
        return true;
    }
    sent.check_some(what, rows);
    false
}

#[test]
fn a_flipped_bit_in_each_kind_of_file() {
    let (mut server, mut sent, next) = stopped();
    let (data, pristine) = (server.path().join("data"), server.path().join("pristine"));
    fs::rename(&data, &pristine).unwrap();
    let mut wrong = Vec::new();
    for (kind, start, end, may_miss) in KINDS {
        let of_kind = |p: &PathBuf| {
            let name = p.strip_prefix(&pristine).unwrap().to_str().unwrap();
            name.starts_with(start) && name.ends_with(end)
        };
        let file = files_below(&pristine).into_iter().rfind(of_kind);
        let file = file.unwrap_or_else(|| panic!("there is no {kind}"));
        let file = file.strip_prefix(&pristine).unwrap();
        let bytes = fs::read(pristine.join(file)).unwrap();
        // Past the end: the file is emptied.
        let emptied = (kind == "manifest").then_some(bytes.len());
        for at in places(bytes.len()).into_iter().chain(emptied) {
            let what = format!("{kind} `{}` of {} bytes at {at}", file.display(), bytes.len());
            copy(&pristine, &data);
            let mut damaged = bytes.clone();
            match damaged.get_mut(at) {
                Some(byte) => *byte ^= 0x10,
                None => damaged.clear(),
            }
            fs::write(data.join(file), damaged).unwrap();
            if let Err(why) = check(&mut server, &mut sent, &next, &what, may_miss) {
                eprintln!("{why}");
                wrong.push(why);
            }
            if server.is_running() {
                server.kill9();
            }
            fs::remove_dir_all(&data).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Starts over what is there and looks at it; what is wrong.
fn check(
    server: &mut Server,
    sent: &mut Ledgers,
    next: &AtomicI64,
    what: &str,
    may_miss: bool,
) -> Result<(), String> {
    let logged = server.stderr().len();
    if !server.try_restart() {
        return Err(format!("{what}: it does not start: {}", &server.stderr()[logged..]));
    }
    pass(server);
    let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let whole = check_rows(server, &sent.logs, what, may_miss);
        let services = server.sql("SELECT count(*) AS c FROM rows WHERE service.name IS NULL");
        whole && services[0]["c"] == 0
    }));
    let whole = judged.map_err(|_| format!("{what}: rows"))?;
    let said = format!("{}{}", &server.stderr()[logged..], server.status()["problems"]);
    if !whole && !said.contains("damaged") {
        return Err(format!("{what}: something is missing, and nothing says so: {said}"));
    }
    // And it goes on.
    let mut more = Ledger::default();
    if probe(server, &mut more, next) != 4 {
        return Err(format!("{what}: another plan runs"));
    }
    Ok(())
}
