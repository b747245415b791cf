//! The clock of the machine is set an hour ahead and back, Weir is down for hours, a sender stamps
//! 2099 and another one 1970: no alert comes early or twice, no window is stuck, and of nobody else a
//! row is late.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::load::{Ledger, ROWS, SOURCES, nanoseconds, send_logs_at};
use super::{numbers, pass, remote_write};
use crate::alerting::receivers::{Receivers, WEBHOOK};
use crate::alerting::{SECRETS, story};
use crate::harness::{Server, request, wait};

const SECOND: i64 = 1_000_000_000;
const HOUR: i64 = 3600;
/// As the clock stands after the time down.
const LATER: i64 = 5 * HOUR;
/// 2099-01-01, in nanoseconds.
const FAR: i64 = 4_070_908_800 * SECOND;
/// Between two requests: few, so that none is late for want of a core.
const PAUSE: Duration = Duration::from_millis(100);

/// `held` waits for longer than the test takes; `seen` says at once what is, `brief` after a second;
/// `gone` would tell of a beat that stops, `empty` of a second without rows.
const WORK: &str = r#"
[sinks.rows_table]
type = "store"
inputs = ["otlp.logs"]
table = "rows"

[operators.totals]
type = "window"
inputs = ["otlp.logs"]
every = "1s"
lateness = "3s"
group_by = ["service.name"]
[operators.totals.aggregate]
rows = "count(*)"
total = "sum(n)"

[operators.pulse]
type = "window"
inputs = ["otlp.logs"]
every = "4s"
lateness = "3s"
emit_empty = true
group_by = ["service.name"]
aggregate = { rows = "count(*)" }

[sinks.totals_table]
type = "store"
inputs = ["totals"]
table = "totals"

[sinks.late]
type = "store"
inputs = ["totals.late"]
table = "late"

[alerts.empty]
inputs = ["pulse"]
when = "rows = 0"
by = ["service.name"]
labels = { severity = "page", service = "empty-x" }

[alerts.held]
inputs = ["prometheus.metrics"]
when = "metric.name = 'level' AND value > 0"
for = "10m"
by = ["service"]
labels = { severity = "page", rule = "held-x" }

[alerts.brief]
inputs = ["prometheus.metrics"]
when = "metric.name = 'level' AND value > 0"
for = "1s"
by = ["service"]
labels = { severity = "page", rule = "brief-x" }

[alerts.gone]
inputs = ["prometheus.metrics"]
when = "metric.name = 'beat' AND value < 0"
by = ["service"]
no_data = "alert"
resolve_after = "10m"
labels = { severity = "page", rule = "gone-x" }
"#;

/// By how much the clock of the machine is wrong, for the server and for those who send. It is not
/// set while a request is on its way: what that was stamped with is the old time.
#[derive(Clone)]
struct Clock {
    file: std::path::PathBuf,
    seconds: Arc<Mutex<i64>>,
}

impl Clock {
    fn set(&self, seconds: i64) {
        let mut now = self.seconds.lock();
        let new = self.file.with_extension("new");
        fs::write(&new, seconds.to_string()).unwrap();
        fs::rename(new, &self.file).unwrap();
        *now = seconds;
    }

    fn now(&self) -> i64 {
        nanoseconds() + *self.seconds.lock() * SECOND
    }
}

/// Sends logs and a beat until told to stop.
fn sender(
    server: &Server,
    clock: &Clock,
    next: &Arc<AtomicI64>,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<Ledger> {
    let logs = format!("http://{}/v1/logs", server.address("otlp"));
    let samples = samples_url(server);
    let (clock, next, stop) = (clock.clone(), next.clone(), stop.clone());
    std::thread::spawn(move || {
        let mut sent = Ledger::default();
        while !stop.load(Relaxed) {
            let first = next.fetch_add(ROWS, Relaxed);
            let ahead = clock.seconds.lock();
            let time = nanoseconds() + *ahead * SECOND;
            let reply = send_logs_at(&logs, first, time);
            assert_eq!(reply.status, 200, "{}", reply.text());
            sent.acknowledge(first);
            sample(&samples, time, "beat", "beat-a1", 1.0);
            drop(ahead);
            std::thread::sleep(PAUSE);
        }
        sent
    })
}

fn samples_url(server: &Server) -> String {
    format!("http://{}/api/v1/write", server.address("prometheus"))
}

fn sample(url: &str, time: i64, metric: &str, service: &str, value: f64) {
    let body = remote_write::body_at(time / 1_000_000, metric, "service", &[(service, value)]);
    let reply = request("POST", url, &remote_write::HEADERS, body);
    assert_eq!(reply.status, 204, "{}", reply.text());
}

/// Waits until a window of the time that it is now has been emitted.
fn windows_move(server: &Server, clock: &Clock) {
    let now = clock.now() / SECOND;
    let sql = format!(
        "SELECT count(*) AS c FROM totals WHERE window_start >= to_timestamp({now}) AND \
         window_start < to_timestamp({})",
        now + 600
    );
    server.wait_sql(&sql, |rows| rows[0]["c"].as_u64() > Some(0));
}

/// Windows against GROUP BY, for rows of senders whose clock was that of the machine: none was late.
fn check(server: &Server, own: &str) {
    let late = numbers(server, &format!("SELECT n FROM late WHERE {own}"));
    assert!(late.is_empty(), "late: {late:?}");
    let order = "ORDER BY w, g";
    let expected = server.sql(&format!(
        "SELECT date_bin(INTERVAL '1 second', timestamp) AS w, service.name AS g, count(*) AS c, \
         sum(n) AS t FROM rows WHERE {own} GROUP BY 1, 2 {order}"
    ));
    let found = server.sql(&format!(
        "SELECT window_start AS w, service.name AS g, rows AS c, total AS t FROM totals {order}"
    ));
    assert!(expected.len() > 20, "{expected:?}");
    let differ = expected.iter().zip(&found).position(|(e, f)| e != f);
    if let Some(at) = differ {
        panic!("row {at}: rows say {}, the window {}", expected[at], found[at]);
    }
    assert_eq!(expected.len(), found.len());
}

#[test]
fn steps_of_the_clock_and_hours_of_downtime() {
    let receivers = Receivers::start();
    // A step of an hour must not make a repetition due.
    let weir_toml = receivers.weir_toml().replace("\"4h\"", "\"30m\"");
    let files = [("sources", SOURCES), ("work", WORK)];
    let mut server = Server::prepare(&files, Some(&weir_toml), &SECRETS);
    let clock = Clock { file: server.path().join("clock"), seconds: Arc::default() };
    clock.set(0);
    server.set("WEIR_CLOCK", clock.file.to_str().unwrap());
    server.restart();
    let next = Arc::new(AtomicI64::new(0));
    let mut stop = Arc::new(AtomicBool::new(false));
    let mut senders = sender(&server, &clock, &next, &stop);
    let mut url = samples_url(&server);
    let level = |url: &str, service: &str, value| sample(url, clock.now(), "level", service, value);
    let fired = |service: &str| {
        let told = || (story(&receivers, WEBHOOK, service) == ["firing"]).then_some(());
        wait(&format!("{service} is told"), told);
    };
    level(&url, "first-b1", 1.0);
    fired("first-b1");
    windows_move(&server, &clock);

    clock.set(HOUR);
    windows_move(&server, &clock);
    level(&url, "ahead-c2", 1.0);
    fired("ahead-c2");

    clock.set(0);
    windows_move(&server, &clock);
    level(&url, "back-d3", 1.0);
    fired("back-d3");
    // What began before ends, too: none of what was said an hour ahead is newer than this.
    level(&url, "ahead-c2", 0.0);

    stop.store(true, Relaxed);
    let mut sent = senders.join().expect("a sender");
    server.kill9();
    clock.set(LATER);
    server.restart();
    url = samples_url(&server);
    stop = Arc::default();
    senders = sender(&server, &clock, &next, &stop);
    windows_move(&server, &clock);
    level(&url, "later-e4", 1.0);
    fired("later-e4");

    // Two whose clocks are wrong.
    let logs = format!("http://{}/v1/logs", server.address("otlp"));
    let mut wrong = Vec::new();
    for time in [FAR, 0] {
        let first = next.fetch_add(ROWS, Relaxed);
        assert_eq!(send_logs_at(&logs, first, time.max(1)).status, 200);
        wrong.push(first);
    }
    sample(&url, FAR, "level", "far-f5", 1.0);
    fired("far-f5");
    level(&url, "far-f5", 0.0);
    windows_move(&server, &clock);
    stop.store(true, Relaxed);
    sent.add(senders.join().expect("a sender"));

    pass(&server);
    wrong.iter().for_each(|first| sent.acknowledge(*first));
    let mut rows = numbers(&server, "SELECT n FROM rows");
    let future = numbers(&server, "SELECT n FROM rows.late");
    assert_eq!(future.len(), usize::try_from(ROWS).unwrap(), "those of 2099");
    rows.extend(future);
    sent.check("rows", rows);
    for over in ["ahead-c2", "far-f5"] {
        wait(&format!("{over} is over"), || {
            (story(&receivers, WEBHOOK, over) == ["firing", "resolved"]).then_some(())
        });
    }
    for fires in ["first-b1", "back-d3", "later-e4"] {
        assert_eq!(story(&receivers, WEBHOOK, fires), ["firing"], "{fires}");
    }
    for never in ["held-x", "gone-x", "empty-x"] {
        let told = receivers.about(WEBHOOK, never);
        assert!(told.is_empty(), "{never}: {}", told[0].text);
    }
    // Windows say the rest when they go.
    fs::remove_file(server.path().join("pipelines.d/work.toml")).unwrap();
    assert_eq!(server.reload()["ok"], true);
    let of = |first: &i64| format!("n BETWEEN {first} AND {}", first + ROWS - 1);
    let own = format!("NOT ({} OR {})", of(&wrong[0]), of(&wrong[1]));
    check(&server, &own);
    let of_1970 = numbers(&server, &format!("SELECT n FROM late WHERE NOT ({own})"));
    assert_eq!(of_1970.len(), usize::try_from(ROWS).unwrap(), "1970 is late");
}
