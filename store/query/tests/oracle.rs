//! The same rows in a plain in-memory table of DataFusion: whatever is asked, the answers agree.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
};
use arrow::datatypes::{Field, Schema};
use datafusion::catalog::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;
use weir_pipeline::signal::Signal;

use super::fixture::{Code, Fixture, Row, T0, text};

fn row() -> impl Strategy<Value = Row> {
    let code = prop_oneof![
        Just(None),
        (0..5_i64).prop_map(|i| Some(Code::Int(i))),
        (0..5_i64).prop_map(|i| Some(Code::Text(format!("c{i}")))),
    ];
    (
        0..4_i64,
        0..200_i64,
        prop_oneof!["cart", "shop", "mail"],
        proptest::option::of("h[0-3]"),
        proptest::option::of("/[a-c]"),
        proptest::option::of(-3..4_i32),
        code,
        proptest::option::of(0..3_i64),
    )
        .prop_map(|(hour, second, service, host, route, score, code, spilled)| Row {
            id: 0,
            time: T0 + hour * super::HOUR + second * 1_000_000_000,
            service,
            host,
            route,
            score: score.map(|s| f64::from(s) / 2.0),
            code,
            spilled: spilled.map(|s| ("rare.key".to_owned(), serde_json::json!(format!("k{s}")))),
        })
}

/// A condition that is true SQL on both sides.
fn condition() -> impl Strategy<Value = String> {
    let op = || prop_oneof!["=", "<>", "<", "<=", ">", ">="];
    let leaf = prop_oneof![
        (op(), prop_oneof!["cart", "shop", "none"])
            .prop_map(|(op, v)| format!("\"service.name\" {op} '{v}'")),
        (op(), "h[0-4]").prop_map(|(op, v)| format!("\"host.name\" {op} '{v}'")),
        (op(), "/[a-d]").prop_map(|(op, v)| format!("\"http.route\" {op} '{v}'")),
        (op(), -3..3_i32).prop_map(|(op, v)| format!("score {op} {v}")),
        (op(), 0..60_i64).prop_map(|(op, v)| format!("id {op} {v}")),
        (op(), "c[0-5]|[0-4]").prop_map(|(op, v)| format!("\"http.code\" {op} '{v}'")),
        (op(), "k[0-3]").prop_map(|(op, v)| format!("\"rare.key\" {op} '{v}'")),
        (op(), 0..4_i64, 0..60_i64)
            .prop_map(|(op, h, m)| format!("timestamp {op} '2026-01-01T0{h}:{m:02}:00Z'")),
        Just("\"host.name\" IS NULL".to_owned()),
        Just("\"http.route\" IS NOT NULL".to_owned()),
        Just("\"host.name\" IN ('h1', 'h2')".to_owned()),
        Just("\"service.name\" LIKE '%a%'".to_owned()),
        Just("\"service.name\" || '/' = 'cart/'".to_owned()),
        Just("\"host.name\" = \"service.name\" OR body LIKE 'b1%'".to_owned()),
        Just("coalesce(\"host.name\", 'none') = 'none'".to_owned()),
        Just("coalesce(\"rare.key\", \"http.route\") > 'a'".to_owned()),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) AND ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) OR ({b})")),
            inner.prop_map(|a| format!("NOT ({a})")),
        ]
    })
}

/// A condition on time that may cut a minute in which rows are.
fn stretch() -> impl Strategy<Value = String> {
    let moment = || (0..4_i64, 0..4_i64, prop_oneof![Just(0_i64), 0..60_i64]);
    (moment(), moment()).prop_map(|(a, b)| {
        let at = |(h, m, s)| format!("'2026-01-01T0{h}:0{m}:{s:02}Z'");
        format!("timestamp > {} AND timestamp <= {}", at(a.min(b)), at(a.max(b)))
    })
}

/// What is asked about the rows that meet the condition.
fn question() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just(
            "SELECT id, timestamp, \"service.name\", \"host.name\", \"http.route\", score, \
              \"http.code\", \"rare.key\", body FROM logs WHERE {} ORDER BY id"
        ),
        Just("SELECT id FROM logs WHERE {} ORDER BY id"),
        Just("SELECT count(*), min(timestamp), max(score) FROM logs WHERE {}"),
        Just(
            "SELECT \"host.name\", count(*), sum(id) FROM logs WHERE {} GROUP BY \"host.name\" \
              ORDER BY 1 NULLS FIRST"
        ),
        grouped(),
        Just("SELECT timestamp, id FROM logs WHERE {} ORDER BY timestamp DESC, id LIMIT 5"),
        Just("SELECT \"service.name\", id FROM logs WHERE {} ORDER BY score, id LIMIT 7"),
    ]
}

/// Groups by labels, times, row columns and what is made of them.
fn grouped() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just(
            "SELECT date_bin(INTERVAL '1 minute', timestamp) AS t, \"host.name\", avg(score), \
              count(*), min(id) FROM logs WHERE {} GROUP BY t, \"host.name\" \
              ORDER BY t, 2 NULLS FIRST"
        ),
        Just(
            "SELECT \"http.route\", upper(\"service.name\") AS s, \"host.name\", sum(id) \
              FROM logs WHERE {} GROUP BY 1, 2, 3 ORDER BY 1 NULLS FIRST, 2, 3 NULLS FIRST"
        ),
        Just(
            "SELECT \"service.name\", last_value(id ORDER BY timestamp, id), \
              count(*) FILTER (WHERE \"http.route\" IS NOT NULL), count(DISTINCT score) \
              FROM logs WHERE {} GROUP BY \"service.name\" ORDER BY 1"
        ),
        Just(
            "SELECT date_bin(INTERVAL '90 second', timestamp) AS t, \
              coalesce(upper(\"http.route\"), '-') AS r, count(*) \
              FROM logs WHERE {} GROUP BY t, r ORDER BY t, r"
        ),
        // The latest of them, since times may be equal.
        Just(
            "SELECT \"service.name\", \"host.name\", last_value(timestamp ORDER BY timestamp) \
              FROM logs WHERE {} GROUP BY 1, 2 ORDER BY 1, 2 NULLS FIRST"
        ),
        Just(
            "SELECT \"rare.key\", \"http.code\", date_trunc('hour', timestamp) AS h, max(id) \
              FROM logs WHERE {} GROUP BY 1, 2, 3 ORDER BY 1 NULLS FIRST, 2 NULLS FIRST, 3"
        ),
        Just(
            "SELECT DISTINCT \"host.name\", timestamp FROM logs WHERE {} \
              ORDER BY timestamp, \"host.name\" NULLS FIRST"
        ),
        Just(
            "SELECT \"host.name\" || \"service.name\" AS x, score > 0 AS p, median(id) \
              FROM logs WHERE {} GROUP BY x, p ORDER BY x NULLS FIRST, p NULLS FIRST"
        ),
        Just(
            "SELECT \"host.name\", max(id) AS m FROM logs WHERE {} GROUP BY \"host.name\" \
              ORDER BY m DESC LIMIT 3"
        ),
    ]
}

fn memory(rows: &[Row]) -> SessionContext {
    let texts = |f: &dyn Fn(&Row) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().map(f).collect::<StringArray>())
    };
    let code = |r: &Row| match &r.code {
        Some(Code::Int(i)) => Some(i.to_string()),
        Some(Code::Double(d)) => Some(d.to_string()),
        Some(Code::Text(t)) => Some(t.clone()),
        None => None,
    };
    let spilled = |r: &Row| r.spilled.as_ref().and_then(|(_, v)| v.as_str().map(String::from));
    let times = TimestampNanosecondArray::from_iter_values(rows.iter().map(|r| r.time));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("timestamp", Arc::new(times.with_timezone("UTC"))),
        ("id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.id)))),
        ("body", texts(&|r| Some(format!("b{}", r.id)))),
        ("service.name", texts(&|r| Some(r.service.clone()))),
        ("host.name", texts(&|r| r.host.clone())),
        ("http.route", texts(&|r| r.route.clone())),
        ("score", Arc::new(rows.iter().map(|r| r.score).collect::<Float64Array>())),
        ("http.code", texts(&code)),
        ("rare.key", texts(&spilled)),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(n, a)| Field::new(*n, a.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let arrays = columns.into_iter().map(|(_, a)| a).collect();
    let batch = RecordBatch::try_new(schema.clone(), arrays).unwrap();
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.enable_ident_normalization = false;
    config.options_mut().execution.time_zone = Some("UTC".into());
    let context = SessionContext::new_with_config(config);
    let table = MemTable::try_new(schema, vec![vec![batch]]).unwrap();
    context.register_table("logs", Arc::new(table)).unwrap();
    context
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..Default::default() })]
    #[test]
    fn agrees_with_memory(
        mut rows in proptest::collection::vec(row(), 1..60),
        cuts in proptest::collection::vec((0..60_usize, any::<bool>()), 0..4),
        asked in proptest::collection::vec((question(), condition()), 1..8),
        stretch in stretch(),
        // Metrics have a row group per hour, logs a few per file.
        signal in prop_oneof![Just(Signal::Logs), Just(Signal::Metrics)],
    ) {
        for (i, row) in rows.iter_mut().enumerate() {
            row.id = i as i64;
        }
        // One text makes the table's column text, as the oracle's is.
        rows[0].code = Some(Code::Text("c0".into()));
        rows[0].spilled = Some(("rare.key".into(), serde_json::json!("k0")));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new();
            let mut cuts = cuts;
            cuts.sort();
            let mut start = 0;
            let last = rows.len() - 1;
            for (end, commit) in cuts.into_iter().chain([(last, true), (rows.len(), true)]) {
                let end = end.min(rows.len()).max(start);
                if end > start {
                    fixture.write_as(signal.clone(), "logs", &rows[start..end], commit);
                }
                start = end;
                // What was answered before may be put to use again.
                if end < last || end == 0 {
                    continue;
                }
                let memory = memory(&rows[..end]);
                for (question, condition) in &asked {
                    let later = format!("({condition}) AND timestamp >= '2025-12-31T23:00:00Z'");
                    let some = format!("({condition}) AND {stretch}");
                    for condition in [&some, condition, &later, &some] {
                        let sql = question.replace("{}", condition);
                        let expect = memory.sql(&sql).await.unwrap().collect().await.unwrap();
                        let got = fixture.rows(&sql).await;
                        prop_assert_eq!(got.map_err(|e| e.to_string()), Ok(text(&expect)), "{}", sql);
                    }
                }
            }
            Ok(())
        })?;
    }
}
