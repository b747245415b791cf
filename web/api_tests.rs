#![allow(clippy::unwrap_used, clippy::expect_used)]

mod client;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use weir_pipeline::config::Secret;
use weir_pipeline::replay::{
    OutputReport, PipelineReport as ReplayedPipeline, Progress, Report, Request, RowSample,
    RowSamples,
};
use weir_store::query::{Queries, QueryOptions};
use weir_store::{Store, StoreOptions};

use client::{Response, request, stream};

use super::*;

/// What runs in these tests: one pipeline with hostile names, and taps that the test feeds.
#[derive(Default)]
struct Fake {
    /// Told when a replay is given up.
    ended: Arc<Notify>,
    taps: Mutex<Vec<(mpsc::Sender<RecordBatch>, Arc<AtomicU64>)>>,
    starting: bool,
    behind: Vec<String>,
}

/// Says so when it is dropped.
struct Ended(Arc<Notify>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Engine for Fake {
    fn status(&self) -> BoxFuture<'_, Status> {
        async {
            let pipelines = self.pipelines().await;
            Status { version: "1.2.3".into(), pipelines, ..Status::default() }
        }
        .boxed()
    }

    fn pipelines(&self) -> BoxFuture<'_, Vec<PipelineReport>> {
        let name = "<script>alert(1)</script>".into();
        let errors = vec!["\"quoted\" & 'broken'".into()];
        let state = "running".into();
        async { vec![PipelineReport { name, state, errors, ..PipelineReport::default() }] }.boxed()
    }

    fn tap(
        &self,
        pipeline: &str,
        node: &str,
        output: &str,
    ) -> BoxFuture<'_, Result<Tap, EngineError>> {
        let known = (pipeline, node, output) == ("shop", "clean", "late");
        let missing = format!("pipeline `{pipeline}` has no node `{node}`");
        async move {
            if !known {
                return Err(EngineError::NotFound(missing));
            }
            let (sender, batches) = mpsc::channel(4);
            let missed = Arc::new(AtomicU64::new(0));
            self.taps.lock().push((sender, missed.clone()));
            Ok(Tap { batches, missed })
        }
        .boxed()
    }

    fn reload(&self) -> BoxFuture<'_, Result<ReloadReport, EngineError>> {
        async { Ok(ReloadReport { number: 7, ok: true, ..ReloadReport::default() }) }.boxed()
    }

    fn replay(&self, request: Request) -> BoxFuture<'_, Result<Replay, EngineError>> {
        async move {
            if request.from == "8" {
                let ended = Ended(self.ended.clone());
                let report = async move {
                    let _ended = ended;
                    std::future::pending().await
                };
                let (_, progress) = watch::channel(Progress::default());
                return Ok(Replay { progress, report: report.boxed() });
            }
            if request.from != "7" {
                return Err(EngineError::Invalid(format!("no such place: {}", request.from)));
            }
            let (progress, receiver) = watch::channel(Progress::default());
            progress.send_replace(Progress { position: 8, time: 9, done: 0.5 });
            let report = async move {
                let sample = |text: &str| {
                    let row = serde_json::json!({ "body": text, "api_key": "s3cret" });
                    RowSample { position: 8, row: row.as_object().cloned().unwrap() }
                };
                let samples =
                    RowSamples { gone: vec![sample("password=s3cret")], ..Default::default() };
                let output = OutputReport { gone: 1, samples, ..OutputReport::default() };
                let pipeline = ReplayedPipeline { outputs: vec![output], ..Default::default() };
                drop(progress);
                Ok(Report { pipelines: vec![pipeline], ..Report::default() })
            };
            Ok(Replay { progress: receiver, report: report.boxed() })
        }
        .boxed()
    }

    fn plan(&self) -> BoxFuture<'_, Result<serde_json::Value, EngineError>> {
        async { Ok(serde_json::json!({ "ok": true, "pipelines": [] })) }.boxed()
    }

    fn ready(&self) -> Result<(), String> {
        if self.starting { Err("recovering".into()) } else { Ok(()) }
    }

    fn alerts(&self) -> BoxFuture<'_, serde_json::Value> {
        async { serde_json::json!({ "alerts": [] }) }.boxed()
    }

    fn notify(&self, receiver: &str) -> BoxFuture<'_, Result<serde_json::Value, EngineError>> {
        let answer = match receiver {
            "oncall" => Ok(serde_json::json!({ "sent": 1 })),
            other => Err(EngineError::NotFound(format!("no receiver `{other}`"))),
        };
        async { answer }.boxed()
    }

    fn behind(&self) -> Vec<String> {
        self.behind.clone()
    }

    fn metrics(&self) -> String {
        "weir_up 1\n".into()
    }
}

struct Server {
    address: String,
    engine: Arc<Fake>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn server(
    engine: Fake,
    tokens: Vec<Secret>,
    limits: impl FnOnce(&mut QueryOptions),
) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store"), StoreOptions::default()).unwrap();
    let mut options = QueryOptions::new(64 << 20, folder.path().join("spill"));
    options.threads = 2;
    limits(&mut options);
    let queries = Queries::new(store, options).unwrap();
    let engine = Arc::new(engine);
    let access = Arc::new(Access::new(vec!["weir.example".into()], tokens));
    let web = Web { engine: engine.clone(), queries, access };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let serving = ServeOptions { tls: None, stop: stop.clone(), drain: Duration::from_secs(1) };
    tokio::spawn(serve(listener, router(web), serving));
    Server { address, engine, stop, _folder: folder }
}

async fn plain() -> Server {
    server(Fake::default(), Vec::new(), |_| {}).await
}

impl Server {
    async fn get(&self, path: &str) -> Response {
        request(&self.address, "GET", path, &[], "").await
    }

    async fn sql(&self, sql: &str, accept: &str) -> Response {
        request(&self.address, "POST", "/api/v1/sql", &[("accept", accept)], sql).await
    }
}

#[tokio::test]
async fn answers_sql_in_every_form() {
    let s = plain().await;
    let sql = "SELECT column1 AS a, column2 AS b, TIMESTAMP '2026-01-02T03:04:05Z' AS t \
               FROM (VALUES (9007199254740993, 'x,\"y\"'), (2, NULL)) v";
    let time = "2026-01-02T03:04:05.000000000Z";
    let json = s.sql(sql, "application/json").await;
    assert_eq!(json.status, 200);
    let value: serde_json::Value = serde_json::from_str(&json.body).unwrap();
    assert_eq!(value["columns"][0], serde_json::json!({ "name": "a", "type": "Int64" }));
    assert_eq!(
        value["rows"],
        serde_json::json!([
            { "a": 9_007_199_254_740_993_i64, "b": "x,\"y\"", "t": time },
            { "a": 2, "b": null, "t": time }
        ])
    );
    assert_eq!(value["cost"]["files"], 0);
    let lines = s.sql(sql, "application/x-ndjson").await;
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<serde_json::Value> =
        lines.body.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines, value["rows"].as_array().unwrap().clone());
    let csv = s.sql(sql, "text/csv").await;
    let expect = format!("a,b,t\r\n9007199254740993,\"x,\"\"y\"\"\",{time}\r\n2,,{time}\r\n");
    assert_eq!(csv.body, expect);
    let arrow = s.sql(sql, "application/vnd.apache.arrow.stream").await;
    let reader = arrow::ipc::reader::StreamReader::try_new(arrow.bytes.as_slice(), None).unwrap();
    let rows: usize = reader.map(|b| b.unwrap().num_rows()).sum();
    assert_eq!(rows, 2);
    assert_eq!(s.sql(sql, "image/png").await.status, 406);
}

#[tokio::test]
async fn empty_answers_are_whole() {
    let s = plain().await;
    let sql = "SELECT column1 AS a FROM (VALUES (1)) v WHERE false";
    let json: serde_json::Value =
        serde_json::from_str(&s.sql(sql, "application/json").await.body).unwrap();
    assert_eq!(json["rows"], serde_json::json!([]));
    assert_eq!(json["columns"][0]["name"], "a");
    assert_eq!(s.sql(sql, "text/csv").await.body, "a\r\n");
    assert_eq!(s.sql(sql, "application/x-ndjson").await.body, "");
}

#[tokio::test]
async fn errors_say_what_and_where() {
    let s = plain().await;
    for (sql, status, code, line) in [
        ("SELECT 1\nFROM", 400, "syntax", Some(2)),
        ("SELECT 1,\n  x", 400, "name", Some(2)),
        ("DROP TABLE x", 400, "refused", None),
        ("SELECT nonsense(1)", 400, "plan", None),
        ("SELECT 1 / column1 FROM (VALUES (0)) v", 422, "failed", None),
    ] {
        let response = s.sql(sql, "application/json").await;
        let body: serde_json::Value = serde_json::from_str(&response.body).unwrap();
        assert_eq!(response.status, status, "{sql}: {body}");
        assert_eq!(body["error"]["code"], code, "{sql}");
        assert_eq!(body["error"]["position"]["line"].as_u64(), line, "{sql}: {body}");
    }
    let json = [("content-type", "application/json")];
    let bad = request(&s.address, "POST", "/api/v1/sql", &json, "{\"sgl\": \"SELECT 1\"}").await;
    assert_eq!(bad.status, 400);
    let good = request(&s.address, "POST", "/api/v1/sql", &json, "{\"sql\": \"SELECT 1\"}").await;
    assert_eq!(good.status, 200);
    let huge = "x".repeat(3 << 20);
    assert_eq!(s.sql(&huge, "application/json").await.status, 413);
    assert_eq!(s.get("/api/v1/sql").await.status, 405);
    assert_eq!(s.get("/nothing").await.status, 404);
}

#[tokio::test]
async fn late_errors_are_told_in_the_stream() {
    let s = server(Fake::default(), Vec::new(), |o| o.rows_max = 20_000).await;
    let sql = "SELECT value FROM generate_series(1, 1000000)";
    let lines = s.sql(sql, "application/x-ndjson").await;
    let last = lines.body.lines().last().unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["weir.error"]["code"], "too_large");
    let json = s.sql(sql, "application/json").await;
    let json: serde_json::Value = serde_json::from_str(&json.body).unwrap();
    assert_eq!(json["error"]["code"], "too_large");
    // CSV cannot say it: the body breaks off, so nobody takes it for whole.
    assert!(!s.sql(sql, "text/csv").await.whole);
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_query() {
    let s = server(Fake::default(), Vec::new(), |o| {
        o.running_max = 1;
        o.waiting_max = 1;
    })
    .await;
    // While rows come, and before the first.
    for sql in [
        "SELECT value FROM generate_series(1, 10000000000)",
        "SELECT max(value) FROM generate_series(1, 1000000000000)",
    ] {
        let headers = [("accept", "application/x-ndjson")];
        let mut open = stream(&s.address, "POST", "/api/v1/sql", &headers, sql).await;
        if !sql.contains("max") {
            assert!(open.read_some().await > 0);
        } else {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        drop(open);
        let next = s.sql("SELECT 1 AS one", "text/csv");
        let next = tokio::time::timeout(Duration::from_secs(10), next).await.expect("a free place");
        assert_eq!(next.body, "one\r\n1\r\n");
    }
}

#[tokio::test]
async fn queries_are_told_who_is_behind() {
    let behind = vec!["pipeline `shop` is 9 s behind".to_owned()];
    let s = server(Fake { behind, ..Fake::default() }, Vec::new(), |_| {}).await;
    let told = r#"["pipeline `shop` is 9 s behind"]"#;
    let json = s.sql("SELECT 1", "application/json").await;
    assert!(json.body.contains(&format!("\"warnings\":{told}")), "{}", json.body);
    assert_eq!(s.sql("SELECT 1", "text/csv").await.header("weir-warnings"), Some(told));
    let s = plain().await;
    assert_eq!(s.sql("SELECT 1", "text/csv").await.header("weir-warnings"), None);
}

#[tokio::test]
async fn foreign_hosts_and_pages_are_refused() {
    let s = plain().await;
    let ask = |headers: Vec<(&'static str, &'static str)>| {
        let address = s.address.clone();
        async move { request(&address, "GET", "/api/v1/alerts", &headers, "").await.status }
    };
    assert_eq!(ask(vec![]).await, 200);
    assert_eq!(ask(vec![("host", "weir.example")]).await, 200);
    assert_eq!(ask(vec![("host", "evil.example")]).await, 403);
    assert_eq!(ask(vec![("host", "localhost"), ("origin", "http://localhost")]).await, 200);
    assert_eq!(ask(vec![("origin", "http://evil.example")]).await, 403);
    assert_eq!(ask(vec![("origin", "null")]).await, 403);
    assert_eq!(ask(vec![("sec-fetch-site", "cross-site")]).await, 403);
    let healthy = request(&s.address, "GET", "/healthz", &[("host", "evil.example")], "").await;
    assert_eq!(healthy.status, 403);
    let open = s.get("/api/v1/alerts").await;
    assert_eq!(open.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn tokens_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first\n").unwrap();
    let secret = Secret::parse(&format!("file:{}", file.display())).unwrap();
    let s = server(Fake::default(), vec![secret], |_| {}).await;
    let ask = |token: &'static str| {
        let address = s.address.clone();
        async move {
            let headers = [("authorization", token)];
            request(&address, "GET", "/metrics", &headers, "").await.status
        }
    };
    assert_eq!(ask("Bearer first").await, 200);
    assert_eq!(ask("bearer first").await, 200);
    assert_eq!(ask("Bearer wrong").await, 401);
    assert_eq!(ask("Bearer ").await, 401);
    assert_eq!(ask("Basic first").await, 401);
    let none = s.get("/api/v1/status").await;
    assert_eq!((none.status, none.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(s.get("/healthz").await.status, 200, "probes need no token");
    assert_eq!(s.get("/").await.status, 401);
}

#[tokio::test]
async fn taps_stream_masked_rows() {
    let s = plain().await;
    assert_eq!(s.get("/api/v1/pipelines/shop/tap/other").await.status, 404);
    let path = "/api/v1/pipelines/shop/tap/clean.late?limit=3";
    let mut open = stream(&s.address, "GET", path, &[], "").await;
    open.head().await;
    let (sender, missed) = s.engine.taps.lock().pop().unwrap();
    let batch = |n: i64| {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from(vec![n, n + 1]))),
            ("user.password", Arc::new(StringArray::from(vec![Some("hunter2"), None]))),
            ("body", Arc::new(StringArray::from(vec!["token=hunter2 a", "b"]))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    sender.send(batch(1)).await.unwrap();
    missed.store(5, Relaxed);
    sender.send(batch(3)).await.unwrap();
    let body = open.rest().await;
    let lines: Vec<serde_json::Value> =
        body.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(!body.contains("hunter2"), "{body}");
    let rows: Vec<&serde_json::Value> = lines.iter().filter(|l| !l["n"].is_null()).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0]["user.password"], "***");
    assert_eq!(rows[0]["body"], "token=*** a");
    assert!(rows[1]["user.password"].is_null());
    assert!(lines.iter().any(|l| l["weir.missed"] == 5), "{body}");
    assert!(sender.is_closed(), "the limit closes the tap");
}

#[tokio::test]
async fn pages_for_people_and_machines() {
    let s = plain().await;
    let page = s.get("/").await;
    assert_eq!(page.status, 200);
    assert!(
        page.body.contains("&lt;script&gt;") && !page.body.contains("<script"),
        "{}",
        page.body
    );
    assert!(page.header("content-security-policy").is_some());
    assert_eq!(s.get("/metrics").await.body, "weir_up 1\n");
    assert_eq!(s.get("/readyz").await.status, 200);
    let status: serde_json::Value =
        serde_json::from_str(&s.get("/api/v1/status").await.body).unwrap();
    assert_eq!(status["version"], "1.2.3");
    let tables: serde_json::Value =
        serde_json::from_str(&s.get("/api/v1/tables").await.body).unwrap();
    assert_eq!(tables, serde_json::json!({ "tables": [] }));
    let post = |path: &'static str| request(&s.address, "POST", path, &[], "");
    assert!(s.get("/api/v1/plan").await.body.contains("\"ok\":true"));
    assert!(post("/api/v1/reload").await.body.contains("\"number\":7"));
    assert_eq!(post("/api/v1/notify/oncall").await.status, 200);
    assert_eq!(post("/api/v1/notify/nobody").await.status, 404);
    let starting = Fake { starting: true, ..Fake::default() };
    let s = server(starting, Vec::new(), |_| {}).await;
    let ready = s.get("/readyz").await;
    assert_eq!((ready.status, ready.body.as_str()), (503, "recovering\n"));
}

#[tokio::test]
async fn a_replay_is_answered_at_once_or_line_by_line() {
    let s = plain().await;
    let json = "application/json";
    let ask = async |body: &str, accept: &str| {
        request(&s.address, "POST", "/api/v1/replay", &[("accept", accept)], body).await
    };
    let whole = ask(r#"{"from": 7}"#, json).await;
    assert_eq!(whole.status, 200, "{}", whole.body);
    let report: serde_json::Value = serde_json::from_str(&whole.body).unwrap();
    let row = &report["pipelines"][0]["outputs"][0]["samples"]["gone"][0]["row"];
    assert_eq!(*row, serde_json::json!({ "body": "password=***", "api_key": "***" }));
    let lines = ask(r#"{"from": "7"}"#, "application/x-ndjson").await;
    let last: serde_json::Value = serde_json::from_str(lines.body.lines().last().unwrap()).unwrap();
    assert_eq!(last["report"], report);
    for (body, says) in [
        ("", "body is not"),
        ("{}", "missing field `from`"),
        (r#"{"from": "7", "form": 1}"#, "unknown field `form`"),
        (r#"{"from": true}"#, "expected a time as text, or a position"),
        (r#"{"from": "x"}"#, "no such place: x"),
    ] {
        let refused = ask(body, json).await;
        assert_eq!(refused.status, 400, "{body}: {}", refused.body);
        assert!(refused.body.contains(says), "{body}: {}", refused.body);
    }
}

#[tokio::test]
async fn a_replay_ends_with_its_client() {
    let s = plain().await;
    for accept in ["application/json", "application/x-ndjson"] {
        let headers = [("accept", accept)];
        let mut open =
            stream(&s.address, "POST", "/api/v1/replay", &headers, r#"{"from": 8}"#).await;
        if accept.contains("ndjson") {
            open.head().await;
        }
        drop(open);
        let ended = tokio::time::timeout(Duration::from_secs(60), s.engine.ended.notified());
        assert!(ended.await.is_ok(), "{accept}");
    }
}
