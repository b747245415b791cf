//! The journal: one durable, totally ordered log of everything that entered.
//!
//! Segment files of framed entries (see `journal/segment.rs` and `journal/frame.rs` for the
//! format). One writer takes what is queued, writes it once, syncs once and answers all of it;
//! readers see only what is durable. An offset is never given out twice, whatever happened to
//! the entry that had it. Offsets grow but are not consecutive: after a crash or a failed write
//! some are left out.
//!
//! An entry whose sender repeats it because the answer was lost is written once, see
//! `journal/repeats.rs`.
//!
//! Ticks and marks go ahead of queued data, and still find room when the journal is full. Not
//! here: the lock on the data folder, and deciding when to tick, to checkpoint and to trim.

mod clock;
mod disk;
mod entry;
mod frame;
mod queue;
mod reader;
mod recover;
mod repeats;
mod segment;
mod state;
#[cfg(test)]
mod tests;
mod writer;

pub use clock::{STEP_MIN_NS, Stamp, TickClock};
pub use entry::{Entry, EntryKind, Envelope, NewEntry};
pub use reader::{Reader, Trimmed};

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};

use queue::{Queue, Queued, Work};
use repeats::{Arrival, Claim};
use state::{Shared, State, Tuning, segment_path};

/// When a sender may try again after `Full`: trimming follows checkpoints, 30 s apart at most,
/// and earlier when the journal fills.
const FULL_RETRY: Duration = Duration::from_secs(5);

/// When a sender may try again after `Busy`: some syncs later.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// Limits of a journal.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// Size on disk past which appends are refused, in bytes.
    pub max_bytes: u64,
    /// How long entries stay though every pipeline is past them. Gives way when the journal has come
    /// to half of `max_bytes`, the disk is nearly full, or the journal cannot be written.
    pub retain: Duration,
    /// Entries kept in memory for readers that keep up, bytes of payload and decoded rows.
    pub memory_bytes: usize,
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its offset, or that of the same entry before it.
    pub offset: u64,
    /// Whether it was there already.
    pub repeated: bool,
}

/// Why an entry was not appended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// The journal has reached `max_bytes` (answered 503).
    #[error("journal is full; retry after {} s", retry_after.as_secs())]
    Full {
        /// When to try again.
        retry_after: Duration,
    },
    /// More is waiting to be written than memory allows (answered 429).
    #[error("too much is waiting to be written; retry after {} s", retry_after.as_secs())]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// The disk refused; nothing of the entry may be assumed written (answered 503).
    #[error("journal could not be written: {0}")]
    Io(String),
    /// Weir is stopping (answered 503).
    #[error("stopping")]
    Stopped,
}

/// A handle to the journal; clones share it. Dropping the last one closes it.
#[derive(Clone)]
pub struct Journal {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Numbers are given out one at a time.
    registering: tokio::sync::Mutex<()>,
}

impl Handle {
    /// Lets the writer finish what is queued, and waits for it.
    fn stop(&self) {
        self.shared.queue.lock().closing = true;
        self.shared.queued.notify_all();
        let mut writer = self.writer.lock();
        if let Some(writer) = writer.take() {
            // It catches its own panics.
            drop(writer.join());
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Journal {
    /// Opens or creates the journal in `dir`. Offsets go on above what `floor` gives for the
    /// journal's id (positions that others have kept) and above everything found on disk. A torn
    /// end is cut, damage is set aside ([`Journal::damage`]).
    ///
    /// # Errors
    /// A segment of an unknown format version; a folder that cannot be read or written.
    pub fn open(
        dir: &Path,
        options: JournalOptions,
        floor: impl FnOnce(u128) -> u64,
    ) -> std::io::Result<Self> {
        Self::open_with(dir, options, floor, Tuning::default())
    }

    fn open_with(
        dir: &Path,
        options: JournalOptions,
        floor: impl FnOnce(u128) -> u64,
        tuning: Tuning,
    ) -> std::io::Result<Self> {
        let found = recover::recover(dir, floor)?;
        let bytes = found.state.segments.iter().map(|s| s.end).sum::<u64>();
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            id: found.id,
            tuning,
            options: Mutex::new(options),
            repeats: found.repeats,
            state: Mutex::new(found.state),
            queue: Mutex::new(Queue::default()),
            queued: Condvar::new(),
            head: watch::Sender::new(found.head),
            bytes: bytes.into(),
            stopped: AtomicBool::new(false),
        });
        let writer = Mutex::new(Some(writer::spawn(shared.clone(), found.next)?));
        let registering = tokio::sync::Mutex::default();
        Ok(Self { handle: Arc::new(Handle { shared, writer, registering }) })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// The random id given at creation; with an offset it makes a position.
    pub fn id(&self) -> u128 {
        self.shared().id
    }

    /// Waits until `entry` is on disk and gives its offset. A caller that stops waiting does not
    /// take the entry back.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn append(&self, entry: NewEntry) -> Result<u64, AppendError> {
        self.append_once(entry).await.map(|appended| appended.offset)
    }

    /// [`Journal::append`] that also says whether it was there already: an idempotent entry is
    /// written once however often it comes within five minutes.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn append_once(&self, entry: NewEntry) -> Result<Appended, AppendError> {
        let repeats = &self.shared().repeats;
        let claim = match repeats.key(&entry) {
            None => None,
            Some(key) => loop {
                match repeats.arrive(key, entry.received) {
                    Arrival::New(claim) => break Some(claim),
                    Arrival::Repeated(offset) => return Ok(Appended { offset, repeated: true }),
                    Arrival::Writing(done) => done.cancelled().await,
                }
            },
        };
        let offset = self.write(Work::Entry(Box::new(entry)), claim).await?;
        Ok(Appended { offset, repeated: false })
    }

    async fn write(&self, work: Work, claim: Option<Claim>) -> Result<u64, AppendError> {
        let (answer, answered) = oneshot::channel();
        self.shared().enqueue(Queued::new(work, claim, answer))?;
        answered.await.unwrap_or(Err(AppendError::Stopped))
    }

    /// Offset of the newest durable entry; 0 if there is none yet (offsets start at 1).
    pub fn head(&self) -> u64 {
        *self.shared().head.borrow()
    }

    /// A reader whose first entry is the first one with an offset above `after`.
    pub fn reader(&self, after: u64) -> Reader {
        Reader::new(self.shared().clone(), after)
    }

    /// The offset from which on nothing was trimmed: a reader of everything starts at
    /// `oldest() - 1`. At least 1; above the head if all was trimmed.
    pub fn oldest(&self) -> u64 {
        self.shared().state.lock().trimmed + 1
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.shared().bytes.load(Relaxed)
    }

    /// Bytes on disk behind `position`: what is kept from being trimmed by who holds it.
    pub fn bytes_behind(&self, position: u64) -> u64 {
        let state = self.shared().state.lock();
        let behind = state.segments.iter().rev().take_while(|s| s.last > position || s.last == 0);
        let bytes = |s: &state::Segment| {
            if position < s.first {
                return s.end;
            }
            // Entries of one segment are about of one size.
            let all = (s.last - s.first + 1) as f64;
            let part = s.last.saturating_sub(position) as f64 / all;
            (s.end as f64 * part) as u64
        };
        behind.map(bytes).sum()
    }

    /// The earliest offset such that whole segments of at most `bytes` come behind it.
    pub fn offset_within(&self, bytes: u64) -> u64 {
        let state = self.shared().state.lock();
        let mut room = bytes;
        for s in state.segments.iter().rev() {
            match room.checked_sub(s.end) {
                Some(left) => room = left,
                None => return s.last,
            }
        }
        0
    }

    /// An offset such that every entry up to it was received before `time`, UTC nanoseconds: the
    /// last one of the oldest segments of which that is known without reading them. Who looks for
    /// `time` starts there.
    pub fn surely_before(&self, time: i64) -> u64 {
        let state = self.shared().state.lock();
        let old = state.segments.iter().take_while(|s| s.received < time);
        old.map(|s| s.last).fold(state.trimmed, u64::max)
    }

    /// Whether data is refused because `max_bytes` is reached.
    pub fn is_full(&self) -> bool {
        self.bytes() >= self.options().max_bytes
    }

    /// Why nothing can be written now, if so.
    pub fn trouble(&self) -> Option<String> {
        self.shared().state.lock().trouble.clone()
    }

    /// Whether it has come to three quarters of `max_bytes`: time to save checkpoints and trim.
    pub fn is_filling(&self) -> bool {
        self.bytes() > self.options().max_bytes / 4 * 3
    }

    /// The limits in force.
    pub fn options(&self) -> JournalOptions {
        self.shared().options.lock().clone()
    }

    /// Other limits, from now on.
    pub fn set_options(&self, options: JournalOptions) {
        *self.shared().options.lock() = options;
    }

    /// How many idempotent entries were forgotten within the five minutes in which they are known,
    /// as there were too many.
    pub fn repeats_forgotten(&self) -> u64 {
        self.shared().repeats.forgotten()
    }

    /// What was found damaged, now or earlier, one sentence each. Damaged segments stay beside
    /// the journal as `*.damaged` until somebody deletes them.
    pub fn damage(&self) -> Vec<String> {
        self.shared().state.lock().damage.clone()
    }

    /// The number under which entries of `source` refer to these settings; durable once given.
    /// The same text as that of the newest generation has the same number.
    ///
    /// # Errors
    /// See [`AppendError`]; the settings have no number then.
    pub async fn register_generation(&self, source: &str, text: &str) -> Result<u32, AppendError> {
        let _one = self.handle.registering.lock().await;
        let newest = {
            let state = self.shared().state.lock();
            let all = state.catalog.generations.get(source);
            all.and_then(|all| all.last_key_value()).map(|(n, text)| (*n, text.clone()))
        };
        let number = match newest {
            Some((number, known)) if *known == *text => return Ok(number),
            Some((number, _)) => number + 1,
            None => 1,
        };
        let (source, text) = (source.into(), text.into());
        self.write(Work::Generation { source, number, text }, None).await?;
        Ok(number)
    }

    /// The settings of a source generation, if any entry still needs it or it is the newest.
    pub fn generation(&self, source: &str, number: u32) -> Option<Arc<str>> {
        self.shared().state.lock().catalog.text(source, number).cloned()
    }

    /// Where `source` goes on: the newest cursor among its durable entries, trimmed ones too.
    pub fn cursor(&self, source: &str) -> Option<Bytes> {
        self.shared().state.lock().catalog.cursors.get(source).cloned()
    }

    /// What the newest tick or mark carried, trimmed ones too.
    pub fn last_stamp(&self) -> Option<Stamp> {
        self.shared().state.lock().catalog.stamp
    }

    /// Wall time of the newest tick or mark, UTC nanoseconds.
    pub fn last_tick(&self) -> Option<i64> {
        self.last_stamp().map(|stamp| stamp.time)
    }

    /// Deletes whole segments whose entries are all below `keep_from` and received longer than
    /// `retain` ago; past half of `max_bytes`, where the disk is nearly full, and while it refuses what
    /// is to be written, whatever their age. The segment in writing stays. Gives the bytes freed. Deletes files: not for time slices of the runtime.
    pub fn trim(&self, keep_from: u64) -> u64 {
        self.trim_at(keep_from, crate::intake::now())
    }

    fn trim_at(&self, keep_from: u64, now: i64) -> u64 {
        let shared = self.shared();
        let options = self.options();
        let retain = i64::try_from(options.retain.as_nanos()).unwrap_or(i64::MAX);
        let mut freed = 0;
        let nearly_full = disk::is_nearly_full(&shared.dir, options.max_bytes);
        let files = {
            let mut state = shared.state.lock();
            let state: &mut State = &mut state;
            let mut go = 0;
            let needed = state.trouble.is_some() || nearly_full;
            let others = state.segments.len().saturating_sub(1);
            for segment in &state.segments[..others] {
                let old = segment.received < now.saturating_sub(retain);
                let full = shared.bytes.load(Relaxed) - freed > options.max_bytes / 2;
                if segment.last >= keep_from || !(old || full || needed) {
                    break;
                }
                freed += segment.end;
                state.trimmed = state.trimmed.max(segment.last);
                go += 1;
            }
            let gone = state.segments.drain(..go).map(|s| segment_path(&shared.dir, s.base));
            let mut files = std::mem::take(&mut state.leftover);
            files.extend(gone);
            files
        };
        shared.bytes.fetch_sub(freed, Relaxed);
        let mut left = Vec::new();
        for path in files {
            crate::failpoint!("trim.deleting");
            match shared.tuning.disk.remove(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "journal segment not deleted");
                    left.push(path);
                }
                _ => crate::failpoint!("trim.deleted"),
            }
        }
        shared.state.lock().leftover.extend(left);
        freed
    }

    /// Takes nothing more, writes what is queued, and ends the writer. Readers end behind the
    /// last entry.
    pub async fn close(&self) {
        let handle = self.handle.clone();
        drop(tokio::task::spawn_blocking(move || handle.stop()).await);
    }
}
