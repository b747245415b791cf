//! Where a source goes on, as its journal entries carry it.
//!
//! Version (1); name of the system; then per partition: topic, number, next offset, incarnation.
//! Numbers are varints, texts have their length in front.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::wire::{Take, put_bytes, put_varint};

const VERSION: u8 = 1;

/// A log that is read in order: one partition of a topic, or a stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Partition {
    /// Topic or stream.
    pub(crate) topic: Arc<str>,
    /// Number of the partition; 0 where there is only one.
    pub(crate) number: u32,
}

/// A place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The first offset that was not read.
    pub(crate) next: u64,
    /// Tells the log from another one that had its name before, if the system can tell (when it was
    /// made); else 0.
    pub(crate) incarnation: u64,
}

/// The places of all partitions of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor(pub(crate) BTreeMap<Partition, Position>);

impl Cursor {
    /// As bytes for an entry.
    pub(crate) fn encode(&self, system: &str) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_bytes(system.as_bytes(), &mut out);
        for (partition, position) in &self.0 {
            put_bytes(partition.topic.as_bytes(), &mut out);
            put_varint(partition.number.into(), &mut out);
            put_varint(position.next, &mut out);
            put_varint(position.incarnation, &mut out);
        }
        out
    }

    /// What an entry carried; `None` if it is of another system, which says nothing about this one.
    ///
    /// # Errors
    /// If it cannot be read: guessing where to go on would lose or double records.
    pub(crate) fn decode(bytes: &[u8], system: &str) -> Result<Option<Self>, String> {
        let mut take = Take(bytes);
        match take.byte() {
            Some(VERSION) => {}
            version => {
                return Err(format!(
                    "the journal has positions of version {} for this source, and this Weir reads \
                     {VERSION}; start the newer Weir, or give the source another id to begin anew",
                    version.unwrap_or_default()
                ));
            }
        }
        let damaged = || {
            "the positions that the journal has for this source cannot be read; give the source \
             another id to begin anew"
                .to_owned()
        };
        if take.text().ok_or_else(damaged)? != system {
            return Ok(None);
        }
        let mut positions = BTreeMap::new();
        while !take.is_empty() {
            let (partition, position) = Self::entry(&mut take).ok_or_else(damaged)?;
            positions.insert(partition, position);
        }
        Ok(Some(Self(positions)))
    }

    fn entry(take: &mut Take<'_>) -> Option<(Partition, Position)> {
        let topic = take.text()?.into();
        let number = u32::try_from(take.varint()?).ok()?;
        let position = Position { next: take.varint()?, incarnation: take.varint()? };
        Some((Partition { topic, number }, position))
    }
}
