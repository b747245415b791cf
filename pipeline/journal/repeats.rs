//! Requests that come a second time because their answer was lost, and that are taken once.
//!
//! An entry whose decoder says that it is idempotent is remembered by a key of what it is (tenant,
//! source, path, content type, encoding and payload) for [`WINDOW`] of receive time. The same again
//! gets the offset of the first and is not written. It never gets it before the first is durable:
//! while that is being written it waits, and if that fails it is written itself.
//!
//! Over a restart the keys come from where the journal has everything that must outlive its
//! entries: the header of a segment repeats those of the older ones, and the newest segment is
//! walked at every start anyway. That costs the start no further read, and a header at most
//! [`HEADER_SHARE`] of its segment. Where that is not room enough for five minutes, the newest count.
//!
//! When the clock is set back, what was received "later" is still known; when it is set ahead,
//! less is.
//!
//! A key has 128 bits of XXH3 and the length. With 2^16 keys known, a request meets a foreign one
//! of its length by chance once in 2^112; at 10,000 a second that is once in 10^22 years. XXH3 is no
//! cryptographic hash, but whoever wants to have a request left out that way has to know its bytes
//! beforehand, may send as the same tenant to the same source, and does not know the id of the
//! journal, which is the seed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::Xxh3;

use super::entry::NewEntry;

/// How long a request is known: senders give up after about as long (five minutes is where the
/// exporters of OpenTelemetry do).
const WINDOW: Duration = Duration::from_mins(5);

/// Keys known at a time, about 12 MiB of them: five minutes of 218 requests a second. With more,
/// the oldest are forgotten early, and counted.
const KEYS_MAX: usize = 64 << 10;

/// The part of a segment that the keys in its header may take.
const HEADER_SHARE: u64 = 16;

/// What a key takes in a header, in bytes.
const RECORD_BYTES: u64 = 48;

/// A key in a segment header.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyRecord {
    #[prost(bytes = "vec", tag = "1")]
    hash: Vec<u8>,
    #[prost(uint64, tag = "2")]
    length: u64,
    #[prost(uint64, tag = "3")]
    offset: u64,
    #[prost(sfixed64, tag = "4")]
    received: i64,
}

/// What makes two requests the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    hash: u128,
    length: u64,
}

#[derive(Clone, Copy)]
struct Kept {
    offset: u64,
    received: i64,
}

enum Known {
    /// Cancelled when it is known what came of it.
    Writing(CancellationToken),
    /// It is durable.
    Kept(Kept),
}

#[derive(Default)]
struct Table {
    known: HashMap<Key, Known>,
    /// Those kept, in the order in which they were, also those that were kept again since.
    order: VecDeque<(Key, Kept)>,
    forgotten: u64,
}

/// What is known of a request that arrives.
pub(super) enum Arrival {
    /// It is to be written.
    New(Claim),
    /// It was written as the entry with this offset.
    Repeated(u64),
    /// It is being written: ask again after this.
    Writing(CancellationToken),
}

/// The requests of the last minutes. Clones share them.
#[derive(Clone)]
pub(super) struct Repeats {
    seed: u64,
    table: Arc<Mutex<Table>>,
}

impl Repeats {
    /// Those of the journal with this id.
    pub(super) fn new(id: u128) -> Self {
        #[allow(clippy::cast_possible_truncation)]
        let seed = (id ^ (id >> 64)) as u64;
        Self { seed, table: Arc::default() }
    }

    /// The key of an entry; `None` for those that are taken as often as they come.
    pub(super) fn key(&self, entry: &NewEntry) -> Option<Key> {
        if !entry.idempotent {
            return None;
        }
        let e = &entry.envelope;
        let mut hash = Xxh3::with_seed(self.seed);
        for part in [&*entry.tenant, &*entry.source, &e.path, &e.content_type, &e.encoding] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        hash.update(&entry.payload);
        Some(Key { hash: hash.digest128(), length: entry.payload.len() as u64 })
    }

    /// What is known of a request with this key, received now.
    pub(super) fn arrive(&self, key: Key, received: i64) -> Arrival {
        let mut table = self.table.lock();
        match table.known.get(&key) {
            Some(Known::Kept(kept)) if is_recent(*kept, received) => {
                return Arrival::Repeated(kept.offset);
            }
            Some(Known::Writing(done)) => return Arrival::Writing(done.clone()),
            _ => {}
        }
        let done = CancellationToken::new();
        table.known.insert(key, Known::Writing(done.clone()));
        Arrival::New(Claim { repeats: self.clone(), key, received, offset: None, done })
    }

    /// Takes note of an entry found in the journal.
    pub(super) fn found(&self, entry: &NewEntry, offset: u64) {
        if let Some(key) = self.key(entry) {
            self.table.lock().keep(key, Kept { offset, received: entry.received });
        }
    }

    /// Takes note of what a segment header says.
    pub(super) fn restore(&self, records: &[KeyRecord]) {
        let mut table = self.table.lock();
        for r in records {
            let Ok(hash) = r.hash.as_slice().try_into().map(u128::from_be_bytes) else { continue };
            let kept = Kept { offset: r.offset, received: r.received };
            table.keep(Key { hash, length: r.length }, kept);
        }
    }

    /// What the header of a segment of this size says, the oldest first.
    pub(super) fn records(&self, segment_bytes: u64) -> Vec<KeyRecord> {
        let table = self.table.lock();
        let most = usize::try_from(segment_bytes / HEADER_SHARE / RECORD_BYTES).unwrap_or(KEYS_MAX);
        let from = table.order.len().saturating_sub(most);
        let Some(newest) = table.order.back().map(|(_, kept)| kept.received) else {
            return Vec::new();
        };
        let recent = table.order.range(from..).filter(|(_, kept)| is_recent(*kept, newest));
        recent
            .map(|(key, kept)| KeyRecord {
                hash: key.hash.to_be_bytes().into(),
                length: key.length,
                offset: kept.offset,
                received: kept.received,
            })
            .collect()
    }

    /// Keys that were forgotten before their time, as there were too many.
    pub(super) fn forgotten(&self) -> u64 {
        self.table.lock().forgotten
    }
}

fn is_recent(kept: Kept, now: i64) -> bool {
    i128::from(now) - i128::from(kept.received) <= WINDOW.as_nanos().cast_signed()
}

impl Table {
    fn keep(&mut self, key: Key, kept: Kept) {
        self.known.insert(key, Known::Kept(kept));
        self.order.push_back((key, kept));
        while let Some((key, oldest)) = self.order.front().copied() {
            let early = is_recent(oldest, kept.received);
            if early && self.order.len() <= KEYS_MAX {
                break;
            }
            self.order.pop_front();
            // It may have been kept again, or be on its way.
            if matches!(self.known.get(&key), Some(Known::Kept(k)) if k.offset == oldest.offset) {
                self.known.remove(&key);
                self.forgotten += u64::from(early);
            }
        }
    }
}

/// An entry on its way to the disk. When it is dropped, those that wait learn what came of it.
pub(super) struct Claim {
    repeats: Repeats,
    key: Key,
    received: i64,
    /// Where it was written.
    offset: Option<u64>,
    done: CancellationToken,
}

impl Claim {
    /// The entry is durable.
    pub(super) fn keep(mut self, offset: u64) {
        self.offset = Some(offset);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut table = self.repeats.table.lock();
        match self.offset {
            Some(offset) => table.keep(self.key, Kept { offset, received: self.received }),
            None => drop(table.known.remove(&self.key)),
        }
        drop(table);
        self.done.cancel();
    }
}
