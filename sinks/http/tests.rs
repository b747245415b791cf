#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;

use ::http::HeaderMap;
use arrow::array::{Int64Array, RecordBatch};
use axum::extract::State;
use parking_lot::Mutex;
use weir_pipeline::batch::{Run, TENANT};
use weir_pipeline::component::Services;
use weir_pipeline::signal::Signal;

use super::*;

/// Requests as (key, body), and what shall be answered to the next ones.
#[derive(Default)]
struct Endpoint {
    requests: Mutex<Vec<(String, String)>>,
    answers: Mutex<VecDeque<u16>>,
}

async fn take(State(state): State<Arc<Endpoint>>, headers: HeaderMap, body: String) -> StatusCode {
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    state.requests.lock().push((key, body));
    StatusCode::from_u16(state.answers.lock().pop_front().unwrap_or(200)).unwrap()
}

async fn endpoint() -> (Arc<Endpoint>, String) {
    // As the binary's own `main` does; another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let state = Arc::new(Endpoint::default());
    let app = axum::Router::new().fallback(take).with_state(state.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/ingest", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (state, url)
}

fn sink(url: &str) -> (Box<dyn Sink>, SinkContext) {
    let scope = Scope::new(Vec::new(), ".".into());
    let section = Section::parse_for_tests("c", &format!("endpoint = \"{url}\""));
    let context = SinkContext {
        journal: 7,
        pipeline: "my shop".into(),
        sink: "out".into(),
        services: Services::default(),
        metrics: Arc::default(),
    };
    (plan(&section, &scope).unwrap().build(context.clone()).unwrap(), context)
}

fn batch(numbers: std::ops::Range<i64>) -> Batch {
    let rows = numbers.end - numbers.start;
    let run = Run { offset: 1, received: 0, source: "test".into(), rows: rows as usize };
    let numbers: Arc<dyn arrow::array::Array> = Arc::new(Int64Array::from_iter_values(numbers));
    let rows = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    Batch::new(Signal::Logs, TENANT.into(), rows, None, Arc::new([run])).unwrap()
}

#[tokio::test]
async fn requests_are_cut_and_named_alike_however_rows_come() {
    let (state, url) = endpoint().await;
    let total = 300_000;
    let mut seen = Vec::new();
    for step in [total, 7_001] {
        let (mut sink, _) = sink(&url);
        for first in (0..total).step_by(step as usize) {
            sink.write(batch(first..total.min(first + step))).await.unwrap();
        }
        sink.tick(42).await.unwrap();
        seen.push(std::mem::take(&mut *state.requests.lock()));
    }
    assert!(seen[0].len() > 1, "one request would show nothing");
    assert_eq!(seen[0], seen[1]);
    let keys: Vec<_> = seen[0].iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys[1], "00000000000000000000000000000007/my+shop/out/42/1");
    let all: String = seen[0].iter().map(|(_, body)| body.as_str()).collect();
    let expected: String = (0..total).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    assert!(all == expected, "every row once, in order");
}

#[tokio::test]
async fn what_may_pass_is_tried_again_under_the_same_key() {
    let (state, url) = endpoint().await;
    state.answers.lock().extend([503, 429]);
    let (mut sink, _) = sink(&url);
    sink.write(batch(0..1)).await.unwrap();
    assert!(sink.tick(3).await.unwrap_err().retry);
    assert!(sink.tick(3).await.unwrap_err().retry);
    sink.tick(3).await.unwrap();
    let requests = state.requests.lock();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|r| *r == requests[0]), "{requests:?}");
}

#[tokio::test]
async fn what_is_refused_for_good_is_dropped_and_counted() {
    let (state, url) = endpoint().await;
    state.answers.lock().push_back(400);
    let (mut sink, context) = sink(&url);
    sink.write(batch(0..5)).await.unwrap();
    sink.tick(3).await.unwrap();
    sink.write(batch(5..6)).await.unwrap();
    sink.tick(4).await.unwrap();
    assert_eq!(state.requests.lock().len(), 2);
    let reading = context.metrics.read();
    assert_eq!(reading.errors, 5);
    assert!(reading.last_error.unwrap().message.contains("400"));
}

#[tokio::test]
async fn a_dead_endpoint_is_tried_again() {
    let (mut sink, _) = sink("http://127.0.0.1:1/");
    sink.write(batch(0..1)).await.unwrap();
    assert!(sink.tick(1).await.unwrap_err().retry);
}

#[test]
fn mistakes_are_found_when_planning() {
    let scope = Scope::new(Vec::new(), ".".into());
    for wrong in [
        "endpoint = \"no url\"",
        "endpoint = \"ftp://x/\"",
        "endpoint = \"http://x\"\ntimeout = \"0s\"",
    ] {
        assert!(plan(&Section::parse_for_tests("c", wrong), &scope).is_err(), "{wrong}");
    }
}
