//! Checkpoints: position, plan, state of every operator, what every sink staged, of one pipeline,
//! saved atomically.
//!
//! A file (see `checkpoint/format.rs`) is written aside, fsynced and renamed into place; the two
//! newest are kept. Plans stand beside, by content hash.

mod files;
mod format;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::files::write_atomically;
pub(crate) use self::files::{age, read_or_anew, sweep_unfinished, touch};
use self::format::{FORMAT, Unreadable, decode, encode, plan_of};
use crate::component::Staged;
use crate::config::Bundle;
use crate::graph::States;

/// Checkpoints kept per pipeline: if the newest is damaged, the one before still starts.
const KEPT: usize = 2;
/// Folders that begin so hold checkpoints of another journal, see [`Checkpoints::set_aside`].
const ASIDE: &str = "aside-";
/// Version of the file of a plan; another one is refused by name.
const PLAN_FORMAT: u32 = 1;
/// In front of the CRC32C (hex) of a plan, on the last line of its file.
const PLAN_CRC: &str = "\ncrc32c ";

/// A damaged file, and what is wrong with it.
type Damaged = (PathBuf, String);

/// Who reads the journal at a position of its own: a pipeline, or a sink detached from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Consumer {
    /// Pipeline name.
    pub pipeline: Arc<str>,
    /// Id of the detached sink.
    pub sink: Option<Arc<str>>,
}

impl Consumer {
    /// A pipeline.
    pub fn pipeline(name: &str) -> Self {
        Self { pipeline: name.into(), sink: None }
    }

    /// A sink that is detached from its pipeline.
    pub fn detached(pipeline: &str, sink: &str) -> Self {
        Self { pipeline: pipeline.into(), sink: Some(sink.into()) }
    }

    /// Its folder. Names of pipelines are free text, so all but the plainest is hex; ids of sinks
    /// are plain.
    fn folder(&self) -> String {
        let name = &self.pipeline;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let mut folder = if !name.is_empty() && name.len() <= 100 && name.chars().all(plain) {
            format!("p-{name}")
        } else {
            name.bytes().fold("x-".to_owned(), |s, b| s + &format!("{b:02x}"))
        };
        if let Some(sink) = &self.sink {
            folder.push('.');
            folder.push_str(sink);
        }
        folder
    }
}

/// Everything that a pipeline needs to go on from a position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// Pipeline name.
    pub pipeline: String,
    /// If it is that of a detached sink: the sink's id.
    pub detached: Option<String>,
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
    /// The name that the pipeline had before `position`; the checkpoints under it are void.
    pub renamed: Option<String>,
    /// State by node id.
    pub states: States,
    /// Staged work by sink id: of each sink that is not detached.
    pub sinks: BTreeMap<String, Staged>,
}

impl Checkpoint {
    /// Whose it is.
    pub fn consumer(&self) -> Consumer {
        let sink = self.detached.as_deref().map(Into::into);
        Consumer { pipeline: self.pipeline.as_str().into(), sink }
    }
}

/// Whether the checkpoint of a detached sink is void: the sink has come back, so that a later one
/// of its pipeline has it. At one position both have the same of it, and it may go either way.
fn is_void(part: &Checkpoint, whole: &Checkpoint) -> bool {
    let Some(sink) = &part.detached else { return false };
    let same = whole.pipeline == part.pipeline && whole.journal == part.journal;
    let has = whole.detached.is_none() && whole.sinks.contains_key(sink);
    same && has && part.position < whole.position
}

/// The checkpoints of all consumers, in a folder of the data folder.
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
        let all = Self { dir, plans };
        for folder in all.folders()?.iter().chain([&all.plans]) {
            sweep_unfinished(folder)?;
        }
        Ok(all)
    }

    /// Saves `checkpoint`; when this returns it is on disk under its final name. Gives the
    /// position of the oldest one that is kept: the journal is needed behind it.
    ///
    /// # Errors
    /// If the disk refuses; then the checkpoint before is still in force.
    pub fn save(&self, checkpoint: &Checkpoint) -> io::Result<u64> {
        let consumer = checkpoint.consumer();
        let dir = self.dir.join(consumer.folder());
        fs::create_dir_all(&dir)?;
        // Of two checkpoints at one position (a reload makes two) the later wins by its serial.
        let serial = self.files(&dir)?.last().map_or(0, |(serial, _)| serial + 1);
        let name = format!("{serial:012}-{:020}.ckpt", checkpoint.position);
        write_atomically(&dir.join(name), &encode(checkpoint)?)?;
        for (_, old) in self.files(&dir)?.iter().rev().skip(KEPT) {
            let _ = fs::remove_file(old);
        }
        let kept = self.oldest_position(&consumer)?;
        Ok(kept.unwrap_or(checkpoint.position))
    }

    /// The newest whole checkpoint of every consumer that has one. A damaged file is set aside as
    /// `*.damaged` and named in the second value.
    ///
    /// # Errors
    /// If the folder cannot be read, or a file has a format version that this binary does not
    /// know.
    pub fn load_all(&self) -> io::Result<(Vec<Checkpoint>, Vec<String>)> {
        let (mut all, mut damage) = (Vec::new(), Vec::new());
        for dir in self.folders()? {
            let (checkpoint, damaged) = self.load_newest(&dir)?;
            all.extend(checkpoint);
            damage.extend(damaged);
        }
        let void = |part: &Checkpoint| all.iter().any(|whole| is_void(part, whole));
        let (void, all): (Vec<_>, Vec<_>) = all.iter().cloned().partition(void);
        void.iter().for_each(|c| self.forget(&c.consumer()));
        Ok((all, damage))
    }

    /// The newest whole checkpoint of `who`, and what was found damaged.
    ///
    /// # Errors
    /// As [`Checkpoints::load_all`].
    pub fn load(&self, who: &Consumer) -> io::Result<(Option<Checkpoint>, Vec<String>)> {
        self.load_newest(&self.dir.join(who.folder()))
    }

    /// As [`Checkpoints::load`], leaving everything as it is; whether anything is damaged.
    ///
    /// # Errors
    /// As [`Checkpoints::load_all`].
    pub fn peek(&self, who: &Consumer) -> io::Result<(Option<Checkpoint>, bool)> {
        let (checkpoint, damaged) = self.newest(&self.dir.join(who.folder()))?;
        Ok((checkpoint, !damaged.is_empty()))
    }

    fn load_newest(&self, dir: &Path) -> io::Result<(Option<Checkpoint>, Vec<String>)> {
        let (checkpoint, damaged) = self.newest(dir)?;
        let mut damage = Vec::new();
        for (path, why) in damaged {
            let aside = path.with_extension("damaged");
            fs::rename(path, &aside)?;
            damage.push(format!("checkpoint `{}`: {why}", aside.display()));
        }
        // Also if an earlier look has set them aside: lost is not the same as never there.
        if checkpoint.is_none() && damage.is_empty() && dir.is_dir() {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                if path.extension().is_some_and(|e| e == "damaged") {
                    damage.push(format!("checkpoint `{}` is damaged", path.display()));
                }
            }
        }
        Ok((checkpoint, damage))
    }

    /// The newest whole checkpoint in `dir`, and the newer ones that are damaged, with the reason.
    fn newest(&self, dir: &Path) -> io::Result<(Option<Checkpoint>, Vec<Damaged>)> {
        let mut damaged = Vec::new();
        for (_, path) in self.files(dir)?.into_iter().rev() {
            match decode(&fs::read(&path)?) {
                Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
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
                Err(Unreadable::Damaged(why)) => damaged.push((path, why)),
            }
        }
        Ok((None, damaged))
    }

    /// Keeps the checkpoints of a consumer, which cannot be gone on from, out of the way of new
    /// ones. Gives the folder where they are now.
    ///
    /// # Errors
    /// If the folder cannot be renamed.
    pub fn set_aside(&self, checkpoint: &Checkpoint) -> io::Result<PathBuf> {
        let folder = checkpoint.consumer().folder();
        let from = self.dir.join(&folder);
        let name = format!("{ASIDE}{:032x}-{folder}", checkpoint.journal);
        let to = self.dir.join(name);
        let _ = fs::remove_dir_all(&to);
        fs::rename(from, &to)?;
        Ok(to)
    }

    /// Position of the older of the kept checkpoints of `who`: the journal is needed from there
    /// on.
    fn oldest_position(&self, who: &Consumer) -> io::Result<Option<u64>> {
        let files = self.files(&self.dir.join(who.folder()))?;
        Ok(files.iter().filter_map(|(_, path)| position_of(path)).min())
    }

    /// Highest position of any checkpoint: new offsets go on above it.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn highest_position(&self) -> io::Result<u64> {
        let mut highest = 0;
        for dir in self.folders()? {
            let files = self.files(&dir)?;
            highest = files.iter().filter_map(|(_, p)| position_of(p)).fold(highest, u64::max);
        }
        Ok(highest)
    }

    /// Ids of the sinks of `pipeline` that have folders of their own.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn parts(&self, pipeline: &str) -> io::Result<BTreeSet<Arc<str>>> {
        let prefix = format!("{}.", Consumer::pipeline(pipeline).folder());
        let folders = self.folders()?;
        let names = folders.iter().filter_map(|path| path.file_name()?.to_str());
        Ok(names.filter_map(|name| name.strip_prefix(&prefix)).map(Into::into).collect())
    }

    /// Ids of the sinks of `pipeline` that are detached from it, given its newest checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoints::load_all`].
    pub fn detached(
        &self,
        pipeline: &str,
        whole: Option<&Checkpoint>,
    ) -> io::Result<BTreeSet<Arc<str>>> {
        let mut detached = BTreeSet::new();
        for sink in self.parts(pipeline)? {
            let (part, _) = self.load(&Consumer::detached(pipeline, &sink))?;
            let void = |part: &Checkpoint| whole.is_some_and(|whole| is_void(part, whole));
            if part.is_some_and(|part| !void(&part)) {
                detached.insert(sink);
            }
        }
        Ok(detached)
    }

    /// Moves the checkpoint of a sink that is detached from `before` to the pipeline `after`, which
    /// is the same under a new name. What it had staged must be committed. A crash in between
    /// leaves both; the one under the new name is the good one.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn rename_part(&self, part: &Checkpoint, after: &str, plan: &str) -> io::Result<()> {
        let mut renamed = part.clone();
        renamed.pipeline = after.to_owned();
        renamed.plan = plan.to_owned();
        renamed.renamed = Some(part.pipeline.clone());
        renamed.sinks.values_mut().for_each(|staged| staged.work.clear());
        self.save(&renamed)?;
        self.forget(&part.consumer());
        Ok(())
    }

    /// Forgets the checkpoints of `who`.
    pub fn forget(&self, who: &Consumer) {
        let _ = fs::remove_dir_all(self.dir.join(who.folder()));
    }

    /// When the newest checkpoint of `who` was written.
    pub fn modified(&self, who: &Consumer) -> Option<std::time::SystemTime> {
        let files = self.files(&self.dir.join(who.folder())).ok()?;
        fs::metadata(&files.last()?.1).ok()?.modified().ok()
    }

    /// Keeps the texts of a plan under its hash.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn save_plan(&self, hash: &str, bundle: &Bundle) -> io::Result<()> {
        let path = self.plans.join(format!("{hash}.json"));
        if touch(&path) {
            return Ok(());
        }
        let kept = KeptPlan { format: PLAN_FORMAT, bundle: bundle.clone() };
        let mut text = serde_json::to_vec_pretty(&kept)?;
        let crc = crc32c::crc32c(&text);
        writeln!(text, "{PLAN_CRC}{crc:08x}")?;
        write_atomically(&path, &text)
    }

    /// The texts of the plan with `hash`.
    ///
    /// # Errors
    /// If they are not there or not readable.
    pub fn load_plan(&self, hash: &str) -> io::Result<Bundle> {
        let path = self.plans.join(format!("{hash}.json"));
        let text = fs::read(&path)?;
        match read_plan(&text) {
            Some(KeptPlan { format: PLAN_FORMAT, bundle }) => return Ok(bundle),
            Some(KeptPlan { format, .. }) => {
                let why = format!(
                    "plan `{}` has format version {format}, this binary reads version \
                     {PLAN_FORMAT}: use the binary that wrote it, or a newer one",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
            None => {}
        }
        // The name is free then: the next checkpoint with this plan writes it again.
        let aside = path.with_extension("damaged");
        fs::rename(&path, &aside)?;
        let why = format!("plan `{}` is damaged", aside.display());
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }

    /// The plans that checkpoints name, those that are kept in case that the newest is damaged too.
    ///
    /// # Errors
    /// If a folder or file cannot be read.
    pub fn plans_named(&self) -> io::Result<BTreeSet<String>> {
        let mut plans = BTreeSet::new();
        for dir in self.folders()? {
            for (_, path) in self.files(&dir)? {
                match plan_of(&path) {
                    // A newer one took its place meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    plan => plans.extend(plan?),
                }
            }
        }
        Ok(plans)
    }

    /// Removes the plans that `keep` does not name and that have not come into use for `unused`.
    pub fn retain_plans(&self, keep: &BTreeSet<String>, unused: Duration) {
        for entry in fs::read_dir(&self.plans).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let old = age(&entry.path()).is_none_or(|age| age >= unused);
            let hash = name.strip_suffix(".json").filter(|_| old);
            if hash.is_some_and(|hash| !keep.contains(hash)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// The folders of all consumers, in the order of names.
    fn folders(&self) -> io::Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let aside = entry.file_name().to_string_lossy().starts_with(ASIDE);
            if entry.file_type()?.is_dir() && !aside {
                all.push(entry.path());
            }
        }
        all.sort();
        Ok(all)
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

/// A plan as it is kept.
#[derive(Serialize, Deserialize)]
struct KeptPlan {
    #[serde(default = "first_format")]
    format: u32,
    #[serde(flatten)]
    bundle: Bundle,
}

fn first_format() -> u32 {
    1
}

/// The texts of a plan, if the file is whole. One without a checksum is from before there were any.
fn read_plan(text: &[u8]) -> Option<KeptPlan> {
    let end = text.len().saturating_sub(PLAN_CRC.len() + "01234567\n".len());
    let (json, last) = text.split_at(end);
    let crc = str::from_utf8(last).ok().and_then(|last| last.strip_prefix(PLAN_CRC));
    let Some(crc) = crc else { return serde_json::from_slice(text).ok() };
    let whole = u32::from_str_radix(crc.trim_end(), 16).ok()? == crc32c::crc32c(json);
    if whole { serde_json::from_slice(json).ok() } else { None }
}

fn position_of(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.split('-').nth(1)?.parse().ok()
}
