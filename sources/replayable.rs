//! What sources share that read a log of messages which they can read again (`kafka`, `nats`).
//!
//! The position in that log lies in Weir's journal and nowhere else: each entry carries the offsets
//! that follow it ([`cursor`]), and a source goes on from those of its newest entry. An entry and
//! its position are one append, so each record is in the journal exactly once, whoever dies. What
//! was fetched becomes one entry of framed records ([`frames`]), which [`decode`] turns into rows;
//! [`inlet`] appends, waits for the journal, leaves out what came twice and tells of gaps.
//!
//! Knows no client. A source gives [`run`] a plan that is a [`Reader`].

pub(crate) mod cursor;
pub(crate) mod decode;
pub(crate) mod frames;
pub(crate) mod inlet;
mod json;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use weir_pipeline::component::{
    OutputPlan, Partitioned, SourceContext, SourcePlan, SourceSettings,
};
use weir_pipeline::config::{ByteSize, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::edge::Edge;
use weir_pipeline::intake::now;
use weir_pipeline::signal::Signal;

pub(crate) use cursor::{Partition, Position};
pub(crate) use decode::RecordDecoder;
pub(crate) use frames::Record;
pub(crate) use inlet::{Fetched, Inlet};

/// A partition that gives nothing for this long keeps no window open, nanoseconds of running time.
const IDLE_NS: i64 = 60_000_000_000;
/// First and longest pause after a reader failed.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// Longest record by default: what Kafka and NATS take unless told otherwise is 1 MiB.
const RECORD_BYTES: u64 = 4 << 20;
/// Bounds of `max_record_bytes`. An entry of the journal holds 256 MiB.
const RECORD_BYTES_RANGE: (u64, u64) = (1 << 10, 64 << 20);

/// A system of messages: how it and what is particular to it are called in rows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct System {
    /// `messaging.system`.
    pub(crate) name: &'static str,
    /// The column of the log that was read, which all its rows have.
    pub(crate) log: &'static str,
    /// The column of the key.
    pub(crate) key: &'static str,
    /// The column of the offset.
    pub(crate) offset: &'static str,
    /// Whether logs have partitions that people know.
    pub(crate) partitions: bool,
}

/// What all systems call the parts of a message.
const SYSTEM: &str = "messaging.system";
const DESTINATION: &str = "messaging.destination.name";
const PARTITION: &str = "messaging.destination.partition.id";
/// Why a record is a row of text and no more.
const ERROR: &str = "messaging.message.error";
/// The bytes of what is not UTF-8, in base64.
const RAW: &str = "messaging.message.raw";
/// In front of the name of a header.
const HEADER: &str = "messaging.message.header.";

impl System {
    /// Whether a column says something of the message, and not what its body says.
    fn is_own(&self, column: &str) -> bool {
        [SYSTEM, DESTINATION, PARTITION, ERROR, RAW, self.log, self.key, self.offset]
            .contains(&column)
            || column.starts_with(HEADER)
    }

    /// [`SourcePlan::partitioned`].
    pub(crate) fn partitioned(&self) -> Partitioned {
        let columns: &[&str] = match self.partitions {
            true => &[DESTINATION, PARTITION],
            // One log, whatever its messages are called.
            false => &[],
        };
        Partitioned { columns, idle: IDLE_NS }
    }
}

/// How records are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "RecordFormat")]
pub(crate) enum Format {
    /// One JSON object per record.
    #[default]
    Json,
    /// Each record is the body of a log record.
    Text,
    /// OTLP export requests of logs, protobuf.
    OtlpLogs,
    /// OTLP export requests of metrics, protobuf.
    OtlpMetrics,
    /// OTLP export requests of spans, protobuf.
    OtlpSpans,
}

impl Format {
    /// What comes of it.
    pub(crate) fn signal(self) -> Signal {
        match self {
            Self::Json | Self::Text | Self::OtlpLogs => Signal::Logs,
            Self::OtlpMetrics => Signal::Metrics,
            Self::OtlpSpans => Signal::Spans,
        }
    }

    /// The one output, called after its signal.
    pub(crate) fn output(self) -> &'static str {
        match self {
            Self::Json | Self::Text | Self::OtlpLogs => "logs",
            Self::OtlpMetrics => "metrics",
            Self::OtlpSpans => "spans",
        }
    }

    /// [`SourcePlan::outputs`].
    pub(crate) fn outputs(self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: self.output(), edge: Edge::open(self.signal()) }]
    }
}

/// Where a source begins that has read nothing yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "RecordStart")]
pub(crate) enum Start {
    /// With the oldest record that is there.
    #[default]
    Oldest,
    /// With what comes from now on.
    Newest,
}

/// What `max_record_bytes` says.
///
/// # Errors
/// If it is out of bounds.
pub(crate) fn record_bytes_max(
    section: &Section,
    value: Option<&Spanned<ByteSize>>,
) -> Result<usize, Diagnostics> {
    let Some(value) = value else { return Ok(RECORD_BYTES as usize) };
    let (least, most) = RECORD_BYTES_RANGE;
    if !(least..=most).contains(&value.value.0) {
        let message = format!(
            "`max_record_bytes` is {}, expected {} to {}",
            value.value,
            ByteSize(least),
            ByteSize(most)
        );
        return Err(Diagnostic::error("W015", message).at(&section.span(value)).into());
    }
    Ok(value.value.as_usize())
}

/// The plan of a source that reads a log.
pub(crate) trait Reader: SourcePlan {
    /// How its system calls things.
    fn system(&self) -> &'static System;
    /// What is read, for the status: without credentials.
    fn way(&self) -> String;
    /// The longest record that is kept.
    fn record_bytes_max(&self) -> usize;
    /// Reads from where `inlet` says, and hands over, until `end` is cancelled: then it ends soon,
    /// and never within [`Inlet::take`]. An error is told, and after a pause it is called again.
    fn read<'a>(
        &'a self,
        inlet: &'a mut Inlet,
        end: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), String>>;
}

/// Runs a source until `context.stop`. New settings end the reader of the old ones first: what it
/// is about to append decides where the new one goes on.
pub(crate) async fn run<R: Reader + 'static>(context: SourceContext) {
    let mut changes = context.settings.clone();
    while !context.stop.is_cancelled() {
        let settings = changes.borrow_and_update().clone();
        let Some(reader) = settings.plan.as_any().downcast_ref::<R>() else {
            tracing::error!(source = %context.id, "these are not the settings of this source");
            return;
        };
        let end = context.stop.child_token();
        let reading = read_on(&context, &settings, reader, &end);
        let watching = async {
            if changes.changed().await.is_err() {
                // Nobody can change the settings any more; only the stop is left.
                context.stop.cancelled().await;
            }
            end.cancel();
        };
        futures::future::join(reading, watching_until(watching, &context.stop)).await;
        context.intake.metrics().way_gone(&reader.way());
    }
}

async fn watching_until(watching: impl Future<Output = ()>, stop: &CancellationToken) {
    tokio::select! {
        () = watching => {}
        () = stop.cancelled() => {}
    }
}

/// Reads until `end`; after an error again from what the journal has.
async fn read_on<R: Reader>(
    context: &SourceContext,
    settings: &Arc<SourceSettings>,
    reader: &R,
    end: &CancellationToken,
) {
    let metrics = context.intake.metrics();
    let way = reader.way();
    let mut pause = RETRY.0;
    let mut said = None;
    while !end.is_cancelled() {
        let began = context.intake.cursor();
        let result = match Inlet::open(context, settings, reader, end) {
            Ok(mut inlet) => reader.read(&mut inlet, end).await,
            Err(error) => Err(error),
        };
        let Err(error) = result else { continue };
        if end.is_cancelled() {
            return;
        }
        metrics.error(1, "read", &error, now());
        metrics.way_answers(&way, Some(&error), now());
        if context.intake.cursor() != began {
            (pause, said) = (RETRY.0, None);
        }
        // A peer that is away for an hour is one line in the log.
        if said.as_ref() != Some(&error) {
            tracing::warn!(source = %context.id, from = %way, %error, "cannot read, trying again");
            said = Some(error);
        }
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY.1),
        }
    }
}
