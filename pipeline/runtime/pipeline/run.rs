//! The loop: journal entries in, batches to sinks out, changes at marks, checkpoints at ticks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::Shared;
use super::super::sink::{Given, Gone, SinkHandle};
use super::raw;
use super::save::Saved;
use super::{Answer, Away, Changes, Dropped, Ended, Progress};
use crate::checkpoint::Consumer;
use crate::component::{Staged, Tick};
use crate::edge::ERRORS;
use crate::failpoint;
use crate::graph::{Graph, ToSink};
use crate::joining::{Joined, Joining};
use crate::journal::{Entry, EntryKind, Reader, Trimmed};
use crate::plan::PipelinePlan;
use crate::tap::Taps;

/// Pauses between tries to read a journal whose disk fails, from first to longest.
const READ_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long a sink is waited for before the next entry, entry by entry.
const SETTLED: Duration = Duration::from_secs(1);

pub(super) struct Loop {
    pub(super) shared: Arc<Shared>,
    /// The pipeline, or the one sink of it that `plan` is cut down to.
    pub(super) consumer: Consumer,
    pub(super) plan: Arc<PipelinePlan>,
    /// `plan`, as others see it.
    pub(super) shown: Arc<Mutex<Arc<PipelinePlan>>>,
    pub(super) graph: Graph,
    pub(super) sinks: HashMap<Arc<str>, SinkHandle>,
    /// Sinks of the plan that are detached.
    pub(super) away: Away,
    pub(super) dropped: Dropped,
    /// A sink on its way back, with what it carries.
    pub(super) adopted: Option<(String, Staged)>,
    /// The tasks of all sinks and checkpoints there ever were.
    pub(super) tasks: TaskTracker,
    pub(super) reader: Reader,
    /// Entries that killed it.
    pub(super) skipped: HashSet<u64>,
    /// Up to here it goes entry by entry.
    pub(super) careful_to: u64,
    pub(super) position: u64,
    /// The last tick; its watermark is that of the sources.
    pub(super) tick: Tick,
    pub(super) changes: Arc<Changes>,
    pub(super) checkpointing: Option<JoinHandle<Result<Saved, String>>>,
    /// Bytes of decoded rows since the last checkpoint.
    pub(super) bytes_since: u64,
    /// Running time at which the next checkpoint is due; set at the first tick.
    pub(super) due_at: Option<i64>,
    /// Up to here it replays what it had read before a death, and saves soon: the next death shall not
    /// send it back to where it began.
    pub(super) replays_to: u64,
    /// Since when it has been asked to stop.
    pub(super) stops_since: Option<Instant>,
    /// When it began, or last began to save.
    pub(super) saved: Instant,
    /// Running time before which none is tried again, the last having failed.
    pub(super) not_before: i64,
    /// Running time before which it does not wait again for rows in memory to become fewer.
    pub(super) in_vain: i64,
    pub(super) progress: Arc<Mutex<Progress>>,
    pub(super) cancel: CancellationToken,
    pub(super) taps: Arc<Taps>,
}

/// Why the loop ends.
pub(super) enum End {
    /// It was asked to, and answers when that is to be seen.
    Asked(Ended, Answer),
    /// The journal is closed.
    Stopped,
    /// The process is going down without waiting.
    Cancelled,
    Failed(String),
}

impl Drop for Loop {
    /// Sinks of a loop that ended in good order have nothing left to do; others must not go on.
    fn drop(&mut self) {
        self.sinks.values().for_each(SinkHandle::cancel);
    }
}

impl Loop {
    pub(super) async fn supervised(mut self) -> End {
        let cancel = self.cancel.clone();
        cancel.run_until_cancelled(self.run()).await.unwrap_or(End::Cancelled)
    }

    async fn run(&mut self) -> End {
        let mut pause = READ_AGAIN.0;
        loop {
            let entries = match self.reader.next().await {
                Ok(entries) => entries,
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return End::Stopped,
                Err(error) => {
                    if let Some(trimmed) = Trimmed::of(&error) {
                        match self.skip(trimmed) {
                            Some(end) => return end,
                            None => continue,
                        }
                    }
                    tracing::warn!(pipeline = %self.plan.name, %error, "journal cannot be read, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(READ_AGAIN.1);
                    continue;
                }
            };
            pause = READ_AGAIN.0;
            if let Err(end) = self.take(entries).await {
                return end;
            }
        }
    }

    /// Lets go of each entry, and of the rows that it was decoded to, once it is through.
    async fn take(&mut self, entries: Vec<Arc<Entry>>) -> Result<(), End> {
        let mut joining = Joining::default();
        let last = entries.last().map(|e| (e.offset, e.head.received));
        for entry in entries {
            match entry.head.kind {
                EntryKind::Data => self.data(&entry, &mut joining).await?,
                EntryKind::Tick | EntryKind::Mark => {
                    self.push(&mut joining).await?;
                    self.position = entry.offset;
                    self.time(&entry).await?;
                }
            }
            self.position = entry.offset;
        }
        self.push(&mut joining).await?;
        if let Some((offset, received)) = last {
            let mut progress = self.progress.lock();
            progress.position = offset;
            progress.received = received;
        }
        Ok(())
    }

    async fn data(&mut self, entry: &Entry, joining: &mut Joining) -> Result<(), End> {
        let source = &entry.head.source;
        if !self.graph.reads_source(source) {
            return Ok(());
        }
        if self.skipped.contains(&entry.offset) {
            return self.set_aside(entry, raw::SKIPPED, joining).await;
        }
        if entry.offset > self.careful_to {
            return self.rows(entry, joining).await;
        }
        self.push(joining).await?;
        // A death of the checkpoint under way is not that of this entry.
        self.finish_checkpoint().await;
        let shared = self.shared.clone();
        let turn = shared.poison.turn(&self.consumer, entry.offset).await;
        self.rows(entry, joining).await?;
        self.push(joining).await?;
        self.settled().await?;
        turn.done();
        Ok(())
    }

    async fn rows(&mut self, entry: &Entry, joining: &mut Joining) -> Result<(), End> {
        failpoint::poison(&entry.head.payload);
        let source = &entry.head.source;
        let batches = match self.shared.decoders.batches(entry) {
            Ok(batches) => batches,
            Err(error) => {
                // It decoded when it came in: this is a defect of ours, and must be seen.
                tracing::error!(pipeline = %self.plan.name, error, "entry cannot be decoded again");
                self.shared.telemetry.count(
                    "weir_entries_undecodable_total",
                    "Journal entries that could not be decoded again",
                    1.0,
                );
                return self.set_aside(entry, &error, joining).await;
            }
        };
        for (output, batch) in batches.iter() {
            if !self.graph.reads(source, output) {
                continue;
            }
            self.bytes_since += batch.bytes() as u64;
            let joined = joining.add(source, output, batch, self.graph.joinable());
            self.push_joined(joined).await?;
        }
        Ok(())
    }

    /// Sends an entry that cannot be used to `<source>.errors`, as it was received.
    async fn set_aside(
        &mut self,
        entry: &Entry,
        why: &str,
        joining: &mut Joining,
    ) -> Result<(), End> {
        self.push(joining).await?;
        let source = &entry.head.source;
        let mut to_sinks = Vec::new();
        match raw::batch(&self.plan.name, entry, why) {
            Ok(batch) => self.graph.push(source, ERRORS, &batch, &mut to_sinks),
            Err(error) => tracing::error!(%error, offset = entry.offset, "entry not set aside"),
        }
        self.send(to_sinks).await
    }

    /// Waits until the sinks have taken what they were given, but not for those that do not get on.
    async fn settled(&mut self) -> Result<(), End> {
        for (id, sink) in &self.sinks {
            if let Ok(Err(Gone)) = tokio::time::timeout(SETTLED, sink.settled()).await {
                return Err(self.gone(id));
            }
        }
        Ok(())
    }

    async fn push(&mut self, joining: &mut Joining) -> Result<(), End> {
        self.push_joined(joining.take()).await
    }

    async fn push_joined(&mut self, joined: Option<Joined>) -> Result<(), End> {
        let Some(Joined { source, output, batches }) = joined else { return Ok(()) };
        let mut to_sinks = Vec::new();
        for batch in &batches {
            self.graph.push(&source, output, batch, &mut to_sinks);
        }
        self.send(to_sinks).await
    }

    pub(super) async fn send(&mut self, to_sinks: Vec<ToSink>) -> Result<(), End> {
        for ToSink { node, batch } in to_sinks {
            let id = self.plan.nodes[node].id.clone();
            self.give(&id, Given::Batch(batch)).await?;
        }
        Ok(())
    }

    /// A sink's task ended although nobody asked it to.
    pub(super) fn gone(&self, id: &str) -> End {
        if self.cancel.is_cancelled() {
            return End::Cancelled;
        }
        End::Failed(format!("sink `{id}` failed, which is a defect of Weir; the log has more"))
    }

    async fn time(&mut self, entry: &Entry) -> Result<(), End> {
        let Some(stamp) = entry.stamp() else { return Ok(()) };
        // The clock was ahead and is mended: by what it said then, all that comes would be late.
        let watermark =
            if stamp.step < 0 { stamp.time } else { self.tick.watermark.max(stamp.time) };
        self.tick = Tick {
            time: stamp.time,
            elapsed: stamp.elapsed,
            offset: entry.offset,
            watermark,
            step: stamp.step,
        };
        let mut to_sinks = Vec::new();
        self.graph.tick(self.tick, &mut to_sinks);
        self.send(to_sinks).await?;
        let sinks: Vec<_> = self.sinks.keys().cloned().collect();
        for id in sinks {
            self.give(&id, Given::Tick(entry.offset)).await?;
        }
        self.progress.lock().watermark = self.tick.watermark;
        self.stop_if_asked().await?;
        let mark = entry.mark_reason().and_then(|reason| reason.parse().ok());
        let changed = match mark {
            Some(mark) => self.mark(mark).await?,
            None => false,
        };
        if !changed {
            self.checkpoint_if_due().await?;
        }
        Ok(())
    }
}
