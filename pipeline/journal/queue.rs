//! What waits to be written: bounded in bytes, ticks and marks ahead of data.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use prost::Message;
use tokio::sync::oneshot;

use super::entry::{EntryKind, NewEntry};
use super::frame::{self, Head, PREFIX_BYTES};
use super::repeats::Claim;
use super::state::{Shared, generation_note};
use super::{AppendError, BUSY_RETRY, FULL_RETRY};

/// Most bytes written between two syncs: bounds how long the first of a batch waits.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// Most entries written between two syncs, far below `segment::SPAN`.
pub(super) const BATCH_ENTRIES_MAX: usize = 64 << 10;

/// Past `max_bytes` ticks, marks and generations still find this much room, in bytes: some
/// hours of ticks, so that checkpoints and trimming go on.
const RESERVE_BYTES: u64 = 4 << 20;

/// What an entry takes in the queue besides its bytes.
pub(super) const QUEUED_BYTES: usize = 256;

/// What is to be written.
pub(super) enum Work {
    /// An entry.
    Entry(Box<NewEntry>),
    /// The settings of a source generation.
    Generation { source: Arc<str>, number: u32, text: Arc<str> },
}

pub(super) type Answer = oneshot::Sender<Result<u64, AppendError>>;

/// Something queued, encoded already.
pub(super) struct Queued {
    pub(super) work: Work,
    pub(super) head: Vec<u8>,
    pub(super) payload: Bytes,
    /// Checksum of head and payload.
    pub(super) crc: u32,
    /// Of an entry that is taken once however often it comes.
    pub(super) claim: Option<Claim>,
    pub(super) answer: Answer,
}

impl Queued {
    /// Encoded and hashed here, on the thread of the sender.
    pub(super) fn new(work: Work, claim: Option<Claim>, answer: Answer) -> Self {
        let (head, payload) = match &work {
            Work::Entry(entry) => (Head::of(entry).encode_to_vec(), entry.payload.clone()),
            Work::Generation { source, number, text } => generation_note(source, *number, text),
        };
        let crc = frame::body_crc(&head, &payload);
        Self { work, head, payload, crc, claim, answer }
    }

    fn body(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// Bytes that it counts for while it waits.
    pub(super) fn cost(&self) -> usize {
        self.body() + QUEUED_BYTES
    }

    fn is_data(&self) -> bool {
        matches!(&self.work, Work::Entry(e) if e.kind == EntryKind::Data)
    }
}

/// What waits to be written.
#[derive(Default)]
pub(super) struct Queue {
    /// Ticks, marks and generations: written ahead of data.
    urgent: VecDeque<Queued>,
    data: VecDeque<Queued>,
    bytes: usize,
    /// Nothing more is taken; the writer ends when all is written.
    pub(super) closing: bool,
}

impl Shared {
    /// Queues for the writer.
    pub(super) fn enqueue(&self, item: Queued) -> Result<(), AppendError> {
        if item.body() > frame::BODY_BYTES_MAX {
            return Err(AppendError::Io(format!(
                "an entry of {} bytes is larger than the {} that fit",
                item.body(),
                frame::BODY_BYTES_MAX
            )));
        }
        let max = self.options.lock().max_bytes;
        let data = item.is_data();
        let limit = if data { max } else { max.saturating_add(RESERVE_BYTES) };
        let mut queue = self.queue.lock();
        if queue.closing {
            return Err(AppendError::Stopped);
        }
        let ahead = (queue.bytes + item.body() + PREFIX_BYTES) as u64;
        if self.bytes.load(Relaxed).saturating_add(ahead) > limit {
            return Err(AppendError::Full { retry_after: FULL_RETRY });
        }
        // One entry always fits, however large; what is urgent is small and always does.
        if data && queue.bytes > 0 && queue.bytes + item.cost() > self.tuning.queue_bytes {
            return Err(AppendError::Busy { retry_after: BUSY_RETRY });
        }
        queue.bytes += item.cost();
        if data {
            queue.data.push_back(item);
        } else {
            queue.urgent.push_back(item);
        }
        drop(queue);
        self.queued.notify_one();
        Ok(())
    }

    /// The next batch; `None` once closed and empty.
    pub(super) fn take(&self) -> Option<Vec<Queued>> {
        let mut queue = self.queue.lock();
        while queue.urgent.is_empty() && queue.data.is_empty() {
            if queue.closing {
                return None;
            }
            self.queued.wait(&mut queue);
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_ENTRIES_MAX && bytes < BATCH_BYTES_MAX {
            let next = queue.urgent.pop_front();
            let Some(item) = next.or_else(|| queue.data.pop_front()) else { break };
            bytes += item.cost();
            batch.push(item);
        }
        Some(batch)
    }

    /// Makes room for as much again as a batch took that is answered. `cost` is in bytes.
    pub(super) fn release(&self, cost: usize) {
        let mut queue = self.queue.lock();
        queue.bytes = queue.bytes.saturating_sub(cost);
    }

    /// Takes nothing more, and drops what still waits: senders learn it from their channel.
    pub(super) fn shut(&self) {
        let mut queue = self.queue.lock();
        queue.closing = true;
        queue.urgent.clear();
        queue.data.clear();
    }
}
