//! Writing files so that they are there after a crash, and are what they should be.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use weir_pipeline::fault;

use crate::error::{Result, StoreError};

/// Size and checksum of a finished file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Size in bytes.
    pub(crate) bytes: u64,
    /// CRC32C of the whole file.
    pub(crate) crc: u32,
}

/// A new file that counts and checksums what goes in.
pub(crate) struct CrcFile {
    path: PathBuf,
    inner: BufWriter<File>,
    written: Written,
}

impl CrcFile {
    /// A file that was not there.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(StoreError::io("cannot create", path))?;
        Ok(Self {
            path: path.to_owned(),
            inner: BufWriter::with_capacity(256 << 10, file),
            written: Written { bytes: 0, crc: 0 },
        })
    }

    /// Brings everything to the disk.
    pub(crate) fn finish(self) -> Result<Written> {
        let failed = |e: std::io::Error| StoreError::io("cannot write", &self.path)(e);
        let file = self.inner.into_inner().map_err(|e| failed(e.into_error()))?;
        fault!("store.sync").and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(self.written)
    }
}

impl Write for CrcFile {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        fault!("store.write")?;
        let n = self.inner.write(buf)?;
        self.written.bytes += n as u64;
        self.written.crc = crc32c::crc32c_append(self.written.crc, &buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Reads a file and compares size and checksum.
///
/// # Errors
/// [`StoreError::Damaged`] if the file is gone or holds something else; whatever else the disk
/// says may pass and tells nothing of the file.
pub(crate) fn verify(path: &Path, bytes: u64, crc: u32) -> Result<()> {
    let mut file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(StoreError::damaged(path, "it is gone"));
        }
        opened => opened.map_err(StoreError::io("cannot open", path))?,
    };
    let mut buffer = vec![0; 256 << 10];
    let mut found = Written { bytes: 0, crc: 0 };
    loop {
        let n = file.read(&mut buffer).map_err(StoreError::io("cannot read", path))?;
        if n == 0 {
            break;
        }
        found.bytes += n as u64;
        found.crc = crc32c::crc32c_append(found.crc, &buffer[..n]);
    }
    if found == (Written { bytes, crc }) {
        return Ok(());
    }
    Err(StoreError::damaged(
        path,
        format!(
            "it has {} bytes and checksum {:08x}, the manifest says {bytes} and {crc:08x}",
            found.bytes, found.crc
        ),
    ))
}

/// Makes names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let folder = File::open(path).map_err(StoreError::io("cannot open", path))?;
    folder.sync_all().map_err(StoreError::io("cannot sync", path))
}

/// Makes a folder with its parents.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(StoreError::io("cannot create", path))?;
    match path.parent() {
        Some(parent) => sync_folder(parent),
        None => Ok(()),
    }
}

/// A file name that no file had before: time, process, count.
pub(crate) fn file_name(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Relaxed);
    format!(
        "{prefix}-{:013x}-{:x}-{count:x}.parquet",
        weir_pipeline::intake::now() / 1_000_000,
        std::process::id()
    )
}
