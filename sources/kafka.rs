//! `kafka` source: reads topics of Kafka, and of what speaks its protocol, each record once.
//!
//! ```toml
//! [sources.orders]
//! type = "kafka"
//! endpoints = ["127.0.0.1:9092"]
//! topics = ["orders"]
//! tls = {}
//! auth = { basic = { username = "weir", password = "env:KAFKA_PASSWORD" }, mechanism = "scram_sha512" }
//! ```
//!
//! | key | default | |
//! |---|---|---|
//! | `endpoints` | | brokers to begin with, host and port |
//! | `topics` | | topics; all partitions of each are read |
//! | `format` | `json` | `json`, `text`, or OTLP requests in protobuf, as the collector's exporter writes them: `otlp_logs`, `otlp_metrics`, `otlp_spans` |
//! | `start` | `oldest` | where to begin with a topic of which nothing was read yet: `oldest`, `newest` |
//! | `create` | none | create topics that are not there: `partitions`, `replicas` |
//! | `max_record_bytes` | `4MiB` | of longer records a row tells, without what they say |
//! | `tls`, `auth` | | of the client; `auth` is SASL: `basic`, and `mechanism` (`plain`, `scram_sha256`, `scram_sha512`) |
//!
//! Output: `logs`, or what the OTLP format has (`metrics`, `spans`). A JSON object becomes columns,
//! objects within it with dotted names; `timestamp` (also `@timestamp`, `time`, `ts`; RFC 3339 or a
//! number since 1970), `body` (`message`, `msg`), `severity` (`level`), `trace_id`, `span_id` are the
//! columns that they are everywhere. Without a time of its own a row has that of the record.
//!
//! | column | level | what |
//! |---|---|---|
//! | `messaging.system` | resource | `kafka` |
//! | `messaging.destination.name` | resource | the topic |
//! | `messaging.destination.partition.id` | row | the partition |
//! | `messaging.kafka.offset` | row | the place in the partition |
//! | `messaging.kafka.message.key` | row | the key |
//! | `messaging.message.header.<name>` | row | headers; the last where one comes twice |
//! | `messaging.message.error` | row | why a record is nothing but `body`: no JSON object, too long |
//! | `messaging.message.raw` | row | its bytes in base64, if they are not UTF-8 |
//!
//! What a body says under one of these names is in `attr.<name>`.
//!
//! A record that is no JSON object is kept as text, counted (`malformed`), and holds up nothing; one
//! without a value is a row without a body. An OTLP request that does not decode is left out, counted;
//! OTLP rows have no columns of the record. Records may be compressed with gzip, lz4, snappy or zstd.
//!
//! Delivery: exactly once into Weir. The offsets lie in Weir's journal, with the records; there is no
//! consumer group, and nothing is committed to Kafka. Each partition has a connection of its own; no
//! more is read than the journal takes. New partitions are noticed within 30 s and read from their
//! beginning. What retention deleted before it was read is counted as `gap`, with a sample in the
//! status, and reading goes on with the oldest. A topic that ends before what was read was deleted and
//! made anew, or lost its end: that is told, and it is read from its beginning; one that has grown past
//! that point meanwhile cannot be told from the old one. `weir status` shows how many records wait.
//! Topics
//! that are written by transactions cannot be read: the client does not know the marks at their ends,
//! and the status says so.
//! While a broker cannot be reached it is tried again, with growing pauses up to 10 s.

mod partition;
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
use weir_pipeline::kafka_client::{KafkaAuth, KafkaConnection, KafkaCreate, is_topic};

use crate::replayable::{self, Format, Inlet, Reader, RecordDecoder, Start, System};

/// The row of the table.
pub(crate) const KIND: SourceKind = SourceKind {
    name: "kafka",
    about: "read topics of Kafka, each record once",
    source: include_str!("kafka.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// What Kafka calls things.
const SYSTEM: System = System {
    name: "kafka",
    log: "messaging.destination.name",
    key: "messaging.kafka.message.key",
    offset: "messaging.kafka.offset",
    partitions: true,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Brokers to begin with, such as `127.0.0.1:9092`.
    endpoints: Spanned<Vec<String>>,
    /// Topics.
    topics: Spanned<Vec<String>>,
    /// How records are written. Default `json`.
    #[serde(default)]
    format: Format,
    /// Where to begin if nothing was read yet. Default `oldest`.
    #[serde(default)]
    start: Start,
    /// Create topics that are not there.
    create: Option<KafkaCreate>,
    /// Longest record that is kept. Default 4 MiB.
    max_record_bytes: Option<Spanned<ByteSize>>,
    /// TLS to the brokers.
    tls: Option<TlsClient>,
    /// Credentials for the brokers.
    #[serde(default)]
    auth: KafkaAuth,
}

#[derive(Debug)]
struct KafkaPlan {
    connection: KafkaConnection,
    topics: Vec<Arc<str>>,
    format: Format,
    start: Start,
    create: Option<KafkaCreate>,
    record_bytes_max: usize,
    decoder: Arc<RecordDecoder>,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn SourcePlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let topics = &config.topics;
    let bad = topics.value.iter().find(|t| !is_topic(t));
    if let Some(message) = match bad {
        Some(bad) => Some(format!("`topics`: `{bad}` is no name of a topic")),
        None if topics.value.is_empty() => Some("`topics` is empty".to_owned()),
        None => None,
    } {
        wrong.push(Diagnostic::error("W015", message).at(&section.span(topics)));
    }
    let record_bytes_max =
        wrong.ok(replayable::record_bytes_max(section, config.max_record_bytes.as_ref()));
    let connection =
        KafkaConnection::plan(section, scope, &config.endpoints, config.tls, config.auth);
    match (wrong.ok(connection), record_bytes_max) {
        (Some(connection), Some(record_bytes_max)) if !wrong.has_errors() => {
            let mut topics: Vec<Arc<str>> =
                topics.value.iter().map(|t| t.as_str().into()).collect();
            topics.sort();
            topics.dedup();
            Ok(Box::new(KafkaPlan {
                connection,
                topics,
                format: config.format,
                start: config.start,
                create: config.create,
                record_bytes_max,
                decoder: Arc::new(RecordDecoder::new(&SYSTEM, config.format)),
            }))
        }
        _ => Err(wrong),
    }
}

impl SourcePlan for KafkaPlan {
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

impl Reader for KafkaPlan {
    fn system(&self) -> &'static System {
        &SYSTEM
    }

    fn way(&self) -> String {
        let topics: Vec<&str> = self.topics.iter().map(AsRef::as_ref).collect();
        format!("topics {} at {}", topics.join(","), self.connection.shown())
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
