//! `fluvio` source: reads topics of Fluvio, each record once.
//!
//! ```toml
//! [sources.orders]
//! type = "fluvio"
//! endpoints = ["127.0.0.1:9003"]
//! topics = ["orders"]
//! ```
//!
//! | key | default | |
//! |---|---|---|
//! | `endpoints` | | addresses of the controller (SC), host and port: the first that answers is asked |
//! | `topics` | | topics; all partitions of each are read |
//! | `format` | `json` | `json`, `text`, or OTLP requests in protobuf, one per record: `otlp_logs`, `otlp_metrics`, `otlp_spans` |
//! | `start` | `oldest` | where to begin with a topic of which nothing was read yet: `oldest`, `newest` |
//! | `create` | none | create topics that are not there: `partitions`, `replicas` |
//! | `max_record_bytes` | `4MiB` | of longer records a row tells, without what they say |
//! | `tls` | | of the client, to the controller and to the SPUs; with `cert` and `key` it says who it is |
//!
//! Output: `logs`, or what the OTLP format has (`metrics`, `spans`). A JSON object becomes columns,
//! objects within it with dotted names; `timestamp` (also `@timestamp`, `time`, `ts`; RFC 3339 or a
//! number since 1970), `body` (`message`, `msg`), `severity` (`level`), `trace_id`, `span_id` are the
//! columns that they are everywhere. Without a time of its own a row has that of the record.
//!
//! | column | level | what |
//! |---|---|---|
//! | `messaging.system` | resource | `fluvio` |
//! | `messaging.destination.name` | resource | the topic |
//! | `messaging.destination.partition.id` | row | the partition |
//! | `messaging.fluvio.offset` | row | the place in the partition |
//! | `messaging.fluvio.message.key` | row | the key |
//! | `messaging.message.error` | row | why a record is nothing but `body`: no JSON object, too long |
//! | `messaging.message.raw` | row | its bytes in base64, if they are not UTF-8 |
//!
//! What a body says under one of these names is in `attr.<name>`.
//!
//! A record that is no JSON object is kept as text, counted (`malformed`), and holds up nothing. An
//! OTLP request that does not decode is left out, counted; OTLP rows have no columns of the record.
//! Records may be compressed with gzip, lz4, snappy or zstd. SmartModules are not applied.
//!
//! Delivery: exactly once into Weir. The offsets lie in Weir's journal, with the records; no consumer
//! offset is kept in Fluvio. Only what is committed (all replicas in sync have it) is read. Each
//! partition is a stream of the SPU that leads it, at the address that the SPU has for clients
//! (`public_endpoint`), on a connection of its own, and the SPU sends more only when the journal has
//! what came before. Partitions and leaders are looked at every 30 s, and 2 s after a stream ended; new
//! partitions are read from their beginning. What retention deleted before it was read is counted as
//! `gap`, with a sample in the status, and reading goes on with the oldest. A topic that is deleted
//! while it is read is told, and one of its name is read from its beginning. So is a topic that ends
//! before what was read: it was deleted and made anew, or lost its end; one that was made anew while
//! Weir was away, and has grown past that point, cannot be told from the old one. An SPU that died may
//! say that less is committed than it had said: if it has the records, reading waits for it. `weir
//! status` shows how many records wait. A batch that is damaged stops its partition until it is whole or
//! gone; the status says where. While nobody answers it is tried again, with pauses up to 10 s.

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
use weir_pipeline::fluvio_client::{FluvioConnection, FluvioCreate, is_topic};

use crate::replayable::{self, Format, Inlet, Reader, RecordDecoder, Start, System};

/// The row of the table.
pub(crate) const KIND: SourceKind = SourceKind {
    name: "fluvio",
    about: "read topics of Fluvio, each record once",
    source: include_str!("fluvio.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// What Fluvio calls things.
const SYSTEM: System = System {
    name: "fluvio",
    log: "messaging.destination.name",
    key: "messaging.fluvio.message.key",
    offset: "messaging.fluvio.offset",
    partitions: true,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Addresses of the controller (SC), such as `127.0.0.1:9003`.
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
    create: Option<FluvioCreate>,
    /// Longest record that is kept. Default 4 MiB.
    max_record_bytes: Option<Spanned<ByteSize>>,
    /// TLS to the controller and the SPUs.
    tls: Option<TlsClient>,
}

#[derive(Debug)]
struct FluvioPlan {
    connection: FluvioConnection,
    topics: Vec<Arc<str>>,
    format: Format,
    start: Start,
    create: Option<FluvioCreate>,
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
    let connection = FluvioConnection::plan(section, scope, &config.endpoints, config.tls);
    match (wrong.ok(connection), record_bytes_max) {
        (Some(connection), Some(record_bytes_max)) if !wrong.has_errors() => {
            let mut topics: Vec<Arc<str>> =
                topics.value.iter().map(|t| t.as_str().into()).collect();
            topics.sort();
            topics.dedup();
            Ok(Box::new(FluvioPlan {
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

impl SourcePlan for FluvioPlan {
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

impl Reader for FluvioPlan {
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
