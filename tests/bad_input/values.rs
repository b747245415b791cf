//! Values at the edge of what can be.

use serde_json::{Value, json};

use super::Bench;
use crate::durability::remote_write;
use crate::harness::request;

#[test]
fn numbers_that_are_none_or_large() {
    let mut bench = Bench::start();
    let big = 9_007_199_254_740_993_i64;
    let point = |name: &str, value: Value| {
        let (kind, value) = if name == "big" { ("asInt", value) } else { ("asDouble", value) };
        json!({
            "timeUnixNano": "1700000000000000000", kind: value,
            "attributes": [{ "key": "kind", "value": { "stringValue": name } }],
        })
    };
    let points = json!([
        point("nan", json!("NaN")),
        point("inf", json!("Infinity")),
        point("minus", json!("-Infinity")),
        point("tiny", json!(5e-324)),
        point("big", json!(big.to_string())),
    ]);
    let reply = bench.gauge("odd", &points);
    assert_eq!((reply.status, reply.text()), (200, "{}".to_owned()));
    let reply = bench.logs(&json!([{
        "body": { "stringValue": "numbers" },
        "attributes": [
            { "key": "least", "value": { "intValue": i64::MIN.to_string() } },
            { "key": "big", "value": { "intValue": big.to_string() } },
        ],
    }]));
    assert_eq!(reply.status, 200, "{}", reply.text());
    bench.good();
    let odd = "SELECT kind, value, value_int FROM metrics.odd";
    bench.server.wait_sql(odd, |r| r.len() == 5);
    bench.server.wait_sql("SELECT 1 FROM logs WHERE body = 'numbers'", |r| r.len() == 1);
    for restarted in [false, true] {
        if restarted {
            bench.server.stop();
            bench.server.restart();
        }
        let value = |kind: &str, column: &str| {
            let sql = format!("SELECT {column} AS v FROM metrics.odd WHERE kind = '{kind}'");
            bench.server.sql(&sql)[0]["v"].clone()
        };
        assert_eq!(value("nan", "value"), "NaN");
        assert_eq!(value("inf", "value"), "Inf");
        assert_eq!(value("minus", "value"), "-Inf");
        assert_eq!(value("tiny", "value"), 5e-324);
        assert_eq!(value("big", "value_int"), big);
        let rows = bench.server.sql("SELECT least, big FROM logs WHERE body = 'numbers'");
        assert_eq!(rows, [json!({ "least": i64::MIN, "big": big })]);
    }
    // Sources may come up at other ports.
    bench.otlp = format!("http://{}", bench.server.address("otlp"));
    bench.finish();
}

#[test]
fn a_hundred_thousand_attributes() {
    let bench = Bench::start();
    let attribute = |i: usize| json!({ "key": format!("a.k{i}"), "value": { "intValue": i } });
    let attributes: Vec<Value> = (0..100_000).map(attribute).collect();
    let record = json!({ "body": { "stringValue": "wide" }, "attributes": attributes });
    let reply = bench.logs(&json!([record, { "body": { "stringValue": "narrow" } }]));
    assert_eq!(reply.status, 200, "{}", reply.text());
    // Those that got a column and those that did not are read alike.
    let sql = "SELECT a.k0, a.k999, a.k50000, a.k99999 FROM logs WHERE body = 'wide'";
    let rows = bench.server.wait_sql(sql, |r| r.len() == 1);
    for i in [0, 999, 50_000, 99_999] {
        let value = &rows[0][format!("a.k{i}")];
        assert!(value == i || *value == i.to_string(), "{rows:?}");
    }
    let found = bench.server.sql("SELECT body FROM logs WHERE a.k99999 = 99999");
    assert_eq!(found, [json!({ "body": "wide" })]);
    assert_eq!(bench.server.sql("SELECT 1 FROM logs WHERE body = 'narrow'").len(), 1);
    bench.finish();
}

#[test]
fn label_value_of_a_mebibyte() {
    let bench = Bench::start();
    let long = "x".repeat(1 << 20);
    let samples = [(long.as_str(), 1.0), ("short", 2.0)];
    let body = remote_write::body("jobs", "queue", &samples);
    let reply = request("POST", &bench.write, &remote_write::HEADERS, body);
    assert_eq!(reply.status, 204, "{}", reply.text());
    let lengths = "SELECT length(queue) AS n, value FROM metrics.jobs ORDER BY n";
    let rows = bench.server.wait_sql(lengths, |r| r.len() == 2);
    assert_eq!(rows, [json!({ "n": 5, "value": 2.0 }), json!({ "n": 1 << 20, "value": 1.0 })]);
    let whole = bench.server.sql("SELECT queue FROM metrics.jobs WHERE value = 1");
    assert!(whole[0]["queue"] == long.as_str());
    bench.finish();
}

#[test]
fn one_attribute_as_int_and_as_text() {
    let mut bench = Bench::start();
    let send = |bench: &Bench, body: &str, value: Value| {
        let record = json!({
            "body": { "stringValue": body }, "attributes": [{ "key": "app.code", "value": value }],
        });
        let reply = bench.logs(&json!([record]));
        assert_eq!((reply.status, reply.text()), (200, "{}".to_owned()));
    };
    send(&bench, "int", json!({ "intValue": "7" }));
    send(&bench, "text", json!({ "stringValue": "seven" }));
    send(&bench, "double", json!({ "doubleValue": 7.5 }));
    // Within one request, too.
    let record = |body: &str, value: Value| {
        json!({
            "body": { "stringValue": body }, "attributes": [{ "key": "app.code", "value": value }],
        })
    };
    let both = [
        record("int 2", json!({ "intValue": "8" })),
        record("text 2", json!({ "stringValue": "eight" })),
        record("bool", json!({ "boolValue": true })),
    ];
    assert_eq!(bench.logs(&json!(both)).text(), "{}");
    bench.good();
    bench.server.wait_sql("SELECT 1 FROM logs WHERE body = 'bool'", |r| r.len() == 1);
    for restarted in [false, true] {
        if restarted {
            bench.server.stop();
            bench.server.restart();
        }
        let rows = bench
            .server
            .sql("SELECT body, app.code FROM logs WHERE app.code IS NOT NULL ORDER BY body");
        let rows: Vec<(&str, &str)> = rows
            .iter()
            .map(|r| (r["body"].as_str().unwrap(), r["app.code"].as_str().unwrap()))
            .collect();
        assert_eq!(
            rows,
            [
                ("bool", "true"),
                ("double", "7.5"),
                ("int", "7"),
                ("int 2", "8"),
                ("text", "seven"),
                ("text 2", "eight"),
            ]
        );
        // A comparison with a number tries the cast; what does not cast is no match.
        let more = bench.server.sql("SELECT body FROM logs WHERE app.code > 7 ORDER BY body");
        assert_eq!(more, [json!({ "body": "double" }), json!({ "body": "int 2" })]);
        let seven = bench.server.sql("SELECT body FROM logs WHERE app.code = 'seven'");
        assert_eq!(seven, [json!({ "body": "text" })]);
    }
    bench.otlp = format!("http://{}", bench.server.address("otlp"));
    bench.finish();
}

#[test]
fn ids_of_a_wrong_length() {
    let bench = Bench::start();
    let reply = bench.logs(&json!([
        { "body": { "stringValue": "bad id" }, "traceId": "abcd" },
        { "body": { "stringValue": "whole" }, "traceId": "5b8efff798038103d269b633813fc60c" },
    ]));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["partialSuccess"]["rejectedLogRecords"], "1", "{}", reply.text());
    let kept = "SELECT body, trace_id FROM logs WHERE body <> 'good'";
    let kept = bench.server.wait_sql(kept, |r| !r.is_empty());
    let expect = json!({ "body": "whole", "trace_id": "5b8efff798038103d269b633813fc60c" });
    assert_eq!(kept, [expect]);
    bench.finish();
}
