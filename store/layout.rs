//! The order of rows in a file: layouts, slices, and the runs of each entity.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Result, StoreError};

/// Most rows of a slice, which is one row group.
pub const SLICE_ROWS: usize = 64 << 10;

/// How the rows of a file are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Metrics: hour sections in order of time; within one by (entity, time). Row groups never
    /// cross an hour, but one hour may have many, each with a part of the entities.
    Series,
    /// Logs, spans and everything else: row groups are stretches of time, in order; within one
    /// by (entity, time).
    Slices,
}

/// One row group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Number of rows.
    pub rows: u32,
    /// Earliest `timestamp`, UTC nanoseconds.
    pub min_time: i64,
    /// Latest `timestamp`, UTC nanoseconds.
    pub max_time: i64,
}

/// Consecutive rows of one entity in one slice, in order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntityRun {
    /// Entity id in the file's [`crate::entity_log::EntitySet`].
    pub entity: u32,
    /// First row in the file.
    pub first: u64,
    /// Number of rows.
    pub rows: u32,
    /// Earliest `timestamp`, UTC nanoseconds.
    pub min_time: i64,
    /// Latest `timestamp`, UTC nanoseconds.
    pub max_time: i64,
}

/// All runs of a file, in row order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs(Vec<EntityRun>);

impl std::ops::Deref for Runs {
    type Target = [EntityRun];

    fn deref(&self) -> &[EntityRun] {
        &self.0
    }
}

impl Runs {
    /// Adds a row; rows come in file order. `new_slice`: it is the first of its slice.
    pub(crate) fn push(&mut self, entity: u32, time: i64, new_slice: bool) {
        match self.0.last_mut() {
            Some(run) if run.entity == entity && !new_slice => {
                run.rows += 1;
                run.min_time = run.min_time.min(time);
                run.max_time = run.max_time.max(time);
            }
            last => {
                let first = last.map_or(0, |r| r.first + u64::from(r.rows));
                self.0.push(EntityRun { entity, first, rows: 1, min_time: time, max_time: time });
            }
        }
    }

    /// Approximate size in memory, in bytes.
    pub fn memory(&self) -> usize {
        self.0.capacity() * size_of::<EntityRun>()
    }

    /// As bytes: CRC32C of the rest, zstd of varints (count; per run: entity as difference to the
    /// run before, rows, earliest time as difference, span of time).
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut raw = Vec::with_capacity(self.0.len() * 8 + 8);
        put(&mut raw, self.0.len() as u64);
        let (mut entity, mut time) = (0_i64, 0_i64);
        for run in &self.0 {
            put(&mut raw, zigzag(i64::from(run.entity) - entity));
            put(&mut raw, u64::from(run.rows));
            put(&mut raw, zigzag(run.min_time.wrapping_sub(time)));
            put(&mut raw, run.max_time.wrapping_sub(run.min_time) as u64);
            entity = i64::from(run.entity);
            time = run.min_time;
        }
        let packed = zstd::bulk::compress(&raw, 1)
            .map_err(StoreError::io("cannot compress", Path::new("runs")))?;
        let mut out = Vec::with_capacity(packed.len() + 8);
        out.extend(crc32c::crc32c(&packed).to_le_bytes());
        out.extend((raw.len() as u32).to_le_bytes());
        out.extend(packed);
        Ok(out)
    }

    /// The inverse of [`Runs::encode`]; `rows` is what they must add up to.
    pub(crate) fn decode(bytes: &[u8], rows: u64) -> Result<Self, &'static str> {
        let (crc, rest) = bytes.split_first_chunk::<4>().ok_or("runs are cut")?;
        let (len, packed) = rest.split_first_chunk::<4>().ok_or("runs are cut")?;
        if crc32c::crc32c(packed) != u32::from_le_bytes(*crc) {
            return Err("runs have the wrong checksum");
        }
        let raw = zstd::bulk::decompress(packed, u32::from_le_bytes(*len) as usize)
            .map_err(|_| "runs do not decompress")?;
        let mut at = raw.as_slice();
        let count = get(&mut at).ok_or("runs are cut")?;
        if count > rows {
            return Err("there are more runs than rows");
        }
        let mut runs = Vec::with_capacity(count as usize);
        let (mut entity, mut time, mut first) = (0_i64, 0_i64, 0_u64);
        for _ in 0..count {
            let mut next = || get(&mut at).ok_or("runs are cut");
            entity = entity.wrapping_add(unzigzag(next()?));
            let n = u32::try_from(next()?).map_err(|_| "a run is too long")?;
            time = time.wrapping_add(unzigzag(next()?));
            let max_time = time.wrapping_add(next()? as i64);
            let entity = u32::try_from(entity).map_err(|_| "an entity id is out of range")?;
            runs.push(EntityRun { entity, first, rows: n, min_time: time, max_time });
            first += u64::from(n);
        }
        if first != rows {
            return Err("runs do not add up to the rows");
        }
        Ok(Self(runs))
    }

    /// Reads the runs of a file.
    pub(crate) fn read(path: &Path, start: u64, len: u64, rows: u64) -> Result<Self> {
        let file = File::open(path).map_err(StoreError::io("cannot open", path))?;
        let size = file.metadata().map_err(StoreError::io("cannot read", path))?.len();
        if start.checked_add(len).is_none_or(|end| end > size) {
            return Err(StoreError::damaged(path, "it is shorter than its runs say"));
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, start).map_err(StoreError::io("cannot read", path))?;
        Self::decode(&bytes, rows).map_err(|why| StoreError::damaged(path, why))
    }
}

fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

fn unzigzag(v: u64) -> i64 {
    ((v >> 1) as i64) ^ -((v & 1) as i64)
}

/// Appends a LEB128 varint.
pub(crate) fn put(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Takes a LEB128 varint off the front.
pub(crate) fn get(at: &mut &[u8]) -> Option<u64> {
    let mut v = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = at.split_first()?;
        *at = rest;
        v |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(v);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_come_back(rows in prop::collection::vec((0_u32..5, any::<i64>(), any::<bool>()), 0..200)) {
            let mut runs = Runs::default();
            for (entity, time, new_slice) in &rows {
                runs.push(*entity, *time, *new_slice);
            }
            let bytes = runs.encode().unwrap();
            prop_assert_eq!(&Runs::decode(&bytes, rows.len() as u64).unwrap(), &runs);
            for cut in 0..bytes.len() {
                prop_assert!(Runs::decode(&bytes[..cut], rows.len() as u64).is_err());
            }
        }
    }
}
