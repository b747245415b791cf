//! Column types: the closed set that tables have at the surface and files at rest.
//!
//! What comes in as any other Arrow type is brought to the nearest of these when it is appended
//! (see [`crate::normalise`]). A file keeps the type that its own rows need; a table's column has
//! the widest of its files' types, and reading casts.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, TimeUnit};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};
use weir_pipeline::entity::{Value, int_fits_double};
use weir_pipeline::signal;

use crate::decimal;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// Boolean.
    Bool,
    /// 64-bit integer; all values are doubles, too.
    Int,
    /// 64-bit integer; some values are past 2^53, where doubles have gaps.
    WideInt,
    /// Double.
    Double,
    /// Text.
    Text,
    /// UTC nanoseconds.
    Time,
    /// The histogram struct of metrics.
    Histogram,
    /// List of text (profile stacks).
    TextList,
    /// At rest only: 16 bytes, read as 32 lower-case hex digits.
    Id16,
    /// At rest only: 8 bytes, read as 16 lower-case hex digits.
    Id8,
    /// At rest only: integers that are read as doubles.
    IntDouble,
    /// At rest only: doubles as integers and powers of ten, see [`crate::decimal`].
    Decimal,
    /// At rest only: UTC milliseconds, read as nanoseconds.
    TimeMs,
    /// At rest only: entity ids.
    EntityId,
}

impl ColumnType {
    /// The Arrow type in files.
    pub fn at_rest(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int | Self::WideInt | Self::IntDouble => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Decimal => decimal::data_type(),
            Self::Text => DataType::Utf8,
            Self::Time => signal::timestamp(),
            Self::Histogram => signal::histogram(),
            Self::TextList => DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
            Self::Id16 => DataType::FixedSizeBinary(16),
            Self::Id8 => DataType::FixedSizeBinary(8),
            Self::TimeMs => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            Self::EntityId => DataType::UInt32,
        }
    }

    /// The type that it is read as.
    pub fn surface(self) -> Self {
        match self {
            Self::Id16 | Self::Id8 => Self::Text,
            Self::IntDouble | Self::Decimal => Self::Double,
            Self::TimeMs => Self::Time,
            Self::EntityId => Self::Int,
            other => other,
        }
    }

    /// The Arrow type that queries see.
    pub fn surface_type(self) -> DataType {
        self.surface().at_rest()
    }

    /// The surface type of an Arrow type of the closed set, `None` for any other.
    pub fn from_arrow(t: &DataType) -> Option<Self> {
        match t {
            DataType::Boolean => Some(Self::Bool),
            DataType::Int64 => Some(Self::Int),
            DataType::Float64 => Some(Self::Double),
            DataType::Utf8 => Some(Self::Text),
            t if *t == signal::timestamp() => Some(Self::Time),
            t if *t == signal::histogram() => Some(Self::Histogram),
            DataType::List(item) if *item.data_type() == DataType::Utf8 => Some(Self::TextList),
            _ => None,
        }
    }

    /// The surface type of one value.
    pub fn of_value(value: &Value) -> Option<Self> {
        match value {
            Value::Int(i) if !int_fits_double(*i) => Some(Self::WideInt),
            other => Self::from_arrow(&other.data_type()),
        }
    }

    /// The surface type of the values of an array.
    pub fn of_array(array: &ArrayRef) -> Option<Self> {
        let ints = array.as_primitive_opt::<Int64Type>();
        match ints.is_some_and(|ints| ints.iter().flatten().any(|i| !int_fits_double(i))) {
            true => Some(Self::WideInt),
            false => Self::from_arrow(array.data_type()),
        }
    }

    /// The narrowest surface type that both can be read as without loss: int, then double, then
    /// text.
    pub fn widen(self, other: Self) -> Self {
        match (self.surface(), other.surface()) {
            (a, b) if a == b => a,
            (Self::Int, Self::WideInt) | (Self::WideInt, Self::Int) => Self::WideInt,
            (Self::Int, Self::Double) | (Self::Double, Self::Int) => Self::Double,
            _ => Self::Text,
        }
    }
}

/// A column as it comes out of a file, as queries see it: `kind` is what the file has it as.
///
/// # Errors
/// If the array is not of the type that `kind` has at rest.
pub fn to_surface(array: &ArrayRef, kind: ColumnType) -> Result<ArrayRef, ArrowError> {
    match kind {
        ColumnType::Id16 | ColumnType::Id8 => {
            let Some(ids) = array.as_fixed_size_binary_opt() else {
                return Err(ArrowError::SchemaError(format!(
                    "ids at rest are fixed binary, not {}",
                    array.data_type()
                )));
            };
            let width = ids.value_size() * 2;
            let mut out = StringBuilder::with_capacity(ids.len(), ids.len() * width);
            let mut text = String::with_capacity(width);
            for i in 0..ids.len() {
                if ids.is_null(i) {
                    out.append_null();
                } else {
                    text.clear();
                    for byte in ids.value(i) {
                        text.push(char::from(HEX[usize::from(byte >> 4)]));
                        text.push(char::from(HEX[usize::from(byte & 15)]));
                    }
                    out.append_value(&text);
                }
            }
            Ok(Arc::new(out.finish()))
        }
        ColumnType::Decimal => Ok(Arc::new(decimal::decode(array)?)),
        kind if kind.surface() == kind => Ok(array.clone()),
        kind => cast(array, &kind.surface_type()),
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The `2 * N` lower-case hex digits of `text` as bytes, `None` if it is anything else. `N` is at
/// most 16.
pub fn hex_bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != N * 2 {
        return None;
    }
    // Without branches or tables, so that it is done for all digits at once.
    let mut digits = [b'0'; 32];
    digits.get_mut(..text.len())?.copy_from_slice(text);
    let mut wrong = false;
    for digit in &mut digits {
        let (number, letter) = (digit.wrapping_sub(b'0'), digit.wrapping_sub(b'a'));
        wrong |= number > 9 && letter > 5;
        *digit = if number <= 9 { number } else { letter.wrapping_add(10) };
    }
    let mut out = [0; N];
    for (byte, [high, low]) in out.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = high << 4 | low;
    }
    (!wrong).then_some(out)
}
