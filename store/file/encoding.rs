//! How a column is encoded: the smallest of what Parquet has for it, by trial on a sample, in files
//! that stay; by rule in those of a flush, which are merged soon.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{Field, Float64Type, Schema};
use hashbrown::HashSet;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, compute_leaves};
use parquet::basic::Encoding;
use parquet::file::properties::WriterProperties;

use crate::decimal;
use crate::error::Result;
use crate::types::ColumnType;

/// Stretches of a file that a sample is made of, and rows of each. Few series make up most of what
/// a column takes, so that a sample must be of many; runs of one are in it as long as they mostly
/// are, and all of it is one page.
pub(super) const STRETCHES: usize = 16;
pub(super) const STRETCH_ROWS: usize = 1 << 10;
/// Fewer say little.
pub(super) const STRETCH_ROWS_MIN: usize = 64;
/// Rows of a file for each row of its sample, so that trials cost little of what writing costs.
pub(super) const ROWS_PER_SAMPLE: usize = 16;
/// How much smaller decimals must be than doubles: they are two columns to decode, not one.
const DECIMAL_GAIN: f64 = 0.75;
/// How much smaller a column must be without a dictionary, which a sample shows too few repeats for
/// and which is quicker to read.
const DICTIONARY_LOSS: f64 = 0.9;
/// Of a hundred doubles of a flush, those that must be decimals.
const DECIMALS_MIN: usize = 90;

/// Columns of numbers that hardly repeat, so that a dictionary only costs.
const WITHOUT_DICTIONARY: [&str; 2] = ["value_int", "duration_ns"];

/// How the leaves of a column are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) dictionary: bool,
    /// Of what is in no dictionary.
    pub(super) encoding: Encoding,
}

const fn with_dictionary(encoding: Encoding) -> Choice {
    Choice { dictionary: true, encoding }
}

const fn without(encoding: Encoding) -> Choice {
    Choice { dictionary: false, encoding }
}

const WHOLE: [Choice; 4] = [
    with_dictionary(Encoding::DELTA_BINARY_PACKED),
    without(Encoding::DELTA_BINARY_PACKED),
    without(Encoding::BYTE_STREAM_SPLIT),
    without(Encoding::PLAIN),
];
const TIMES: [Choice; 3] = [
    without(Encoding::DELTA_BINARY_PACKED),
    without(Encoding::BYTE_STREAM_SPLIT),
    without(Encoding::PLAIN),
];
const DOUBLES: [Choice; 3] = [
    with_dictionary(Encoding::BYTE_STREAM_SPLIT),
    without(Encoding::BYTE_STREAM_SPLIT),
    without(Encoding::PLAIN),
];
const TEXTS: [Choice; 3] = [
    with_dictionary(Encoding::PLAIN),
    without(Encoding::DELTA_LENGTH_BYTE_ARRAY),
    without(Encoding::PLAIN),
];

/// A sample of a column, as surface type, and what is known of it.
pub(super) struct Sample<'a> {
    /// Of the column.
    pub(super) name: &'a str,
    pub(super) values: &'a ArrayRef,
    /// Entity of each row.
    pub(super) ids: Option<&'a [u32]>,
    /// How it is written with a choice.
    pub(super) properties: &'a dyn Fn(ColumnType, Choice) -> WriterProperties,
}

/// What a column is kept as, and how it is encoded.
pub(super) type Pick = (ColumnType, Choice);

impl Sample<'_> {
    /// The best for a column that is `kind`, by trial.
    pub(super) fn tried(&self, kind: ColumnType) -> Result<Pick> {
        let all: &[Choice] = match kind {
            ColumnType::Time | ColumnType::TimeMs => &TIMES,
            ColumnType::Int | ColumnType::WideInt | ColumnType::IntDouble => &WHOLE,
            ColumnType::Double | ColumnType::Decimal => {
                let (doubles, size) = self.smallest(ColumnType::Double, &DOUBLES)?;
                if self.decimals() * 2 < self.values.len() - self.values.null_count() {
                    return Ok((ColumnType::Double, doubles));
                }
                let (decimals, less) = self.smallest(ColumnType::Decimal, &WHOLE)?;
                return Ok(match (less as f64) < size as f64 * DECIMAL_GAIN {
                    true => (ColumnType::Decimal, decimals),
                    false => (ColumnType::Double, doubles),
                });
            }
            ColumnType::Text => &TEXTS,
            kind => return Ok(self.ruled(kind)),
        };
        Ok((kind, self.smallest(kind, all)?.0))
    }

    /// What is mostly good for a column that is `kind`.
    pub(super) fn ruled(&self, kind: ColumnType) -> Pick {
        let choice = match kind {
            ColumnType::Time | ColumnType::TimeMs | ColumnType::IntDouble => {
                without(Encoding::DELTA_BINARY_PACKED)
            }
            ColumnType::Int | ColumnType::WideInt if WITHOUT_DICTIONARY.contains(&self.name) => {
                without(Encoding::DELTA_BINARY_PACKED)
            }
            ColumnType::Int | ColumnType::WideInt => with_dictionary(Encoding::DELTA_BINARY_PACKED),
            ColumnType::Double | ColumnType::Decimal => {
                let values = self.values.len() - self.values.null_count();
                if self.decimals() * 100 > values * DECIMALS_MIN {
                    return (ColumnType::Decimal, without(Encoding::BYTE_STREAM_SPLIT));
                }
                let doubles = self.values.as_primitive_opt::<Float64Type>();
                let distinct: HashSet<u64> =
                    doubles.iter().flat_map(|d| d.iter().flatten()).map(f64::to_bits).collect();
                let dictionary = distinct.len() * 4 < values;
                let choice = Choice { dictionary, encoding: Encoding::BYTE_STREAM_SPLIT };
                return (ColumnType::Double, choice);
            }
            ColumnType::Id16 | ColumnType::Id8 => {
                Choice { dictionary: self.ids_repeat(), encoding: Encoding::PLAIN }
            }
            _ => with_dictionary(Encoding::PLAIN),
        };
        (kind, choice)
    }

    /// Whether a dictionary and the numbers of its entries take less than ids of a whole row group.
    fn ids_repeat(&self) -> bool {
        let Some(texts) = self.values.as_string_opt::<i32>() else { return false };
        let distinct: HashSet<&str> = texts.iter().flatten().collect();
        let values = texts.len() - texts.null_count();
        let Some(digits) = distinct.iter().next().map(|id| id.len()) else { return false };
        // Two digits a byte, at most two bytes a number.
        (distinct.len() * digits / 2 + values * 2) < values * digits / 2
    }

    /// Values that are decimals.
    fn decimals(&self) -> usize {
        let doubles = self.values.as_primitive_opt::<Float64Type>();
        let values = doubles.iter().flat_map(|d| d.iter().flatten());
        values.filter(|v| decimal::is_decimal(*v)).count()
    }

    /// The choice that makes the sample, kept as `kind`, the smallest, and its size.
    fn smallest(&self, kind: ColumnType, all: &[Choice]) -> Result<(Choice, usize)> {
        let array = super::write::to_rest(self.values, kind, self.ids)?;
        let field = Field::new(self.name, kind.at_rest(), true);
        let mut best = (all[0], f64::INFINITY, 0);
        for &choice in all {
            let chunks = chunks(&field, &array, (self.properties)(kind, choice))?;
            let size: i64 = chunks.iter().map(|c| c.close().metadata.compressed_size()).sum();
            let weight = if choice.dictionary { DICTIONARY_LOSS } else { 1.0 };
            let weighted = size as f64 * weight;
            if weighted < best.1 {
                best = (choice, weighted, usize::try_from(size).unwrap_or_default());
            }
        }
        Ok((best.0, best.2))
    }
}

/// `array` as the column chunks of one row group.
pub(super) fn chunks(
    field: &Field,
    array: &ArrayRef,
    properties: WriterProperties,
) -> Result<Vec<ArrowColumnChunk>> {
    // A writer of this column alone: chunks know nothing of others, and go into any row group.
    let schema = Arc::new(Schema::new(vec![field.clone()]));
    let writer = ArrowWriter::try_new(std::io::sink(), schema, Some(properties))?;
    let (_, factory) = writer.into_serialized_writer()?;
    let leaves = compute_leaves(field, array)?;
    let mut done = Vec::with_capacity(leaves.len());
    for (mut writer, leaf) in factory.create_column_writers(0)?.into_iter().zip(leaves) {
        writer.write(&leaf)?;
        done.push(writer.close()?);
    }
    Ok(done)
}
