//! The one thread that writes: takes what is queued, writes it once, syncs once, answers all.
//!
//! After a failed write or sync nothing of that batch is taken for written. Its segment ends at
//! the last length known to be good, and writing goes on in a new one, as soon as the disk takes
//! it. Offsets are only given out under a durable header, whose base bounds them: those of a
//! failed batch are never used again, also after a crash.

use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use prost::Message;

use super::AppendError;
use super::disk::DiskFile;
use super::entry::{Entry, NewEntry};
use super::frame::{self, Head};
use super::queue::{Answer, BATCH_ENTRIES_MAX, QUEUED_BYTES, Queued, Work};
use super::repeats::Claim;
use super::segment::SPAN;
use super::state::{SUFFIX, Segment, Shared, generation_note, random, segment_path};

/// Payloads up to this size are copied behind their heads; larger ones are written from where
/// they are. A slice of its own costs about as much as copying this much.
const COPY_BYTES_MAX: usize = 4 << 10;

/// The segment being written.
struct Open {
    file: Box<dyn DiskFile>,
    base: u64,
    salt: u32,
    /// Length of the header.
    start: u64,
    /// Bytes known to be durable.
    end: u64,
    /// Generations whose text stands in this segment.
    known: HashSet<(Arc<str>, u32)>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    open: Option<Open>,
    /// The next offset.
    next: u64,
    buffer: Vec<u8>,
    /// Whether the last batch failed: a full disk is told once, not with every batch.
    failing: bool,
}

/// A stretch of what is written.
enum Part {
    Buffer(usize),
    Payload(usize),
}

impl Writer {
    /// Gives out offsets from `next` on.
    pub(super) fn new(shared: Arc<Shared>, next: u64) -> Self {
        Self { shared, open: None, next, buffer: Vec::new(), failing: false }
    }

    /// Until the journal is closed.
    pub(super) fn run(mut self) {
        while let Some(batch) = self.shared.take() {
            let cost: usize = batch.iter().map(Queued::cost).sum();
            match self.write(&batch) {
                Ok(first) => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("journal is written again");
                    }
                    let answers = self.publish(batch, first);
                    // Before the answers: whoever has one finds the room.
                    self.shared.release(cost);
                    for (answer, claim, offset) in answers {
                        if let Some(claim) = claim {
                            claim.keep(offset);
                        }
                        drop(answer.send(Ok(offset)));
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::error!(%error, "journal could not be written; still trying");
                    }
                    self.shared.state.lock().trouble = Some(error.to_string());
                    let error = AppendError::Io(error.to_string());
                    self.shared.release(cost);
                    for item in batch {
                        // Who asked may be gone.
                        drop(item.answer.send(Err(error.clone())));
                    }
                }
            }
        }
        if let Err(error) = self.seal() {
            // The next start skips some offsets instead.
            tracing::warn!(%error, "journal could not be marked as closed");
        }
    }

    /// Makes the batch durable; gives the offset of its first entry.
    fn write(&mut self, batch: &[Queued]) -> io::Result<u64> {
        self.ready()?;
        let Some(open) = &mut self.open else { return Err(io::ErrorKind::NotFound.into()) };
        let first = self.next;
        self.buffer.clear();
        let mut parts = Vec::new();
        let mut copied = 0;
        for (i, item) in batch.iter().enumerate() {
            let offset = match &item.work {
                Work::Entry(entry) => {
                    let key = (entry.source.clone(), entry.generation);
                    if entry.generation != 0 && !open.known.contains(&key) {
                        // The header left it out, as nothing needed it any more.
                        let text = self.shared.state.lock().catalog.text(&key.0, key.1).cloned();
                        if let Some(text) = text {
                            let (head, payload) = generation_note(&key.0, key.1, &text);
                            let crc = frame::body_crc(&head, &payload);
                            let (h, p) = (head.len(), payload.len());
                            self.buffer.extend_from_slice(&frame::prefix(open.salt, 0, h, p, crc));
                            self.buffer.extend_from_slice(&head);
                            self.buffer.extend_from_slice(&payload);
                        }
                        open.known.insert(key);
                    }
                    self.next += 1;
                    self.next - 1
                }
                Work::Generation { source, number, .. } => {
                    open.known.insert((source.clone(), *number));
                    0
                }
            };
            let (h, p) = (item.head.len(), item.payload.len());
            self.buffer.extend_from_slice(&frame::prefix(open.salt, offset, h, p, item.crc));
            self.buffer.extend_from_slice(&item.head);
            if p <= COPY_BYTES_MAX {
                self.buffer.extend_from_slice(&item.payload);
            } else {
                parts.push(Part::Buffer(self.buffer.len() - copied));
                copied = self.buffer.len();
                parts.push(Part::Payload(i));
            }
        }
        parts.push(Part::Buffer(self.buffer.len() - copied));
        let mut rest = self.buffer.as_slice();
        let mut slices = Vec::with_capacity(parts.len());
        let mut length = 0;
        for part in parts {
            let slice = match part {
                Part::Buffer(n) => {
                    let (part, behind) = rest.split_at(n);
                    rest = behind;
                    part
                }
                Part::Payload(i) => &batch[i].payload,
            };
            length += slice.len() as u64;
            slices.push(IoSlice::new(slice));
        }
        let done = open.file.write(&mut slices).and_then(|()| open.file.sync());
        if let Err(error) = done {
            self.abandon();
            return Err(error);
        }
        open.end += length;
        Ok(first)
    }

    /// Ends the segment at the last length known to be good. Should cutting fail too, the header
    /// of the next segment says where this one ends.
    fn abandon(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        if let Err(error) = open.file.cut(open.end) {
            tracing::warn!(%error, base = open.base, "journal segment could not be cut");
        }
    }

    /// Makes sure that there is a segment with room.
    fn ready(&mut self) -> io::Result<()> {
        let segment_bytes = {
            // Small limits get small segments: trimming frees whole ones.
            let max = self.shared.options.lock().max_bytes;
            self.shared.tuning.segment_bytes.min(max / 8).max(1)
        };
        if let Some(open) = &self.open {
            let room = open.end - open.start < segment_bytes
                && self.next - open.base < SPAN - BATCH_ENTRIES_MAX as u64;
            if room {
                return Ok(());
            }
        }
        self.create(segment_bytes)
    }

    /// Begins a new segment. Under a temporary name until its header is durable: a segment with
    /// half a header is damage, not a crash.
    fn create(&mut self, segment_bytes: u64) -> io::Result<()> {
        let shared = self.shared.clone();
        let disk = &shared.tuning.disk;
        #[allow(clippy::cast_possible_truncation)]
        let salt = random() as u32;
        let (base, mut header) = {
            let state = shared.state.lock();
            let above = state.segments.last().map_or(0, |s| s.base + 1);
            let base = self.next.max(above);
            (base, state.header(shared.id, base, salt))
        };
        header.repeats = shared.repeats.records(segment_bytes);
        let path = segment_path(&shared.dir, base);
        let tmp = path.with_extension("tmp");
        debug_assert!(path.to_string_lossy().ends_with(SUFFIX));
        let bytes = header.to_bytes();
        let made = (|| {
            let mut file = disk.create(&tmp)?;
            file.write(&mut [IoSlice::new(&bytes)])?;
            file.sync()?;
            disk.rename(&tmp, &path)?;
            disk.sync_dir(&shared.dir)?;
            Ok(file)
        })();
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                // Free what it took; the next attempt begins anew.
                drop(disk.remove(&tmp));
                return Err(error);
            }
        };
        let known = header.generations.iter().map(|g| (g.source.as_str().into(), g.number));
        let end = bytes.len() as u64;
        self.open = Some(Open { file, base, salt, start: end, end, known: known.collect() });
        self.next = base;
        shared.state.lock().segments.push(Segment::new(base, salt, end));
        shared.bytes.fetch_add(end, Relaxed);
        Ok(())
    }

    /// Shows a durable batch to readers. Gives the answers.
    fn publish(&mut self, batch: Vec<Queued>, first: u64) -> Vec<(Answer, Option<Claim>, u64)> {
        let mut offset = first;
        let mut answers = Vec::with_capacity(batch.len());
        let mut entries = Vec::with_capacity(batch.len());
        let mut generations = Vec::new();
        for item in batch {
            match item.work {
                Work::Entry(entry) => {
                    entries.push(durable(*entry, offset));
                    answers.push((item.answer, item.claim, offset));
                    offset += 1;
                }
                Work::Generation { source, number, text } => {
                    generations.push((source, number, text));
                    answers.push((item.answer, None, 0));
                }
            }
        }
        let newest = entries.last().map(|(entry, _)| entry.offset);
        let kept = (self.shared.tuning.memory_entries, self.shared.options.lock().memory_bytes);
        {
            let mut state = self.shared.state.lock();
            let state = &mut *state;
            state.trouble = None;
            for (source, number, text) in generations {
                state.catalog.generations.entry(source).or_default().insert(number, text);
            }
            if let (Some(segment), Some(open)) = (state.segments.last_mut(), &self.open) {
                self.shared.bytes.fetch_add(open.end - segment.end, Relaxed);
                segment.end = open.end;
                for (entry, _) in &entries {
                    segment.add(entry.offset, &entry.head);
                }
            }
            for (entry, bytes) in entries {
                state.catalog.entry(&entry.head);
                state.remember(entry, bytes, kept);
            }
            if let Some(newest) = newest {
                // Under the lock: whoever sees this head finds its entry.
                self.shared.head.send_replace(newest);
            }
        }
        answers
    }

    /// Notes that the journal was closed in order, so that the next start can go on with the
    /// next offset.
    fn seal(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let head = Head { kind: frame::CLOSED, number: self.next, ..Head::default() };
        let head = head.encode_to_vec();
        let crc = frame::body_crc(&head, &[]);
        let prefix = frame::prefix(open.salt, 0, head.len(), 0, crc);
        open.file.write(&mut [IoSlice::new(&prefix), IoSlice::new(&head)])?;
        open.file.sync()
    }
}

/// The entry as readers see it, and its size in memory.
fn durable(mut entry: NewEntry, offset: u64) -> (Arc<Entry>, usize) {
    let decoded = entry.decoded.take();
    let mut bytes = entry.payload.len() + 2 * QUEUED_BYTES;
    let batches = std::sync::OnceLock::new();
    if let Some(decoded) = decoded {
        bytes += decoded.iter().map(|(_, b)| b.bytes()).sum::<usize>();
        let stamped = decoded.into_iter().map(|(name, b)| (name, b.with_offset(offset)));
        drop(batches.set(Arc::new(stamped.collect())));
    }
    (Arc::new(Entry { offset, head: entry, batches }), bytes)
}

/// Runs a writer on a thread of its own: it waits for the disk most of the time.
pub(super) fn spawn(shared: Arc<Shared>, next: u64) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name("weir-journal".into()).spawn(move || {
        let writer = Writer::new(shared.clone(), next);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.run()));
        if ended.is_err() {
            tracing::error!("the journal's writer failed; nothing more can be taken");
        }
        shared.shut();
        shared.stopped.store(true, Release);
        // Wakes the readers at the head.
        shared.head.send_modify(|_| {});
    })
}
