#![allow(clippy::unwrap_used)]

use arrow::array::UInt32Array;
use serde_json::{Map, Value as Json, json};
use weir_pipeline::batch::Keys;
use weir_pipeline::component::Output;
use weir_pipeline::config::Input;
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin, Value};
use weir_pipeline::lookup::Content;
use weir_pipeline::signal::Signal;
use weir_pipeline::testing::{to_batch, to_rows};

use super::*;

fn objects(rows: Json) -> Vec<Map<String, Json>> {
    serde_json::from_value(rows).unwrap()
}

fn scope(table: Json) -> Scope {
    let content = Content::of_objects(&objects(table)).unwrap();
    let lookup = Lookup::new(&content, b"a version").unwrap();
    let inputs = vec![Input { name: "otlp.logs".into(), edge: Edge::open(Signal::Logs) }];
    let lookups = [("hosts".to_owned(), Arc::new(lookup))].into();
    Scope::new(inputs, "".into()).with_lookups(Arc::new(lookups))
}

fn planned(text: &str, table: Json) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    plan(&Section::parse_for_tests("e", text), &scope(table))
}

/// The rows that come out of `rows`, and reasons of those that go to `.errors`.
fn run(text: &str, table: Json, batches: &[Batch]) -> (Vec<Json>, Vec<String>) {
    let plan = planned(text, table).map_err(|wrong| wrong.to_string()).unwrap();
    let (mut operator, mut out) = (plan.build(), Output::default());
    for batch in batches {
        operator.process(0, batch.clone(), &mut out).unwrap();
    }
    let rows = out.emitted.iter().flat_map(|(_, batch)| to_rows(batch));
    let rows = rows.map(|mut row| {
        row.remove("timestamp");
        Json::Object(row)
    });
    let reasons = out.rejected.iter().flat_map(|(_, e)| e.iter().map(ToString::to_string));
    (rows.collect(), reasons.collect())
}

fn batch(rows: Json) -> Batch {
    to_batch("logs", "otlp", 1, 0, &objects(rows)).unwrap()
}

/// The same rows with every column but `timestamp` at their entities.
fn at_entities(batch: &Batch) -> Batch {
    let (rows, table) = (batch.rows(), Arc::new(EntityTable::default()));
    let fields = rows.schema();
    let key = |row: usize| {
        let columns = fields.fields().iter().zip(rows.columns());
        let attributes = columns.filter(|(f, _)| f.name() != "timestamp").filter_map(|(f, c)| {
            let value = Value::of_array(c, row)?;
            Some(Attribute { name: f.name().as_str().into(), value, origin: Origin::Resource })
        });
        table.intern(Entity::new(attributes.collect())).unwrap()
    };
    let keys = UInt32Array::from_iter_values((0..rows.num_rows()).map(key));
    let rows = rows.project(&[fields.index_of("timestamp").unwrap()]).unwrap();
    let (signal, tenant) = (batch.signal().clone(), batch.tenant().clone());
    Batch::new(signal, tenant, rows, Some(Keys { keys, table }), batch.runs().clone()).unwrap()
}

#[track_caller]
fn check(text: &str, table: Json, rows: Json, expected: Json, reasons: &[&str]) {
    let batch = batch(rows);
    for batch in [batch.clone(), at_entities(&batch)] {
        let (rows, said) = run(text, table.clone(), &[batch]);
        assert_eq!(Json::Array(rows), expected);
        assert_eq!(said, reasons);
    }
}

const HOSTS: &str = "lookup = \"hosts\"\non = { \"host.name\" = \"name\" }\n";

fn hosts() -> Json {
    json!([{"name": "a", "owner": "ann", "cores": 4}, {"name": "b", "owner": "bob"}])
}

#[test]
fn what_is_found_is_added_and_replaces() {
    let rows = json!([{"host.name": "a", "owner": "old"}, {"host.name": "x", "owner": "old"},
        {"owner": "old"}, {"host.name": "b"}]);
    let expected = json!([{"host.name": "a", "owner": "ann", "cores": 4}, {"host.name": "x"}, {},
        {"host.name": "b", "owner": "bob"}]);
    check(HOSTS, hosts(), rows, expected, &[]);
}

#[test]
fn rows_that_nothing_is_found_for_go_where_they_shall() {
    let rows = json!([{"host.name": "a"}, {"host.name": "x"}, {"note": "n"}]);
    let found = json!([{"host.name": "a", "owner": "ann", "cores": 4}]);
    let drop = format!("{HOSTS}on_missing = \"drop\"");
    check(&drop, hosts(), rows.clone(), found.clone(), &[]);
    let error = format!("{HOSTS}on_missing = \"error\"");
    let reasons = [
        "lookup `hosts` has no row for `host.name` = `x`",
        "lookup `hosts` has no row for `host.name` without a value",
    ];
    check(&error, hosts(), rows, found, &reasons);
}

#[test]
fn networks_and_times_go_with_equal_keys() {
    let text = "lookup = \"hosts\"\non = { site = \"site\" }\nnetwork = { ip = \"net\" }\n\
        since = \"from\"\ntake = { zone = \"zone\" }";
    let table = json!([
        {"site": 1, "net": "10.0.0.0/8", "from": "2026-01-01T00:00:00Z", "zone": "old"},
        {"site": 1, "net": "10.0.0.0/8", "from": "2026-02-01T00:00:00Z", "zone": "new"},
        {"site": 1, "net": "10.1.0.0/16", "from": "2026-02-01T00:00:00Z", "zone": "near"},
    ]);
    let at = |time: &str, ip: &str| json!({"timestamp": time, "site": "1", "ip": ip});
    let rows = json!([
        at("2026-01-15T00:00:00Z", "10.1.0.1"),
        at("2026-02-15T00:00:00Z", "10.1.0.1"),
        at("2026-02-15T00:00:00Z", "10.2.0.1"),
        at("2025-02-15T00:00:00Z", "10.2.0.1"),
        at("2026-02-15T00:00:00Z", "not an address"),
    ]);
    let (rows, _) = run(text, table, &[batch(rows)]);
    let zones: Vec<Json> = rows.iter().map(|r| r["zone"].clone()).collect();
    assert_eq!(zones, [json!("old"), json!("near"), json!("new"), Json::Null, Json::Null]);
}

#[test]
fn mistakes_are_said() {
    let said = |text: &str| planned(text, hosts()).map(|_| ()).unwrap_err().to_string();
    assert!(said("lookup = \"host\"\non = { a = \"name\" }").contains("did you mean `hosts`?"));
    assert!(said("lookup = \"hosts\"").contains("needs `on` or `network`"));
    let wrong = said("lookup = \"hosts\"\non = { a = \"nam\" }");
    assert!(wrong.contains("did you mean `name`?"), "{wrong}");
    let wrong = said("lookup = \"hosts\"\non = { a = \"name\" }\ntake = { x = \"ownr\" }");
    assert!(wrong.contains("did you mean `owner`?"), "{wrong}");
    let wrong = said("lookup = \"hosts\"\non = { a = \"name\" }\nuntil = \"owner\"");
    assert!(wrong.contains("`until` needs `since`"), "{wrong}");
}

/// What a program makes of one row with the column `x`.
fn program(source: &str, table: Json) -> Json {
    let text = format!("source = '''\n{source}\n'''");
    let kind = crate::ALL.iter().find(|k| k.name == "vrl").unwrap();
    let plan = (kind.plan)(&Section::parse_for_tests("v", &text), &scope(table)).unwrap();
    let (mut operator, mut out) = (plan.build(), Output::default());
    operator.process(0, batch(json!([{"x": "a", "n": 2}])), &mut out).unwrap();
    Json::Object(to_rows(&out.emitted[0].1).remove(0))["y"].clone()
}

#[test]
fn programs_ask_the_same_tables() {
    let table = json!([{"k": "a", "n": 1, "t": "2026-01-01"}, {"k": "b", "n": 2, "t": "2026-02-01"},
        {"k": "B", "n": 2, "t": "2026-03-01"}]);
    let one = |condition: &str| {
        let call = format!("get_enrichment_table_record(\"hosts\", {condition})");
        program(
            &format!("r, err = {call}\n.y = if err == null {{ r.k }} else {{ err }}"),
            table.clone(),
        )
    };
    assert_eq!(one("{ \"k\": .x }"), "a");
    assert_eq!(one("{ \"k\": \"b\" }"), "b");
    assert_eq!(one("{ \"n\": 1 }"), "a");
    assert_eq!(one("{ \"n\": \"1\", \"k\": \"a\" }"), "a");
    assert!(one("{ \"k\": \"c\" }").as_str().unwrap().contains("lookup `hosts` has no such row"));
    assert!(one("{ \"n\": .n }").as_str().unwrap().contains("has 2 such rows"));
    let all = |arguments: &str| {
        let call = format!("find_enrichment_table_records(\"hosts\", {arguments})");
        program(&format!(".y = encode_json({call} ?? [\"failed\"])"), table.clone())
    };
    assert_eq!(all("{ \"n\": 2 }, [\"k\"]"), r#"[{"k":"b"},{"k":"B"}]"#);
    assert_eq!(
        all("{ \"k\": \"b\" }, [\"t\"], false"),
        r#"[{"t":"2026-02-01"},{"t":"2026-03-01"}]"#
    );
    let since = "{ \"n\": 2, \"t\": { \"from\": t'2026-02-15T00:00:00Z' } }, [\"k\"]";
    assert_eq!(all(since), r#"[{"k":"B"}]"#);
}
