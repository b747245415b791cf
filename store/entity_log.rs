//! Entities at rest: chunks of an append-only log per table and day, or one chunk beside a merged
//! file. An id is a position: stable, and never used twice in its set.

mod chunk;
mod chunk_file;
mod codec;
mod columns;
mod log;
mod ranking;

pub(crate) use chunk::{CHUNK_VERSION, ChunkFile};
pub use chunk::{ChunkMeta, EntityChunk, EntitySet};
pub(crate) use chunk_file::write_chunk;
pub(crate) use codec::{decode_entity, encode_entity, sort_key};
pub use columns::EntityColumns;
pub(crate) use log::EntityLog;
pub(crate) use ranking::{Ranking, Used};
