//! `GET /api/v1/pipelines/{name}/tap/{id}`: rows of an edge as they flow, one JSON object per
//! line. `{id}` is a node id, or `id.output`; `?limit=` ends it after so many rows.
//!
//! A slow client misses rows and is told: `{"weir.missed": n}` counts them in all. Values of
//! columns whose name speaks of a secret are masked, and so is what looks like one inside text.

use std::io;
use std::sync::LazyLock;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use regex::Regex;
use serde::Deserialize;

use crate::Web;
use crate::engine::Tap;
use crate::error::ApiError;
use crate::value::row_json;

/// A forgotten tap ends after this long.
const LIFE_MAX: Duration = Duration::from_secs(3_600);
/// What stands in place of a secret.
pub(crate) const MASK: &str = "***";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    limit: Option<u64>,
}

pub(crate) async fn rows(
    State(web): State<Web>,
    Path((pipeline, id)): Path<(String, String)>,
    options: Result<Query<Options>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(options) = options.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let (node, output) = id.split_once('.').unwrap_or((&id, ""));
    let tap = web.engine.tap(&pipeline, node, output).await?;
    let until = tokio::time::Instant::now() + LIFE_MAX;
    let left = options.limit.unwrap_or(u64::MAX);
    let state = Reading { tap, told: 0, left, until };
    let stream = futures::stream::unfold(state, |mut state| async move {
        let item = state.next().await?;
        Some((Ok::<_, io::Error>(item), state))
    });
    let mut response = Body::from_stream(stream).into_response();
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

struct Reading {
    tap: Tap,
    told: u64,
    left: u64,
    until: tokio::time::Instant,
}

impl Reading {
    async fn next(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let batch = tokio::time::timeout_at(self.until, self.tap.batches.recv()).await.ok()??;
        let mut out = Vec::new();
        let missed = self.tap.missed.load(Relaxed);
        if missed > self.told {
            self.told = missed;
            out.extend_from_slice(format!("{{\"weir.missed\":{missed}}}\n").as_bytes());
        }
        let batch = masked(&batch);
        let rows = batch.num_rows().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        for i in 0..rows {
            row_json(&mut out, &batch, i);
            out.push(b'\n');
        }
        self.left -= rows as u64;
        Some(out.into())
    }
}

/// Whether a column of that name holds secrets.
pub(crate) fn secret_name(name: &str) -> bool {
    const WORDS: [&str; 8] = [
        "token",
        "password",
        "passwd",
        "secret",
        "authorization",
        "credential",
        "cookie",
        "bearer",
    ];
    let lower = name.to_ascii_lowercase();
    WORDS.iter().any(|w| lower.contains(w))
        || lower.split(['.', '_', '-']).any(|part| matches!(part, "key" | "apikey" | "pwd"))
}

static SECRETS: LazyLock<Option<[Regex; 2]>> = LazyLock::new(|| {
    let named = r#"(?i)((?:token|passw(?:or)?d|pwd|secret|api[_-]?key|authorization|credential)[a-z_-]*["']?\s*[=:]\s*["']?)[^\s"'&,;}]+"#;
    Some([Regex::new(named).ok()?, Regex::new(r"(?i)\b((?:bearer|basic)\s+)[^\s\x22',;}]+").ok()?])
});

pub(crate) fn mask_text(text: &str) -> String {
    let Some([named, scheme]) = &*SECRETS else { return MASK.to_owned() };
    // The scheme first: it stands between `authorization:` and what is secret.
    let text = scheme.replace_all(text, "${1}***");
    named
        .replace_all(&text, |found: &regex::Captures<'_>| {
            let whole = found.get(0).map_or("", |m| m.as_str());
            let lead = found.get(1).map_or("", |m| m.as_str());
            let rest = whole[lead.len()..].to_ascii_lowercase();
            if rest == "bearer" || rest == "basic" {
                whole.to_owned()
            } else {
                format!("{lead}{MASK}")
            }
        })
        .into_owned()
}

/// `batch` without secrets.
fn masked(batch: &RecordBatch) -> RecordBatch {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        if secret_name(field.name()) {
            let values = (0..column.len()).map(|i| column.is_valid(i).then_some(MASK));
            let field = Field::new(field.name(), DataType::Utf8, true);
            return (field, std::sync::Arc::new(StringArray::from_iter(values)) as ArrayRef);
        }
        let column: ArrayRef = match column.as_string_opt::<i32>() {
            Some(texts) => {
                std::sync::Arc::new(texts.iter().map(|t| t.map(mask_text)).collect::<StringArray>())
            }
            None => column.clone(),
        };
        (field.as_ref().clone(), column)
    });
    let (fields, columns): (Vec<_>, Vec<_>) = columns.unzip();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let schema = std::sync::Arc::new(Schema::new(fields));
    RecordBatch::try_new_with_options(schema, columns, &options)
        .unwrap_or_else(|_| RecordBatch::new_empty(batch.schema()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked() {
        for (text, expect) in [
            ("user=ann password=hunter2 ok", "user=ann password=*** ok"),
            (r#"{"api_key": "abc", "n": 1}"#, r#"{"api_key": "***", "n": 1}"#),
            ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
            ("GET /?access_token=abc&x=1", "GET /?access_token=***&x=1"),
            ("nothing to see", "nothing to see"),
            ("the key is 5", "the key is 5"),
        ] {
            assert_eq!(mask_text(text), expect);
        }
        for (name, secret) in [
            ("http.request.header.authorization", true),
            ("user.password", true),
            ("api_key", true),
            ("db.key", true),
            ("monkey", false),
            ("body", false),
        ] {
            assert_eq!(secret_name(name), secret, "{name}");
        }
    }
}
