//! `http` sink: posts rows as JSON lines to any HTTP endpoint.
//!
//! ```toml
//! [sinks.archive]
//! type = "http"
//! inputs = ["otlp.logs"]
//! endpoint = "https://collector.example/ingest"
//! auth = { bearer = "env:COLLECTOR_TOKEN" }
//! ```
//!
//! The body has one JSON object a line (`application/x-ndjson`): the columns of both levels that
//! have a value, sorted by name; times in RFC 3339. What arrived between two ticks (200 ms while
//! data flows) is sent together, in requests of about 1 MiB, one after the other, in the order of
//! the journal.
//!
//! | key | default | |
//! |---|---|---|
//! | `endpoint` | | URL to post to |
//! | `timeout` | `10s` | for one request |
//! | `tls`, `auth` | | of the client; secrets are read at each request |
//!
//! Delivery: at least once. Requests are sent before the checkpoint that covers them, so a restart
//! repeats what came after the last one. Each request has an `Idempotency-Key` of journal,
//! pipeline, sink, tick and number: the same rows have the same key in every replay, so a receiver
//! that remembers keys for some minutes has each row once. Connection errors, timeouts and the
//! answers 408, 429 and 5xx are tried again, with growing pauses up to 10 s and not before
//! `Retry-After`; other answers of 300 and above drop the request, counted, and said in the log
//! once until one succeeds. Its pipeline waits at most 5 s for a sink that fails, and 30 s for one
//! that neither fails nor gets anything through: then it is detached. It goes on by itself from the
//! journal, in order, and holds up no other.

use std::sync::Arc;
use std::time::Duration as StdDuration;

use futures::future::BoxFuture;
use http::header;
use reqwest::{Client, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{Sink, SinkContext, SinkError, SinkKind, SinkPlan, Staged};
use weir_pipeline::config::{ClientAuth, Duration, Scope, Section, Spanned, TlsClient};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::http_client::{client, credentials, describe};
use weir_pipeline::intake::now;

use crate::lines::lines;

/// The row of the table.
pub(crate) const KIND: SinkKind = SinkKind {
    name: "http",
    about: "post rows as JSON lines to an HTTP endpoint",
    source: include_str!("http.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// A request ends with the line that brings it to this many bytes.
const REQUEST_BYTES: usize = 1 << 20;
/// Default of `timeout`.
const TIMEOUT: StdDuration = StdDuration::from_secs(10);
/// Between tries of what is sent last.
const AGAIN: StdDuration = StdDuration::from_secs(1);
/// Longest pause that a receiver can ask for by `Retry-After`.
const PAUSE_MAX: StdDuration = StdDuration::from_secs(3600);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// URL to post to.
    endpoint: Spanned<String>,
    /// Longest time that a request may take. Default 10 s.
    timeout: Option<Spanned<Duration>>,
    /// TLS to the endpoint.
    tls: Option<TlsClient>,
    /// Credentials for the endpoint.
    #[serde(default)]
    auth: ClientAuth,
}

#[derive(Debug)]
struct HttpPlan(Arc<Settings>);

#[derive(Debug)]
struct Settings {
    endpoint: Url,
    timeout: StdDuration,
    tls: Option<TlsClient>,
    auth: ClientAuth,
}

fn plan(section: &Section, _scope: &Scope) -> Result<Box<dyn SinkPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let endpoint = match Url::parse(&config.endpoint.value) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        _ => {
            let message = "`endpoint` is no URL of `http` or `https`";
            wrong.push(Diagnostic::error("W015", message).at(&section.span(&config.endpoint)));
            None
        }
    };
    let timeout = config.timeout.as_ref().map_or(TIMEOUT, |timeout| {
        if timeout.value.0.is_zero() {
            let message = "`timeout` has to be above 0";
            wrong.push(Diagnostic::error("W015", message).at(&section.span(timeout)));
        }
        timeout.value.0
    });
    match endpoint {
        Some(endpoint) if wrong.0.is_empty() => {
            let Config { tls, auth, .. } = config;
            Ok(Box::new(HttpPlan(Arc::new(Settings { endpoint, timeout, tls, auth }))))
        }
        _ => Err(wrong),
    }
}

impl SinkPlan for HttpPlan {
    fn build(&self, context: SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(Http {
            settings: self.0.clone(),
            context,
            client: None,
            lines: Vec::new(),
            tick: 0,
            sent: 0,
            refused: false,
        }))
    }
}

struct Http {
    settings: Arc<Settings>,
    context: SinkContext,
    /// Made at the first request; a file of `tls` that is missing is tried again.
    client: Option<Client>,
    /// Lines since the last tick that are not sent yet.
    lines: Vec<u8>,
    /// The tick under which requests are sent, and how many were.
    tick: u64,
    sent: u64,
    /// The last request was refused, and that was said.
    refused: bool,
}

/// What came of a request.
enum Answer {
    Taken,
    /// For good.
    Refused(String),
}

impl Http {
    /// Sends what is there under the tick at `offset`. Goes on where a try before failed.
    async fn send(&mut self, offset: u64) -> Result<(), SinkError> {
        if self.tick != offset {
            (self.tick, self.sent) = (offset, 0);
        }
        while !self.lines.is_empty() {
            let end = request_end(&self.lines);
            let rows = self.lines[..end].iter().filter(|&&b| b == b'\n').count() as u64;
            match self.post(self.lines[..end].to_vec()).await? {
                Answer::Taken => self.refused = false,
                Answer::Refused(why) => {
                    self.context.metrics.error(rows, "refused", &why, now());
                    if !std::mem::replace(&mut self.refused, true) {
                        let (pipeline, sink) = (&self.context.pipeline, &self.context.sink);
                        tracing::error!(%pipeline, %sink, error = why, "endpoint refuses rows; they are dropped and counted");
                    }
                }
            }
            self.lines.drain(..end);
            self.sent += 1;
        }
        Ok(())
    }

    async fn post(&mut self, body: Vec<u8>) -> Result<Answer, SinkError> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let client = client(self.settings.tls.as_ref()).map_err(SinkError::transient)?;
                self.client.insert(client).clone()
            }
        };
        let SinkContext { journal, pipeline, sink, .. } = &self.context;
        // Names are free text, header values are not.
        let pipeline: String = url::form_urlencoded::byte_serialize(pipeline.as_bytes()).collect();
        let key = format!("{journal:032x}/{pipeline}/{sink}/{}/{}", self.tick, self.sent);
        let request = client
            .post(self.settings.endpoint.clone())
            .timeout(self.settings.timeout)
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .header("Idempotency-Key", key)
            .headers(credentials(&self.settings.auth).map_err(SinkError::transient)?)
            .body(body);
        let response = request.send().await;
        let response = response.map_err(|e| SinkError::transient(describe(&e.without_url())))?;
        let status = response.status();
        if status.is_success() {
            return Ok(Answer::Taken);
        }
        let why = format!("answered {status}");
        let again = status.is_server_error()
            || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        if !again {
            return Ok(Answer::Refused(why));
        }
        let pause = response.headers().get(header::RETRY_AFTER);
        let pause = pause.and_then(|v| v.to_str().ok()?.trim().parse().ok());
        if let Some(seconds) = pause {
            tokio::time::sleep(StdDuration::from_secs(seconds).min(PAUSE_MAX)).await;
        }
        Err(SinkError::transient(why))
    }
}

/// Where the first request of `lines` ends. By the lines alone, so that it does not depend on how
/// rows were cut into batches.
fn request_end(lines: &[u8]) -> usize {
    if lines.len() <= REQUEST_BYTES {
        return lines.len();
    }
    let line = lines[REQUEST_BYTES - 1..].iter().position(|&b| b == b'\n');
    line.map_or(lines.len(), |at| REQUEST_BYTES + at)
}

impl Sink for Http {
    fn write(&mut self, batch: Batch) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move {
            self.lines.extend(lines(&batch)?);
            Ok(())
        })
    }

    fn tick(&mut self, offset: u64) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(self.send(offset))
    }

    fn stage(&mut self, mark: u64, _last: bool) -> BoxFuture<'_, Result<Staged, SinkError>> {
        Box::pin(async move {
            // What a removed pipeline flushed came behind the tick. An endpoint that does not take
            // it is a sink that does not get on, and no reason to fail the others.
            while self.send(mark).await.is_err() {
                tokio::time::sleep(AGAIN).await;
            }
            Ok(Staged::default())
        })
    }

    fn commit(&mut self, _mark: u64, _work: &[u8]) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }

    fn restore(&mut self, _carry: &[u8]) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }
}

#[cfg(test)]
mod tests;
