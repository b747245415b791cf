//! Files that are there whole or not at all, and how long nobody has needed them.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What [`write_atomically`] writes before it renames.
const UNFINISHED: &str = "tmp";

/// What the JSON file at `path` holds. One that is not there holds nothing; a damaged one is named
/// and begun anew: what is kept like this Weir can do without.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn read_or_anew<T: Default + serde::de::DeserializeOwned>(path: &Path) -> io::Result<T> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        read => read?,
    };
    Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::error!(path = %path.display(), %error, "damaged; begun anew");
        T::default()
    }))
}

/// Writes aside, fsyncs, renames, fsyncs the folder.
///
/// # Errors
/// If the disk refuses; then nothing stands under `path` that did not before.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension(UNFINISHED);
    let write = || {
        let mut file = fs::File::create(&aside)?;
        crate::fault!("file.write")?;
        file.write_all(bytes)?;
        crate::fault!("file.sync")?;
        file.sync_all()?;
        crate::failpoint!("file.written");
        fs::rename(&aside, path)?;
        crate::failpoint!("file.renamed");
        Ok(())
    };
    if let Err(e) = write() {
        // On a full disk each try would leave another.
        let _ = fs::remove_file(&aside);
        return Err(e);
    }
    if let Some(dir) = path.parent() {
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Deletes what a crash left of [`write_atomically`].
pub(crate) fn sweep_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == UNFINISHED) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Says that a file comes into use again. `false` if there is none.
pub(crate) fn touch(path: &Path) -> bool {
    let Ok(file) = std::fs::File::options().append(true).open(path) else { return false };
    let _ = file.set_modified(SystemTime::now());
    true
}

/// Since when a file has not come into use.
pub(crate) fn age(path: &Path) -> Option<Duration> {
    std::fs::metadata(path).ok()?.modified().ok()?.elapsed().ok()
}
