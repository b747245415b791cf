//! The work of a replay: reads the journal and gives it to every pair of plans. On a thread that
//! may block.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::ReplayError;
use super::stretch::{Stretch, place};
use crate::journal::{Entry, EntryKind, Reader, Trimmed};
use crate::replay::{PipelineReport, Place, Progress, Report, Twin};
use crate::runtime::Runtime;
use crate::runtime::decoders::Decoders;
use crate::runtime::pipeline::raw;

/// How long one may take. What is not done by then is said.
const TIME_MAX: Duration = Duration::from_secs(900);
/// Bytes of payload that one may read, warm-up included: a small journal.
const BYTES_MAX: u64 = 16 << 30;
/// Bytes of an entry besides its payload, for the progress.
const HEAD_BYTES: u64 = 64;
/// After so much work it looks whether what runs needs the processor.
const SLICE: Duration = Duration::from_millis(100);

/// A replay at work.
pub(super) struct Reading {
    pub(super) runtime: Arc<Runtime>,
    pub(super) decoders: Decoders,
    pub(super) stretch: Stretch,
    pub(super) twins: Vec<Twin>,
    pub(super) report: Report,
    /// Bytes of journal that it has passed, about.
    pub(super) passed: u64,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) cancel: CancellationToken,
}

/// Why it goes no further.
enum End {
    /// All is done.
    Whole,
    /// Something is in the way; says what.
    Short(String),
    Cancelled,
}

impl Reading {
    pub(super) fn run(mut self, handle: &Handle) -> Result<Report, ReplayError> {
        let started = Instant::now();
        let end = if self.twins.is_empty() { End::Whole } else { self.read(handle, started) };
        let counted = self.report.from.position != 0;
        match end {
            End::Whole => self.report.complete = true,
            End::Short(why) => self.report.why = Some(why),
            End::Cancelled => {
                return Err(ReplayError::Failed("the replay was ended".to_owned()));
            }
        }
        if !counted && !self.twins.is_empty() {
            self.report.notes.push("no entry of the journal lies in the stretch".to_owned());
        }
        for (twin, report) in self.twins.into_iter().zip(&mut self.report.pipelines) {
            let found = twin.finish();
            let (change, mut notes) = (report.change, std::mem::take(&mut report.notes));
            notes.extend(if counted { found.notes } else { Vec::new() });
            let file = match std::mem::take(&mut report.file) {
                file if file.is_empty() => found.file.clone(),
                file => file,
            };
            *report = PipelineReport { file, change, notes, ..found };
        }
        self.report.same = self.report.pipelines.iter().all(PipelineReport::is_same);
        self.report.seconds = started.elapsed().as_secs_f64();
        Ok(self.report)
    }

    fn read(&mut self, handle: &Handle, started: Instant) -> End {
        let mut reader = self.runtime.shared.journal.reader(self.stretch.after);
        let mut worked = Instant::now();
        while reader.position() < self.stretch.end.position {
            let entries = match handle.block_on(next(&mut reader, &self.cancel)) {
                None => return End::Cancelled,
                Some(Ok(entries)) => entries,
                Some(Err(error)) => return End::Short(unread(&error)),
            };
            for entry in &entries {
                if self.cancel.is_cancelled() {
                    return End::Cancelled;
                }
                if !self.take(entry) {
                    return End::Whole;
                }
                if worked.elapsed() > SLICE {
                    self.said(entry);
                    if started.elapsed() > TIME_MAX {
                        return End::Short(format!("it may take {} s", TIME_MAX.as_secs()));
                    }
                    if self.report.bytes > BYTES_MAX {
                        return End::Short(format!("it may read {} GiB", BYTES_MAX >> 30));
                    }
                    self.give_way(handle, worked.elapsed());
                    worked = Instant::now();
                }
            }
        }
        End::Whole
    }

    /// Takes an entry in; whether there may be more.
    fn take(&mut self, entry: &Arc<Entry>) -> bool {
        let Stretch { warm, begin, end, .. } = self.stretch;
        let received = entry.head.received;
        self.passed += entry.head.payload.len() as u64 + HEAD_BYTES;
        if entry.offset > end.position || received >= end.time {
            return false;
        }
        let begun = self.report.began.position != 0;
        if !begun && received < warm {
            return true;
        }
        if !begun {
            self.report.began = place(entry);
        }
        let counts = self.report.from.position != 0;
        let starts = match begin.position {
            0 => received >= begin.time,
            position => entry.offset >= position,
        };
        if !counts && starts {
            self.report.from = place(entry);
            self.twins.iter_mut().for_each(Twin::begin);
        }
        if counts || starts {
            self.report.to = place(entry);
            self.report.entries += 1;
        }
        self.report.bytes += entry.head.payload.len() as u64;
        match (entry.head.kind, entry.stamp()) {
            (EntryKind::Data, _) => self.data(entry),
            (EntryKind::Tick | EntryKind::Mark, Some(stamp)) => {
                self.twins.iter_mut().for_each(|twin| twin.tick(stamp, entry.offset));
            }
            (EntryKind::Tick | EntryKind::Mark, None) => {}
        }
        true
    }

    /// Gives the rows of an entry to those that read its source.
    fn data(&mut self, entry: &Entry) {
        let source = &entry.head.source;
        if !self.twins.iter().any(|twin| twin.reads(source)) {
            return;
        }
        let rows = self.decoders.rows(entry);
        for twin in self.twins.iter_mut().filter(|twin| twin.reads(source)) {
            let why = match &rows {
                Ok(_) if twin.skips(entry.offset) => raw::SKIPPED,
                Ok(batches) => {
                    twin.rows(source, batches);
                    continue;
                }
                Err(error) => error,
            };
            match raw::batch(&twin.name, entry, why) {
                Ok(batch) => twin.set_aside(source, &batch),
                Err(error) => tracing::error!(%error, offset = entry.offset, "entry not set aside"),
            }
        }
    }

    fn said(&self, last: &Arc<Entry>) {
        let Place { position, time } = place(last);
        let done = self.passed as f64 / self.stretch.bytes.max(1) as f64;
        self.progress.send_replace(Progress { position, time, done: done.min(1.0) });
    }

    /// Leaves the processor to pipelines that are behind, for as long as it had it.
    fn give_way(&self, handle: &Handle, worked: Duration) {
        if !self.runtime.behind().is_empty() {
            let pause = tokio::time::sleep(worked.min(SLICE * 5));
            handle.block_on(self.cancel.run_until_cancelled(pause));
        }
    }
}

async fn next(
    reader: &mut Reader,
    cancel: &CancellationToken,
) -> Option<io::Result<Vec<Arc<Entry>>>> {
    cancel.run_until_cancelled(tokio::time::timeout(super::READ, reader.next())).await.map(|read| {
        read.unwrap_or_else(|_| Err(io::Error::other("the disk did not answer in time")))
    })
}

/// Why the journal could not be read on.
fn unread(error: &io::Error) -> String {
    match Trimmed::of(error) {
        Some(Trimmed { after, to }) => format!(
            "the journal was trimmed while it was read: entries {} to {to} are gone; `[journal] \
             retain` in weir.toml says how long entries stay",
            after + 1
        ),
        None => format!("the journal cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_is_trimmed_under_it_is_named() {
        let gone = Trimmed { after: 7, to: 20 };
        let error = unread(&io::Error::new(io::ErrorKind::NotFound, gone));
        assert!(error.contains("entries 8 to 20 are gone; `[journal] retain`"), "{error}");
        let error = unread(&io::Error::other("broken"));
        assert_eq!(error, "the journal cannot be read: broken");
    }
}
