//! Versions as they lie in their folder, and which of them go.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arrow::compute::concat_batches;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;

use super::{Keeping, MAXMIND, ROWS, Tables};
use crate::checkpoint::age;

impl Tables {
    /// Bytes of versions written since the last [`Tables::tidy`].
    pub(crate) fn written(&self) -> u64 {
        self.0.written.load(Relaxed)
    }

    /// Versions that a plan in memory has, or that are the newest of a table.
    pub(crate) fn in_use(&self) -> BTreeSet<String> {
        let state = self.0.state.lock();
        let newest = state.current.values().map(|c| &c.noted.version);
        let all = state.loaded.keys().map(ToString::to_string).chain(newest.cloned());
        all.filter(|version| state.in_use(version)).collect()
    }

    /// Removes versions that are not `needed` and that have not come into use for `unused`, and the
    /// oldest of those that are not needed until they take `bytes` at most.
    pub(crate) fn tidy(&self, needed: &BTreeSet<String>, unused: Duration, bytes: u64) {
        let Keeping::Folder(folder) = &self.0.keeping else { return };
        self.0.written.store(0, Relaxed);
        let in_use = self.in_use();
        let needed = |version: &str| needed.contains(version) || in_use.contains(version);
        let mut spare = Vec::new();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let kept = path.extension().is_some_and(|e| e == ROWS || e == MAXMIND);
            let version = path.file_stem().map(|s| s.to_string_lossy().into_owned());
            if kept && version.is_some_and(|v| !needed(&v)) {
                let bytes = entry.metadata().map_or(0, |m| m.len());
                spare.push((age(&path).unwrap_or_default(), bytes, path));
            }
        }
        // The youngest first.
        spare.sort();
        let mut sum = 0;
        for (age, size, path) in spare {
            sum += size;
            if age < unused && sum <= bytes {
                continue;
            }
            // One that has come into use since `needed` was found out; who makes it one waits.
            let state = self.0.state.lock();
            let version = path.file_stem().map(|s| s.to_string_lossy().into_owned());
            if version.is_some_and(|v| !state.in_use(&v)) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

pub(super) fn damaged(path: &Path, why: &str) -> String {
    format!("`{}` is damaged: {why}", path.display())
}

/// Rows as they are kept: an Arrow IPC stream.
pub(super) fn write_rows(rows: &arrow::array::RecordBatch) -> Result<Bytes, String> {
    let write = || {
        let mut kept = Vec::new();
        let mut writer = StreamWriter::try_new(&mut kept, rows.schema_ref())?;
        writer.write(rows)?;
        writer.finish()?;
        Ok::<_, arrow::error::ArrowError>(Bytes::from(kept))
    };
    write().map_err(|e| e.to_string())
}

pub(super) fn read_rows(kept: &Bytes) -> Result<arrow::array::RecordBatch, String> {
    let read = || {
        let reader = StreamReader::try_new(kept.as_ref(), None)?;
        let schema = reader.schema();
        let batches = reader.collect::<Result<Vec<_>, _>>()?;
        concat_batches(&schema, &batches)
    };
    read().map_err(|e| e.to_string())
}
