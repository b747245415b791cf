//! Versions of lookup tables: read, kept on disk by the hash of their content, shared in memory.
//!
//! `lookups/<version>.arrow` (`.mmdb`) never changes; `lookups/current.json` says which version of
//! each table is the newest. A version goes when neither that nor a plan that may be run again
//! names it: after a while, or at once if those that nobody needs take much space.

mod kept;
mod planned;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::kept::{damaged, read_rows, write_rows};
pub(crate) use self::planned::Versions;
use super::order::same_rows;
use super::{BYTES_MAX, Content, Lookup, Place};
use crate::checkpoint::{sweep_unfinished, touch, write_atomically};
use crate::component::Services;
use crate::plan::LookupDefinition;

const FOLDER: &str = "lookups";
const CURRENT: &str = "current.json";
const ROWS: &str = "arrow";
const MAXMIND: &str = "mmdb";

/// All tables of a server, or of a command that has none. Clones share them.
#[derive(Clone, Default)]
pub struct Tables(Arc<Inner>);

#[derive(Default)]
struct Inner {
    keeping: Keeping,
    state: Mutex<State>,
    /// Tables with the same rows share a file: one is written at a time.
    writing: Mutex<()>,
    /// Bytes of versions written since the last tidying.
    written: AtomicU64,
}

/// Where versions are.
#[derive(Default)]
enum Keeping {
    /// Nobody knows any rows.
    Nothing,
    /// In memory: files are read when they are looked into, peers never.
    #[default]
    Memory,
    /// In this folder.
    Folder(PathBuf),
    /// With others, but for what was read to look ahead.
    Beside(Tables),
}

#[derive(Default)]
struct State {
    /// By [`LookupDefinition::key`].
    current: BTreeMap<String, Current>,
    /// Versions in use.
    loaded: BTreeMap<Arc<str>, Weak<Lookup>>,
}

impl State {
    fn in_use(&self, version: &str) -> bool {
        let loaded = self.loaded.get(version).is_some_and(|lookup| lookup.strong_count() > 0);
        loaded || self.current.values().any(|c| c.noted.version == version)
    }
}

/// The newest version of a table.
#[derive(Default)]
struct Current {
    lookup: Option<Arc<Lookup>>,
    noted: Noted,
    /// The file as it was when it was read.
    stat: Option<Stat>,
    /// When it was read or tried last, UTC nanoseconds.
    tried: i64,
    error: Option<String>,
}

/// What is kept of the newest version.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Noted {
    version: String,
    /// When this version was read first, UTC nanoseconds.
    since: i64,
}

/// By what a file tells that it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    modified: Option<SystemTime>,
    bytes: u64,
}

impl Stat {
    fn of(path: &Path) -> Option<Self> {
        let stat = std::fs::metadata(path).ok()?;
        Some(Self { modified: stat.modified().ok(), bytes: stat.len() })
    }
}

/// A table as the status shows it.
#[derive(Clone, Debug, Serialize)]
pub struct LookupStatus {
    /// `[lookups.id]`.
    pub id: String,
    /// The pipeline file.
    pub file: String,
    /// `type`.
    pub kind: &'static str,
    /// What names the content of the version in use; empty if there is none.
    pub version: String,
    /// Its rows; 0 for a MaxMind database.
    pub rows: usize,
    /// Since when it is in use, UTC nanoseconds.
    pub since: i64,
    /// When it was looked for last, UTC nanoseconds.
    pub tried: i64,
    /// Why it could not be read then; the version before stays in use.
    pub error: Option<String>,
}

impl Tables {
    /// No tables: for who plans what is not run.
    pub fn nothing() -> Self {
        Self::kept(Keeping::Nothing, State::default())
    }

    fn kept(keeping: Keeping, state: State) -> Self {
        Self(Arc::new(Inner { keeping, state: Mutex::new(state), ..Inner::default() }))
    }

    /// The tables kept in the data folder.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(data: &Path) -> io::Result<Self> {
        let folder = data.join(FOLDER);
        std::fs::create_dir_all(&folder)?;
        sweep_unfinished(&folder)?;
        let kept = std::fs::read(folder.join(CURRENT)).ok();
        let kept: BTreeMap<String, Noted> =
            kept.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let current =
            kept.into_iter().map(|(key, noted)| (key, Current { noted, ..Current::default() }));
        let state = State { current: current.collect(), ..State::default() };
        Ok(Self::kept(Keeping::Folder(folder), state))
    }

    /// The newest version of a table that was read; without a server, what its file holds now.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub(crate) fn newest(
        &self,
        definition: &LookupDefinition,
    ) -> Result<Option<Arc<Lookup>>, String> {
        let noted = match self.0.state.lock().current.get(&definition.key) {
            Some(Current { lookup: Some(lookup), .. }) => return Ok(Some(lookup.clone())),
            Some(current) => Some(current.noted.version.clone()),
            None => None,
        };
        match (&self.0.keeping, definition.plan.place()) {
            (Keeping::Nothing, _) => return Ok(Some(Arc::new(Lookup::unknown()))),
            (Keeping::Memory, Place::File(_)) => {
                self.set(definition, &read_file(definition)?, 0)?;
                return self.newest(definition);
            }
            (Keeping::Memory, Place::Peer(_)) => return Ok(None),
            (Keeping::Beside(others), _) => return others.newest(definition),
            (Keeping::Folder(_), _) => {}
        }
        // One that is damaged is read anew.
        let lookup = noted.filter(|v| !v.is_empty()).and_then(|v| self.version(&v).ok());
        if let Some(lookup) = &lookup {
            let mut state = self.0.state.lock();
            state.current.entry(definition.key.clone()).or_default().lookup = Some(lookup.clone());
        }
        Ok(lookup)
    }

    /// A version that a plan names.
    ///
    /// # Errors
    /// If it is not kept, or damaged.
    pub(crate) fn version(&self, version: &str) -> Result<Arc<Lookup>, String> {
        if let Some(known) = self.0.state.lock().loaded.get(version).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let folder = match &self.0.keeping {
            Keeping::Nothing => return Ok(Arc::new(Lookup::unknown())),
            Keeping::Memory => return Err("no version is kept".to_owned()),
            Keeping::Beside(others) => return others.version(version),
            Keeping::Folder(folder) => folder,
        };
        let mut last = String::new();
        for ending in [ROWS, MAXMIND] {
            let path = folder.join(version).with_extension(ending);
            let kept = match std::fs::read(&path) {
                Ok(kept) => Bytes::from(kept),
                Err(e) => {
                    last = format!("`{}`: {e}", path.display());
                    continue;
                }
            };
            let content = match ending {
                MAXMIND => Content::MaxMind(kept.clone()),
                _ => Content::Rows(read_rows(&kept).map_err(|e| damaged(&path, &e))?),
            };
            let lookup = Lookup::new(&content, &kept).map_err(|e| damaged(&path, &e))?;
            if **lookup.version() != *version {
                return Err(damaged(&path, "it does not have the content that its name says"));
            }
            return Ok(self.share(lookup));
        }
        Err(last)
    }

    fn share(&self, lookup: Lookup) -> Arc<Lookup> {
        let mut state = self.0.state.lock();
        state.loaded.retain(|_, known| known.strong_count() > 0);
        if let Some(known) = state.loaded.get(lookup.version()).and_then(Weak::upgrade) {
            return known;
        }
        let lookup = Arc::new(lookup);
        state.loaded.insert(lookup.version().clone(), Arc::downgrade(&lookup));
        lookup
    }

    /// Whether it is time to read a table: never read, its file changed, or its peer to be asked.
    /// One that could not be read is tried again after `retry` nanoseconds.
    pub(crate) fn is_due(&self, definition: &LookupDefinition, now: i64, retry: i64) -> bool {
        let known = self.newest(definition).ok().flatten().is_some();
        let state = self.0.state.lock();
        let Some(current) = state.current.get(&definition.key) else { return true };
        let since = now.saturating_sub(current.tried);
        let again = !known || current.error.is_some();
        match definition.plan.place() {
            Place::File(path) => match Stat::of(&path) == current.stat {
                true => again && since >= retry,
                false => true,
            },
            Place::Peer(_) if again => since >= retry,
            Place::Peer(every) => since >= i64::try_from(every.as_nanos()).unwrap_or(i64::MAX),
        }
    }

    /// Reads a table. `true` if it has another version now.
    ///
    /// # Errors
    /// If it could not be read or kept: the version before stays the newest.
    pub(crate) async fn refresh(
        &self,
        definition: &LookupDefinition,
        services: &Services,
        now: i64,
    ) -> Result<bool, String> {
        let stat = match definition.plan.place() {
            // Before it is read: what is written meanwhile makes another one.
            Place::File(path) => Stat::of(&path),
            Place::Peer(_) => None,
        };
        let read = match definition.plan.place() {
            Place::File(_) => tokio::task::block_in_place(|| read_file(definition)),
            Place::Peer(_) => definition.plan.read(services).await,
        };
        let changed = read.and_then(|content| {
            tokio::task::block_in_place(|| self.set(definition, &content, now))
        });
        let mut state = self.0.state.lock();
        let current = state.current.entry(definition.key.clone()).or_default();
        (current.tried, current.stat) = (now, stat);
        current.error = changed.as_ref().err().cloned();
        changed
    }

    /// Makes `content` the newest version of a table. `true` if it is another one.
    pub(super) fn set(
        &self,
        definition: &LookupDefinition,
        content: &Content,
        now: i64,
    ) -> Result<bool, String> {
        let (kept, ending) = match content {
            Content::Rows(rows) => (write_rows(rows)?, ROWS),
            Content::MaxMind(bytes) => (bytes.clone(), MAXMIND),
        };
        if kept.len() > BYTES_MAX {
            return Err(format!("it takes more than {} MiB", BYTES_MAX >> 20));
        }
        let lookup = Lookup::new(content, &kept)?;
        let version = lookup.version().clone();
        let present =
            self.0.state.lock().current.get(&definition.key).and_then(|c| c.lookup.clone());
        let same = |present: &Lookup| {
            let rows = || Some(same_rows(present.table()?, lookup.table()?));
            present.version() == lookup.version()
                || !definition.plan.order_counts() && rows().unwrap_or_default()
        };
        if present.is_some_and(|present| same(&present)) {
            return Ok(false);
        }
        let write = |path: &Path, bytes: &[u8]| {
            write_atomically(path, bytes).map_err(|e| format!("`{}`: {e}", path.display()))
        };
        // From here on it is in use, so that nobody removes it.
        let lookup = self.share(lookup);
        if let Keeping::Folder(folder) = &self.0.keeping {
            let path = folder.join(&*version).with_extension(ending);
            let _one = self.0.writing.lock();
            if !touch(&path) {
                write(&path, &kept)?;
                self.0.written.fetch_add(kept.len() as u64, Relaxed);
            }
        }
        let mut state = self.0.state.lock();
        let current = state.current.entry(definition.key.clone()).or_default();
        current.lookup = Some(lookup);
        current.noted = Noted { version: version.to_string(), since: now };
        if let Keeping::Folder(folder) = &self.0.keeping {
            let noted: BTreeMap<&String, &Noted> =
                state.current.iter().map(|(key, c)| (key, &c.noted)).collect();
            let text = serde_json::to_vec_pretty(&noted).map_err(|e| e.to_string())?;
            write(&folder.join(CURRENT), &text)?;
        }
        Ok(true)
    }

    /// Why a table that nobody has is not there.
    pub(crate) fn error(&self, definition: &LookupDefinition) -> String {
        self.failure(definition).unwrap_or_else(|| "it is still being read".to_owned())
    }

    /// Why a table could not be read when it was tried last.
    pub(crate) fn failure(&self, definition: &LookupDefinition) -> Option<String> {
        let state = self.0.state.lock();
        let own = state.current.get(&definition.key).and_then(|c| c.error.clone());
        match &self.0.keeping {
            // It was tried again now.
            Keeping::Beside(_) if state.current.contains_key(&definition.key) => own,
            Keeping::Beside(others) => others.failure(definition),
            _ => own,
        }
    }

    /// Forgets tables that no section defines any more.
    pub(crate) fn forget_others(&self, definitions: &[Arc<LookupDefinition>]) {
        let mut state = self.0.state.lock();
        state.current.retain(|key, _| definitions.iter().any(|d| d.key == *key));
    }

    /// These tables, with files that changed as they are now: for who looks ahead. Nothing of it is
    /// kept. Why a file cannot be read stands in the status.
    pub(crate) fn ahead(&self, definitions: &[Arc<LookupDefinition>]) -> Self {
        let ahead = Self::kept(Keeping::Beside(self.clone()), State::default());
        for definition in definitions {
            let is_file = matches!(definition.plan.place(), Place::File(_));
            if !is_file || !self.is_due(definition, i64::MAX, 0) {
                continue;
            }
            let set = read_file(definition).and_then(|content| ahead.set(definition, &content, 0));
            if let Err(why) = set {
                let mut state = ahead.0.state.lock();
                state.current.entry(definition.key.clone()).or_default().error = Some(why);
            }
        }
        ahead
    }

    /// What is known of each table.
    pub(crate) fn status(&self, definitions: &[Arc<LookupDefinition>]) -> Vec<LookupStatus> {
        let state = self.0.state.lock();
        let status = definitions.iter().map(|d| {
            let current = state.current.get(&d.key);
            let lookup = current.and_then(|c| c.lookup.as_ref());
            LookupStatus {
                id: d.id.clone(),
                file: d.header.file.path.display().to_string(),
                kind: d.kind,
                version: lookup.map_or_else(String::new, |l| l.version().to_string()),
                rows: lookup.map_or(0, |l| l.num_rows()),
                since: current.map_or(0, |c| c.noted.since),
                tried: current.map_or(0, |c| c.tried),
                error: current.and_then(|c| c.error.clone()),
            }
        });
        status.collect()
    }
}

/// What a file holds.
fn read_file(definition: &LookupDefinition) -> Result<Content, String> {
    futures::executor::block_on(definition.plan.read(&Services::default()))
}
