//! Frames: how one entry, or one note of the journal to itself, stands in a segment.
//!
//! ```text
//! u32 body length | u32 head length | u64 offset | u32 CRC32C of body | u32 CRC32C of these | body
//! ```
//! All little endian; the body is the head (a protobuf message) followed by the payload as
//! received. The second checksum begins with the salt of the segment, a random number that
//! nobody outside knows: bytes of a payload, or of an older file on the same blocks, cannot pass
//! for a frame when the walk has to find its way after damage. It also covers the first
//! checksum, so that a body can be hashed before its offset is known.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::entry::{EntryKind, Envelope, NewEntry};

/// Bytes in front of a body.
pub(super) const PREFIX_BYTES: usize = 24;

/// Largest body. Sources limit what they take far below it (16 MiB or so); this bounds what a
/// damaged length can make the reader allocate.
pub(super) const BODY_BYTES_MAX: usize = 256 << 20;

const DATA: u32 = 1;
const TICK: u32 = 2;
const MARK: u32 = 3;
/// A note: the settings of a source generation. Not an entry, its offset is 0.
pub(super) const GENERATION: u32 = 16;
/// A note: the journal was closed in order, `number` is the next offset. Its offset is 0.
pub(super) const CLOSED: u32 = 17;

/// What stands in front of the payload. Every field is optional on the wire, so that fields can
/// be added; a reader ignores those that it does not know.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Head {
    #[prost(uint32, tag = "1")]
    pub(super) kind: u32,
    #[prost(string, tag = "2")]
    pub(super) source: String,
    #[prost(uint32, tag = "3")]
    pub(super) generation: u32,
    #[prost(string, tag = "4")]
    pub(super) tenant: String,
    #[prost(sfixed64, tag = "5")]
    pub(super) received: i64,
    #[prost(bytes = "bytes", tag = "6")]
    pub(super) cursor: Bytes,
    #[prost(string, tag = "7")]
    pub(super) content_type: String,
    #[prost(string, tag = "8")]
    pub(super) encoding: String,
    #[prost(string, tag = "9")]
    pub(super) path: String,
    #[prost(string, tag = "10")]
    pub(super) peer: String,
    #[prost(string, tag = "11")]
    pub(super) target: String,
    #[prost(string, tag = "12")]
    pub(super) outcome: String,
    #[prost(uint64, tag = "13")]
    pub(super) number: u64,
    #[prost(bool, tag = "14")]
    pub(super) idempotent: bool,
}

impl Head {
    /// The head of an entry.
    pub(super) fn of(entry: &NewEntry) -> Self {
        let e = &entry.envelope;
        Self {
            kind: match entry.kind {
                EntryKind::Data => DATA,
                EntryKind::Tick => TICK,
                EntryKind::Mark => MARK,
            },
            source: entry.source.to_string(),
            generation: entry.generation,
            tenant: entry.tenant.to_string(),
            received: entry.received,
            cursor: entry.cursor.clone(),
            content_type: e.content_type.clone(),
            encoding: e.encoding.clone(),
            path: e.path.clone(),
            peer: e.peer.clone(),
            target: e.target.clone(),
            outcome: e.outcome.clone(),
            number: 0,
            idempotent: entry.idempotent,
        }
    }

    /// The entry behind this head; `None` for notes and for kinds of a later version.
    pub(super) fn entry(self, payload: Bytes, names: &mut Names) -> Option<NewEntry> {
        let kind = match self.kind {
            DATA => EntryKind::Data,
            TICK => EntryKind::Tick,
            MARK => EntryKind::Mark,
            _ => return None,
        };
        Some(NewEntry {
            kind,
            source: names.get(&self.source),
            generation: self.generation,
            tenant: names.get(&self.tenant),
            received: self.received,
            cursor: self.cursor,
            envelope: Envelope {
                content_type: self.content_type,
                encoding: self.encoding,
                path: self.path,
                peer: self.peer,
                target: self.target,
                outcome: self.outcome,
            },
            payload,
            idempotent: self.idempotent,
            decoded: None,
        })
    }
}

/// Shares source and tenant names among the entries of one read.
#[derive(Default)]
pub(super) struct Names(Vec<Arc<str>>);

impl Names {
    /// Names remembered; further ones are not shared.
    const MAX: usize = 64;

    pub(super) fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|n| &***n == name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        if self.0.len() < Self::MAX {
            self.0.push(name.clone());
        }
        name
    }
}

/// The checksum of a body.
pub(super) fn body_crc(head: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), payload)
}

/// What stands in front of a body. Lengths are below [`BODY_BYTES_MAX`].
pub(super) fn prefix(
    salt: u32,
    offset: u64,
    head: usize,
    payload: usize,
    crc: u32,
) -> [u8; PREFIX_BYTES] {
    let mut out = [0; PREFIX_BYTES];
    out[0..4].copy_from_slice(&u32::try_from(head + payload).unwrap_or(u32::MAX).to_le_bytes());
    out[4..8].copy_from_slice(&u32::try_from(head).unwrap_or(u32::MAX).to_le_bytes());
    out[8..16].copy_from_slice(&offset.to_le_bytes());
    out[16..20].copy_from_slice(&crc.to_le_bytes());
    let check = prefix_crc(salt, &out);
    out[20..24].copy_from_slice(&check.to_le_bytes());
    out
}

fn prefix_crc(salt: u32, prefix: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &prefix[..20])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].try_into().map_or(0, u32::from_le_bytes)
}

/// A prefix whose own checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) offset: u64,
    pub(super) head: usize,
    pub(super) body: usize,
    crc: u32,
}

impl Prefix {
    /// Bytes of the whole frame.
    pub(super) fn total(self) -> usize {
        PREFIX_BYTES + self.body
    }
}

/// The prefix at the start of `bytes` (at least [`PREFIX_BYTES`] of them), if it is one.
pub(super) fn read_prefix(salt: u32, bytes: &[u8]) -> Option<Prefix> {
    let (body, head) = (u32_at(bytes, 0) as usize, u32_at(bytes, 4) as usize);
    if head == 0 || head > body || body > BODY_BYTES_MAX {
        return None;
    }
    if prefix_crc(salt, bytes) != u32_at(bytes, 20) {
        return None;
    }
    let offset = bytes[8..16].try_into().map_or(0, u64::from_le_bytes);
    Some(Prefix { offset, head, body, crc: u32_at(bytes, 16) })
}

/// What stands at some place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A good frame; ranges count from the start of the bytes given.
    Frame { offset: u64, head: Range<usize>, payload: Range<usize> },
    /// So many bytes are needed to tell.
    Short(usize),
    /// The prefix is good, the body is not: the next frame stands at this distance.
    BadBody(usize),
    /// Not a frame.
    BadPrefix,
}

/// Reads the frame at the start of `bytes`.
pub(super) fn parse(salt: u32, bytes: &[u8]) -> Parsed {
    if bytes.len() < PREFIX_BYTES {
        return Parsed::Short(PREFIX_BYTES);
    }
    let Some(prefix) = read_prefix(salt, bytes) else { return Parsed::BadPrefix };
    let total = prefix.total();
    if bytes.len() < total {
        return Parsed::Short(total);
    }
    if crc32c::crc32c(&bytes[PREFIX_BYTES..total]) != prefix.crc {
        return Parsed::BadBody(total);
    }
    let split = PREFIX_BYTES + prefix.head;
    Parsed::Frame { offset: prefix.offset, head: PREFIX_BYTES..split, payload: split..total }
}
