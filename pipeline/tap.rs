//! Taps: rows of an edge, shown to people while they flow. A tap never slows a pipeline: what a
//! slow reader does not take is left out and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::batch::Batch;

/// Batches that wait for a slow reader.
const QUEUE_BATCHES: usize = 16;
/// Taps that one pipeline serves at a time.
pub const TAPS_MAX: usize = 16;

struct Tap {
    node: String,
    output: String,
    sender: mpsc::Sender<RecordBatch>,
    missed: Arc<AtomicU64>,
}

/// The open taps of one pipeline. They attach to ids, so they live on across reloads.
#[derive(Default)]
pub struct Taps {
    open: AtomicUsize,
    taps: Mutex<Vec<Tap>>,
}

/// The reading end of a tap.
pub struct TapReader {
    /// Wide batches in order.
    pub batches: mpsc::Receiver<RecordBatch>,
    /// Rows left out so far because the reader was slow.
    pub missed: Arc<AtomicU64>,
}

impl Taps {
    /// Opens a tap on `node.output` (node may be a source id). `None` if too many are open.
    pub fn open(&self, node: &str, output: &str) -> Option<TapReader> {
        let mut taps = self.taps.lock();
        taps.retain(|t| !t.sender.is_closed());
        if taps.len() >= TAPS_MAX {
            return None;
        }
        let (sender, batches) = mpsc::channel(QUEUE_BATCHES);
        let missed = Arc::new(AtomicU64::new(0));
        let (node, output) = (node.to_owned(), output.to_owned());
        taps.push(Tap { node, output, sender, missed: missed.clone() });
        self.open.store(taps.len(), Relaxed);
        Some(TapReader { batches, missed })
    }

    /// Shows a batch to whoever taps this edge. Costs one load when nobody does.
    pub fn offer(&self, node: &str, output: &str, batch: &Batch) {
        if self.open.load(Relaxed) == 0 {
            return;
        }
        let mut taps = self.taps.lock();
        taps.retain(|t| !t.sender.is_closed());
        self.open.store(taps.len(), Relaxed);
        let mut wide = None;
        for tap in taps.iter().filter(|t| t.node == node && t.output == output) {
            if wide.is_none() {
                wide = batch.wide().ok();
            }
            let Some(wide) = &wide else { return };
            if tap.sender.try_send(wide.clone()).is_err() {
                tap.missed.fetch_add(wide.num_rows() as u64, Relaxed);
            }
        }
    }
}
