//! Deaths under load from every protocol: at random instants, and between the steps of whatever
//! must survive one. A ledger says what was acknowledged; after each death SQL must agree.
//!
//! `WEIR_CRASH_SECONDS=N` goes on for that long (`make crash`), `WEIR_CRASH_SEED=N` is another run. What dies
//! when is up to the machine too: a seed makes a run alike, not the same.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::load::{Addresses, Ledgers, Load, OnFailure, SOURCES};
use super::{check_tables, check_windows, files, numbers, pipeline};
use crate::alerting::receivers::{Receivers, WAYS};
use crate::alerting::{ALERTS, SECRETS, levels, story, wait_fired, wait_resolved};
use crate::determinism::random::Random;
use crate::harness::{Server, binary, request, wait};

/// Every fail point, in an order of which each third is a choice. The last of them are passed by maintenance: every ten seconds, if there is
/// something to do.
const FAILPOINTS: [&str; 22] = [
    "stage.flushed",
    "checkpoint.staged",
    "file.written",
    "file.renamed",
    "checkpoint.renamed",
    "checkpoint.committed",
    "recovery.committed",
    "recovery.restored",
    "manifest.writing",
    "manifest.written",
    "manifest.synced",
    "reload.prepared",
    "reload.saved",
    "reload.built",
    "reload.swapped",
    "reload.done",
    "trim.deleting",
    "trim.deleted",
    "retention.chosen",
    "retention.listed",
    "merge.written",
    "merge.listed",
];
/// Starts after deaths until one of them passes a fail point of starts.
const TRIES: usize = 30;
/// A fail point that is not passed within this time is none.
const PASSED: Duration = Duration::from_secs(60);

/// Small, so that segments end and go.
const WEIR_TOML: &str = "[journal]\nmax_bytes = \"16MiB\"\n[tables.brief]\nretention = \"1s\"\n";

/// Each edit has sinks of its own: those of the edit before leave, and stage all they have.
fn edited(edit: usize) -> String {
    let sinks = format!("[sinks.e{edit}_");
    pipeline(edit, &format!("{ALERTS}{FURTHER}")).replace("[sinks.", &sinks)
}

const FURTHER: &str = r#"
[operators.few]
type = "filter"
inputs = ["otlp.logs"]
where = "n % 50 = 0"

[sinks.brief]
type = "store"
inputs = ["few"]
table = "brief"

[sinks.lines]
type = "store"
inputs = ["syslog.logs"]
table = "lines"
"#;

/// Lines over syslog: nobody acknowledges them, but what was seen once stays, once.
#[derive(Default)]
struct Lines {
    sent: Arc<AtomicI64>,
    seen: BTreeSet<i64>,
}

impl Lines {
    /// Sends until told to stop, or the server is gone.
    fn start(&self, address: &str, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
        let (sent, stop, address) = (self.sent.clone(), stop.clone(), address.to_owned());
        std::thread::spawn(move || {
            let Ok(mut stream) = TcpStream::connect(address) else { return };
            while !stop.load(Relaxed) {
                let n = sent.fetch_add(1, Relaxed);
                if stream.write_all(format!("<14>1 - host app - - - {n}\n").as_bytes()).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        })
    }

    fn check(&mut self, server: &Server) {
        // A line that broke off at a death is no number.
        let sql = "SELECT TRY_CAST(body AS BIGINT) AS n FROM lines WHERE syslog.truncated IS NULL";
        let found = numbers(server, sql);
        let set: BTreeSet<i64> = found.iter().copied().collect();
        assert_eq!(found.len(), set.len(), "lines are there more than once");
        let gone: Vec<_> = self.seen.difference(&set).take(10).collect();
        assert!(gone.is_empty(), "lines were there and are gone: {gone:?}");
        assert!(set.last().is_none_or(|n| *n < self.sent.load(Relaxed)), "nobody sent them");
        self.seen = set;
    }
}

/// A run: the server, and all that was sent to it.
struct Run {
    server: Server,
    receivers: Receivers,
    random: Random,
    next: Arc<AtomicI64>,
    sent: Ledgers,
    lines: Lines,
    edit: usize,
    /// Services whose alerts were made to fire; the last one still does.
    services: usize,
    deaths: usize,
}

impl Run {
    fn start(seed: u64) -> Self {
        let receivers = Receivers::start();
        let weir_toml = format!("{WEIR_TOML}{}", receivers.weir_toml());
        let files = [("sources", SOURCES), ("work", &edited(0))];
        Self {
            server: Server::start_with(&files, Some(&weir_toml), &SECRETS),
            receivers,
            random: Random::new(seed),
            next: Arc::default(),
            sent: Ledgers::default(),
            lines: Lines::default(),
            edit: 0,
            services: 0,
            deaths: 0,
        }
    }

    /// Load, edits and reloads until `dead` says that the process is no more.
    fn load(&mut self, edits: bool, mut dead: impl FnMut(&mut Server) -> bool) {
        let Some(addresses) = Addresses::of(&self.server) else {
            return wait("its end", || dead(&mut self.server).then_some(()));
        };
        let load = Load::start(&addresses, &self.next, OnFailure::Stop);
        let stop = Arc::new(AtomicBool::new(false));
        let lines = self.lines.start(&addresses.syslog, &stop);
        while !dead(&mut self.server) {
            if edits {
                self.edit += 1;
                self.server.write("work", &edited(self.edit));
                let url = format!("{}/api/v1/reload", self.server.url);
                // It may die of it.
                request("POST", &url, &[], Vec::new());
            }
            std::thread::sleep(Duration::from_millis(self.random.range(1, 150).unsigned_abs()));
        }
        self.sent.add(load.finish());
        stop.store(true, Relaxed);
        lines.join().unwrap();
        self.deaths += 1;
    }

    /// Dies between two steps, some time or other that it passes there.
    fn at(&mut self, failpoint: &str) {
        if failpoint.starts_with("recovery.") {
            return self.at_start(failpoint);
        }
        // Where it passes seldom the first time has to do.
        let often = ["file.", "manifest.", "stage.", "checkpoint."];
        let often = often.iter().any(|of| failpoint.starts_with(of));
        let count = if often { self.random.range(1, 6) } else { 1 };
        self.at_time(failpoint, count);
    }

    /// Dies while it starts. A death before leaves work that is not committed, unless there was too
    /// little for a file.
    fn at_start(&mut self, failpoint: &str) {
        let failpoint = format!("{failpoint}:1");
        for _ in 0..TRIES {
            self.at_time("checkpoint.renamed", 3);
            if !self.server.start_to_die(&failpoint) {
                self.deaths += 1;
                return;
            }
            // Up: it has passed what it passes. Time for more rows.
            self.killed();
        }
        panic!("{failpoint} was not passed in {TRIES} starts");
    }

    fn at_time(&mut self, failpoint: &str, count: i64) {
        let failpoint = format!("{failpoint}:{count}");
        if !self.server.start_to_die(&failpoint) {
            self.deaths += 1;
            return;
        }
        let start = Instant::now();
        self.load(true, |server| {
            assert!(start.elapsed() < PASSED, "{failpoint} was not passed");
            server.died()
        });
    }

    /// Dies by `kill -9` at a random instant, in half of all cases near a reload.
    fn killed(&mut self) {
        let start = Instant::now();
        let life = Duration::from_millis(self.random.range(50, 600).unsigned_abs());
        let edits = self.random.chance(50);
        self.load(edits, |server| {
            let over = start.elapsed() > life;
            if over {
                server.kill9();
            }
            over
        });
    }

    /// The ledger against SQL, and alerts so far.
    fn check(&mut self) {
        check_tables(&self.server, &self.sent);
        self.lines.check(&self.server);
        if let Some(last) = self.services.checked_sub(1) {
            wait_fired(&self.server, &service(last));
        }
    }

    /// The last alert ends, the next one begins; both may be on their way at the next death.
    fn alerts(&mut self) {
        let next = service(self.services);
        match self.services.checked_sub(1) {
            Some(last) => levels(&self.server, &[(&service(last), 0.0), (&next, 1.0)]),
            None => levels(&self.server, &[(&next, 1.0)]),
        }
        self.services += 1;
    }

    /// Everybody was told of the begin and the end of each alert; again only if it died between
    /// telling and noting that it told, and four deaths are the most in a round.
    fn check_alerts(&self) {
        for number in 0..self.services {
            let service = service(number);
            wait_resolved(&self.server, &service);
            for way in WAYS {
                let mut told = story(&self.receivers, way, &service);
                let count = |state| told.iter().filter(|s| **s == state).count();
                let most = count("firing").max(count("resolved"));
                assert!(most <= 5, "{way} was told {told:?} of {service}");
                told.dedup();
                assert_eq!(told, ["firing", "resolved"], "{way} of {service}");
            }
        }
    }
}

fn service(number: usize) -> String {
    format!("svc-{number}-x")
}

#[test]
fn deaths_under_load() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().expect(name));
    let seed = number("WEIR_CRASH_SEED").unwrap_or(1);
    let seconds = number("WEIR_CRASH_SECONDS");
    let start = Instant::now();
    eprintln!("WEIR_CRASH_SEED={seed}, binary {} (debug: fail points)", binary().display());
    let mut run = Run::start(seed);
    let mut forced = 0;
    // All of them as long as time is given, else one of each kind.
    let failpoints: Vec<&str> = match seconds {
        Some(_) => FAILPOINTS.into(),
        None => FAILPOINTS.into_iter().skip(1).step_by(3).collect(),
    };
    for failpoint in failpoints.iter().cycle() {
        if seconds.map_or(forced >= failpoints.len(), |s| start.elapsed().as_secs() >= s) {
            break;
        }
        run.alerts();
        run.killed();
        run.at(failpoint);
        forced += 1;
        // At once once more, with what that death left.
        if run.random.chance(30) {
            run.server.restart();
            run.server.kill9();
            run.deaths += 1;
        }
        run.server.restart();
        run.check();
    }
    levels(&run.server, &[(&service(run.services - 1), 0.0)]);
    run.check_alerts();
    let listed = files(&run.server);
    assert!(listed > 0, "commits of files are part of this test");
    check_windows(&run.server);
    // And once more from files alone.
    run.server.restart();
    check_tables(&run.server, &run.sent);
    let (rows, lines) = (run.sent.acknowledged_rows(), run.lines.seen.len());
    eprintln!(
        "seed {seed}: {} deaths, {forced} of them at fail points, {} reloads; {rows} rows \
         acknowledged and {lines} lines seen, none lost, none double; {} alerts; {:?}",
        run.deaths,
        run.edit,
        run.services,
        start.elapsed(),
    );
}
