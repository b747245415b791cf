//! From what was fetched to journal entries that carry where to go on.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use weir_pipeline::component::{Decoder, SourceContext, SourceSettings};
use weir_pipeline::intake::{Refused, now};
use weir_pipeline::journal::Envelope;

use super::cursor::{Cursor, Partition, Position};
use super::frames::{CONTENT_TYPE, Payload, Record};
use super::{Reader, System};

/// An entry ends with the record that brings it to this many bytes: large enough that an entry
/// costs little beside its rows, small enough that its rows fit into memory several times.
const ENTRY_BYTES: usize = 4 << 20;
/// Records of an entry, for the same reason where they are small.
const ENTRY_RECORDS: usize = 50_000;

/// What a client hands over of one partition.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    /// Which.
    pub(crate) partition: Partition,
    /// Its records, in order.
    pub(crate) records: Vec<Record>,
    /// The first offset that this says nothing of: past the last record, also where the log has
    /// nothing that is to be read in between.
    pub(crate) next: u64,
}

/// The way into the journal of one reader.
pub(crate) struct Inlet {
    context: SourceContext,
    generation: u32,
    decoder: Arc<dyn Decoder>,
    system: &'static System,
    way: String,
    record_bytes_max: usize,
    cursor: Cursor,
    end: CancellationToken,
}

impl Inlet {
    /// Goes on from what the journal has.
    ///
    /// # Errors
    /// If the positions there cannot be read.
    pub(super) fn open<R: Reader>(
        context: &SourceContext,
        settings: &SourceSettings,
        reader: &R,
        end: &CancellationToken,
    ) -> Result<Self, String> {
        let system = reader.system();
        let saved = context.intake.cursor().map(|bytes| Cursor::decode(&bytes, system.name));
        Ok(Self {
            context: context.clone(),
            generation: settings.generation,
            decoder: reader.decoder(),
            system,
            way: reader.way(),
            record_bytes_max: reader.record_bytes_max(),
            cursor: saved.transpose()?.flatten().unwrap_or_default(),
            end: end.clone(),
        })
    }

    /// Id of the source.
    pub(crate) fn source(&self) -> &Arc<str> {
        &self.context.id
    }

    /// Where a partition goes on, if it was read before.
    pub(crate) fn position(&self, partition: &Partition) -> Option<Position> {
        self.cursor.0.get(partition).copied()
    }

    /// Whether a partition of the topic was read before.
    pub(crate) fn knows(&self, topic: &str) -> bool {
        self.cursor.0.keys().any(|p| &*p.topic == topic)
    }

    /// Begins partitions, or goes on with them elsewhere. Durable at once: what `newest` means is
    /// decided only once.
    ///
    /// # Errors
    /// If the journal does not take it before the end.
    pub(crate) async fn begin(&mut self, at: Vec<(Partition, Position)>) -> Result<(), String> {
        if at.is_empty() {
            return Ok(());
        }
        let mut after = self.cursor.clone();
        after.0.extend(at);
        self.append(&[], after).await.map_err(|e| e.to_string())
    }

    /// Goes on at `at`, as the records before it are gone without having been read. Durable at
    /// once, so that it is told only once.
    ///
    /// # Errors
    /// As [`Inlet::begin`].
    pub(crate) async fn gap(
        &mut self,
        partition: &Partition,
        at: u64,
        why: &str,
    ) -> Result<(), String> {
        let position = self.at(partition);
        let records = at.saturating_sub(position.next);
        self.begin(vec![(partition.clone(), Position { next: at, ..position })]).await?;
        self.missing(partition, records, at, why);
        Ok(())
    }

    /// Tells that so many records before `at` are gone without having been read.
    pub(crate) fn missing(&self, partition: &Partition, records: u64, at: u64, why: &str) {
        let Partition { topic, number } = partition;
        let message = format!(
            "{topic}, partition {number}: {records} records before offset {at} are gone unread: \
             {why}"
        );
        tracing::error!(source = %self.context.id, "{message}");
        self.context.intake.metrics().rejected(records, "gap", &message, now());
    }

    /// Goes on at `at` in a log that has taken the place of the one that was read. Durable at once.
    ///
    /// # Errors
    /// As [`Inlet::begin`].
    pub(crate) async fn replaced(
        &mut self,
        partition: &Partition,
        at: Position,
        why: &str,
    ) -> Result<(), String> {
        let Partition { topic, number } = partition;
        let message =
            format!("{topic}, partition {number}: {why}; it is read from offset {} on", at.next);
        self.begin(vec![(partition.clone(), at)]).await?;
        tracing::error!(source = %self.context.id, "{message}");
        self.context.intake.metrics().error(1, "replaced", &message, now());
        Ok(())
    }

    /// Notes that the peer answers, and how many records wait there, if that is known.
    pub(crate) fn answers(&self, behind: Option<u64>) {
        let metrics = self.context.intake.metrics();
        metrics.way_answers(&self.way, None, now());
        if let Some(behind) = behind {
            metrics.way_behind(&self.way, behind);
        }
    }

    /// Notes that a part of what is read cannot be, while the rest goes on.
    pub(crate) fn fails(&self, why: &str) {
        self.context.intake.metrics().way_answers(&self.way, Some(why), now());
    }

    /// Waits for a future, or until the reader shall end.
    pub(crate) async fn until_end<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.end.cancelled() => None,
            done = work => Some(done),
        }
    }

    /// Appends what was fetched and waits until it is on disk, however long the journal takes no
    /// more. What was there already is left out.
    ///
    /// # Errors
    /// If the reader shall end; what was not appended is fetched again.
    pub(crate) async fn take(&mut self, fetched: Vec<Fetched>) -> Result<(), String> {
        let mut records: Vec<(Partition, Record)> = Vec::new();
        let mut bytes = 0;
        let mut after = self.cursor.clone();
        for Fetched { partition, records: new, next } in fetched {
            let unread = Position { next: 0, incarnation: 0 };
            for record in new {
                let position = after.0.entry(partition.clone()).or_insert(unread);
                if record.offset < position.next {
                    continue;
                }
                position.next = record.offset + 1;
                bytes += bytes_of(&record).min(self.record_bytes_max);
                records.push((partition.clone(), record));
                if bytes >= ENTRY_BYTES || records.len() >= ENTRY_RECORDS {
                    let full = std::mem::take(&mut records);
                    self.append_all(&full, after.clone()).await?;
                    bytes = 0;
                }
            }
            let position = after.0.entry(partition).or_insert(unread);
            position.next = position.next.max(next);
        }
        if records.is_empty() {
            // Goes along with the next entry.
            self.cursor = after;
            return Ok(());
        }
        self.append_all(&records, after).await
    }

    /// Appends records as one entry. If that cannot be decoded, in parts, and what alone cannot be
    /// is left out: the intake has counted it.
    fn append_all<'a>(
        &'a mut self,
        records: &'a [(Partition, Record)],
        after: Cursor,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            match self.append(records, after.clone()).await {
                Ok(()) => Ok(()),
                Err(Refused::Malformed(error)) if records.len() > 1 => {
                    tracing::warn!(source = %self.context.id, %error, "records go in parts");
                    let (first, second) = records.split_at(records.len() / 2);
                    let mut middle = self.cursor.clone();
                    for (partition, record) in first {
                        let position = Position { next: record.offset + 1, ..self.at(partition) };
                        middle.0.insert(partition.clone(), position);
                    }
                    self.append_all(first, middle).await?;
                    self.append_all(second, after).await
                }
                Err(Refused::Malformed(error)) => {
                    tracing::error!(source = %self.context.id, %error, "a record is left out");
                    self.cursor = after;
                    Ok(())
                }
                Err(error) => Err(error.to_string()),
            }
        })
    }

    fn at(&self, partition: &Partition) -> Position {
        self.position(partition).unwrap_or(Position { next: 0, incarnation: 0 })
    }

    async fn append(
        &mut self,
        records: &[(Partition, Record)],
        after: Cursor,
    ) -> Result<(), Refused> {
        let mut payload = Payload::default();
        for (partition, record) in records {
            payload.push(partition, record, self.record_bytes_max);
        }
        let envelope = Envelope {
            content_type: CONTENT_TYPE.to_owned(),
            target: self.way.clone(),
            ..Envelope::default()
        };
        let cursor = Bytes::from(after.encode(self.system.name));
        let intake = &self.context.intake;
        let decoder = &*self.decoder;
        let payload = payload.finish();
        intake
            .accept_patiently(self.generation, decoder, envelope, payload, cursor, &self.end)
            .await?;
        self.cursor = after;
        Ok(())
    }
}

fn bytes_of(record: &Record) -> usize {
    let headers: usize = record.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    headers + length(&record.key) + length(&record.value)
}
