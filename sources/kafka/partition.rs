//! One partition: what is there, and one fetch from it.

use std::sync::Arc;
use std::time::Duration;

use rskafka::chrono::{DateTime, Utc};
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::partition::{OffsetAt, PartitionClient};
use rskafka::record::RecordAndOffset;
use weir_pipeline::kafka_client::{TIMEOUT, describe, protocol_error, within};

use crate::replayable::Record;

/// A broker that has nothing new answers after so long.
const WAIT: Duration = Duration::from_millis(500);
/// The same where only a look is taken.
const LOOK: Duration = Duration::from_millis(50);

/// What a fetch gave.
pub(super) enum Fetch {
    /// Records from the offset that was asked for on, and the first offset behind all there are.
    Records(Vec<Record>, u64),
    /// The offset is not in the partition: it has these (first, behind the last).
    OutOfRange(u64, u64),
    /// It did not work.
    Failed(String),
}

/// A partition that is read.
#[derive(Clone)]
pub(super) struct Log {
    client: Arc<PartitionClient>,
    bytes_max: i32,
    /// How far beyond its position it looks for records, see [`Log::fetch`].
    probe: u64,
}

impl Log {
    /// Fetches up to about `bytes_max` at a time, and one batch of records at least.
    pub(super) fn new(client: PartitionClient, bytes_max: usize) -> Self {
        let bytes_max = i32::try_from(bytes_max).unwrap_or(i32::MAX);
        Self { client: Arc::new(client), bytes_max, probe: 0 }
    }

    /// The first offset that is there, and the one behind the last.
    pub(super) async fn range(&self) -> Result<(u64, u64), String> {
        let first = within("oldest offset", self.client.get_offset(OffsetAt::Earliest));
        let last = within("newest offset", self.client.get_offset(OffsetAt::Latest));
        let (first, last) = futures::future::try_join(first, last).await?;
        Ok((first.max(0).unsigned_abs(), last.max(0).unsigned_abs()))
    }

    /// Fetches from `next` on.
    ///
    /// Between `next` and the end there may be nothing for us: marks of transactions, or what
    /// compaction removed. The client does not say how far that goes, and the next fetch would give
    /// nothing again. So the fetches that follow begin one further each; what one finds counts if a
    /// fetch at `next` then still gives nothing, for an open transaction may have ended meanwhile.
    pub(super) async fn fetch(&mut self, next: u64) -> Fetch {
        let (records, end) = match self.records(next + self.probe, WAIT).await {
            Ok(found) => found,
            Err(Fetch::OutOfRange(..)) if self.probe > 0 => {
                self.probe = 0;
                return Fetch::Records(Vec::new(), next);
            }
            Err(failed) => return failed,
        };
        if records.is_empty() && end < next {
            // Some brokers say no more than that of an offset that they do not have.
            return match self.range().await {
                Ok((first, last)) if last < next => Fetch::OutOfRange(first, last),
                Ok((_, last)) => Fetch::Records(records, last),
                Err(error) => Fetch::Failed(error),
            };
        }
        if records.is_empty() {
            let further = self.probe + 1;
            self.probe = if next + further < end { further } else { 0 };
            return Fetch::Records(records, end);
        }
        if std::mem::take(&mut self.probe) > 0 {
            match self.records(next, LOOK).await {
                Ok((own, end)) if !own.is_empty() => return Fetch::Records(own, end),
                Ok(_) => {}
                Err(failed) => return failed,
            }
        }
        Fetch::Records(records, end)
    }

    async fn records(&self, from: u64, wait: Duration) -> Result<(Vec<Record>, u64), Fetch> {
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        let fetched = self.client.fetch_records(from, 1..self.bytes_max, wait);
        match tokio::time::timeout(TIMEOUT, fetched).await {
            Ok(Ok((records, end))) => {
                let records = records.into_iter().filter_map(record).collect();
                Ok((records, end.max(0).unsigned_abs()))
            }
            Ok(Err(error)) => Err(self.failed(&error).await),
            Err(_) => Err(Fetch::Failed(format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    }

    async fn failed(&self, error: &Error) -> Fetch {
        if protocol_error(error) != Some(ProtocolError::OffsetOutOfRange) {
            return Fetch::Failed(describe(error));
        }
        match self.range().await {
            Ok((first, last)) => Fetch::OutOfRange(first, last),
            Err(error) => Fetch::Failed(error),
        }
    }
}

fn record(RecordAndOffset { record, offset }: RecordAndOffset) -> Option<Record> {
    let rskafka::record::Record { key, value, headers, timestamp } = record;
    Some(Record {
        offset: u64::try_from(offset).ok()?,
        time: time(timestamp),
        key: key.map(Into::into),
        name: None,
        headers: headers.into_iter().map(|(name, value)| (name, value.into())).collect(),
        value: value.map(Into::into),
    })
}

/// UTC nanoseconds; a record without a time has -1 ms.
fn time(timestamp: DateTime<Utc>) -> Option<i64> {
    timestamp.timestamp_nanos_opt().filter(|ns| *ns >= 0)
}
