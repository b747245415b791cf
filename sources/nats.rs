//! `nats` source: reads a stream of NATS JetStream, each message once.
//!
//! ```toml
//! [sources.events]
//! type = "nats"
//! endpoints = ["nats://127.0.0.1:4222"]
//! stream = "EVENTS"
//! subject = "events.>"
//! auth = { token = "env:NATS_TOKEN" }
//! ```
//!
//! | key | default | |
//! |---|---|---|
//! | `endpoints` | | servers, `nats://` or `tls://` |
//! | `stream` | | the stream |
//! | `subject` | all | only messages of these subjects; `*` and `>` as NATS has them |
//! | `format` | `json` | `json`, `text`, or OTLP requests in protobuf: `otlp_logs`, `otlp_metrics`, `otlp_spans` |
//! | `start` | `oldest` | where to begin if nothing was read yet: `oldest`, `newest` |
//! | `create` | none | create the stream if it is not there: `subjects`, and `retention`, `max_bytes`, `replicas`, `duplicate_window` |
//! | `max_record_bytes` | `4MiB` | of longer messages a row tells, without what they say |
//! | `tls`, `auth` | | of the client; `auth` is one of `token`, `basic`, `credentials` (`file:` of a credentials file), `nkey` |
//!
//! Output: `logs`, or what the OTLP format has (`metrics`, `spans`). A JSON object becomes columns,
//! objects within it with dotted names; `timestamp` (also `@timestamp`, `time`, `ts`; RFC 3339 or a
//! number since 1970), `body` (`message`, `msg`), `severity` (`level`), `trace_id`, `span_id` are the
//! columns that they are everywhere. Without a time of its own a row has that at which the message was
//! stored.
//!
//! | column | level | what |
//! |---|---|---|
//! | `messaging.system` | resource | `nats` |
//! | `messaging.nats.stream` | resource | the stream |
//! | `messaging.destination.name` | row | the subject |
//! | `messaging.nats.sequence` | row | the place in the stream |
//! | `messaging.message.id` | row | the header `Nats-Msg-Id` |
//! | `messaging.message.header.<name>` | row | other headers; the first where one comes twice |
//! | `messaging.message.error` | row | why a message is nothing but `body`: no JSON object, too long |
//! | `messaging.message.raw` | row | its bytes in base64, if they are not UTF-8 |
//!
//! What a body says under one of these names is in `attr.<name>`.
//!
//! A message that is no JSON object is kept as text, counted (`malformed`), and holds up nothing. An
//! OTLP request that does not decode is left out, counted; OTLP rows have no columns of the message.
//!
//! Delivery: exactly once into Weir. The place in the stream lies in Weir's journal, with the
//! messages; NATS has only a consumer that it forgets, so nothing needs acknowledging there, and limits
//! of the stream decide what it keeps. A stream with the retention `interest` or `workqueue` is
//! refused: its server deletes what it delivered, also what no journal has yet. One with the retention
//! `limits` that has it as its source serves.
//!
//! No more is read than the journal takes. What a stream deleted before it was read is counted as
//! `gap`, with a sample in the status; with a `subject`, the gap may hold messages of others. A stream
//! that was deleted and made anew is told by the time at which it was made, and read from its
//! beginning; one that has lost its end, as a backup that was restored has, is read from there on.
//! `weir status` shows how many messages wait. While a server
//! cannot be reached it is tried again, with growing pauses up to 10 s.

mod read;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::Arc;

use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use weir_pipeline::component::{
    Decoder, Listen, OutputPlan, Partitioned, SourceContext, SourceKind, SourcePlan,
};
use weir_pipeline::config::{ByteSize, Scope, Section, Spanned, TlsClient};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::nats_client::{NatsAuth, NatsConnection, NatsCreate};

use crate::replayable::{self, Format, Inlet, Reader, RecordDecoder, Start, System};

/// The row of the table.
pub(crate) const KIND: SourceKind = SourceKind {
    name: "nats",
    about: "read a stream of NATS JetStream, each message once",
    source: include_str!("nats.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// What NATS calls things.
const SYSTEM: System = System {
    name: "nats",
    log: "messaging.nats.stream",
    key: "messaging.message.id",
    offset: "messaging.nats.sequence",
    partitions: false,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Servers, such as `nats://127.0.0.1:4222`.
    endpoints: Spanned<Vec<String>>,
    /// The stream.
    stream: Spanned<String>,
    /// Only messages of these subjects.
    subject: Option<Spanned<String>>,
    /// How messages are written. Default `json`.
    #[serde(default)]
    format: Format,
    /// Where to begin if nothing was read yet. Default `oldest`.
    #[serde(default)]
    start: Start,
    /// Create the stream if it is not there.
    create: Option<Spanned<NatsCreate>>,
    /// Longest message that is kept. Default 4 MiB.
    max_record_bytes: Option<Spanned<ByteSize>>,
    /// TLS to the servers.
    tls: Option<TlsClient>,
    /// Credentials for the servers.
    #[serde(default)]
    auth: NatsAuth,
}

#[derive(Debug)]
struct NatsPlan {
    connection: NatsConnection,
    stream: String,
    subject: Option<String>,
    format: Format,
    start: Start,
    create: Option<NatsCreate>,
    record_bytes_max: usize,
    decoder: Arc<RecordDecoder>,
}

/// Whether JetStream takes it as the name of a stream.
fn is_stream_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || ".*>/\\".contains(c))
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn SourcePlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let mut error =
        |message: String, span| wrong.push(Diagnostic::error("W015", message).at(&span));
    if !is_stream_name(&config.stream.value) {
        let message = format!("`stream` is no name of a stream: `{}`", config.stream.value);
        error(message, section.span(&config.stream));
    }
    let is_subject = |s: &str| !s.is_empty() && !s.contains(char::is_whitespace);
    if let Some(subject) = config.subject.as_ref().filter(|s| !is_subject(&s.value)) {
        let message = format!("`subject` is no subject: `{}`", subject.value);
        error(message, section.span(subject));
    }
    if let Some(create) = &config.create
        && let Err(message) = create.value.check()
    {
        error(message.to_owned(), section.span(create));
    }
    let record_bytes_max =
        wrong.ok(replayable::record_bytes_max(section, config.max_record_bytes.as_ref()));
    let connection =
        NatsConnection::plan(section, scope, &config.endpoints, config.tls, config.auth);
    match (wrong.ok(connection), record_bytes_max) {
        (Some(connection), Some(record_bytes_max)) if !wrong.has_errors() => {
            Ok(Box::new(NatsPlan {
                connection,
                stream: config.stream.value,
                subject: config.subject.map(|s| s.value),
                format: config.format,
                start: config.start,
                create: config.create.map(|c| c.value),
                record_bytes_max,
                decoder: Arc::new(RecordDecoder::new(&SYSTEM, config.format)),
            }))
        }
        _ => Err(wrong),
    }
}

impl SourcePlan for NatsPlan {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn outputs(&self) -> Vec<OutputPlan> {
        self.format.outputs()
    }

    fn listens(&self) -> Vec<Listen> {
        Vec::new()
    }

    fn decoder(&self) -> Arc<dyn Decoder> {
        self.decoder.clone()
    }

    fn partitioned(&self) -> Option<Partitioned> {
        Some(SYSTEM.partitioned())
    }

    fn run(&self, context: SourceContext) -> BoxFuture<'static, ()> {
        Box::pin(replayable::run::<Self>(context))
    }
}

impl Reader for NatsPlan {
    fn system(&self) -> &'static System {
        &SYSTEM
    }

    fn way(&self) -> String {
        format!("stream {} at {}", self.stream, self.connection.shown())
    }

    fn record_bytes_max(&self) -> usize {
        self.record_bytes_max
    }

    fn read<'a>(
        &'a self,
        inlet: &'a mut Inlet,
        end: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(read::read(self, inlet, end))
    }
}
