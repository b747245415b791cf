//! Checkpoints: position, plan, state of every operator, what every sink staged, of one pipeline,
//! saved atomically.
//!
//! A file is `WEIRCKPT`, format version (u32 LE), header length (u32 LE), header (JSON), the blobs
//! that the header lists in order, and the CRC32C (u32 LE) of all that. It is written aside,
//! fsynced and renamed into place; the two newest are kept. Plans stand beside, by content hash.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::component::Staged;
use crate::config::Bundle;
use crate::graph::{NodeState, States};

const MAGIC: &[u8; 8] = b"WEIRCKPT";
/// Version of the file format; another one is refused by name.
const FORMAT: u32 = 1;
/// Checkpoints kept per pipeline: if the newest is damaged, the one before still starts.
const KEPT: usize = 2;

/// Everything that a pipeline needs to go on from a position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// Pipeline name.
    pub pipeline: String,
    /// Hash of the plan that made it.
    pub plan: String,
    /// Journal id.
    pub journal: u128,
    /// Offset of the last entry that is contained.
    pub position: u64,
    /// Wall time of the last tick, UTC nanoseconds: what `now` means until the next.
    pub now: i64,
    /// Newest watermark of the sources, UTC nanoseconds.
    pub watermark: i64,
    /// The pipeline was removed at `position`, everything it held was flushed.
    pub removed: bool,
    /// State by node id.
    pub states: States,
    /// Staged work by sink id.
    pub sinks: BTreeMap<String, Staged>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    pipeline: String,
    plan: String,
    journal: String,
    position: u64,
    now: i64,
    watermark: i64,
    removed: bool,
    states: Vec<StateHeader>,
    sinks: Vec<SinkHeader>,
}

#[derive(Serialize, Deserialize)]
struct StateHeader {
    node: String,
    shape: String,
    bytes: usize,
}

#[derive(Serialize, Deserialize)]
struct SinkHeader {
    sink: String,
    work: usize,
    carry: usize,
}

/// The checkpoints of all pipelines, in a folder of the data folder.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    plans: PathBuf,
}

impl Checkpoints {
    /// Opens `data/checkpoints` and `data/plans`.
    ///
    /// # Errors
    /// If the folders cannot be made.
    pub fn open(data: &Path) -> io::Result<Self> {
        let (dir, plans) = (data.join("checkpoints"), data.join("plans"));
        fs::create_dir_all(&dir)?;
        fs::create_dir_all(&plans)?;
        Ok(Self { dir, plans })
    }

    /// Saves `checkpoint`; when this returns it is on disk under its final name.
    ///
    /// # Errors
    /// If the disk refuses; then the checkpoint before is still in force.
    pub fn save(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let dir = self.dir.join(folder(&checkpoint.pipeline));
        fs::create_dir_all(&dir)?;
        // Of two checkpoints at one position (a reload makes two) the later wins by its serial.
        let serial = self.files(&dir)?.last().map_or(0, |(serial, _)| serial + 1);
        let name = format!("{serial:012}-{:020}.ckpt", checkpoint.position);
        write_atomically(&dir.join(name), &encode(checkpoint)?)?;
        for (_, old) in self.files(&dir)?.iter().rev().skip(KEPT) {
            let _ = fs::remove_file(old);
        }
        Ok(())
    }

    /// The newest whole checkpoint of every pipeline that has one. A damaged file is set aside as
    /// `*.damaged` and named in the second value.
    ///
    /// # Errors
    /// If the folder cannot be read, or a file has a format version that this binary does not
    /// know.
    pub fn load_all(&self) -> io::Result<(Vec<Checkpoint>, Vec<String>)> {
        let (mut all, mut damage) = (Vec::new(), Vec::new());
        for dir in fs::read_dir(&self.dir)? {
            let dir = dir?.path();
            for (_, path) in self.files(&dir)?.iter().rev() {
                match decode(&fs::read(path)?) {
                    Ok(checkpoint) => {
                        all.push(checkpoint);
                        break;
                    }
                    Err(Unreadable::Version(version)) => {
                        return Err(io::Error::new(
                            io::ErrorKind::Unsupported,
                            format!(
                                "checkpoint `{}` has format version {version}, this binary reads \
                                 version {FORMAT}: use the binary that wrote it, or a newer one",
                                path.display()
                            ),
                        ));
                    }
                    Err(Unreadable::Damaged(why)) => {
                        let aside = path.with_extension("damaged");
                        fs::rename(path, &aside)?;
                        damage.push(format!("checkpoint `{}`: {why}", aside.display()));
                    }
                }
            }
        }
        Ok((all, damage))
    }

    /// Position of the older of the kept checkpoints of `pipeline`: the journal is needed from
    /// there on.
    pub fn oldest_position(&self, pipeline: &str) -> io::Result<Option<u64>> {
        let files = self.files(&self.dir.join(folder(pipeline)))?;
        Ok(files.iter().filter_map(|(_, path)| position_of(path)).min())
    }

    /// Highest position of any checkpoint: new offsets go on above it.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn highest_position(&self) -> io::Result<u64> {
        let mut highest = 0;
        for dir in fs::read_dir(&self.dir)? {
            let files = self.files(&dir?.path())?;
            highest = files.iter().filter_map(|(_, p)| position_of(p)).fold(highest, u64::max);
        }
        Ok(highest)
    }

    /// Forgets the checkpoints of `pipeline`.
    pub fn forget(&self, pipeline: &str) {
        let _ = fs::remove_dir_all(self.dir.join(folder(pipeline)));
    }

    /// When the newest checkpoint of `pipeline` was written.
    pub fn modified(&self, pipeline: &str) -> Option<std::time::SystemTime> {
        let files = self.files(&self.dir.join(folder(pipeline))).ok()?;
        fs::metadata(&files.last()?.1).ok()?.modified().ok()
    }

    /// Keeps the texts of a plan under its hash.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn save_plan(&self, hash: &str, bundle: &Bundle) -> io::Result<()> {
        let path = self.plans.join(format!("{hash}.json"));
        if path.exists() {
            return Ok(());
        }
        write_atomically(&path, &serde_json::to_vec_pretty(bundle)?)
    }

    /// The texts of the plan with `hash`.
    ///
    /// # Errors
    /// If they are not there or not readable.
    pub fn load_plan(&self, hash: &str) -> io::Result<Bundle> {
        Ok(serde_json::from_slice(&fs::read(self.plans.join(format!("{hash}.json")))?)?)
    }

    /// Removes the plans that no hash of `keep` names.
    pub fn retain_plans(&self, keep: &[String]) {
        for entry in fs::read_dir(&self.plans).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.strip_suffix(".json").is_some_and(|hash| !keep.iter().any(|k| k == hash)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Checkpoint files of one pipeline by serial, oldest first.
    fn files(&self, dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut files = Vec::new();
        let entries = match fs::read_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(files),
            other => other?,
        };
        for entry in entries {
            let path = entry?.path();
            let serial = path
                .file_name()
                .and_then(|n| n.to_str())
                .and_then(|n| n.strip_suffix(".ckpt")?.split('-').next()?.parse::<u64>().ok());
            files.extend(serial.map(|s| (s, path)));
        }
        files.sort();
        Ok(files)
    }
}

fn position_of(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.split('-').nth(1)?.parse().ok()
}

/// A pipeline name as a folder name: names are free text, so all but the plainest is hex.
fn folder(pipeline: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !pipeline.is_empty() && pipeline.len() <= 100 && pipeline.chars().all(plain) {
        return format!("p-{pipeline}");
    }
    pipeline.bytes().fold("x-".to_owned(), |s, b| s + &format!("{b:02x}"))
}

/// Writes aside, fsyncs, renames, fsyncs the folder.
///
/// # Errors
/// If the disk refuses; then nothing stands under `path` that did not before.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("tmp");
    let mut file = fs::File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    crate::failpoint!("file.written");
    fs::rename(&aside, path)?;
    crate::failpoint!("file.renamed");
    if let Some(dir) = path.parent() {
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

fn encode(c: &Checkpoint) -> io::Result<Vec<u8>> {
    let header = Header {
        pipeline: c.pipeline.clone(),
        plan: c.plan.clone(),
        journal: format!("{:032x}", c.journal),
        position: c.position,
        now: c.now,
        watermark: c.watermark,
        removed: c.removed,
        states: c
            .states
            .iter()
            .map(|(node, s)| StateHeader {
                node: node.clone(),
                shape: s.shape.clone(),
                bytes: s.bytes.len(),
            })
            .collect(),
        sinks: c
            .sinks
            .iter()
            .map(|(sink, s)| SinkHeader {
                sink: sink.clone(),
                work: s.work.len(),
                carry: s.carry.len(),
            })
            .collect(),
    };
    let header = serde_json::to_vec(&header)?;
    let mut out = Vec::with_capacity(header.len() + 64);
    out.extend(MAGIC);
    out.extend(FORMAT.to_le_bytes());
    out.extend((header.len() as u32).to_le_bytes());
    out.extend(&header);
    for state in c.states.values() {
        out.extend(&state.bytes);
    }
    for staged in c.sinks.values() {
        out.extend(&staged.work);
        out.extend(&staged.carry);
    }
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    Ok(out)
}

#[derive(Debug, PartialEq, Eq)]
enum Unreadable {
    Version(u32),
    Damaged(String),
}

fn decode(bytes: &[u8]) -> Result<Checkpoint, Unreadable> {
    let damaged = |why: &str| Unreadable::Damaged(why.to_owned());
    let word = |at: usize| -> Option<u32> {
        bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
    };
    if bytes.get(..8) != Some(MAGIC) {
        return Err(damaged("not a checkpoint"));
    }
    let version = word(8).ok_or_else(|| damaged("cut short"))?;
    let Some(end) = bytes.len().checked_sub(4).filter(|&end| end >= 16) else {
        return Err(damaged("cut short"));
    };
    if word(end) != Some(crc32c::crc32c(&bytes[..end])) {
        return Err(damaged("checksum does not match"));
    }
    // After the checksum: a version is believed only if the file is whole.
    if version != FORMAT {
        return Err(Unreadable::Version(version));
    }
    let mut rest = &bytes[16..end];
    let mut take = |n: usize| -> Result<&[u8], Unreadable> {
        let (head, tail) = rest.split_at_checked(n).ok_or_else(|| damaged("cut short"))?;
        rest = tail;
        Ok(head)
    };
    let header = take(word(12).unwrap_or_default() as usize)?;
    let header: Header =
        serde_json::from_slice(header).map_err(|e| Unreadable::Damaged(e.to_string()))?;
    let mut states = States::new();
    for s in header.states {
        let bytes = take(s.bytes)?.to_vec();
        states.insert(s.node, NodeState { shape: s.shape, bytes });
    }
    let mut sinks = BTreeMap::new();
    for s in header.sinks {
        let (work, carry) = (take(s.work)?.to_vec(), take(s.carry)?.to_vec());
        sinks.insert(s.sink, Staged { work, carry });
    }
    Ok(Checkpoint {
        pipeline: header.pipeline,
        plan: header.plan,
        journal: u128::from_str_radix(&header.journal, 16).unwrap_or_default(),
        position: header.position,
        now: header.now,
        watermark: header.watermark,
        removed: header.removed,
        states,
        sinks,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample(position: u64) -> Checkpoint {
        let state = NodeState { shape: "window:x".into(), bytes: vec![1, 2, 3] };
        let staged = Staged { work: b"file".to_vec(), carry: b"rows".to_vec() };
        Checkpoint {
            pipeline: "shop".into(),
            plan: "abc".into(),
            journal: 7,
            position,
            now: 5,
            watermark: 4,
            removed: false,
            states: [("w".to_owned(), state)].into(),
            sinks: [("s".to_owned(), staged)].into(),
        }
    }

    #[test]
    fn round_trip_and_every_cut_and_flip_is_noticed() {
        let bytes = encode(&sample(9)).unwrap();
        assert_eq!(decode(&bytes).unwrap(), sample(9));
        for cut in 0..bytes.len() {
            assert!(matches!(decode(&bytes[..cut]), Err(Unreadable::Damaged(_))), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(decode(&bad).is_err(), "flip at {at}");
        }
    }

    #[test]
    fn a_damaged_newest_falls_back_to_the_one_before() {
        let data = tempfile::tempdir().unwrap();
        let store = Checkpoints::open(data.path()).unwrap();
        for position in [3, 6, 9] {
            store.save(&sample(position)).unwrap();
        }
        assert_eq!(store.oldest_position("shop").unwrap(), Some(6), "two are kept");
        let dir = data.path().join("checkpoints/p-shop");
        let newest = store.files(&dir).unwrap().last().unwrap().1.clone();
        fs::write(&newest, b"WEIRCKPT garbage").unwrap();
        let (all, damage) = store.load_all().unwrap();
        assert_eq!(all, [sample(6)]);
        assert_eq!(damage.len(), 1, "{damage:?}");
    }
}
