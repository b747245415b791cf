//! Token filters: which stretches of a text column may have a token.
//!
//! A slice is cut into *granules*, some hundred kilobytes of text each, and each granule has a
//! split-block Bloom filter of the tokens in it (as Parquet's: 256 bits a block, eight bits a
//! token, <https://github.com/apache/parquet-format/blob/master/BloomFilter.md>). All granules of
//! a slice have equally many blocks, and what lies together is not the filter of a granule but
//! block 0 of every granule, then block 1 of every granule: to look a token up in a slice is one
//! read. Each such row of blocks ends with its CRC32C.
//!
//! Tokens are those of [`weir_udfs::token`], with case folded, so that the filters serve questions
//! that regard case and those that do not.

mod build;
mod hash;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::buffer::BooleanBuffer;
use serde::{Deserialize, Serialize};

pub(crate) use build::Making;
pub(crate) use hash::hash;

use crate::layout::Slice;
use crate::types::ColumnType;

/// Columns of text that have filters: what people search for words.
const COLUMNS: [&str; 1] = ["body"];

/// Bytes of text that a granule aims at. What is found takes a granule to be read, so it is small
/// beside a slice; each has the common words anew, so it is large beside them.
const GRANULE_BYTES: usize = 256 << 10;
/// Rows that a granule has at least.
const GRANULE_ROWS_MIN: usize = 16;

/// Version of filters that this binary writes, and the only one that it reads: of how they are made,
/// and of Unicode, which says what letters are and how they are folded.
const VERSION: u32 = {
    const MADE: u32 = 1;
    let (major, minor, _) = char::UNICODE_VERSION;
    MADE * 10_000 + major as u32 * 10 + minor as u32
};

/// Blocks of a granule's filter while it is made; it is folded to the tokens that there are. Enough
/// for 24,000 tokens, of which a granule of short ones has hardly more.
const BLOCKS: usize = 1 << BLOCKS_LOG;
const BLOCKS_LOG: u32 = 10;
const BLOCK_BYTES: usize = 32;
const CRC_BYTES: usize = 4;

type Block = [u32; 8];

/// Of Parquet's split-block Bloom filters.
const SALT: Block = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];

/// The block of a token, before folding, and its bits there.
fn place(hash: u64) -> (usize, Block) {
    let key = hash as u32;
    ((hash >> (64 - BLOCKS_LOG)) as usize, SALT.map(|salt| 1 << (key.wrapping_mul(salt) >> 27)))
}

/// Whether a column `name` that is kept as `kind` has filters where it is written.
pub(crate) fn has_filters(name: &str, kind: ColumnType) -> bool {
    kind == ColumnType::Text && COLUMNS.contains(&name)
}

/// Rows of a granule of texts that take so many bytes together.
fn granule_rows(text_bytes: usize, rows: usize) -> u32 {
    let average = (text_bytes / rows.max(1)).max(1);
    // Parquet cuts pages at multiples of 1,024 rows, at least if rows are not too large.
    (GRANULE_BYTES / average).next_power_of_two().clamp(GRANULE_ROWS_MIN, 1 << 16) as u32
}

/// The filters of one column of a file, as the manifest has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenFilters {
    pub(crate) version: u32,
    pub(crate) column: Arc<str>,
    /// Where they start in the file; those of the slices follow each other.
    pub(crate) start: u64,
    /// Rows of a granule; the last of a slice may have fewer.
    pub(crate) granule: u32,
    /// For each slice, how many blocks became one.
    pub(crate) folds: Vec<u16>,
}

/// Size of the filters of a slice.
struct Shape {
    granules: usize,
    fold: usize,
}

impl Shape {
    /// Bytes of one block of every granule, and the checksum.
    fn row_bytes(&self) -> usize {
        self.granules * BLOCK_BYTES + CRC_BYTES
    }

    fn bytes(&self) -> usize {
        BLOCKS.div_ceil(self.fold) * self.row_bytes()
    }
}

impl TokenFilters {
    pub(crate) fn new(column: &Arc<str>, granule: u32) -> Self {
        let column = column.clone();
        Self { version: VERSION, column, start: 0, granule, folds: Vec::new() }
    }

    /// Where the filters of slice `slice` start, and their shape; `None` if they are of another
    /// version, or not what they should be.
    fn shape(&self, slice: usize, slices: &[Slice]) -> Option<(u64, Shape)> {
        if self.version != VERSION || self.granule == 0 || self.folds.len() != slices.len() {
            return None;
        }
        let mut start = self.start;
        for (i, (of, fold)) in slices.iter().zip(&self.folds).enumerate() {
            let granules = of.rows.div_ceil(self.granule) as usize;
            let shape = Shape { granules, fold: usize::from((*fold).max(1)) };
            if i == slice {
                return Some((start, shape));
            }
            start += shape.bytes() as u64;
        }
        None
    }

    /// Which granules of a slice may have a token with this hash: a bit for each; and how many
    /// bytes that took to read. `None` if the filters are of a kind that is not known.
    ///
    /// # Errors
    /// If they cannot be read or are damaged.
    pub(crate) fn granules(
        &self,
        file: &File,
        slice: usize,
        slices: &[Slice],
        hash: u64,
    ) -> Result<Option<(BooleanBuffer, usize)>, String> {
        let Some((start, shape)) = self.shape(slice, slices) else { return Ok(None) };
        let (block, bits) = place(hash);
        let mut row = vec![0; shape.row_bytes()];
        let at = start + (block / shape.fold * shape.row_bytes()) as u64;
        file.read_exact_at(&mut row, at).map_err(|e| e.to_string())?;
        let (blocks, crc) = row.split_at(shape.granules * BLOCK_BYTES);
        if crc32c::crc32c(blocks).to_le_bytes() != crc {
            return Err("token filters have the wrong checksum".to_owned());
        }
        let has = |block: &[u8]| {
            let (words, _) = block.as_chunks::<4>();
            words.iter().zip(bits).all(|(word, bit)| u32::from_le_bytes(*word) & bit != 0)
        };
        Ok(Some((blocks.chunks_exact(BLOCK_BYTES).map(has).collect(), row.len())))
    }
}

#[cfg(test)]
mod tests;
