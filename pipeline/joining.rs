//! Small entries are joined before they are pushed through a graph: work is per batch, and no output
//! depends on where batches are cut.

use std::sync::Arc;

use crate::batch::Batch;

/// Entries are joined up to about this many rows.
const ROWS: usize = 8_192;

/// And to at most this many bytes: to copy larger ones costs more than it saves.
const BYTES: usize = 256 << 10;

/// Rows of consecutive entries of one source output.
#[derive(Default)]
pub(crate) struct Joining {
    source: Arc<str>,
    output: &'static str,
    batches: Vec<Batch>,
    rows: usize,
    bytes: usize,
}

/// What was joined: one batch, or those that could not be.
pub(crate) struct Joined {
    pub(crate) source: Arc<str>,
    pub(crate) output: &'static str,
    pub(crate) batches: Vec<Batch>,
}

impl Joining {
    /// Adds the rows of an entry. Where they do not belong with those before, or these are enough,
    /// or not `joinable`, gives what is to be pushed first.
    pub(crate) fn add(
        &mut self,
        source: &Arc<str>,
        output: &'static str,
        batch: &Batch,
        joinable: bool,
    ) -> Option<Joined> {
        let other = self.source != *source || self.output != output;
        let bytes = batch.bytes();
        let enough = self.rows >= ROWS || self.bytes + bytes > BYTES;
        let before = if other || enough || !joinable { self.take() } else { None };
        if self.batches.is_empty() {
            (self.source, self.output) = (source.clone(), output);
        }
        self.rows += batch.num_rows();
        self.bytes += bytes;
        self.batches.push(batch.clone());
        before
    }

    /// All that there is.
    pub(crate) fn take(&mut self) -> Option<Joined> {
        let Self { source, output, batches, .. } = std::mem::take(self);
        if batches.is_empty() {
            return None;
        }
        let batches = match Batch::join(&batches) {
            Some(batch) => vec![batch],
            None => batches,
        };
        Some(Joined { source, output, batches })
    }
}
