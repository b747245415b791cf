//! Readers: from memory near the head, else from disk.
//!
//! A reader is a position and nothing else, which memory knows, so as not to keep what all have
//! read. Everything above `memory_from` is in memory, so that
//! one look under the lock tells where to go on; crossing from disk to memory, over segments or
//! over a trim can neither miss an entry nor give it twice.

use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed};

use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::entry::Entry;
use super::frame::{Head, Names};
use super::segment::{Chunk, Walker};
use super::state::{Shared, segment_path};

/// Entries handed out at once from memory, and their bytes with decoded rows: who takes them holds
/// them until it is through, also those that memory has let go of.
const ENTRIES_MAX: usize = 1024;
const ENTRIES_BYTES: usize = 4 << 20;

/// Entries between a position and the oldest one left are gone. Found behind the [`io::Error`]
/// of [`Reader::next`] by [`Trimmed::of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("journal entries {} to {to} are needed but were trimmed", after + 1)]
pub struct Trimmed {
    /// The reader's position: the last entry that it had.
    pub after: u64,
    /// The last offset that is gone; `journal.reader(to)` goes on behind it.
    pub to: u64,
}

impl Trimmed {
    /// What is missing, if that is the error.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// Reads durable entries in order: from memory near the head, else from disk.
pub struct Reader {
    shared: Arc<Shared>,
    /// The last offset given out, also for those who let go of what was read.
    after: u64,
    told: Arc<AtomicU64>,
    head: watch::Receiver<u64>,
    walker: Option<Walker>,
    /// A read under way, kept when `next` was cancelled.
    reading: Option<JoinHandle<io::Result<Read>>>,
}

/// What a read of the disk came to.
struct Read {
    walker: Option<Walker>,
    after: u64,
    entries: Vec<Arc<Entry>>,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, after: u64) -> Self {
        let head = shared.head.subscribe();
        let told = Arc::new(AtomicU64::new(after));
        shared.state.lock().readers.push(Arc::downgrade(&told));
        Self { shared, after, told, head, walker: None, reading: None }
    }

    /// Offset of the last entry that it gave, or where it started.
    pub fn position(&self) -> u64 {
        self.after
    }

    /// The next entries, in order, at least one: waits for them at the head. Cancel safe.
    ///
    /// # Errors
    /// [`Trimmed`] if the entries behind its position are gone; any other error comes from the
    /// disk and may pass; `BrokenPipe` once the journal is closed and read to its end. The
    /// position stays, so that it can be called again.
    pub async fn next(&mut self) -> io::Result<Vec<Arc<Entry>>> {
        loop {
            if self.reading.is_none() {
                match self.memory() {
                    Memory::Entries(entries) => {
                        self.walker = None;
                        return Ok(entries);
                    }
                    Memory::AtHead => {
                        if self.shared.stopped.load(Acquire) && self.after >= *self.head.borrow() {
                            let closed = "the journal is closed";
                            return Err(io::Error::new(io::ErrorKind::BrokenPipe, closed));
                        }
                        // The sender lives in `shared`.
                        drop(self.head.changed().await);
                        continue;
                    }
                    Memory::Behind => {}
                }
                let (shared, walker, after) = (self.shared.clone(), self.walker.take(), self.after);
                self.reading =
                    Some(tokio::task::spawn_blocking(move || read(&shared, walker, after)));
            }
            let Some(reading) = &mut self.reading else { continue };
            let read = reading.await;
            self.reading = None;
            let read = read.map_err(io::Error::other)??;
            self.walker = read.walker;
            self.after = read.after;
            self.told.store(read.after, Relaxed);
            if !read.entries.is_empty() {
                return Ok(read.entries);
            }
        }
    }

    fn memory(&mut self) -> Memory {
        // Before looking: what is written from here on wakes `changed`.
        self.head.borrow_and_update();
        let state = self.shared.state.lock();
        if self.after < state.memory_from {
            return Memory::Behind;
        }
        let start = state.memory.partition_point(|(e, _)| e.offset <= self.after);
        let mut left = ENTRIES_BYTES;
        let next = state.memory.range(start..).take(ENTRIES_MAX).take_while(|(_, bytes)| {
            let fits = left > 0;
            left = left.saturating_sub(*bytes);
            fits
        });
        let entries: Vec<_> = next.map(|(e, _)| e.clone()).collect();
        drop(state);
        match entries.last() {
            None => Memory::AtHead,
            Some(last) => {
                self.after = last.offset;
                self.told.store(last.offset, Relaxed);
                Memory::Entries(entries)
            }
        }
    }
}

enum Memory {
    Entries(Vec<Arc<Entry>>),
    AtHead,
    Behind,
}

/// Where on disk to go on.
struct Target {
    base: u64,
    salt: u32,
    start: u64,
    end: u64,
    last: u64,
}

/// Reads the next entries above `after` from disk; none if memory has them.
fn read(shared: &Shared, mut walker: Option<Walker>, mut after: u64) -> io::Result<Read> {
    loop {
        let target = {
            let state = shared.state.lock();
            if after >= state.memory_from {
                return Ok(Read { walker: None, after, entries: Vec::new() });
            }
            if after < state.trimmed {
                let trimmed = Trimmed { after, to: state.trimmed };
                return Err(io::Error::new(io::ErrorKind::NotFound, trimmed));
            }
            match state.segments.iter().find(|s| s.last > after) {
                Some(s) => {
                    Target { base: s.base, salt: s.salt, start: s.start, end: s.end, last: s.last }
                }
                // What was in between is lost to damage.
                None => {
                    let after = state.memory_from;
                    return Ok(Read { walker: None, after, entries: Vec::new() });
                }
            }
        };
        let mut current = match walker.take().filter(|w| w.base() == target.base) {
            Some(walker) => walker,
            None => match open(shared, &target)? {
                Some(walker) => walker,
                None => continue,
            },
        };
        current.end = target.end;
        let mut names = Names::default();
        while let Some(chunk) = current.chunk()? {
            if let Some(bad) = &chunk.bad {
                let what = format!("bytes {} to {} hold no entries", bad.start, bad.end);
                shared.state.lock().damaged(&shared.dir, target.base, &what);
                continue;
            }
            let entries = entries(&chunk, after, &mut names);
            if let Some(last) = entries.last() {
                after = last.offset;
                return Ok(Read { walker: Some(current), after, entries });
            }
        }
        // All that this segment has up to its end as it was, some of it perhaps damaged.
        after = after.max(target.last);
        walker = Some(current);
    }
}

/// Opens a segment; `None` if it was trimmed meanwhile, or is lost.
fn open(shared: &Shared, target: &Target) -> io::Result<Option<Walker>> {
    let path = segment_path(&shared.dir, target.base);
    match Walker::open(&path, target.salt, target.base, target.start, target.end) {
        Ok(walker) => Ok(Some(walker)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut state = shared.state.lock();
            if let Some(i) = state.segments.iter().position(|s| s.base == target.base) {
                state.damaged(&shared.dir, target.base, "the file is missing");
                // Its successor's header still knows it; readers do not come here again.
                let s = &mut state.segments[i];
                (s.first, s.last) = (0, 0);
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The entries of a chunk above `after`, not decoded yet.
fn entries(chunk: &Chunk, after: u64, names: &mut Names) -> Vec<Arc<Entry>> {
    let wanted = chunk.frames.iter().filter(|f| f.offset > after);
    wanted
        .filter_map(|f| {
            let head = Head::decode(chunk.bytes.slice(f.head.clone())).ok()?;
            let head = head.entry(chunk.bytes.slice(f.payload.clone()), names)?;
            Some(Arc::new(Entry { offset: f.offset, head, batches: OnceLock::new() }))
        })
        .collect()
}
