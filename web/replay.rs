//! `POST /api/v1/replay`: retained journal through an edited pipeline file, beside what is live, and
//! what differs.
//!
//! The body is JSON: `from` and `to` (times or positions), `warm_up`, `pipeline`, `samples`, and
//! `file` with `path`, `text`, `files` and `environment`; only `from` must be there. Without `file`
//! the server's files as they stand now are compared with what runs.
//!
//! The answer is a JSON object, with `Accept: application/x-ndjson` lines: `{"progress": {..}}` about
//! once a second, and at the end `{"report": {..}}` or `{"error": {..}}`. A client that goes away
//! ends its replay. In samples, values are masked as in taps.

use std::io;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use weir_pipeline::replay::{Report, Request};

use crate::Web;
use crate::engine::{EngineError, Replay};
use crate::error::ApiError;
use crate::tap::{MASK, mask_text, secret_name};

/// Most bytes of a request: a pipeline file and some programs or tables that it names.
pub(crate) const BODY_BYTES_MAX: usize = 32 << 20;
/// How often progress is said.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn answer(
    State(web): State<Web>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let request: Request = serde_json::from_slice(&body).map_err(|e| {
        ApiError::bad_request(format!("body is not `{{\"from\": \"-15m\", ..}}`: {e}"))
    })?;
    let replay = web.engine.replay(request).await?;
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !accept.contains("ndjson") {
        return Ok(Json(masked(replay.report.await?)).into_response());
    }
    let lines = futures::stream::unfold(Some(replay), |replay| async move {
        let (line, rest) = next(replay?).await;
        Some((Ok::<_, io::Error>(Bytes::from(format!("{line}\n"))), rest))
    });
    let mut response = Response::new(Body::from_stream(lines));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The next line; nothing comes behind the last one.
async fn next(mut replay: Replay) -> (Value, Option<Replay>) {
    match tokio::time::timeout(PROGRESS_EVERY, &mut replay.report).await {
        Ok(report) => (last(report), None),
        Err(_) => {
            let progress = *replay.progress.borrow_and_update();
            (json!({ "progress": progress }), Some(replay))
        }
    }
}

fn last(report: Result<Report, EngineError>) -> Value {
    match report {
        Ok(report) => json!({ "report": masked(report) }),
        Err(error) => json!({ "error": ApiError::from(error).body() }),
    }
}

/// A report without secrets.
fn masked(mut report: Report) -> Report {
    for pipeline in &mut report.pipelines {
        for output in &mut pipeline.outputs {
            let samples = &mut output.samples;
            let rows = samples.added.iter_mut().chain(&mut samples.gone).map(|s| &mut s.row);
            rows.for_each(mask);
            for changed in &mut samples.changed {
                mask(&mut changed.live);
                mask(&mut changed.edited);
            }
        }
        for sample in pipeline.alerts.iter_mut().flat_map(|a| &mut a.samples) {
            mask(&mut sample.labels);
            for firing in sample.live.iter_mut().chain(&mut sample.edited) {
                mask(&mut firing.annotations);
            }
        }
    }
    report
}

fn mask(row: &mut Map<String, Value>) {
    for (name, value) in row {
        match value {
            value if secret_name(name) => *value = MASK.into(),
            Value::String(text) => *text = mask_text(text),
            Value::Object(inner) => mask(inner),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {}
        }
    }
}
