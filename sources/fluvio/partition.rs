//! One partition: what is there, and its records as its SPU sends them.

use std::time::Duration;

use bytes::Bytes;
use fluvio::dataplane::link::ErrorCode;
use fluvio::dataplane::record::{self, Batch, RawRecords, RecordSet};
use fluvio_spu_schema::Isolation;
use fluvio_spu_schema::server::fetch_offset::{FetchOffsetsRequest, FetchOffsetsResponse};
use fluvio_spu_schema::server::stream_fetch::{DefaultStreamFetchRequest, StreamFetchRequest};
use fluvio_spu_schema::server::update_offset::{OffsetUpdate, UpdateOffsetsRequest};
use weir_pipeline::fluvio_client::{Line, Sent, TIMEOUT, records};

use crate::replayable::{Partition, Record};

/// An SPU that sends nothing for so long is asked how far the partition is: the answer says that it
/// is still there, and how many records wait.
const QUIET: Duration = Duration::from_secs(10);
/// A batch that does not fit into an answer is asked for with larger answers, up to this size. Fluvio
/// takes batches of 32 MiB at most unless told otherwise.
const ANSWER_BYTES_MAX: i32 = 64 << 20;

/// What an SPU said.
pub(super) enum News {
    /// Records; the first offset behind them; the first behind all that are committed.
    Records { records: Vec<Record>, next: u64, end: u64 },
    /// Nothing came; the first offset behind all that are committed.
    Quiet { end: u64 },
    /// The topic was deleted.
    Deleted,
}

/// A partition that is read.
pub(super) struct Log {
    partition: Partition,
    line: Line,
    stream: Option<Stream>,
    bytes_max: i32,
}

struct Stream {
    sent: Sent,
    /// As the SPU calls it; it says so with the first answer.
    id: Option<u32>,
    /// The SPU knows that everything before is done with.
    done: u64,
}

impl Log {
    /// Reads from what leads the partition, up to about `bytes_max` at a time.
    pub(super) fn new(partition: Partition, line: Line, bytes_max: usize) -> Self {
        let bytes_max = i32::try_from(bytes_max).unwrap_or(ANSWER_BYTES_MAX);
        Self { partition, line, stream: None, bytes_max }
    }

    /// Which.
    pub(super) fn partition(&self) -> &Partition {
        &self.partition
    }

    /// The first offset that is there, and the one behind the last that is committed.
    pub(super) async fn range(&mut self) -> Result<(u64, u64), String> {
        let answer = self.line.ask(self.range_request()).await?;
        self.range_of(answer)
    }

    fn range_request(&self) -> FetchOffsetsRequest {
        FetchOffsetsRequest::new(self.partition.topic.to_string(), self.partition.number)
    }

    fn range_of(&self, answer: FetchOffsetsResponse) -> Result<(u64, u64), String> {
        let topic = &*self.partition.topic;
        let mut all = answer.topics.into_iter().filter(|t| t.name == topic);
        let mut partitions = all.next().into_iter().flat_map(|t| t.partitions);
        let own = partitions.find(|p| p.partition_index == self.partition.number);
        let own = own.ok_or("an answer says nothing of the partition")?;
        match own.error_code {
            ErrorCode::None => Ok((offset(own.start_offset), offset(own.last_stable_offset))),
            code => Err(code.to_string()),
        }
    }

    /// What comes from `next` on. Everything before is done with.
    pub(super) async fn news(&mut self, next: u64) -> Result<News, String> {
        match &mut self.stream {
            None => self.begin(next).await?,
            Some(Stream { id: Some(id), done, .. }) if *done < next => {
                *done = next;
                let update = OffsetUpdate { offset: signed(next), session_id: *id };
                self.line.send(UpdateOffsetsRequest::new(vec![update])).await?;
            }
            Some(_) => {}
        }
        let mut asked = None;
        loop {
            let wait = if asked.is_some() { TIMEOUT } else { QUIET };
            // The connection is given up when an answer stops half-way.
            let answer = match tokio::time::timeout(wait, self.line.ready()).await {
                Ok(ready) => {
                    ready?;
                    let whole = tokio::time::timeout(TIMEOUT, self.line.answer()).await;
                    whole.map_err(|_| silence())??
                }
                Err(_) if asked.is_some() => return Err(silence()),
                Err(_) => {
                    asked = Some(self.line.send(self.range_request()).await?);
                    continue;
                }
            };
            if let Some(stream) = self.stream.as_mut().filter(|s| answer.is_to(s.sent)) {
                let answer = answer.read::<DefaultStreamFetchRequest>(stream.sent)?;
                stream.id = Some(answer.stream_id);
                let partition = answer.partition;
                match partition.error_code {
                    ErrorCode::None => {}
                    ErrorCode::TopicDeleted => return Ok(News::Deleted),
                    code => return Err(code.to_string()),
                }
                let end = offset(partition.high_watermark);
                if let Some(news) = self.unpack(partition.records, next, end).await? {
                    return Ok(news);
                }
            } else if let Some(sent) = asked.filter(|sent| answer.is_to(*sent)) {
                let (_, end) = self.range_of(answer.read::<FetchOffsetsRequest>(sent)?)?;
                return Ok(News::Quiet { end });
            }
        }
    }

    /// Whether the record at `at` is there, though it may not count as committed. Nothing can be read
    /// over this line after that.
    pub(super) async fn holds(mut self, at: u64) -> Result<bool, String> {
        let sent = self.line.send(self.request(at, Isolation::ReadUncommitted)).await?;
        // An SPU may say nothing of what it does not have.
        let answer = match tokio::time::timeout(QUIET, self.line.answer()).await {
            Ok(answer) => answer?,
            Err(_) => return Ok(false),
        };
        let answer = answer.read::<DefaultStreamFetchRequest>(sent)?.partition;
        let mut batches = answer.records.batches.iter();
        Ok(answer.error_code == ErrorCode::None
            && batches
                .any(|b| offset(b.base_offset) <= at && at < offset(b.computed_last_offset())))
    }

    fn request(&self, from: u64, isolation: Isolation) -> DefaultStreamFetchRequest {
        let mut request: DefaultStreamFetchRequest = StreamFetchRequest::default();
        request.topic = self.partition.topic.to_string();
        request.partition = self.partition.number;
        request.fetch_offset = signed(from);
        request.max_bytes = self.bytes_max;
        request.isolation = isolation;
        request
    }

    async fn begin(&mut self, next: u64) -> Result<(), String> {
        let sent = self.line.send(self.request(next, Isolation::ReadCommitted)).await?;
        self.stream = Some(Stream { sent, id: None, done: next });
        Ok(())
    }

    /// The records of an answer from `next` on; `None` if there are none.
    async fn unpack(
        &mut self,
        set: RecordSet<RawRecords>,
        next: u64,
        end: u64,
    ) -> Result<Option<News>, String> {
        let mut all = Vec::new();
        let mut after = None;
        for batch in &set.batches {
            let Some(some) = records(batch)? else { break };
            let first = offset(batch.base_offset);
            after = Some(first + some.len() as u64);
            let numbered = (first..).zip(some).filter(|(at, _)| *at >= next);
            all.extend(numbered.map(|(at, record)| of(batch, at, record)));
        }
        match after {
            Some(after) if after > next => {
                Ok(Some(News::Records { records: all, next: after, end }))
            }
            None if next < end => self.enlarge(next).await.map(|()| None),
            // What was there already.
            _ => Ok(None),
        }
    }

    /// Begins anew with larger answers, as not even one batch was whole. The stream before sends
    /// nothing more, as nobody says that he is done with what it sent.
    async fn enlarge(&mut self, next: u64) -> Result<(), String> {
        if self.bytes_max >= ANSWER_BYTES_MAX {
            return Err(format!(
                "the batch at offset {next} is not within the {ANSWER_BYTES_MAX} bytes of an answer"
            ));
        }
        self.bytes_max = self.bytes_max.saturating_mul(4).min(ANSWER_BYTES_MAX);
        self.begin(next).await
    }
}

fn of(batch: &Batch<RawRecords>, offset: u64, record: record::Record) -> Record {
    let time = batch.header.first_timestamp.saturating_add(record.timestamp_delta());
    // A batch without a time has -1 ms.
    let stamped = batch.header.first_timestamp >= 0 && time >= 0;
    Record {
        offset,
        time: stamped.then(|| time.saturating_mul(1_000_000)),
        key: record.key.map(|key| Bytes::clone(&key)),
        name: None,
        headers: Vec::new(),
        value: Some(Bytes::clone(&record.value)),
    }
}

fn offset(value: i64) -> u64 {
    value.max(0).unsigned_abs()
}

fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

fn silence() -> String {
    format!("no answer within {} s", TIMEOUT.as_secs())
}
