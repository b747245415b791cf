//! Rules as data: rows and ticks at seconds, and the changes that come of them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
    UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema};
use weir_pipeline::batch::{Keys, Run, TENANT};
use weir_pipeline::config::Input;
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin, Value};
use weir_pipeline::signal::timestamp;

use super::*;
use crate::transition::{Held, Transition, from_batch};

const S: i64 = 1_000_000_000;
const T0: i64 = 1_700_000_000 * S;

fn window_edge() -> Edge {
    let mut edge =
        Edge { signal: Signal::named("window"), columns: Default::default(), open: false };
    for name in ["timestamp", "window_start", "window_end"] {
        edge.columns.insert(name.to_owned(), Some(timestamp()));
    }
    edge.columns.insert("service.name".to_owned(), Some(DataType::Utf8));
    edge.columns.insert("errors".to_owned(), Some(DataType::Int64));
    edge
}

fn plan_on(edge: Edge, toml: &str) -> Result<Box<dyn OperatorPlan>, String> {
    let section = Section::parse_for_tests("burst", toml);
    let scope = Scope::new(vec![Input { name: "in".into(), edge }], PathBuf::new());
    plan(&section, &scope).map_err(|e| e.to_string())
}

fn tick_at(at: i64) -> Tick {
    let offset = u64::try_from(at).unwrap() * 10 + 5;
    Tick { time: T0 + at * S, elapsed: at * S, offset, watermark: T0 + at * S, step: 0 }
}

/// What a rule emitted: second, state, labels without `alertname`, summary, reason.
fn shown(t: &Transition) -> String {
    let labels: Vec<String> = t
        .labels
        .iter()
        .filter(|(k, _)| *k != "alertname")
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let summary = t.annotations.get("summary").map_or("", String::as_str);
    let line = format!(
        "{} {} {{{}}} {summary} {}",
        (t.time - T0) / S,
        t.state.as_str(),
        labels.join(","),
        t.reason
    );
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct World {
    plan: Box<dyn OperatorPlan>,
    operator: Box<dyn Operator>,
    out: Vec<Transition>,
    /// Fingerprints of what the rule last said it holds open.
    held: Option<Vec<String>>,
    at: i64,
    table: Arc<EntityTable>,
    /// How far the watermark lies behind the clock, seconds.
    behind: i64,
}

impl World {
    fn new(edge: Edge, toml: &str) -> Self {
        let plan = plan_on(edge, toml).unwrap();
        let operator = plan.build();
        let (out, table) = (Vec::new(), Arc::default());
        Self { plan, operator, out, held: None, at: 0, table, behind: 0 }
    }

    fn windows(toml: &str) -> Self {
        Self::new(window_edge(), toml)
    }

    fn collect(&mut self, out: Output) {
        for (name, batch) in out.emitted {
            match Held::from_batch(&batch).unwrap() {
                Some(held) => {
                    assert_eq!((name, held.alert.as_str()), (HELD, "burst"));
                    self.held = Some(held.open.into_iter().map(|t| t.fingerprint).collect());
                }
                None => self.out.extend(from_batch(&batch).unwrap()),
            }
        }
    }

    fn push(&mut self, batch: Batch) {
        let mut out = Output::default();
        self.operator.process(0, batch, &mut out).unwrap();
        self.collect(out);
    }

    /// Rows of windows of 10 s that end now, as a window emits them at a tick.
    fn window(&mut self, at: i64, rows: &[(&str, Option<i64>)]) {
        self.at = at;
        self.push(window_batch(at, rows));
    }

    /// Ticks up to `at`, where a window ends.
    fn step(&mut self, at: i64, rows: &[(&str, Option<i64>)]) {
        self.until(at - 1);
        self.window(at, rows);
        self.tick(at);
    }

    fn logs(&mut self, at: i64, rows: &[(&str, &str)]) {
        self.push(log_batch(at, rows));
    }

    /// Samples: series (an entity), its `job`, value.
    fn metrics(&mut self, at: impl Into<When>, rows: &[(&str, &str, f64)]) {
        let When(received, at) = at.into();
        let keys = rows.iter().map(|(name, job, _)| {
            let attribute = |name: &str, value: &str| Attribute {
                name: name.into(),
                value: Value::Text(value.into()),
                origin: Origin::Label,
            };
            let entity = Entity::new(vec![attribute("metric.name", name), attribute("job", job)]);
            self.table.intern(entity).unwrap()
        });
        let keys = UInt32Array::from_iter_values(keys);
        let schema = Schema::new(vec![
            Field::new("timestamp", timestamp(), true),
            Field::new("value", DataType::Float64, true),
        ]);
        let times =
            TimestampNanosecondArray::from(vec![T0 + at * S; rows.len()]).with_timezone("UTC");
        let values = Float64Array::from_iter_values(rows.iter().map(|r| r.2));
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(times), Arc::new(values)]);
        let keys = Keys { keys, table: self.table.clone() };
        let batch = Batch::new(
            Signal::Metrics,
            TENANT.into(),
            batch.unwrap(),
            Some(keys),
            run(received, rows.len()),
        );
        self.push(batch.unwrap());
    }

    fn tick(&mut self, at: i64) {
        self.at = at;
        let mut tick = tick_at(at);
        tick.watermark -= self.behind * S;
        let mut out = Output::default();
        self.operator.tick(tick, &mut out).unwrap();
        self.collect(out);
    }

    /// A tick each second up to and with `to`.
    fn until(&mut self, to: i64) {
        while self.at < to {
            self.tick(self.at + 1);
        }
    }

    /// Saved and taken over by another plan, or the same.
    fn restore(&mut self, plan: Option<Box<dyn OperatorPlan>>) {
        let state = self.operator.snapshot().unwrap();
        assert_eq!(state, self.operator.snapshot().unwrap());
        if let Some(plan) = plan {
            assert_eq!(plan.state_shape(), self.plan.state_shape());
            self.plan = plan;
        }
        self.operator = self.plan.build();
        self.operator.restore(&state).unwrap();
    }

    fn flush(&mut self) {
        let mut out = Output::default();
        self.operator.flush(tick_at(self.at), &mut out).unwrap();
        self.collect(out);
    }

    #[track_caller]
    fn expect(&mut self, expect: &[&str]) {
        let shown: Vec<String> = std::mem::take(&mut self.out).iter().map(shown).collect();
        assert_eq!(shown, expect);
    }
}

/// When samples were received, and their own time.
struct When(i64, i64);

impl From<i64> for When {
    fn from(at: i64) -> Self {
        Self(at, at)
    }
}

fn run(at: i64, rows: usize) -> Arc<[Run]> {
    let offset = u64::try_from(at).unwrap() * 10 + 1;
    [Run { offset, received: T0 + at * S, source: "test".into(), rows }].into()
}

fn window_batch(at: i64, rows: &[(&str, Option<i64>)]) -> Batch {
    let fields =
        ["timestamp", "window_start", "window_end"].map(|n| Field::new(n, timestamp(), true));
    let mut fields = fields.to_vec();
    fields.push(Field::new("service.name", DataType::Utf8, true));
    fields.push(Field::new("errors", DataType::Int64, true));
    let time = |at: i64| {
        let times = TimestampNanosecondArray::from(vec![T0 + at * S; rows.len()]);
        Arc::new(times.with_timezone("UTC")) as ArrayRef
    };
    let names = StringArray::from_iter_values(rows.iter().map(|r| r.0));
    let errors = Int64Array::from_iter(rows.iter().map(|r| r.1));
    let arrays = vec![time(at), time(at - 10), time(at), Arc::new(names), Arc::new(errors)];
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    Batch::new(Signal::named("window"), TENANT.into(), batch, None, run(at, rows.len())).unwrap()
}

fn log_batch(at: i64, rows: &[(&str, &str)]) -> Batch {
    let fields = vec![
        Field::new("timestamp", timestamp(), true),
        Field::new("severity", DataType::Utf8, true),
        Field::new("service.name", DataType::Utf8, true),
    ];
    let times = TimestampNanosecondArray::from(vec![T0 + at * S; rows.len()]).with_timezone("UTC");
    let severities = StringArray::from_iter_values(rows.iter().map(|r| r.1));
    let names = StringArray::from_iter_values(rows.iter().map(|r| r.0));
    let arrays: Vec<ArrayRef> = vec![Arc::new(times), Arc::new(severities), Arc::new(names)];
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    Batch::new(Signal::Logs, TENANT.into(), batch, None, run(at, rows.len())).unwrap()
}

const BURST: &str = r#"
when = "errors > 10"
by = ["service.name"]
labels = { severity = "page" }
summary = "{{ errors }} errors in {{ service.name }}"
"#;

#[test]
fn fires_and_resolves_per_instance() {
    let mut w = World::windows(BURST);
    w.window(10, &[("cart", Some(12)), ("pay", Some(3))]);
    w.expect(&[]);
    w.tick(10);
    w.expect(&["10 firing {service.name=cart,severity=page} 12 errors in cart"]);
    w.window(20, &[("cart", Some(13)), ("pay", Some(30))]);
    w.tick(20);
    w.expect(&["20 firing {service.name=pay,severity=page} 30 errors in pay"]);
    w.window(30, &[("cart", Some(1)), ("pay", Some(30))]);
    w.tick(30);
    // The text is that of the row that fired.
    w.expect(&["30 resolved {service.name=cart,severity=page} 12 errors in cart"]);
}

#[test]
fn transitions_carry_identity_value_and_position() {
    let mut w = World::windows(BURST);
    w.window(10, &[("cart", Some(12))]);
    w.tick(10);
    let t = w.out[0].clone();
    assert_eq!(t.alert, "burst");
    assert_eq!(t.labels["alertname"], "burst");
    assert_eq!(t.fingerprint, crate::transition::fingerprint(&t.labels));
    assert_eq!(t.value, "{\"errors\":12}");
    assert_eq!((t.offset, t.sequence), (105, 1));
    assert_eq!((t.starts_at, t.ends_at), (T0 + 10 * S, None));
    w.window(20, &[("cart", Some(1))]);
    w.tick(20);
    assert_eq!((w.out[1].sequence, w.out[1].ends_at), (2, Some(T0 + 20 * S)));
}

#[test]
fn for_is_at_least_and_pending_is_silent() {
    // Prometheus TestPendingAndKeepFiringFor.
    let toml = format!("{BURST}\nfor = \"20s\"\nkeep_firing_for = \"15s\"");
    let mut w = World::windows(&toml);
    w.step(10, &[("cart", Some(12))]);
    w.step(20, &[("cart", Some(1))]);
    w.step(30, &[("cart", Some(14))]);
    w.step(40, &[("cart", Some(15))]);
    w.until(49);
    w.expect(&[]);
    w.step(50, &[("cart", Some(16))]);
    w.expect(&["50 firing {service.name=cart,severity=page} 16 errors in cart"]);
    w.step(60, &[("cart", Some(1))]);
    w.step(70, &[("cart", Some(20))]);
    w.step(80, &[("cart", Some(1))]);
    w.until(94);
    w.expect(&[]);
    w.until(95);
    w.expect(&["95 resolved {service.name=cart,severity=page} 16 errors in cart"]);
}

#[test]
fn null_keeps_the_state() {
    let mut w = World::windows(BURST);
    w.window(10, &[("cart", Some(12)), ("pay", None)]);
    w.tick(10);
    w.window(20, &[("cart", None), ("pay", None)]);
    w.tick(20);
    w.expect(&["10 firing {service.name=cart,severity=page} 12 errors in cart"]);
}

#[test]
fn rows_of_one_time_decide_together() {
    // `by` is coarser than the groups of the window: any of them is enough.
    for rows in [[("cart", Some(1)), ("cart", Some(12))], [("cart", Some(12)), ("cart", Some(1))]] {
        let mut w = World::windows(BURST);
        for at in [10, 20] {
            w.window(at, &rows);
            w.tick(at);
        }
        w.expect(&["10 firing {service.name=cart,severity=page} 12 errors in cart"]);
    }
}

#[test]
fn absence_counts_once_the_watermark_passed() {
    let mut w = World::windows(BURST);
    w.window(10, &[("cart", Some(12))]);
    w.tick(10);
    w.out.clear();
    w.until(29);
    w.expect(&[]);
    w.until(30); // two window lengths
    w.expect(&["30 resolved {service.name=cart,severity=page} 12 errors in cart absent"]);
    // With a watermark that lags the state is held.
    let mut w = World::windows(BURST);
    w.behind = 15;
    w.window(10, &[("cart", Some(12))]);
    w.tick(10);
    w.out.clear();
    w.until(44);
    w.expect(&[]);
    w.until(45);
    w.expect(&["45 resolved {service.name=cart,severity=page} 12 errors in cart absent"]);
}

#[test]
fn a_late_source_holds_the_state_and_says_so_once() {
    let mut w = World::windows(&format!("{BURST}\nfor = \"5s\""));
    w.window(10, &[("cart", Some(12))]);
    w.until(20);
    w.out.clear();
    let mut rows = vec![];
    w.behind = 10_000;
    for at in [400, 500, 100_000] {
        w.tick(at);
        rows.extend(std::mem::take(&mut w.out));
    }
    w.behind = 0;
    w.tick(100_001);
    rows.extend(std::mem::take(&mut w.out));
    let rows: Vec<String> = rows
        .iter()
        .map(|t| {
            format!(
                "{} {} {} {}",
                (t.time - T0) / S,
                t.state.as_str(),
                t.labels.get("weir.reason").map_or("", String::as_str),
                t.reason
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            "400 firing source_late source_late",
            "100001 resolved source_late source_late",
            "100001 resolved absent",
        ]
        .map(|s| s.replace("resolved absent", "resolved  absent"))
    );
}

#[test]
fn logs_are_events() {
    let toml = r#"
when = "severity = 'ERROR'"
by = ["service.name"]
summary = "{{ severity }}"
"#;
    let mut w = World::new(Edge::open(Signal::Logs), toml);
    w.logs(1, &[("cart", "INFO"), ("cart", "ERROR"), ("cart", "INFO"), ("", "ERROR")]);
    // A row acts at once, and what does not match says nothing.
    w.expect(&["1 firing {service.name=cart} ERROR", "1 firing {} ERROR"]);
    w.until(100);
    w.logs(100, &[("cart", "ERROR"), ("cart", "INFO")]);
    w.until(302);
    w.expect(&["301 resolved {} ERROR absent"]);
    w.until(401);
    w.expect(&["401 resolved {service.name=cart} ERROR absent"]);
}

#[test]
fn each_series_counts_for_metrics() {
    let toml =
        "when = \"metric.name = 'up' AND value = 0\"\nby = [\"job\"]\nsummary = \"{{ job }} down\"";
    let mut w = World::new(Edge::open(Signal::Metrics), toml);
    w.metrics(1, &[("up", "a", 0.0), ("load", "a", 0.0), ("up", "b", 1.0)]);
    w.expect(&["1 firing {job=a} a down"]);
    w.metrics(2, &[("load", "a", 3.0), ("up", "b", 1.0)]);
    w.restore(None);
    w.metrics(3, &[("load", "a", 3.0)]);
    w.expect(&[]);
    w.metrics(4, &[("up", "a", 1.0), ("load", "a", 0.0)]);
    w.expect(&["4 resolved {job=a} a down"]);
    // `for` is not fooled by other series, nor by a recovery between two ticks.
    let mut w = World::new(Edge::open(Signal::Metrics), &format!("{toml}\nfor = \"10s\""));
    w.metrics(1, &[("up", "a", 0.0)]);
    w.until(5);
    w.metrics(5, &[("up", "a", 1.0)]);
    w.metrics(5, &[("up", "a", 0.0)]);
    w.until(15);
    w.expect(&[]);
    w.until(16);
    w.expect(&["16 firing {job=a} a down"]);
}

#[test]
fn no_data() {
    let rows = |w: &mut World| {
        w.step(10, &[("cart", Some(12)), ("pay", Some(1))]);
        w.step(46, &[("cart", Some(1)), ("pay", Some(1))]);
    };
    let check = |no_data: &str, expect: &[&str]| {
        let mut w = World::windows(&format!("{BURST}\nno_data = \"{no_data}\""));
        rows(&mut w);
        w.expect(expect);
    };
    let fired = "10 firing {service.name=cart,severity=page} 12 errors in cart";
    let over = "resolved {service.name=cart,severity=page} 12 errors in cart";
    check("ok", &[fired, &format!("30 {over} absent")]);
    check("keep", &[fired, &format!("46 {over}")]);
    check(
        "firing",
        &[
            fired,
            "30 firing {service.name=pay,severity=page} alert `burst`: no data for 20 s no_data",
            &format!("46 {over}"),
            "46 resolved {service.name=pay,severity=page} alert `burst`: no data for 20 s",
        ],
    );
    check(
        "alert",
        &[
            fired,
            "30 firing {service.name=cart,severity=page,weir.reason=no_data} alert `burst`: no data for 20 s no_data",
            &format!("30 {over} absent"),
            "30 firing {service.name=pay,severity=page,weir.reason=no_data} alert `burst`: no data for 20 s no_data",
            "46 resolved {service.name=cart,severity=page,weir.reason=no_data} no_data",
            "46 resolved {service.name=pay,severity=page,weir.reason=no_data} no_data",
        ],
    );
}

#[test]
fn a_stream_that_never_had_a_row() {
    let toml = "when = \"errors > 10\"\nno_data = \"firing\"\nresolve_after = \"30s\"";
    let mut w = World::windows(toml);
    w.until(30);
    w.expect(&[]);
    w.until(31);
    w.expect(&["31 firing {} alert `burst`: no data for 30 s no_data"]);
    w.window(40, &[("cart", Some(1))]);
    w.tick(40);
    w.expect(&["40 resolved {} alert `burst`: no data for 30 s"]);
}

#[test]
fn the_limit_keeps_the_first_and_tells_of_the_rest() {
    let mut w = World::windows(&format!("{BURST}\nlimit = 2"));
    let rows = [("a", Some(11)), ("b", Some(11)), ("c", Some(11)), ("d", Some(11))];
    w.window(10, &rows);
    w.tick(10);
    w.window(20, &rows);
    w.tick(20);
    w.expect(&[
        "10 firing {service.name=a,severity=page} 11 errors in a",
        "10 firing {service.name=b,severity=page} 11 errors in b",
        "10 firing {severity=page,weir.reason=limit} alert `burst`: there are more than 2 instances; \
         further ones are left out limit",
    ]);
    w.window(30, &rows[..2]);
    w.tick(30);
    w.window(40, &rows[..2]);
    w.tick(40);
    let last = w.out.pop().map(|t| (t.state.as_str(), t.reason));
    assert_eq!(last, Some(("resolved", "limit".to_owned())));
}

#[test]
fn what_is_held_is_said_at_the_start_and_every_minute() {
    let mut w = World::windows(&format!("{BURST}\nlimit = 1\nresolve_after = \"1h\""));
    w.tick(1);
    assert_eq!(w.held.take(), Some(vec![]), "also that nothing is held");
    w.window(10, &[("cart", Some(12)), ("pay", Some(12))]);
    w.until(60);
    assert_eq!(w.held, None);
    w.tick(61);
    let fired: Vec<String> = w.out.iter().map(|t| t.fingerprint.clone()).collect();
    assert_eq!(fired.len(), 2, "one instance, and the limit");
    assert_eq!(w.held.take(), Some(fired.clone()));
    w.restore(None);
    w.tick(62);
    assert_eq!(w.held.take(), Some(fired), "again after a restart");
    // Without its state it says that it holds nothing.
    w.operator = w.plan.build();
    w.tick(63);
    assert_eq!(w.held.take(), Some(vec![]));
    let mut w = World::windows(&format!("{BURST}\nno_data = \"alert\""));
    w.step(10, &[("cart", Some(1))]);
    w.until(61);
    assert_eq!(w.held, Some(vec![w.out[0].fingerprint.clone()]), "the alert about missing data");
}

#[test]
fn another_policy_strands_no_alert_about_missing_data() {
    let toml = |policy: &str| format!("{BURST}\nno_data = \"{policy}\"");
    let silent = "{service.name=cart,severity=page,weir.reason=no_data}";
    let about = "alert `burst`: no data for 20 s no_data";
    for policy in ["ok", "keep", "firing"] {
        let mut w = World::windows(&toml("alert"));
        w.step(10, &[("cart", Some(1))]);
        w.until(30);
        w.expect(&[&format!("30 firing {silent} {about}")]);
        w.restore(Some(plan_on(window_edge(), &toml(policy)).unwrap()));
        w.tick(31);
        let mut expect = vec![format!("31 resolved {silent} changed")];
        if policy == "firing" {
            expect.push(format!("31 firing {{service.name=cart,severity=page}} {about}"));
        }
        w.expect(&expect.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let mut w = World::windows(&toml("firing"));
    w.step(10, &[("cart", Some(1))]);
    w.until(30);
    w.out.clear();
    w.restore(Some(plan_on(window_edge(), &toml("alert")).unwrap()));
    w.until(40);
    w.expect(&[
        &format!("31 firing {silent} {about}"),
        "31 resolved {service.name=cart,severity=page} alert `burst`: no data for 20 s absent",
    ]);
}

#[test]
fn an_earlier_form_ends_before_the_new_one_begins() {
    // Another `by`, the same labels: told the other way round, the alert that fires is closed.
    let toml = "when = \"severity = 'ERROR'\"\nby = [\"service.name\"]";
    let mut w = World::new(Edge::open(Signal::Logs), toml);
    w.logs(1, &[("cart", "ERROR")]);
    w.until(2);
    let toml = toml.replace("[\"service", "[\"host.name\", \"service");
    w.restore(Some(plan_on(Edge::open(Signal::Logs), &toml).unwrap()));
    w.logs(3, &[("cart", "ERROR")]);
    w.tick(3);
    assert_eq!(w.out[0].fingerprint, w.out[2].fingerprint);
    w.expect(&[
        "1 firing {service.name=cart}",
        "3 resolved {service.name=cart} changed",
        "3 firing {service.name=cart}",
    ]);
}

#[test]
fn the_newest_sample_decides_whenever_it_comes() {
    let toml = "when = \"value = 0\"\nby = [\"job\"]\nsummary = \"{{ job }} down\"";
    let mut w = World::new(Edge::open(Signal::Metrics), toml);
    w.metrics(10, &[("up", "a", 0.0)]);
    w.metrics(When(11, 9), &[("up", "a", 1.0)]);
    w.tick(11);
    w.expect(&["10 firing {job=a} a down"]);
    w.metrics(20, &[("up", "a", 1.0)]);
    w.tick(20);
    w.restore(None);
    w.metrics(When(21, 19), &[("up", "a", 0.0)]);
    w.tick(21);
    w.expect(&["20 resolved {job=a} a down"]);
    // Not remembered for ever.
    w.until(200);
    assert!(!String::from_utf8(w.operator.snapshot().unwrap()).unwrap().contains("\"matches\""));
    // Fires and resolves within one batch as in two, texts and all.
    let whole = {
        let mut w = World::new(Edge::open(Signal::Metrics), toml);
        w.metrics(10, &[("up", "a", 0.0), ("up", "a", 1.0)]);
        w.out
    };
    let mut w = World::new(Edge::open(Signal::Metrics), toml);
    w.metrics(10, &[("up", "a", 0.0)]);
    w.metrics(10, &[("up", "a", 1.0)]);
    assert_eq!(whole, w.out);
    w.expect(&["10 firing {job=a} a down", "10 resolved {job=a} a down"]);
}

#[test]
fn a_clock_set_back_makes_nothing_old() {
    let toml = "when = \"value = 0\"\nby = [\"job\"]\nsummary = \"{{ job }} down\"";
    let mut w = World::new(Edge::open(Signal::Metrics), toml);
    let mut elapsed = 0;
    let mut tick = |w: &mut World, at: i64| {
        elapsed += S;
        let mut out = Output::default();
        w.operator.tick(Tick { elapsed, ..tick_at(at) }, &mut out).unwrap();
        w.collect(out);
    };
    w.metrics(4000, &[("up", "a", 0.0), ("up", "b", 0.0)]);
    tick(&mut w, 4000);
    w.out.clear();
    // An hour back: newer samples have earlier times, and absence is not an hour later.
    tick(&mut w, 400);
    w.metrics(401, &[("up", "a", 1.0)]);
    w.expect(&["401 resolved {job=a} a down"]);
    (401..=701).for_each(|at| tick(&mut w, at));
    w.expect(&["700 resolved {job=b} b down absent"]);
}

/// A sender whose clock is far ahead, and is mended.
#[test]
fn a_row_from_the_future_is_one_of_now() {
    let toml = "when = \"value = 0\"\nby = [\"job\"]\nsummary = \"{{ job }} down\"";
    let mut w = World::new(Edge::open(Signal::Metrics), toml);
    let far = 4_000_000_000;
    w.metrics(When(10, far), &[("up", "a", 0.0), ("up", "b", 0.0)]);
    w.until(11);
    w.metrics(20, &[("up", "a", 1.0)]);
    w.expect(&[
        "10 firing {job=a} a down",
        "10 firing {job=b} b down",
        "20 resolved {job=a} a down",
    ]);
    w.until(320);
    w.expect(&["310 resolved {job=b} b down absent"]);
}

#[test]
fn windows_that_wait_long_freeze_no_rule() {
    // every = 1m, lateness = 10m: always further behind than twice a window and five minutes.
    let mut w = World::windows(&format!("{BURST}\nfor = \"5s\""));
    w.behind = 600;
    w.step(700, &[("cart", Some(12))]);
    w.until(800);
    w.expect(&["705 firing {service.name=cart,severity=page} 12 errors in cart"]);
    w.until(1320);
    w.expect(&["1320 resolved {service.name=cart,severity=page} 12 errors in cart absent"]);
    // An edit lets them wait longer yet: known after a while.
    w.behind = 2000;
    w.until(2000 + 1900);
    assert_eq!(w.out.len(), 2, "{:?}", w.out);
    assert_eq!((w.out[0].reason.as_str(), w.out[1].state.as_str()), ("source_late", "resolved"));
}

#[test]
fn long_values_are_cut_and_stay_apart() {
    let mut w = World::windows(BURST);
    let (long, other) = ("x".repeat(5000), format!("{}y", "x".repeat(4999)));
    w.window(10, &[(&long, Some(12)), (&other, Some(12)), ("short", Some(12))]);
    w.tick(10);
    let mut names: Vec<&String> = w.out.iter().map(|t| &t.labels["service.name"]).collect();
    names.sort_by_key(|n| n.len());
    assert_eq!(names[0], "short");
    assert!(names[1].chars().count() < 300 && names[1].contains("… #"), "{}", names[1]);
    assert_ne!(names[1], names[2]);
}

#[test]
fn removal_closes_everything() {
    let mut w = World::windows(BURST);
    w.window(10, &[("cart", Some(12)), ("pay", Some(1))]);
    w.tick(10);
    w.out.clear();
    w.flush();
    w.expect(&["10 resolved {service.name=cart,severity=page} 12 errors in cart removed"]);
}

#[test]
fn state_is_taken_over() {
    for other in [None, Some("when = \"errors > 11\"")] {
        let mut w = World::windows(&format!("{BURST}\nfor = \"30s\""));
        w.window(10, &[("cart", Some(12))]);
        w.until(25);
        let plan = other.map(|when| {
            let toml = format!("{BURST}\nfor = \"30s\"").replace("when = \"errors > 10\"", when);
            plan_on(window_edge(), &toml).unwrap()
        });
        w.restore(plan);
        w.window(26, &[("cart", Some(12))]);
        w.until(40);
        w.expect(&[]);
        w.until(41);
        w.expect(&["41 firing {service.name=cart,severity=page} 12 errors in cart"]);
    }
    // Another identity: what fired under the old one is closed.
    let mut w = World::windows(BURST);
    w.window(10, &[("cart", Some(12))]);
    w.tick(10);
    w.out.clear();
    let plan = plan_on(window_edge(), &BURST.replace("page", "ticket")).unwrap();
    w.restore(Some(plan));
    w.restore(None);
    w.window(20, &[("cart", Some(12))]);
    w.tick(20);
    w.expect(&[
        "20 resolved {service.name=cart,severity=page} 12 errors in cart changed",
        "20 firing {service.name=cart,severity=ticket} 12 errors in cart",
    ]);
}

#[test]
fn cuts_and_restarts_change_nothing() {
    let rows = [
        ("a", Some(11)),
        ("a", Some(1)),
        ("b", None),
        ("c", Some(12)),
        ("b", Some(13)),
        ("d", Some(1)),
        ("c", Some(9)),
    ];
    let logs = [("a", "ERROR"), ("b", "INFO"), ("a", "ERROR"), ("c", "ERROR"), ("b", "ERROR")];
    let log_rule = "when = \"severity = 'ERROR'\"\nby = [\"service.name\"]\nfor = \"3s\"\nsummary = \"{{ service.name }}\"";
    let run_all = |cut: usize, restart: bool| {
        let mut w = World::windows(&format!("{BURST}\nlimit = 3\nno_data = \"alert\""));
        let mut l = World::new(Edge::open(Signal::Logs), log_rule);
        for at in [10, 20, 60] {
            for part in rows[..rows.len() - usize::try_from(at / 20).unwrap()].chunks(cut) {
                w.window(at, part);
                if restart {
                    w.restore(None);
                }
            }
            for part in logs.chunks(cut) {
                l.logs(at, part);
                if restart {
                    l.restore(None);
                }
            }
            w.until(at + 9);
            l.at = l.at.max(at);
            l.until(at + 9);
        }
        (w.out, l.out)
    };
    let whole = run_all(100, false);
    assert!(whole.0.len() > 4 && whole.1.len() > 2);
    for cut in 1..6 {
        for restart in [false, true] {
            assert_eq!(run_all(cut, restart), whole, "cut {cut}, restart {restart}");
        }
    }
}

#[test]
fn rows_that_fail_leave_for_errors() {
    let mut w = World::windows(&BURST.replace("errors > 10", "100 / errors > 10"));
    let mut out = Output::default();
    let batch = window_batch(10, &[("a", Some(0)), ("b", Some(5))]);
    w.operator.process(0, batch, &mut out).unwrap();
    assert_eq!(out.rejected.len(), 1);
    assert_eq!((out.rejected[0].0.num_rows(), out.rejected[0].1.len()), (1, 1));
    w.tick(10);
    w.expect(&["10 firing {service.name=b,severity=page} 5 errors in b"]);
}

#[test]
fn mistakes_are_named() {
    for (toml, expect) in [
        ("by = []", "when"),
        ("when = \"errors > 10\"\nby = [\"servce.name\"]", "did you mean `service.name`?"),
        ("when = \"errors\"", "not true or false"),
        ("when = \"erors > 1\"", "errors"),
        ("when = \"errors > 1\"\nlimit = 0", "from 1 to"),
        ("when = \"errors > 1\"\nno_data = \"maybe\"", "no_data"),
        ("when = \"errors > 1\"\nlabels = { alertname = \"x\" }", "set by Weir"),
        ("when = \"errors > 1\"\nby = [\"alertname\"]", "set by Weir"),
        ("when = \"errors > 1\"\nby = [\"weir.reason\"]", "set by Weir"),
        (
            "when = \"errors > 1\"\nby = [\"service.name\"]\nlabels = { \"service.name\" = \"x\" }",
            "given twice",
        ),
        ("when = \"errors > 1\"\nsummary = \"{{ $value }}\"", "name the column"),
        ("when = \"errors > 1\"\nfore = \"1s\"", "for"),
    ] {
        let error = plan_on(window_edge(), toml).err().unwrap_or_default();
        assert!(error.contains(expect), "{toml}: expected `{expect}` in\n{error}");
    }
}

#[test]
fn the_example_of_the_page_is_right() {
    let doc = ALERT.doc();
    let toml = doc.split("```toml").nth(1).unwrap().split("```").next().unwrap();
    let body: Vec<&str> =
        toml.lines().filter(|l| !l.starts_with('[') && !l.starts_with("inputs")).collect();
    let mut edge = window_edge();
    edge.columns.insert("total".to_owned(), Some(DataType::Int64));
    plan_on(edge, &body.join("\n")).unwrap();
}
