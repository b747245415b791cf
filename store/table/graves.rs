//! Files that no version lists any more, until nobody reads them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::entity_log::ChunkFile;
use crate::file::FileEntry;

#[derive(Debug)]
enum Pinned {
    File(Arc<FileEntry>),
    Chunk(Arc<ChunkFile>),
}

impl Pinned {
    /// Whether a reader may still open it.
    fn in_use(&self) -> bool {
        match self {
            Self::File(file) => Arc::strong_count(file) > 1,
            Self::Chunk(chunk) => Arc::strong_count(chunk) > 1,
        }
    }

    fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::File(file) => {
                let mut paths = vec![file.path.clone()];
                paths.extend(file.own_chunk());
                paths
            }
            Self::Chunk(chunk) => vec![chunk.path.clone()],
        }
    }
}

/// What waits to be deleted.
#[derive(Debug, Default)]
pub(super) struct Graves(Mutex<Vec<(Instant, Pinned)>>);

impl Graves {
    pub(super) fn file(&self, file: Arc<FileEntry>) {
        self.0.lock().push((Instant::now(), Pinned::File(file)));
    }

    pub(super) fn chunk(&self, chunk: Arc<ChunkFile>) {
        self.0.lock().push((Instant::now(), Pinned::Chunk(chunk)));
    }

    /// Whether the data file `name` waits.
    pub(super) fn has(&self, name: &str) -> bool {
        let graves = self.0.lock();
        graves.iter().any(|(_, p)| matches!(p, Pinned::File(f) if *f.meta.name == *name))
    }

    /// Deletes what nobody reads and has waited for `grace`; how many files.
    pub(super) fn bury(&self, grace: Duration) -> usize {
        let mut ready = Vec::new();
        self.0.lock().retain(|(since, pinned)| {
            let wait = since.elapsed() < grace || pinned.in_use();
            if !wait {
                ready.extend(pinned.paths());
            }
            wait
        });
        for path in &ready {
            if let Err(e) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), error = %e, "cannot delete a file");
            }
        }
        ready.len()
    }
}
