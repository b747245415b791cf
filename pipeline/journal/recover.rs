//! Opening: what is on disk, what of it counts, and where to go on.
//!
//! The newest header says what every older segment holds, so that only the newest segment has
//! to be walked. Older ones are checked when they are read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use prost::Message;

use super::frame::{self, Head, Names};
use super::repeats::Repeats;
use super::segment::{Header, HeaderFound, SPAN, Walker, read_header, version_error};
use super::state::{Catalog, DAMAGED, SUFFIX, Segment, State, aside_path, random, segment_path};

/// What opening found.
pub(super) struct Recovered {
    pub(super) id: u128,
    pub(super) state: State,
    pub(super) repeats: Repeats,
    /// The first offset to give out.
    pub(super) next: u64,
    /// Offset of the newest entry, 0 without any.
    pub(super) head: u64,
}

/// Name of the file that holds the journal's id, as text.
const ID_FILE: &str = "id";

/// A segment whose header is good.
struct Found {
    header: Header,
    start: u64,
    size: u64,
}

/// Reads the journal in `dir`, and cuts what does not count.
///
/// # Errors
/// A segment of an unknown format version; a folder that cannot be read or written.
pub(super) fn recover(dir: &Path, floor: impl FnOnce(u128) -> u64) -> io::Result<Recovered> {
    std::fs::create_dir_all(dir)?;
    let mut bases = BTreeSet::new();
    // Above every offset that any file, good or not, can have held.
    let mut above = 0;
    let mut newest_base = 0;
    let mut earlier = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".tmp") {
            // A segment whose header never became durable.
            std::fs::remove_file(dir.join(&name))?;
            continue;
        }
        let stem = name.strip_suffix(DAMAGED).unwrap_or(&name);
        let Some(base) = stem.strip_suffix(SUFFIX).and_then(|s| s.parse::<u64>().ok()) else {
            continue;
        };
        if stem == name {
            bases.insert(base);
        } else {
            earlier.push(format!("journal segment `{name}` was set aside as damaged"));
            above = above.max(base.saturating_add(SPAN));
        }
        newest_base = newest_base.max(base);
    }
    earlier.sort();
    let mut state = State {
        segments: Vec::new(),
        catalog: Catalog::default(),
        trimmed: 0,
        memory: VecDeque::new(),
        memory_bytes: 0,
        trouble: None,
        memory_from: 0,
        readers: Vec::new(),
        damage: earlier,
        aside: BTreeSet::new(),
        leftover: Vec::new(),
    };
    let (id, mut found) = headers(dir, &bases, &mut state)?;
    if let Some(base) = bases.iter().next_back().filter(|b| !found.contains_key(b)) {
        above = above.max(base.saturating_add(SPAN));
    }
    let repeats = Repeats::new(id);
    // The newest header that is left knows the most.
    let mut known = BTreeMap::new();
    if let Some((_, newest)) = found.last_key_value() {
        state.catalog = Catalog::of(&newest.header);
        state.trimmed = newest.header.trimmed;
        repeats.restore(&newest.header.repeats);
        for s in &newest.header.segments {
            known.insert(s.base, s.clone());
        }
    }
    let last_found = found.keys().next_back().copied();
    for (base, found) in std::mem::take(&mut found) {
        let mut segment = Segment::new(base, found.header.salt, found.start);
        match known.remove(&base) {
            Some(summary) => {
                segment.apply(&summary);
                trust(dir, &mut state, &segment, found.size)?;
            }
            None => {
                let newest = last_found == Some(base) && newest_base == base;
                segment.end = found.size;
                let next = walk(dir, &mut state, &repeats, &mut segment, newest)?;
                above = above.max(next.unwrap_or(base.saturating_add(SPAN)));
            }
        }
        state.segments.push(segment);
    }
    // Segments that the newest header knows, but that are gone: trimmed, unless they lie aside.
    for (base, summary) in known {
        if !aside_path(dir, base).exists() {
            state.trimmed = state.trimmed.max(summary.last);
        }
    }
    let head = state.segments.iter().map(|s| s.last).max().unwrap_or(0).max(state.trimmed);
    state.memory_from = head;
    let next = above.max(head + 1).max(floor(id).saturating_add(1)).max(newest_base + 1);
    Ok(Recovered { id, state, repeats, next, head })
}

/// The id of the journal and its good headers by base. Files with bad headers are set aside.
fn headers(
    dir: &Path,
    bases: &BTreeSet<u64>,
    state: &mut State,
) -> io::Result<(u128, BTreeMap<u64, Found>)> {
    let mut found = BTreeMap::new();
    let mut bad = Vec::new();
    for &base in bases {
        let path = segment_path(dir, base);
        match read_header(&path)? {
            HeaderFound::Version(version) => return Err(version_error(&path, version)),
            HeaderFound::Bad(why) => bad.push((base, why)),
            HeaderFound::Good(header, _) if header.base != base => {
                bad.push((base, "its header names another offset"));
            }
            HeaderFound::Good(header, start) => {
                // The newest names all that are known.
                if let Some(mut before) = found.last_entry() {
                    let before: &mut Found = before.get_mut();
                    before.header.repeats = Vec::new();
                }
                let size = std::fs::metadata(&path)?.len();
                found.insert(base, Found { header: *header, start, size });
            }
        }
    }
    let written = std::fs::read_to_string(dir.join(ID_FILE)).ok();
    let written = written.and_then(|s| u128::from_str_radix(s.trim(), 16).ok());
    let of = |f: &Found| f.header.journal.as_slice().try_into().map(u128::from_be_bytes).ok();
    let id = match written {
        Some(id) if found.is_empty() || found.values().any(|f| of(f) == Some(id)) => id,
        // Where no segment has it, the file is damaged, and the headers have checksums.
        written => {
            let id = found.values().next_back().and_then(of);
            let id = id.unwrap_or_else(|| u128::from(random()) << 64 | u128::from(random()));
            if written.is_some() {
                let path = dir.join(ID_FILE);
                let text = format!("`{}` is damaged, its segments have another id", path.display());
                tracing::error!(damage = text, "going on with the id of the newest segment");
                state.damage.push(text);
            }
            write_id(dir, id)?;
            id
        }
    };
    found.retain(|base, f| {
        let same = f.header.journal == id.to_be_bytes();
        if !same {
            bad.push((*base, "it belongs to another journal"));
        }
        same
    });
    for (base, why) in bad {
        // An earlier link to the same file would make the renaming do nothing.
        let aside = aside_path(dir, base);
        drop(std::fs::remove_file(&aside));
        std::fs::rename(segment_path(dir, base), &aside)?;
        state.name_damage(dir, base, why);
    }
    Ok((id, found))
}

fn write_id(dir: &Path, id: u128) -> io::Result<()> {
    let tmp = dir.join("id.tmp");
    let mut file = std::fs::File::create(&tmp)?;
    writeln!(file, "{id:032x}")?;
    file.sync_all()?;
    std::fs::rename(&tmp, dir.join(ID_FILE))?;
    std::fs::File::open(dir)?.sync_all()
}

/// Holds a segment against what its successor knows of it.
fn trust(dir: &Path, state: &mut State, segment: &Segment, size: u64) -> io::Result<()> {
    if size < segment.end {
        let what = format!("it has {size} bytes of {}", segment.end);
        state.damaged(dir, segment.base, &what);
    } else if size > segment.end {
        let path = segment_path(dir, segment.base);
        let bytes = size - segment.end;
        tracing::info!(path = %path.display(), bytes, "cut what a failed write had left");
        cut(&path, segment.end)?;
    }
    Ok(())
}

fn cut(path: &Path, length: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(length)?;
    file.sync_all()
}

/// Walks a segment that no later header describes. Gives the offset to go on with if the journal
/// was closed in order behind it. Of the newest one a torn tail is cut; everything else that is
/// no frame is damage.
fn walk(
    dir: &Path,
    state: &mut State,
    repeats: &Repeats,
    segment: &mut Segment,
    newest: bool,
) -> io::Result<Option<u64>> {
    let path = segment_path(dir, segment.base);
    let size = segment.end;
    let mut walker = Walker::open(&path, segment.salt, segment.base, segment.start, size)?;
    let mut good = segment.start;
    let mut bad = Vec::new();
    let mut closed = None;
    let mut names = Names::default();
    while let Some(chunk) = walker.chunk()? {
        if let Some(range) = chunk.bad {
            bad.push(range);
            continue;
        }
        for f in &chunk.frames {
            let Ok(head) = Head::decode(chunk.bytes.slice(f.head.clone())) else { continue };
            let payload = chunk.bytes.slice(f.payload.clone());
            closed = (head.kind == frame::CLOSED).then_some(head.number);
            if head.kind == frame::GENERATION {
                let text = String::from_utf8_lossy(&payload);
                state.catalog.generation(&head.source, head.generation, &text);
            } else if let Some(entry) = head.entry(payload, &mut names) {
                state.catalog.entry(&entry);
                repeats.found(&entry, f.offset);
                segment.add(f.offset, &entry);
            }
        }
        good = walker.at;
    }
    segment.end = good;
    let torn = bad.iter().position(|b| b.start >= good);
    if torn.is_some() {
        closed = None;
    }
    if newest {
        if let Some(torn) = torn {
            bad.truncate(torn);
            let bytes = size - good;
            tracing::warn!(path = %path.display(), bytes, "cut the torn end of the journal");
            cut(&path, good)?;
        } else {
            // What is there may still be in the page cache only; nobody may see it before it is
            // durable.
            OpenOptions::new().write(true).open(&path)?.sync_all()?;
        }
    }
    for range in bad {
        let what = format!("bytes {} to {} hold no entries", range.start, range.end);
        state.damaged(dir, segment.base, &what);
    }
    Ok(closed)
}
