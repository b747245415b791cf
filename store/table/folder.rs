//! The folders of a table: opening it, and clearing away what no manifest names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hashbrown::HashSet;
use parking_lot::{Mutex, RwLock};
use weir_pipeline::signal::Signal;
use xxhash_rust::xxh3::xxh3_64;

use super::graves::Graves;
use super::state::State;
use super::{Counters, Table};
use crate::cache::Cache;
use crate::disk::{make_folder, sync_folder};
use crate::entity_log::EntityLog;
use crate::error::{Result, StoreError};
use crate::file::{EntityPlace, staged_entity_max};
use crate::manifest::{Listing, Manifest, WriterId};

/// Staged files whose writer has not come back for so long are deleted: its checkpoint is kept
/// for 7 days.
const STAGED_KEPT: Duration = Duration::from_secs(8 * 24 * 3600);

/// Where the parts of a table are.
#[derive(Debug)]
pub(crate) struct Folders {
    pub(crate) files: PathBuf,
    pub(crate) entities: PathBuf,
    pub(crate) damaged: PathBuf,
}

impl Folders {
    fn open(folder: &Path) -> Result<Self> {
        let folders = Self {
            files: folder.join("files"),
            entities: folder.join("entities"),
            damaged: folder.join("damaged"),
        };
        for path in [&folders.files, &folders.entities] {
            if !path.is_dir() {
                make_folder(path)?;
            }
        }
        Ok(folders)
    }

    /// Whether there are files that `listing` does not name.
    fn has_unlisted(&self, listing: &Listing) -> Result<bool> {
        let chunks = listed_chunks(listing);
        let files = list(&self.files)?;
        Ok(files.iter().any(|(_, name)| !listing.files.contains_key(name.as_str()))
            || list(&self.entities)?.iter().any(|(_, name)| !chunks.contains(name.as_str())))
    }
}

/// The names of all chunks of entities that are listed.
fn listed_chunks(listing: &Listing) -> HashSet<&str> {
    let own = listing.files.values().filter_map(|f| match &f.entities {
        Some(EntityPlace::Own(chunk)) => Some(&chunk.file),
        _ => None,
    });
    let logs = listing.logs.values().flatten().map(|c| &c.file);
    logs.chain(own).map(AsRef::as_ref).collect()
}

/// What the names of a writer's staged files start with.
pub(crate) fn staged_prefix(writer: &WriterId) -> String {
    let text = format!("{:032x}\0{}\0{}", writer.journal, writer.pipeline, writer.sink);
    format!("s{:016x}", xxh3_64(text.as_bytes()))
}

/// The start of the name of a file staged at `mark`, whose entities are in the log of `day`.
pub(crate) fn staged_name(writer: &WriterId, mark: u64, day: i32) -> String {
    format!("{}-{mark:016x}-d{day}", staged_prefix(writer))
}

/// Mark and day in the name of a staged file.
fn staged_parts(name: &str) -> Option<(u64, i32)> {
    let mut parts = name.strip_prefix('s')?.splitn(3, '-').skip(1);
    let mark = u64::from_str_radix(parts.next()?, 16).ok()?;
    let day = parts.next()?.strip_prefix('d')?;
    // The day may be negative, so the name is cut at the next dash after its first character.
    let end = day.get(1..)?.find('-')? + 1;
    Some((mark, day[..end].parse().ok()?))
}

impl Table {
    /// Opens or makes the table in `folder`.
    pub(crate) fn open(
        folder: &Path,
        tenant: &str,
        name: &str,
        cache: Arc<Cache>,
        retention: Option<Duration>,
    ) -> Result<Arc<Self>> {
        let folders = Folders::open(folder)?;
        let (mut manifest, mut repairs) = Manifest::open(&folder.join("manifest"))?;
        let unlisted = folders.has_unlisted(manifest.listing())?;
        manifest.begin(unlisted)?;
        if unlisted {
            let why =
                |doubt: &String| format!("{doubt}; files that it does not name are set aside");
            repairs.extend(manifest.doubts().iter().map(why));
        }
        let whole = repairs.is_empty() && manifest.is_whole();
        for repair in &repairs {
            tracing::error!(table = name, "{repair}");
        }
        let listing = manifest.listing().clone();
        let mut logs = BTreeMap::new();
        for (day, chunks) in &listing.logs {
            let log = EntityLog::new(&folders.entities, chunks.clone(), cache.clone());
            logs.insert(*day, Arc::new(log));
        }
        let mut damaged = listing.set_aside.clone();
        damaged.extend(repairs.iter().map(|r| ("manifest".into(), r.clone())));
        let table = Arc::new(Self {
            tenant: tenant.into(),
            name: name.into(),
            folders,
            cache,
            manifest: Mutex::new(manifest),
            logs: Mutex::new(logs),
            state: Mutex::new(State::default()),
            graves: Graves::default(),
            retention: RwLock::new(retention),
            damaged: Mutex::new(damaged),
            whole,
            counters: Counters::default(),
        });
        let mut state = table.state.lock();
        state.signal = listing.signal.as_deref().map(Signal::from_name);
        for meta in listing.files.values() {
            state.files.insert(meta.name.clone(), table.entry(meta.clone()));
        }
        state.files_changed();
        drop(state);
        table.sweep_at_open(&listing)?;
        if !table.folders.has_unlisted(&listing)? {
            table.manifest.lock().clear_doubt()?;
        }
        Ok(table)
    }

    /// Clears away files that nobody names. Where the manifest was damaged they may be all that
    /// is left of some rows, and are set aside instead.
    fn sweep_at_open(&self, listing: &Listing) -> Result<()> {
        let newest: BTreeMap<String, u64> =
            listing.commits.iter().map(|(w, mark)| (staged_prefix(w), *mark)).collect();
        for (path, name) in list(&self.folders.files)? {
            if listing.files.contains_key(name.as_str()) {
                continue;
            }
            if let Some((mark, day)) = staged_parts(&name) {
                let committed = name.get(..17).and_then(|prefix| newest.get(prefix));
                if committed.is_none_or(|newest| mark > *newest) {
                    // Its writer may still commit it.
                    if let Some(id) = staged_entity_max(&path) {
                        self.log(day).take(id);
                    }
                    continue;
                }
            }
            self.clear(&path)?;
        }
        let chunks = listed_chunks(listing);
        for (path, name) in list(&self.folders.entities)? {
            if !chunks.contains(name.as_str()) {
                self.clear(&path)?;
            }
        }
        Ok(())
    }

    /// Deletes a file that nobody names; after damage to the manifest it is set aside.
    fn clear(&self, path: &Path) -> Result<()> {
        if self.whole {
            return std::fs::remove_file(path).map_err(StoreError::io("cannot delete", path));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let why = "the manifest was damaged and does not name it: it is set aside";
        tracing::error!(table = %self.name, file = %name, "{why}");
        self.note_damage(&name, why);
        self.move_aside(path)
    }

    /// Moves a file to the damaged ones; one that is gone already is no error.
    pub(super) fn move_aside(&self, path: &Path) -> Result<()> {
        let damaged = &self.folders.damaged;
        if !damaged.is_dir() {
            make_folder(damaged)?;
        }
        let Some(name) = path.file_name() else { return Ok(()) };
        match std::fs::rename(path, damaged.join(name)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            moved => moved.map_err(StoreError::io("cannot set aside", path))?,
        }
        sync_folder(damaged)
    }

    /// Deletes what `writer` staged and no checkpoint named: called once its successor has
    /// committed all that its checkpoint names.
    pub(crate) fn sweep_staged(&self, writer: &WriterId) -> Result<usize> {
        let prefix = staged_prefix(writer);
        let mut count = 0;
        for (path, name) in list(&self.folders.files)? {
            if name.starts_with(&prefix) && self.is_loose(&name) {
                self.clear(&path)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Whether the file `name` is neither listed nor waits for its last reader. In this order: a
    /// file goes from the first to the second.
    fn is_loose(&self, name: &str) -> bool {
        let listed = self.state.lock().files.contains_key(name);
        !listed && !self.graves.has(name)
    }

    /// Deletes staged files of writers that are long gone.
    pub(crate) fn sweep_old(&self, now: SystemTime) -> Result<()> {
        for (path, name) in list(&self.folders.files)? {
            let modified = path.metadata().and_then(|m| m.modified());
            let age = modified.ok().and_then(|m| now.duration_since(m).ok());
            let old = age.is_some_and(|age| age > STAGED_KEPT);
            if old && staged_parts(&name).is_some() && self.is_loose(&name) {
                tracing::warn!(table = %self.name, file = name, "staged rows that nobody committed");
                self.clear(&path)?;
            }
        }
        Ok(())
    }

    /// The days whose entity logs staged files refer to, or files that were set aside: whoever
    /// mends one of these needs its entities.
    pub(super) fn named_days(&self) -> Result<HashSet<i32>> {
        let mut files = list(&self.folders.files)?;
        if self.folders.damaged.is_dir() {
            files.extend(list(&self.folders.damaged)?);
        }
        Ok(files.iter().filter_map(|(_, name)| Some(staged_parts(name)?.1)).collect())
    }
}

/// The files of a folder.
fn list(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(StoreError::io("cannot list", folder))? {
        let entry = entry.map_err(StoreError::io("cannot list", folder))?;
        out.push((entry.path(), entry.file_name().to_string_lossy().into_owned()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
