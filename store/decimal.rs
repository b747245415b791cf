//! Doubles that are decimals with few digits, as integers: what is measured mostly is.
//!
//! A value is kept as `code = m · 16 + e`, for the smallest `e` that its neighbours allow, where
//! `m / 10^e` is exactly the value: both are whole numbers that a double holds, so their quotient is
//! the double nearest to the decimal. Whatever has no such pair (NaN, infinities, -0.0, long
//! fractions) stands as it is in `raw`. Bits come back as they were.
//!
//! ALP (Afroozeh and others, SIGMOD 2024) does so for vectors of values, with one exponent each; here
//! each value has its own, so that a row is decoded without others, and plain Parquet holds it.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Float64Builder, Int64Array, StructArray,
};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, Int64Type};
use arrow::error::ArrowError;

/// Powers of ten that a double holds exactly; the last is there for the mask alone.
const POWERS: [f64; 16] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
const EXPONENT_BITS: u32 = 4;
const EXPONENT_MASK: i64 = (1 << EXPONENT_BITS) - 1;
/// Whole numbers up to here are doubles, all of them.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// The type of the column in files.
pub(crate) fn data_type() -> DataType {
    DataType::Struct(fields())
}

fn fields() -> Fields {
    let code = Field::new("code", DataType::Int64, false);
    Fields::from(vec![code, Field::new("raw", DataType::Float64, true)])
}

/// `m` for which `m / 10^e` is `value`, bit for bit.
fn mantissa(value: f64, e: usize) -> Option<i64> {
    let m = (value * POWERS[e]).round_ties_even();
    let exact = m.abs() <= EXACT_MAX && (m / POWERS[e]).to_bits() == value.to_bits();
    // An integer has no -0.
    let lost = m == 0.0 && m.is_sign_negative();
    (exact && !lost).then_some(m as i64)
}

/// Whether `value` needs no `raw`.
pub(crate) fn is_decimal(value: f64) -> bool {
    (0..POWERS.len()).any(|e| mantissa(value, e).is_some())
}

/// `values` as they stand in files. Neighbours of one `series` (by row) share an exponent.
pub(crate) fn encode(values: &Float64Array, series: Option<&[u32]>) -> ArrayRef {
    let mut codes = Vec::with_capacity(values.len());
    let mut raw = Float64Builder::with_capacity(values.len());
    let (mut e, mut last) = (0, None);
    for (row, value) in values.iter().enumerate() {
        let this = series.map(|ids| ids[row]);
        if this != last {
            (e, last) = (0, this);
        }
        let found = value.and_then(|value| {
            let sticky = mantissa(value, e).map(|m| (m, e));
            sticky.or_else(|| (0..POWERS.len()).find_map(|e| Some((mantissa(value, e)?, e))))
        });
        match found {
            Some((m, exponent)) => {
                e = exponent;
                codes.push(m << EXPONENT_BITS | exponent as i64);
                raw.append_null();
            }
            None => {
                // Like its neighbour: nobody reads it.
                codes.push(codes.last().copied().unwrap_or_default());
                raw.append_option(value);
            }
        }
    }
    let children: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(codes)), Arc::new(raw.finish())];
    Arc::new(StructArray::new(fields(), children, values.nulls().cloned()))
}

/// The inverse of [`encode`].
///
/// # Errors
/// If `array` is of another type.
pub(crate) fn decode(array: &ArrayRef) -> Result<Float64Array, ArrowError> {
    if *array.data_type() != data_type() {
        let why = format!("decimals at rest are {}, not {}", data_type(), array.data_type());
        return Err(ArrowError::SchemaError(why));
    }
    let pair = array.as_struct();
    let codes = pair.column(0).as_primitive::<Int64Type>();
    let raw = pair.column(1).as_primitive::<Float64Type>();
    let value =
        |code: &i64| (code >> EXPONENT_BITS) as f64 / POWERS[(code & EXPONENT_MASK) as usize];
    let mut values: Vec<f64> = codes.values().iter().map(value).collect();
    if raw.null_count() < raw.len() {
        match raw.nulls() {
            Some(nulls) => nulls.valid_indices().for_each(|i| values[i] = raw.value(i)),
            None => values.copy_from_slice(raw.values()),
        }
    }
    Ok(Float64Array::new(values.into(), pair.nulls().cloned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn any_double() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits),
            (any::<i32>(), 0..12_i32).prop_map(|(m, e)| f64::from(m) / 10_f64.powi(e)),
            (any::<i64>(), 0..16_i32).prop_map(|(m, e)| m as f64 / 10_f64.powi(e)),
            prop::sample::select(vec![
                0.0,
                -0.0,
                f64::NAN,
                f64::INFINITY,
                f64::MIN_POSITIVE,
                5e-324,
                0.1 + 0.2,
                1e15,
                9_007_199_254_740_992.0,
                -9_007_199_254_740_992.0,
                9_007_199_254_740_994.0,
                1e300,
            ]),
        ]
    }

    proptest! {
        #[test]
        fn bits_come_back(
            rows in prop::collection::vec((prop::option::of(any_double()), 0..3_u32), 0..200),
            in_series in any::<bool>(),
        ) {
            let values: Float64Array = rows.iter().map(|(value, _)| *value).collect();
            let ids: Vec<u32> = rows.iter().map(|(_, id)| *id).collect();
            let encoded = encode(&values, in_series.then_some(&ids));
            prop_assert_eq!(encoded.data_type(), &data_type());
            let bits = |a: &Float64Array| a.iter().map(|v| v.map(f64::to_bits)).collect::<Vec<_>>();
            prop_assert_eq!(bits(&decode(&encoded).unwrap()), bits(&values));
        }
    }

    #[test]
    fn what_is_measured_needs_no_raw() {
        let check = |values: &[f64], raw: usize| {
            let encoded = encode(&Float64Array::from(values.to_vec()), None);
            assert_eq!(
                encoded.as_struct().column(1).len() - encoded.as_struct().column(1).null_count(),
                raw
            );
        };
        check(&[1.5, 0.1, 20.0, 1_234.567, -0.25, 5.6344e-05, 1_795_784_787.874_95], 0);
        check(&[1.0 / 3.0, -0.0, f64::NAN, 2.5], 3);
    }
}
