//! The few things that the writer asks of the disk, so that tests can make them fail.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::path::Path;

use crate::fault;

/// Where segments are written. Reading goes to the file system directly.
pub(super) trait Disk: Send + Sync {
    /// An empty file, whatever stood there before.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Replaces `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Deletes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and deletions in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// Whether less than a tenth of the disk under `dir` is free, and less than `enough` bytes.
pub(super) fn is_nearly_full(dir: &Path, enough: u64) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|disk| {
        let (free, all) = (disk.f_bavail, disk.f_blocks);
        free < all / 10 && free.saturating_mul(disk.f_frsize) < enough
    })
}

/// A segment being written.
pub(super) trait DiskFile: Send {
    /// Writes all of `parts` at the end.
    fn write(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to `len` bytes.
    fn cut(&mut self, len: u64) -> io::Result<()>;
}

/// The file system.
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        fault!("journal.create")?;
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(RealFile(file)))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn write(&mut self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        fault!("journal.write")?;
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match self.0.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut parts, n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        fault!("journal.sync")?;
        self.0.sync_data()
    }
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)?;
        self.0.sync_data()
    }
}
