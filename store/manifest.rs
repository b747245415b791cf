//! The manifest of a table: an append-only log of what is listed, fsynced frame by frame, and now
//! and then a snapshot of all of it.
//!
//! Files are `log-N` and `snapshot-N`, N being the number of the first frame after. Opening reads
//! the newest whole snapshot and the logs from there on. A frame at the end of the last log that is
//! shorter than it should be was never answered for: it is cut. Any other bad frame is damage: the
//! file is copied to `.damaged`, and frames after it are applied as long as they follow from what
//! is known.
//!
//! A log comes into its place with its header, a snapshot after the log that goes on from it. So a
//! log that is missing or shorter than its header was lost, not cut by a crash.

mod doubt;
mod frame;
mod record;

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use doubt::mark;
pub use record::WriterId;
pub(crate) use record::{Listing, Record};
use weir_pipeline::{failpoint, fault};

use crate::disk::{make_folder, sync_folder};
use crate::error::{Result, StoreError};

/// A snapshot is worth its price after this many frames, or as many as there are files.
const SNAPSHOT_FRAMES: u64 = 256;

/// The manifest of one table. Its owner serialises changes.
#[derive(Debug)]
pub(crate) struct Manifest {
    folder: PathBuf,
    listing: Listing,
    /// Number of the next frame.
    next: u64,
    log: Option<Log>,
    /// Number of the newest snapshot.
    snapshot: u64,
    /// Bytes appended since it was opened.
    appended: u64,
    /// Why changes at its end may be lost, of which nothing else tells.
    doubts: Vec<String>,
    /// The last log ends within a change.
    torn: bool,
}

#[derive(Debug)]
struct Log {
    file: File,
    path: PathBuf,
    len: u64,
}

/// What opening had to repair, in words.
pub(crate) type Repairs = Vec<String>;

impl Manifest {
    /// Opens or makes the manifest in `folder`.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Repairs)> {
        make_folder(folder)?;
        let mut repairs = Vec::new();
        let (mut snapshots, mut logs) = (Vec::new(), Vec::new());
        let entries = std::fs::read_dir(folder).map_err(StoreError::io("cannot list", folder))?;
        for entry in entries {
            let entry = entry.map_err(StoreError::io("cannot list", folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = |prefix| name.strip_prefix(prefix).and_then(|n: &str| n.parse().ok());
            if let Some(n) = number("snapshot-") {
                snapshots.push((n, entry.path()));
            } else if let Some(n) = number("log-") {
                logs.push((n, entry.path()));
            } else if name.ends_with(".tmp") {
                std::fs::remove_file(entry.path()).ok();
            }
        }
        snapshots.sort();
        logs.sort();
        let mut listing = Listing::default();
        let mut snapshot = 0_u64;
        while let Some((number, path)) = snapshots.pop() {
            match read_snapshot(&path) {
                Ok(read) => {
                    listing = read;
                    snapshot = number;
                    break;
                }
                Err(e @ (StoreError::Version { .. } | StoreError::Foreign { .. })) => {
                    return Err(e);
                }
                Err(e) => {
                    mark(folder)?;
                    repairs.push(format!("{e}; {}", set_aside(&path)?));
                }
            }
        }
        let mut manifest = Self {
            folder: folder.to_owned(),
            listing,
            next: snapshot,
            log: None,
            snapshot,
            appended: 0,
            doubts: Vec::new(),
            torn: false,
        };
        let logs: Vec<(u64, PathBuf)> = logs.into_iter().filter(|(n, _)| *n >= snapshot).collect();
        if logs.is_empty() && snapshot > 0 {
            manifest.doubt(format!(
                "the manifest is damaged: the log after `{}` is missing",
                folder.join(format!("snapshot-{snapshot:020}")).display()
            ))?;
            manifest.log = Some(manifest.begin_log()?);
        }
        for (i, (first, path)) in logs.iter().enumerate() {
            let end = logs.get(i + 1).map(|(next, _)| *next);
            manifest.replay(*first, path, end, &mut repairs)?;
        }
        Ok((manifest, repairs))
    }

    /// Applies the frames of a log whose numbers are below `end`, where a later log begins.
    fn replay(
        &mut self,
        first: u64,
        path: &Path,
        end: Option<u64>,
        repairs: &mut Repairs,
    ) -> Result<()> {
        let bytes = std::fs::read(path).map_err(StoreError::io("cannot read", path))?;
        let mut damaged = false;
        match frame::check_header(&bytes) {
            frame::Header::Good => {}
            frame::Header::Newer(found) => {
                let path = path.to_owned();
                return Err(StoreError::Version { path, found, known: frame::VERSION });
            }
            frame::Header::Bad if bytes.len() <= frame::HEADER => {
                self.doubt(format!(
                    "`{}` is damaged: it has {} bytes, less than its header",
                    path.display(),
                    bytes.len()
                ))?;
                std::fs::remove_file(path).map_err(StoreError::io("cannot remove", path))?;
                if end.is_none() {
                    self.log = Some(self.begin_log()?);
                }
                return Ok(());
            }
            frame::Header::Bad => {
                repairs.push(format!("`{}` has no header", path.display()));
                damaged = true;
            }
        }
        if first > self.next {
            mark(&self.folder)?;
            repairs.push(format!(
                "changes {} to {} of the manifest are missing before `{}`",
                self.next,
                first - 1,
                path.display()
            ));
            self.next = first;
        }
        let mut at = frame::HEADER;
        let mut good = at;
        while at < bytes.len() {
            let Some((sequence, records, len)) = frame::decode(&bytes[at..]) else {
                let Some(found) = frame::find(&bytes, at + 1) else {
                    if end.is_none() && !frame::is_torn(&bytes[at..]) {
                        repairs.push(format!(
                            "the last change in `{}` is damaged and lost",
                            path.display()
                        ));
                        damaged = true;
                    }
                    break;
                };
                repairs.push(format!(
                    "bytes {at} to {found} of `{}` are damaged: the changes there are lost",
                    path.display()
                ));
                damaged = true;
                at = found;
                continue;
            };
            at += len;
            good = at;
            if let Some(e) = records.iter().find_map(|r| r.too_new(&self.folder)) {
                return Err(e);
            }
            if sequence < self.next || end.is_some_and(|end| sequence >= end) {
                continue;
            }
            if let Err(why) = self.listing.apply(&records) {
                repairs.push(format!("change {sequence} of the manifest was left out: {why}"));
                damaged = true;
            }
            self.next = sequence + 1;
        }
        if damaged {
            mark(&self.folder)?;
            repairs.push(set_aside_copy(path)?);
        }
        if good < bytes.len() && end.is_none() {
            mark(&self.folder)?;
            self.torn = true;
            let cut = OpenOptions::new().write(true).open(path);
            let cut = cut.and_then(|f| f.set_len(good as u64).and_then(|()| f.sync_all()));
            cut.map_err(StoreError::io("cannot cut", path))?;
            tracing::info!(path = %path.display(), bytes = bytes.len() - good, "torn tail cut");
        }
        if damaged {
            // A fresh start: the next change begins a new log after a whole snapshot.
            self.listing.prune_shapes();
            self.write_snapshot(&self.listing.clone(), self.next)?;
            if end.is_none() {
                self.log = Some(self.begin_log()?);
            }
        }
        Ok(())
    }

    /// What is listed.
    pub(crate) fn listing(&self) -> &Listing {
        &self.listing
    }

    /// Bytes appended to logs since this was opened.
    pub(crate) fn appended(&self) -> u64 {
        self.appended
    }

    /// Makes `records` durable and applies them, all or none.
    pub(crate) fn append(&mut self, records: &[Record]) -> Result<()> {
        // Checked on the listing first: what is on disk must always apply.
        if let Err(why) = self.listing.check(records) {
            return Err(StoreError::Foreign { what: "a change of the manifest", why });
        }
        let bytes = frame::encode(self.next, records)
            .map_err(|e| StoreError::Foreign { what: "a record", why: e.to_string() })?;
        if let Err(e) = self.append_bytes(&bytes) {
            // Nobody knows what is on disk of a failed write. The log is cut where it was good,
            // and another one begins, whose frames win over any left here.
            if let Some(log) = self.log.take() {
                log.file.set_len(log.len).ok();
                log.file.sync_all().ok();
            }
            return Err(e);
        }
        self.appended += bytes.len() as u64;
        self.next += 1;
        self.listing
            .apply(records)
            .map_err(|why| StoreError::Foreign { what: "a change of the manifest", why })
    }

    fn append_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        if self.log.is_none() {
            self.log = Some(self.begin_log()?);
        }
        let Some(log) = &mut self.log else { return Ok(()) };
        let failed = |e| StoreError::io("cannot write", &log.path)(e);
        failpoint!("manifest.writing");
        fault!("manifest.write").and_then(|()| log.file.write_all(bytes)).map_err(failed)?;
        failpoint!("manifest.written");
        let failed = |e| StoreError::io("cannot sync", &log.path)(e);
        fault!("manifest.sync").and_then(|()| log.file.sync_data()).map_err(failed)?;
        log.len += bytes.len() as u64;
        failpoint!("manifest.synced");
        Ok(())
    }

    /// A log that starts at the next frame. One of that name holds nothing that counts. It is
    /// never there without its header.
    fn begin_log(&self) -> Result<Log> {
        let path = self.folder.join(format!("log-{:020}", self.next));
        let create = || {
            let temporary = path.with_extension("tmp");
            let mut file = File::create(&temporary)?;
            file.write_all(&frame::header())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = create().map_err(StoreError::io("cannot create", &path))?;
        sync_folder(&self.folder)?;
        Ok(Log { file, path, len: frame::HEADER as u64 })
    }

    /// Whether a snapshot is due: so seldom that it adds a bounded share to each commit.
    pub(crate) fn wants_snapshot(&self) -> bool {
        self.next - self.snapshot >= SNAPSHOT_FRAMES.max(self.listing.files.len() as u64)
    }

    /// Begins a new log and gives what [`Manifest::finish_snapshot`] shall write; in between,
    /// changes go on.
    ///
    /// # Errors
    /// If the log cannot be made; changes go on in one that is made then.
    pub(crate) fn begin_snapshot(&mut self) -> Result<(Listing, u64)> {
        self.log = None;
        self.log = Some(self.begin_log()?);
        // The snapshot has only the shapes in use: what follows must not count on others.
        self.listing.prune_shapes();
        Ok((self.listing.clone(), self.next))
    }

    /// Writes a snapshot beside the changes that go on: needs only the folder.
    pub(crate) fn write_snapshot_file(folder: &Path, listing: &Listing, next: u64) -> Result<()> {
        let path = folder.join(format!("snapshot-{next:020}"));
        let temporary = folder.join(format!("snapshot-{next:020}.tmp"));
        let mut bytes = frame::header();
        let frame = frame::encode(next, &listing.records())
            .map_err(|e| StoreError::Foreign { what: "a listing", why: e.to_string() })?;
        bytes.extend(frame);
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(StoreError::io("cannot write", &path))?;
        sync_folder(folder)
    }

    fn write_snapshot(&mut self, listing: &Listing, next: u64) -> Result<()> {
        Self::write_snapshot_file(&self.folder, listing, next)?;
        self.finish_snapshot(next);
        Ok(())
    }

    /// The snapshot `next` is on disk: what came before the one before it is not needed.
    pub(crate) fn finish_snapshot(&mut self, next: u64) {
        let keep = self.snapshot;
        self.snapshot = next;
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name.strip_prefix("snapshot-").or_else(|| name.strip_prefix("log-"));
            if number.and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n < keep) {
                std::fs::remove_file(entry.path()).ok();
            }
        }
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

fn read_snapshot(path: &Path) -> Result<Listing> {
    let bytes = std::fs::read(path).map_err(StoreError::io("cannot read", path))?;
    match frame::check_header(&bytes) {
        frame::Header::Good => {}
        frame::Header::Newer(found) => {
            return Err(StoreError::Version {
                path: path.to_owned(),
                found,
                known: frame::VERSION,
            });
        }
        frame::Header::Bad => return Err(StoreError::damaged(path, "it has no header")),
    }
    let (_, records, _) = frame::decode(&bytes[frame::HEADER..])
        .ok_or_else(|| StoreError::damaged(path, "its checksum is wrong"))?;
    let folder = path.parent().unwrap_or(path);
    if let Some(e) = records.iter().find_map(|r| r.too_new(folder)) {
        return Err(e);
    }
    let mut listing = Listing::default();
    listing.apply(&records).map_err(|why| StoreError::damaged(path, why))?;
    Ok(listing)
}

fn damaged_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    PathBuf::from(name)
}

fn set_aside(path: &Path) -> Result<String> {
    let aside = damaged_name(path);
    std::fs::rename(path, &aside).map_err(StoreError::io("cannot set aside", path))?;
    Ok(format!("set aside as `{}`", aside.display()))
}

fn set_aside_copy(path: &Path) -> Result<String> {
    let aside = damaged_name(path);
    std::fs::copy(path, &aside).map_err(StoreError::io("cannot set aside", path))?;
    Ok(format!("a copy was set aside as `{}`", aside.display()))
}

#[cfg(test)]
mod tests;
