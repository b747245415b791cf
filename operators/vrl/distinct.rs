//! Rows that look the same to a program: of those with the same values in all columns that it
//! reads, one is enough.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampNanosecondType};
use hashbrown::HashTable;
use weir_pipeline::batch::{Batch, Level};
use xxhash_rust::xxh3::xxh3_64;

use super::flat::Flat;

/// After so many rows it is clear whether they repeat.
const TRIED_ROWS: usize = 512;
/// They repeat if so many of them, at most, differ: a row that only costs its look-up is some ten
/// times cheaper than the shortest program.
const TRIED_DISTINCT: usize = TRIED_ROWS * 3 / 4;

/// One row of each kind.
#[derive(Debug)]
pub(super) struct Distinct {
    /// The first row of each, ascending.
    pub(super) samples: Vec<usize>,
    /// For each row of the batch the index of its like in `samples`.
    pub(super) of: Vec<u32>,
}

/// What tells rows apart.
enum Input {
    Texts(ArrayRef),
    /// Bits of a number, a time or a boolean, an entity key; `None` is NULL.
    Bits(Vec<Option<u64>>),
}

impl Input {
    fn hash(&self, row: usize) -> u64 {
        match self {
            Self::Texts(array) if array.is_null(row) => 0,
            Self::Texts(array) => xxh3_64(array.as_string::<i32>().value(row).as_bytes()),
            Self::Bits(bits) => bits[row].map_or(0, |bits| xxh3_64(&bits.to_le_bytes())),
        }
    }

    fn same(&self, a: usize, b: usize) -> bool {
        match self {
            Self::Texts(array) => match (array.is_null(a), array.is_null(b)) {
                (false, false) => {
                    let texts = array.as_string::<i32>();
                    texts.value(a) == texts.value(b)
                }
                (a, b) => a == b,
            },
            Self::Bits(bits) => bits[a] == bits[b],
        }
    }
}

impl Distinct {
    /// The distinct rows of `batch`; `None` if most differ, or a column cannot be compared.
    pub(super) fn of(flat: &Flat, batch: &Batch) -> Option<Self> {
        let inputs = inputs(flat, batch)?;
        let hash = |row| {
            inputs.iter().fold(0u64, |h, i| h.rotate_left(5).wrapping_mul(PRIME) ^ i.hash(row))
        };
        let mut known: HashTable<(u64, u32)> = HashTable::new();
        let mut samples: Vec<usize> = Vec::new();
        let mut of = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            if row == TRIED_ROWS && samples.len() > TRIED_DISTINCT {
                return None;
            }
            let hash = hash(row);
            let same = |&(h, at): &(u64, u32)| {
                h == hash && inputs.iter().all(|i| i.same(samples[at as usize], row))
            };
            if let Some(&(_, at)) = known.find(hash, same) {
                of.push(at);
                continue;
            }
            let at = samples.len() as u32;
            samples.push(row);
            known.insert_unique(hash, (hash, at), |&(hash, _)| hash);
            of.push(at);
        }
        Some(Self { samples, of })
    }
}

/// Odd, with bits all over: 2^64 divided by the golden ratio.
const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;

fn inputs(flat: &Flat, batch: &Batch) -> Option<Vec<Input>> {
    let mut inputs = Vec::new();
    let mut entities = false;
    for name in flat.names.iter().filter(|n| n.read) {
        match batch.level(&name.name) {
            Some(Level::Row) => inputs.push(input(batch.rows().column_by_name(&name.name)?)?),
            Some(Level::Entity) => entities = true,
            None => {}
        }
    }
    if let Some(keys) = batch.entities().filter(|_| entities) {
        let key = |&key: &u32| Some(u64::from(key));
        inputs.push(Input::Bits(keys.keys.values().iter().map(key).collect()));
    }
    Some(inputs)
}

fn input(array: &ArrayRef) -> Option<Input> {
    let bits = match array.data_type() {
        DataType::Utf8 => return Some(Input::Texts(array.clone())),
        DataType::Int64 => integers(array.as_primitive::<Int64Type>()),
        DataType::Timestamp(..) => integers(array.as_primitive_opt::<TimestampNanosecondType>()?),
        DataType::Float64 => {
            array.as_primitive::<Float64Type>().iter().map(|v| v.map(f64::to_bits)).collect()
        }
        DataType::Boolean => array.as_boolean().iter().map(|v| v.map(u64::from)).collect(),
        _ => return None,
    };
    Some(Input::Bits(bits))
}

fn integers<T: arrow::datatypes::ArrowPrimitiveType<Native = i64>>(
    array: &arrow::array::PrimitiveArray<T>,
) -> Vec<Option<u64>> {
    array.iter().map(|v| v.map(i64::cast_unsigned)).collect()
}
