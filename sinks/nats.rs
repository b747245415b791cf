//! `nats` sink: publishes rows as JSON to NATS JetStream.
//!
//! ```toml
//! [sinks.bus]
//! type = "nats"
//! inputs = ["otlp.logs"]
//! endpoints = ["nats://127.0.0.1:4222"]
//! subject_by = "'logs.' || service.name"
//! stream = "LOGS"
//! create = { subjects = ["logs.>"], retention = "7d" }
//! ```
//!
//! | key | default | |
//! |---|---|---|
//! | `endpoints` | | servers, `nats://` or `tls://` |
//! | `subject` | | subject of all messages; or |
//! | `subject_by` | | SQL expression that gives the subject of each row |
//! | `stream` | none | the stream that keeps them: it has to be there |
//! | `create` | none | create `stream` if it is not there: `subjects`, and `retention`, `max_bytes`, `replicas`, `duplicate_window` |
//! | `tls`, `auth` | | of the client; `auth` is one of `token`, `basic`, `credentials` (`file:` of a credentials file), `nkey` |
//!
//! A message is one JSON object: the columns of both levels that have a value, sorted by name; times in
//! RFC 3339. The source `nats` reads it back. White space and wildcards in what `subject_by` gives
//! become `_`; a row for which it gives nothing is dropped, counted (`no_subject`).
//!
//! Delivery: at least once. What arrived between two ticks (200 ms while data flows) is published in
//! the order of the journal, and is done when the stream has acknowledged it. Each message has a
//! `Nats-Msg-Id` of journal, pipeline, sink, tick and number: the same row has the same id in every
//! replay, so within the `duplicate_window` of the stream (2 min unless set) a repeat vanishes, and
//! each row is there once. A restart repeats what came after the last checkpoint, 30 s at most while
//! Weir runs; a window that is longer than an outage of Weir keeps out its repeats, too. Where no
//! stream keeps a subject, messages wait and are tried again, as for all that may be mended there. A
//! row that is longer than the server or the stream takes is dropped, counted (`refused`), and said in
//! the log once until one succeeds. Its pipeline waits at most 5 s for a sink that fails; then it is
//! detached and goes on by itself from the journal.

mod send;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration as StdDuration;

use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{Sink, SinkContext, SinkError, SinkKind, SinkPlan, Staged};
use weir_pipeline::config::{Scope, Section, Spanned, TlsClient};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::nats_client::{NatsAuth, NatsConnection, NatsCreate};

use self::send::Sender;
use crate::messages::{Destination, messages};

/// The row of the table.
pub(crate) const KIND: SinkKind = SinkKind {
    name: "nats",
    about: "publish rows as JSON to NATS JetStream",
    source: include_str!("nats.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Between tries of what is sent last.
const AGAIN: StdDuration = StdDuration::from_secs(1);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Servers, such as `nats://127.0.0.1:4222`.
    endpoints: Spanned<Vec<String>>,
    /// Subject of all messages.
    subject: Option<Spanned<String>>,
    /// SQL expression that gives the subject of each row.
    subject_by: Option<Spanned<String>>,
    /// The stream that keeps them.
    stream: Option<String>,
    /// Create the stream if it is not there.
    create: Option<Spanned<NatsCreate>>,
    /// TLS to the servers.
    tls: Option<TlsClient>,
    /// Credentials for the servers.
    #[serde(default)]
    auth: NatsAuth,
}

#[derive(Debug)]
struct NatsPlan(Arc<Settings>);

#[derive(Debug)]
struct Settings {
    connection: NatsConnection,
    subject: Destination,
    stream: Option<String>,
    create: Option<NatsCreate>,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn SinkPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let (fixed, by) = (config.subject.as_ref(), config.subject_by.as_ref());
    if let Some(subject) = fixed.filter(|s| send::subject(&s.value) != s.value) {
        let message = format!("`subject` cannot be published to: `{}`", subject.value);
        let bad = Diagnostic::error("W015", message).at(&section.span(subject));
        wrong.push(bad.label("white space, `*` and `>` stand for nothing here"));
    }
    let subject = wrong.ok(Destination::plan(section, scope, "subject", fixed, by));
    if let Some(create) = &config.create {
        let message = match (create.value.check(), &config.stream) {
            (Err(message), _) => Some(message),
            (_, None) => Some("`create` needs the name of the `stream`"),
            _ => None,
        };
        if let Some(message) = message {
            wrong.push(Diagnostic::error("W015", message).at(&section.span(create)));
        }
    }
    let connection =
        NatsConnection::plan(section, scope, &config.endpoints, config.tls, config.auth);
    match (wrong.ok(connection), subject) {
        (Some(connection), Some(subject)) if !wrong.has_errors() => {
            let create = config.create.map(|c| c.value);
            let settings = Settings { connection, subject, stream: config.stream, create };
            Ok(Box::new(NatsPlan(Arc::new(settings))))
        }
        _ => Err(wrong),
    }
}

impl SinkPlan for NatsPlan {
    fn build(&self, context: SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(Nats { sender: Sender::new(self.0.clone(), context) }))
    }
}

struct Nats {
    sender: Sender,
}

impl Sink for Nats {
    fn write(&mut self, batch: Batch) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move {
            let rows = messages(&batch, &self.sender.settings.subject, None)?;
            self.sender.waiting.extend(rows);
            Ok(())
        })
    }

    fn tick(&mut self, offset: u64) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(self.sender.send(offset))
    }

    fn stage(&mut self, mark: u64, _last: bool) -> BoxFuture<'_, Result<Staged, SinkError>> {
        Box::pin(async move {
            // What a removed pipeline flushed came behind the tick. A server that does not take it
            // is a sink that does not get on, and no reason to fail the others.
            while self.sender.send(mark).await.is_err() {
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
