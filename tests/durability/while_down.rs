//! Files change between a death and the start: what came before it is replayed as the files said then,
//! what comes after it goes by what they say now, and what cannot be carried over is said.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use super::load::{Addresses, Ledgers, Load, OnFailure, ROWS, SOURCES};
use super::{check_table, pass};
use crate::harness::{Server, wait};

/// Rows that are sent in each life before its death, a third of them logs.
const ENOUGH: i64 = 60 * ROWS;

/// `{mark}` marks rows, `{counts}` is what `totals` counts; `even` counts all that there is.
const WORK: &str = r#"
[operators.mark]
type = "vrl"
inputs = ["otlp.logs"]
{mark}

[operators.totals]
type = "window"
inputs = ["mark"]
every = "1m"
lateness = "10m"
aggregate = { rows = "{counts}" }

[operators.even]
type = "window"
inputs = ["mark"]
every = "2s"
lateness = "10m"
group_by = ["service.name"]
aggregate = { rows = "count(*)", total = "sum(n)" }

[sinks.rows_table]
type = "store"
inputs = ["mark"]
table = "rows"

[sinks.totals_table]
type = "store"
inputs = ["totals"]
table = "totals"

[sinks.even_table]
type = "store"
inputs = ["even"]
table = "even_rows"
"#;

fn work(mark: &str, counts: &str) -> String {
    WORK.replace("{mark}", mark).replace("{counts}", counts)
}

fn inline(edit: i64) -> String {
    format!("source = \".edit = {edit}\"")
}

/// A server that dies and is started again, and what it took in each life.
struct Lives {
    server: Server,
    next: Arc<AtomicI64>,
    sent: Ledgers,
    /// What the rows of each request must be marked with.
    marks: BTreeMap<i64, i64>,
}

impl Lives {
    fn begin() -> Self {
        let files = [("sources", SOURCES), ("work", &*work(&inline(0), "count(*)"))];
        Self {
            server: Server::start(&files, None),
            next: Arc::default(),
            sent: Ledgers::default(),
            marks: BTreeMap::new(),
        }
    }

    /// Takes rows, which are marked with `edit`, and dies under load.
    fn life(&mut self, edit: i64) {
        let addresses = Addresses::of(&self.server).unwrap();
        let from = self.next.load(Relaxed);
        let load = Load::start(&addresses, &self.next, OnFailure::Stop);
        wait("load", || (self.next.load(Relaxed) >= from + ENOUGH).then_some(()));
        self.server.kill9();
        let sent = load.finish();
        self.marks.extend(sent.logs.requests().map(|first| (first, edit)));
        self.sent.add(sent);
    }

    /// Starts it; gives where its log begins.
    fn start(&mut self) -> usize {
        let logged = self.server.stderr().len();
        self.server.restart();
        logged
    }

    /// Waits until it says something behind `logged`: a pipeline with much to replay changes later.
    /// Gives all that it said.
    fn says(&self, logged: usize, what: &str) -> String {
        wait(&format!("it says `{what}`"), || {
            Some(self.server.stderr().split_off(logged)).filter(|log| log.contains(what))
        })
    }

    /// Every row is there once, and was marked by the program of its time.
    fn check(&self, what: &str) {
        pass(&self.server);
        check_table(&self.server, what, "SELECT n FROM rows", &self.sent.logs);
        for row in self.server.sql("SELECT n, edit FROM rows") {
            let n = row["n"].as_i64().unwrap();
            let expected = self.marks.get(&(n - n.rem_euclid(ROWS)));
            assert_eq!(row["edit"].as_i64().as_ref(), expected, "{what}: {row}");
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.server.path().join("pipelines.d").join(name)
    }
}

#[test]
fn files_change_while_weir_is_down() {
    let mut lives = Lives::begin();
    lives.life(0);
    lives.server.write("work", &work(&inline(1), "count(*)"));
    let logged = lives.start();
    let log = lives.says(logged, "pipeline `work` changed");
    assert!(!log.contains("without state"), "{log}");
    lives.check("another program");

    lives.life(1);
    lives.server.write("work", &work(&inline(2), "count(DISTINCT n)"));
    let logged = lives.start();
    let log =
        lives.says(logged, "`totals` starts without state: the shape of its state changed from");
    assert_eq!(log.matches("starts without state").count(), 1, "{log}");
    lives.check("another window");

    lives.life(2);
    fs::write(lives.path("mark.vrl"), ".edit = 3\n").unwrap();
    let renamed = work("file = \"mark.vrl\"", "count(DISTINCT n)")
        .replace("[operators.even]", "[operators.same]\nwas = \"even\"")
        .replace("[\"even\"]", "[\"same\"]");
    lives.server.write("work", &renamed);
    let logged = lives.start();
    let log = lives.says(logged, "pipeline `work` changed");
    assert!(!log.contains("without state"), "{log}");
    lives.check("another id");

    // The file is the same; what it names is not.
    lives.life(3);
    fs::write(lives.path("mark.vrl"), ".edit = 4\n").unwrap();
    let logged = lives.start();
    lives.says(logged, "pipeline `work` changed");
    lives.check("another file of a program");

    // What is wrong now was right then.
    lives.life(4);
    fs::write(lives.path("mark.vrl"), ".edit = nonsense( +\n").unwrap();
    let logged = lives.start();
    lives.says(logged, "mark.vrl:1:");
    assert!(lives.server.status()["problems"].to_string().contains("work.toml"));
    lives.check("a broken program");
    lives.life(4);
    fs::remove_file(lives.path("mark.vrl")).unwrap();
    let logged = lives.start();
    lives.says(logged, "mark.vrl` cannot be read: no such file");
    lives.check("a program that is gone");

    // Gone: it emits what it holds, all that was counted since the first life.
    lives.life(4);
    fs::remove_file(lives.path("work.toml")).unwrap();
    let logged = lives.start();
    lives.says(logged, "pipeline `work` removed");
    lives.check("a pipeline that is gone");
    let order = "ORDER BY w, g";
    let expected = lives.server.sql(&format!(
        "SELECT date_bin(INTERVAL '2 seconds', timestamp) AS w, service.name AS g, count(*) AS c, \
         sum(n) AS t FROM rows GROUP BY 1, 2 {order}"
    ));
    let found = lives.server.sql(&format!(
        "SELECT window_start AS w, service.name AS g, rows AS c, total AS t FROM even_rows {order}"
    ));
    assert!(expected.len() > 6, "{expected:?}");
    assert_eq!(expected, found);
}

/// The plan of the checkpoint is one of a binary that knew other types.
#[test]
fn a_plan_that_cannot_be_built_says_what_is_dropped() {
    let mut lives = Lives::begin();
    lives.life(0);
    // A checkpoint that has states.
    lives.server.write("work", &work(&inline(1), "count(*)"));
    lives.start();
    lives.life(1);
    let plans = fs::read_dir(lives.server.path().join("data/plans")).unwrap();
    for plan in plans {
        let path = plan.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let (json, _) = text.rsplit_once("\ncrc32c ").unwrap();
        let json = json.replace(r#"type = \"vrl\""#, r#"type = \"vrl9\""#);
        assert!(json.contains("vrl9"), "{json}");
        let crc = crc32c::crc32c(json.as_bytes());
        fs::write(path, format!("{json}\ncrc32c {crc:08x}\n")).unwrap();
    }
    // And the file has lost a window meanwhile, and has another one.
    let text = work(&inline(1), "count(DISTINCT n)").replace("operators.even", "operators.odd");
    lives.server.write("work", &text.replace("[\"even\"]", "[\"odd\"]"));
    let logged = lives.start();
    lives.says(logged, "the plan of its checkpoint cannot be built");
    lives.says(logged, "`vrl9`");
    lives.says(logged, "`totals` starts without state: the shape of its state changed from");
    lives.says(logged, "the state of `even` is dropped");
    lives.check("a plan of another binary");
}
