//! What a manifest records, and the listing that the records add up to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::entity_log::{CHUNK_VERSION, ChunkMeta};
use crate::error::StoreError;
use crate::file::{EntityPlace, FILE_VERSION, FileColumn, FileMeta};

/// Who commits: one sink of one pipeline, reading one journal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WriterId {
    /// Journal id, 32 hex digits.
    #[serde(with = "hex_u128")]
    pub journal: u128,
    /// Pipeline name.
    pub pipeline: Arc<str>,
    /// Sink id.
    pub sink: Arc<str>,
}

/// One change. A frame of the log holds those that happen together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// Row columns that files refer to by number, so that they are written once.
    Shape { id: u64, columns: Arc<[FileColumn]> },
    /// A file is listed. Its `columns` are those of the shape.
    Add { shape: u64, file: Arc<FileMeta> },
    /// A file is listed no more.
    Remove { name: Arc<str> },
    /// A file that could not be read is listed no more.
    SetAside { name: Arc<str>, why: String },
    /// The entity log of a day has a further chunk.
    Chunk { day: i32, chunk: ChunkMeta },
    /// The entity log of a day has exactly these chunks, which hold what it had.
    Chunks { day: i32, chunks: Vec<ChunkMeta> },
    /// No listed file refers to the entity log of a day.
    DropLog { day: i32 },
    /// Every row that a writer has for this table from entries up to `mark` is in files.
    Commit { writer: WriterId, mark: u64 },
    /// The signal of the rows.
    Signal { name: Arc<str> },
    /// A kind that a newer Weir wrote. Never applied: what is listed would not be known.
    #[serde(skip)]
    Unknown { kind: String },
}

impl Record {
    /// What this binary is too old for, if it is.
    pub(super) fn too_new(&self, folder: &Path) -> Option<StoreError> {
        match self {
            Self::Unknown { kind } => Some(StoreError::Foreign {
                what: "a record of the manifest",
                why: format!(
                    "`{}` has one of kind `{kind}`: a newer Weir wrote it",
                    folder.display()
                ),
            }),
            Self::Add { file, .. } if file.version > FILE_VERSION => Some(StoreError::Version {
                path: folder.with_file_name("files").join(&*file.name),
                found: file.version,
                known: FILE_VERSION,
            }),
            _ => {
                let newer = self.chunks().iter().find(|c| c.version > CHUNK_VERSION)?;
                Some(StoreError::Version {
                    path: folder.with_file_name("entities").join(&*newer.file),
                    found: newer.version,
                    known: CHUNK_VERSION,
                })
            }
        }
    }

    /// The chunks of entities that it lists.
    fn chunks(&self) -> &[ChunkMeta] {
        match self {
            Self::Chunk { chunk, .. } => std::slice::from_ref(chunk),
            Self::Chunks { chunks, .. } => chunks,
            Self::Add { file, .. } => match &file.entities {
                Some(EntityPlace::Own(chunk)) => std::slice::from_ref(chunk),
                _ => &[],
            },
            _ => &[],
        }
    }
}

/// What the records of a manifest add up to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    pub(crate) files: BTreeMap<Arc<str>, Arc<FileMeta>>,
    pub(crate) logs: BTreeMap<i32, Vec<ChunkMeta>>,
    pub(crate) commits: BTreeMap<WriterId, u64>,
    pub(crate) signal: Option<Arc<str>>,
    pub(crate) set_aside: Vec<(Arc<str>, String)>,
    shapes: HashMap<u64, Arc<[FileColumn]>>,
}

/// Set-aside files that are remembered by name.
const SET_ASIDE_MAX: usize = 1_000;

impl Listing {
    /// Applies the records of one frame, all or none.
    ///
    /// # Errors
    /// As [`Listing::check`].
    pub(crate) fn apply(&mut self, records: &[Record]) -> Result<(), String> {
        self.check(records)?;
        for record in records {
            self.apply_one(record);
        }
        Ok(())
    }

    /// Whether the records of one frame follow from what is listed.
    ///
    /// # Errors
    /// If a removed file is not there, or an added one is.
    pub(crate) fn check(&self, records: &[Record]) -> Result<(), String> {
        let mut added: Vec<&str> = Vec::new();
        for record in records {
            match record {
                Record::Remove { name } | Record::SetAside { name, .. }
                    if !self.files.contains_key(name) =>
                {
                    return Err(format!("file `{name}` is to be removed but not listed"));
                }
                Record::Add { shape, file } => {
                    if self.files.contains_key(&file.name) || added.contains(&&*file.name) {
                        return Err(format!("file `{}` is listed already", file.name));
                    }
                    let defined = |r: &Record| matches!(r, Record::Shape { id, .. } if id == shape);
                    if !self.shapes.contains_key(shape) && !records.iter().any(defined) {
                        return Err(format!("the columns of file `{}` are not known", file.name));
                    }
                    added.push(&file.name);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn apply_one(&mut self, record: &Record) {
        match record {
            Record::Shape { id, columns } => {
                self.shapes.insert(*id, columns.clone());
            }
            Record::Add { shape, file } => {
                let columns = self.shapes.get(shape).cloned().unwrap_or_default();
                let file = Arc::new(FileMeta { columns, ..file.as_ref().clone() });
                self.files.insert(file.name.clone(), file);
            }
            Record::Remove { name } => {
                self.files.remove(name);
            }
            Record::SetAside { name, why } => {
                self.files.remove(name);
                if self.set_aside.len() < SET_ASIDE_MAX {
                    self.set_aside.push((name.clone(), why.clone()));
                }
            }
            Record::Chunk { day, chunk } => self.logs.entry(*day).or_default().push(chunk.clone()),
            Record::Chunks { day, chunks } => {
                self.logs.insert(*day, chunks.clone());
            }
            Record::DropLog { day } => {
                self.logs.remove(day);
            }
            Record::Commit { writer, mark } => {
                let newest = self.commits.entry(writer.clone()).or_default();
                *newest = (*newest).max(*mark);
            }
            Record::Signal { name } => self.signal = Some(name.clone()),
            Record::Unknown { .. } => {}
        }
    }

    /// The records that list `file`: its shape first, if that is new.
    pub(crate) fn add(&self, file: &FileMeta, out: &mut Vec<Record>) {
        let shape = shape_id(&file.columns);
        let defined = |r: &Record| matches!(r, Record::Shape { id, .. } if *id == shape);
        if !self.shapes.contains_key(&shape) && !out.iter().any(defined) {
            out.push(Record::Shape { id: shape, columns: file.columns.clone() });
        }
        let file = FileMeta { columns: Arc::default(), ..file.clone() };
        out.push(Record::Add { shape, file: Arc::new(file) });
    }

    /// Forgets shapes that no file has.
    pub(crate) fn prune_shapes(&mut self) {
        let used: hashbrown::HashSet<u64> =
            self.files.values().map(|f| shape_id(&f.columns)).collect();
        self.shapes.retain(|id, _| used.contains(id));
    }

    /// Records that make this listing from nothing. Shapes without a file are left out.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut out = Vec::new();
        out.extend(self.signal.iter().map(|name| Record::Signal { name: name.clone() }));
        let mut known = hashbrown::HashSet::new();
        for file in self.files.values() {
            let shape = shape_id(&file.columns);
            if known.insert(shape) {
                out.push(Record::Shape { id: shape, columns: file.columns.clone() });
            }
            let file = FileMeta { columns: Arc::default(), ..file.as_ref().clone() };
            out.push(Record::Add { shape, file: Arc::new(file) });
        }
        for (day, chunks) in &self.logs {
            out.push(Record::Chunks { day: *day, chunks: chunks.clone() });
        }
        for (writer, mark) in &self.commits {
            out.push(Record::Commit { writer: writer.clone(), mark: *mark });
        }
        out
    }
}

/// Names a set of columns. Equal sets have equal names in every process.
fn shape_id(columns: &[FileColumn]) -> u64 {
    xxh3_64(&serde_json::to_vec(columns).unwrap_or_default())
}

mod hex_u128 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(v: &u128, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("{v:032x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u128, D::Error> {
        let text = String::deserialize(d)?;
        u128::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}
