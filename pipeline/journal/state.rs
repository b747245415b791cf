//! What the writer, the readers and the handles of one journal share.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use prost::Message;
use tokio::sync::watch;

use super::JournalOptions;
use super::clock::{Stamp, StampRecord};
use super::disk::{Disk, RealDisk};
use super::entry::{Entry, NewEntry};
use super::frame::{self, Head};
use super::queue::Queue;
use super::repeats::Repeats;
use super::segment::{CursorRecord, GenerationRecord, Header, SummaryRecord};

/// Sizes, so that tests can make them small.
#[derive(Clone)]
pub(super) struct Tuning {
    /// A segment is closed past this many bytes. 64 MiB: trimming frees a small part of the
    /// limit at a time, and an hour of heavy traffic stays below a thousand files.
    pub(super) segment_bytes: u64,
    /// Entries kept in memory for readers that keep up, in number.
    pub(super) memory_entries: usize,
    /// What may wait to be written, in bytes of payload and head.
    pub(super) queue_bytes: usize,
    /// Where it is written.
    pub(super) disk: Arc<dyn Disk>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            memory_entries: 16 << 10,
            queue_bytes: 64 << 20,
            disk: Arc::new(RealDisk),
        }
    }
}

/// Sentences about damage kept for [`super::Journal::damage`].
const DAMAGE_MAX: usize = 100;

/// Damaged files kept beside the journal; past that damage is only named, so that a failing
/// disk is not filled with copies.
const SET_ASIDE_MAX: usize = 16;

/// How the name of a segment ends.
pub(super) const SUFFIX: &str = ".seg";
/// How the name of a damaged one ends.
pub(super) const DAMAGED: &str = ".damaged";

/// The path of the segment with this base.
pub(super) fn segment_path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}{SUFFIX}"))
}

/// Where the segment with this base is set aside.
pub(super) fn aside_path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}{SUFFIX}{DAMAGED}"))
}

pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) id: u128,
    pub(super) tuning: Tuning,
    pub(super) options: Mutex<JournalOptions>,
    pub(super) repeats: Repeats,
    pub(super) state: Mutex<State>,
    pub(super) queue: Mutex<Queue>,
    pub(super) queued: Condvar,
    /// Offset of the newest durable entry.
    pub(super) head: watch::Sender<u64>,
    /// Bytes of all segments.
    pub(super) bytes: AtomicU64,
    pub(super) stopped: AtomicBool,
}

/// A segment on disk.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) base: u64,
    pub(super) salt: u32,
    /// Length of its header.
    pub(super) start: u64,
    /// Bytes that are durable and count.
    pub(super) end: u64,
    /// Offsets of the first and last entry, 0 without any.
    pub(super) first: u64,
    pub(super) last: u64,
    /// Newest receive time, `i64::MIN` without any.
    pub(super) received: i64,
    /// Source generations that its entries need.
    pub(super) used: BTreeSet<(Arc<str>, u32)>,
}

impl Segment {
    /// An empty one.
    pub(super) fn new(base: u64, salt: u32, start: u64) -> Self {
        let used = BTreeSet::new();
        Self { base, salt, start, end: start, first: 0, last: 0, received: i64::MIN, used }
    }

    /// Takes note of an entry in it.
    pub(super) fn add(&mut self, offset: u64, entry: &NewEntry) {
        if self.first == 0 {
            self.first = offset;
        }
        self.last = offset;
        self.received = self.received.max(entry.received);
        if entry.generation != 0 && !self.uses(&entry.source, entry.generation) {
            self.used.insert((entry.source.clone(), entry.generation));
        }
    }

    fn uses(&self, source: &Arc<str>, generation: u32) -> bool {
        // Few per segment; no allocation for a lookup.
        self.used.iter().any(|(s, g)| *g == generation && s == source)
    }

    /// Takes over what a later header says of it.
    pub(super) fn apply(&mut self, s: &SummaryRecord) {
        self.end = s.length;
        (self.first, self.last, self.received) = (s.first, s.last, s.received);
        self.used = s.used.iter().map(|g| (g.source.as_str().into(), g.number)).collect();
    }

    fn summary(&self) -> SummaryRecord {
        let used = self.used.iter().map(|(source, number)| GenerationRecord {
            source: source.to_string(),
            number: *number,
            text: String::new(),
        });
        SummaryRecord {
            base: self.base,
            length: self.end,
            first: self.first,
            last: self.last,
            received: self.received,
            used: used.collect(),
        }
    }
}

/// What outlives the entries that said it.
#[derive(Default)]
pub(super) struct Catalog {
    pub(super) cursors: BTreeMap<Arc<str>, Bytes>,
    pub(super) generations: BTreeMap<Arc<str>, BTreeMap<u32, Arc<str>>>,
    pub(super) stamp: Option<Stamp>,
}

impl Catalog {
    /// What a header says.
    pub(super) fn of(header: &Header) -> Self {
        let mut catalog = Self::default();
        for c in &header.cursors {
            catalog.cursors.insert(c.source.as_str().into(), c.cursor.clone());
        }
        for g in &header.generations {
            catalog.generation(&g.source, g.number, &g.text);
        }
        catalog.stamp =
            header.stamp.as_ref().map(|s| Stamp { time: s.time, elapsed: s.elapsed, step: s.step });
        catalog
    }

    /// Takes note of a generation.
    pub(super) fn generation(&mut self, source: &str, number: u32, text: &str) {
        self.generations.entry(source.into()).or_default().insert(number, text.into());
    }

    /// Takes note of what an entry says.
    pub(super) fn entry(&mut self, entry: &NewEntry) {
        if !entry.cursor.is_empty() {
            self.cursors.insert(entry.source.clone(), entry.cursor.clone());
        }
        if let Some((stamp, _)) = Stamp::read(entry) {
            self.stamp = Some(stamp);
        }
    }

    /// The text of a generation.
    pub(super) fn text(&self, source: &str, number: u32) -> Option<&Arc<str>> {
        self.generations.get(source)?.get(&number)
    }
}

/// The note that a generation stands in: head and payload.
pub(super) fn generation_note(source: &str, number: u32, text: &Arc<str>) -> (Vec<u8>, Bytes) {
    let head = Head {
        kind: frame::GENERATION,
        source: source.to_owned(),
        generation: number,
        ..Head::default()
    };
    (head.encode_to_vec(), Bytes::copy_from_slice(text.as_bytes()))
}

pub(super) struct State {
    /// In order; the last one may be in writing.
    pub(super) segments: Vec<Segment>,
    pub(super) catalog: Catalog,
    /// Every entry up to here was trimmed.
    pub(super) trimmed: u64,
    /// The newest durable entries: all those above `memory_from`.
    pub(super) memory: VecDeque<(Arc<Entry>, usize)>,
    pub(super) memory_bytes: usize,
    pub(super) memory_from: u64,
    /// The offset up to which each reader has read.
    pub(super) readers: Vec<Weak<AtomicU64>>,
    pub(super) damage: Vec<String>,
    /// Why the last batch could not be written.
    pub(super) trouble: Option<String>,
    /// Segments already set aside.
    pub(super) aside: BTreeSet<u64>,
    /// Segments let go whose files could not be deleted yet.
    pub(super) leftover: Vec<PathBuf>,
}

impl State {
    /// The header of a new segment: what must outlive the older ones. Generations go that are
    /// neither the newest of their source nor needed by any segment.
    pub(super) fn header(&self, id: u128, base: u64, salt: u32) -> Header {
        let used: BTreeSet<(&str, u32)> = self
            .segments
            .iter()
            .flat_map(|s| s.used.iter().map(|(source, number)| (&**source, *number)))
            .collect();
        let mut generations = Vec::new();
        for (source, all) in &self.catalog.generations {
            let newest = all.keys().next_back();
            for (number, text) in all {
                if Some(number) == newest || used.contains(&(&**source, *number)) {
                    generations.push(GenerationRecord {
                        source: source.to_string(),
                        number: *number,
                        text: text.to_string(),
                    });
                }
            }
        }
        let cursors = self.catalog.cursors.iter().map(|(source, cursor)| CursorRecord {
            source: source.to_string(),
            cursor: cursor.clone(),
        });
        Header {
            journal: id.to_be_bytes().to_vec(),
            base,
            salt,
            cursors: cursors.collect(),
            generations,
            segments: self.segments.iter().map(Segment::summary).collect(),
            stamp: self.catalog.stamp.map(|s| StampRecord {
                elapsed: s.elapsed,
                step: s.step,
                reason: String::new(),
                time: s.time,
            }),
            trimmed: self.trimmed,
            repeats: Vec::new(),
        }
    }

    /// Keeps a durable entry for readers that keep up; `bytes` is its size in memory. Lets go of
    /// those that all have read, while all keep up: their memory is at hand for what comes.
    pub(super) fn remember(
        &mut self,
        entry: Arc<Entry>,
        bytes: usize,
        (entries_max, bytes_max): (usize, usize),
    ) {
        self.memory_bytes += bytes;
        self.memory.push_back((entry, bytes));
        let read = self.read_by_all();
        while self.memory.len() > entries_max
            || self.memory_bytes > bytes_max
            || self.memory.front().is_some_and(|(entry, _)| entry.offset <= read)
        {
            let Some((old, bytes)) = self.memory.pop_front() else { break };
            self.memory_bytes = self.memory_bytes.saturating_sub(bytes);
            self.memory_from = old.offset;
        }
    }

    /// The offset up to which all readers have read; 0 if there are none, or one reads from disk:
    /// it meets the others where memory begins.
    fn read_by_all(&mut self) -> u64 {
        self.readers.retain(|reader| reader.strong_count() > 0);
        let positions = self.readers.iter().filter_map(Weak::upgrade).map(|r| r.load(Relaxed));
        positions.min().filter(|first| *first >= self.memory_from).unwrap_or_default()
    }

    /// Takes note of damage within the segment with this base: names it, and links the file
    /// under a name that trimming leaves alone.
    pub(super) fn damaged(&mut self, dir: &Path, base: u64, what: &str) {
        let path = segment_path(dir, base);
        if self.aside.len() < SET_ASIDE_MAX && self.aside.insert(base) {
            let aside = aside_path(dir, base);
            match std::fs::hard_link(&path, &aside) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    tracing::warn!(path = %path.display(), %error, "damaged segment not set aside");
                }
                _ => {}
            }
        }
        self.name_damage(dir, base, what);
    }

    /// Names damage to the segment with this base. Says nothing twice.
    pub(super) fn name_damage(&mut self, dir: &Path, base: u64, what: &str) {
        let path = segment_path(dir, base);
        let text = format!("journal segment `{}`: {what}", path.display());
        if self.damage.contains(&text) {
            return;
        }
        tracing::error!(damage = text, "journal is damaged; going on behind it");
        if self.damage.len() < DAMAGE_MAX {
            self.damage.push(text);
        }
    }
}

/// Random bits that an outsider cannot guess: the standard library's hash keys come from the
/// operating system.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    RandomState::new().hash_one((now.unwrap_or(Duration::ZERO), std::process::id()))
}
