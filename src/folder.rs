//! The data folder: one process at a time, and a version that says who may open it.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use weir_pipeline::checkpoint::write_atomically;

/// Version of the layout of the data folder. Files inside have versions of their own.
const VERSION: u32 = 1;

/// Holds the data folder as long as it lives.
#[derive(Debug)]
pub(crate) struct Folder {
    _lock: File,
}

impl Folder {
    /// Makes the folder if it is not there, locks it, and checks its version.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)
            .with_context(|| format!("data folder `{}` cannot be made", path.display()))?;
        let lock_path = path.join("LOCK");
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .with_context(|| format!("`{}` cannot be opened", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "data folder is in use by another process: `{}` (its process id is in `{}`)",
                path.display(),
                lock_path.display()
            ),
            Err(TryLockError::Error(e)) => {
                return Err(e).with_context(|| format!("`{}`", lock_path.display()));
            }
        }
        // For people only: a full disk is no reason not to start.
        let noted = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        if let Err(error) = noted {
            tracing::warn!(%error, path = %lock_path.display(), "the process id is not noted");
        }
        check_version(path)?;
        Ok(Self { _lock: lock })
    }
}

fn check_version(path: &Path) -> Result<()> {
    let file = path.join("VERSION");
    let found = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return write_version(&file);
        }
        Err(e) => return Err(e).with_context(|| format!("`{}`", file.display())),
    };
    match found.trim().parse::<u32>() {
        Ok(VERSION) => Ok(()),
        Ok(other) => bail!(
            "data folder `{}` has layout version {other}, this binary ({}) uses version {VERSION}: \
             use the binary that wrote it, or a newer one",
            path.display(),
            env!("CARGO_PKG_VERSION")
        ),
        // Formats have versions of their own, which say so if they are newer.
        Err(_) => {
            let aside = path.join("VERSION.damaged");
            fs::rename(&file, &aside)?;
            tracing::error!(
                path = %file.display(), aside = %aside.display(),
                "the layout version of the data folder is damaged; going on with version {VERSION}"
            );
            write_version(&file)
        }
    }
}

fn write_version(file: &Path) -> Result<()> {
    write_atomically(file, format!("{VERSION}\n").as_bytes())
        .with_context(|| format!("`{}`", file.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_process_at_a_time_and_only_a_known_version() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::open(dir.path()).unwrap();
        let second = Folder::open(dir.path()).unwrap_err().to_string();
        assert!(second.contains("in use by another process"), "{second}");
        drop(first);
        fs::write(dir.path().join("VERSION"), "7\n").unwrap();
        let version = Folder::open(dir.path()).unwrap_err().to_string();
        assert!(version.contains("version 7") && version.contains("version 1"), "{version}");
        for torn in ["", "q\n"] {
            fs::write(dir.path().join("VERSION"), torn).unwrap();
            Folder::open(dir.path()).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("VERSION")).unwrap(), "1\n");
        }
    }
}
