//! Makes the filters of a slice.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};

use super::hash::{Tokenizer, hashes};
use super::{BLOCKS, Block, Shape, TokenFilters, granule_rows, has_filters, place};
use crate::file::FileColumn;

/// Bits for each token, for about one answer in a hundred that is wrong: Parquet's 9.7 if all
/// blocks had as many tokens, and more since they have not.
const TOKEN_BITS: usize = 11;
/// The filters take at most this part of what the column does. Those of texts that compress well but
/// for numbers and ids take a tenth; where they would take more, they answer wrongly more often.
const SHARE_MAX: usize = 4;
/// Tokens that are remembered, so that a common one is not entered again and again.
const RECENT: usize = 2_048;

/// The filters of one column of a file in the making.
pub(crate) struct Making {
    meta: TokenFilters,
    builder: Builder,
    bytes: Vec<u8>,
}

impl Making {
    /// For a column with these values; `None` if it is none that has filters.
    pub(crate) fn of(column: &FileColumn, parts: &[&dyn Array]) -> Option<Self> {
        if !has_filters(&column.name, column.kind) {
            return None;
        }
        let texts = || parts.iter().filter_map(|part| part.as_string_opt::<i32>());
        let bytes = |texts: &StringArray| match texts.value_offsets() {
            [first, .., last] => (last - first) as usize,
            _ => 0,
        };
        let granule =
            granule_rows(texts().map(bytes).sum(), texts().map(|t| t.len()).sum::<usize>());
        let meta = TokenFilters::new(&column.name, granule);
        Some(Self { meta, builder: Builder::new(granule), bytes: Vec::new() })
    }

    /// The next slice. `compressed`: what its texts take in the file.
    pub(crate) fn slice(&mut self, texts: &ArrayRef, compressed: u64) {
        let fold = match texts.as_string_opt::<i32>() {
            Some(texts) => self.builder.slice(texts, compressed, &mut self.bytes),
            None => 0,
        };
        self.meta.folds.push(fold);
    }

    /// For the manifest, and for the file, where they start at `start`.
    pub(crate) fn finish(self, start: u64) -> (TokenFilters, Vec<u8>) {
        (TokenFilters { start, ..self.meta }, self.bytes)
    }
}

/// Makes filters, slice after slice.
struct Builder {
    granule: usize,
    tokenizer: Tokenizer,
    recent: Vec<u64>,
    /// Those of all granules of the slice, before they are folded.
    blocks: Vec<[Block; BLOCKS]>,
}

impl Builder {
    /// For granules of so many rows.
    fn new(granule: u32) -> Self {
        let granule = granule.max(1) as usize;
        Self { granule, tokenizer: Tokenizer::default(), recent: Vec::new(), blocks: Vec::new() }
    }

    /// Writes the filters of a slice with these texts behind `out`; how often they are folded.
    /// `compressed`: what the texts take in the file.
    fn slice(&mut self, texts: &StringArray, compressed: u64, out: &mut Vec<u8>) -> u16 {
        let granules = texts.len().div_ceil(self.granule);
        if self.blocks.len() < granules {
            self.blocks.resize(granules, [[0; 8]; BLOCKS]);
        }
        let mut most = 1;
        for granule in 0..granules {
            let first = granule * self.granule;
            let last = (first + self.granule).min(texts.len());
            most = most.max(self.fill(texts, first..last, granule));
        }
        let shape = Shape { granules, fold: fold(most, granules, compressed) };
        self.encode(&shape, out);
        shape.fold as u16
    }

    /// Enters the tokens of a granule; how many there are, about.
    fn fill(&mut self, texts: &StringArray, rows: Range<usize>, granule: usize) -> usize {
        let blocks = &mut self.blocks[granule];
        blocks.fill([0; 8]);
        // At its place in this list, none of these is the hash of a token.
        self.recent.clear();
        self.recent.extend((0..RECENT as u64).map(|place| !place));
        let recent = &mut self.recent;
        let mut tokens = 0;
        for row in rows.filter(|row| texts.is_valid(*row)) {
            hashes(&mut self.tokenizer, texts.value(row), |hash| {
                let seen = &mut recent[hash as usize % RECENT];
                if *seen == hash {
                    return;
                }
                *seen = hash;
                let (block, bits) = place(hash);
                let block = &mut blocks[block];
                let mut new = 0;
                for (word, bit) in block.iter_mut().zip(bits) {
                    new |= bit & !*word;
                    *word |= bit;
                }
                tokens += usize::from(new != 0);
            });
        }
        tokens
    }

    fn encode(&self, shape: &Shape, out: &mut Vec<u8>) {
        for first in (0..BLOCKS).step_by(shape.fold) {
            let start = out.len();
            let folded = first..(first + shape.fold).min(BLOCKS);
            for blocks in &self.blocks[..shape.granules] {
                let mut one: Block = [0; 8];
                for block in &blocks[folded.clone()] {
                    one.iter_mut().zip(block).for_each(|(one, word)| *one |= word);
                }
                one.iter().for_each(|word| out.extend(word.to_le_bytes()));
            }
            let crc = crc32c::crc32c(&out[start..]);
            out.extend(crc.to_le_bytes());
        }
    }
}

/// How many blocks become one where no granule has more than `tokens`.
fn fold(tokens: usize, granules: usize, compressed: u64) -> usize {
    let bits = tokens * TOKEN_BITS;
    let for_tokens = (BLOCKS * 256 + bits / 2) / bits;
    let row = Shape { granules, fold: BLOCKS }.row_bytes() as u64;
    let rows_max = (compressed / SHARE_MAX as u64 / row).clamp(1, BLOCKS as u64) as usize;
    for_tokens.clamp(1, BLOCKS).max(BLOCKS.div_ceil(rows_max))
}
