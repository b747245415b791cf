#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::{Map, Value as Json, json};
use weir_pipeline::batch::{Batch, Keys, Run};
use weir_pipeline::component::Output;
use weir_pipeline::config::{Input, Scope, Section};
use weir_pipeline::edge::Edge;
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin, Value};
use weir_pipeline::signal::{Signal, timestamp};
use weir_pipeline::testing::{to_batch, to_rows};

use super::*;

fn planned(signal: Signal, program: &str) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    planned_as("clean", signal, program)
}

fn planned_as(
    node: &str,
    signal: Signal,
    program: &str,
) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let toml = format!("source = '''\n{program}'''\n");
    let section = Section::parse_for_tests(node, &toml);
    let input = Input { name: "in".into(), edge: Edge::open(signal) };
    plan(&section, &Scope::new(vec![input], ".".into()))
}

fn run(program: &str, batch: &Batch) -> Output {
    run_at(program, batch, 1_700_000_000_000_000_000)
}

fn run_at(program: &str, batch: &Batch, now: i64) -> Output {
    let mut operator = planned(batch.signal().clone(), program).unwrap().build();
    let mut out = Output { now, ..Output::default() };
    operator.process(0, batch.clone(), &mut out).unwrap();
    out
}

fn rows(value: Json) -> Vec<Map<String, Json>> {
    serde_json::from_value(value).unwrap()
}

/// Runs `program` on log rows and compares what comes out, without `timestamp`.
#[track_caller]
fn check(program: &str, input: Json, expect: Json) {
    let batch = to_batch("logs", "otlp", 7, 0, &rows(input)).unwrap();
    let out = run(program, &batch);
    let mut got: Vec<_> = out.emitted.iter().flat_map(|(_, b)| to_rows(b)).collect();
    got.iter_mut().for_each(|r| drop(r.remove("timestamp")));
    for (_, b) in &out.emitted {
        assert_eq!(b.runs().iter().map(|r| r.rows).sum::<usize>(), b.num_rows());
    }
    let errors: Vec<_> = out.rejected.iter().flat_map(|(_, e)| e).collect();
    assert_eq!(json!(got), expect, "{errors:?}");
}

#[test]
fn paths_are_column_names() {
    check(
        ".http.route = upcase(string!(.http.route))",
        json!([{"http.route": "/a"}]),
        json!([{"http.route": "/A"}]),
    );
    check(
        "del(.user.password)",
        json!([{"user.password": "x", "user.id": 1}]),
        json!([{"user.id": 1}]),
    );
    check(
        ".a = .error; .b = .error.type",
        json!([{"error": "e", "error.type": "t"}]),
        json!([{"a": "e", "b": "t", "error": "e", "error.type": "t"}]),
    );
    check(
        ".n = length!(.http)",
        json!([{"http.route": "r", "http.method": "m"}]),
        json!([{"http.method": "m", "http.route": "r", "n": 2}]),
    );
    check("del(.http)", json!([{"http.route": "r", "http.a.b": 1, "x": 1}]), json!([{"x": 1}]));
    check(".http = {\"x\": {\"y\": 1}}", json!([{"http.route": "r"}]), json!([{"http.x.y": 1}]));
    check(
        ".ok = exists(.http) && !exists(.nope)",
        json!([{"http.route": "r"}]),
        json!([{"http.route": "r", "ok": true}]),
    );
}

#[test]
fn values_keep_or_find_their_type() {
    check(".x = 1", json!([{"x": "a"}, {"x": "b"}]), json!([{"x": 1}, {"x": 1}]));
    check(
        "if .k == 1 { .x = 2.5 }",
        json!([{"k": 1, "x": 1}, {"k": 2, "x": 3}]),
        json!([{"k": 1, "x": 2.5}, {"k": 2, "x": 3.0}]),
    );
    check(
        "if .k == 1 { .x = \"t\" }",
        json!([{"k": 1, "x": 1}, {"k": 2, "x": 3}]),
        json!([{"k": 1, "x": "t"}, {"k": 2, "x": "3"}]),
    );
    check(".tags[1] = \"z\"", json!([{"tags": ["a", "b"]}]), json!([{"tags": "[\"a\",\"z\"]"}]));
    check(
        ".first = .tags[0]",
        json!([{"tags": ["a", "b"]}]),
        json!([{"first": "a", "tags": "[\"a\",\"b\"]"}]),
    );
    check(".severity = 5", json!([{"severity": "x"}]), json!([{"severity": "5"}]));
    check(
        ". = parse_json!(.body)",
        json!([{"body": "{\"body\":\"x\",\"a\":{\"b\":1}}"}]),
        json!([{"a.b": 1, "body": "x"}]),
    );
}

#[test]
fn rows_vanish_multiply_and_fail() {
    check("if .x == 1 { abort }", json!([{"x": 1}, {"x": 2}]), json!([{"x": 2}]));
    check(
        ". = [{\"body\": \"a\"}, {\"body\": \"b\", \"n\": 1}]",
        json!([{"body": "x"}, {"body": "y"}]),
        json!([{"body": "a"}, {"body": "b", "n": 1}, {"body": "a"}, {"body": "b", "n": 1}]),
    );
    let input = json!([{"body": "1"}, {"body": "no"}]);
    let batch = to_batch("logs", "otlp", 7, 0, &rows(input)).unwrap();
    let out = run(".n = to_int!(.body)", &batch);
    assert_eq!(out.emitted[0].1.num_rows(), 1);
    let (rejected, errors) = &out.rejected[0];
    assert_eq!(to_rows(rejected)[0]["body"], "no", "the row is intact");
    assert!(errors[0].place.as_deref().unwrap().ends_with(":2:6"), "{errors:?}");
    let out = run(".severity_number = \"x\"", &batch);
    assert_eq!(
        out.rejected[0].1[0].reason,
        "column `severity_number` takes an integer, not string"
    );
}

#[test]
fn as_many_rows_as_before_may_be_other_rows() {
    use crate::testing::{batch, row, show};
    let row =
        |i: i64| row(i).set("x", i).set("kept", i * 10).entity("job", ["a", "b", "c"][i as usize]);
    let before = batch(&[row(0), row(1), row(2)]);
    let program =
        "if .x == 0 { abort }\nif .x == 1 {\n  x = .\n  y = x\n  y.x = 7\n  . = [x, y]\n}";
    let out = run(program, &before);
    let expect = [
        "job=b kept=10 timestamp=1970-01-01T00:00:00.000000001Z x=1",
        "job=b kept=10 timestamp=1970-01-01T00:00:00.000000001Z x=7",
        "job=c kept=20 timestamp=1970-01-01T00:00:00.000000002Z x=2",
    ];
    let mut got = show(&out.emitted, out.emitted[0].0);
    got.iter_mut().for_each(|row| {
        let mut cells: Vec<&str> = row.split(' ').collect();
        cells.sort_unstable();
        *row = cells.join(" ");
    });
    assert_eq!(got, expect);
    let after = &out.emitted[0].1;
    // Where a row came from goes with it: what is rejected later is named by it.
    let runs = after.runs().iter().map(|r| (r.received, r.rows));
    assert_eq!(runs.collect::<Vec<_>>(), [(1, 2), (2, 1)]);
    assert_eq!(out.dropped, 1);
}

#[test]
fn time_and_chance_come_from_the_journal() {
    let input = json!([{"body": "a"}, {"body": "b"}]);
    let batch = to_batch("logs", "otlp", 7, 0, &rows(input)).unwrap();
    let program = ".t = to_string(now()); .u = uuid_v4(); .r = random_int!(0, 1000000); .p = %position; .s = %source";
    let first = to_rows(&run(program, &batch).emitted[0].1);
    assert_eq!(first, to_rows(&run(program, &batch).emitted[0].1), "a replay gives the same");
    assert_eq!(first[0]["t"], "2023-11-14T22:13:20Z");
    assert_eq!((&first[0]["p"], &first[0]["s"]), (&json!(7), &json!("otlp")));
    assert_ne!(first[0]["u"], first[1]["u"]);
    assert_ne!(first[0]["r"], first[1]["r"]);
    let edited = "# moved\n.b = random_bool()\n.two = true\n.u = uuid_v4()\n.r = random_int!(0, 1000000)\n.s = random_int!(0, 1000000)";
    let edited = to_rows(&run(edited, &batch).emitted[0].1);
    assert_eq!((&edited[0]["u"], &edited[0]["r"]), (&first[0]["u"], &first[0]["r"]), "moved only");
    assert_ne!(edited[0]["r"], edited[0]["s"], "two calls differ");
    let mut other = planned_as("other", Signal::Logs, program).unwrap().build();
    let mut out = Output::default();
    other.process(0, batch.clone(), &mut out).unwrap();
    assert_ne!(
        to_rows(&out.emitted[0].1)[0]["u"],
        first[0]["u"],
        "so do those of another operator"
    );
}

#[test]
fn a_missing_year_is_that_of_the_tick() {
    // A tick of January.
    let lines = json!([
        {"body": "<34>Dec 31 22:14:15 web su[77]: failed"},
        {"body": "Jan  2 03:04:05 web sshd[8]: open"},
        {"body": "<13>1 2020-03-13T20:45:38.119Z host non 24 ID9 [ex@1 iut=\"3\"] text"},
        {"body": "E1231 17:59:40.692994   28133 klog.go:70] hello"},
        {"body": "nothing of the kind"},
    ]);
    let batch = to_batch("logs", "otlp", 7, 0, &rows(lines)).unwrap();
    let program = ".s = parse_syslog(.body) ?? null; .a = parse_linux_authorization(.body) ?? null; \
                   .k = parse_klog(.body) ?? null";
    let january = 1_704_164_645_000_000_000; // 2024-01-02T03:04:05Z
    let got = to_rows(&run_at(program, &batch, january).emitted[0].1);
    let time = |row: usize, of: &str| got[row][&format!("{of}.timestamp")].clone();
    assert_eq!(time(0, "s"), "2023-12-31T22:14:15Z");
    assert_eq!(time(1, "s"), "2024-01-02T03:04:05Z");
    assert_eq!(time(1, "a"), time(1, "s"));
    assert_eq!(time(2, "s"), "2020-03-13T20:45:38.119Z");
    assert_eq!(got[2]["s.ex@1.iut"], "3");
    assert_eq!((&got[0]["s.appname"], &got[0]["s.procid"]), (&json!("su"), &json!(77)));
    assert_eq!(time(3, "k"), "2023-12-31T17:59:40.692994Z");
    assert_eq!((&got[3]["k.level"], &got[3]["k.line"]), (&json!("error"), &json!(70)));
    assert_eq!(got[4].get("k"), None);
}

#[test]
fn programs_read_no_files() {
    for program in [
        ".x = parse_etld!(\"a.b\", psl: \"/etc/hostname\")",
        ".x = parse_groks!(.body, patterns: [\"%{A}\"], alias_sources: [\"/etc/hostname\"])",
        ".x = parse_proto!(.body, \"/etc/hostname\", \"M\")",
    ] {
        let text = planned(Signal::Logs, program).unwrap_err().to_string();
        assert!(text.contains("W085"), "{text}");
    }
}

#[test]
fn mistakes_point_into_the_file() {
    let message = |program: &str| planned(Signal::Logs, program).unwrap_err().to_string();
    let text = message(".x = upcase(.body)\n");
    assert!(text.contains("W085") && text.contains(":2:"), "{text}");
    let text = message(".x = http_request!(\"http://x\")\n");
    assert!(text.contains("cannot reach the network"), "{text}");
    let text = message("%tenant = \"x\"\n");
    assert!(text.contains("read-only") || text.contains("read only"), "{text}");
}

/// A metrics batch of `rows` samples over three series.
fn metrics(rows: usize) -> Batch {
    let table = Arc::new(EntityTable::default());
    let attribute = |name: &str, value: &str| Attribute {
        name: name.into(),
        value: Value::Text(value.into()),
        origin: Origin::Label,
    };
    for job in ["api", "db", "web"] {
        let entity = Entity::new(vec![attribute("metric.name", "up"), attribute("job", job)]);
        table.intern(entity).unwrap();
    }
    let keys = UInt32Array::from_iter_values((0..rows).map(|i| (i % 3) as u32));
    let times = arrow::array::TimestampNanosecondArray::from_iter_values(0..rows as i64);
    let values = Float64Array::from_iter_values((0..rows).map(|i| i as f64));
    let schema = Schema::new(vec![
        Field::new("timestamp", timestamp(), false),
        Field::new("value", DataType::Float64, true),
    ]);
    let columns: Vec<ArrayRef> = vec![Arc::new(times.with_timezone("UTC")), Arc::new(values)];
    let batch = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
    let run = Run { offset: 1, received: 0, source: "prom".into(), rows };
    let entities = Some(Keys { keys, table });
    Batch::new(Signal::Metrics, "default".into(), batch, entities, [run].into()).unwrap()
}

#[test]
fn entity_programs_run_once_per_entity_and_agree_with_the_plain_run() {
    for program in [
        ".job = upcase(string!(.job))",
        "if .job == \"db\" { abort }",
        ".team = \"x\"; del(.job)",
        "if .job == \"db\" { .n = to_int!(.job) }",
        ".job = {\"a\": .job}",
    ] {
        let batch = metrics(30);
        let fast = run(program, &batch);
        // Reading the value keeps the same program at the row level.
        let plain = run(&format!("{program}\nx = .value\nif false {{ .x = x }}\n"), &batch);
        let show = |out: &Output| -> Vec<_> {
            let emitted = out.emitted.iter().flat_map(|(_, b)| to_rows(b)).collect::<Vec<_>>();
            let bad = out
                .rejected
                .iter()
                .flat_map(|(b, e)| to_rows(b).into_iter().zip(e.iter().map(|e| e.reason.clone())));
            vec![json!(emitted), json!(bad.collect::<Vec<_>>()), json!(out.dropped)]
        };
        assert_eq!(show(&fast), show(&plain), "{program}");
    }
    let out = run(".job = upcase(string!(.job))", &metrics(9));
    let batch = &out.emitted[0].1;
    assert_eq!(batch.level("job"), Some(weir_pipeline::batch::Level::Entity));
    assert_eq!(batch.entities().unwrap().table.len(), 3);
}

#[test]
fn a_name_that_rows_set_leaves_the_entity() {
    let out = run(".job = to_string!(.value)", &metrics(3));
    let batch = &out.emitted[0].1;
    assert_eq!(batch.level("job"), Some(weir_pipeline::batch::Level::Row));
    assert!(!batch.entities().unwrap().table.has("job"));
    let jobs = batch.array("job").unwrap();
    let jobs = jobs.as_any().downcast_ref::<StringArray>().unwrap();
    assert_eq!(jobs.iter().flatten().collect::<Vec<_>>(), ["0", "1", "2"]);
}
