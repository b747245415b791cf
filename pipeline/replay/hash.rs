//! Rows as numbers: rows with the same values have the same hash, whatever batch they stand in, in
//! whatever order its columns are and at which level they stand.
//!
//! Numbers are compared by value: whether a column is of integers or of doubles depends on the
//! other rows of its batch. 64 bits: of a million rows that wait for their like, two that differ
//! are taken for the same with a chance of some 1 in 10^7.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, UInt64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::batch::Batch;
use crate::edge::ERROR_COLUMNS;

/// What a row takes besides while it waits for its like: an entry of a map, and a list.
const WAITING_BYTES: usize = 128;

/// The column that rows are told apart by first.
const TIMESTAMP: &str = "timestamp";
/// Where in a file a row failed.
const PLACE: &str = ERROR_COLUMNS[1];
const INT: DataType = DataType::Int64;
/// Beyond this a double is not sure to be the integer that it looks like.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A batch with the hashes of its values and rows.
pub(super) struct Hashed {
    pub(super) batch: Batch,
    /// In the order of names.
    pub(super) columns: Vec<Column>,
    /// One hash per row, over all its columns.
    pub(super) rows: Vec<u64>,
    /// Offset of the entry of each row.
    pub(super) offsets: Vec<u64>,
}

/// The hashes of a column; 0 is NULL.
pub(super) struct Column {
    pub(super) name: Arc<str>,
    /// Whether it says what a row is about (text, a flag) rather than how much of it there is or
    /// when it was.
    pub(super) identity: bool,
    pub(super) hashes: Vec<u64>,
}

impl Hashed {
    pub(super) fn new(batch: Batch) -> Self {
        let n = batch.num_rows();
        let mut rows = vec![0_u64; n];
        let mut columns = Vec::new();
        for (name, _) in batch.names() {
            // An edit that moves a line is no other error.
            if *name == *PLACE {
                continue;
            }
            let Some(array) = batch.array(&name).filter(|a| a.null_count() < n) else { continue };
            let mut hashes = vec![0; n];
            let identity = hash(&array, xxh3_64(name.as_bytes()), &mut hashes);
            for (row, hash) in rows.iter_mut().zip(&hashes) {
                *row = row.wrapping_add(*hash);
            }
            columns.push(Column { name, identity, hashes });
        }
        let runs = batch.runs().iter();
        let offsets = runs.flat_map(|r| std::iter::repeat_n(r.offset, r.rows)).collect();
        Self { batch, columns, rows, offsets }
    }

    /// The rows for which `mask` is true.
    pub(super) fn filter(&self, mask: &[bool]) -> Option<Self> {
        let keep = |hashes: &Vec<u64>| -> Vec<u64> {
            hashes.iter().zip(mask).filter(|(_, m)| **m).map(|(h, _)| *h).collect()
        };
        let columns = self.columns.iter().map(|c| Column {
            name: c.name.clone(),
            identity: c.identity,
            hashes: keep(&c.hashes),
        });
        Some(Self {
            batch: self.batch.filter(&BooleanArray::from(mask.to_vec())).ok()?,
            columns: columns.collect(),
            rows: keep(&self.rows),
            offsets: keep(&self.offsets),
        })
    }

    /// What a row is about: the same for a row of the other side that differs in numbers alone.
    pub(super) fn identity(&self, row: usize) -> u64 {
        let columns = self.columns.iter().filter(|c| c.identity);
        columns.fold(0, |sum, c| sum.wrapping_add(c.hashes[row]))
    }

    /// When a row was, as a hash.
    pub(super) fn time(&self, row: usize) -> u64 {
        let column = self.columns.iter().find(|c| *c.name == *TIMESTAMP);
        column.map_or(0, |c| c.hashes[row])
    }

    /// About how much memory it takes while its rows wait.
    pub(super) fn bytes(&self) -> usize {
        self.batch.bytes() + self.rows.len() * (8 * (self.columns.len() + 2) + WAITING_BYTES)
    }
}

/// Hashes each value of `array`; whether it is a column of identity.
fn hash(array: &ArrayRef, seed: u64, out: &mut [u64]) -> bool {
    let of = |bytes: &[u8]| xxh3_64_with_seed(bytes, seed).max(1);
    let int = |v: i64| of(&tagged(b'i', v.to_le_bytes()));
    let double = |v: f64| match v {
        v if v.fract() == 0.0 && v.abs() < EXACT => int(v as i64),
        v if v.is_nan() => of(b"nan"),
        v => of(&tagged(b'd', v.to_bits().to_le_bytes())),
    };
    let text = |v: &str| {
        let mut bytes = Vec::with_capacity(v.len() + 1);
        bytes.push(b't');
        bytes.extend_from_slice(v.as_bytes());
        of(&bytes)
    };
    // None of the casts below fails.
    let plain = |to: &DataType| cast(array, to).unwrap_or_else(|_| new_null_array(to, array.len()));
    match array.data_type() {
        DataType::Boolean => {
            let array = array.as_boolean();
            each(out, array, |i| of(&[b'b', u8::from(array.value(i))]));
            true
        }
        DataType::UInt64 => {
            let array = array.as_primitive::<UInt64Type>();
            each(out, array, |i| match i64::try_from(array.value(i)) {
                Ok(v) => int(v),
                Err(_) => of(&tagged(b'u', array.value(i).to_le_bytes())),
            });
            false
        }
        kind if kind.is_integer() => {
            let array = plain(&DataType::Int64);
            let array = array.as_primitive::<Int64Type>();
            each(out, array, |i| int(array.value(i)));
            false
        }
        kind if kind.is_floating() => {
            let array = plain(&DataType::Float64);
            let array = array.as_primitive::<Float64Type>();
            each(out, array, |i| double(array.value(i)));
            false
        }
        DataType::Timestamp(..) => {
            let nanos = cast(&plain(&DataType::Timestamp(TimeUnit::Nanosecond, None)), &INT);
            let nanos = nanos.unwrap_or_else(|_| new_null_array(&INT, out.len()));
            let array = nanos.as_primitive::<Int64Type>();
            each(out, array, |i| of(&tagged(b'T', array.value(i).to_le_bytes())));
            false
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => {
            let array = plain(&DataType::Utf8);
            let array = array.as_string::<i32>();
            each(out, array, |i| text(array.value(i)));
            true
        }
        DataType::FixedSizeBinary(_) => {
            if let Some(array) = array.as_any().downcast_ref::<FixedSizeBinaryArray>() {
                each(out, array, |i| of(array.value(i)));
            }
            true
        }
        _ => {
            let options = FormatOptions::default();
            if let Ok(formatter) = ArrayFormatter::try_new(array.as_ref(), &options) {
                each(out, array.as_ref(), |i| text(&formatter.value(i).to_string()));
            }
            false
        }
    }
}

fn tagged(tag: u8, value: [u8; 8]) -> [u8; 9] {
    let mut bytes = [tag; 9];
    bytes[1..].copy_from_slice(&value);
    bytes
}

fn each(out: &mut [u64], array: &dyn Array, hash: impl Fn(usize) -> u64) {
    for (i, out) in out.iter_mut().enumerate() {
        if array.is_valid(i) {
            *out = hash(i);
        }
    }
}

/// Whether two batches have the same rows in the same order, found without looking at each value
/// where both come from one batch.
pub(super) fn same(a: &Batch, b: &Batch) -> bool {
    let keys = match (a.entities(), b.entities()) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(&a.table, &b.table) && a.keys == b.keys,
        _ => false,
    };
    let (left, right) = (a.rows(), b.rows());
    let names = || {
        let pairs = left.schema_ref().fields().iter().zip(right.schema_ref().fields());
        pairs.into_iter().all(|(a, b)| a.name() == b.name())
    };
    keys && a.num_rows() == b.num_rows()
        && left.num_columns() == right.num_columns()
        && names()
        && left.columns().iter().zip(right.columns()).all(|(a, b)| Arc::ptr_eq(a, b) || a == b)
}
