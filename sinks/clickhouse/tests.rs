#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampNanosecondArray};
use arrow::ipc::reader::StreamReader;
use axum::extract::{Query, State};
use parking_lot::Mutex;
use weir_pipeline::batch::{Run, TENANT};
use weir_pipeline::component::Services;
use weir_pipeline::signal::Signal;

use super::*;

/// A ClickHouse that has every column that is added, and keeps what is inserted.
#[derive(Default)]
struct Server {
    columns: Mutex<Vec<(String, String)>>,
    statements: Mutex<Vec<String>>,
    /// Blocks as (token, rows as text).
    blocks: Mutex<Vec<(String, Vec<String>)>>,
    /// What the next inserts are answered.
    answers: Mutex<Vec<(u16, &'static str)>>,
}

type Answer = (axum::http::StatusCode, String);

async fn answer(
    State(server): State<Arc<Server>>,
    Query(params): Query<HashMap<String, String>>,
    body: axum::body::Bytes,
) -> Answer {
    let ok = |text: String| (axum::http::StatusCode::OK, text);
    if params.get("query").is_some_and(|q| q.starts_with("INSERT")) {
        if let Some((status, text)) = server.answers.lock().pop() {
            return (axum::http::StatusCode::from_u16(status).unwrap(), text.to_owned());
        }
        let rows = StreamReader::try_new(std::io::Cursor::new(body), None).unwrap();
        let rows = rows.map(Result::unwrap).map(|batch| {
            let ids = batch.column_by_name("n").unwrap();
            let options = arrow::util::display::FormatOptions::default();
            let ids = arrow::util::display::ArrayFormatter::try_new(ids, &options).unwrap();
            (0..batch.num_rows()).map(|i| ids.value(i).to_string()).collect::<Vec<_>>()
        });
        let token = params["insert_deduplication_token"].clone();
        server.blocks.lock().push((token, rows.flatten().collect()));
        return ok(String::new());
    }
    let sql = String::from_utf8(body.to_vec()).unwrap();
    let mut columns = server.columns.lock();
    let text = if sql.contains("system.columns") {
        columns.iter().map(|c| serde_json::to_string(c).unwrap() + "\n").collect()
    } else if sql.contains("system.databases") {
        String::new()
    } else if sql.contains("system.tables") {
        "[\"MergeTree\",\"MergeTree\"]\n".to_owned()
    } else {
        server.statements.lock().push(sql.clone());
        let inside = sql.split_once("`.`logs` ").map_or("", |(_, rest)| rest);
        for part in inside.split('`').skip(1).step_by(2).zip(inside.split('`').skip(2).step_by(2)) {
            let kind = part.1.trim_start().split(" CODEC").next().unwrap();
            if kind.starts_with(|c: char| c.is_ascii_uppercase()) {
                columns.retain(|c| c.0 != part.0);
                columns.push((part.0.to_owned(), kind.trim_end_matches([',', ' ']).to_owned()));
            }
        }
        String::new()
    };
    ok(text)
}

async fn server() -> (Arc<Server>, String) {
    // As the binary's own `main` does; another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = Arc::new(Server::default());
    let app = axum::Router::new().fallback(answer).with_state(server.clone());
    let app = app.layer(axum::extract::DefaultBodyLimit::disable());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (server, url)
}

fn sink(url: &str, more: &str) -> (Box<dyn Sink>, SinkContext) {
    let scope = Scope::new(Vec::new(), ".".into());
    let text = format!("endpoint = \"{url}\"\ntable = \"logs\"\n{more}");
    let context = SinkContext {
        journal: 7,
        pipeline: "shop".into(),
        sink: "out".into(),
        services: Services::default(),
        metrics: Arc::default(),
    };
    let plan = plan(&Section::parse_for_tests("c", &text), &scope).unwrap();
    (plan.build(context.clone()).unwrap(), context)
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Batch {
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let run = Run { offset: 1, received: 0, source: "test".into(), rows: rows.num_rows() };
    Batch::new(Signal::Logs, TENANT.into(), rows, None, Arc::new([run])).unwrap()
}

fn numbers(numbers: std::ops::Range<i64>) -> Batch {
    let times = TimestampNanosecondArray::from_iter_values(numbers.clone()).with_timezone("UTC");
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
    batch(vec![("timestamp", Arc::new(times)), ("n", numbers)])
}

/// The end of a sink, as the engine does it.
async fn last(out: &mut Box<dyn Sink>, mark: u64) {
    let staged = out.stage(mark, true).await.unwrap();
    assert!(staged.carry.is_empty());
    out.commit(mark, &staged.work).await.unwrap();
}

#[tokio::test]
async fn blocks_are_cut_and_named_alike_wherever_marks_are() {
    let mut seen = Vec::new();
    for (step, marks) in [(1_000, 0), (7_000, 1), (333, 3)] {
        let (server, url) = server().await;
        let (mut out, _) = sink(&url, "");
        let mut next = 0;
        for tick in 1..200_u64 {
            // Many rows, then few, then none.
            let until = match tick {
                1..=40 => tick as i64 * 7_000,
                41..=90 => 280_000 + (tick as i64 - 40),
                _ => 280_050,
            };
            while next < until {
                let end = until.min(next + step);
                out.write(numbers(next..end)).await.unwrap();
                next = end;
            }
            out.tick(tick).await.unwrap();
            if marks > 0 && tick % marks == 0 {
                let carry = out.stage(tick, false).await.unwrap().carry;
                out = sink(&url, "").0;
                out.restore(&carry).await.unwrap();
            }
        }
        last(&mut out, 200).await;
        let blocks = std::mem::take(&mut *server.blocks.lock());
        assert!(
            blocks
                .iter()
                .flat_map(|b| &b.1)
                .eq((0..280_050).map(|n| n.to_string()).collect::<Vec<_>>().iter())
        );
        seen.push(blocks);
    }
    assert!(seen[0] == seen[1] && seen[0] == seen[2]);
    let names: Vec<&str> = seen[0].iter().map(|b| b.0.as_str()).collect();
    assert_eq!(names[0], "00000000000000000000000000000007/shop/out/8");
    assert_eq!(names.len(), 5 + 2, "{names:?}");
}

#[tokio::test]
async fn what_may_be_taken_later_is_kept_and_what_never_will_is_counted() {
    let (server, url) = server().await;
    let (mut out, context) = sink(&url, "");
    out.write(numbers(0..3)).await.unwrap();
    // The last is answered first: all of it must wait, then one of three rows is bad.
    let bad = "Code: 349. DB::Exception: Cannot convert NULL. (CANNOT_INSERT_NULL)";
    *server.answers.lock() = vec![
        (500, bad),
        (500, bad),
        (500, "Code: 252. DB::Exception: Too many parts. (TOO_MANY_PARTS)"),
    ];
    for tick in 1..BLOCK_TICKS as u64 {
        out.tick(tick).await.unwrap();
    }
    let failed = out.tick(25).await.unwrap_err();
    assert!(failed.retry && failed.message.contains("TOO_MANY_PARTS"), "{failed}");
    out.tick(25).await.unwrap();
    out.write(numbers(3..5)).await.unwrap();
    last(&mut out, 26).await;
    let blocks = server.blocks.lock().clone();
    let of = |token: &str| format!("00000000000000000000000000000007/shop/out/{token}");
    let texts = |numbers: &[&str]| numbers.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(blocks, [(of("25/1"), texts(&["1", "2"])), (of("26"), texts(&["3", "4"]))]);
    assert_eq!(context.metrics.read().errors, 1);
}

#[tokio::test]
async fn columns_are_made_added_and_widened() {
    let (server, url) = server().await;
    let (mut out, _) = sink(&url, "retention = \"30d\"\n");
    let text = |t: &str| -> ArrayRef { Arc::new(StringArray::from(vec![t])) };
    let n = |n: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![n])) };
    let sent = async |out: &mut Box<dyn Sink>, batch| {
        out.write(batch).await.unwrap();
        last(out, 1).await;
        std::mem::take(&mut *server.statements.lock())
    };
    let made = sent(&mut out, batch(vec![("n", n(1)), ("severity", text("INFO"))])).await;
    assert_eq!(made[0], "CREATE DATABASE IF NOT EXISTS `default`");
    assert_eq!(
        made[1],
        "CREATE TABLE IF NOT EXISTS `default`.`logs` (\
         `timestamp` DateTime64(9, 'UTC') CODEC(DoubleDelta, ZSTD(1)), \
         `n` Nullable(Int64) CODEC(Delta, ZSTD(1)), \
         `severity` LowCardinality(Nullable(String)) CODEC(ZSTD(1))) \
         ENGINE = MergeTree PARTITION BY toDate(timestamp) ORDER BY (`timestamp`) \
         TTL toDateTime(timestamp) + toIntervalSecond(2592000) \
         SETTINGS non_replicated_deduplication_window = 1000"
    );
    let doubles: ArrayRef = Arc::new(Float64Array::from(vec![0.5]));
    assert_eq!(
        sent(&mut out, batch(vec![("n", doubles), ("a.`b", n(1))])).await,
        [
            "ALTER TABLE `default`.`logs` ADD COLUMN IF NOT EXISTS `a.\\`b` Nullable(Int64) \
             CODEC(Delta, ZSTD(1))",
            "ALTER TABLE `default`.`logs` MODIFY COLUMN `n` Nullable(Float64) \
             CODEC(Gorilla, ZSTD(1))",
        ]
    );
}

#[tokio::test]
async fn what_fits_no_column_is_left_out_and_counted() {
    let (server, url) = server().await;
    let column = |name: &str, kind: &str| (name.to_owned(), kind.to_owned());
    *server.columns.lock() =
        vec![column("timestamp", "DateTime64(9, 'UTC')"), column("n", "Int64")];
    let (mut out, context) = sink(&url, "create = false\n");
    let texts = StringArray::from(vec!["7", "seven", "8"]);
    let other: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(2)]));
    out.write(batch(vec![("n", Arc::new(texts)), ("other", other)])).await.unwrap();
    last(&mut out, 1).await;
    assert!(server.statements.lock().is_empty());
    assert_eq!(server.blocks.lock()[0].1, ["7", "", "8"]);
    // One that is no number, two without a column.
    assert_eq!(context.metrics.read().errors, 3);
}

#[test]
fn mistakes_are_named() {
    let wrong = |text: &str| {
        let scope = Scope::new(Vec::new(), ".".into());
        let wrong = plan(&Section::parse_for_tests("c", text), &scope).unwrap_err();
        wrong.0.iter().map(|d| d.message.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        wrong("endpoint = \"tcp://x:9000\"\ntable = \"\"\nretention = \"0s\"\n"),
        [
            "`endpoint` is no URL of `http` or `https`",
            "`retention` has to be 1 s at least",
            "`table` is empty",
        ]
    );
}
