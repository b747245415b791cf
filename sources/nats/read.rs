//! Reading a stream through a consumer that the server forgets: what was read says the journal.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::stream::{RetentionPolicy, Stream};
use async_nats::jetstream::{self, Message};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use weir_pipeline::nats_client::{TIMEOUT, chain, stream};

use super::NatsPlan;
use crate::replayable::{Fetched, Inlet, Partition, Position, Record, Start};

/// Messages that are asked for at a time; as many again are on their way by then.
const BATCH: usize = 2_000;
/// Bytes that are asked for at a time, at least: one message of the server's largest has to fit.
const BATCH_BYTES: usize = 4 << 20;
/// What a message has beside its payload: subject, reply, headers.
const OVERHEAD_BYTES: usize = 64 << 10;
/// Bytes after which what came is handed over though more is there already.
const HAND_OVER_BYTES: usize = 4 << 20;
/// Messages that are asked for at a time where bytes cannot be.
const BATCH_STALLED: usize = 16;
/// A request for messages stays with the server for so long; a sign of life comes every third of it.
const EXPIRES: Duration = Duration::from_secs(15);
/// Without a message for so long it is asked whether that is right.
const IDLE: Duration = Duration::from_secs(2);
/// The server forgets the consumer of a Weir that is gone.
const FORGET: Duration = Duration::from_secs(60);

/// Reads until `end`.
pub(super) async fn read(
    plan: &NatsPlan,
    inlet: &mut Inlet,
    end: &CancellationToken,
) -> Result<(), String> {
    let Some(client) = inlet.until_end(plan.connection.connect()).await else { return Ok(()) };
    let client = client?;
    let payload_max = client.server_info().max_payload;
    let mut context = jetstream::new(client);
    context.set_timeout(TIMEOUT);
    let opened = stream(&context, &plan.stream, plan.create.as_ref());
    let Some(stream) = inlet.until_end(opened).await else { return Ok(()) };
    let stream = stream?;
    // Of others the server takes delivery for acknowledgement, and deletes what no journal has yet.
    let retention = &stream.cached_info().config.retention;
    if *retention != RetentionPolicy::Limits {
        return Err(format!(
            "the stream has the retention {retention:?}, of which a message can be lost when Weir \
             dies: give it the retention `limits`, or name a stream with that retention which has \
             this one as its source"
        ));
    }
    let log = Partition { topic: plan.stream.as_str().into(), number: 0 };
    place(plan, inlet, &stream, &log).await?;
    let bytes = BATCH_BYTES.max(payload_max + OVERHEAD_BYTES);
    let mut batch = (BATCH, bytes);
    while !end.is_cancelled() {
        match consume(plan, inlet, &stream, &log, batch).await? {
            Next::Ended => return Ok(()),
            // A message that is larger than the server takes today.
            Next::Stalled => batch = (BATCH_STALLED, 0),
        }
    }
    Ok(())
}

enum Next {
    Ended,
    /// Messages wait, and none comes.
    Stalled,
}

/// Compares the stream with where reading goes on, and tells what is not as it was left.
async fn place(
    plan: &NatsPlan,
    inlet: &mut Inlet,
    stream: &Stream,
    log: &Partition,
) -> Result<(), String> {
    let info = stream.cached_info();
    let state = &info.state;
    let made = i64::try_from(info.created.unix_timestamp_nanos()).unwrap_or_default();
    let incarnation = made.unsigned_abs();
    let first = state.first_sequence.max(1);
    let Some(position) = inlet.position(log) else {
        let next = match plan.start {
            Start::Oldest => first,
            Start::Newest => state.last_sequence + 1,
        };
        return inlet.begin(vec![(log.clone(), Position { next, incarnation })]).await;
    };
    let anew = Position { next: first, incarnation };
    if position.incarnation != incarnation {
        let why = "the stream was deleted and made anew, or is another one";
        return inlet.replaced(log, anew, why).await;
    }
    if position.next > state.last_sequence + 1 {
        // Restored from a backup, for instance. What it still has was read.
        let why = format!("the stream ends at {}, before what was read", state.last_sequence);
        let next = state.last_sequence + 1;
        return inlet.replaced(log, Position { next, incarnation }, &why).await;
    }
    if position.next < first {
        return inlet.gap(log, first, "limits of the stream, or a purge, deleted them").await;
    }
    Ok(())
}

/// Reads through one consumer.
async fn consume(
    plan: &NatsPlan,
    inlet: &mut Inlet,
    stream: &Stream,
    log: &Partition,
    (batch, batch_bytes): (usize, usize),
) -> Result<Next, String> {
    let next = inlet.position(log).map_or(1, |p| p.next.max(1));
    let config = PullConfig {
        description: Some(format!("source {} of weir", inlet.source())),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: next },
        ack_policy: AckPolicy::None,
        filter_subject: plan.subject.clone().unwrap_or_default(),
        inactive_threshold: FORGET,
        memory_storage: true,
        num_replicas: 1,
        ..PullConfig::default()
    };
    let Some(consumer) = inlet.until_end(stream.create_consumer(config)).await else {
        return Ok(Next::Ended);
    };
    let consumer: Consumer<PullConfig> = consumer.map_err(|e| failed(plan, &e))?;
    let pulled = consumer
        .stream()
        .max_messages_per_batch(batch)
        .max_bytes_per_batch(batch_bytes)
        .expires(EXPIRES)
        .heartbeat(EXPIRES / 3)
        .messages();
    let mut messages = pulled.await.map_err(|e| failed(plan, &e))?;
    let kept = &stream.cached_info().config;
    let sparse = plan.subject.is_some() || kept.max_messages_per_subject > 0 || kept.allow_rollup;
    // Of this consumer: each message has the next number.
    let mut delivered = 0;
    loop {
        let Some(first) = inlet.until_end(timeout(IDLE, messages.next())).await else {
            return Ok(Next::Ended);
        };
        let first = match first {
            Ok(Some(first)) => first.map_err(|e| failed(plan, &e))?,
            Ok(None) => return Err("the connection was closed".to_owned()),
            Err(_) => match idle(inlet, stream, &consumer, log, delivered).await? {
                true => continue,
                false => return Ok(Next::Stalled),
            },
        };
        let mut got = Got::new(log, inlet.position(log).map_or(next, |p| p.next), sparse);
        got.add(first, &mut delivered)?;
        while got.bytes < HAND_OVER_BYTES
            && let Some(Some(more)) = messages.next().now_or_never()
        {
            got.add(more.map_err(|e| failed(plan, &e))?, &mut delivered)?;
        }
        inlet.answers(Some(got.pending));
        got.hand_over(inlet).await?;
    }
}

fn failed(plan: &NatsPlan, error: &(dyn std::error::Error + 'static)) -> String {
    format!("stream `{}`: {}", plan.stream, chain(error))
}

/// Asks whether it is right that no message comes; `false` if some wait.
async fn idle(
    inlet: &mut Inlet,
    stream: &Stream,
    consumer: &Consumer<PullConfig>,
    log: &Partition,
    delivered: u64,
) -> Result<bool, String> {
    // In this order: what the stream has now, the consumer has seen.
    let state = stream.get_info().await.map_err(|e| chain(&e))?.state;
    let info = consumer.get_info().await.map_err(|e| chain(&e))?;
    inlet.answers(Some(info.num_pending));
    if info.delivered.consumer_sequence != delivered {
        return Err("messages were lost on the way; they are read again".to_owned());
    }
    if info.num_pending > 0 {
        return Ok(false);
    }
    // Nothing up to there was for us: a later purge leaves no gap.
    let next = state.last_sequence + 1;
    inlet.take(vec![Fetched { partition: log.clone(), records: Vec::new(), next }]).await?;
    Ok(true)
}

/// Messages that came together.
struct Got<'a> {
    log: &'a Partition,
    /// Whether messages between those that came are not for us, or are not meant to stay.
    sparse: bool,
    /// The sequence that comes next.
    next: u64,
    records: Vec<Record>,
    /// Messages between those that came that are gone.
    missing: u64,
    bytes: usize,
    pending: u64,
}

impl<'a> Got<'a> {
    fn new(log: &'a Partition, next: u64, sparse: bool) -> Self {
        Self { log, sparse, next, records: Vec::new(), missing: 0, bytes: 0, pending: 0 }
    }

    /// # Errors
    /// If a message before it did not come.
    fn add(&mut self, message: Message, delivered: &mut u64) -> Result<(), String> {
        let info = message.info().map_err(|e| format!("not a message of JetStream: {e}"))?;
        if info.consumer_sequence != *delivered + 1 {
            return Err("messages were lost on the way; they are read again".to_owned());
        }
        *delivered = info.consumer_sequence;
        let sequence = info.stream_sequence;
        self.pending = info.pending;
        let time = i64::try_from(info.published.unix_timestamp_nanos()).ok();
        let (key, headers) = headers(message.headers.as_ref());
        let record = Record {
            offset: sequence,
            time,
            key,
            name: Some(Arc::from(message.subject.as_str())),
            headers,
            value: Some(message.payload.clone()),
        };
        self.bytes += message.payload.len();
        self.missing += sequence.saturating_sub(self.next);
        self.records.push(record);
        self.next = sequence + 1;
        Ok(())
    }

    /// Appends it, and tells of messages that are gone.
    async fn hand_over(self, inlet: &mut Inlet) -> Result<(), String> {
        let Self { log, records, next, .. } = self;
        if self.missing > 0 && !self.sparse {
            inlet.missing(log, self.missing, next, "they were deleted from the stream");
        }
        inlet.take(vec![Fetched { partition: log.clone(), records, next }]).await
    }
}

/// The message id, and the other headers by name.
fn headers(map: Option<&HeaderMap>) -> (Option<Bytes>, Vec<(String, Bytes)>) {
    let mut id = None;
    let mut headers = Vec::new();
    for (name, values) in map.into_iter().flat_map(HeaderMap::iter) {
        let name: &str = name.as_ref();
        for value in values {
            let value = Bytes::copy_from_slice(value.as_str().as_bytes());
            if name.eq_ignore_ascii_case("Nats-Msg-Id") {
                id = id.or(Some(value));
            } else {
                headers.push((name.to_owned(), value));
            }
        }
    }
    // The map has no order of its own.
    headers.sort();
    (id, headers)
}
