//! Entities at rest: chunks of an append-only log per table and day, or one chunk beside a merged
//! file. An id is a position: stable, and never used twice in its set.

mod chunk;
mod chunk_file;

pub(crate) use chunk::{ChunkFile, ChunkMeta};
pub use chunk::{EntityChunk, EntitySet};
