//! Frames of the manifest's log: magic, length, checksum, sequence number, records as JSON.

use super::record::Record;

/// What every file of the manifest starts with: eight bytes, then the version as `u32`.
pub(crate) const FILE_MAGIC: &[u8; 8] = b"WEIRMANI";
/// The format that this binary writes, and the newest that it reads.
pub(crate) const VERSION: u32 = 1;
/// Length of the header of a file.
pub(crate) const HEADER: usize = 12;
/// What the kinds of records start with that say nothing a reader must know.
const OPTIONAL: &str = "optional_";
const FRAME_MAGIC: &[u8; 4] = b"\xf7WM\x01";
/// Magic, length, checksum, sequence number.
const FRAME_HEADER: usize = 20;

/// The header of a file.
pub(crate) fn header() -> Vec<u8> {
    [&FILE_MAGIC[..], &VERSION.to_le_bytes()].concat()
}

/// What a file's header says.
pub(crate) enum Header {
    /// It can be read.
    Good,
    /// A newer binary wrote it.
    Newer(u32),
    /// It is no header.
    Bad,
}

pub(crate) fn check_header(bytes: &[u8]) -> Header {
    let version = bytes.get(8..HEADER).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    match version {
        Some(v) if bytes.starts_with(FILE_MAGIC) && v <= VERSION => Header::Good,
        // Believed only with its checksum, which later formats have behind it.
        Some(v)
            if bytes.starts_with(FILE_MAGIC)
                && bytes.get(HEADER..HEADER + 4)
                    == Some(&crc32c::crc32c(&bytes[..HEADER]).to_le_bytes()[..]) =>
        {
            Header::Newer(v)
        }
        _ => Header::Bad,
    }
}

/// A frame as bytes.
pub(crate) fn encode(sequence: u64, records: &[Record]) -> Result<Vec<u8>, serde_json::Error> {
    Ok(encode_json(sequence, &serde_json::to_vec(records)?))
}

/// A frame of records that are JSON already.
pub(super) fn encode_json(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + FRAME_HEADER);
    out.extend(FRAME_MAGIC);
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(checksum(sequence, payload).to_le_bytes());
    out.extend(sequence.to_le_bytes());
    out.extend(payload);
    out
}

fn checksum(sequence: u64, payload: &[u8]) -> u32 {
    let start = crc32c::crc32c(&(payload.len() as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(start, &sequence.to_le_bytes()), payload)
}

/// A whole frame at the start of `bytes`: sequence number, records, length in bytes.
pub(crate) fn decode(bytes: &[u8]) -> Option<(u64, Vec<Record>, usize)> {
    let rest = bytes.strip_prefix(FRAME_MAGIC)?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let payload = rest.get(..u32::from_le_bytes(*len) as usize)?;
    let sequence = u64::from_le_bytes(*sequence);
    if checksum(sequence, payload) != u32::from_le_bytes(*crc) {
        return None;
    }
    let records = records(payload)?;
    Some((sequence, records, FRAME_HEADER + payload.len()))
}

/// The records of a payload. One of a kind that is not known here becomes
/// [`Record::Unknown`], unless its kind starts with [`OPTIONAL`]: readers may pass over it.
fn records(payload: &[u8]) -> Option<Vec<Record>> {
    if let Ok(records) = serde_json::from_slice(payload) {
        return Some(records);
    }
    let values: Vec<serde_json::Value> = serde_json::from_slice(payload).ok()?;
    let mut out = Vec::with_capacity(values.len());
    for value in values {
        let kind = value.as_object().and_then(|o| o.keys().next()).cloned().unwrap_or_default();
        match serde_json::from_value(value) {
            Ok(record) => out.push(record),
            Err(_) if kind.starts_with(OPTIONAL) => {}
            Err(_) => out.push(Record::Unknown { kind }),
        }
    }
    Some(out)
}

/// Whether a bad frame at the end of a log was never wholly written: it is shorter than it says.
/// What has its length, or would be whole with another, was written and is damaged.
pub(crate) fn is_torn(tail: &[u8]) -> bool {
    let Some(payload) = tail.get(FRAME_HEADER..) else { return true };
    let magic = tail.starts_with(FRAME_MAGIC);
    let length = tail[4..8].try_into().map_or(0, u32::from_le_bytes) as usize;
    let whole = serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok();
    !whole && (!magic || payload.len() < length)
}

/// Where the next whole frame starts at or after `from`.
pub(crate) fn find(bytes: &[u8], from: usize) -> Option<usize> {
    let tail = bytes.get(from..)?;
    tail.windows(FRAME_MAGIC.len())
        .enumerate()
        .filter(|(_, w)| w == FRAME_MAGIC)
        .map(|(i, _)| from + i)
        .find(|&at| decode(&bytes[at..]).is_some())
}
