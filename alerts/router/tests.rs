//! The router, scripted: time is a value, targets answer as the script says, and the log can be
//! cut at any frame.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use weir_pipeline::config::Section;

use super::attempts::Load;
use super::*;
use crate::notify::Target;
use crate::transition::{State, fingerprint};

const S: i64 = 1_000_000_000;
/// Scripts count seconds from here.
const T0: i64 = 1_700_000_000 * S;

fn config(receivers: &[(&str, &str)], route: &str) -> RouterConfig {
    let receivers: Vec<Section> =
        receivers.iter().map(|(id, text)| Section::parse_for_tests(id, text)).collect();
    let route = Section::parse_for_tests("route", route);
    RouterConfig::plan(&receivers, Some(&route)).map_err(|e| e.to_string()).unwrap()
}

fn hook(name: &str) -> String {
    format!("webhook = {{ url = \"http://{name}.example/\" }}")
}

/// The usual: one webhook, group by alertname, 30 s / 5 min / 4 h.
fn usual() -> RouterConfig {
    let route = "receiver = \"ops\"\ngroup_by = [\"alertname\"]\ngroup_wait = \"30s\"\n\
                 group_interval = \"5m\"\nrepeat_interval = \"4h\"";
    config(&[("ops", &hook("ops"))], route)
}

fn transition(at: i64, labels: &[(&str, &str)], state: State, offset: u64) -> Transition {
    let labels: BTreeMap<String, String> =
        labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let time = T0 + at * S;
    Transition {
        time,
        alert: labels["alertname"].clone(),
        fingerprint: fingerprint(&labels),
        state,
        annotations: BTreeMap::new(),
        value: "{}".into(),
        starts_at: time,
        ends_at: (state == State::Resolved).then_some(time),
        reason: String::new(),
        labels,
        offset,
        sequence: offset,
    }
}

fn fires(at: i64, labels: &[(&str, &str)], offset: u64) -> Transition {
    transition(at, labels, State::Firing, offset)
}

fn ends(at: i64, labels: &[(&str, &str)], offset: u64) -> Transition {
    transition(at, labels, State::Resolved, offset)
}

/// What a target was sent: second, target, reason, firing and resolved instances by their label
/// `i`.
type Sent = (i64, String, &'static str, String, String);

struct World {
    dir: tempfile::TempDir,
    clock: Arc<Hands>,
    inner: Option<Inner>,
    config: RouterConfig,
    now: i64,
    /// How the next attempts at a target go; then they succeed.
    answers: BTreeMap<String, Vec<Outcome>>,
    attempts: Vec<Sent>,
    sent: Vec<Sent>,
    ids: Vec<String>,
}

/// Now, and running.
#[derive(Default)]
struct Hands(AtomicI64, AtomicI64);

impl Clock for Hands {
    fn now(&self) -> i64 {
        self.0.load(Relaxed)
    }

    fn running(&self) -> i64 {
        self.1.load(Relaxed)
    }
}

fn options(dir: &std::path::Path, clock: &Arc<Hands>, ran: Option<i64>) -> RouterOptions {
    RouterOptions {
        dir: dir.to_owned(),
        external_url: "http://weir.example".into(),
        clock: clock.clone(),
        ran,
        transport: None,
    }
}

fn failed(doubt: bool) -> Outcome {
    Outcome::Failed { error: "503".into(), after: None, doubt, left: Vec::new() }
}

impl World {
    fn new(config: RouterConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hands::default());
        clock.0.store(T0, Relaxed);
        let inner = Inner::open(&options(dir.path(), &clock, None), config.clone()).unwrap();
        Self {
            dir,
            clock,
            inner: Some(inner),
            config,
            now: T0,
            answers: BTreeMap::new(),
            attempts: Vec::new(),
            sent: Vec::new(),
            ids: Vec::new(),
        }
    }

    fn inner(&mut self) -> &mut Inner {
        self.inner.as_mut().unwrap()
    }

    /// As if killed and started again.
    fn restart(&mut self) {
        self.restart_ran(None);
    }

    fn restart_ran(&mut self, ran: Option<i64>) {
        self.inner = None;
        self.clock.0.store(self.now, Relaxed);
        let options = options(self.dir.path(), &self.clock, ran);
        self.inner = Some(Inner::open(&options, self.config.clone()).unwrap());
    }

    /// The clock shows `now`; what it moved ahead by has passed.
    fn follow(&mut self) {
        let before = self.clock.0.swap(self.now, Relaxed);
        self.clock.1.fetch_add((self.now - before).max(0), Relaxed);
        self.inner().follow();
    }

    /// Somebody sets the clock ahead.
    fn set_ahead(&mut self, seconds: i64) {
        self.follow();
        self.now += seconds * S;
        self.clock.0.store(self.now, Relaxed);
        self.inner().follow();
    }

    fn reload(&mut self, config: RouterConfig) {
        self.config = config.clone();
        let now = self.now;
        self.inner().reconfigure(now, config).unwrap();
    }

    fn submit(&mut self, transitions: Vec<Transition>) -> usize {
        let now = self.now;
        self.inner().submit(now, 1, "shop", transitions).unwrap()
    }

    /// Lets time pass up to second `to`, with every turn and attempt on the way.
    fn until(&mut self, to: i64) {
        let to = T0 + to * S;
        loop {
            let now = self.now;
            self.follow();
            self.inner().tick(now);
            while self.attempt() {}
            let core = &self.inner().core;
            let attempts = core.state.deliveries.values().map(|d| d.next_attempt).min();
            let next = [core.next_flush(), attempts].into_iter().flatten().min();
            match next {
                Some(next) if next <= to => self.now = next.max(now + 1),
                _ => break,
            }
        }
        self.now = to;
    }

    /// Makes one due attempt.
    fn attempt(&mut self) -> bool {
        let now = self.now;
        let due = self.inner().core.state.deliveries.iter().find(|(_, d)| d.next_attempt <= now);
        let Some((number, delivery)) = due.map(|(n, d)| (*n, d.clone())) else { return false };
        let names = |state| {
            let of = delivery.notification.alerts.iter().filter(|a| a.state == state);
            of.map(|a| a.labels.get("i").map_or("-", String::as_str)).collect::<Vec<_>>().join(",")
        };
        let reason = match delivery.notification.reason {
            crate::notify::Reason::First => "first",
            crate::notify::Reason::NewAlerts => "new",
            crate::notify::Reason::SomeResolved => "some",
            crate::notify::Reason::AllResolved => "all",
            crate::notify::Reason::Repeat => "repeat",
            crate::notify::Reason::Test => "test",
        };
        let target = short(&delivery.target);
        let sent =
            ((now - T0) / S, target.clone(), reason, names(State::Firing), names(State::Resolved));
        self.attempts.push(sent.clone());
        let answers = self.answers.entry(target).or_default();
        let outcome = if answers.is_empty() { Outcome::Delivered } else { answers.remove(0) };
        if outcome == Outcome::Delivered {
            self.sent.push(sent);
            self.ids.push(delivery.notification.id.clone());
        }
        self.inner().done(now, number, outcome);
        true
    }

    /// What arrived since the last look.
    #[track_caller]
    fn expect(&mut self, expect: &[(i64, &str, &str, &str, &str)]) {
        let sent: Vec<_> = std::mem::take(&mut self.sent);
        let sent: Vec<_> = sent
            .iter()
            .map(|(at, target, reason, firing, resolved)| {
                (*at, target.as_str(), *reason, firing.as_str(), resolved.as_str())
            })
            .collect();
        assert_eq!(sent, expect);
    }

    fn is_empty(&mut self) -> bool {
        let state = &self.inner().core.state;
        state.alerts.is_empty() && state.groups.is_empty() && state.deliveries.is_empty()
    }
}

fn short(target: &Target) -> String {
    target.receiver.clone()
}

fn a(i: &str) -> Vec<(&str, &str)> {
    vec![("alertname", "a"), ("i", i)]
}

#[test]
fn what_comes_within_group_wait_is_one_notice() {
    // Alertmanager TestBatching, TestRepeat, TestResolved.
    let mut w = World::new(usual());
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(10);
    w.submit(vec![fires(10, &a("2"), 2)]);
    w.until(29);
    w.expect(&[]);
    w.until(60);
    w.expect(&[(30, "ops", "first", "1,2", "")]);
    w.submit(vec![fires(60, &a("3"), 3)]);
    w.until(329);
    w.expect(&[]);
    w.until(330);
    w.expect(&[(330, "ops", "new", "1,2,3", "")]);
    // Nothing else until the repeat: the first turn of the group 4 h after the last notice.
    w.until(330 + 4 * 3600);
    w.expect(&[(330 + 4 * 3600, "ops", "repeat", "1,2,3", "")]);
    let t = 330 + 4 * 3600;
    w.submit(vec![ends(t + 1, &a("2"), 4)]);
    w.until(t + 300);
    w.expect(&[(t + 300, "ops", "some", "1,3", "2")]);
    w.submit(vec![ends(t + 301, &a("1"), 5), ends(t + 301, &a("3"), 6)]);
    w.until(t + 10_000);
    w.expect(&[(t + 600, "ops", "all", "", "1,3")]);
    assert!(w.is_empty());
}

#[test]
fn a_tiny_repeat_interval_repeats_at_every_turn() {
    let mut config = usual();
    config.route.repeat_interval = S;
    let mut w = World::new(config);
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(30 + 600);
    w.expect(&[
        (30, "ops", "first", "1", ""),
        (330, "ops", "repeat", "1", ""),
        (630, "ops", "repeat", "1", ""),
    ]);
}

#[test]
fn resolved_before_the_first_notice_is_silent() {
    let mut w = World::new(usual());
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(10);
    w.submit(vec![ends(10, &a("1"), 2)]);
    w.until(1000);
    w.expect(&[]);
    assert!(w.is_empty());
}

#[test]
fn an_alert_that_fires_again_is_a_new_episode() {
    let mut w = World::new(usual());
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(60);
    w.submit(vec![ends(60, &a("1"), 2)]);
    w.until(400);
    w.submit(vec![fires(400, &a("1"), 3)]);
    w.until(500);
    w.expect(&[
        (30, "ops", "first", "1", ""),
        (330, "ops", "all", "", "1"),
        (430, "ops", "first", "1", ""),
    ]);
    // A later start of what fires already keeps the earliest (TestMergeAlerts).
    w.submit(vec![fires(510, &a("1"), 4)]);
    let alert = w.inner().core.state.alerts.values().next().unwrap().clone();
    assert_eq!(alert.transition.starts_at, T0 + 400 * S);
    // Over and back between two turns: nothing to say.
    w.submit(vec![ends(520, &a("1"), 5), fires(530, &a("1"), 6)]);
    w.until(1400);
    w.expect(&[]);
}

#[test]
fn one_failing_target_takes_nothing_from_the_other() {
    // Alertmanager TestRetry.
    let two = "webhook = [{ url = \"http://good.example/\" }, { url = \"http://bad.example/\" }]";
    let route = "receiver = \"two\"\ngroup_wait = \"1s\"\ngroup_interval = \"1m\"";
    let config = config(&[("two", two)], route);
    let mut w = World::new(config.clone());
    let ids: Vec<String> = config.receivers["two"].iter().map(|t| t.id.clone()).collect();
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
    // Targets of one receiver answer in the order of their ids: bad first.
    w.answers.insert(
        "two".into(),
        vec![failed(false), Outcome::Delivered, failed(false), failed(false)],
    );
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(3600);
    w.expect(&[(1, "two", "first", "1", ""), (8, "two", "first", "1", "")]);
    let at: Vec<i64> = w.attempts.iter().map(|a| a.0).collect();
    assert_eq!(at, [1, 1, 2, 4, 8]);
}

#[test]
fn retry_after_is_honoured_and_backoff_is_bounded() {
    let mut w = World::new(usual());
    let mut limited = failed(false);
    if let Outcome::Failed { after, .. } = &mut limited {
        *after = Some(90 * S);
    }
    w.answers.insert("ops".into(), vec![limited]);
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(300);
    w.expect(&[(120, "ops", "first", "1", "")]);
    let mut w = World::new(usual());
    w.answers.insert("ops".into(), vec![failed(false); 20]);
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(3600);
    let at: Vec<i64> = w.attempts.iter().map(|a| a.0).collect();
    let gaps: Vec<i64> = at.windows(2).map(|p| p[1] - p[0]).collect();
    assert_eq!(gaps[..7], [1, 2, 4, 8, 16, 32, 60]);
    assert!(gaps.iter().all(|g| *g <= 60));
    assert_eq!(w.sent.len(), 1);
}

#[test]
fn a_failed_notice_is_made_anew_at_the_next_turn() {
    let mut w = World::new(usual());
    w.answers.insert("ops".into(), vec![failed(false); 11]);
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(100);
    w.submit(vec![fires(100, &a("2"), 2)]);
    w.until(3600);
    assert_eq!(w.sent.len(), 1, "{:?}", w.sent);
    assert_eq!(w.sent[0].3, "1,2");
}

#[test]
fn refused_is_tried_at_each_turn_only() {
    let mut w = World::new(usual());
    w.answers.insert("ops".into(), vec![Outcome::Refused { error: "400".into() }; 2]);
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(3600);
    let at: Vec<i64> = w.attempts.iter().map(|a| a.0).collect();
    assert_eq!(at, [30, 330, 630]);
}

#[test]
fn what_may_have_arrived_is_closed() {
    for (doubt, expect) in [(true, vec![(393, "ops", "all", "", "1")]), (false, vec![])] {
        let mut w = World::new(usual());
        // Fails past the turn at 330, the alert is over by then.
        w.answers.insert("ops".into(), vec![failed(doubt); 11]);
        w.submit(vec![fires(0, &a("1"), 1)]);
        w.until(60);
        w.submit(vec![ends(60, &a("1"), 2)]);
        w.until(3600);
        w.expect(&expect);
        assert!(w.is_empty());
    }
}

#[test]
fn send_resolved_false_is_told_of_fires_only() {
    // Alertmanager TestResolvedFilter and the dedup table.
    let ops = "webhook = { url = \"http://ops.example/\", send_resolved = false }";
    let route = "receiver = \"ops\"\ngroup_wait = \"30s\"\ngroup_interval = \"5m\"";
    let mut w = World::new(config(&[("ops", ops)], route));
    w.submit(vec![fires(0, &a("1"), 1), fires(0, &a("2"), 2)]);
    w.until(60);
    w.submit(vec![ends(60, &a("1"), 3)]);
    w.until(400);
    w.expect(&[(30, "ops", "first", "1,2", "")]);
    // Told once, over, and back: it is new again.
    w.submit(vec![fires(400, &a("1"), 4)]);
    w.until(700);
    w.expect(&[(630, "ops", "new", "1,2", "")]);
    w.submit(vec![ends(700, &a("1"), 5), ends(700, &a("2"), 6)]);
    w.until(3600);
    w.expect(&[]);
    assert!(w.is_empty());
}

#[test]
fn group_wait_zero_loses_no_first_alert() {
    // Alertmanager TestDispatcherRaceOnFirstAlertNotDeliveredWhenGroupWaitIsZero.
    let route = "receiver = \"ops\"\ngroup_by = [\"...\"]\ngroup_wait = \"0s\"";
    let mut w = World::new(config(&[("ops", &hook("ops"))], route));
    let names: Vec<String> = (0..500).map(|i| i.to_string()).collect();
    let all = names.iter().zip(1..).map(|(i, offset)| fires(0, &a(i), offset)).collect();
    w.submit(all);
    w.until(0);
    let told: BTreeSet<String> = w.sent.iter().map(|s| s.3.clone()).collect();
    assert_eq!(told.len(), 500);
    assert_eq!(w.sent.len(), 500);
}

#[test]
fn routes_inherit_and_continue() {
    let route = r#"
receiver = "root"
group_by = ["alertname"]
group_wait = "1s"
[[routes]]
match = ['severity = "page"']
receiver = "pages"
continue = true
[[routes]]
match = ['team =~ "web|db"']
receiver = "team"
[[routes.routes]]
match = ['team = "db"']
receiver = "db"
[[routes]]
match = ['severity = "page"']
receiver = "late"
"#;
    let names = ["root", "pages", "team", "db", "late"];
    let hooks: Vec<(&str, String)> = names.iter().map(|n| (*n, hook(n))).collect();
    let hooks: Vec<(&str, &str)> = hooks.iter().map(|(n, h)| (*n, h.as_str())).collect();
    let config = config(&hooks, route);
    let check = |labels: &[(&str, &str)], expect: &[&str]| {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let found: Vec<&str> =
            config.route.find(&labels).iter().map(|r| r.receiver.as_str()).collect();
        assert_eq!(found, expect, "{labels:?}");
    };
    check(&[], &["root"]);
    check(&[("severity", "page")], &["pages", "late"]);
    check(&[("severity", "page"), ("team", "web")], &["pages", "team"]);
    check(&[("severity", "page"), ("team", "db")], &["pages", "db"]);
    check(&[("team", "webx")], &["root"]);
    let route = config.route.by_id("{}/{team=~\"web|db\"}/{team=\"db\"}").unwrap();
    assert_eq!((route.group_wait, route.receiver.as_str()), (S, "db"));
    assert_ne!(
        config.route.find(&[("severity".to_owned(), "page".to_owned())].into())[0].id,
        config.route.find(&[("severity".to_owned(), "page".to_owned())].into())[1].id,
        "twins have ids of their own"
    );
}

#[test]
fn a_reload_keeps_groups_and_timers() {
    // Alertmanager TestReload.
    let mut w = World::new(usual());
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(60);
    let mut other = usual();
    other.stale_after += 1;
    w.reload(other);
    w.submit(vec![fires(60, &a("2"), 2)]);
    w.until(400);
    w.expect(&[(30, "ops", "first", "1", ""), (330, "ops", "new", "1,2", "")]);
    w.until(330 + 4 * 3600);
    w.expect(&[(330 + 4 * 3600, "ops", "repeat", "1,2", "")]);
}

#[test]
fn what_was_opened_is_closed_after_any_change() {
    let to_other = config(
        &[("ops", &hook("ops")), ("other", &hook("other"))],
        "receiver = \"other\"\ngroup_by = [\"alertname\"]\ngroup_wait = \"30s\"",
    );
    let gone =
        config(&[("other", &hook("other"))], "receiver = \"other\"\ngroup_by = [\"alertname\"]");
    let grouped = config(&[("ops", &hook("ops"))], "receiver = \"ops\"\ngroup_by = [\"...\"]");
    for (config, others) in [(to_other, "other"), (gone, "other"), (grouped, "ops")] {
        for restart in [false, true] {
            let mut w = World::new(usual());
            w.submit(vec![fires(0, &a("1"), 1)]);
            w.until(60);
            w.expect(&[(30, "ops", "first", "1", "")]);
            if restart {
                w.config = config.clone();
                w.restart();
            } else {
                w.reload(config.clone());
            }
            w.until(1000);
            // The new way is told; the old one is not told again.
            let told: Vec<_> = w.sent.iter().map(|s| (s.1.as_str(), s.2)).collect();
            assert_eq!(told, [(others, "first")]);
            w.sent.clear();
            w.restart();
            w.submit(vec![ends(1000, &a("1"), 2)]);
            w.until(3000);
            let mut told: Vec<_> =
                w.sent.iter().map(|s| (s.1.as_str(), s.2, s.4.as_str())).collect();
            told.sort_unstable();
            assert_eq!(told, [("ops", "all", "1"), (others, "all", "1")]);
            assert!(w.is_empty());
        }
    }
}

#[test]
fn what_a_removed_rule_opened_is_closed() {
    let mut w = World::new(usual());
    let b = [("alertname", "b"), ("i", "x")];
    w.submit(vec![fires(0, &a("1"), 1), fires(0, &b, 2)]);
    w.until(60);
    w.expect(&[(30, "ops", "first", "1", ""), (30, "ops", "first", "x", "")]);
    let wanted: Wanted = [("shop".to_owned(), "b".to_owned())].into_iter().collect();
    let now = w.now;
    // A pipeline that is wanted but does not run keeps what it has.
    let unknown = Wanted::default().with_pipeline("shop".into());
    assert_eq!(w.inner().retain(now, unknown).unwrap(), 0);
    assert_eq!(w.inner().retain(now, wanted.clone()).unwrap(), 1);
    assert_eq!(w.inner().retain(now, wanted).unwrap(), 0);
    let known: Vec<String> =
        w.inner().core.state.positions.keys().map(|(_, alert)| alert.clone()).collect();
    assert_eq!(known, ["b"]);
    w.restart();
    w.until(400);
    w.expect(&[(330, "ops", "all", "", "1")]);
}

/// What rule `a` says it holds open at a second.
fn held(at: i64, offset: u64, open: &[&str]) -> Held {
    let mut open: Vec<Transition> = open.iter().map(|i| fires(at, &a(i), offset)).collect();
    open.iter_mut().for_each(|t| t.starts_at = T0);
    Held { alert: "a".into(), time: T0 + at * S, offset, sequence: offset, open }
}

impl World {
    fn held(&mut self, journal: u128, held: Held) -> bool {
        let now = self.now;
        self.inner().reconcile(now, journal, "shop", held).unwrap()
    }
}

#[test]
fn what_a_rule_does_not_hold_is_closed() {
    // Its state was lost: in the same journal, in another, with and without something new.
    for (journal, open, expect) in [
        (1, vec![], (330, "ops", "all", "", "1,2")),
        (2, vec![], (330, "ops", "all", "", "1,2")),
        (2, vec!["2", "3"], (330, "ops", "new", "2,3", "1")),
    ] {
        let mut w = World::new(usual());
        w.submit(vec![fires(0, &a("1"), 1), fires(0, &a("2"), 2)]);
        w.until(60);
        w.expect(&[(30, "ops", "first", "1,2", "")]);
        assert!(!w.held(1, held(60, 3, &["1", "2"])), "they agree");
        assert!(w.held(journal, held(61, 4, &open)));
        assert!(!w.held(journal, held(61, 4, &open)), "said twice");
        let reasons: Vec<String> =
            w.inner().core.state.alerts.values().map(|a| a.transition.reason.clone()).collect();
        assert!(reasons.iter().any(|r| r == "state_lost"), "{reasons:?}");
        w.restart();
        w.until(1000);
        w.expect(&[expect]);
        assert_eq!(w.is_empty(), open.is_empty());
    }
}

#[test]
fn what_the_router_forgot_is_opened_again() {
    let mut w = World::new(usual());
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(60);
    w.expect(&[(30, "ops", "first", "1", "")]);
    // Its log is gone; the rule will never say again that it fires.
    w.inner = None;
    std::fs::remove_file(w.dir.path().join("log")).unwrap();
    w.restart();
    assert!(w.held(1, held(70, 4, &["1"])));
    w.until(100);
    w.expect(&[(60, "ops", "first", "1", "")]);
    w.submit(vec![ends(100, &a("1"), 5)]);
    w.until(1000);
    w.expect(&[(360, "ops", "all", "", "1")]);
}

#[test]
fn what_was_held_at_a_checkpoint_is_old_news() {
    let mut w = World::new(usual());
    w.submit(vec![fires(0, &a("1"), 5)]);
    w.submit(vec![ends(10, &a("1"), 7), fires(10, &a("2"), 8)]);
    // The pipeline recovers from before all that: it says what it held then.
    assert!(!w.held(1, held(5, 4, &[])));
    assert!(!w.held(1, held(5, 6, &["1"])));
    w.until(60);
    w.expect(&[(30, "ops", "first", "2", "")]);
}

#[test]
fn a_clock_that_goes_back_stops_no_timer() {
    for restart in [false, true] {
        let mut w = World::new(usual());
        w.until(3600);
        w.submit(vec![fires(3600, &a("1"), 1)]);
        w.now = T0 + 5 * S;
        if restart {
            w.restart();
        }
        w.until(60);
        w.expect(&[(35, "ops", "first", "1", "")]);
    }
    // Attempts wait as long as they would have.
    let mut w = World::new(usual());
    w.answers.insert("ops".into(), vec![failed(false); 7]);
    w.until(3600);
    w.submit(vec![fires(3600, &a("1"), 1)]);
    w.until(3600 + 95);
    w.now = T0;
    w.until(3600);
    let at: Vec<i64> = w.attempts.iter().map(|a| a.0).collect();
    assert_eq!(at, [3630, 3631, 3633, 3637, 3645, 3661, 3693, 60]);
    let mut load = Load { paused: HashMap::from([("t".into(), 90)]), ..Load::default() };
    load.follow(-60);
    load.follow(-60);
    assert_eq!(load.paused["t"], 30);
}

#[test]
fn a_clock_set_ahead_and_hours_of_downtime_make_nothing_early() {
    let hours = 5 * 3600;
    for down in [false, true] {
        let mut w = World::new(usual());
        w.submit(vec![fires(0, &a("1"), 1)]);
        w.until(60);
        w.expect(&[(30, "ops", "first", "1", "")]);
        w.submit(vec![fires(60, &[("alertname", "B"), ("i", "2")], 2)]);
        if down {
            let ran = w.now;
            w.now += hours * S;
            w.restart_ran(Some(ran));
        } else {
            w.set_ahead(hours);
        }
        // Neither repeated, nor told before `group_wait` is over.
        w.until(hours + 89);
        w.expect(&[]);
        w.until(hours + 90);
        w.expect(&[(hours + 90, "ops", "first", "2", "")]);
        w.until(hours + 4 * 3600);
        w.expect(&[]);
        w.until(hours + 4 * 3600 + 330);
        let due = hours + 4 * 3600;
        w.expect(&[(due + 30, "ops", "repeat", "1", ""), (due + 90, "ops", "repeat", "2", "")]);
    }
    // A notice under way counts from its turn, wherever the clock has gone since.
    let mut w = World::new(usual());
    w.answers.insert("ops".into(), vec![failed(false)]);
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(30);
    w.set_ahead(hours);
    w.until(hours + 4 * 3600);
    let told: Vec<_> = w.sent.drain(..).map(|(_, _, reason, ..)| reason).collect();
    assert_eq!(told, ["first"]);
    w.until(hours + 4 * 3600 + 30);
    w.expect(&[(hours + 4 * 3600 + 30, "ops", "repeat", "1", "")]);
    // Small steps are those of a time service.
    let mut w = World::new(usual());
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.set_ahead(4);
    w.until(30);
    w.expect(&[(30, "ops", "first", "1", "")]);
}

#[test]
fn a_busy_target_takes_no_turn_from_others() {
    let mut w = World::new(config(
        &[("slow", &hook("slow")), ("quick", &hook("quick"))],
        "receiver = \"slow\"\ngroup_by = [\"...\"]\ngroup_wait = \"0s\"\n\
         [[routes]]\nmatch = ['i = \"last\"']\nreceiver = \"quick\"",
    ));
    let names: Vec<String> = (0..300).map(|i| i.to_string()).collect();
    let mut all: Vec<Transition> =
        names.iter().zip(1..).map(|(i, offset)| fires(0, &a(i), offset)).collect();
    all.push(fires(0, &a("last"), 301));
    w.submit(all);
    let now = w.now;
    w.inner().tick(now);
    let deliveries = w.inner().core.state.deliveries.clone();
    assert_eq!(deliveries.len(), 301);
    let go = |load: &mut Load| -> Vec<String> {
        load.admit(now, &deliveries).0.iter().map(|(_, d)| short(&d.target)).collect()
    };
    let mut load = Load::default();
    assert_eq!(go(&mut load), ["quick", "slow", "slow", "slow", "slow"].map(String::from));
    assert!(go(&mut load).is_empty());
    let slow = deliveries.values().find(|d| d.target.receiver == "slow").unwrap().target.id.clone();
    let mut load = Load { paused: HashMap::from([(slow, now + 7)]), ..Load::default() };
    let (due, next) = load.admit(now, &deliveries);
    assert_eq!((due.len(), next), (1, now + 7));
}

#[test]
fn an_alert_that_moves_when_it_fires_again_leaves_its_old_group() {
    let mut w = World::new(usual());
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(60);
    w.expect(&[(30, "ops", "first", "1", "")]);
    w.submit(vec![ends(60, &a("1"), 2)]);
    // Over, not yet told so; the route changes, and it fires again.
    w.reload(config(
        &[("ops", &hook("ops")), ("other", &hook("other"))],
        "receiver = \"other\"\ngroup_by = [\"i\"]\ngroup_wait = \"30s\"",
    ));
    w.submit(vec![fires(61, &a("1"), 3)]);
    w.until(2000);
    w.expect(&[(90, "other", "first", "1", "")]);
    w.submit(vec![ends(2000, &a("1"), 4)]);
    w.until(4000);
    let told: BTreeSet<&str> = w.sent.iter().map(|s| s.1.as_str()).collect();
    assert_eq!(told, BTreeSet::from(["ops", "other"]));
    assert!(w.is_empty());
}

#[test]
fn an_end_is_owed_for_days_from_the_first_attempt_that_fails() {
    let day = 24 * 3600;
    let mut w = World::new(usual());
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(60);
    w.expect(&[(30, "ops", "first", "1", "")]);
    w.submit(vec![ends(60, &a("1"), 2)]);
    // Weir was down for longer than an end is tried.
    w.now = T0 + 8 * day * S;
    w.until(8 * day + 400);
    w.expect(&[(8 * day, "ops", "all", "", "1")]);
    let mut w = World::new(usual());
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(60);
    w.submit(vec![ends(60, &a("1"), 2)]);
    w.answers.insert("ops".into(), vec![Outcome::Refused { error: "400".into() }; 10_000]);
    w.until(7 * day);
    assert!(!w.is_empty());
    w.until(8 * day);
    assert!(w.is_empty(), "given up");
}

#[test]
fn a_mended_target_is_used_at_once() {
    let slow = |timeout| {
        let ops = format!("webhook = {{ url = \"http://ops.example/\", timeout = \"{timeout}\" }}");
        config(&[("ops", &ops)], "receiver = \"ops\"\ngroup_wait = \"1s\"")
    };
    let mut w = World::new(slow("1s"));
    w.answers.insert("ops".into(), vec![failed(false); 7]);
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(100);
    w.expect(&[]);
    w.reload(slow("2s"));
    w.until(101);
    w.expect(&[(100, "ops", "first", "1", "")]);
}

#[test]
fn late_transitions_wait_for_their_end() {
    // A pipeline that catches up: what is over meanwhile is recorded, not sent.
    let mut w = World::new(usual());
    w.now = T0 + 7200 * S;
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(7201);
    w.submit(vec![ends(600, &a("1"), 2), fires(700, &a("2"), 3), fires(700, &a("3"), 4)]);
    // However long that takes, as long as it goes on; then they are told at once.
    w.until(7700);
    w.held(1, held(3000, 5, &["2", "3"]));
    w.until(8250);
    w.submit(vec![ends(4000, &a("2"), 6)]);
    w.until(8300);
    w.expect(&[]);
    w.held(1, held(8290, 7, &["3"]));
    w.until(8400);
    w.expect(&[(8300, "ops", "first", "3", "")]);
    // One that is not late does not wait with it.
    let mut w = World::new(usual());
    w.now = T0 + 7200 * S;
    w.submit(vec![fires(0, &a("1"), 1)]);
    let now = w.now;
    w.inner().submit(now, 1, "other", vec![fires(7200, &a("2"), 1)]).unwrap();
    w.until(7300);
    w.expect(&[(7230, "ops", "first", "2", "")]);
    // A pipeline that says nothing more is not waited for.
    let mut w = World::new(usual());
    w.now = T0 + 7200 * S;
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(7799);
    w.expect(&[]);
    w.until(7800);
    w.expect(&[(7800, "ops", "first", "1", "")]);
    // Late, but not that late: told at once, it has waited enough.
    let mut w = World::new(usual());
    w.now = T0 + 120 * S;
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(121);
    w.expect(&[(120, "ops", "first", "1", "")]);
}

#[test]
fn transitions_handed_in_again_change_nothing() {
    let mut w = World::new(usual());
    let script = vec![fires(0, &a("1"), 1), ends(5, &a("1"), 2), fires(6, &a("1"), 3)];
    assert_eq!(w.submit(script.clone()), 3);
    assert_eq!(w.submit(script.clone()), 0);
    w.until(40);
    w.submit(vec![ends(40, &a("1"), 4)]);
    w.until(1000);
    assert_eq!(w.submit(script), 0);
    w.until(2000);
    w.expect(&[(30, "ops", "first", "1", ""), (330, "ops", "all", "", "1")]);
    // Another journal has positions of its own.
    let now = w.now;
    assert_eq!(w.inner().submit(now, 2, "shop", vec![fires(2000, &a("1"), 1)]).unwrap(), 1);
}

/// A script with two targets, failures, a reload; what is handed in is handed in again after a
/// kill, as a pipeline does that recovers from its checkpoint.
fn script(w: &mut World, steps: usize) {
    let handed_in = [
        vec![fires(0, &a("1"), 1), fires(0, &[("alertname", "b"), ("i", "x")], 1)],
        vec![fires(60, &a("2"), 2)],
        vec![ends(400, &a("1"), 3)],
        vec![ends(800, &a("2"), 4), ends(800, &[("alertname", "b"), ("i", "x")], 5)],
    ];
    for (step, at) in [0, 60, 400, 800, 3000].into_iter().enumerate().take(steps) {
        w.until(at);
        for batch in &handed_in[..=step.min(3)] {
            w.submit(batch.clone());
        }
    }
}

#[test]
fn a_kill_at_any_frame_loses_and_repeats_nothing() {
    let mut whole = World::new(usual());
    whole.answers.insert("ops".into(), vec![failed(false), failed(false)]);
    script(&mut whole, 5);
    assert!(whole.is_empty());
    let told: Vec<Sent> = whole.sent.clone();
    assert!(told.len() >= 5);
    let bytes = std::fs::read(whole.dir.path().join("log")).unwrap();
    let mut cuts = vec![bytes.len()];
    let mut at = 12;
    while at < bytes.len() {
        let len = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        cuts.extend([at, at + 5, at + 8 + len / 2]);
        at += 8 + len;
    }
    assert!(cuts.len() > 50);
    for cut in cuts {
        // What the log up to here says was delivered.
        let mut w = World::new(usual());
        w.inner = None;
        std::fs::write(w.dir.path().join("log"), &bytes[..cut]).unwrap();
        let (log, records) = Log::open(w.dir.path()).unwrap();
        drop(log);
        let mut core = Core::new(usual(), "http://weir.example".into());
        let mut delivered = BTreeSet::new();
        let mut now = T0;
        for record in records.iter().map(|r| serde_json::from_slice::<Record>(r).unwrap()) {
            if let Record::Done { delivery, outcome: Outcome::Delivered, .. } = &record {
                delivered.insert(core.state.deliveries[delivery].notification.id.clone());
            }
            if let Record::Submit { now: n, .. }
            | Record::Tick { now: n }
            | Record::Done { now: n, .. } = &record
            {
                now = *n;
            }
            core.apply(record);
        }
        w.now = now;
        w.restart();
        let step = [0, 60, 400, 800].iter().filter(|s| T0 + **s * S <= now).count();
        let mut all = Vec::new();
        // Hand in again what was handed in before the kill, then go on with the script.
        let second = (now - T0) / S;
        all.extend([fires(0, &a("1"), 1), fires(0, &[("alertname", "b"), ("i", "x")], 1)]);
        if step > 1 {
            all.push(fires(60, &a("2"), 2));
        }
        if step > 2 {
            all.push(ends(400, &a("1"), 3));
        }
        if step > 3 {
            all.extend([ends(800, &a("2"), 4), ends(800, &[("alertname", "b"), ("i", "x")], 5)]);
        }
        w.submit(all);
        let rest = [
            (60, vec![fires(60, &a("2"), 2)]),
            (400, vec![ends(400, &a("1"), 3)]),
            (800, vec![ends(800, &a("2"), 4), ends(800, &[("alertname", "b"), ("i", "x")], 5)]),
        ];
        for (at, batch) in rest {
            w.until(at.max(second));
            w.submit(batch);
        }
        w.until(5000);
        assert!(w.is_empty(), "cut {cut}: something stays open");
        for id in &w.ids {
            assert!(!delivered.contains(id), "cut {cut}: {id} was logged as delivered");
        }
        let firing = |sent: &[Sent], i: &str| {
            sent.iter().filter(|s| s.2 != "repeat" && s.3.split(',').any(|n| n == i)).count()
        };
        let before = delivered.len();
        for i in ["1", "2", "x"] {
            let n = firing(&w.sent, i) + firing(&told[..before], i);
            assert!(n >= 1, "cut {cut}: {i} was never told");
        }
        // Every instance that was told is told to be over.
        for i in ["1", "2", "x"] {
            let over = |sent: &[Sent]| sent.iter().any(|s| s.4.split(',').any(|n| n == i));
            assert!(over(&w.sent) || over(&told[..before]), "cut {cut}: {i} was never closed");
        }
    }
}

#[test]
fn the_log_replays_to_the_same_state_and_compacts() {
    let mut w = World::new(usual());
    w.answers.insert("ops".into(), vec![failed(true), failed(false)]);
    script(&mut w, 4);
    let before = w.inner().core.state.clone();
    let config = w.inner().core.config.clone();
    w.inner = None;
    let (_, records) = Log::open(w.dir.path()).unwrap();
    let mut core = Core::new(config, "http://weir.example".into());
    records.iter().for_each(|r| core.apply(serde_json::from_slice(r).unwrap()));
    assert_eq!(core.state, before);
    w.restart();
    w.inner().compact().unwrap();
    let now_state = w.inner().core.state.clone();
    let (_, records) = Log::open(w.dir.path()).unwrap();
    assert_eq!(records.len(), 1);
    w.restart();
    assert_eq!(w.inner().core.state.alerts, now_state.alerts);
    assert_eq!(w.inner().core.state.groups, now_state.groups);
}

#[test]
fn alerts_show_who_was_told() {
    let mut w = World::new(usual());
    w.answers.insert("ops".into(), vec![failed(false)]);
    w.submit(vec![fires(0, &a("1"), 1)]);
    w.until(30);
    let dir = tempfile::tempdir().unwrap();
    let transport: Arc<dyn Transport> = Arc::new(Silent);
    let mut options = options(dir.path(), &w.clock, None);
    options.transport = Some(transport);
    let router = Router::open(options, usual()).unwrap();
    router.inner.lock().core = w.inner().core.clone();
    let alerts = router.alerts();
    assert_eq!(alerts.len(), 1);
    assert_eq!(alerts[0].told[0].state, "retrying");
    assert_eq!(alerts[0].told[0].error.as_deref(), Some("503"));
    w.until(60);
    router.inner.lock().core = w.inner().core.clone();
    let told = &router.alerts()[0].told[0];
    assert_eq!((told.state, told.attempts), ("firing", 0));
    assert_eq!(told.at.as_deref(), Some("2023-11-14T22:13:50Z"));
    assert_eq!(router.targets()[1].delivered_at.as_deref(), Some("2023-11-14T22:13:51Z"));
}

fn config_of_pagerduty() -> RouterConfig {
    config(&[("ops", "pagerduty = { routing_key = \"env:KEY\" }")], "receiver = \"ops\"")
}

struct Silent;

impl Transport for Silent {
    fn send<'a>(
        &'a self,
        _: &'a Target,
        _: &'a crate::notify::Notification,
    ) -> futures::future::BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Counts, fails the first time, panics the second.
#[derive(Default)]
struct Shaky(Mutex<Vec<String>>);

impl Transport for Shaky {
    fn send<'a>(
        &'a self,
        _: &'a Target,
        n: &'a crate::notify::Notification,
    ) -> futures::future::BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async {
            let attempts = {
                let mut seen = self.0.lock();
                seen.push(n.id.clone());
                seen.len()
            };
            match attempts {
                1 => Err(SendError::transient("not yet").after(Some(Duration::from_millis(10)))),
                2 => panic!("a notifier that fails"),
                _ => Ok(()),
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_running_router_delivers_retries_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let shaky = Arc::new(Shaky::default());
    let open = || RouterOptions {
        dir: dir.path().to_owned(),
        external_url: String::new(),
        ran: None,
        clock: Arc::new(WallClock(Instant::now())),
        transport: Some(shaky.clone()),
    };
    let config = config(
        &[("ops", &hook("ops"))],
        "receiver = \"ops\"\ngroup_wait = \"0s\"\ngroup_interval = \"100ms\"",
    );
    let router = Router::open(open(), config.clone()).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(router.clone().run(stop.clone()));
    let now = weir_pipeline::intake::now();
    let mut alert = fires(0, &a("1"), 1);
    (alert.time, alert.starts_at) = (now, now);
    assert_eq!(router.submit(1, "shop", vec![alert.clone()]).await.unwrap(), 1);
    let told = |router: &Router| router.alerts()[0].told[0].state;
    while told(&router) != "firing" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    task.await.unwrap();
    drop(router);
    let attempts = shaky.0.lock().len();
    assert!(attempts >= 3);
    // The second attempt is the same notice as the first.
    let ids = shaky.0.lock().clone();
    assert_eq!(ids[0], ids[1]);
    // Again: nothing is repeated, and what is handed in again is known.
    let router = Router::open(open(), config.clone()).unwrap();
    assert_eq!(router.submit(1, "shop", vec![alert]).await.unwrap(), 0);
    assert_eq!(told(&router), "firing");
    // An incident that a test opens is closed by it.
    let page = config_of_pagerduty();
    router.reconfigure(page).await.unwrap();
    let before = shaky.0.lock().len();
    assert_eq!(router.test_page("ops").await.unwrap()[0].error, None);
    let sent: Vec<String> = shaky.0.lock()[before..].to_vec();
    assert_eq!(sent.len(), 2);
    assert_ne!(sent[0], sent[1]);
    router.reconfigure(config).await.unwrap();
    let outcome = router.test_page("ops").await.unwrap();
    assert_eq!(outcome[0].error, None);
    assert!(matches!(router.test_page("nobody").await, Err(RouterError::NoReceiver { .. })));
}
