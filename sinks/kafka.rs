//! `kafka` sink: writes rows as JSON to topics of Kafka, and of what speaks its protocol.
//!
//! ```toml
//! [sinks.errors]
//! type = "kafka"
//! inputs = ["otlp.logs"]
//! endpoints = ["127.0.0.1:9092"]
//! topic = "errors"
//! key = "service.name"
//! create = { partitions = 6 }
//! ```
//!
//! | key | default | |
//! |---|---|---|
//! | `endpoints` | | brokers to begin with, host and port |
//! | `topic` | | topic of all records; or |
//! | `topic_by` | | SQL expression that gives the topic of each row |
//! | `key` | none | SQL expression that gives the key of each row |
//! | `compression` | `zstd` | `none`, `gzip`, `lz4`, `snappy`, `zstd` |
//! | `create` | none | create topics that are not there: `partitions`, `replicas` |
//! | `tls`, `auth` | | of the client; `auth` is SASL: `basic`, and `mechanism` (`plain`, `scram_sha256`, `scram_sha512`) |
//!
//! A record is one JSON object: the columns of both levels that have a value, sorted by name; times in
//! RFC 3339. Its time is the `timestamp` of the row. The source `kafka` reads it back. Records with the
//! same key go to the same partition, the one to which Kafka's own producers send them (murmur2); those
//! without a key go in turn, batch by batch. New partitions are noticed within 30 s. What cannot stand in the name of a topic becomes `_` in
//! what `topic_by` gives; a row for which it gives nothing is dropped, counted (`no_topic`).
//!
//! Delivery: at least once. What arrived between two ticks (200 ms while data flows) is written in
//! batches of up to about 900 kB, in the order of the journal in each partition, and is done when all
//! replicas in sync have it (`acks=all`). There is no transaction: a restart repeats what came after the
//! last checkpoint, 30 s at most while Weir runs, and a batch whose answer was lost is written again. A
//! reader that wants each row once goes by what the rows say of themselves. Where a topic is missing, or
//! a broker cannot be reached, records wait and are tried again; those of a
//! partition that is gone go to another one. A record that the broker
//! refuses for good (larger than the topic takes, no key in a compacted one, a time too far off) is
//! dropped alone, counted (`refused`), and said in the log once until one succeeds. Its pipeline
//! waits at most 5 s for a sink that fails; then it is detached and goes on by itself from the journal.

mod batches;
mod send;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration as StdDuration;

use futures::future::BoxFuture;
use rskafka::client::partition;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{Sink, SinkContext, SinkError, SinkKind, SinkPlan, Staged};
use weir_pipeline::config::{Scope, Section, Spanned, TlsClient};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::expression::Expression;
use weir_pipeline::kafka_client::{KafkaAuth, KafkaConnection, KafkaCreate, is_topic};

use self::send::Sender;
use crate::messages::{Destination, expression, messages};

/// The row of the table.
pub(crate) const KIND: SinkKind = SinkKind {
    name: "kafka",
    about: "write rows as JSON to topics of Kafka",
    source: include_str!("kafka.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Between tries of what is sent last.
const AGAIN: StdDuration = StdDuration::from_secs(1);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Brokers to begin with, such as `127.0.0.1:9092`.
    endpoints: Spanned<Vec<String>>,
    /// Topic of all records.
    topic: Option<Spanned<String>>,
    /// SQL expression that gives the topic of each row.
    topic_by: Option<Spanned<String>>,
    /// SQL expression that gives the key of each row.
    key: Option<Spanned<String>>,
    /// How batches are compressed. Default `zstd`.
    #[serde(default)]
    compression: Compression,
    /// Create topics that are not there.
    create: Option<KafkaCreate>,
    /// TLS to the brokers.
    tls: Option<TlsClient>,
    /// Credentials for the brokers.
    #[serde(default)]
    auth: KafkaAuth,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "KafkaCompression")]
enum Compression {
    None,
    Gzip,
    Lz4,
    Snappy,
    #[default]
    Zstd,
}

impl Compression {
    fn of_client(self) -> partition::Compression {
        match self {
            Self::None => partition::Compression::NoCompression,
            Self::Gzip => partition::Compression::Gzip,
            Self::Lz4 => partition::Compression::Lz4,
            Self::Snappy => partition::Compression::Snappy,
            Self::Zstd => partition::Compression::Zstd,
        }
    }
}

#[derive(Debug)]
struct KafkaPlan(Arc<Settings>);

#[derive(Debug)]
struct Settings {
    connection: KafkaConnection,
    topic: Destination,
    key: Option<Expression>,
    compression: Compression,
    create: Option<KafkaCreate>,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn SinkPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let (fixed, by) = (config.topic.as_ref(), config.topic_by.as_ref());
    if let Some(topic) = fixed.filter(|t| !is_topic(&t.value)) {
        let message = format!("`topic` is no name of a topic: `{}`", topic.value);
        let bad = Diagnostic::error("W015", message).at(&section.span(topic));
        wrong.push(bad.label("letters, digits, `.`, `_` and `-`, 249 at most"));
    }
    let topic = wrong.ok(Destination::plan(section, scope, "topic", fixed, by));
    let key = config.key.as_ref().and_then(|key| wrong.ok(expression(section, scope, key)));
    let connection =
        KafkaConnection::plan(section, scope, &config.endpoints, config.tls, config.auth);
    match (wrong.ok(connection), topic) {
        (Some(connection), Some(topic)) if !wrong.has_errors() => {
            let Config { compression, create, .. } = config;
            let settings = Settings { connection, topic, key, compression, create };
            Ok(Box::new(KafkaPlan(Arc::new(settings))))
        }
        _ => Err(wrong),
    }
}

impl SinkPlan for KafkaPlan {
    fn build(&self, context: SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(Kafka { sender: Sender::new(self.0.clone(), context) }))
    }
}

struct Kafka {
    sender: Sender,
}

impl Sink for Kafka {
    fn write(&mut self, batch: Batch) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move {
            let settings = &self.sender.settings;
            let rows = messages(&batch, &settings.topic, settings.key.as_ref())?;
            self.sender.waiting.extend(rows);
            Ok(())
        })
    }

    fn tick(&mut self, offset: u64) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(self.sender.send(offset))
    }

    fn stage(&mut self, mark: u64, _last: bool) -> BoxFuture<'_, Result<Staged, SinkError>> {
        Box::pin(async move {
            // What a removed pipeline flushed came behind the tick. A broker that does not take it
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
