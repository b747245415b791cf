//! Journal entries: what they say of themselves, and how they arrived.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::batch::Batch;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// Outside data, as received.
    Data,
    /// Time moved on; the only place where windows emit and timers fire.
    Tick,
    /// A tick appended at once, for a checkpoint, a reload or a stop. Its payload says which.
    Mark,
}

/// How a payload arrived: all that its decoder may need besides the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Media type (`application/x-protobuf`).
    pub content_type: String,
    /// Content encoding of the payload as stored (`gzip`, `snappy`, empty for none).
    pub encoding: String,
    /// Request path or protocol method (`/v1/logs`).
    pub path: String,
    /// Address of the sender.
    pub peer: String,
    /// What was asked, for sources that ask (a scrape target).
    pub target: String,
    /// How it went, for sources that ask: source-specific text.
    pub outcome: String,
}

/// An entry about to be appended.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// What it is.
    pub kind: EntryKind,
    /// Source id; empty for ticks and marks.
    pub source: Arc<str>,
    /// Generation of the source's settings.
    pub generation: u32,
    /// Tenant.
    pub tenant: Arc<str>,
    /// When it was received (for ticks: the time they carry), UTC nanoseconds.
    pub received: i64,
    /// Where the source goes on after this entry (a file offset, a Kafka offset); empty for
    /// sources that cannot go back.
    pub cursor: Bytes,
    /// How it arrived.
    pub envelope: Envelope,
    /// The bytes as received.
    pub payload: Bytes,
    /// Whether the same again adds nothing ([`Decoded::idempotent`](crate::component::Decoded)).
    pub idempotent: bool,
    /// The rows of it, if they were decoded already: (output name, batch), offsets unset.
    pub decoded: Option<Vec<(&'static str, Batch)>>,
}

/// A durable entry, as pipelines see it.
#[derive(Debug)]
pub struct Entry {
    /// Position in this journal; never used twice.
    pub offset: u64,
    /// Everything else.
    pub head: NewEntry,
    /// The rows by output, decoded at most once however many pipelines read them.
    pub batches: OnceLock<Arc<Vec<(&'static str, Batch)>>>,
}
