//! The router's own log: append-only, each frame fsynced before anything follows from it.
//!
//! File `log`: 8 bytes magic, 4 bytes version, then frames of length (u32), CRC32C (u32) and a
//! JSON record, little endian. A bad last frame is a torn tail and cut; a bad frame with more
//! behind it is damage: the file is kept aside as `log.damaged-<n>` and named, what stands before
//! it is used. Compaction writes one snapshot frame to `log.new` and renames it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use weir_pipeline::fault;

const MAGIC: &[u8; 8] = b"WEIRROUT";
const VERSION: u32 = 1;
const HEADER: usize = 12;
const FRAME: usize = 8;

/// Largest frame that is believed, in bytes: a length above it is damage. A snapshot of 100,000
/// alerts of 2 KiB stays below it.
const FRAME_BYTES_MAX: usize = 1 << 30;

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk refused.
    #[error("router log `{path}`: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A newer Weir wrote it.
    #[error(
        "router log `{path}` has format version {found}, this binary reads version {VERSION}: use \
         the binary that wrote it, or a newer one"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// The open log.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    /// Bytes that are known to be good.
    len: u64,
    /// Bytes of the snapshot that the file starts with.
    base: u64,
    /// After a failed write the tail is unknown: only a compaction helps.
    broken: bool,
}

impl Log {
    /// Opens or creates `dir/log` and gives the records found.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Vec<Vec<u8>>), LogError> {
        let path = dir.join("log");
        let wrap = |source| LogError::Io { path: path.clone(), source };
        std::fs::create_dir_all(dir).map_err(wrap)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(wrap)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(wrap)?;
        if bytes.len() < HEADER {
            // Empty, or a header torn at creation; of damage nothing is lost that was more.
            file.set_len(0).map_err(wrap)?;
            file.seek(SeekFrom::Start(0)).map_err(wrap)?;
            file.write_all(&header()).map_err(wrap)?;
            file.sync_all().map_err(wrap)?;
            sync_dir(dir).map_err(wrap)?;
            bytes = header().to_vec();
        }
        if bytes[..HEADER] != header() {
            let found = u32_at(&bytes, 8);
            // A version is believed only with its checksum: later formats have one behind it.
            if &bytes[..8] == MAGIC && u32_at(&bytes, HEADER) == crc32c::crc32c(&bytes[..HEADER]) {
                return Err(LogError::Version { path, found });
            }
            let aside = keep_aside(&path, &bytes).map_err(wrap)?;
            tracing::error!(
                path = %path.display(), kept = %aside.display(),
                "router log has a damaged header; going on with the records behind it"
            );
            bytes[..HEADER].copy_from_slice(&header());
            file.seek(SeekFrom::Start(0)).map_err(wrap)?;
            file.write_all(&header()).map_err(wrap)?;
            file.sync_all().map_err(wrap)?;
        }
        let (records, end) = scan(&bytes);
        if end < bytes.len() {
            if is_torn(&bytes[end..]) {
                tracing::info!(path = %path.display(), bytes = bytes.len() - end, "cut a torn tail off the router log");
            } else {
                let aside = keep_aside(&path, &bytes).map_err(wrap)?;
                tracing::error!(
                    path = %path.display(), kept = %aside.display(), at = end,
                    "router log is damaged; going on with what stands before the damage"
                );
            }
            file.set_len(end as u64).map_err(wrap)?;
            file.sync_all().map_err(wrap)?;
        }
        file.seek(SeekFrom::Start(end as u64)).map_err(wrap)?;
        let base = records.first().map_or(0, |r| (HEADER + FRAME + r.len()) as u64);
        Ok((Self { path, file, len: end as u64, base, broken: false }, records))
    }

    /// Appends one record and waits until it is on disk.
    pub(crate) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("the log is waiting for a compaction"));
        }
        let frame = frame(record);
        let written = fault!("router.write")
            .and_then(|()| self.file.write_all(&frame))
            .and_then(|()| fault!("router.sync"))
            .and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.len += frame.len() as u64;
                Ok(())
            }
            Err(e) => {
                self.broken = true;
                Err(e)
            }
        }
    }

    /// Whether the records since the last snapshot outweigh it.
    pub(crate) fn wants_compaction(&self) -> bool {
        const SLACK_BYTES: u64 = 1 << 20;
        self.broken || self.len > 2 * self.base + SLACK_BYTES
    }

    /// Whether the last write failed.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Replaces everything by one record.
    pub(crate) fn compact(&mut self, snapshot: &[u8]) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        let frame = frame(snapshot);
        file.write_all(&header())?;
        file.write_all(&frame)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        // From here on the new file is the log, whatever follows.
        self.file = file;
        self.len = (HEADER + frame.len()) as u64;
        self.base = self.len;
        self.broken = false;
        if let Some(dir) = self.path.parent() {
            sync_dir(dir)?;
        }
        Ok(())
    }
}

fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..].copy_from_slice(&VERSION.to_le_bytes());
    header
}

fn frame(record: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME + record.len());
    frame.extend((record.len() as u32).to_le_bytes());
    frame.extend(crc32c::crc32c(record).to_le_bytes());
    frame.extend(record);
    frame
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// The good records from the start, and where they end.
fn scan(bytes: &[u8]) -> (Vec<Vec<u8>>, usize) {
    let mut records = Vec::new();
    let mut at = HEADER;
    while let Some(record) = record_at(bytes, at) {
        at += FRAME + record.len();
        records.push(record.to_vec());
    }
    (records, at)
}

fn record_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let head = bytes.get(at..at + FRAME)?;
    let len = u32_at(head, 0) as usize;
    let record = bytes.get(at + FRAME..(at + FRAME).checked_add(len)?)?;
    (len > 0 && len <= FRAME_BYTES_MAX && crc32c::crc32c(record) == u32_at(head, 4))
        .then_some(record)
}

/// Whether no good frame stands anywhere in `tail` behind its bad first one.
fn is_torn(tail: &[u8]) -> bool {
    (1..tail.len()).all(|at| record_at(tail, at).is_none())
}

fn keep_aside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    for n in 1.. {
        let aside = path.with_extension(format!("damaged-{n}"));
        match OpenOptions::new().write(true).create_new(true).open(&aside) {
            Ok(mut file) => {
                file.write_all(bytes)?;
                file.sync_all()?;
                return Ok(aside);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other("no free name"))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_cut_keeps_the_frames_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path()).unwrap();
        let records: [&[u8]; 3] = [b"one", b"two two", b"three"];
        let mut ends = vec![HEADER];
        for r in records {
            log.append(r).unwrap();
            ends.push(ends.last().unwrap() + FRAME + r.len());
        }
        let bytes = std::fs::read(dir.path().join("log")).unwrap();
        assert_eq!(bytes.len(), *ends.last().unwrap());
        for cut in 0..=bytes.len() {
            std::fs::write(dir.path().join("log"), &bytes[..cut]).unwrap();
            let (mut log, found) = Log::open(dir.path()).unwrap();
            let whole = ends.iter().filter(|&&e| e > HEADER && e <= cut).count();
            assert_eq!(found, records[..whole], "cut at {cut}");
            log.append(b"next").unwrap();
            drop(log);
            let (_, found) = Log::open(dir.path()).unwrap();
            assert_eq!(found.len(), whole + 1);
        }
    }

    #[test]
    fn damage_is_kept_aside() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path()).unwrap();
        log.append(b"one").unwrap();
        log.append(b"two").unwrap();
        log.append(b"three").unwrap();
        let path = dir.path().join("log");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[HEADER + FRAME + 3 + FRAME] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (_, found) = Log::open(dir.path()).unwrap();
        assert_eq!(found, vec![b"one".to_vec()]);
        assert_eq!(std::fs::read(dir.path().join("log.damaged-1")).unwrap(), bytes);
    }

    #[test]
    fn compaction_leaves_one_record_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path()).unwrap();
        log.append(b"one").unwrap();
        log.compact(b"all").unwrap();
        log.append(b"two").unwrap();
        let (_, found) = Log::open(dir.path()).unwrap();
        assert_eq!(found, vec![b"all".to_vec(), b"two".to_vec()]);
    }

    #[test]
    fn a_newer_format_is_refused_and_a_damaged_header_is_not_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut newer = header().to_vec();
        newer[8] = 9;
        newer.extend(crc32c::crc32c(&newer).to_le_bytes());
        std::fs::write(&path, newer).unwrap();
        let refused = Log::open(dir.path()).err().unwrap().to_string();
        assert!(
            refused.contains("has format version 9, this binary reads version 1: use"),
            "{refused}"
        );
        std::fs::write(&path, b"hello, this is a text").unwrap();
        assert!(Log::open(dir.path()).unwrap().1.is_empty());
        Log::open(dir.path()).unwrap().0.append(b"one").unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..HEADER {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(Log::open(dir.path()).unwrap().1, [b"one".to_vec()], "at {at}");
            assert_eq!(std::fs::read(&path).unwrap(), whole, "at {at}");
        }
    }
}
