//! The records of one fetch as one journal payload.
//!
//! Version (1), then items. `1`: topic and number of the partition to which the records that follow
//! belong. `2`: a record: offset, flags, then what the flags say is there, in the order of
//! [`TIME`] to [`VALUE`]. Numbers are varints, times and offsets are not delta-coded: the journal
//! is short-lived. Texts and bytes have their length in front.

use std::sync::Arc;

use bytes::Bytes;

use super::cursor::Partition;
use super::wire::{Take, put_bytes, put_varint};

/// Media type of the payload.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.weir.records";

const VERSION: u8 = 1;
const PARTITION: u8 = 1;
const RECORD: u8 = 2;

/// UTC nanoseconds, eight bytes little-endian.
const TIME: u8 = 1;
/// Bytes.
const KEY: u8 = 2;
/// Text.
const NAME: u8 = 4;
/// A number, then as many pairs of text and bytes.
const HEADERS: u8 = 8;
/// How long the value was that is left out.
const OMITTED: u8 = 16;
/// Bytes.
const VALUE: u8 = 32;

/// A record as a client hands it over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its place in the partition.
    pub(crate) offset: u64,
    /// When it was written, UTC nanoseconds.
    pub(crate) time: Option<i64>,
    /// Its key.
    pub(crate) key: Option<Bytes>,
    /// Where it was sent, if that is more than the topic says (a NATS subject).
    pub(crate) name: Option<Arc<str>>,
    /// Its headers, in order; a name may come more than once.
    pub(crate) headers: Vec<(String, Bytes)>,
    /// What it says.
    pub(crate) value: Option<Bytes>,
}

/// Collects records of a payload.
#[derive(Debug)]
pub(super) struct Payload {
    bytes: Vec<u8>,
    partition: Option<Partition>,
}

impl Default for Payload {
    fn default() -> Self {
        Self { bytes: vec![VERSION], partition: None }
    }
}

impl Payload {
    /// Adds a record, without its value if that has more than `value_bytes_max`.
    pub(super) fn push(&mut self, partition: &Partition, record: &Record, value_bytes_max: usize) {
        let out = &mut self.bytes;
        if self.partition.as_ref() != Some(partition) {
            out.push(PARTITION);
            put_bytes(partition.topic.as_bytes(), out);
            put_varint(partition.number.into(), out);
            self.partition = Some(partition.clone());
        }
        let too_long = record.value.as_ref().filter(|v| v.len() > value_bytes_max);
        let value = if too_long.is_some() { None } else { record.value.as_ref() };
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        out.push(RECORD);
        put_varint(record.offset, out);
        out.push(
            flag(record.time.is_some(), TIME)
                | flag(record.key.is_some(), KEY)
                | flag(record.name.is_some(), NAME)
                | flag(!record.headers.is_empty(), HEADERS)
                | flag(too_long.is_some(), OMITTED)
                | flag(value.is_some(), VALUE),
        );
        if let Some(time) = record.time {
            out.extend_from_slice(&time.to_le_bytes());
        }
        if let Some(key) = &record.key {
            put_bytes(key, out);
        }
        if let Some(name) = &record.name {
            put_bytes(name.as_bytes(), out);
        }
        if !record.headers.is_empty() {
            put_varint(record.headers.len() as u64, out);
            for (name, value) in &record.headers {
                put_bytes(name.as_bytes(), out);
                put_bytes(value, out);
            }
        }
        if let Some(value) = too_long {
            put_varint(value.len() as u64, out);
        }
        if let Some(value) = value {
            put_bytes(value, out);
        }
    }

    /// The payload.
    pub(super) fn finish(self) -> Bytes {
        self.bytes.into()
    }
}

/// A record of a payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) time: Option<i64>,
    pub(super) key: Option<&'a [u8]>,
    pub(super) name: Option<&'a str>,
    pub(super) headers: Vec<(&'a str, &'a [u8])>,
    /// How long the value was, if it was left out for that.
    pub(super) omitted: Option<u64>,
    pub(super) value: Option<&'a [u8]>,
}

/// The records of a payload; `None` if it is none.
pub(super) fn read(payload: &[u8]) -> Option<Vec<Frame<'_>>> {
    let mut take = Take(payload);
    if take.byte()? != VERSION {
        return None;
    }
    let mut frames = Vec::new();
    let (mut topic, mut partition) = ("", 0);
    while !take.is_empty() {
        match take.byte()? {
            PARTITION => {
                topic = take.text()?;
                partition = u32::try_from(take.varint()?).ok()?;
            }
            RECORD => frames.push(Frame { topic, partition, ..frame(&mut take)? }),
            _ => return None,
        }
    }
    Some(frames)
}

fn frame<'a>(take: &mut Take<'a>) -> Option<Frame<'a>> {
    let mut frame = Frame { offset: take.varint()?, ..Frame::default() };
    let flags = take.byte()?;
    if flags & TIME != 0 {
        let (time, rest) = take.0.split_first_chunk()?;
        take.0 = rest;
        frame.time = Some(i64::from_le_bytes(*time));
    }
    if flags & KEY != 0 {
        frame.key = Some(take.bytes()?);
    }
    if flags & NAME != 0 {
        frame.name = Some(take.text()?);
    }
    if flags & HEADERS != 0 {
        for _ in 0..take.varint()? {
            frame.headers.push((take.text()?, take.bytes()?));
        }
    }
    if flags & OMITTED != 0 {
        frame.omitted = Some(take.varint()?);
    }
    if flags & VALUE != 0 {
        frame.value = Some(take.bytes()?);
    }
    Some(frame)
}
