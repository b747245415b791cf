//! Random edits, valid and broken, under load over every protocol: no connection is refused, no row
//! is lost or doubled, windows that no edit was meant for say what GROUP BY says.
//!
//! Stretches with edits and without alternate, so that what else the machine does falls on both;
//! the times of acknowledgement of the two are printed. `WEIR_STORM_EDITS=N` makes more
//! (`make storm`), `WEIR_STORM_SEED=N` others.

mod folder;

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::load::{Addresses, Answer, Ledger, Load, OnFailure, syslog};
use super::{check_tables, check_windows, file_state, files, numbers, probe};
use crate::determinism::random::Random;
use crate::harness::{Server, binary, serve, wait};
use folder::{Broken, Edit, Folder};

/// Edits in `make test`.
const EDITS: usize = 60;
/// Edits between two stretches without any.
const STRETCH: usize = 15;
/// The first stretch without edits; later ones are as long as that with edits before them.
const CALM: Duration = Duration::from_secs(1);
/// Between two requests of a sender: less than two cores can take, or the times would be those of
/// queues.
const PAUSE: Duration = Duration::from_millis(30);
/// Between two datagrams: what the socket holds is enough for seconds of them.
const DATAGRAM_PAUSE: Duration = Duration::from_millis(10);

/// Sockets that are open from the first edit to the last.
const SOURCES: [&str; 4] = ["otlp", "prometheus", "syslog", "datagrams"];

/// Lines over UDP, one a datagram, numbered.
fn datagrams(address: &str, stop: &Arc<AtomicBool>) -> JoinHandle<i64> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    let stop = stop.clone();
    std::thread::spawn(move || {
        for n in 0.. {
            if stop.load(Relaxed) {
                return n;
            }
            // An error would be a port that is closed.
            socket.send(format!("<14>1 - host app - - - {n}").as_bytes()).unwrap();
            std::thread::sleep(DATAGRAM_PAUSE);
        }
        0
    })
}

/// A target whose counter counts how often it was asked.
fn target() -> (Arc<AtomicUsize>, String) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let app = axum::Router::new().fallback(move || async move {
        format!("# TYPE asked_total counter\nasked_total {}\n", count.fetch_add(1, Relaxed) + 1)
    });
    (asked, serve(app))
}

/// Datagrams that the kernel dropped at this port, for want of room.
fn kernel_drops(address: &str) -> usize {
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    let sockets = std::fs::read_to_string("/proc/net/udp").unwrap();
    let is_it = |l: &&str| {
        let local = l.split_whitespace().nth(1).and_then(|a| a.split_once(':'));
        local.is_some_and(|(_, p)| u16::from_str_radix(p, 16) == Ok(port))
    };
    let line = sockets.lines().find(is_it).expect("its socket");
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// What was done.
#[derive(Default)]
struct Done {
    valid: usize,
    broken: usize,
    kinds: BTreeMap<String, usize>,
}

/// A run.
struct Storm {
    server: Server,
    folder: Folder,
    random: Random,
    next: Arc<AtomicI64>,
    probes: Ledger,
    done: Done,
}

impl Storm {
    /// Reloads, and looks at what came of it.
    fn reload(&mut self, what: &str, ok: bool) -> Value {
        let outcome = self.server.reload();
        assert_eq!(outcome["ok"], ok, "{what}: {outcome}");
        *self.done.kinds.entry(what.to_owned()).or_default() += 1;
        outcome
    }

    /// One edit.
    fn edit(&mut self) {
        if self.random.chance(35) {
            let broken = *self.random.pick(&Broken::ALL);
            self.broken(broken);
            self.done.broken += 1;
            return;
        }
        let edit = *self.random.pick(&Edit::ALL);
        self.folder.edit(edit, &mut self.random);
        let text = format!("{edit:?}");
        self.write();
        if self.random.chance(15) {
            // Nobody asks: it notices.
            wait("the edit is noticed", || is_live(&self.server).then_some(()));
            *self.done.kinds.entry(text.clone()).or_default() += 1;
        } else {
            self.reload(&text, true);
        }
        self.done.valid += 1;
        if edit == Edit::Program {
            self.check_program(&text);
        }
    }

    /// A file that is wrong runs on as it was; what is right beside it is live.
    fn broken(&mut self, broken: Broken) {
        let beside = broken == Broken::BesideGood;
        if beside {
            self.folder.edit(Edit::Program, &mut self.random);
        }
        let (file, text) = self.folder.broken(broken, &mut self.random);
        let known = self.folder.files().contains_key(&file);
        self.write();
        self.server.write(&file, &text);
        let what = format!("{broken:?}");
        let outcome = self.reload(&what, false);
        let state = if known { "kept" } else { "left_out" };
        let name = format!("/{file}.toml");
        assert_eq!(file_state(&outcome, &name), state, "{what}: {outcome}\n{text}");
        let diagnostics = outcome["diagnostics"].to_string();
        assert!(diagnostics.contains(&name), "{what}: {diagnostics}");
        let problems = self.server.status()["problems"].to_string();
        assert!(problems.contains(&name), "{what}: {problems}");
        if beside || self.random.chance(20) {
            self.check_program(&what);
        }
        if known {
            self.folder.forget(&file);
        } else {
            std::fs::remove_file(self.path(&file)).unwrap();
        }
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.server.path().join(format!("pipelines.d/{file}.toml"))
    }

    /// Makes the folder what it shall be.
    fn write(&mut self) {
        for (from, to) in self.folder.renamed() {
            std::fs::rename(self.path(&from), self.path(&to)).unwrap();
        }
        let (changed, gone) = self.folder.changes();
        for (file, text) in changed {
            match file.strip_suffix(".vrl") {
                Some(_) => {
                    let path = self.server.path().join("pipelines.d").join(&file);
                    std::fs::write(path, text).unwrap();
                }
                None => self.server.write(&file, &text),
            }
        }
        for file in gone {
            std::fs::remove_file(self.path(&file)).unwrap();
        }
    }

    /// The program that the files say is the one that rows meet.
    fn check_program(&mut self, what: &str) {
        let met = probe(&self.server, &mut self.probes, &self.next);
        assert_eq!(met, self.folder.program as u64, "{what} is what runs");
    }
}

/// Whether a reload would change nothing.
fn is_live(server: &Server) -> bool {
    let plan = server.get("/api/v1/plan").json();
    let all = |list: &str, state: &str| {
        plan[list].as_array().unwrap().iter().all(|change| change["change"] == state)
    };
    plan["ok"] == true && all("pipelines", "unchanged") && all("sources", "kept")
}

/// Percentile of times in milliseconds, in order.
fn percentile(times: &[f64], of: f64) -> f64 {
    let at = (times.len() as f64 * of) as usize;
    times.get(at.min(times.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Requests and times of acknowledgement by protocol, without edits (even phases) and with them;
/// a request that saw both counts to those with.
fn figures(answers: &[Answer]) -> String {
    let mut ways: BTreeMap<&str, [Vec<f64>; 2]> = BTreeMap::new();
    for answer in answers {
        let edits = answer.phases.iter().any(|p| p % 2 == 1);
        let took = answer.took.as_secs_f64() * 1e3;
        for way in [answer.way, "all"] {
            ways.entry(way).or_default()[usize::from(edits)].push(took);
        }
    }
    let mut text = String::new();
    for (way, times) in &mut ways {
        times.iter_mut().for_each(|t| t.sort_by(f64::total_cmp));
        let [calm, edits] = times.each_ref().map(|t| (percentile(t, 0.5), percentile(t, 0.99)));
        text += &format!(
            "{way:>12}: {:>6} requests; acknowledged without edits p50 {:.1} ms, p99 {:.1} ms; \
             with edits p50 {:.1} ms, p99 {:.1} ms; p99 differs by {:+.1} ms\n",
            times[0].len() + times[1].len(),
            calm.0,
            calm.1,
            edits.0,
            edits.1,
            edits.1 - calm.1
        );
    }
    text
}

#[test]
fn edits_under_load() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<usize>().expect(name));
    let seed = number("WEIR_STORM_SEED").unwrap_or(1);
    let edits = number("WEIR_STORM_EDITS").unwrap_or(EDITS);
    eprintln!("WEIR_STORM_SEED={seed}, {edits} edits, {}", binary().display());
    let start = Instant::now();
    let (asked, target) = target();
    let mut folder = Folder::new(&target);
    let (files_at_first, _) = folder.changes();
    let first: Vec<(&str, &str)> =
        files_at_first.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
    let mut storm = Storm {
        server: Server::start(&first, None),
        folder,
        random: Random::new(seed as u64),
        next: Arc::default(),
        probes: Ledger::default(),
        done: Done::default(),
    };
    storm.reload("nothing", true);
    let addresses = Addresses::of(&storm.server).unwrap();
    let sockets = SOURCES.map(|s| storm.server.listens(s));
    let stop = Arc::new(AtomicBool::new(false));
    let connection = syslog(&addresses.syslog, stop.clone(), PAUSE);
    let udp = storm.server.address("datagrams");
    let lines_over_udp = datagrams(&udp, &stop);
    let mut load = Load::start_with(&addresses, &storm.next, OnFailure::Panic, PAUSE);
    load.also_grpc(&addresses.otlp);

    let (mut made, mut calm) = (0, CALM);
    while made < edits {
        std::thread::sleep(calm);
        load.phase.fetch_add(1, Relaxed);
        let began = Instant::now();
        for _ in 0..STRETCH.min(edits - made) {
            storm.edit();
            made += 1;
        }
        // A short run is short.
        calm = began.elapsed().min(if edits > EDITS { Duration::MAX } else { CALM });
        load.phase.fetch_add(1, Relaxed);
    }
    let (mut sent, answers) = load.finish_timed();
    sent.logs.add(std::mem::take(&mut storm.probes));
    stop.store(true, Relaxed);
    let sent_lines = connection.join().expect("the connection lasted");
    let sent_datagrams = lines_over_udp.join().expect("the port was open");
    assert_eq!(sockets, SOURCES.map(|s| storm.server.listens(s)));

    storm.folder.settle();
    storm.write();
    storm.reload("settle", true);
    let server = &storm.server;
    check_tables(server, &sent);
    // Nobody acknowledges lines: they may still be in the socket.
    let enough = sent_lines.acknowledged_rows() as u64;
    let count = "SELECT count(*) AS c FROM lines";
    server.wait_sql(count, |rows| rows[0]["c"].as_u64().unwrap() >= enough);
    sent_lines.check("lines", numbers(server, "SELECT CAST(body AS BIGINT) AS n FROM lines"));
    let dropped = kernel_drops(&udp);
    let enough = sent_datagrams as usize - dropped;
    let count = "SELECT count(*) AS c FROM datagrams";
    server.wait_sql(count, |rows| rows[0]["c"].as_u64().unwrap() as usize >= enough);
    once("datagrams", numbers(server, "SELECT CAST(body AS BIGINT) AS n FROM datagrams"), enough);
    check_scrapes(server, asked.load(Relaxed));
    for table in storm.folder.tables() {
        let sql = format!("SELECT n FROM {table}");
        if server.query(&sql).status == 200 {
            once(&table, numbers(server, &sql), 0);
        }
    }
    assert!(files(server) > 0, "commits of files are part of this test");
    check_windows(server);
    eprintln!(
        "seed {seed}: {} valid edits and {} broken ones ({:?}), {} reloads in {:.0?}; {} rows \
         acknowledged, {} lines, {sent_datagrams} datagrams ({dropped} dropped by the kernel), {} \
         scrapes: none lost, none double\n{}",
        storm.done.valid,
        storm.done.broken,
        storm.done.kinds,
        server.status()["reload"]["number"],
        start.elapsed(),
        sent.acknowledged_rows(),
        sent_lines.acknowledged_rows(),
        asked.load(Relaxed),
        figures(&answers)
    );
}

/// Numbers that are there at least so many times, each once.
fn once(what: &str, mut found: Vec<i64>, enough: usize) {
    let all = found.len();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), all, "{what}: rows that are there more than once");
    assert!(all >= enough, "{what}: {all} rows of {enough}");
}

/// Every page that was given out is stored once; but for those whose scrape failed, and the last.
fn check_scrapes(server: &Server, asked: usize) {
    let values = "SELECT value AS n FROM scraped WHERE metric.name = 'asked_total' AND value > 0";
    let mut found = numbers(server, values);
    found.sort_unstable();
    let failed =
        server.sql("SELECT count(*) AS c FROM scraped WHERE metric.name = 'up' AND value = 0");
    let failed = failed[0]["c"].as_u64().unwrap() as usize;
    let last = found.last().copied().unwrap_or_default() as usize;
    assert!(last + 1 >= asked.saturating_sub(failed) && last > 0, "{last} of {asked} scrapes");
    once("scraped", found, last - failed);
}
