//! The file of a checkpoint: `WEIRCKPT`, format version (u32 LE), header length (u32 LE), header
//! (JSON), the blobs that the header lists in order, and the CRC32C (u32 LE) of all that.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Checkpoint;
use crate::component::Staged;
use crate::graph::{NodeState, States};

const MAGIC: &[u8; 8] = b"WEIRCKPT";
/// Version of the file format; another one is refused by name.
pub(super) const FORMAT: u32 = 1;
#[derive(Serialize, Deserialize)]
struct Header {
    pipeline: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detached: Option<String>,
    plan: String,
    journal: String,
    position: u64,
    now: i64,
    watermark: i64,
    removed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renamed: Option<String>,
    states: Vec<StateHeader>,
    sinks: Vec<SinkHeader>,
}

#[derive(Serialize, Deserialize)]
struct StateHeader {
    node: String,
    shape: String,
    bytes: usize,
}

#[derive(Serialize, Deserialize)]
struct SinkHeader {
    sink: String,
    work: usize,
    carry: usize,
}

pub(super) fn encode(c: &Checkpoint) -> io::Result<Vec<u8>> {
    let header = Header {
        pipeline: c.pipeline.clone(),
        detached: c.detached.clone(),
        plan: c.plan.clone(),
        journal: format!("{:032x}", c.journal),
        position: c.position,
        now: c.now,
        watermark: c.watermark,
        removed: c.removed,
        renamed: c.renamed.clone(),
        states: c
            .states
            .iter()
            .map(|(node, s)| StateHeader {
                node: node.clone(),
                shape: s.shape.clone(),
                bytes: s.bytes.len(),
            })
            .collect(),
        sinks: c
            .sinks
            .iter()
            .map(|(sink, s)| SinkHeader {
                sink: sink.clone(),
                work: s.work.len(),
                carry: s.carry.len(),
            })
            .collect(),
    };
    let header = serde_json::to_vec(&header)?;
    let mut out = Vec::with_capacity(header.len() + 64);
    out.extend(MAGIC);
    out.extend(FORMAT.to_le_bytes());
    out.extend((header.len() as u32).to_le_bytes());
    out.extend(&header);
    for state in c.states.values() {
        out.extend(&state.bytes);
    }
    for staged in c.sinks.values() {
        out.extend(&staged.work);
        out.extend(&staged.carry);
    }
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    Ok(out)
}

/// The plan that the file names, without reading what it holds; `None` if it is damaged or of another
/// version.
pub(super) fn plan_of(path: &Path) -> io::Result<Option<String>> {
    let mut file = fs::File::open(path)?;
    let mut start = [0; 16];
    match file.read_exact(&mut start) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let word = |at: usize| start[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
    if start[..8] != *MAGIC || word(8) != FORMAT {
        return Ok(None);
    }
    let mut header = Vec::new();
    file.take(word(12).into()).read_to_end(&mut header)?;
    let header: Option<Header> = serde_json::from_slice(&header).ok();
    Ok(header.map(|header| header.plan))
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Version(u32),
    Damaged(String),
}

pub(super) fn decode(bytes: &[u8]) -> Result<Checkpoint, Unreadable> {
    let damaged = |why: &str| Unreadable::Damaged(why.to_owned());
    let word = |at: usize| -> Option<u32> {
        bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
    };
    if bytes.get(..8) != Some(MAGIC) {
        return Err(damaged("not a checkpoint"));
    }
    let version = word(8).ok_or_else(|| damaged("cut short"))?;
    let Some(end) = bytes.len().checked_sub(4).filter(|&end| end >= 16) else {
        return Err(damaged("cut short"));
    };
    if word(end) != Some(crc32c::crc32c(&bytes[..end])) {
        return Err(damaged("checksum does not match"));
    }
    // After the checksum: a version is believed only if the file is whole.
    if version != FORMAT {
        return Err(Unreadable::Version(version));
    }
    let mut rest = &bytes[16..end];
    let mut take = |n: usize| -> Result<&[u8], Unreadable> {
        let (head, tail) = rest.split_at_checked(n).ok_or_else(|| damaged("cut short"))?;
        rest = tail;
        Ok(head)
    };
    let header = take(word(12).unwrap_or_default() as usize)?;
    let header: Header =
        serde_json::from_slice(header).map_err(|e| Unreadable::Damaged(e.to_string()))?;
    let mut states = States::new();
    for s in header.states {
        let bytes = take(s.bytes)?.to_vec();
        states.insert(s.node, NodeState { shape: s.shape, bytes });
    }
    let mut sinks = BTreeMap::new();
    for s in header.sinks {
        let (work, carry) = (take(s.work)?.to_vec(), take(s.carry)?.to_vec());
        sinks.insert(s.sink, Staged { work, carry });
    }
    Ok(Checkpoint {
        pipeline: header.pipeline,
        detached: header.detached,
        plan: header.plan,
        journal: u128::from_str_radix(&header.journal, 16).unwrap_or_default(),
        position: header.position,
        now: header.now,
        watermark: header.watermark,
        removed: header.removed,
        renamed: header.renamed,
        states,
        sinks,
    })
}
