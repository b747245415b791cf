//! `POST /api/v1/sql`: one read-only statement, its answer streamed.
//!
//! The body is SQL text, or with `Content-Type: application/json` an object with `sql`. `Accept`
//! chooses the form:
//!
//! | Accept | answer |
//! |---|---|
//! | `application/json` (default) | `{"columns": [{"name", "type"}], "rows": [{..}], "warnings": [..], "cost": {..}}` |
//! | `application/x-ndjson` | one object per line |
//! | `text/csv` | RFC 4180 with a header line |
//! | `application/vnd.apache.arrow.stream` | Arrow IPC stream |
//!
//! Warnings that are known before the first row (names seen nowhere) are also in the header
//! `weir-warnings`, a JSON array. An error before the first row is a JSON error with its status.
//! A later one ends JSON with `"error"` in place of `"warnings"`, NDJSON with a line
//! `{"weir.error": {..}}`, and breaks off CSV and Arrow so that nobody takes them for whole. A
//! client that goes away ends its query.

mod format;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use weir_pipeline::batch::TENANT;

use crate::Web;
use crate::error::ApiError;
use format::Format;

/// Most bytes of the header `weir-warnings`.
const WARNINGS_HEADER_BYTES_MAX: usize = 4 << 10;

/// A JSON body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    sql: String,
}

pub(crate) async fn answer(
    State(web): State<Web>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let format = Format::accepted(&headers)?;
    let sql = text(&headers, &body)?;
    let behind = web.engine.behind();
    let mut answer = web.queries.query(TENANT, &sql).await?;
    behind.into_iter().for_each(|warning| answer.warn(warning));
    let warnings = warnings_header(&answer.warnings());
    let stream = format::encode(format, answer)?;
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(warnings) = warnings {
        headers.insert("weir-warnings", warnings);
    }
    Ok(response.into_response())
}

fn text(headers: &HeaderMap, body: &[u8]) -> Result<String, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => serde_json::from_slice::<Query>(body)
            .map(|q| q.sql)
            .map_err(|e| ApiError::bad_request(format!("body is not `{{\"sql\": \"..\"}}`: {e}"))),
        // What curl says of `--data` without a header.
        "" | "text/plain" | "application/sql" | "application/x-www-form-urlencoded" => {
            String::from_utf8(body.to_vec())
                .map_err(|_| ApiError::bad_request("the SQL text is not UTF-8"))
        }
        other => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content_type",
            format!("content type `{other}`: send SQL as `text/plain` or `application/json`"),
        )),
    }
}

/// Warnings as an ASCII header value, as many as fit.
fn warnings_header(warnings: &[String]) -> Option<HeaderValue> {
    let mut kept: Vec<&String> = warnings.iter().collect();
    while !kept.is_empty() {
        let json = serde_json::to_string(&kept).ok()?;
        let mut ascii = String::with_capacity(json.len());
        for c in json.chars() {
            if c.is_ascii() {
                ascii.push(c);
            } else {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    ascii.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
        if ascii.len() <= WARNINGS_HEADER_BYTES_MAX {
            return HeaderValue::from_str(&ascii).ok();
        }
        kept.pop();
    }
    None
}
